"""``segext eval`` and ``segext predict``, and what all commands say about what they cannot use."""

import argparse
import json
import re
import resource
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from dataclasses import fields

import numpy as np
import pytest
import torch
from pictures import CLASSES, VOID, camvid, scene, voc
from PIL import Image

import segext
from segext.__main__ import main, parser
from segext.models import MODELS
from segext.training import checkpoint
from segext.training.boundary import boundary_f1
from segext.training.data import as_tensor
from segext.training.errors import UserError
from segext.training.folders import find
from segext.training.logs import Log
from segext.training.normalization import NORMALIZATIONS
from segext.training.palette import CAMVID, VOC
from segext.training.processes import choose_device
from segext.training.settings import Settings

pytestmark = pytest.mark.usefixtures("one_thread")

ARGUMENTS = {"num_classes": CLASSES, "width": 1 / 16}


def save_checkpoint(path, name="segnet", **more):
    """A network that no one trained, but whose batch norms know what images look like."""
    torch.manual_seed(0)
    model = MODELS[name](**ARGUMENTS)
    with torch.no_grad():
        model.train()(NORMALIZATIONS["torchvision"](as_tensor(Image.fromarray(scene(0)[0]))[None]))
    content = {"architecture": name, "arguments": ARGUMENTS, "normalization": "torchvision", "ignore": VOID}
    content |= {"step": 0, "mean_iou": None}
    checkpoint.save(path, {**content, "model": model.state_dict(), **more})
    return model


# ---- eval ----------------------------------------------------------------------------------------------------------


def test_eval(tmp_path, capsys):
    data = voc(tmp_path / "data", val=3)
    (data / "classes.txt").write_text("ground\nred\ngreen\nyellow\n")
    model = save_checkpoint(tmp_path / "a.pt")
    path = tmp_path / "scores.json"
    assert main(["eval", str(tmp_path / "a.pt"), str(data), "--json", str(path), "--device", "cpu"]) == 0
    found = json.loads(path.read_text())

    confusion, contours = np.zeros((CLASSES, CLASSES)), []
    for pair in find(data, "val"):
        image, label = as_tensor(Image.open(pair.image)), np.asarray(Image.open(pair.label))
        predicted = model.predict(NORMALIZATIONS["torchvision"](image[None]))[0].numpy()
        known = label != VOID
        np.add.at(confusion, (label[known], predicted[known]), 1)
        contours.append(boundary_f1(predicted, label, CLASSES, VOID))
    right = confusion.diagonal()
    ious = right / (confusion.sum(0) + confusion.sum(1) - right)
    assert found["images"] == 3
    assert found["pixel_accuracy"] == pytest.approx(right.sum() / confusion.sum())
    assert found["class_accuracy"] == pytest.approx((right / confusion.sum(1)).mean())
    assert found["mean_iou"] == pytest.approx(ious.mean())
    assert found["boundary_f1"] == pytest.approx(np.mean([np.nanmean(row) for row in contours]))
    assert [row["name"] for row in found["classes"]] == ["ground", "red", "green", "yellow"]
    assert [row["iou"] for row in found["classes"]] == pytest.approx(list(ious))
    assert [row["boundary_f1"] for row in found["classes"]] == pytest.approx(list(np.nanmean(contours, 0)))

    table = capsys.readouterr().out
    assert f"pixel accuracy {100 * found['pixel_accuracy']:.1f}, 3 images" in table
    for row in (*found["classes"], {"name": "mean", "iou": found["mean_iou"]}):
        (line,) = (line.split() for line in table.splitlines() if line.startswith(row["name"]))
        assert line[2] == f"{100 * row['iou']:.1f}"


def test_classes_that_do_not_occur_have_no_scores(tmp_path, capsys):
    """As null in JSON, which knows no NaN."""
    save_checkpoint(tmp_path / "a.pt")
    for kind, pixels in (("images", np.zeros((32, 32, 3), np.uint8)), ("labels", np.zeros((32, 32), np.uint8))):
        (tmp_path / "val" / kind).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "val" / kind / "a.png")
    path = tmp_path / "scores.json"
    assert main(["eval", str(tmp_path / "a.pt"), str(tmp_path), "--json", str(path), "--device", "cpu"]) == 0
    classes = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))["classes"]
    assert [row["accuracy"] is None for row in classes] == [False, True, True, True]
    assert [row["boundary_f1"] for row in classes] == [None] * 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split()[1] == "-"
    assert lines[-1].endswith(", 1 image")


@pytest.mark.parametrize("layers", ["segext", "torch"])
def test_eval_takes_a_run_and_either_set_of_layers(layers, tmp_path, capsys):
    data = camvid(tmp_path / "data")
    save_checkpoint(tmp_path / "best.pt")
    assert main(["eval", str(tmp_path), str(data), "--split", "train", "--layers", layers, "--device", "cpu"]) == 0
    assert "6 images" in capsys.readouterr().out


# ---- predict -------------------------------------------------------------------------------------------------------


def test_predict(tmp_path):
    """A file, a folder, and an image in tiles."""
    model = save_checkpoint(tmp_path / "a.pt")
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(2):
        Image.fromarray(scene(seed, 50, 70)[0]).save(folder / f"{seed}.png")
    Image.fromarray(scene(2, 100, 200)[0]).convert("L").save(folder / "large.jpg")
    (folder / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    command = ["predict", str(tmp_path / "a.pt"), str(folder), "--out", str(out), "--device", "cpu"]
    assert main([*command, "--palette", "camvid", "--opacity", "0.25"]) == 0
    names = ("0", "1", "large")
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{n}{s}.png" for n in names for s in ("", "_overlay"))
    for name in names:
        with Image.open(next(folder.glob(f"{name}.*"))) as picture:
            picture = picture.convert("RGB")
        whole = model.predict(NORMALIZATIONS["torchvision"](as_tensor(picture)[None]))[0].numpy()
        with Image.open(out / f"{name}.png") as labels:
            assert labels.mode == "P"
            assert np.array_equal(np.asarray(labels), whole)
            colours = np.asarray(labels.convert("RGB"))
        assert np.array_equal(colours, np.array(CAMVID, np.uint8)[whole])
        with Image.open(out / f"{name}_overlay.png") as overlay:
            mixed = 0.75 * np.asarray(picture).astype(float) + 0.25 * colours
            assert np.abs(np.asarray(overlay) - mixed).max() <= 1

    cut = tmp_path / "cut"
    command = ["predict", str(tmp_path / "a.pt"), str(folder / "large.jpg"), "--out", str(cut), "--device", "cpu"]
    assert main([*command, "--tile", "96", "--overlap", "32"]) == 0
    with Image.open(cut / "large.png") as labels:
        assert labels.size == (200, 100)
        assert not np.array_equal(np.asarray(labels), whole)  # this network sees further than a tile's margin
        assert (np.asarray(labels) == whole).mean() > 0.3
        assert np.array_equal(np.asarray(labels.convert("RGB")), np.array(VOC, np.uint8)[np.asarray(labels)])


def test_predict_writes_over_nothing(tmp_path, capsys):
    save_checkpoint(tmp_path / "a.pt")
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(scene(0)[0]).save(folder / "0.png")
    before = (folder / "0.png").read_bytes()
    assert main(["predict", str(tmp_path / "a.pt"), str(folder), "--out", str(folder)]) == 2
    assert re.search("--out .*photos is the images' own folder: .* would be written over", one_line(capsys))
    Image.fromarray(scene(0)[0]).save(folder / "0.jpg")
    assert main(["predict", str(tmp_path / "a.pt"), str(folder), "--out", str(tmp_path / "out")]) == 2
    error = one_line(capsys)
    assert "would be written over" in error
    assert "own folder" not in error
    assert (folder / "0.png").read_bytes() == before
    assert not (tmp_path / "out").exists()


# ---- What cannot be used -------------------------------------------------------------------------------------------


def one_line(capsys):
    """What was said on stderr: one sentence."""
    error = capsys.readouterr().err
    assert error.startswith("segext: ")
    assert len(error.splitlines()) == 1
    assert "Traceback" not in error
    return error


def label_of(data, n=0):
    return sorted((data / "train" / "labels").iterdir())[n]


def image_of(data, n=0):
    return sorted((data / "train" / "images").iterdir())[n]


def write_label(path, label, mode=None):
    picture = Image.fromarray(label)
    (picture.convert(mode) if mode else picture).save(path)


def too_high(data):
    label = scene(0)[1]
    label[5, 7] = 9
    write_label(label_of(data), label)


def shortened(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DATA = {
    "no folder": (lambda data: data.rename(data.with_name("elsewhere")), "there is no folder"),
    "no layout": (lambda data: (data / "train").rename(data / "training"), "has no split 'train'"),
    "no labels": (lambda data: (data / "train" / "labels").rename(data / "labels"), "there is no folder"),
    "an empty split": (lambda data: [p.unlink() for p in (data / "val").rglob("*.png")], "holds no images"),
    "a missing label": (lambda data: label_of(data).unlink(), "1 image of 6 without a label"),
    "two images for a label": (
        lambda data: image_of(data).with_suffix(".jpg").write_bytes(image_of(data).read_bytes()),
        "frame_000.jpg and .*frame_000.png would share the label .*frame_000.png",
    ),
    "a missing image": (lambda data: image_of(data, 2).unlink(), "1 label in .* without an image: frame_002"),
    "a label of another size": (lambda data: write_label(label_of(data), scene(0, 40, 64)[1]), "64x40, but its image"),
    "a class too high": (
        too_high,
        "holds the class 9, but with 4 classes the highest is 3, .* --classes 10 .*, or --ignore 9",
    ),
    "a label in colours": (lambda data: write_label(label_of(data), scene(0)[1], "RGB"), "pixels of mode RGB"),
    "a label that is no image": (lambda data: label_of(data).write_text("0 0 0"), "is not an image of a format"),
    "a damaged label": (lambda data: shortened(label_of(data)), "cannot read .*frame_000"),
    "an image that is no image": (lambda data: image_of(data).write_bytes(b""), "is not an image of a format"),
    "a damaged image": (lambda data: shortened(image_of(data)), "cannot read .*frame_000"),
    "names of other classes": (lambda data: (data / "classes.txt").write_text("a\nb\n"), "names 2 classes"),
    "names of none": (lambda data: (data / "classes.txt").write_text("\n"), "names 0 classes"),
    "names of too many": (lambda data: (data / "classes.txt").write_text("a\n" * 257), "names 257 classes"),
}


@pytest.mark.parametrize("case", DATA)
@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_cannot_be_used(case, workers, tmp_path, capsys):
    """Training says so, and so does evaluation; nothing that could be taken for a result is left."""
    spoil, message = DATA[case]
    data = camvid(tmp_path / "data")
    spoil(data)
    save_checkpoint(tmp_path / "a.pt")
    common = ["--workers", str(workers), "--device", "cpu"]
    options = ["--model", "segnet", "--width", "0.0625", "--classes", "4", "--steps", "3", "--batch", "2"]
    assert main(["train", str(data), "--out", str(tmp_path / "out"), *options, *common]) == 2
    assert re.search(message, one_line(capsys))
    assert not (tmp_path / "out" / "best.pt").exists()
    assert (tmp_path / "out").exists() == (case == "a damaged image")  # which is found when it is first read
    if workers and case != "a damaged image":
        return
    split = "val" if "split" in case else "train"
    written = tmp_path / "scores.json"
    evaluation = ["eval", str(tmp_path / "a.pt"), str(data), "--split", split, "--json", str(written)]
    assert main([*evaluation, *common]) == 2
    error = one_line(capsys)
    assert re.search(message.partition(", .* --")[0], error)
    assert not re.search("--classes|--ignore", error)  # which it does not have
    assert not written.exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_a_labelled_pixel(split, tmp_path, capsys):
    data = camvid(tmp_path / "data")
    for path in (data / split / "labels").iterdir():
        write_label(path, np.full((48, 64), VOID, np.uint8))
    command = ["train", str(data), "--out", str(tmp_path / "out"), "--model", "segnet", "--width", "0.0625"]
    assert main([*command, "--steps", "1", "--device", "cpu"]) == 2
    assert f"no pixel of the split '{split}' has a class" in one_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [[], ["--classes", "1"]])
def test_one_class_leaves_nothing_to_learn(options, tmp_path, capsys):
    """Such as in masks of 0 and 255, of which 255 is ignored."""
    data = camvid(tmp_path / "data")
    for path in data.rglob("labels/*.png"):
        write_label(path, np.where(np.asarray(Image.open(path)) == 0, 0, 255).astype(np.uint8))
    command = ["train", str(data), "--out", str(tmp_path / "out"), "--model", "segnet", "--width", "0.0625"]
    assert main([*command, "--steps", "1", "--device", "cpu", *options]) == 2
    assert re.search("the labels hold one class, 0, .* is 255, .*, a class", one_line(capsys))
    assert not (tmp_path / "out").exists()


def test_there_are_as_many_classes_as_classes_txt_names(tmp_path, capsys):
    """Though the labels hold fewer; one that they hold and it does not name is refused before training."""
    data = camvid(tmp_path / "data")
    command = ["train", str(data), "--model", "segnet", "--width", "0.0625", "--steps", "1", "--device", "cpu"]
    (data / "classes.txt").write_text("ground\nred\ngreen\nyellow\nblue\n")
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert checkpoint.load(tmp_path / "out" / "best.pt")["arguments"]["num_classes"] == 5
    assert main(["eval", str(tmp_path / "out"), str(data), "--device", "cpu"]) == 0
    assert "blue" in capsys.readouterr().out
    (data / "classes.txt").write_text("ground\nred\ngreen\n")
    assert main([*command, "--out", str(tmp_path / "other")]) == 2
    assert re.search(
        "holds the class 3, but with 3 classes the highest is 2, .* as many in classes.txt", one_line(capsys)
    )
    assert main([*command, "--out", str(tmp_path / "other"), "--classes", "4"]) == 2
    assert "names 3 classes, but the network has 4" in one_line(capsys)
    (data / "classes.txt").write_text("ground\n")
    assert main([*command, "--out", str(tmp_path / "other"), "--classes", "4"]) == 2
    assert "names 1 class, but the network has 4" in one_line(capsys)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: (data / "ImageSets/Segmentation/train.txt").unlink(), "there is no list"),
        (lambda data: (data / "JPEGImages/2007_000001.jpg").unlink(), "1 image of train.txt not found"),
        (lambda data: (data / "SegmentationClass/2007_000001.png").unlink(), "1 image of 6 without a label"),
    ],
)
def test_incomplete_pascal_voc(spoil, message, tmp_path, capsys):
    data = voc(tmp_path / "data")
    spoil(data)
    assert main(["train", str(data), "--out", str(tmp_path / "out"), "--model", "segnet"]) == 2
    assert message in one_line(capsys)


TRAIN = {
    "no model": ([], "--model is missing"),
    "an argument it does not have": (["--model", "fcn8s", "--argument", "depth=3"], "--model fcn8s .*depth=3: .*depth"),
    "an argument of another type": (["--model", "fcn8s", "--argument", "dropout=much"], "--argument dropout=much: "),
    "layers too wide": (["--model", "fcn8s", "--width", "1e300"], r"--width 1e\+300: "),
    "classes as an argument": (["--model", "fcn8s", "--argument", "num_classes=5"], "num_classes: .* --classes"),
    "a width as an argument": (["--model", "fcn8s", "--argument", "width=0.125"], "width: .* --width"),
    "layers as an argument": (["--model", "fcn8s", "--argument", "layers=torch"], "layers: .* --layers"),
    "half on a CPU": (["--model", "fcn8s", "--precision", "float16"], "needs CUDA"),
    "a device that is not there": (["--model", "fcn8s", "--device", "cuda:7"], "torch sees no CUDA|invalid device"),
    "no device at all": (["--model", "fcn8s", "--device", "abacus"], "cpu, cuda or cuda:N"),
    "a device that is not for this": (["--model", "fcn8s", "--device", "meta"], "cpu, cuda or cuda:N"),
    "a folder without weights": (["--model", "fcn8s", "--weights", "."], "holds no checkpoint"),
    "weights that are missing": (["--model", "fcn8s", "--weights", "none.pt"], "there is no file none.pt"),
    "nothing to resume": (["--resume"], "there is no run to resume"),
    "scales the wrong way": (["--model", "fcn8s", "--scale", "2", "1"], "--scale: 2.0 is above 1.0"),
    "too many classes": (["--model", "fcn8s", "--classes", "300"], "no more than 256"),
    "layers to skip of no weights": (
        ["--model", "fcn8s", "--skip", "score_fr", "--skip", "upscore"],
        "--skip score_fr upscore has no effect without --weights",
    ),
    "drops of no schedule": (
        ["--model", "fcn8s", "--drop", "10000"],
        "--drop 10000 has no effect without --schedule step",
    ),
    "drops of another schedule": (
        ["--model", "fcn8s", "--drop", "5", "--schedule", "poly"],
        "--drop 5 has no effect without --schedule step",
    ),
    "momentum of Adam": (
        ["--model", "fcn8s", "--optimizer", "adam", "--momentum", "0.5"],
        "--momentum 0.5 has no effect with --optimizer adam",
    ),
    "epochs and steps": (
        ["--model", "fcn8s", "--steps", "3", "--epochs", "100"],
        "--epochs 100 has no effect beside --steps 3",
    ),
    "crops too large": (["--model", "fcn8s", "--crop", "9999999999", "99"], "--crop .* larger than memory allows"),
    "an image too small": (["--model", "deconvnet", "--width", "0.01"], "images of 48x64: .* from 193x193 on"),
    "too few for batch norm": (
        ["--model", "deconvnet", "--width", "0.01", "--batch", "1", "--crop", "224", "224"],
        "1 image of 224x224: Expected more than 1 value",
    ),
}


@pytest.mark.parametrize("case", TRAIN)
def test_training_that_cannot_start(case, tmp_path, capsys):
    options, message = TRAIN[case]
    if "--device" not in options:
        options = [*options, "--device", "cpu"]
    if "--width" not in options and "--resume" not in options:
        options = [*options, "--width", "0.0625"]
    if "cuda:7" in options and torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    data = camvid(tmp_path / "data")
    out = tmp_path / "deep" / "out"
    assert main(["train", str(data), "--out", str(out), *options]) == 2
    assert re.search(message, one_line(capsys))
    assert not (out / "best.pt").exists()
    started = case in ("crops too large", "an image too small", "too few for batch norm")  # found by the first step
    assert out.exists() == out.parent.exists() == started


def test_weights_whose_keys_are_no_strings(tmp_path, capsys):
    torch.save({0: torch.zeros(2)}, tmp_path / "odd.pt")
    options = ["--model", "fcn8s", "--width", "0.0625", "--weights", str(tmp_path / "odd.pt"), "--device", "cpu"]
    assert main(["train", str(camvid(tmp_path / "data")), "--out", str(tmp_path / "out"), *options]) == 2
    assert "has the key 0" in one_line(capsys)


def test_cuda_devices_are_counted(monkeypatch):
    """Also for torchrun's processes, each of which takes one of its own."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device(None, 1) == choose_device("cuda:1") == torch.device("cuda", 1)
    for name, rank in (("cuda:2", 0), ("cuda", 2), (None, 2)):
        with pytest.raises(UserError, match="cuda:2: torch sees no more than 2"):
            choose_device(name, rank)


def test_images_of_different_sizes_need_a_crop(tmp_path, capsys):
    data = camvid(tmp_path / "data")
    image, label = scene(0, 40, 40)
    Image.fromarray(image).save(image_of(data))
    Image.fromarray(label).save(label_of(data))
    options = ["--model", "segnet", "--width", "0.0625", "--batch", "6", "--steps", "1", "--device", "cpu"]
    assert main(["train", str(data), "--out", str(tmp_path / "out"), *options]) == 2
    assert "give --crop, or --batch 1" in one_line(capsys)


def test_runs_are_neither_replaced_nor_changed(tmp_path, capsys):
    data = camvid(tmp_path / "data")
    out = tmp_path / "out"
    options = ["--width", "0.0625", "--crop", "32", "32", "--batch", "2", "--device", "cpu", "--steps", "2"]
    command = ["train", str(data), "--out", str(out), "--device", "cpu"]
    assert main([*command, "--model", "segnet", *options]) == 0
    before = (out / "last.pt").read_bytes()
    capsys.readouterr()
    assert main([*command, "--model", "segnet", *options]) == 2
    assert "holds a run of segnet, at step 2: --resume goes on with it" in one_line(capsys)
    assert main([*command, "--resume", "--model", "fcn8s"]) == 2
    assert "--model fcn8s: " in one_line(capsys)
    assert main([*command, "--resume", "--lr", "0.5"]) == 2
    assert "was started with 0.01, and a resumed run keeps its settings" in one_line(capsys)
    assert main([*command, "--resume", "--epochs", "3"]) == 2
    assert "--epochs 3 has no effect beside --steps 2" in one_line(capsys)
    assert main([*command, "--resume", "--model", "segnet", *options]) == 0
    image_of(data).unlink()
    label_of(data).unlink()
    assert main([*command, "--resume"]) == 2
    assert "holds 5 images to train on, but the run had 6" in one_line(capsys)
    checkpoint.save(out / "last.pt", {k: v for k, v in checkpoint.load(out / "last.pt").items() if k != "run"})
    assert main([*command, "--resume"]) == 2
    assert "--weights starts a new run from it" in one_line(capsys)
    (out / "last.pt").write_bytes(before[:1000])
    assert main([*command, "--resume"]) == 2
    assert "damaged" in one_line(capsys)


USE = {
    "no file": (["none.pt"], "there is no file"),
    "no checkpoint": (["text.pt"], "damaged|more than tensors"),
    "an empty folder": (["empty"], "holds no checkpoint"),
    "another architecture": (["other.pt"], "does not fit its architecture fcn8s"),
    "an unknown architecture": (["unknown.pt"], "'unet', which is none of"),
    "tiles that do not align": (["a.pt", "--tile", "100"], "is not a multiple of 32"),
    "no device at all": (["a.pt", "--device", "abacus"], "cpu, cuda or cuda:N"),
    "a device that is not for this": (["a.pt", "--device", "mps"], "cpu, cuda or cuda:N"),
    "an image too small": (["deep.pt"], "photo.png: .*from 193x193 on"),
    "a damaged image": (["a.pt"], "cannot read .*photo.png"),
    "no image": (["a.pt"], "there is no image"),
    "no images": (["a.pt"], "there are no images"),
}


@pytest.mark.parametrize("case", USE)
def test_prediction_that_cannot_start(case, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "a.pt")
    for name, change in (("other", {"architecture": "fcn8s"}), ("unknown", {"architecture": "unet"})):
        save_checkpoint(tmp_path / f"{name}.pt", **change)
    deep = {"num_classes": CLASSES, "width": 1 / 64}
    weights = MODELS["deconvnet"](**deep).state_dict()
    save_checkpoint(tmp_path / "deep.pt", architecture="deconvnet", arguments=deep, model=weights)
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "empty").mkdir()
    source = tmp_path / "photo.png"
    Image.fromarray(scene(0)[0]).save(source)
    if case == "a damaged image":
        shortened(source)
    elif case == "no image":
        source.unlink()
    elif case == "no images":
        source = tmp_path / "empty"
    (path, *more), message = USE[case]
    out = tmp_path / "out"
    assert main(["predict", path, str(source), "--out", str(out), *more]) == 2
    assert re.search(message, one_line(capsys))
    assert not list(out.glob("*"))


# ---- What cannot be written ----------------------------------------------------------------------------------------


@contextmanager
def files_of_at_most(size):
    """A limit that fails as a full disk does: in a write, with an error that names no file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("size", "name"), [(10, "log.csv"), (100_000, "last.pt")])
def test_training_on_a_full_disk(size, name, tmp_path, capsys):
    data = camvid(tmp_path / "data")
    out = tmp_path / "out"
    command = ["train", str(data), "--out", str(out), "--model", "segnet", "--width", "0.0625", "--steps", "1"]
    with files_of_at_most(size):
        assert main([*command, "--device", "cpu"]) == 2
    assert f"cannot write {out / name}: File too large" in one_line(capsys)
    assert not list(out.glob("*.unfinished"))


def test_logs_are_closed_when_training_fails(tmp_path, monkeypatch):
    logs = []

    class Kept(Log):
        def __init__(self, *arguments, **more):
            super().__init__(*arguments, **more)
            logs.append(self)

        def flush(self):
            raise UserError("no")

    monkeypatch.setattr("segext.training.preparation.Log", Kept)
    data = camvid(tmp_path / "data")
    command = ["train", str(data), "--out", str(tmp_path / "out"), "--model", "segnet", "--width", "0.0625"]
    assert main([*command, "--steps", "1", "--device", "cpu"]) == 2
    (log,) = logs
    assert log._file.closed
    assert (tmp_path / "out" / "log.csv").read_text().count("\n") == 2  # the header and the step


def test_logging_on_a_full_disk(tmp_path):
    log = Log(tmp_path, 0, tensorboard=False)
    log.step(1, 0, 0.1, 2.5)
    with files_of_at_most(10), pytest.raises(UserError, match=r"cannot write the logs in .*: File too large"):
        log.flush()
    log.close()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"step\none\n", b"epoch,step\n" + b"0" * 200_000, b"epoch\n1\n"])
def test_a_damaged_log_is_named_and_kept(content, tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"log\.csv is damaged: move it away"):
        Log(tmp_path, 3, tensorboard=False)
    assert path.read_bytes() == content


def test_evaluating_and_predicting_on_a_full_disk(tmp_path, capsys):
    data = camvid(tmp_path / "data")
    save_checkpoint(tmp_path / "a.pt")
    out, scores = tmp_path / "out", tmp_path / "scores.json"
    with files_of_at_most(10):
        assert main(["eval", str(tmp_path / "a.pt"), str(data), "--json", str(scores), "--device", "cpu"]) == 2
        assert f"cannot write {scores}: File too large" in one_line(capsys)
        assert main(["predict", str(tmp_path / "a.pt"), str(image_of(data)), "--out", str(out)]) == 2
        assert f"cannot write {out / 'frame_000.png'}: File too large" in one_line(capsys)


@pytest.mark.parametrize(
    "options",
    [
        ["--batch", "0"],
        ["--lr", "-1"],
        ["--ignore", "256"],
        ["--argument", "depth"],
        ["--width", "nan"],
        ["--crop", "9"],
    ],
)
def test_values_that_make_no_sense(options, tmp_path, capsys):
    with pytest.raises(SystemExit) as found:
        main(["train", str(tmp_path), "--out", str(tmp_path), "--model", "segnet", *options])
    assert found.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert options[0] in message
    assert "is no " not in message


def test_the_version(capsys):
    with pytest.raises(SystemExit) as found:
        main(["--version"])
    assert found.value.code == 0
    assert capsys.readouterr().out == f"segext {segext.__version__}\n"


def test_every_option_is_described_with_its_default():
    (commands,) = (action.choices for action in parser()._actions if isinstance(action.choices, dict))
    settings = {field.name: field.default for field in fields(Settings)}
    described = 0
    for command in commands.values():
        for action in command._actions:
            assert len(action.help.split()) >= 2, action.dest
            default = settings.get(action.dest) if action.default == argparse.SUPPRESS else action.default
            if isinstance(default, bool) or default in (None, "", (), argparse.SUPPRESS):
                continue
            shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
            assert action.help.endswith(f" (default: {shown})"), action.dest
            described += 1
    assert described > 20


def test_the_height_of_a_crop_comes_first(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--crop HEIGHT WIDTH" in capsys.readouterr().out


def test_a_missing_extra_is_named(tmp_path):
    script = """
        import sys
        sys.modules["PIL"] = None
        import segext
        from segext.__main__ import main
        sys.exit(main(["predict", "a.pt", "b.png", "--out", "c"]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "segext: PIL is missing: pip install 'segext[train]'\n")
