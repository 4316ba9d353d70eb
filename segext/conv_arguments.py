"""Arguments of convolutions as segext's kernels take them: windows, sizes and types, or None to fall back to stock."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from . import ops
from .arguments import pair_or_none


def window_or_none(
    input, weight, bias, stride, padding, output_padding, dilation
) -> tuple[tuple[int, int], ...] | None:
    """Stride, padding, output_padding and dilation as pairs; None if stock should run the call or raise the error."""
    if not fit_together(input, weight, bias, ops.DEVICES) or input.dim() not in (3, 4) or weight.dim() != 4:
        return None
    if 0 in input.shape[-3:] or 0 in weight.shape or torch.jit.is_tracing():
        return None
    strides, paddings, more, dilations = window = tuple(map(pair_or_none, (stride, padding, output_padding, dilation)))
    if None in window or min(strides) < 1 or min(dilations) < 1 or min(paddings) < 0 or min(more) < 0:
        return None
    # Not a loop: on small maps call overhead dominates.
    fits = more == (0, 0) or (more[0] < max(strides[0], dilations[0]) and more[1] < max(strides[1], dilations[1]))
    return window if fits else None


def fit_together(input, weight, bias, devices: Collection[str]) -> bool:
    """Whether these are strided float tensors on one of ``devices``, of the same type or cast to one by autocast."""
    if not isinstance(input, Tensor) or not isinstance(weight, Tensor):
        return False
    if input.layout is not torch.strided or weight.layout is not torch.strided:
        return False
    device, dtype = input.device, input.dtype
    if device.type not in devices or weight.device != device or dtype not in ops.FLOATS:
        return False
    same = weight.dtype == dtype
    if bias is not None:
        if not isinstance(bias, Tensor) or bias.device != device:
            return False
        same = same and bias.dtype == dtype
    return same or autocasts(input)


def autocasts(input: Tensor) -> bool:
    return not input.is_meta and torch.is_autocast_enabled(ops.device_type(input)) and input.dtype != torch.float64


def compute_dtype(input: Tensor) -> torch.dtype:
    """Stock casts transposed convolutions to the lower precision under autocast."""
    return torch.get_autocast_dtype(ops.device_type(input)) if autocasts(input) else input.dtype


def cast(dtype: torch.dtype, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(x if x is None or x.dtype == dtype else x.to(dtype) for x in tensors)


def transposed_size(input, weight, stride, padding, output_padding, dilation) -> tuple[int, int]:
    (height, width), (kernel_h, kernel_w) = input.shape[-2:], weight.shape[-2:]
    return (
        (height - 1) * stride[0] - 2 * padding[0] + dilation[0] * (kernel_h - 1) + output_padding[0] + 1,
        (width - 1) * stride[1] - 2 * padding[1] + dilation[1] * (kernel_w - 1) + output_padding[1] + 1,
    )
