"""The base class of all networks: class scores from ``forward``, a label map from ``predict``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class SegmentationModel(nn.Module):
    """A network that scores every pixel of an image for every class.

    ``forward`` takes images (N, in_channels, H, W) and returns raw scores (N, num_classes, H, W).
    """

    def __init__(self, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("in_channels", in_channels), ("width", width)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} should be a finite number above 0, but got {value}")
        self.num_classes = num_classes
        self.in_channels = in_channels

    def predict(self, image: Tensor) -> Tensor:
        """The label map of an image: the class with the largest score at each pixel; ties go to the lowest class.

        Runs in evaluation mode without gradients, and leaves the mode of every module as it was.

        Args:
            image: (N, in_channels, H, W) or (in_channels, H, W), of the weights' dtype, or under autocast any floats of
                up to 32 bits; normalised as in training. Preprocessing is the caller's task, since it depends on the
                weights, not on the architecture.

        Returns:
            (N, H, W) or (H, W); uint8 for up to 256 classes, else int64.

        Raises:
            ValueError: for an image of the wrong shape, or one too small for the architecture.
            TypeError: for an image of another dtype.
        """
        expected = next(self.parameters()).dtype
        cast = (torch.float32, torch.float16, torch.bfloat16) if torch.is_autocast_enabled(image.device.type) else ()
        if image.dtype not in (expected, *cast):
            raise TypeError(f"image should be of dtype {expected}, as the weights are, but got {image.dtype}")
        one = image.dim() == 3
        with torch.no_grad(), evaluating(self):
            labels = self._labels(image[None] if one else image)
        return labels[0] if one else labels

    def _labels(self, image: Tensor) -> Tensor:
        raise NotImplementedError

    def _check(self, image: Tensor) -> None:
        """Raises ValueError for anything but a batch of images."""
        if image.dim() != 4 or image.shape[1] != self.in_channels or 0 in image.shape[-2:]:
            raise ValueError(f"image should be of shape (N, {self.in_channels}, H, W), but got {tuple(image.shape)}")


def label_map(scores: Tensor) -> Tensor:
    """The class of the largest score per pixel, (N, K, H, W) to (N, H, W): uint8 for up to 256 classes, else int64."""
    labels = scores.argmax(1)
    return labels.to(torch.uint8) if scores.shape[1] <= 256 else labels


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for all of ``model``; at the end, the mode of each module is restored."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
