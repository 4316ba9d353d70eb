"""Tells which kernels a call uses, and why."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from . import ops
from .conv_arguments import compute_dtype
from .conv_routes import Call, Depthwise, fastest_call, supported_call
from .conv_transpose2d import (
    conv_transpose2d,
    conv_transpose2d_add,
    conv_transpose2d_argmax,
    conv_transpose2d_cross_entropy,
    fuses_argmax,
    fuses_cross_entropy,
    fuses_sum,
)
from .criterion import Criterion
from .unpool_conv2d import (
    MOST_CHANNELS,
    beats_stock,
    check_switches,
    kernel_padding,
    multiplies_tf32,
    multiplies_tiles,
    multiplies_what_counts,
    unpool_conv2d,
    unpool_conv_transpose2d,
)


def explain(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> str:
    """Which kernels ``function(*arguments, **keywords)`` uses, and why, in one line. Nothing is computed.

    Args:
        function: one of the convolutions of :mod:`segext.functional`: ``conv_transpose2d``, ``conv_transpose2d_add``,
            ``conv_transpose2d_argmax``, ``conv_transpose2d_cross_entropy``, ``unpool_conv_transpose2d``,
            ``unpool_conv2d``.

    Raises:
        TypeError: for another function; for arguments that it does not have; for an ``input`` or ``weight`` that is not
            a tensor, or switches that are not :class:`Switches`.
    """
    tell = _TOLD.get(function) if callable(function) else None
    if tell is None:
        names = ", ".join(told.__name__ for told in _TOLD)
        raise TypeError(f"explain(): function should be one of segext.functional's {names}, but got {function!r}")
    bound = inspect.signature(function).bind(*arguments, **keywords)
    bound.apply_defaults()
    call = bound.arguments
    for name in ("input", "weight"):
        if not isinstance(call[name], Tensor):
            raise TypeError(f"{function.__name__}(): argument '{name}' must be Tensor, not {type(call[name]).__name__}")
    return tell(call)


def _tell_convolution(call: dict[str, Any]) -> str:
    if _supported(call) is not None:
        faster = fastest_call(*_convolution(call))
        return faster.why if faster else "torch: measured to be faster for this stride, size, type and memory format"
    if call["input"].device.type not in ops.DEVICES:
        return f"torch: segext has no kernels for {call['input'].device.type}"
    if call["groups"] not in (1, call["weight"].shape[0]):
        return "torch: channels mix in groups"
    return "torch: segext has no kernels for these arguments"


def _tell_sum(call: dict[str, Any]) -> str:
    fuses = fuses_sum(_supported(call), call["input"], call["weight"], call["addend"])
    return _tell_fusion(call, fuses, "crop and sum")


def _tell_argmax(call: dict[str, Any]) -> str:
    return _tell_fusion(call, fuses_argmax(_supported(call), call["weight"]), "crop and argmax")


def _tell_cross_entropy(call: dict[str, Any]) -> str:
    criterion = Criterion(*(call[n] for n in ("class_weight", "ignore_index", "reduction", "label_smoothing")))
    fuses = fuses_cross_entropy(_supported(call), criterion, call["input"], call["weight"], call["target"])
    return _tell_fusion(call, fuses, "crop and cross_entropy")


def _tell_fusion(call: dict[str, Any], fuses: bool, after: str) -> str:
    if fuses:
        return f"{Depthwise.why}; fused with {after}"
    return f"conv_transpose2d, then {after}: the convolution is {_tell_convolution(call)}"


def _supported(call: dict[str, Any]) -> Call | None:
    return supported_call(*_convolution(call))


def _convolution(call: dict[str, Any]) -> tuple:
    names = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
    return tuple(call[name] for name in names)


def _tell_unpool_conv_transpose2d(call: dict[str, Any]) -> str:
    return _tell_unpooling(call, unpool_conv_transpose2d.__name__, "conv_transpose2d", transposed=True)


def _tell_unpool_conv2d(call: dict[str, Any]) -> str:
    return _tell_unpooling(call, unpool_conv2d.__name__, "conv2d", transposed=False)


def _tell_unpooling(call: dict[str, Any], name: str, convolution: str, transposed: bool) -> str:
    check_switches(name, call["switches"])
    input, weight = call["input"], call["weight"]
    names = ("input", "switches", "weight", "bias", "stride", "padding", "groups", "dilation")
    arguments = {name: call[name] for name in names} | {"output_padding": call.get("output_padding", 0)}
    fits = kernel_padding(**arguments, transposed=transposed) is not None
    if not fits or not beats_stock(input, weight):
        return f"segext's unpooling, then {convolution}: {_why_composed(input, fits)}"
    if multiplies_what_counts(input):
        return "segext: at most one of four pixels has a value, so a quarter of the products is computed"
    return "segext: the unpooled map is never stored"


def _why_composed(input: Tensor, fits: bool) -> str:
    if input.device.type not in ops.DEVICES:
        return f"segext has no kernels for {input.device.type}"
    if not fits:
        return "fused kernels exist for 2x2 windows with 3x3 kernels of stride 1, in one group and of one type"
    if input.is_cuda and multiplies_tf32(input):
        return "torch.backends.cudnn.allow_tf32 lets torch's products be TF32, which is faster than a quarter of them"
    if input.is_cuda and not multiplies_tiles(input.device):
        return f"the kernels of {compute_dtype(input)} need the tensor cores of compute capability 8.0"
    if input.is_cuda:
        return (
            f"with more than {MOST_CHANNELS} channels of {compute_dtype(input)}, a map costs little beside the products"
        )
    return f"this CPU has matrix instructions for {compute_dtype(input)}"


_TOLD = {
    conv_transpose2d: _tell_convolution,
    conv_transpose2d_add: _tell_sum,
    conv_transpose2d_argmax: _tell_argmax,
    conv_transpose2d_cross_entropy: _tell_cross_entropy,
    unpool_conv_transpose2d: _tell_unpool_conv_transpose2d,
    unpool_conv2d: _tell_unpool_conv2d,
}
