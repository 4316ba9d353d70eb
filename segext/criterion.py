"""The cross-entropy that follows a transposed convolution: its options, and whether segext's kernels take them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops
from .conv_arguments import autocasts
from .value_checks import LateCheck


@dataclass(frozen=True)
class Criterion:
    """The arguments of :func:`torch.nn.functional.cross_entropy` after scores and target."""

    class_weight: Tensor | None
    ignore_index: int
    reduction: str
    label_smoothing: float

    def of_scores(self, scores: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            scores,
            target,
            self.class_weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )

    def fits(self, dtype: torch.dtype, input: Tensor, weight: Tensor, target: Tensor) -> bool:
        """Whether segext's kernels take all this for scores of ``dtype``; else stock's, or its errors, are to speak."""
        if not isinstance(target, Tensor) or target.dtype != torch.int64 or target.device != input.device:
            return False
        if target.dim() != input.dim() - 1 or target.shape[:-2] != input.shape[:-3]:
            return False
        if self.reduction not in ("mean", "sum", "none") or not isinstance(self.ignore_index, int):
            return False
        if not isinstance(self.label_smoothing, (int, float)) or not self.label_smoothing <= 1:
            return False
        if self.class_weight is None:
            return True
        given = self.class_weight
        if not isinstance(given, Tensor) or given.requires_grad or given.device != input.device:
            return False
        # Autocast brings all but float64 to one type.
        fits = given.dtype in ops.FLOATS - {torch.float64} if autocasts(input) else given.dtype == dtype
        return fits and given.shape == (weight.shape[0] * weight.shape[1],)

    def check_of(self, target: Tensor, classes: int) -> LateCheck:
        """Raises stock's error for a target that is neither a class nor ignored.

        For CUDA, where the op does not wait for values and ignores such a target. On the CPU it raises an error itself.
        """

        def check(low: int, high: int) -> None:
            if low < 0 or high >= classes:
                raise IndexError(f"Target {low if low < 0 else high} is out of bounds.")

        return LateCheck(target, self.ignore_index, check)
