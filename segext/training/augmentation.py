"""Random scaling, cropping and mirroring of an image together with its label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Augmentation:
    """The random choices made for each image.

    Args:
        crop: (height, width) of the result; None for the whole image at the chosen scale.
        scale: (smallest, largest) factor for the image's size, uniformly distributed.
        mirror: whether to mirror half of the images left to right.
        fill: colour beyond the edges of the image.
        ignore: label beyond the edges of the image.
    """

    crop: tuple[int, int] | None
    scale: tuple[float, float]
    mirror: bool
    fill: tuple[int, int, int]
    ignore: int

    def __call__(
        self, image: Image.Image, label: Image.Image, random: np.random.Generator
    ) -> tuple[Image.Image, Image.Image]:
        # Always four numbers in this order, so that one option does not affect the choices of another.
        scale, down, right, mirror = random.random(4)
        scale = self.scale[0] + scale * (self.scale[1] - self.scale[0])
        if self.crop is not None:
            height, width = self.crop
            # The part of the image, in its own pixels, that fills the crop. Past the edges where the image is smaller.
            part_h, part_w = height / scale, width / scale
            image, label = self._extended(image, label, part_h, part_w, down, right)
            top, left = down * (image.height - part_h), right * (image.width - part_w)
        else:
            height, width = max(1, round(image.height * scale)), max(1, round(image.width * scale))
            top, left, part_h, part_w = 0, 0, image.height, image.width
        if scale == 1:
            box = (round(left), round(top), round(left) + width, round(top) + height)
            image, label = image.crop(box), label.crop(box)
        else:
            box = (left, top, left + part_w, top + part_h)
            image = image.resize((width, height), Image.Resampling.BILINEAR, box)
            label = label.resize((width, height), Image.Resampling.NEAREST, box)
        if self.mirror and mirror < 0.5:
            image, label = (picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in (image, label))
        return image, label

    def _extended(self, image, label, part_h, part_w, down, right):
        """Image and label at a random place on a canvas that is no smaller than the part."""
        height, width = max(image.height, int(np.ceil(part_h))), max(image.width, int(np.ceil(part_w)))
        if (width, height) == image.size:
            return image, label
        place = round(right * (width - image.width)), round(down * (height - image.height))
        canvases = Image.new("RGB", (width, height), self.fill), Image.new("L", (width, height), self.ignore)
        for canvas, picture in zip(canvases, (image, label), strict=True):
            canvas.paste(picture, place)
        return canvases
