"""The part ``profile``: by torch's profiler, which kernels an op launches, of which one is allowed, and their time."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from .. import tables
from ..networks import DECONVNET, RESNET, Pool
from ..pooling import FORMATS, FRESH, INTO, POOL, POOL_BACKWARD, RELU_POOL, Op, Subject
from ..throughput import mode_of
from .parts import Job, Outcome

BATCH = 16
# Categories of device work in a profiler's trace. A rehearsal counts segext's ops instead.
DEVICE_WORK = ("kernel", "gpu_memset", "gpu_memcpy")
NAMED = 90  # characters of a kernel's name shown in a table


@dataclass(frozen=True)
class Launch:
    """One piece of work on the device."""

    name: str
    microseconds: float
    grid: list[int]
    block: list[int]
    registers: int


@dataclass(frozen=True)
class Row:
    """What one call of an op put on the device."""

    op: str
    map: str
    dtype: str
    format: str
    whose: str
    launches: list[Launch]


def launches_of(call: Callable[[], object], device: torch.device) -> list[Launch]:
    """What the second call puts on the device: the first loads kernels and fills caches."""
    call()
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    with profile(activities=activities) as profiler:
        result = call()
        if device.type == "cuda":
            torch.cuda.synchronize()
    del result
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return list(_read(events, device))


def _read(events: list[dict], device: torch.device) -> Iterator[Launch]:
    for event in events:
        if device.type == "cuda":
            counts = event.get("cat") in DEVICE_WORK
        else:
            counts = event.get("cat") == "cpu_op" and event["name"].startswith("segext::")
        if counts:
            arguments = event.get("args", {})
            yield Launch(
                event["name"],
                float(event.get("dur", 0.0)),
                arguments.get("grid", []),
                arguments.get("block", []),
                arguments.get("registers per thread", 0),
            )


@dataclass(frozen=True)
class Work:
    """Ops on one map, in some types, by segext and, where their kernels are worth comparing, by stock."""

    pool: Pool
    batch: int
    ops: tuple[Op, ...]
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)
    whose: tuple[str, ...] = ("segext",)


def plan(rehearsal: bool) -> list[Work]:
    """A launch-bound map, windows that overlap, and a large map."""
    batch = 1 if rehearsal else BATCH
    large = Pool("rehearsal", 8, 16, 16) if rehearsal else DECONVNET.pools[0]
    return [
        Work(Pool("small", 64, 16, 32), 1, FRESH + INTO),
        Work(RESNET.pools[0], batch, (POOL, RELU_POOL, POOL_BACKWARD)),
        Work(large, batch, FRESH, (torch.float32, torch.bfloat16), ("segext", "stock")),
        # On CUDA, stock refuses to write into a channels_last map.
        Work(large, batch, INTO, (torch.float32, torch.bfloat16)),
    ]


def run(job: Job) -> Outcome:
    end = time.monotonic() + job.seconds
    device = torch.device(job.device)
    rows: list[Row] = []
    left_out = 0
    for whose in ("segext", "stock"):
        for work in plan(job.rehearsal):
            shape = (work.batch, work.pool.channels, work.pool.height, work.pool.width)
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
            for dtype, format in itertools.product(work.dtypes if whose in work.whose else (), FORMATS):
                subject = Subject.of(work.pool, x, dtype, format)
                for op in work.ops:
                    if time.monotonic() > end:
                        left_out += whose == "segext"
                        continue
                    with mode_of(op):
                        found = launches_of(getattr(op.calls(subject), whose), device)
                    kind = str(dtype).removeprefix("torch.")
                    rows.append(Row(op.name, str(shape), kind, format, whose, found))
    return judge(rows, left_out)


def judge(rows: list[Row], left_out: int) -> Outcome:
    """Passed where every call of segext was seen and launched one kernel. Where nothing was seen, nothing was run."""
    own = [row for row in rows if row.whose == "segext"]
    wrong = [row for row in own if len(row.launches) != 1]
    text = _table(rows)
    print(text)
    details = {"rows": [asdict(row) for row in rows], "left_out": left_out, "table": text if wrong else ""}
    if not any(row.launches for row in rows):
        return Outcome("not run", "the profiler saw nothing on the device", details)
    summary = f"{len(own) - len(wrong)} of {len(own)} calls launch one kernel"
    summary += f", {left_out} left out for want of time" if left_out else ""
    if wrong:
        first = wrong[0]
        summary += f"; {first.op} on {first.map} {first.dtype} {first.format}: {len(first.launches)}"
    return Outcome("failed" if wrong or left_out else "passed", summary, details)


def _table(rows: list[Row]) -> str:
    lines = [
        [
            row.op, row.map, row.dtype, row.format, row.whose, str(len(row.launches)),
            f"{sum(launch.microseconds for launch in row.launches):.1f}",
            str(max((launch.registers for launch in row.launches), default=0)),
            "; ".join(dict.fromkeys(launch.name[:NAMED] for launch in row.launches)),
        ]
        for row in rows
    ]  # fmt: skip
    head = ["op", "map", "type", "format", "whose", "launches", "us", "registers", "kernels"]
    return tables.table("What each call puts on the device, warm", head, lines, left=5)
