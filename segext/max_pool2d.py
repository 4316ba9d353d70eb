"""Max-pooling, plain or after a ReLU, that keeps packed switches for the backward pass."""

from __future__ import annotations

import operator
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops
from .arguments import IntPair, plain_int, prefers_channels_last, spatial_size, window_of
from .overriding import overridable
from .switches import Switches

_POOLABLE = ops.FLOATS | ops.INTEGERS


@overload
def max_pool2d(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> Tensor: ...
@overload
def max_pool2d(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
) -> tuple[Tensor, Switches]: ...
@overload
def max_pool2d(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Switches]: ...
@overridable
def max_pool2d(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Switches]:
    """Max-pooling that keeps only packed switches for the backward pass, not its input.

    Values, gradients, memory format and errors are those of :func:`torch.nn.functional.max_pool2d`, but half types sum
    the gradients of windows that overlap in float32.

    Args:
        input: (N, C, H, W) or (C, H, W); floats or integers.
        kernel_size, stride, padding, dilation: the window, in pixels; one int or (vertical, horizontal).
        ceil_mode: whether a window that starts inside the map may reach past it.
        return_indices: return (output, switches) rather than only the output.

    Returns:
        The pooled map, (N, C, H', W') or (C, H', W'), and, with ``return_indices``, its :class:`segext.Switches`.

    Raises:
        RuntimeError: for a wrong rank, an empty channel or spatial dimension, or a window that does not fit.
        NotImplementedError: for bool, complex numbers and unsigned integers of more than 8 bits.
        TypeError: for arguments of the wrong type.
    """
    return _pool(ops.max_pool2d, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


@overload
def relu_max_pool2d(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> Tensor: ...
@overload
def relu_max_pool2d(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
) -> tuple[Tensor, Switches]: ...
@overload
def relu_max_pool2d(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Switches]: ...
@overridable
def relu_max_pool2d(
    input: Tensor,
    kernel_size: IntPair,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Switches]:
    """``max_pool2d(relu(input), ...)`` in one pass that does not store the ReLU's output.

    Bitwise equal to :func:`torch.nn.functional.relu` followed by :func:`max_pool2d`, forward and backward. Keeps only
    the switches and its own output, which must therefore not be modified in place before the backward pass. Arguments,
    results and errors are those of :func:`max_pool2d`.
    """
    return _pool(ops.relu_max_pool2d, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _pool(op, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices):
    if not isinstance(input, Tensor):
        raise TypeError(f"{op.__name__}(): argument 'input' must be Tensor, not {type(input).__name__}")
    if ops.device_type(input) not in ops.DEVICES:
        return _stock_pool(op, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    if input.dtype not in _POOLABLE:
        if input.is_quantized:
            return _stock_pool(op, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
        raise NotImplementedError(f"\"{op.__name__}\" not implemented for '{input.dtype}'")
    if type(ceil_mode) is not bool:
        raise TypeError(f"{op.__name__}(): argument 'ceil_mode' must be bool, not {type(ceil_mode).__name__}")
    if kernel_size is True or stride is True or padding is True or dilation is True:  # the dispatcher takes it for 1
        _plain_arguments(op.__name__, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation)
    channels_last = prefers_channels_last(input)
    if torch.compiler.is_compiling():
        kernel_size, stride, padding, dilation = map(_constants, (kernel_size, stride, padding, dilation))
    try:
        # Not (), which the op takes for the same: AOTInductor's packages replace an empty list by None.
        strides = kernel_size if stride is None else stride
        output, codes = op(input, kernel_size, strides, padding, dilation, ceil_mode, channels_last)
    except RuntimeError:
        window = _plain_arguments(
            op.__name__, kernel_size=kernel_size, stride=stride, padding=padding, dilation=dilation
        )
        if input.layout is not torch.strided:
            return _stock_pool(op, input, *window, ceil_mode, return_indices)
        if all(map(_has_plain_ints, (kernel_size, stride, padding, dilation))):
            raise
        return _pool(op, input, *window, ceil_mode, return_indices)
    if not return_indices:
        return output
    window = window_of(kernel_size, stride, padding, dilation)
    return output, Switches(codes, output.shape, spatial_size(input), *window, channels_last)


def _stock_pool(op, input, *arguments):
    return F.max_pool2d(input if op is ops.max_pool2d else F.relu(input), *arguments)


def _constants(value):
    """Ints in place of the symbols that a compiler makes of them: a graph has one window."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_constants, value))
    return operator.index(value) if isinstance(value, (int, torch.SymInt)) else value


def _has_plain_ints(value) -> bool:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return all(v is None or isinstance(v, (int, torch.SymInt)) for v in values)


def _plain_arguments(op: str, **arguments) -> tuple:
    """The arguments with plain ints in place of int-like values. Raises the TypeError that the dispatcher reports as a
    RuntimeError, naming the argument."""

    def plain(name: str, value):
        if value is None and name == "stride":
            return None
        if type(value) is bool:
            raise TypeError(f"{op}(): argument '{name}' must be tuple of ints, not bool")
        try:
            if hasattr(type(value), "__index__"):
                return plain_int(value)
            return tuple(map(plain_int, value))
        except TypeError:
            raise TypeError(f"{op}(): argument '{name}' must be int or tuple of ints, not {value!r}") from None

    return tuple(plain(*argument) for argument in arguments.items())
