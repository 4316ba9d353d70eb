"""What README and docs say is so: their code runs and prints what they say it prints, the options, commands and files
that they name exist, their figures are those of committed results, and the site builds without a warning."""

import operator
import re
import shlex
import subprocess
import sys
from dataclasses import fields

import pytest

import segext
from docs import figures
from docs.figures import BLOCK, PAGES, ROOT
from segext.__main__ import parser
from segext.training.settings import Settings

FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
TEXT = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
PYTHON = {page: re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE) for page, text in TEXT.items()}
SHELL = "\n".join(
    block for text in TEXT.values() for block in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
)
COMMANDS = [shlex.split(line, comments=True) for line in SHELL.splitlines() if line.strip()]

# Figures that no result holds: limits and defaults that the code sets, targets, and shares that define something.
DEFINITIONS = {
    "docs/performance.md": ("batch 16 where less than 32 GB",),
    "docs/training.md": ("within 0.75 % of the image's diagonal",),  # of boundary F1
    "docs/tuning.md": ("Above 32 MB",),  # from where on segext asks for huge pages
}
UNIT = r"[x×](?!\d)|times\b|%|[kMG]?B\b|bytes?\b|[mµn]?s\b|seconds\b|minutes\b"
FIGURE = re.compile(rf"(?<![\w.-])\d(?:[\d.,]*\d)?\s?(?:{UNIT})|\b\d{{1,3}}(?:,\d{{3}})+\b")


def test_pages_are_found():
    assert {"README.md", "docs/index.md", "docs/tutorial.md", "docs/faq.md", "docs/training.md"} <= set(TEXT)
    assert len([page for page, blocks in PYTHON.items() if blocks]) >= 5


@pytest.mark.parametrize("page", [page for page, blocks in PYTHON.items() if blocks])
def test_examples(page, tmp_path):
    """A page's Python runs as one script, from its first block to its last, and prints what the page says it prints."""
    blocks = PYTHON[page]
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = [line[2:] for block in blocks if "print(" in block for line in block.splitlines() if line.startswith("# ")]
    assert done.stdout.splitlines() == said


def test_commands_of_segext_parse():
    """Each as its own parser reads it, so that a renamed option or a missing argument is found."""
    own = [command[command.index("segext") + 1 :] for command in COMMANDS if "segext" in command]
    assert {"train", "eval", "predict"} <= {command[0] for command in own}
    for command in own:
        parser().parse_args(command)


def test_targets_of_make_exist():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {command[1] for command in COMMANDS if command[0] == "make" and command[1] != "-C"}
    named |= set(re.findall(r"`make (\w+)", "\n".join(TEXT.values())))
    assert {"bench", "test", "docs", "gpu"} <= named <= targets


def test_options_exist():
    """Every --option of a page is defined somewhere in the code, or is another tool's."""
    sources = [path for folder in ("segext", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")]
    defined = {option for path in sources for option in re.findall(r'"(--[a-z][\w-]*)"', path.read_text())}
    others = {"--help", "--no-build-isolation", "--nproc-per-node"}
    made = {f"--{field.name.replace('_', '-')}" for field in fields(Settings)}
    named = {(page, option) for page, text in TEXT.items() for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", text)}
    assert len(named) > 20
    assert not {(page, option) for page, option in named if option not in defined | made | others}


def test_the_reference_names_what_attributes_reach():
    """By the names that it shows, without an import of the module in which something is defined."""
    found = set()
    for page, text in TEXT.items():
        place = re.search(r"(?:currentmodule|automodule):: (\S+)", text)
        for name in re.findall(r"^\.\. auto(?:class|function):: ([\w.]+)", text, re.MULTILINE):
            full = name if name.startswith("segext.") else f"{place[1]}.{name}"
            assert callable(operator.attrgetter(full.removeprefix("segext."))(segext)), (page, full)
            found.add(full)
    assert {"segext.Report", "segext.Switches", "segext.models.segnet", "segext.onnx.export"} <= found


@pytest.mark.parametrize("page", TEXT)
def test_links_lead_somewhere(page):
    folder = (ROOT / page).parent
    text = FENCE.sub("", TEXT[page])
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", text)
    for link in filter(None, (one or other for one, other in links)):
        assert link.startswith("https://") or (folder / link).is_file(), link


@pytest.mark.parametrize("page", PAGES, ids=TEXT)
def test_figures_are_those_of_the_committed_results(page):
    """``python -m docs.figures`` has nothing to do."""
    assert figures.refreshed(page) == page.read_text()


@pytest.mark.parametrize("theme", figures.COLOURS)
def test_the_picture_is_that_of_the_committed_results(theme):
    assert (figures.PICTURES / f"gains-{theme}.svg").read_text() == figures.picture(theme)


@pytest.mark.parametrize("page", TEXT)
def test_figures_stand_in_blocks(page):
    """What looks like a measurement is made from results, or is the definition of something."""
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", BLOCK.sub("", TEXT[page])))
    for definition in DEFINITIONS.get(page, ()):
        assert definition in text, f"no longer said: {definition}"
        text = text.replace(definition, "")
    assert not FIGURE.findall(text)


def test_what_counts_as_a_figure():
    for figure in ("7.25×", "1.5x", "85 %", "12.2 MB", "3 µs", "20 ms", "4 times as fast", "32 bytes", "12,242,944"):
        assert FIGURE.search(f"It is {figure} here."), figure
    for other in ("2×2 windows", "(4, 64, 224, 224)", "64@224x224", "torch 2.11", "k×l", "FCN-32s", "Python 3"):
        assert not FIGURE.search(f"It is {other} here."), other


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "segext.functional.conv_transpose2d_argmax" in (tmp_path / "api" / "functional.html").read_text()
    assert (tmp_path / "concepts.html").read_text().count('class="drawing"') == 4
