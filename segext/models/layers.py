"""The two sets of layers that networks are built from: segext's and stock's, with the same names, arguments and state.

A pool returns (output, indices): switches, or int64 for stock and on devices without segext kernels. A convolution that
unpools takes them and the size of the pooled map: ``layer(x, (indices, size))``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as stock
from torch import Tensor, nn

from .. import functional as F
from .. import nn as own
from ..switches import Switches
from .upscore import TorchUpscore, Upscore

# What a pool passes to the unpooling that mirrors it: where its maxima were, and the size of its input.
Unpooling = tuple[Switches | Tensor, Sequence[int]]


class WholeMapConv2d(nn.Conv2d):
    """:class:`torch.nn.Conv2d` that runs as a matrix product if the kernel covers the whole map, as fc6 does at 7x7.

    Each weight is then used once per image, and a convolution would spend most of its time reordering weights.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != self.kernel_size:
            return super().forward(x)
        weight = self.weight
        if weight.is_contiguous(memory_format=torch.channels_last):  # in the order they lie in
            x, weight = x.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
        return stock.linear(x.flatten(1), weight.flatten(1), self.bias)[..., None, None]


class UnpoolConv2d(own.UnpoolConv2d):
    """:class:`segext.nn.UnpoolConv2d` for a 2x2 pool."""

    def forward(self, x: Tensor, unpooling: Unpooling) -> Tensor:
        indices, size = unpooling
        if isinstance(indices, Switches):
            return super().forward(x, indices)
        return nn.Conv2d.forward(self, F.max_unpool2d(x, indices, 2, output_size=size))


class UnpoolConvTranspose2d(own.UnpoolConvTranspose2d):
    """:class:`segext.nn.UnpoolConvTranspose2d` for a 2x2 pool."""

    def forward(self, x: Tensor, unpooling: Unpooling) -> Tensor:
        indices, size = unpooling
        if isinstance(indices, Switches):
            return super().forward(x, indices)
        return nn.ConvTranspose2d.forward(self, F.max_unpool2d(x, indices, 2, output_size=size))


class TorchReLUMaxPool2d(nn.MaxPool2d):
    """:class:`torch.nn.ReLU`, then :class:`torch.nn.MaxPool2d`."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return super().forward(stock.relu(x, inplace=True))


class TorchUnpoolConv2d(nn.Conv2d):
    """2x2 :class:`torch.nn.MaxUnpool2d`, then :class:`torch.nn.Conv2d`."""

    def forward(self, x: Tensor, unpooling: Unpooling) -> Tensor:
        indices, size = unpooling
        return super().forward(stock.max_unpool2d(x, indices, 2, output_size=size))


class TorchUnpoolConvTranspose2d(nn.ConvTranspose2d):
    """2x2 :class:`torch.nn.MaxUnpool2d`, then :class:`torch.nn.ConvTranspose2d`."""

    def forward(self, x: Tensor, unpooling: Unpooling) -> Tensor:
        indices, size = unpooling
        return super().forward(stock.max_unpool2d(x, indices, 2, output_size=size))


@dataclass(frozen=True)
class LayerSet:
    """The layer classes of a network."""

    ReLUMaxPool2d: type[nn.Module]
    WholeMapConv2d: type[nn.Conv2d]
    ConvTranspose2d: type[nn.ConvTranspose2d]
    UnpoolConv2d: type[nn.Conv2d]
    UnpoolConvTranspose2d: type[nn.ConvTranspose2d]
    Upscore: type[Upscore]


_SETS = {
    "segext": LayerSet(
        own.ReLUMaxPool2d, WholeMapConv2d, own.ConvTranspose2d, UnpoolConv2d, UnpoolConvTranspose2d, Upscore
    ),
    "torch": LayerSet(
        TorchReLUMaxPool2d,
        nn.Conv2d,
        nn.ConvTranspose2d,
        TorchUnpoolConv2d,
        TorchUnpoolConvTranspose2d,
        TorchUpscore,
    ),
}


def layer_set(name: str) -> LayerSet:
    """The set called ``name``, "segext" or "torch".

    Raises:
        ValueError: for any other name.
    """
    if name not in _SETS:
        raise ValueError(f"layers should be one of {', '.join(map(repr, _SETS))}, but got {name!r}")
    return _SETS[name]
