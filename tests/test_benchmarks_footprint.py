"""What networks are counted to hold: as much as real runs hold, and in the right places."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

pytest.importorskip("matplotlib")

from benchmarks import footprint
from benchmarks.footprint import LAYERS, RECOMPUTING, SEGEXT, STOCK, Ledger, Row
from benchmarks.harness import CheckFailed
from benchmarks.memory import saved_bytes
from segext.models import MODELS

NARROW = 1 / 32

pytestmark = pytest.mark.usefixtures("one_thread")


def given(name, layers):
    """A narrow network and a batch, of stand-ins or not."""
    torch.manual_seed(0)
    model = MODELS[name](5, width=NARROW, **LAYERS[layers])
    size = (200, 195) if name == "deconvnet" else (40, 51)
    return model, torch.rand(2, 3, *size), torch.randint(5, (2, *size))


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("fcn8s", STOCK),
        ("fcn8s", SEGEXT),
        ("deconvnet", STOCK),
        ("deconvnet", RECOMPUTING),
        ("segnet", SEGEXT),
        ("segnet", RECOMPUTING),
    ],
)
def test_stand_ins_hold_what_a_real_run_holds(name, layers):
    with FakeTensorMode():
        step, kept, prediction = footprint.count(*given(name, layers))
    model, images, labels = given(name, layers)
    real_step, real_kept, real_prediction = footprint.count(model, images, labels)
    assert (kept, step.switches, step.encoded) == (real_kept, real_step.switches, real_step.encoded)
    assert (step.peak, prediction.peak) == (real_step.peak, real_prediction.peak)

    assert kept == saved_bytes(
        lambda: model.train()(images, labels), [images, labels, *model.parameters(), *model.buffers()]
    )


def test_a_ledger_counts_what_is_alive():
    x = torch.ones(100)
    with Ledger([x]) as ledger:
        y = x + 1
        z = y.view(10, 10) * 2
        assert ledger.alive == 800  # a view takes nothing
        del y
        assert ledger.alive == 400
        z = x.abs()
        assert (ledger.alive, ledger.peak) == (400, 800)
    assert z.numel() == 100


def test_switches_by_what_holds_them():
    """Packed by sample: seven elements of 4 bits take four bytes, of 2 bits two."""
    x = torch.rand(2, 7, 2, 2)
    with Ledger([x]) as ledger:
        torch.nn.functional.max_pool2d(x, 2, return_indices=True)
    assert ledger.encoded == {"int64": 112, "int32": 56, "uint8": 14, "4 bits": 8, "2 bits": 4}
    assert ledger.switches == 112


def test_shares_and_sums():
    encoded = {"int64": 3200, "2 bits": 100}
    row = Row("DeconvNet", SEGEXT, 8, 8, 2, 1000, 900, 600, 100, encoded, 2000, 400)
    assert (row.step, row.maps) == (1000 + 900 + 900 + 600, 500)
    assert row.share("2 bits") == 100 / 3400
    assert row.share("int64") == 3200 / 6500
    assert row.predicted_share("2 bits") == 100 / 1500
    assert row.unpools


def test_switches_of_the_published_deconvnet():
    row = next(iter(footprint.rows("deconvnet", SEGEXT, [(224, 224)], [2])))
    assert row.encoded["int64"] == 2 * 12_242_944
    assert row.switches == row.encoded["2 bits"] == 2 * 382_592


def test_another_encoding_stops_the_run(monkeypatch):
    monkeypatch.setitem(footprint.ENCODINGS, "2 bits", 3)
    with pytest.raises(CheckFailed, match="SegNet on segext"):
        list(footprint.rows("segnet", SEGEXT, [(32, 32)], [1]))
