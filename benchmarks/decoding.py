"""What decoders are made of, against stock's best way: unpooling and the convolution that reads it, and transposed
convolution whose channels mix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as stock
from torch import Tensor

import segext
import segext.functional as own

from .contest import Case
from .throughput import DTYPES

# The first layers of DeconvNet's decoder stages: channels, and the size they unpool to.
STAGES = ((64, 224), (128, 112), (256, 56), (512, 28))
UNPOOLING, UNPOOLING_TRAINS, PREPACKED = (f"unpool, 3x3 deconv{more}" for more in ("", ", fwd+bwd", ", prepacked"))
# The same with stock's float32 products not in TF32, on a GPU.
STRICT = f"{UNPOOLING}, no TF32"

# (channels, outputs, kernel, stride, padding, size, batch): FCN's dense upscore kernels, U-Net's upsampling, DCGAN's,
# and a plain convolution.
DENSE = (
    (21, 21, 16, 8, 0, 70, 1),
    (21, 21, 4, 2, 0, 70, 1),
    (128, 64, 2, 2, 0, 64, 1),
    (128, 64, 4, 2, 1, 32, 4),
    (64, 64, 3, 1, 1, 112, 1),
)


def dense_op(kernel: int, stride: int) -> str:
    """The name of a transposed convolution whose channels mix."""
    return f"deconv {kernel}x{kernel}/{stride}"


def cases(dtypes: Sequence[str] = DTYPES, *, quick: bool) -> list[Case]:
    """Every case; of bfloat16, and if ``quick``, only the first of each kind."""
    return [case for dtype in dtypes for case in _cases(getattr(torch, dtype), quick or dtype != "float32")]


def _cases(dtype: torch.dtype, few: bool) -> Iterator[Case]:
    for channels, size in STAGES[: 1 if few else None]:
        yield unpooling(UNPOOLING, channels, size, dtype)
        yield unpooling(UNPOOLING_TRAINS, channels, size, dtype)
    if not few:  # here, weights are most of the bytes read
        yield unpooling(PREPACKED, *STAGES[-1], dtype)
    for shape in DENSE[: 1 if few else None]:
        yield _dense(*shape, dtype)


def _normal(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def unpooling(what: str, channels: int, size: int, dtype: torch.dtype, *, device: str = "cpu", batch: int = 1) -> Case:
    trains = what == UNPOOLING_TRAINS
    full = _normal(batch, channels, size, size, dtype=dtype).to(device)
    values, indices = stock.max_pool2d(full, 2, return_indices=True)
    weight = (_normal(channels, channels, 3, 3, dtype=dtype, seed=1) / (1.5 * channels**0.5)).to(device)
    weight.requires_grad_(trains)
    grads = {}
    if trains:
        grad = _normal(*full.shape, dtype=dtype, seed=2).to(device)
        grads = {last: grad.contiguous(memory_format=_format(last)) for last in (0, 1)}
    switches = {
        last: own.max_pool2d(full.contiguous(memory_format=_format(last)), 2, return_indices=True)[1] for last in (0, 1)
    }
    packed = own.prepack_unpool_conv_transpose2d(weight) if what == PREPACKED else None
    places = {last: indices.contiguous(memory_format=_format(last)) for last in (0, 1)}

    def fused(x: Tensor) -> Tensor:
        return own.unpool_conv_transpose2d(x, switches[_is_last(x)], weight, padding=1, packed_weight=packed)

    def in_sequence(x: Tensor) -> Tensor:
        return stock.conv_transpose2d(stock.max_unpool2d(x, places[_is_last(x)], 2), weight, None, 1, 1)

    def differentiated(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor | tuple[Tensor, ...]]:
        def call(x: Tensor) -> tuple[Tensor, ...]:
            leaf = x.detach().requires_grad_()
            return torch.autograd.grad(function(leaf), (leaf, weight), grads[_is_last(x)])

        return call if trains else function

    return Case(
        what,
        f"{channels}@{size}x{size}",
        values,
        differentiated(fused),
        {"stock": differentiated(in_sequence)},
        lambda x: segext.explain(own.unpool_conv_transpose2d, x, switches[_is_last(x)], weight, padding=1),
        switches[0].nbytes + weight.nbytes,
        # Operations are not counted for a training step, which moves other bytes.
        0 if trains else 2 * 9 * channels * values.numel(),
        trains,
    )


def _format(last: int) -> torch.memory_format:
    return torch.channels_last if last else torch.contiguous_format


def _is_last(x: Tensor) -> int:
    return int(not x.is_contiguous())


def _dense(channels: int, outputs: int, kernel: int, stride: int, padding: int, size: int, batch: int, dtype) -> Case:
    weight = _normal(channels, outputs, kernel, kernel, dtype=dtype, seed=1) / (channels * kernel) ** 0.5
    return Case(
        dense_op(kernel, stride),
        f"{channels} to {outputs}@{size}x{size}" + (f", batch {batch}" if batch > 1 else ""),
        _normal(batch, channels, size, size, dtype=dtype),
        lambda x: own.conv_transpose2d(x, weight, None, stride, padding),
        {"stock": lambda x: stock.conv_transpose2d(x, weight, None, stride, padding)},
        lambda x: segext.explain(own.conv_transpose2d, x, weight, None, stride, padding),
        weight.nbytes,
        2 * weight.numel() * batch * size**2,
    )
