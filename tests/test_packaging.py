"""What is shipped: an sdist, the wheel that pip builds of it, and an import that costs little."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

USE = """
import segext, torch
from segext import nn

x = torch.tensor([[3.0, 9, 5, 2], [6, 2, 1, 8], [12, 3, 2, 5], [9, 7, 6, 2]]).view(1, 1, 4, 4).requires_grad_()
pooled, switches = nn.MaxPool2d(2, return_indices=True)(x)
unpooled = nn.MaxUnpool2d(2)(pooled, switches)
unpooled.sum().backward()
assert pooled.tolist() == [[[[9, 8], [12, 6]]]], pooled
assert torch.equal(unpooled, x * x.grad), unpooled
assert torch.equal(x.grad, switches.mask().float()), x.grad
assert segext.__version__
print(segext.__file__)
"""


def run(*command, variables=None, **more):
    """Runs a command; what it printed is the message if it fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **(variables or {}), "PATH": path}
    environment |= {"PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # Quick to build; how fast it runs is no matter here, nor what the compiler guesses where it optimizes nothing.
    environment |= {"SEGEXT_CUDA": "0", "CXXFLAGS": "-O0", "SEGEXT_WERROR": "0"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, **more)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pip(*arguments, **more):
    return run(sys.executable, "-m", "pip", *arguments, **more)


@pytest.fixture
def environment(tmp_path):
    """An empty environment's interpreter. It sees torch where it is installed, and nothing of this checkout."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(site, "torch_of_the_tests.pth").write_text("\n".join(installed) + "\n")
    return python


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-c", f"import setuptools.build_meta as b; b.build_sdist({str(folder)!r})", cwd=ROOT)
    (archive,) = folder.iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, sdist):
    """Built from the sdist, as pip installs it, so that no file of a build in the checkout gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    unpacked_here = {"TMPDIR": str(tmp_path_factory.mktemp("unpacked"))}
    pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, sdist, variables=unpacked_here)
    (built,) = folder.iterdir()
    return built


@pytest.mark.slow
def test_the_sdist_becomes_a_wheel_that_works(environment, wheel, tmp_path):
    """Outside the checkout, and it is the installed one that does."""
    pip("--python", environment, "install", "--no-deps", wheel)
    (tmp_path / "use.py").write_text(USE)
    location = run(environment, "-I", tmp_path / "use.py", cwd=tmp_path).strip()
    assert Path(location).is_relative_to(environment.parent.parent)


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"segext"}
    assert "segext/_ops.so" in names
    assert any(name.startswith("segext/_C.") for name in names)
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "segext").rglob("*.py")} <= set(names)
    assert "segext/py.typed" in names
    assert not [name for name in names if name.endswith((".cpp", ".h", ".o", ".pyc"))]


@pytest.mark.slow
def test_compiled_parts_name_no_place_on_the_machine_they_were_built_on(wheel, tmp_path_factory):
    """Neither in messages nor in what a linker writes."""
    archive = zipfile.ZipFile(wheel)
    places = [str(tmp_path_factory.getbasetemp()).encode(), str(ROOT).encode(), sys.prefix.encode()]
    compiled = [name for name in archive.namelist() if name.endswith(".so")]
    assert len(compiled) == 2
    assert not [(name, place) for name in compiled for place in places if place in archive.read(name)]


def test_the_citation_is_of_this_version():
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_sdist_holds_every_source(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    sources = {
        str(path.relative_to(ROOT))
        for folder in ("csrc", "segext")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".h", ".cpp", ".cu", ".cuh", ".py"}
    }
    assert sources <= names
    assert {"setup.py", "pyproject.toml", "CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md"} <= names
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc")) or name.startswith("tests/")]


def test_import_is_light():
    """It brings only its own modules beside what torch itself brings, and lists what is public, imported or not."""
    script = """
        import sys, torch
        before = set(sys.modules)
        import segext
        assert {*segext.__all__, "__version__"} == set(dir(segext))
        print(*sorted(set(sys.modules) - before), sep="\\n")
    """
    loaded = run(sys.executable, "-c", textwrap.dedent(script), cwd=ROOT).split()
    assert "segext.functional" in loaded
    heavy = (
        "torch._dynamo",
        "torch._inductor",
        "torch.onnx",
        "torch.fx",
        "torch.testing",
        "sympy",
        "numpy",
        "matplotlib",
    )
    assert not [module for module in loaded if module.startswith(heavy)]
    assert not {"segext.reference", "segext.models", "segext.onnx"}.intersection(loaded)


@pytest.mark.parametrize("damage", ["missing", "no library", "another Python"])
def test_a_build_that_cannot_load_says_what_to_type(damage, tmp_path):
    """In one sentence, as an ImportError."""
    package = tmp_path / "segext"
    left_out = "_C*.so" if damage == "another Python" else "_ops.so"
    shutil.copytree(ROOT / "segext", package, ignore=shutil.ignore_patterns(left_out, "__pycache__"))
    if damage == "no library":
        (package / "_ops.so").write_text("this is no shared object")
    # Without what an editable installation adds, which would find the module in the checkout.
    script = """
        import sys
        sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder)]
        sys.path.insert(0, ".")
        try:
            import segext
        except ImportError as error:
            print(error)
        else:
            print("loaded", segext.__file__)
    """
    message = run(sys.executable, "-c", textwrap.dedent(script), cwd=tmp_path).strip()
    assert "pip install --no-build-isolation" in message
    assert damage == "another Python" or str(package) in message
    assert "Traceback" not in message
    assert len(message.splitlines()) == 1
