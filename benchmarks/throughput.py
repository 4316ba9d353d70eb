"""Times every op on the pools of networks: segext against stock in both formats, compiled, and a copy of the bytes.

One *group* is an op on one map in one type. All that competes for it, in both memory formats, is interleaved; it gives
two rows, one a format.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from . import harness
from .compiling import Miscompiled, check_compiled, fresh
from .harness import Call, CheckFailed, Clock, Pace, Summary
from .inputs import feature_maps
from .networks import DECONVNET, ODD, Network, Pool
from .pooling import FORMATS, FRESH, INTO, Op, Subject
from .progress import Progress

DTYPES = ("float32", "bfloat16")
KEY_PIECES = 4  # pieces of time that an op on the key map gets; others get one
LATEST = 0.1  # fraction of its time that a run may be late by before it leaves out the rest


@dataclass(frozen=True)
class Work:
    """Ops to time on one pool in one type. The targets name the key map; only there stock is compiled."""

    network: Network
    pool: Pool
    batch: int
    dtype: str
    ops: tuple[Op, ...]
    suite: str
    key: bool = False

    def __str__(self) -> str:
        return f"{self.network.name} {self.pool.name}, batch {self.batch}, {self.dtype}"


@dataclass(frozen=True)
class Row:
    """One op on one map. Times are nanoseconds; a ratio over 1 says that segext is faster, but for ``to_copy``."""

    op: str
    suite: str  # "key", "deconvnet" or "odd"
    network: str
    pool: str
    batch: int
    channels: int
    height: int
    width: int
    window: str
    dtype: str
    format: str
    bytes_moved: int
    times: dict[str, Summary]
    to_stock: Summary  # eager, same format
    to_best: Summary  # the fastest stock way
    best: str
    to_compiled: Summary | None  # same format
    to_copy: Summary  # segext's time in copies of bytes_moved, buffers reused

    @property
    def stock_wins(self) -> bool:
        return self.to_best.median < 1

    @property
    def where(self) -> str:
        return f"{self.network} {self.pool}, batch {self.batch}, {self.dtype} {self.format}"


def plan(quick: bool) -> list[Work]:
    """Everything that is timed, the key map first; what a slow machine could do without comes last."""
    timed = [(DECONVNET, pool, 1 if quick else 4, "deconvnet", FRESH + INTO) for pool in DECONVNET.pools]
    timed += [(network, pool, 1, "odd", FRESH) for network in (ODD[-2:] if quick else ODD) for pool in network.pools]
    works = [
        Work(network, pool, batch, dtype, ops, suite, key=(batch, pool) == (4, DECONVNET.pools[0]))
        for network, pool, batch, suite, ops in timed
        for dtype in DTYPES
    ]
    # Among odd sizes, all works in the first type come before any in another.
    return sorted(works, key=lambda work: DTYPES.index(work.dtype) if work.suite == "odd" else 0)


def run(
    works: Sequence[Work],
    images: Sequence[Tensor],
    seconds: float,
    progress: Progress,
    *,
    compile: bool,
    notes: list[str],
    late: float | None = None,
    clock: Clock = harness.cpu_clock,
    failures: list[str] | None = None,
) -> Iterator[Row]:
    """Checks and times all ``works`` in about ``seconds``, on the images' device, by its ``clock``.

    Stock is compiled within the first half of the time. Works that would begin more than ``late`` seconds too late are
    left out. A wrong result, or another error, ends the run or, where there is a list of ``failures``, joins it.
    """
    pace = Pace(seconds, sum(len(work.ops) * (KEY_PIECES if work.key else 1) for work in works))
    compile_until = time.monotonic() + seconds / 2
    latest = LATEST * seconds if late is None else late
    maps: dict[tuple[Network, int], list[Tensor]] = {}
    for number, work in enumerate(works, start=1):
        if pace.late > latest:
            notes.append(f"no time was left for {work}")
            continue
        progress.step(f"{number}/{len(works)} {work}")
        if (work.network, work.batch) not in maps:
            maps = {(work.network, work.batch): feature_maps(images, work.network, work.batch)}
        map = maps[work.network, work.batch][work.network.pools.index(work.pool)]
        subjects = {format: Subject.of(work.pool, map, getattr(torch, work.dtype), format) for format in FORMATS}
        for op in work.ops:
            seconds = pace.allot(KEY_PIECES if work.key else 1)
            with fresh() if work.key else nullcontext():
                compiled = {}
                if compile and work.key and op in FRESH:
                    progress.step(f"{number}/{len(works)} {work}: {op.name}, stock is being compiled")
                    compiled = _compile(op, subjects, compile_until, notes)
                try:
                    yield from _group(work, op, subjects, compiled, seconds, clock)
                except Exception as error:  # a wrong result, too little memory, an error of the device
                    if failures is None:
                        raise
                    failures.append(f"{type(error).__name__}: {error}")


def mode_of(op: Op):
    return torch.enable_grad() if op.trains else torch.inference_mode()


def _compile(op: Op, subjects: dict[str, Subject], until: float, notes: list[str]) -> dict[str, Call]:
    calls = {}
    for format, subject in subjects.items():
        what = f"{op.name} {str(subject.map.dtype).removeprefix('torch.')} {format}"
        if time.monotonic() > until:
            notes.append(f"no time was left to compile stock's {what}")
            continue
        try:
            with mode_of(op):
                eager = op.calls(subject)
                call = eager.compile()
                check_compiled(call, eager.stock, f"stock's {what}")
            calls[format] = call
        except Miscompiled as error:
            notes.append(str(error))
        except Exception as error:  # no compiler, or one of the many ways in which compiling fails
            notes.append(f"stock's {what} does not compile: {type(error).__name__}: {str(error).strip()[:200]}")
    return calls


def copy_of(nbytes: int, device: torch.device) -> Call:
    """Moves ``nbytes``: half is read, half written, the buffers always the same."""
    source = torch.ones(max(nbytes // 2, 1), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _group(
    work: Work, op: Op, subjects: dict[str, Subject], compiled: dict[str, Call], seconds: float, clock: Clock
) -> Iterator[Row]:
    contest: dict[tuple[str, str], Call] = {}
    with mode_of(op):
        for format, subject in subjects.items():
            try:
                op.check(subject)
            except CheckFailed as error:
                raise CheckFailed(f"{op.name}, {work} {format}: {error}") from None
            calls = op.calls(subject)
            contest["segext", format] = calls.segext
            contest["stock", format] = calls.stock
            if format in compiled:
                contest["compiled", format] = compiled[format]
        contest["copy", ""] = copy_of(subjects["NCHW"].bytes_moved, subjects["NCHW"].map.device)
        samples = harness.measure(contest, seconds, clock=clock)
    times = {name: Summary.of(values) for name, values in samples.items()}
    for format, subject in subjects.items():
        ours = samples["segext", format]
        stock = {name: time.median for name, time in times.items() if name[0] in ("stock", "compiled")}
        best = min(stock, key=stock.get)
        yield Row(
            op=op.name,
            suite="key" if work.key else work.suite,
            network=work.network.name,
            pool=work.pool.name,
            batch=work.batch,
            channels=work.pool.channels,
            height=work.pool.height,
            width=work.pool.width,
            window=str(work.pool).partition(" ")[2] or "2x2/2",
            dtype=work.dtype,
            format=format,
            bytes_moved=subject.bytes_moved,
            times={" ".join(filter(None, name)): time for name, time in times.items()},
            to_stock=harness.ratio(samples["stock", format], ours),
            to_best=harness.ratio(samples[best], ours),
            best=" ".join(best),
            to_compiled=harness.ratio(samples["compiled", format], ours) if format in compiled else None,
            to_copy=harness.ratio(ours, samples["copy", ""]),
        )
