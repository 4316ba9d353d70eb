"""What :class:`torch.utils.flop_counter.FlopCounterMode` counts for each op: the operations of the stock ops that it
replaces, that is, all products of a convolution, whichever ones the kernels skip or recompute.

For the gradient of a weight whose channels do not mix, stock counts each product once per channel; segext counts it
once.

Importing this module registers it. ``import segext`` does not, because torch's counter imports Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch.utils.flop_counter import register_flop_formula

from . import ops

Shape = Sequence[int]


def _formula(*names: str):
    return register_flop_formula([ops.overload(name).overloadpacket for name in names])


def _products(pixels: int, weight: Shape) -> int:
    return 2 * pixels * prod(weight)


def _pixels(map: Shape) -> int:
    return map[0] * prod(map[2:])


@_formula(
    "depthwise_conv_transpose2d",
    "depthwise_conv_transpose2d_argmax",
    "depthwise_conv_transpose2d_cross_entropy",
    "dense_conv_transpose2d",
)
def _transposed(input: Shape, weight: Shape, *_, **__) -> int:
    return _products(_pixels(input), weight)


@_formula("depthwise_conv_transpose2d_backward", "depthwise_conv_transpose2d_cross_entropy_backward")
def _transposed_backward(_grad: Shape, input: Shape, weight: Shape, *rest, **_) -> int:
    *_, needs_input, needs_weight, _needs_bias = rest
    return _products(_pixels(input), weight) * (needs_input + needs_weight)


@_formula("unpool_conv2d")
def _unpooled(
    input, _codes, weight, _packed, _bias, size, _padding, transposed, _last, *, out_shape: Shape, **_
) -> int:
    return _products(_unpooled_pixels(input, size, out_shape, transposed), weight)


@_formula("unpool_conv2d_backward")
def _unpooled_backward(grad, input, _codes, weight, size, _padding, transposed, _last, *wants: bool, **_) -> int:
    return _products(_unpooled_pixels(input, size, grad, transposed), weight) * sum(wants)


def _unpooled_pixels(input: Shape, size: Shape, output: Shape, transposed: bool) -> int:
    """The pixels that each tap of the weight multiplies, or produces."""
    return input[0] * prod(size) if transposed else _pixels(output)
