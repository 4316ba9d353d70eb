"""The base class of all networks: class scores or their loss from ``forward``, a label map from ``predict``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SegmentationModel(nn.Module):
    """A network that scores every pixel of an image for every class.

    A subclass defines ``_scores``, the scores of a batch of images, and may define ``_labels`` and ``_loss`` where
    these take less than the scores.
    """

    def __init__(self, num_classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("in_channels", in_channels), ("width", width)):
            kind = "a number" if name == "width" else "an int"
            if not isinstance(value, Real):
                raise TypeError(f"{name} should be {kind}, but got {value!r}")
            if not 0 < value < math.inf:
                raise ValueError(f"{name} should be a finite number above 0, but got {value}")
            if name != "width" and not isinstance(value, Integral):
                raise TypeError(f"{name} should be {kind}, but got {value!r}")
        self.num_classes = num_classes
        self.in_channels = in_channels

    def forward(
        self,
        image: Tensor,
        target: Tensor | None = None,
        *,
        class_weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Raw scores (logits), or given a target, their cross-entropy.

        An FCN computes the loss by :func:`segext.functional.conv_transpose2d_cross_entropy`, without scores of the
        image's size.

        Args:
            image: (N, in_channels, H, W), normalised as the weights require.
            target: (N, H, W), the class of each pixel, int64.
            class_weight, ignore_index, reduction, label_smoothing: of the loss, as in
                :func:`torch.nn.functional.cross_entropy`, which calls the first, (num_classes,), ``weight``.

        Returns:
            (N, num_classes, H, W); with ``target`` the loss, one value, or (N, H, W) with ``reduction="none"``.

        Raises:
            ValueError: for an image of the wrong shape, or one too small for the architecture.
            RuntimeError, ValueError, IndexError: for a target that does not fit, as in
                :func:`torch.nn.functional.cross_entropy`.
        """
        if target is None:
            return self._scores(image)
        return self._loss(
            image,
            target,
            class_weight=class_weight,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )

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

    def _scores(self, image: Tensor) -> Tensor:
        raise NotImplementedError

    def _labels(self, image: Tensor) -> Tensor:
        return label_map(self._scores(image))

    def _loss(self, image: Tensor, target: Tensor, *, class_weight: Tensor | None, **options) -> Tensor:
        return F.cross_entropy(self._scores(image), target, class_weight, **options)

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
