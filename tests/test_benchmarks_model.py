"""``python -m benchmarks model``: networks in published style, wrong conversions, and what cannot be run."""

import functools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

pytest.importorskip("matplotlib")

import segext
from benchmarks.__main__ import COMMANDS, PARTS, main
from benchmarks.errors import Unusable
from benchmarks.harness import CheckFailed
from benchmarks.model import loading
from benchmarks.model.checking import difference

pytestmark = pytest.mark.usefixtures("one_thread")

FILE = '''
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    """Two inputs, a dictionary with labels in it for an output, dropout, and a loss of its own."""
    def __init__(self):
        super().__init__()
        self.conv, self.drop, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Dropout(0.5), nn.Conv2d(4, 2, 1)

    def forward(self, image, prior):
        scores = self.head(self.drop(F.max_pool2d(F.relu(self.conv(image)), 2))) + prior
        return {"scores": scores, "labels": scores.argmax(1)}

def build():
    return Net()

class NamesItsType(nn.Sequential):
    def forward(self, x):
        return super().forward(x.to(torch.float32))

def names_its_type():
    return NamesItsType(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))

def frozen():
    return nn.Sequential(nn.MaxPool2d(2))

def infinite():
    return nn.Sequential(nn.MaxPool2d(2), nn.Softplus(-0.0))

def nothing_to_convert():
    return nn.Conv2d(3, 3, 1)

def raises():
    raise OSError("no weights")

def returns_a_list():
    return [nn.MaxPool2d(2)]

number = 3
'''
LOSS = """
def loss(output, image, prior):
    return F.cross_entropy(output["scores"], (prior[:, 0] > 0).long())
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(FILE)
    return str(path)


def run(out, *arguments):
    status = main(["model", *arguments, "--seconds", "0", "--output", str(out)])
    return status, json.loads((out / "results.json").read_text()) if status == 0 else None


@pytest.mark.parametrize("name", ["ENet", "UNet", "SegNet"])
def test_networks_in_published_style(name, tmp_path, capsys):
    status, found = run(tmp_path, f"networks:{name}", "--input", "2x3x32x48")
    assert status == 0
    text = capsys.readouterr().out
    assert (tmp_path / "report.txt").read_text() in text
    assert found["converted"] in text
    assert "bytes kept for backward" in found["converted"]
    assert {(c["task"], c["what"], c["dtype"]) for c in found["checks"]} == {
        (task, what, dtype)
        for task, what in (("inference", "outputs"), ("training step", "outputs"), ("training step", "gradients"))
        for dtype in ("float64", "float32")
    }
    for check in found["checks"]:
        assert check["difference"] <= check["bound"] <= 1e-2, "rounding, and what is let pass for it"
    rows = {(row["task"], row["way"], row["format"]): row for row in found["rows"]}
    assert len(rows) == len(found["rows"]) == 2 * 2 * 2
    for format in ("NCHW", "channels_last"):
        assert rows["inference", "segext", format]["kept"] is None
        ours, stock = rows["training step", "segext", format], rows["training step", "stock", format]
        assert ours["kept"] < stock["kept"]
        assert 16 * ours["switches"] <= stock["switches"]
    for row in rows.values():
        task, best = row["task"], row["best"]
        assert best in ("stock NCHW", "stock channels_last")
        fastest = rows[(task, *best.split())]
        assert fastest["to_best"]["median"] == 1
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 0


@pytest.mark.parametrize("loss", ["", LOSS])
def test_a_file_with_two_inputs_a_nested_output_and_a_loss(loss, file, tmp_path):
    Path(file).write_text(FILE + loss)
    sizes = ("2x3x16x16,2x2x8x8", "1x3x8x8,1x2x4x4")
    arguments = [x for size in sizes for x in ("--input", size)]
    status, found = run(tmp_path / "out", f"{file}:build", *arguments, "--train", "--format", "NCHW")
    assert status == 0
    assert [(row["input"], row["way"]) for row in found["rows"]] == [(s, w) for s in sizes for w in ("stock", "segext")]
    assert {row["task"] for row in found["rows"]} == {"training step"}
    assert {check["what"] for check in found["checks"]} == {"outputs", "gradients"}


def test_a_network_that_names_its_type(file, tmp_path):
    status, found = run(tmp_path / "out", f"{file}:names_its_type", "--input", "1x3x9x9", "--eval")
    assert status == 0
    assert "not compared in float64" in found["notes"][0]
    assert {check["dtype"] for check in found["checks"]} == {"float32"}


def test_bfloat16(tmp_path):
    status, found = run(tmp_path, "networks:SegNet", "--input", "2x3x16x16", "--dtype", "bfloat16", "--eval")
    assert status == 0
    assert {row["dtype"] for row in found["rows"]} == {"bfloat16"}


def test_compiled_ways(tmp_path, monkeypatch):
    """By the compiler that generates no code; and one that cannot compile is noted."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", functools.partial(compile, backend="eager"))
    common = ("networks:SegNet", "--input", "2x3x16x16", "--format", "NCHW", "--compile")
    _, found = run(tmp_path, *common)
    ways = {"stock", "segext", "stock compiled", "segext compiled"}
    assert {(row["task"], row["way"]) for row in found["rows"]} == {
        (task, way) for task in ("inference", "training step") for way in ways
    }
    kept = {row["way"]: row["kept"] for row in found["rows"] if row["task"] == "training step"}
    assert kept["stock compiled"] == kept["stock"]
    assert kept["segext compiled"] == kept["segext"]

    def broken(graph, inputs):
        raise OSError("no compiler")

    monkeypatch.setattr(torch, "compile", functools.partial(compile, backend=broken))
    _, found = run(tmp_path, *common, "--eval")
    assert {row["way"] for row in found["rows"]} == {"stock", "segext"}
    assert sum("does not compile" in note for note in found["notes"]) == 2


# ---- Conversions that are wrong --------------------------------------------------------------------------------------


class Doubles(nn.Module):
    """Doubles what it is given, forward or only backward."""

    def __init__(self, forward):
        super().__init__()
        self.doubles_forward = forward

    def forward(self, x):
        return 2 * x if self.doubles_forward else 2 * x - x.detach()


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (True, "inference, float64 NCHW: outputs of the converted network differ by 1.0e+00 of their norm"),
        (False, "training step, float64 NCHW: gradients of the converted network differ by 1.0e+00 of their norm"),
    ],
)
def test_a_wrong_conversion_ends_the_run(forward, message, tmp_path, monkeypatch, capsys):
    convert = segext.convert

    def wrong(model, **options):
        converted, report = convert(model, **options)
        converted.dec1.register_forward_hook(lambda module, inputs, output: Doubles(forward)(output))
        return converted, report

    monkeypatch.setattr(segext, "convert", wrong)
    assert run(tmp_path / "out", "networks:SegNet", "--input", "2x3x16x16")[0] == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_conversion_that_fails_where_the_network_runs(tmp_path, monkeypatch, capsys):
    convert = segext.convert

    def wrong(model, **options):
        converted, report = convert(model, **options)
        converted.dec1.weight.data = converted.dec1.weight.data[:, :1]
        return converted, report

    monkeypatch.setattr(segext, "convert", wrong)
    assert run(tmp_path / "out", "networks:SegNet", "--input", "2x3x16x16", "--eval")[0] == 1
    assert "inference: the converted network fails where the network runs: " in capsys.readouterr().err


@given(st.lists(st.floats(-8, 8), min_size=1, max_size=4), st.floats(1e-6, 1.0))
def test_differences_are_relative_to_all_together(values, by):
    expected = {str(n): torch.tensor([1.0, value], dtype=torch.float64) for n, value in enumerate(values)}
    assert difference(expected, expected)[0] == 0
    scaled = {name: (1 + by) * tensor for name, tensor in expected.items()}
    assert difference(scaled, expected)[0] == pytest.approx(by)
    one = {**expected, "0": 2 * expected["0"]}
    found, most = difference(one, expected)
    assert most == "0"
    norms = [tensor.norm().item() ** 2 for tensor in expected.values()]
    assert found == pytest.approx((norms[0] / sum(norms)) ** 0.5)


def test_differences_of_what_cannot_be_compared():
    expected = {"a": torch.ones(2)}
    with pytest.raises(CheckFailed, match="gives"):
        difference({"a": torch.ones(3)}, expected)
    with pytest.raises(CheckFailed, match="gives"):
        difference({}, expected)
    with pytest.raises(Unusable, match="itself gives NaN or infinity"):
        difference(expected, {"a": torch.tensor([1.0, torch.inf])})
    assert difference({"a": torch.tensor([1.0, torch.nan])}, expected)[0] != 0


# ---- What cannot be loaded or run ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "input", "message"),
    [
        ("nets.py", "1x3x8x8", "'nets.py' names no builder: give path.py:name or package.module:name"),
        ("missing.py:build", "1x3x8x8", "there is no file missing.py"),
        ("no.such.module:build", "1x3x8x8", "no.such.module cannot be imported: ModuleNotFoundError"),
        ("nets.py:missing", "1x3x8x8", "nets.py has no missing"),
        ("nets.py:number", "1x3x8x8", "nets.py:number is no function that returns a network, but int"),
        ("nets.py:raises", "1x3x8x8", "nets.py:raises cannot be called without arguments: OSError: no weights"),
        ("nets.py:returns_a_list", "1x3x8x8", "must return a torch.nn.Module, but returned list"),
        ("nets.py:build", "1x3x8x0", "--input 1x3x8x0: give sizes such as 1x3x512x512"),
        ("nets.py:build", "1x3x8x8", "nets.py:build does not run on 1x3x8x8 in float32, inference: TypeError"),
        ("nets.py:frozen", "1x3x8x8", "nothing in the network's output requires a gradient: run it with --eval"),
        ("nets.py:infinite", "1x3x8x8", "the network itself gives NaN or infinity"),
        ("nets.py:nothing_to_convert", "1x3x8x8", "segext.convert finds nothing to change in nets.py:nothing_to"),
        ("broken.py:build", "1x3x8x8", "broken.py cannot be imported: ZeroDivisionError: division by zero"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_sentence(target, input, message, file, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    eval = ["--eval"] if "infinite" in target else []
    assert run(tmp_path / "out", target, "--input", input, *eval)[0] == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if not line.startswith("["))
    assert message in line


def test_sizes():
    assert loading.sizes("1x3x512x640") == ((1, 3, 512, 640),)
    assert loading.sizes("2x3,4x1x7") == ((2, 3), (4, 1, 7))
    for text in ("", "3", "1x3x", "1x-3", "1x3;2x2", "1x3,", "axb", "1x3x8x8 "):
        with pytest.raises(Unusable, match="give sizes such as"):
            loading.sizes(text)
    first, again = (loading.inputs("2x3x4x4", torch.float32)[0] for _ in range(2))
    assert torch.equal(first, again)


# ---- The command line ------------------------------------------------------------------------------------------------


def test_one_help_names_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    for name in (*PARTS, *COMMANDS):
        assert f"\n  {name} " in text
    assert "exit status" in text
