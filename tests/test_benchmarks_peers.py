"""``python -m benchmarks peers``: ONNX Runtime gives what stock gives, a wrong operator ends the run, and so on."""

import functools
import json
import sys

import pytest
import torch

pytest.importorskip("matplotlib")

from benchmarks import peers
from benchmarks.__main__ import main
from benchmarks.networks import Pool

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def small(monkeypatch):
    """Small maps: of an odd height, with channels that mix and such that do not."""
    found = functools.partial(peers.cases, (Pool("odd", 3, 9, 14),), ((3, 3, 4, 2, 1, 3, 6), (4, 6, 2, 2, 0, 1, 5)))
    monkeypatch.setattr(peers, "cases", found)


def test_run(small, tmp_path, capsys):
    assert main(["peers", "--seconds", "0", "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "report.txt").read_text() in text
    content = json.loads((tmp_path / "results.json").read_text())
    assert f"onnxruntime {content['environment']['onnxruntime']}" in text
    assert [(row["op"], row["format"]) for row in content["peers"][::2]] == [
        (op, "NCHW") for op in ("pool with indices", "unpool", "deconv 4x4/2 by channel", "deconv 2x2/2")
    ]
    for row in content["peers"]:
        assert row["to_peer"]["median"] > 0
        assert row["times"]["peer NCHW"]["samples"] == row["times"]["stock NCHW"]["samples"]
        assert row["best"].startswith("stock")
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 0


@pytest.mark.parametrize("operator", ["MaxPool", "MaxUnpool", "ConvTranspose"])
def test_a_wrong_result_of_the_peer_ends_the_run(operator, small, tmp_path, monkeypatch, capsys):
    right = peers.operator

    def wrong(name, inputs, outputs, **attributes):
        run = right(name, inputs, outputs, **attributes)

        def call():
            run()
            for x in outputs.values() if name == operator else ():
                x.copy_(x.flip(-1))

        return call

    monkeypatch.setattr(peers, "operator", wrong)
    assert main(["peers", "--seconds", "0", "--output", str(tmp_path / "out")]) == 1
    assert "Wrong result" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_peer_reads_and_writes_torch_s_memory():
    """Nothing is copied: a change of the input shows in the next call."""
    x = torch.rand(1, 2, 4, 4)
    call, _ = peers.pool(x, (2, 2, 0, 1, False))
    first = call().clone()
    x.add_(1)
    torch.testing.assert_close(call(), first + 1)


def test_without_the_extra_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["peers", "--output", str(tmp_path / "out")]) == 2
    assert "pip install 'segext[onnx]'" in capsys.readouterr().err
