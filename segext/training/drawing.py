"""Label maps as pictures."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

Colour = tuple[int, int, int]


def label_image(labels: Tensor, palette: Sequence[Colour]) -> Image.Image:
    """uint8 labels (H, W) as a palette image: its values are the classes, its colours the palette's."""
    image = Image.fromarray(labels.numpy())
    image.putpalette([value for colour in palette for value in colour])
    return image


def overlay(image: Image.Image, labels: Image.Image, opacity: float) -> Image.Image:
    """The image with the colours of its label image on it."""
    return Image.blend(image, labels.convert("RGB"), opacity)
