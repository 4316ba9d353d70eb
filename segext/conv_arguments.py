"""Arguments of convolutions as segext's kernels need them: pairs, sizes and types, or None where stock is to speak."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import ops

IntPair = int | Sequence[int]


def plain_window(input, weight, bias, stride, padding, output_padding, dilation) -> tuple[tuple[int, int], ...] | None:
    """Stride, padding, output_padding and dilation as pairs; None where stock's kernels, or errors, are to speak."""
    tensors = [input, weight] if bias is None else [input, weight, bias]
    if not all(isinstance(x, Tensor) for x in tensors) or torch.jit.is_tracing():
        return None
    if input.device.type not in ops.DEVICES or any(x.device != input.device for x in tensors):
        return None
    if input.dim() not in (3, 4) or weight.dim() != 4 or 0 in input.shape[-3:] or 0 in weight.shape:
        return None
    if input.dtype not in ops.FLOATS or not (autocasts(input) or all(x.dtype == input.dtype for x in tensors)):
        return None
    pairs = [pair(value) for value in (stride, padding, output_padding, dilation)]
    if None in pairs:
        return None
    for s, p, more, d in zip(*pairs, strict=True):
        if s < 1 or p < 0 or d < 1 or more < 0 or more >= max(s, d):
            return None
    return tuple(pairs)


def pair(value: IntPair) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, Sequence) and len(value) in (1, 2) and all(isinstance(v, int) for v in value):
        return value[0], value[-1]
    return None


def autocasts(input: Tensor) -> bool:
    return not input.is_meta and torch.is_autocast_enabled(input.device.type) and input.dtype != torch.float64


def compute_dtype(input: Tensor) -> torch.dtype:
    """Stock casts transposed convolutions to the lower precision under autocast."""
    return torch.get_autocast_dtype(input.device.type) if autocasts(input) else input.dtype


def cast(dtype: torch.dtype, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(x if x is None or x.dtype == dtype else x.to(dtype) for x in tensors)


def transposed_size(input, weight, stride, padding, output_padding, dilation) -> tuple[int, int]:
    axes = zip(input.shape[-2:], weight.shape[-2:], stride, padding, output_padding, dilation, strict=True)
    return tuple((n - 1) * s - 2 * p + d * (k - 1) + more + 1 for n, k, s, p, more, d in axes)
