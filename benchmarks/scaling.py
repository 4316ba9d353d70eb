"""How speed changes with the size of images and with the batch: calls that are the same but for one number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as stock
from torch import Tensor

import segext.functional as own

from . import contest, harness, upsampling
from .contest import Case
from .harness import Clock, Pace
from .progress import Progress

SIDES, BATCHES = (32, 64, 128, 256, 384), (1, 2, 4, 8)
CHANNELS = 64
SIDE = 112  # of the maps whose batch grows
IMAGE, BATCH = "image", "batch"  # what grows


@dataclass(frozen=True)
class Row:
    """One call at one size: ``axis`` is what grows, ``value`` the side of the image or the batch."""

    axis: str
    value: int
    measured: contest.Row


def cases(*, quick: bool) -> list[tuple[str, int, Case]]:
    """Every call as (axis, value, case); the first two values of each axis if ``quick``."""
    few = slice(2 if quick else None)
    found = []
    for side in SIDES[few]:
        coarse = side // 8 + 8
        labelled = upsampling.Setting(labels=coarse).labelled
        found += [(IMAGE, side, _round_trip(side, 1)), (IMAGE, labelled, _labels(coarse, 1))]
    for batch in BATCHES[few]:
        found += [(BATCH, batch, _round_trip(SIDE, batch)), (BATCH, batch, _labels(SIDE // 8 + 8, batch))]
    return found


def run(
    cases: Sequence[tuple[str, int, Case]], seconds: float, progress: Progress, clock: Clock = harness.cpu_clock
) -> Iterator[Row]:
    """Checks and times every case in about ``seconds``, of which large ones get more."""
    work = [case.input.numel() ** 0.5 for *_, case in cases]
    pace = Pace(seconds, sum(work))
    for (axis, value, case), share in zip(cases, work, strict=True):
        progress.step(f"{case.op}, {axis} {value}")
        with torch.enable_grad() if case.trains else torch.inference_mode():
            for row in contest.rows(case, pace.allot(share), clock):
                yield Row(axis, value, row)


def _labels(coarse: int, batch: int) -> Case:
    return upsampling.labels(torch.float32, upsampling.Setting(batch=batch, labels=coarse))


def _round_trip(side: int, batch: int) -> Case:
    """ReLU, pool and unpool, forwards and backwards: what an encoder's stage and its mirror add to convolutions."""
    generator = torch.Generator().manual_seed(0)
    map, grad = (torch.randn(batch, CHANNELS, side, side, generator=generator) for _ in range(2))
    grads = {last: grad.contiguous(memory_format=contest.FORMATS[last]) for last in contest.FORMATS}

    def trained(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            leaf = x.detach().requires_grad_()
            given = grads["NCHW" if x.is_contiguous() else "channels_last"]
            return torch.autograd.grad(function(leaf), leaf, given)[0]

        return call

    return Case(
        "ReLU, pool, unpool, backward",
        f"{CHANNELS}@{side}x{side}",
        map,
        trained(lambda x: own.max_unpool2d(*own.relu_max_pool2d(x, 2, return_indices=True))),
        {"stock": trained(lambda x: stock.max_unpool2d(*stock.max_pool2d(x.relu(), 2, return_indices=True), 2))},
        lambda x: "segext",
        trains=True,
    )
