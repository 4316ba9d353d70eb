"""What a converted model calls where it called torch: segext's pools, and unpooling to the sizes stock gives."""

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from .. import functional, nn
from ..max_unpool2d import unpooled_size
from ..switches import Switches, window_of


def max_pool2d_with_indices(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
):
    return functional.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices=True)


def relu_max_pool2d_with_indices(
    input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
):
    return functional.relu_max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices=True)


def rectified_later(input, inplace=False):
    """Stands for a ReLU that is part of the pool that follows."""
    return input


def max_unpool2d(input, indices, kernel_size, stride=None, padding=0, output_size=None) -> Tensor:
    """Stock's ``max_unpool2d``, sizes and gradients included, for indices that may be switches.

    Where the switches are of other windows than asked for, of overlapping ones, or of a map of another size than stock
    gives, stock does it, or refuses.
    """
    arguments = kernel_size, stride, padding, output_size
    if has_torch_function_unary(input):
        return handle_torch_function(max_unpool2d, (input,), input, indices, *arguments)
    if not isinstance(indices, Switches):
        return F.max_unpool2d(input, indices, *arguments)
    kernel, step, _, dilation = window = window_of(kernel_size, stride, padding, indices.dilation)
    overlap = any(s <= d * (k - 1) for k, s, d in zip(kernel, step, dilation, strict=True))
    size = unpooled_size(input, *arguments)
    if not overlap and window == indices.window and size == tuple(indices.input_size):
        return functional.max_unpool2d(input, indices)
    return F.max_unpool2d(input, indices.indices(), *arguments)


class MaxUnpool2d(nn.MaxUnpool2d):
    """:class:`segext.nn.MaxUnpool2d` that keeps stock's output size."""

    def forward(self, input, indices, output_size=None) -> Tensor:
        return max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding, output_size)
