"""Checks that fake kernels share, in the words of ``csrc/ops/checks.cpp``, ``pooling.cpp`` and ``upsampling.cpp``.

Upper bounds on sizes are checked only of plain ints: a graph for sizes that vary would keep the comparison.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import ops
from .geometry import code_bits, code_bytes

_MOST = 2**31 - 1  # of whatever the kernels keep in 32 bits


class UnsupportedType(Exception):
    """Of a tensor, for which an op has no kernels. The message names the op, which checks do not know."""


def text(sizes: Sequence[int]) -> str:
    return str(list(sizes))


def has_shape(tensor: Tensor, shape: Sequence[int]) -> bool:
    return tensor.dim() == len(shape) and all(a == b for a, b in zip(tensor.shape, shape, strict=True))


def check_type(tensor: Tensor, integers: bool = False) -> None:
    if tensor.dtype not in (ops.FLOATS | ops.INTEGERS if integers else ops.FLOATS):
        raise UnsupportedType(tensor.dtype)


def check_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    torch._check(
        tensor.device == other.device,
        lambda: f"{name} and {other_name} should be on the same device, but got {tensor.device} and {other.device}",
    )


def check_dtype(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    torch._check(
        tensor.dtype == other.dtype,
        lambda: f"{name} and {other_name} should have the same dtype, but got {tensor.dtype} and {other.dtype}",
    )


def check_like(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    check_device(name, tensor, other_name, other)
    check_dtype(name, tensor, other_name, other)


def check_int64(name: str, tensor: Tensor) -> None:
    torch._check(
        tensor.dtype == torch.int64, lambda: f"elements in {name} should be type int64 but got: {tensor.dtype}"
    )


def _window_pair(name: str, values: Sequence[int], least: int) -> tuple[int, int]:
    torch._check(
        len(values) in (1, 2),
        lambda: f"{name} must either be a single int, or a tuple of two ints, but got {text(values)}",
    )
    pair = values[0], values[-1]
    bound = "should be greater than zero" if least else "should not be negative"
    torch._check(min(pair) >= least, lambda: f"{name} {bound}, but got {text(values)}")
    torch._check(max(pair) <= _MOST, lambda: f"{name} is out of range: {text(values)}")
    return pair


def checked_window(kernel_size, stride, padding, dilation) -> tuple[tuple[int, int], ...]:
    k = _window_pair("kernel_size", kernel_size, 1)
    s = _window_pair("stride", stride, 1) if len(stride) else k
    p, d = _window_pair("padding", padding, 0), _window_pair("dilation", dilation, 1)
    torch._check(
        all(2 * pad <= kernel for pad, kernel in zip(p, k, strict=True)),
        lambda: f"padding should be at most half of kernel_size, but got padding={text(p)} and kernel_size={text(k)}",
    )
    torch._check(math.prod(k) <= _MOST, lambda: f"kernel_size is out of range: {text(k)}")
    return k, s, p, d


def check_map(name: str, x: Tensor) -> None:
    torch._check(
        x.dim() in (3, 4) and all(size != 0 for size in x.shape[-3:]),
        lambda: (
            f"Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for {name}, but got: {text(x.shape)}"
        ),
    )


def check_spatial_size(name: str, size: Sequence[int]) -> None:
    torch._check(
        len(size) == 2 and size[0] >= 0 and size[1] >= 0,
        lambda: f"{name} must be two sizes (height, width), none negative, but got {text(size)}",
    )


def check_format(size: Sequence[int], channels_last: bool) -> None:
    torch._check(
        len(size) == 4 or not channels_last,
        lambda: f"channels_last needs a batch, but got a map of shape {text(size)}",
    )


def sample_bytes(size: Sequence[int], kernel_size: Sequence[int]) -> int:
    """Bytes of the codes of one sample of a pooled map of this size."""
    return code_bytes(math.prod(size[-3:]), code_bits(kernel_size[0] * kernel_size[-1]))


def check_codes(codes: Tensor, size: Sequence[int], kernel_size: Sequence[int]) -> None:
    """``size``: of the pooled map."""
    torch._check(codes.dtype == torch.uint8, lambda: f"codes should be uint8, but got {codes.dtype}")
    expected = (*size[:-3], sample_bytes(size, kernel_size))
    pooled = size if len(size) == 4 else (1, *size)
    torch._check(
        has_shape(codes, expected),
        lambda: (
            f"codes of a pooled map of {'x'.join(map(str, pooled))} and a {kernel_size[0]}x{kernel_size[-1]} window "
            f"should have shape {text(expected)}, but got {text(codes.shape)}"
        ),
    )


def check_two(name: str, values: Sequence[int], least: int, most: int = _MOST) -> None:
    torch._check(
        len(values) == 2 and all(value >= least and (not isinstance(value, int) or value <= most) for value in values),
        lambda: f"{name} should be two values from {least} to {most}, but got {text(values)}",
    )


def check_kernel(input: Tensor, weight: Tensor, dilation: Sequence[int]) -> None:
    torch._check(
        input.dim() == 4 and weight.dim() == 4,
        lambda: f"expected 4D input and weight, but got {text(input.shape)} and {text(weight.shape)}",
    )
    sizes, kernel = input.shape, weight.shape
    torch._check(
        kernel[0] == sizes[1],
        lambda: (
            f"weight of size {text(kernel)} expected input to have {kernel[0]} channels, but got {sizes[1]} channels "
            "instead"
        ),
    )
    torch._check(
        all(size != 0 for size in (*sizes[1:], *kernel[1:])),
        lambda: f"input {text(sizes)} and weight {text(kernel)} should have no empty dimension but the batch",
    )
    torch._check(
        not any(isinstance(size, int) and size > _MOST for size in (*sizes[1:], *kernel[1:])),
        lambda: f"input {text(sizes)} and weight {text(kernel)} should have no dimension above {_MOST} but the batch",
    )
    reaches = ((side - 1) * d for side, d in zip(kernel[2:], dilation, strict=True) if isinstance(side, int))
    torch._check(
        all(reach <= ops.MOST_REACH for reach in reaches),
        lambda: (
            f"(kernel size - 1) * dilation should be at most {ops.MOST_REACH}, but weight is of size {text(kernel)} "
            f"and dilation {text(dilation)}"
        ),
    )
    check_like("weight", weight, "input", input)


def check_bias(bias: Tensor | None, input: Tensor, outputs: int) -> None:
    if bias is not None:
        check_like("bias", bias, "input", input)
        torch._check(
            has_shape(bias, (outputs,)),
            lambda: f"bias should be of size {text([outputs])}, but is of {text(bias.shape)}",
        )
