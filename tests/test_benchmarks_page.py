"""The report as a page: it needs no other file, says what the results say, can be drawn again, and can be read."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from benchmarks import calls, contest, decoding, limits, memory, page, scaling, targets, throughput, upsampling
from benchmarks.__main__ import PARTS, arguments, given, main
from benchmarks.footprint import RECOMPUTING, SEGEXT, STOCK
from benchmarks.footprint import Row as Footprint
from benchmarks.harness import Summary
from benchmarks.page import charts, findings, sections
from benchmarks.page.sections import Scale
from benchmarks.results import Results

ROOT = Path(__file__).resolve().parent.parent
KEPT = sorted((ROOT / "benchmarks" / "results").glob("*-cpu/results.json"))
KEPT = [path for path in KEPT if "throughput" in json.loads(path.read_text())]
EMPTY = {"area", "br", "hr", "img", "input", "link", "meta"}


def summary(value):
    return Summary(value, 0.9 * value, 1.1 * value, 5)


def pooled(op, format, to_stock, to_best):
    times = {f"segext {format}": summary(1e6), "stock NCHW": summary(4e6), "stock channels_last": summary(3e6)}
    return throughput.Row(
        *(op, "key", "DeconvNet 224x224", "pool1", 4, 64, 224, 224, "2x2/2", "float32", format, 64_000_000, times),
        *(summary(to_stock), summary(to_best), "stock channels_last", None, summary(1.2)),
    )


def contested(op, to_best, operations=0):
    times = {"segext NCHW": summary(1e6), "stock NCHW": summary(3e6), "stock dense NCHW": summary(to_best * 1e6)}
    peaks = {"segext NCHW": 1_000, "stock NCHW": 600_000, "stock dense NCHW": 500_000}
    return contest.Row(
        *(op, "21@70x70", "float32", "NCHW", 1_000_000, times, summary(3.0), summary(to_best), "stock dense NCHW"),
        *(None, None, "segext", peaks),
        operations=operations,
    )


def held(network, layers, parameters, kept, switches, height, batch):
    encoded = {"int64": 3200, "int32": 1600, "uint8": 400, "4 bits": 200, "2 bits": 100}
    return Footprint(
        network, layers, height, height, batch, parameters, parameters, kept, switches, encoded, kept + 9, kept // 9
    )


def some():
    """A little of every part."""
    found = Results({"segext": "1.2", "torch": "3.4", "processor": "A & B <C>", "threads": 2, "commit": "abc"})
    found.environment |= {"instruction set": "avx2", "images": "a photograph", "options": "--threads 2"}
    found.throughput = [
        pooled("pool", "NCHW", 7.0, 2.0),
        pooled("pool", "channels_last", 3.0, 3.0),
        pooled("unpool", "NCHW", 4.0, 0.5),
        pooled("unpool", "channels_last", 4.0, 2.0),
    ]
    found.upsampling = [contested(upsampling.ARGMAX, 6.0, 8_000_000)]
    found.decoding = [contested(decoding.dense_op(2, 2), 0.8, 90_000_000)]
    shapes = {calls.SMALL: (20e3, 30e3), calls.TINY: (9e3, 2e3)}
    found.calls = [
        calls.Row("pool", shape, trains, False, *map(summary, (own, stock, own - stock, stock / own)))
        for shape, (own, stock) in shapes.items()
        for trains in (False, True)
    ]
    found.switches = [memory.SwitchRow("DeconvNet 224x224", 400, 3200, 1600, 400, 100, True)]
    found.saved = [memory.SavedRow("DeconvNet 224x224, pool1", False, 4000, 3000, 1000, 1000)]
    for height, factor in ((224, 1), (512, 4)):
        for batch in (2, 16):
            at = (height, batch)
            found.footprint += [
                held("FCN-8s", STOCK, 1000, 1000 * batch * factor, 320, *at),
                held("FCN-8s", SEGEXT, 1000, 500 * batch * factor, 10, *at),
                held("DeconvNet", STOCK, 2000, 900 * batch * factor**1.5, 320, *at),
                held("DeconvNet", SEGEXT, 2000, 700 * batch * factor, 10, *at),
                held("DeconvNet", RECOMPUTING, 2000, 400 * batch * factor, 10, *at),
            ]
    found.limits = [limits.Row(limits.MEMORY, summary(12.5), 14.0), limits.Row("float32", summary(150.0), 160.0)]
    found.scaling = [
        scaling.Row(axis, value, contested(op, 2.0))
        for op in ("ReLU, pool, unpool, backward", upsampling.ARGMAX)
        for axis, values in ((scaling.IMAGE, (32, 64)), (scaling.BATCH, (1, 2)))
        for value in values
    ]
    found.notes = ["no time was left for <this>"]
    return found


@pytest.fixture
def results():
    return some()


class Page(HTMLParser):
    """A page's elements as (tag, attributes, text), after a check that all tags are closed in their order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])
        if tag not in EMPTY:
            self._open.append((tag, len(self.elements) - 1))

    def handle_startendtag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for _, number in self._open:
            self.elements[number][2] += data

    def all(self, tag, **attributes):
        return [e for e in self.elements if e[0] == tag and all(e[1].get(k) == v for k, v in attributes.items())]


def drawn(results):
    return page.render(results, targets.verdicts(results))


@pytest.fixture(scope="module")
def text():
    return drawn(some())


# ---- The page ------------------------------------------------------------------------------------------------------


def test_it_needs_no_other_file(text):
    assert not re.search(r"https?:|//\w|@import|<script|<link|<img|<iframe|\bsrc=", text)
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)', text))
    assert len(text) < 2_000_000


def test_it_is_well_formed_and_its_links_lead_somewhere(text):
    found = Page(text)
    names = [attributes["id"] for _, attributes, _ in found.elements if "id" in attributes]
    assert len(names) == len(set(names))
    named = re.findall(r'href="#([^"]+)', text) + re.findall(r"url\(#([^)]+)", text)
    assert named
    assert set(named) <= set(names)
    assert "A &amp; B &lt;C&gt;" in text
    assert "no time was left for &lt;this&gt;" in text


def test_every_figure_names_the_command_that_made_it(text, results):
    found = Page(text)
    figures = found.all("figure")
    assert {attributes["id"] for _, attributes, _ in figures} >= {
        *("ops", "switches", "networks", "kept", "upsampling", "peaks", "decoding", "scaling", "calls"),
        *("roofline", "losses"),
    }
    for _, attributes, said in figures:
        command = re.search(r"Made by (python -m benchmarks .*)", said)
        assert command, attributes
        options = arguments(command[1].split()[3:])
        assert options.part in PARTS
        assert given(options) == "--threads 2"
    parts = {section.key: {figure.command.split()[3] for figure in section.figures} for section in sections.of(results)}
    assert parts["memory"] == {"switches"}
    assert parts["speed"] == parts["limits"] == {"ops"}


def test_it_tells_those_who_do_not_see(text):
    found = Page(text)
    drawings = [element for element in found.elements if element[1].get("role") == "img"]
    assert len(drawings) == 2 + 4 + 1
    assert all(len(attributes["aria-label"]) > 60 for _, attributes, _ in drawings)
    assert all(attributes.get("aria-hidden") == "true" for _, attributes, _ in found.all("svg"))
    assert found.all("html", lang="en")
    levels = [int(tag[1]) for tag, *_ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def luminance(colour):
    digits = colour.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    linear = [
        (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4) for v in (c / 255 for c in bytes.fromhex(digits))
    ]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_colours_are_there_and_tell_apart_in_light_and_dark(text, results):
    style = text[text.index("<style>") : text.index("</style>")]
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w+)", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)
    )
    assert set(light) == set(dark) >= set(re.findall(r"var\(--([\w-]+)\)", text))
    for colours in (light, dark):
        for ground in (colours["paper"], colours["panel"]):
            assert all(contrast(colours[name], ground) >= 4.5 for name in ("ink", "muted", "ours"))
            shapes = ("stock", "alarm", "a", "b", "c", "d")
            assert all(contrast(colours[name], ground) >= 3 for name in shapes)
    svg = "".join(charts.svg(panel, "x") for panel in charts.memory(results) + charts.growth(results))
    assert not re.findall(r"(?:fill|stroke): #(?!000000)\w+", svg)


def test_a_part_that_was_not_run_is_not_there(results):
    results.footprint, results.limits, results.scaling, results.calls = [], [], [], []
    keys = [section.key for section in sections.of(results)]
    assert keys == ["speed", "memory", "fusions", "stock"]
    assert "networks" not in [figure.key for section in sections.of(results) for figure in section.figures]
    Page(drawn(Results(results.environment)))


# ---- What it says --------------------------------------------------------------------------------------------------


def test_gains_are_computed_from_the_results(results):
    switches, kept, speed, labels = findings.gains(results)
    assert switches.figure == f"32{findings.TIMES} smaller"
    assert "100 B rather than 3.2 kB" in switches.text
    assert kept.figure == "56 % less"
    assert "6.4 kB rather than 14.4 kB" in kept.text
    assert speed.figure == f"2.00{findings.TIMES} as fast"
    assert f"from 0.50{findings.TIMES} to 3.00{findings.TIMES}" in speed.text
    assert labels.figure == f"6.00{findings.TIMES} as fast"
    assert f"500{findings.TIMES} less peak memory" in labels.text


def test_costs_name_the_worst(results):
    lost, call, both, _ = findings.costs(results)
    # pool, unpool and deconv 2x2/2, and calls on the tiny map; scaling has eight comparisons more
    assert lost.startswith(f"The best stock variant wins 4 of 18 comparisons, at worst by 4.50{findings.TIMES}: a call")
    assert "a call without gradients takes +7 to +7 µs compared with stock" in call
    assert "forward and backward takes +7 to +7 µs compared with stock" in both


def test_the_answer_about_deconvnet_is_computed_from_the_results(results):
    answer, more = findings.verdict(results)
    times = findings.TIMES
    assert answer.startswith(f"Yes, by its weights, which take 2.00{times} as much as FCN-8s's;")
    assert f"takes 0.90{times} as much at 224x224 and 1.80{times} as much at 512x512 with both on stock" in answer
    assert f"and 0.80{times} and 0.80{times} with both on segext's" in answer
    assert "at 224x224 900 B against 1 kB; at 512x512 7.2 kB against 4 kB" in more
    lighter = [dataclasses.replace(row, parameters=1000) for row in results.footprint]
    assert findings.verdict(Results({}, footprint=lighter))[0].startswith("No, by its weights")


def test_every_comparison_that_stock_wins_is_listed(results):
    (figure,) = sections.of(results)[-1].figures
    (table,) = figure.tables
    assert figure.title == "4 of 18 comparisons"
    assert [row[0] for row in table.rows] == ["a call of pool", "a call of pool", "unpool", "deconv 2x2/2"]
    assert [row[3][:-1] for row in table.rows] == ["4.50", "4.50", "2.00", "1.25"]


def test_options_that_change_nothing_measured_are_not_repeated():
    assert given(arguments(["switches", "--output", "elsewhere"])) == ""
    assert given(arguments(["--seconds", "0", "--images", "my photos", "--quick", "--no-compile"])) == (
        "--images 'my photos' --seconds 0 --quick --no-compile"
    )


def test_points_below_the_roof(results):
    pool, _, labels, deconv = charts.points(results)
    assert pool.intensity == 3 * 4 * 64 * 112 * 112 / 64_000_000
    assert pool.own == 3 * 4 * 64 * 112 * 112 / 1e6
    assert pool.stock == pytest.approx(pool.own / 3)
    assert (labels.intensity, labels.own) == (8.0, 8.0)
    assert deconv.stock == pytest.approx(90 / 0.8)
    (panel,) = charts.roofline(results)
    assert "memory allows 14 GB/s and arithmetic 160 billion" in panel.alt
    assert "8 of 112 possible" in panel.alt  # labels: eight operations a byte
    assert "90 of 160 possible" in panel.alt


def test_places_on_a_track():
    scale = Scale([0.5, 4.0])
    assert 0 < scale.place(0.5) < scale.place(1.0) < scale.place(4.0) < 100
    assert scale.place(2.0) - scale.place(1.0) == pytest.approx(scale.place(4.0) - scale.place(2.0))
    start, width = scale.bar(0.5)
    assert (start, start + width) == (scale.place(0.5), pytest.approx(scale.place(1.0)))
    assert [text[:-1] for _, text in scale.ticks()] == ["0.5", "1", "2"]
    assert {text[:-1] for _, text in Scale([0.01, 300.0]).ticks()} == {"0.01", "0.1", "1", "10", "100"}


# ---- Drawing again -------------------------------------------------------------------------------------------------


def test_results_are_read_as_they_were_written(results, tmp_path):
    results.write(tmp_path / "results.json", targets.verdicts(results))
    again = Results.read(tmp_path / "results.json")
    assert again == results


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.parent.name)
def test_kept_results_can_be_drawn(path):
    results = Results.read(path)
    assert dataclasses.asdict(results)["calls"] == [
        {**row, "shape": tuple(row["shape"])} for row in json.loads(path.read_text())["calls"]
    ]
    Page(drawn(results))


def test_drawing_again_measures_nothing(text, results, tmp_path, monkeypatch, capsys):
    results.write(tmp_path / "results.json", [])
    before = (tmp_path / "results.json").read_bytes()
    monkeypatch.setattr("benchmarks.harness.measure", None)
    assert main(["html", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text() == text
    said = capsys.readouterr().out
    for name in ("report.png", "memory.png", "scaling.png", "roofline.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert name in said
    assert (tmp_path / "results.json").read_bytes() == before


@pytest.mark.parametrize("content", [None, "{", "[]", '{"format": 0}'])
def test_what_is_no_result_is_an_error(content, tmp_path, capsys):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    assert main(["html", str(tmp_path)]) == 2
    assert capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
