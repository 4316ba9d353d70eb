"""The part ``bench``: every op on the device against stock, compiled stock and a copy, what calls cost, and memory."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .. import calls, contest, decoding, harness, inputs, tables, throughput, upsampling
from ..harness import Call, Clock, Summary
from ..networks import DECONVNET, RESNET, Network, Pool, vgg16
from ..pooling import FORMATS, FRESH, POOL, POOL_BACKWARD, RELU_POOL, Subject
from ..progress import Progress
from ..results import Results, environment
from ..targets import Verdict
from ..throughput import Work
from . import clocks, graphs, machine, memory, targets
from .parts import Job, Outcome

DTYPES = ("float32", "bfloat16", "float16")
NETWORK_DTYPES = DTYPES[:2]  # float16 takes as long as bfloat16
KEY_BATCH, BATCH = 64, 16
KEY_MEMORY = 32e9  # device bytes that hold the maps of the key batch twice, and everything they are checked against
THROUGHPUT, UPSAMPLING, DECODING, CALLS = 0.42, 0.3, 0.12, 0.08  # shares of the time
SKIP = 128  # the side of the map below the skip connection
SAVE_EVERY = 5.0  # seconds between saves


@dataclass(frozen=True)
class CallRow:
    """Nanoseconds that a caller waits for a call, in eager mode or as the replay of a CUDA graph."""

    op: str
    shape: tuple[int, ...]
    trains: bool
    way: str
    segext: Summary
    stock: Summary
    ratio: Summary  # over 1: segext is faster


def plan(rehearsal: bool, device_memory: int) -> list[Work]:
    """The maps the targets name first, then pools of DeconvNet and a pool whose windows overlap."""
    network, overlapping, batch = DECONVNET.only("pool1", "pool3", "pool5"), RESNET, BATCH
    key_batch = KEY_BATCH if device_memory >= KEY_MEMORY else BATCH
    if rehearsal:
        network, key_batch, batch = vgg16("rehearsal", 32, 32).only("pool1", "pool5"), 2, 1
        overlapping = Network("rehearsal 3x3", (Pool("stem", 8, 16, 16, kernel=3, padding=1),))
    key = network.only("pool1")
    works = [Work(key, key.pools[0], key_batch, dtype, FRESH, "key", key=True) for dtype in DTYPES]
    maps = [(pool, dtype) for pool in network.pools for dtype in NETWORK_DTYPES]
    works += [Work(network, pool, batch, dtype, FRESH, "deconvnet") for pool, dtype in maps]
    # No network unpools with windows that overlap.
    ops = (POOL, RELU_POOL, POOL_BACKWARD)
    return works + [Work(overlapping, overlapping.pools[0], batch, dtype, ops, "odd") for dtype in NETWORK_DTYPES]


def photographs(device: torch.device) -> tuple[list[Tensor], str]:
    try:
        images, name = inputs.load(None), "matplotlib's grace_hopper.jpg"
    except (ImportError, OSError):
        images, name = [torch.randn(3, 512, 512, generator=torch.Generator().manual_seed(0))], "noise"
    return [image.to(device) for image in images], name


def call_rows(seconds: float, device: torch.device, clock: Clock, progress: Progress) -> Iterator[CallRow]:
    """Small maps, where launches and Python cost more than the kernels."""
    pace = harness.Pace(seconds, 2 * 2 * len(calls.OPS))
    for shape in (calls.SMALL, calls.TINY):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
        for op in calls.OPS:
            for trains in (False, True):
                progress.step(f"a call of {op.name} on {shape}{', trained' * trains}")
                with torch.enable_grad() if trains else torch.inference_mode():
                    contest: dict[tuple[str, str], Call] = {
                        (whose, "eager"): call for whose, call in calls.contest_of(op, x, trains).items()
                    }
                    if device.type == "cuda":
                        contest |= {(whose, "graph"): graphs.captured(call) for (whose, _), call in contest.items()}
                    samples = harness.measure(contest, pace.allot(), clock=clock)
                for way in dict.fromkeys(way for _, way in contest):
                    ours, stock = samples["segext", way], samples["stock", way]
                    yield CallRow(
                        op.name, shape, trains, way, Summary.of(ours), Summary.of(stock), harness.ratio(stock, ours)
                    )


def upsampling_rows(
    seconds: float, device: str, clock: Clock, progress: Progress, rehearsal: bool
) -> Iterator[contest.Row]:
    setting = upsampling.Setting(device, BATCH, skip=SKIP)
    if rehearsal:
        setting = upsampling.Setting(device, sizes=(8, 4, 2), skip=4, labels=10)
    dtypes = DTYPES[:1] if rehearsal else NETWORK_DTYPES
    cases = upsampling.cases(dtypes, quick=rehearsal, setting=setting)
    return contest.run(cases, seconds, progress, clock)


def decoding_rows(
    seconds: float, device: str, clock: Clock, progress: Progress, rehearsal: bool
) -> Iterator[contest.Row]:
    """Unpooling and convolution of DeconvNet's stages, and of float32 also beside stock without TF32."""
    stages, batch = (((4, 8),), 1) if rehearsal else (decoding.STAGES, BATCH)
    cases = [
        decoding.unpooling(decoding.UNPOOLING, channels, size, getattr(torch, dtype), device=device, batch=batch)
        for dtype in NETWORK_DTYPES
        for channels, size in stages
    ]
    strict = [replace(case, op=decoding.STRICT) for case in cases if case.input.dtype is torch.float32]
    share = seconds / (len(cases) + len(strict))
    yield from contest.run(cases, share * len(cases), progress, clock)
    with torch.backends.cudnn.flags(enabled=True, benchmark=torch.backends.cudnn.benchmark, allow_tf32=False):
        yield from contest.run(strict, share * len(strict), progress, clock)


def memory_rows(device: torch.device, rehearsal: bool) -> Iterator[memory.Row]:
    """Nothing on the CPU, whose allocator does not count."""
    if device.type == "cpu":
        return
    batch = 1 if rehearsal else BATCH
    pool = DECONVNET.pools[0]
    x = torch.randn(batch, pool.channels, pool.height, pool.width, device=device)
    for format in FORMATS:
        subject = Subject.of(pool, x, torch.float32, format)
        yield from memory.op_rows(subject, f"{tuple(x.shape)} float32", format)
        del subject
    yield from memory.step_rows(DECONVNET, batch, device)


class Findings:
    """What has been measured, written down every few seconds: a part that is ended loses little."""

    def __init__(self, works: Sequence[Work], results: Results, path: Path) -> None:
        self.works = works
        self.results = results
        self.calls: list[CallRow] = []
        self.memory: list[memory.Row] = []
        self.failures: list[str] = []
        self._path = path
        self._saved = time.monotonic()

    def save_now_and_then(self) -> None:
        if time.monotonic() - self._saved > SAVE_EVERY:
            self._saved = time.monotonic()
            self.outcome().write(self._path)

    def verdicts(self) -> list[Verdict]:
        return targets.verdicts(self.results.throughput, self.results.upsampling, self.results.decoding)

    def details(self) -> dict:
        rows = [
            {
                **asdict(row),
                "gigabytes_per_second": targets.gigabytes_per_second(row),
                "copy_percent": targets.copy_percent(row),
            }
            for row in self.results.throughput
        ]
        return {
            "environment": self.results.environment,
            "throughput": rows,
            "upsampling": [asdict(row) for row in self.results.upsampling],
            "decoding": [asdict(row) for row in self.results.decoding],
            "calls": [asdict(row) for row in self.calls],
            "memory": [asdict(row) for row in self.memory],
            "targets": [asdict(verdict) for verdict in self.verdicts()],
            "notes": self.results.notes,
            "failures": self.failures,
            "table": self.table(),
        }

    def table(self) -> str:
        """What is shown at the end of the run."""
        shown = [_speed(self.results)] if self.results.throughput else []
        for title, rows in (
            ("Upsampling of class scores", self.results.upsampling),
            ("Unpooling and convolution", self.results.decoding),
        ):
            shown += [_contest(title, rows)] if rows else []
        shown += [_calls(self.calls)] if self.calls else []
        shown += [_memory(self.memory)] if self.memory else []
        verdicts = self.verdicts()
        shown += [tables.targets(verdicts)] if verdicts else []
        return "\n\n".join(shown) + "\n"

    def outcome(self) -> Outcome:
        verdicts = self.verdicts()
        summary = f"{sum(verdict.met for verdict in verdicts)} of {len(verdicts)} targets met"
        timed = {(row.pool, row.batch, row.dtype, row.suite) for row in self.results.throughput}
        left_out = sum((work.pool.name, work.batch, work.dtype, work.suite) not in timed for work in self.works)
        if left_out:
            summary += f", {left_out} of {len(self.works)} maps were not timed"
        if self.failures:
            summary += f", {len(self.failures)} failures, first: {self.failures[0][:160]}"
        return Outcome("failed" if self.failures or left_out else "passed", summary, self.details())


def run(job: Job) -> Outcome:
    start = time.monotonic()
    seconds = 0.0 if job.rehearsal else job.seconds  # takes the fewest samples possible
    device = torch.device(job.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    facts = machine.facts(job.device)
    images, named = photographs(device)
    works = plan(job.rehearsal, facts["memory"])
    found = Findings(works, Results({**environment(named), **facts}), job.out / "bench.json")
    results, progress = found.results, Progress()
    cold, waiting = clocks.clocks(device)
    upsampled = upsampling_rows(UPSAMPLING * seconds, job.device, cold, progress, job.rehearsal)
    decoded = decoding_rows(DECODING * seconds, job.device, cold, progress, job.rehearsal)
    throughput_rows = throughput.run(
        works,
        images,
        THROUGHPUT * seconds - (time.monotonic() - start),
        progress,
        compile=not job.rehearsal,
        notes=results.notes,
        late=math.inf if job.rehearsal else None,
        clock=cold,
        failures=found.failures,
    )
    for what, rows, measured in (
        ("throughput", results.throughput, throughput_rows),
        ("decoding", results.decoding, decoded),
        ("upsampling", results.upsampling, upsampled),
        ("calls", found.calls, call_rows(CALLS * seconds, device, waiting, progress)),
        ("memory", found.memory, memory_rows(device, job.rehearsal)),
    ):
        progress.step(what)
        try:
            for row in measured:
                rows.append(row)
                found.save_now_and_then()
        except Exception as error:  # whatever failed, the other results are worth having
            traceback.print_exc()
            found.failures.append(f"{what}: {type(error).__name__}: {error}")
    progress.close()
    for text in (tables.key(results), *tables.networks(results)) if results.throughput else ():
        print(text, end="\n\n")
    print(found.table(), *results.notes, *found.failures, sep="\n")
    _draw(results, job.out / "bench.png")
    return found.outcome()


def _draw(results: Results, path: Path) -> None:
    if not results.throughput:
        return
    try:
        from .. import figure
    except ImportError:
        results.notes.append("no picture: matplotlib is not installed")
        return
    figure.draw(results, path, copies=100 / targets.COPY_PERCENT)


def _speed(results: Results) -> str:
    rows = []
    for row in results.key_rows:
        compiled = tables.times(row.to_compiled.median) if row.to_compiled else "-"
        copy = row.bytes_moved / row.times["copy"].median
        rows.append(
            [
                row.op, row.dtype, row.format,
                f"{targets.gigabytes_per_second(row):.0f}", f"{copy:.0f}", f"{targets.copy_percent(row):.0f}",
                tables.spread(row.to_stock), compiled, tables.times(row.to_best.median),
                f"{row.times[f'segext {row.format}'].median / 1e3:.1f}", "stock wins" if row.stock_wins else "",
            ]
        )  # fmt: skip
    first = results.key_rows[0]
    head = ["op", "type", "format", "GB/s", "copy", "%", "vs stock", "vs compiled", "vs best stock", "us", ""]
    shape = (first.batch, first.channels, first.height, first.width)
    return tables.table(f"Every op on {shape}: of the bytes that must move", head, rows, left=3)


def _contest(title: str, found: Sequence[contest.Row]) -> str:
    rows = [
        [
            row.op, row.map, row.dtype, row.format, row.kernels, f"{targets.gigabytes_per_second(row):.0f}",
            f"{targets.copy_percent(row):.0f}" if row.to_copy else "-", tables.spread(row.to_stock),
            tables.times(row.to_best.median), row.best, f"{row.times[f'segext {row.format}'].median / 1e3:.1f}",
            "stock wins" if row.stock_wins else "",
        ]
        for row in found
    ]  # fmt: skip
    head = ["op", "map", "type", "format", "kernels", "GB/s", "%", "vs stock", "vs best stock", "best stock", "us", ""]
    return tables.table(f"{title}: of the bytes that must move", head, rows, left=5)


def _calls(found: list[CallRow]) -> str:
    rows = [
        [
            row.op, str(row.shape), "forward+backward" if row.trains else "inference", row.way,
            f"{row.segext.median / 1e3:.1f}", f"{row.stock.median / 1e3:.1f}", tables.times(row.ratio.median), "",
        ]
        for row in found
    ]  # fmt: skip
    head = ["op", "shape", "mode", "execution", "segext", "stock", "vs stock", ""]
    return tables.table("What a caller waits for a call, in microseconds (float32, NCHW)", head, rows, left=4)


def _memory(found: list[memory.Row]) -> str:
    def mebibytes(row: memory.Row, *whose: str) -> str:
        return next((f"{row.bytes[name] / 2**20:.1f}" for name in whose if name in row.bytes), "-")

    # For a training step, segext's figure is the one with the fused pool.
    rows = [[row.what, row.format, mebibytes(row, "stock"), mebibytes(row, "segext", "relu_pool"), ""] for row in found]
    return tables.table("Device memory at the peak, MiB", ["peak of", "format", "stock", "segext", ""], rows, left=2)
