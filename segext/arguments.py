"""How functions read their arguments: an int or a pair of ints, a pool's window, and a map's format and size.

On small maps call overhead dominates, so pairs of plain ints take a path of their own through each function.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

IntPair = int | Sequence[int]


def plain_int(value) -> int:
    """The int for an int-like value, such as NumPy's; symbols of a trace stay symbols."""
    return value if isinstance(value, (int, torch.SymInt)) else operator.index(value)


def pair_or_none(value: IntPair) -> tuple[int, int] | None:
    """One or two ints as a pair; None for anything else. The path that calls with plain ints take."""
    if type(value) is int:
        return value, value
    if type(value) is tuple and len(value) == 2 and type(value[0]) is type(value[1]) is int:
        return value
    if isinstance(value, int):
        return value, value
    if isinstance(value, Sequence) and len(value) in (1, 2) and all(isinstance(v, int) for v in value):
        return value[0], value[-1]
    return None


def plain_pair(name: str, value) -> tuple[int, int]:
    """An argument of one or two int-like values as a pair of plain ints.

    Raises:
        TypeError: for anything but ints.
        ValueError: for a number of them other than one or two.
    """
    if isinstance(value, str) or not (hasattr(type(value), "__index__") or isinstance(value, Sequence)):
        raise TypeError(f"{name} must be an int or a tuple of two ints, but got {value!r}")
    values = value if isinstance(value, Sequence) else (value,)
    if len(values) not in (1, 2):
        raise ValueError(f"{name} must either be a single int, or a tuple of two ints, but got {value!r}")
    return plain_int(values[0]), plain_int(values[-1])


def checked_pair(name: str, value: IntPair) -> tuple[int, int]:
    """An argument that stock functions do not have, as a pair; symbolic sizes stay symbolic.

    Raises:
        TypeError: for anything but ints.
        ValueError: for a number of ints other than one or two.
    """
    pair = pair_or_none(value)
    if pair is not None and (isinstance(value, int) or len(value) == 2):
        return pair
    values = value if isinstance(value, Sequence) else (value, value)
    expected = "should be an int or a tuple of two ints"
    try:
        checked = tuple(map(_traced_int, values))
    except TypeError:
        raise TypeError(f"{name} {expected}, but got {value!r}") from None
    if len(checked) != 2:
        raise ValueError(f"{name} {expected}, but got {value!r}")
    return checked


def _traced_int(value) -> int:
    # While torch.jit traces, sizes are tensors.
    return value if isinstance(value, Tensor) and torch._C._is_tracing() else plain_int(value)


def window_of(kernel_size, stride, padding, dilation) -> tuple[tuple[int, int], ...]:
    """The four arguments of a pool's window as pairs of plain ints; an omitted stride is the kernel size."""
    kernel_size = pair_or_none(kernel_size) or plain_pair("kernel_size", kernel_size)
    if stride is None:
        stride = kernel_size
    elif (pair := pair_or_none(stride)) is not None:
        stride = pair
    else:
        stride = kernel_size if isinstance(stride, Sequence) and len(stride) == 0 else plain_pair("stride", stride)
    padding = pair_or_none(padding) or plain_pair("padding", padding)
    return kernel_size, stride, padding, pair_or_none(dilation) or plain_pair("dilation", dilation)


def prefers_channels_last(x: Tensor) -> bool:
    """True for a (N, C, H, W) tensor with channels_last strides, dense or not, by the rule that stock's ops follow."""
    if x.dim() != 4 or torch._C._are_functorch_transforms_active():
        return False  # a transform may hide the strides
    strides = x.stride()
    if strides[1] > strides[3] or strides[1] == 0:
        return False
    least, sizes = 0, x.shape
    for dim in (1, 3, 2, 0):
        if sizes[dim] == 0 or strides[dim] < least or (dim == 0 and least == strides[1]):
            return False
        least = strides[dim] * max(sizes[dim], 1)
    return True


def spatial_size(x: Tensor) -> tuple[int, int]:
    """Height and width of a map, as a plain tuple, which the dispatcher reads faster than a torch.Size."""
    return tuple(x.shape[-2:])
