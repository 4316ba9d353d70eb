"""A small data set that is made up where there are no photographs: shapes on a background, laid out as CamVid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("background", "disc", "box", "triangle", "bar")
COLOURS = ((96, 104, 112), (190, 70, 60), (70, 150, 90), (80, 100, 190), (200, 170, 60))
HEIGHT, WIDTH = 224, 288


def write(folder: Path, *, train: int, val: int) -> None:
    """Writes so many images and labels of each split; the same on every call."""
    for split, count, first in (("train", train, 0), ("val", val, 10_000)):
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        for seed in range(first, first + count):
            image, label = scene(seed)
            image.save(folder / split / "images" / f"{seed:05}.png")
            label.save(folder / split / "labels" / f"{seed:05}.png")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")


def scene(seed: int) -> tuple[Image.Image, Image.Image]:
    """Shapes of all sizes, each in its class's colour with some of its own shade, and noise over all."""
    random = np.random.default_rng(seed)
    label = Image.new("L", (WIDTH, HEIGHT))
    image = Image.new("RGB", label.size, COLOURS[0])
    for _ in range(random.integers(6, 12)):
        number = int(random.integers(1, len(CLASSES)))
        shade = tuple(int(value) for value in np.array(COLOURS[number]) + random.integers(-25, 26, 3))
        centre, size = random.integers((0, 0), (WIDTH, HEIGHT)), int(random.integers(12, 60))
        for canvas, fill in ((image, shade), (label, number)):
            _draw(ImageDraw.Draw(canvas), CLASSES[number], centre, size, fill)
    noisy = np.asarray(image, np.int64) + random.integers(-20, 21, (HEIGHT, WIDTH, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), label


def _draw(draw: ImageDraw.ImageDraw, shape: str, centre: np.ndarray, size: int, fill: int | tuple[int, ...]) -> None:
    x, y = map(int, centre)
    if shape == "disc":
        draw.ellipse((x - size, y - size, x + size, y + size), fill)
    elif shape == "triangle":
        draw.polygon([(x, y - size), (x - size, y + size), (x + size, y + size)], fill)
    else:
        across = size if shape == "box" else 4
        draw.rectangle((x - across, y - size, x + across, y + size), fill)
