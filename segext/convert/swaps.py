"""What a converted model calls where it called torch: segext's pools, and unpooling to the sizes stock gives."""

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from .. import functional, nn
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
    """Stands for a ReLU that is part of the pool that follows."""
    return input


def max_unpool2d(input, indices, kernel_size, stride=None, padding=0, output_size=None) -> Tensor:
    """Stock's ``max_unpool2d``, its output size included, for indices that may be switches.

    Switches of a map of another size than stock would give are unpooled as the indices they stand for.
    """
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_unpool2d, (input,), input, indices, kernel_size, stride, padding, output_size=output_size
        )
    if not isinstance(indices, Switches):
        return F.max_unpool2d(input, indices, kernel_size, stride, padding, output_size)
    size = functional._unpooled_size(input, kernel_size, stride, padding, output_size)
    if size != tuple(indices.input_size):
        indices = indices.indices()
    return functional.max_unpool2d(input, indices, kernel_size, stride, padding, size)


class MaxUnpool2d(nn.MaxUnpool2d):
    """:class:`segext.nn.MaxUnpool2d` that keeps stock's output size."""

    def forward(self, input, indices, output_size=None) -> Tensor:
        return max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding, output_size)
