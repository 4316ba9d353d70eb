"""What a new size costs: a stream of maps that all differ in size, each called for the first time and once more.

A library that prepares kernels for a shape, and keeps them, is slower the first time. Photographs differ in size.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as stock
from torch import Tensor

import segext.functional as own

from . import decoding
from .contest import check_near
from .harness import Summary, ratio
from .progress import Progress

SIZES = 200  # per operation, none shared: a library may reuse kernels for every operation that needs the same
SIDES = range(8, 37)


@dataclass(frozen=True)
class Row:
    """One call over all sizes: its first time on each over its second, and segext's speedup over stock in the first."""

    op: str
    sizes: int
    segext: Summary
    stock: Summary
    to_stock: Summary


@dataclass(frozen=True)
class Op:
    name: str
    channels: int
    segext: Callable[[Tensor], Tensor]
    stock: Callable[[Tensor], Tensor]


def operations() -> list[Op]:
    """Calls of each kind of kernel, where stock's are others."""
    generator = torch.Generator().manual_seed(0)
    filters, classes, dense = (
        torch.randn(shape, generator=generator) / 8 for shape in ((21, 1, 16, 16), (21, 21, 4, 4), (64, 64, 3, 3))
    )
    arguments = (None, 8, 4, 0, 21)

    def stock_unpooling(x: Tensor) -> Tensor:
        unpooled = stock.max_unpool2d(*stock.max_pool2d(x, 2, return_indices=True), 2, output_size=x.shape)
        return stock.conv_transpose2d(unpooled, dense, None, 1, 1)

    return [
        Op(
            "pool, unpool, 3x3 deconv",
            64,
            lambda x: own.unpool_conv_transpose2d(*own.max_pool2d(x, 2, return_indices=True), dense, padding=1),
            stock_unpooling,
        ),
        Op(
            "upsample x8",
            21,
            lambda x: own.conv_transpose2d(x, filters, *arguments),
            lambda x: stock.conv_transpose2d(x, filters, *arguments),
        ),
        Op(
            "upsample x8, argmax",
            21,
            lambda x: own.conv_transpose2d_argmax(x, filters, *arguments),
            lambda x: stock.conv_transpose2d(x, filters, *arguments).argmax(1),
        ),
        Op(
            decoding.dense_op(4, 2),
            21,
            lambda x: own.conv_transpose2d(x, classes, None, 2, 1),
            lambda x: stock.conv_transpose2d(x, classes, None, 2, 1),
        ),
    ]


def run(progress: Progress, *, quick: bool) -> Iterator[Row]:
    """Checks and times every operation on ``SIZES`` sizes, a tenth of them if ``quick``."""
    sizes = [(height, width) for height in SIDES for width in SIDES]
    random.Random(0).shuffle(sizes)
    count = SIZES // 10 if quick else SIZES
    for k, op in enumerate(operations()):
        progress.step(f"{op.name} on {count} sizes")
        with torch.inference_mode():
            found = row(op, sizes[k * SIZES : k * SIZES + count], sizes[-5:])
        yield found


def row(op: Op, sizes: list[tuple[int, int]], others: list[tuple[int, int]]) -> Row:
    """Measures one operation; on ``others`` first, so that what is prepared once for all sizes is ready."""
    for size in others:
        x = torch.rand(1, op.channels, *size)
        check_near(op.segext(x), op.stock(x), 1e-3, f"{op.name} on {tuple(x.shape)}")
    first, again = {op.segext: [], op.stock: []}, {op.segext: [], op.stock: []}
    before = x
    for k, size in enumerate(sizes):
        x = torch.rand(1, op.channels, *size)
        for call in (op.segext, op.stock) if k % 2 else (op.stock, op.segext):
            call(before)  # a size seen before, so that both timed calls start from the same state
            for times in (first, again):
                start = time.perf_counter_ns()
                call(x)
                times[call].append(time.perf_counter_ns() - start)
        before = x
    return Row(
        op.name,
        len(sizes),
        ratio(first[op.segext], again[op.segext]),
        ratio(first[op.stock], again[op.stock]),
        ratio(first[op.stock], first[op.segext]),
    )
