"""segext's layers as modules: drop-ins for their namesakes in ``torch.nn``, with ``Switches`` for int64 indices."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from . import functional as F
from .switches import Switches

__all__ = ["ConvTranspose2d", "MaxPool2d", "MaxUnpool2d", "ReLUMaxPool2d", "UnpoolConv2d", "UnpoolConvTranspose2d"]


class MaxPool2d(nn.MaxPool2d):
    """:class:`torch.nn.MaxPool2d` that keeps packed switches, not its input, for the backward pass.

    With ``return_indices=True`` the second result is a :class:`segext.Switches`. See
    :func:`segext.functional.max_pool2d` for shapes and errors.
    """

    _pool = staticmethod(F.max_pool2d)

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Switches]:
        return self._pool(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )


class ReLUMaxPool2d(MaxPool2d):
    """:class:`torch.nn.ReLU` followed by :class:`MaxPool2d`, in one pass that stores no rectified map.

    See :func:`segext.functional.relu_max_pool2d`.
    """

    _pool = staticmethod(F.relu_max_pool2d)


class MaxUnpool2d(nn.MaxUnpool2d):
    """:class:`torch.nn.MaxUnpool2d` that takes :class:`segext.Switches` or stock's int64 indices.

    Switches know the pool's window and input size: ``output_size`` may be left out and is still right for odd sizes,
    and ``kernel_size`` may be too. See :func:`segext.functional.max_unpool2d` for shapes and errors.
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int] | None = None,
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__(0 if kernel_size is None else kernel_size, stride, padding)
        if kernel_size is None:
            self.kernel_size, self.stride = None, stride

    def forward(self, input: Tensor, indices: Switches | Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return F.max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class ConvTranspose2d(nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d`: same arguments, parameters and state dict.

    See :func:`segext.functional.conv_transpose2d` for shapes, errors and which kernels run.
    """

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        if self.padding_mode != "zeros":
            return super().forward(input, output_size)  # which refuses it
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, 2, self.dilation
        )
        return F.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, output_padding, self.groups, self.dilation
        )


class UnpoolConvTranspose2d(nn.ConvTranspose2d):
    """:class:`MaxUnpool2d` followed by :class:`torch.nn.ConvTranspose2d`, in one pass that keeps no unpooled map.

    Arguments, parameters and state dict are the transposed convolution's. See
    :func:`segext.functional.unpool_conv_transpose2d` for shapes, errors and which kernels run.

    Raises:
        ValueError: for a ``padding_mode`` other than zeros, as stock.
    """

    def forward(self, input: Tensor, switches: Switches, output_size: Sequence[int] | None = None) -> Tensor:
        """The pooled map (N, C, H, W) or (C, H, W), unpooled to ``output_size``, by default the pool's input size."""
        window = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        return F.unpool_conv_transpose2d(input, switches, self.weight, self.bias, *window, output_size=output_size)


class UnpoolConv2d(nn.Conv2d):
    """:class:`MaxUnpool2d` followed by :class:`torch.nn.Conv2d`, in one pass that keeps no unpooled map.

    Arguments, parameters and state dict are the convolution's. See :func:`segext.functional.unpool_conv2d`.
    """

    def forward(self, input: Tensor, switches: Switches, output_size: Sequence[int] | None = None) -> Tensor:
        """The pooled map (N, C, H, W) or (C, H, W), unpooled to ``output_size``, by default the pool's input size."""
        if self.padding_mode != "zeros":
            return super().forward(F.max_unpool2d(input, switches, output_size=output_size))
        window = self.stride, self.padding, self.dilation, self.groups
        return F.unpool_conv2d(input, switches, self.weight, self.bias, *window, output_size=output_size)
