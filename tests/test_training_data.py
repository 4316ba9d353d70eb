"""What training reads: layouts, labels, augmentation and the order of images."""

import numpy as np
import pytest
import torch
from pictures import CLASSES, COLOURS, VOID, camvid, scene, voc
from PIL import Image

from segext.training.augmentation import Augmentation
from segext.training.census import census, count_classes
from segext.training.data import Draws, Segmentation, as_tensor, batches, collate, training_loader
from segext.training.errors import UserError
from segext.training.folders import class_names, find, images_in
from segext.training.normalization import NORMALIZATIONS
from segext.training.palette import VOC
from segext.training.pictures import read_label
from segext.training.randomness import Purpose, generator

LAYOUTS = {"camvid": camvid, "voc": voc}


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


# ---- Layouts and labels --------------------------------------------------------------------------------------------


def test_layouts_are_found(layout, tmp_path):
    data = layout(tmp_path / "data", train=3, val=2)
    for split, seeds in (("train", range(3)), ("val", (100, 101))):
        pairs = find(data, split)
        assert [pair.image.stem for pair in pairs] == [pair.label.stem for pair in pairs]
        for pair, seed in zip(pairs, seeds, strict=True):
            assert np.array_equal(np.asarray(read_label(pair.label)), scene(seed)[1])


def test_names_of_classes(tmp_path):
    assert class_names(camvid(tmp_path / "a"), 4) == ["0", "1", "2", "3"]
    data = voc(tmp_path / "b")
    assert class_names(data, 21)[15] == "person"
    assert class_names(data, 4) == ["0", "1", "2", "3"]
    (data / "classes.txt").write_text("ground\nred\ngreen\nyellow\n")
    assert class_names(data, 4) == ["ground", "red", "green", "yellow"]
    with pytest.raises(UserError, match="names 4 classes, but the network has 5"):
        class_names(data, 5)


def test_hidden_files_are_skipped(tmp_path):
    """Such as those that macOS leaves."""
    data = camvid(tmp_path)
    expected = find(data, "train")
    for folder, name in (("images", "._frame_000.png"), ("labels", "._frame_000.png"), ("labels", ".other.png")):
        (data / "train" / folder / name).write_bytes(b"no image")
    assert find(data, "train") == expected
    assert images_in(data / "train" / "images") == [pair.image for pair in expected]


def test_text_files_are_utf_8_with_or_without_a_byte_order_mark(tmp_path):
    data = voc(tmp_path)
    expected = find(data, "train")
    for path, read in (
        (data / "classes.txt", lambda: class_names(data, 2)),
        (data / "ImageSets" / "Segmentation" / "train.txt", lambda: find(data, "train")),
    ):
        text = "Gebäude\nStraße\n" if path.name == "classes.txt" else path.read_text()
        for encoding in ("utf-8", "utf-8-sig"):
            path.write_text(text, encoding=encoding)
            assert read() == (["Gebäude", "Straße"] if path.name == "classes.txt" else expected)
        path.write_text("Gebäude\n", encoding="utf-16")
        with pytest.raises(UserError, match=f"{path.name} is not a text in UTF-8: invalid start byte at byte 0"):
            read()


def test_palette_is_pascals():
    """The colours that the VOC development kit lists."""
    assert VOC[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert (VOC[15], VOC[20], VOC[255]) == ((192, 128, 128), (0, 64, 128), (224, 224, 192))


def test_classes_are_counted(layout, tmp_path):
    data = layout(tmp_path)
    found = census(find(data, "train"), VOID)
    assert count_classes([found]) == CLASSES
    assert found.pixels.sum() == 6 * 48 * (64 - 3)
    with pytest.raises(UserError, match="no pixel"):
        count_classes([])


def test_median_frequency_weights(tmp_path):
    """Class 0: 12 of 16 pixels. Class 1: 4 of the 8 of the only image that it is in. Class 2 is nowhere."""
    pairs = []
    for n, label in enumerate(([[0] * 4 + [1] * 4, [VOID] * 8], [[0] * 8, [VOID] * 8])):
        folder = tmp_path / "train"
        for kind, pixels in (("images", np.zeros((2, 8, 3), np.uint8)), ("labels", np.array(label, np.uint8))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{n}.png")
    pairs = find(tmp_path, "train")
    median = (12 / 16 + 4 / 8) / 2
    assert census(pairs, VOID, 3).median_frequency_weights(3) == pytest.approx([median / 0.75, median / 0.5, 0])


# ---- Augmentation --------------------------------------------------------------------------------------------------


def augmentation(**options):
    defaults = {"crop": None, "scale": (1.0, 1.0), "mirror": False, "fill": (9, 9, 9), "ignore": VOID}
    return Augmentation(**{**defaults, **options})


def marked(height=30, width=40):
    """An image and a label whose pixels all differ, and tell the same: the red channel is the label."""
    label = (np.arange(height * width).reshape(height, width) % 251).astype(np.uint8)
    return Image.fromarray(np.stack([label, label // 2, label // 3], -1)), Image.fromarray(label)


def draws(change, number=12):
    image, label = marked()
    for draw in range(number):
        yield [np.asarray(a) for a in change(image, label, generator(0, Purpose.AUGMENTATION, draw))]


@pytest.mark.parametrize("crop", [(16, 20), (30, 40), (50, 24), (64, 64)])
def test_crops_are_parts_of_image_and_label_alike(crop):
    places = set()
    for image, label in draws(augmentation(crop=crop, mirror=True)):
        assert image.shape == (*crop, 3)
        assert label.shape == crop
        inside = label != VOID
        assert np.array_equal(image[..., 0][inside], label[inside])
        assert (image[~inside] == 9).all()
        assert inside.sum() == min(crop[0], 30) * min(crop[1], 40)
        places.add(label.tobytes())
    assert len(places) > 1  # mirrored, if nothing else


def test_mirror():
    found = [label for _, label in draws(augmentation(mirror=True))]
    plain = np.asarray(marked()[1])
    mirrored = [np.array_equal(label, plain[:, ::-1]) for label in found]
    assert any(mirrored)
    assert all(np.array_equal(label, plain) for label, flipped in zip(found, mirrored, strict=True) if not flipped)


@pytest.mark.parametrize("crop", [None, (24, 24), (48, 48)])
def test_scaled_labels_are_classes_that_were_there_and_lie_where_the_image_says(crop):
    image, label = (Image.fromarray(a) for a in scene(3, void=False))
    for draw in range(8):
        random = generator(0, Purpose.AUGMENTATION, draw)
        scaled, classes = augmentation(crop=crop, scale=(0.5, 2.0))(image, label, random)
        assert scaled.size == classes.size == (crop if crop else scaled.size)
        classes, scaled = np.asarray(classes), np.asarray(scaled).astype(int)
        assert set(np.unique(classes)) <= {0, 1, 2, 3, VOID}
        inside = classes != VOID
        nearest = np.abs(scaled[inside][:, None] - COLOURS[None].astype(int)).sum(-1).argmin(-1)
        assert (nearest == classes[inside]).mean() > 0.9  # all but edges, which are blurred


def test_whole_images_take_the_drawn_scale():
    sizes = {label.shape for _, label in draws(augmentation(scale=(0.5, 2.0)))}
    assert len(sizes) > 4
    assert all(15 <= h <= 60 and 20 <= w <= 80 and abs(h / w - 0.75) < 0.04 for h, w in sizes)


# ---- Order ---------------------------------------------------------------------------------------------------------


def test_every_epoch_reads_every_image_once():
    seen = [draw for batch in Draws(7, 3, range(7), seed=1) for draw in batch]
    assert [draw for _, draw in seen] == list(range(21))
    epochs = [[image for image, _ in seen[n : n + 7]] for n in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    assert seen != [draw for batch in Draws(7, 3, range(7), seed=2) for draw in batch]


def test_draws_go_on_from_any_step():
    whole = list(Draws(5, 2, range(9), seed=0))
    assert list(Draws(5, 2, range(4, 9), seed=0)) == whole[4:]


def test_processes_share_a_batch():
    whole = list(Draws(5, 4, range(6), seed=0))
    shares = [list(Draws(5, 4, range(6), seed=0, rank=rank, processes=2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == whole


def test_samples_depend_on_the_draw_alone(tmp_path):
    """Not on the number of workers, nor on what was read before."""
    pairs = find(camvid(tmp_path), "train")
    data = Segmentation(pairs, augmentation(crop=(32, 32), scale=(0.8, 1.2), mirror=True), seed=3)
    order = Draws(len(pairs), 2, range(4), seed=3)
    alone = list(batches(training_loader(data, order, 0, pin=False)))
    with_workers = list(batches(training_loader(data, order, 2, pin=False)))
    for (images, labels), (again, labels_again) in zip(alone, with_workers, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, labels_again)
    assert not torch.equal(data[0, 0][0], data[0, 1][0])
    assert torch.equal(data[0][0], as_tensor(Image.open(pairs[0].image)))


def test_images_of_a_batch_have_one_size():
    samples = [(torch.zeros(3, h, 5, dtype=torch.uint8), torch.zeros(h, 5, dtype=torch.uint8)) for h in (4, 6)]
    with pytest.raises(UserError, match="4x5, 6x5"):
        list(batches([collate(samples)]))


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalization(name):
    normalize = NORMALIZATIONS[name]
    pixels = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    red, green, blue = [(p - m) / d for p, m, d in zip((0, 128, 255), normalize.mean, normalize.deviation, strict=True)]
    expected = [blue, green, red] if name == "caffe" else [red, green, blue]
    assert normalize(pixels).flatten().tolist() == pytest.approx(expected, rel=1e-6)
    filled = torch.tensor(normalize.fill, dtype=torch.uint8).view(1, 3, 1, 1)
    assert normalize(filled).abs().max() < 0.51
