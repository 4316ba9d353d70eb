"""Small data sets that the tests of training make up: rectangles, whose colour tells their class, on a background."""

import numpy as np
from PIL import Image

COLOURS = np.array([(40, 60, 90), (200, 60, 50), (60, 190, 80), (220, 210, 90)], np.uint8)
CLASSES = len(COLOURS)
VOID = 255


def scene(seed, height=48, width=64, void=True):
    """An RGB image and the classes of its pixels, 0 to 3, with a void strip at the right unless told otherwise."""
    random = np.random.default_rng(seed)
    label = np.zeros((height, width), np.uint8)
    for number in (1, 2, 3):
        top, left = random.integers(0, height - 12), random.integers(0, width - 12)
        down, right = random.integers(8, 24, 2)
        label[top : top + down, left : left + right] = number
    noise = random.integers(-12, 13, (height, width, 3))
    image = np.clip(COLOURS[label] + noise, 0, 255).astype(np.uint8)
    if void:
        label[:, -3:] = VOID
    return image, label


def save(image, label, image_path, label_path, *, palette=False):
    for folder in (image_path.parent, label_path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(image_path)
    label = Image.fromarray(label)
    if palette:
        label.putpalette(list(range(256)) * 3)
    label.save(label_path)


def camvid(folder, train=6, val=2, **size):
    """A data set laid out as CamVid."""
    for split, seeds in (("train", range(train)), ("val", range(100, 100 + val))):
        for seed in seeds:
            name = f"frame_{seed:03}"
            save(
                *scene(seed, **size),
                folder / split / "images" / f"{name}.png",
                folder / split / "labels" / f"{name}.png",
            )
    return folder


def voc(folder, train=6, val=2, **size):
    """A data set laid out as PASCAL VOC: JPEG images, palette labels, and lists of names."""
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, seeds in (("train", range(train)), ("val", range(100, 100 + val))):
        names = [f"2007_{seed:06}" for seed in seeds]
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
        for seed, name in zip(seeds, names, strict=True):
            image, label = scene(seed, **size)
            save(
                image,
                label,
                folder / "JPEGImages" / f"{name}.jpg",
                folder / "SegmentationClass" / f"{name}.png",
                palette=True,
            )
    return folder
