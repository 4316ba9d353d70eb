"""Tells which kernels a call uses, and why."""

from __future__ import annotations

from torch import Tensor

from . import ops
from .arguments import IntPair, pair_or_none
from .conv_arguments import compute_dtype
from .conv_routes import fastest_call, supported_call
from .switches import Switches
from .unpool_conv2d import (
    MOST_CHANNELS,
    beats_stock,
    kernel_padding,
    multiplies_tf32,
    multiplies_tiles,
    multiplies_what_counts,
)


def explain(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair | str = 0,
    output_padding: IntPair = 0,
    groups: int = 1,
    dilation: IntPair = 1,
    *,
    switches: Switches | None = None,
    transposed: bool = True,
) -> str:
    """Which kernels a call uses for these arguments, and why, in one line.

    The call is :func:`segext.functional.conv_transpose2d`; with ``switches``,
    :func:`segext.functional.unpool_conv_transpose2d`; with ``switches`` and ``transposed=False``
    :func:`segext.functional.unpool_conv2d`.

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (C, K / groups, kernel height, kernel width), or (K, C / groups, kernel height, kernel width) for a
            convolution that is not transposed.
        bias, stride, padding, output_padding, groups, dilation, switches: as in the explained function.
        transposed: whether the convolution after the unpooling is transposed.

    Raises:
        TypeError: for an ``input`` or ``weight`` that is not a tensor, or switches that are not :class:`Switches`.
        ValueError: for ``transposed=False`` without switches.
    """
    for name, value in (("input", input), ("weight", weight)):
        if not isinstance(value, Tensor):
            raise TypeError(f"explain(): argument '{name}' must be Tensor, not {type(value).__name__}")
    if switches is not None and not isinstance(switches, Switches):
        raise TypeError(f"explain(): argument 'switches' must be Switches, not {type(switches).__name__}")
    if switches is None and not transposed:
        raise ValueError("explain: transposed=False tells of unpool_conv2d, and needs switches")
    if switches is not None:
        arguments = input, switches, weight, bias, stride, padding, dilation, transposed
        fits = groups == 1 and pair_or_none(output_padding) == (0, 0) and kernel_padding(*arguments) is not None
        if not fits or not beats_stock(input, weight):
            convolution = "conv_transpose2d" if transposed else "conv2d"
            return f"segext's unpooling, then {convolution}: {_why_composed(input, fits)}"
        if multiplies_what_counts(input):
            return "segext: at most one of four pixels has a value, so a quarter of the products is taken"
        return "segext: the unpooled map is never stored"
    call = supported_call(input, weight, bias, stride, padding, output_padding, groups, dilation)
    if call is not None:
        faster = fastest_call(input, weight, bias, stride, padding, output_padding, groups, dilation)
        return faster.why if faster else "torch: it is faster for strides, sizes, types and formats such as these"
    if input.device.type not in ops.DEVICES:
        return f"torch: segext has no kernels for {input.device.type}"
    if groups not in (1, weight.shape[0]):
        return "torch: channels mix in groups"
    return "torch: segext has no kernels for these arguments"


def _why_composed(input: Tensor, fits: bool) -> str:
    if input.device.type not in ops.DEVICES:
        return f"segext has no kernels for {input.device.type}"
    if not fits:
        return "the two in one have kernels for 2x2 windows and 3x3 kernels of stride 1, in one group and of one type"
    if input.is_cuda and multiplies_tf32(input):
        return "torch.backends.cudnn.allow_tf32 lets torch's products be TF32, which is faster than a quarter of them"
    if input.is_cuda and not multiplies_tiles(input.device):
        return f"the kernels of {compute_dtype(input)} need the tensor cores of compute capability 8.0"
    if input.is_cuda:
        return (
            f"with more than {MOST_CHANNELS} channels of {compute_dtype(input)}, a map costs little beside the products"
        )
    return f"this CPU has matrix instructions for {compute_dtype(input)}"
