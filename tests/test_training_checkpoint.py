"""Checkpoints: whole or not at all, of a known network, and nothing but tensors and plain values."""

import pickle

import pytest
import torch

from segext.models import MODELS
from segext.training import checkpoint
from segext.training.errors import UserError


def content(name="segnet", classes=3, **more):
    torch.manual_seed(0)
    arguments = {"num_classes": classes, "width": 1 / 16}
    model = MODELS[name](**arguments)
    plain = {"normalization": "torchvision", "ignore": 255, "step": 0, "mean_iou": None}
    return {"architecture": name, "arguments": arguments, "model": model.state_dict(), **plain, **more}


@pytest.mark.parametrize("layers", ["segext", "torch"])
@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name, layers, tmp_path):
    saved = content(name)
    checkpoint.save(tmp_path / "a.pt", saved)
    model = checkpoint.build(checkpoint.load(tmp_path / "a.pt"), tmp_path, layers)
    state = model.state_dict()
    assert state.keys() == saved["model"].keys()
    assert all(torch.equal(state[key], value) for key, value in saved["model"].items())
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


class DiskFull(Exception):
    pass


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    checkpoint.save(path, content(step=1))
    whole = torch.save

    def half(value, file):
        whole(value, file)
        file.truncate(file.tell() // 2)
        raise DiskFull

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(DiskFull):
        checkpoint.save(path, content(step=2))
    assert checkpoint.load(path)["step"] == 1
    monkeypatch.undo()
    checkpoint.save(path, content(step=3))
    assert checkpoint.load(path)["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


class Malice:
    def __reduce__(self):
        return (print, ("loaded",))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "there is no file"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_bytes(b"not a checkpoint at all"), "damaged"),
        (lambda path: path.write_bytes(b"title"), "damaged"),
        (lambda path: path.write_bytes(b"G"), "damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2000]), "damaged"),
        (lambda path: path.write_bytes(pickle.dumps(Malice(), protocol=2)), "more than tensors"),
        (lambda path: torch.save({"model": Malice()}, path), "more than tensors"),
        (lambda path: torch.save({"conv.weight": torch.ones(1)}, path), "is not a checkpoint of segext"),
        (lambda path: torch.save([1, 2], path), "is not a checkpoint of segext"),
        (lambda path: torch.save({**content(), "format": 99}, path), "format 99"),
    ],
)
def test_files_that_are_no_checkpoints(spoil, message, tmp_path, capsys):
    path = tmp_path / "a.pt"
    checkpoint.save(path, content())
    spoil(path)
    with pytest.raises(UserError, match=message) as found:
        checkpoint.load(path)
    assert str(path) in str(found.value)
    assert "\n" not in str(found.value)
    assert "loaded" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "unet"}, "architecture 'unet', which is none of fcn32s"),
        ({"architecture": "fcn8s"}, "does not fit its architecture fcn8s: .* missing .* unknown"),
        ({"arguments": {"num_classes": 4, "width": 1 / 16}}, "does not fit its architecture segnet: size mismatch"),
        ({"arguments": {"depth": 4}}, "does not fit its architecture segnet: .*depth"),
    ],
)
def test_weights_of_another_architecture(change, message, tmp_path):
    with pytest.raises(UserError, match=message) as found:
        checkpoint.build(content() | change, tmp_path / "a.pt", "segext")
    assert "\n" not in str(found.value)


def test_the_checkpoint_of_a_run_is_its_best(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint.find(tmp_path)
    for name in ("last.pt", "best.pt"):
        (tmp_path / name).touch()
        assert checkpoint.find(tmp_path).name == name
    assert checkpoint.find(tmp_path / "last.pt").name == "last.pt"
