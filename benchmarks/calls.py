"""What one call costs where maps are small: microseconds of pooling and unpooling, with and without their backward."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as stock
from torch import Tensor

import segext.functional as own

from . import harness
from .compiling import Miscompiled, check_compiled, compiled, fresh
from .harness import Call, Pace, Summary
from .pooling import same
from .progress import Progress

SMALL, TINY = (1, 64, 16, 32), (1, 1, 4, 4)


@dataclass(frozen=True)
class Row:
    """Nanoseconds of one call; ``difference`` is segext's minus stock's; a ``ratio`` over 1 means segext is faster."""

    op: str
    shape: tuple[int, ...]
    trains: bool
    compiled: bool
    segext: Summary
    stock: Summary
    difference: Summary
    ratio: Summary

    @property
    def stock_wins(self) -> bool:
        return self.ratio.median < 1

    @property
    def where(self) -> str:
        mode = "forward+backward" if self.trains else "inference"
        return f"{self.op} {self.shape}, {mode}, {'compiled' if self.compiled else 'eager'}"


def _own_pool(x: Tensor):
    return own.max_pool2d(x, 2, return_indices=True)


def _stock_pool(x: Tensor):
    return stock.max_pool2d(x, 2, return_indices=True)


def _own_relu_pool(x: Tensor):
    return own.relu_max_pool2d(x, 2, return_indices=True)


def _stock_relu_pool(x: Tensor):
    return stock.max_pool2d(stock.relu(x), 2, return_indices=True)


def _own_unpool(x: Tensor, switches):
    return own.max_unpool2d(x, switches)


def _stock_unpool(x: Tensor, indices: Tensor):
    return stock.max_unpool2d(x, indices, 2)


@dataclass(frozen=True)
class Op:
    """Functions of a map, or, ``unpools``, of a pooled map and what its pool remembered; and what is compiled of it."""

    name: str
    segext: Callable
    stock: Callable
    unpools: bool = False
    compiled_at: tuple[tuple[int, ...], ...] = ()


OPS = (
    Op("pool", _own_pool, _stock_pool, compiled_at=(SMALL, TINY)),
    Op("relu+pool", _own_relu_pool, _stock_relu_pool),
    Op("unpool", _own_unpool, _stock_unpool, unpools=True, compiled_at=(SMALL,)),
)


def run(seconds: float, progress: Progress, *, compile: bool, notes: list[str]) -> Iterator[Row]:
    """Checks and times every op on both shapes in about ``seconds``, compiled ones within the first half of them."""
    pace = Pace(seconds, 2 * 2 * sum(1 + bool(op.compiled_at) for op in OPS))
    compile_until = time.monotonic() + seconds / 2
    for shape in (SMALL, TINY):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        for op in OPS:
            for trains in (False, True):
                for wants_compiled in (False, True) if compile and shape in op.compiled_at else (False,):
                    what = f"a call of {op.name} on {shape}{', trained' * trains}{', compiled' * wants_compiled}"
                    if wants_compiled and time.monotonic() > compile_until:
                        notes.append(f"no time was left to compile {what}")
                        continue
                    progress.step(what)
                    try:
                        yield _row(op, x, trains, wants_compiled, pace.allot())
                    except Miscompiled as error:
                        notes.append(str(error))


def contest_of(op: Op, x: Tensor, trains: bool, compile: bool = False) -> dict[str, Call]:
    """Both calls on ``x``, after a check that they agree. To be made and called in the grad mode it is meant for.

    Raises:
        CheckFailed: if segext's result differs from eager stock's.
        Miscompiled: if compiled stock's does.
    """

    def call(whose: Callable, pool: Callable, compile: bool) -> Call:
        return _call(whose, pool if op.unpools else None, x, trains, compile)

    contest = {"segext": call(op.segext, _own_pool, compile), "stock": call(op.stock, _stock_pool, compile)}
    eager = call(op.stock, _stock_pool, False) if compile else contest["stock"]
    same(_first(contest["segext"]()), _first(eager()), f"{op.name} on {tuple(x.shape)} differs from eager stock's")
    if compile:
        check_compiled(contest["stock"], eager, f"stock's {op.name} on {tuple(x.shape)}")
    return contest


def _row(op: Op, x: Tensor, trains: bool, compile: bool, seconds: float) -> Row:
    with fresh() if compile else nullcontext(), torch.enable_grad() if trains else torch.inference_mode():
        samples = harness.measure(contest_of(op, x, trains, compile), seconds)
    return Row(
        op.name,
        tuple(x.shape),
        trains,
        compile,
        Summary.of(samples["segext"]),
        Summary.of(samples["stock"]),
        Summary.of([a - b for a, b in zip(samples["segext"], samples["stock"], strict=True)]),
        harness.ratio(samples["stock"], samples["segext"]),
    )


def _first(result: Tensor | tuple) -> Tensor:
    return result if isinstance(result, Tensor) else result[0]


def _call(function: Callable, pool: Callable | None, x: Tensor, trains: bool, compile: bool) -> Call:
    """``function`` on ``x``, or on what ``pool`` makes of it; where it ``trains``, forward and backward."""
    input, *rest = pool(x) if pool else (x,)
    if compile:
        function = compiled(function)
    if not trains:
        return lambda: function(input, *rest)
    leaf = input.detach().clone().requires_grad_()
    grad = torch.ones_like(_first(function(leaf, *rest)))
    return lambda: torch.autograd.grad(_first(function(leaf, *rest)), leaf, grad)
