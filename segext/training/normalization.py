"""Converts the pixels of an image to the network's input values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalization:
    """(pixel - mean) / deviation per channel, for pixels from 0 to 255.

    Args:
        mean, deviation: for red, green and blue.
        bgr: whether the network expects blue first.
    """

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    bgr: bool

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 RGB (N, 3, H, W) -> float32 of the same shape, channels_last."""
        images = images.to(torch.float32, memory_format=torch.channels_last)
        shape = (1, 3, 1, 1)
        mean = torch.tensor(self.mean, device=images.device).view(shape)
        deviation = torch.tensor(self.deviation, device=images.device).view(shape)
        images = (images - mean) / deviation
        return images.flip(1) if self.bgr else images

    @property
    def fill(self) -> tuple[int, int, int]:
        """The colour that becomes (nearly) zero."""
        return tuple(round(value) for value in self.mean)


# By the weights that need them: torchvision's, and those of the Caffe networks (FCN, DeconvNet).
NORMALIZATIONS = {
    "torchvision": Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), bgr=False),
    "caffe": Normalization((122.67892, 116.66877, 104.00699), (1.0, 1.0, 1.0), bgr=True),
}
