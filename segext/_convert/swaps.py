"""What a converted model calls in place of torch: segext's pools, unpooling to the sizes that stock returns, and the
convolution after it, which performs the unpooling too."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from .. import functional, nn
from ..arguments import window_of
from ..max_unpool2d import unpooled_size
from ..switches import Switches


def max_pool2d_with_indices(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
):
    return functional.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices=True)


def relu_max_pool2d_with_indices(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
):
    return functional.relu_max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices=True)


def rectified_later(input, inplace=False):
    """Stands for a ReLU that was fused into the pool after it."""
    return input


def is_fused_relu(module: torch.nn.Module) -> bool:
    """Whether a module was a ReLU that was fused into the pool after it: it keeps what a ReLU has."""
    return type(module) is torch.nn.Identity and "inplace" in vars(module)


class Unpooled(NamedTuple):
    """A map still to be unpooled, on its way to the convolution that is its only reader."""

    input: Tensor
    switches: Switches

    def unpool(self) -> Tensor:
        return functional.max_unpool2d(*self)


def deferred_max_unpool2d(input, indices, kernel_size, stride=None, padding=0, output_size=None) -> Unpooled | Tensor:
    """:func:`max_unpool2d` deferred to the convolution after it; where stock has to unpool, it is done here."""
    arguments = kernel_size, stride, padding, output_size
    if isinstance(indices, Switches) and not has_torch_function_unary(input) and _fits(input, indices, *arguments):
        return Unpooled(input, indices)
    return max_unpool2d(input, indices, *arguments)


def max_unpool2d(input, indices, kernel_size, stride=None, padding=0, output_size=None) -> Tensor:
    """Stock's ``max_unpool2d``, sizes and gradients included, for indices that may be switches.

    If the switches belong to other windows than requested, to overlapping windows, or to a map of another size than
    stock returns, stock does the unpooling or raises the error.
    """
    arguments = kernel_size, stride, padding, output_size
    if has_torch_function_unary(input):
        return handle_torch_function(max_unpool2d, (input,), input, indices, *arguments)
    if not isinstance(indices, Switches):
        return F.max_unpool2d(input, indices, *arguments)
    if _fits(input, indices, *arguments):
        return functional.max_unpool2d(input, indices)
    return F.max_unpool2d(input, indices.indices(), *arguments)


def _fits(input, switches, kernel_size, stride, padding, output_size) -> bool:
    """Whether unpooling by switches returns what stock returns, including sizes and gradients."""
    kernel, step, _, dilation = window = window_of(kernel_size, stride, padding, switches.dilation)
    overlap = any(s <= d * (k - 1) for k, s, d in zip(kernel, step, dilation, strict=True))
    size = unpooled_size(input, kernel_size, stride, padding, output_size)
    return not overlap and window == switches.window and size == tuple(switches.input_size)


class MaxUnpool2d(nn.MaxUnpool2d):
    """:class:`segext.nn.MaxUnpool2d` that keeps stock's output size."""

    def forward(self, input, indices, output_size=None) -> Tensor:
        return max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class DeferredMaxUnpool2d(nn.MaxUnpool2d):
    """:class:`MaxUnpool2d` deferred to the convolution after it."""

    def forward(self, input, indices, output_size=None) -> Unpooled | Tensor:
        return deferred_max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class UnpoolingConv2d(nn.Prepackable, torch.nn.Conv2d):
    """:class:`torch.nn.Conv2d` that first unpools its input if that is still to be done."""

    _pack = staticmethod(functional.prepack_unpool_conv2d)

    def forward(self, input: Unpooled | Tensor) -> Tensor:
        if not isinstance(input, Unpooled):
            return super().forward(input)
        if self.padding_mode != "zeros":
            return super().forward(input.unpool())
        window = self.stride, self.padding, self.dilation, self.groups
        return functional.unpool_conv2d(*input, self.weight, self.bias, *window, packed_weight=self._packed())


class UnpoolingConvTranspose2d(nn.Prepackable, nn.ConvTranspose2d):
    """:class:`segext.nn.ConvTranspose2d` that first unpools its input if that is still to be done."""

    _pack = staticmethod(functional.prepack_unpool_conv_transpose2d)

    def forward(self, input: Unpooled | Tensor, output_size=None) -> Tensor:
        if not isinstance(input, Unpooled):
            return super().forward(input, output_size)
        if output_size is not None:
            return super().forward(input.unpool(), output_size)
        window = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        packed = self._packed()
        return functional.unpool_conv_transpose2d(*input, self.weight, self.bias, *window, packed_weight=packed)
