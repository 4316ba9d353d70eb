"""One call against stock's ways to the same result, in both memory formats, interleaved: transposed convolution and
its fusions are measured so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import harness, memory
from .harness import Call, CheckFailed, Clock, Pace, Summary
from .pooling import FORMATS
from .progress import Progress
from .throughput import copy_of


@dataclass(frozen=True)
class Row:
    """How many times as fast segext is as stock in the same format, and as stock's best way in either."""

    op: str
    map: str
    dtype: str
    format: str
    bytes_moved: int
    times: dict[str, Summary]
    to_stock: Summary
    to_best: Summary
    best: str
    # segext's time as a multiple of writing the result and of copying bytes_moved; None where arithmetic dominates it
    to_write: Summary | None
    to_copy: Summary | None
    kernels: str
    peaks: dict[str, int]  # peak bytes of a call beyond its result; CPU only
    operations: int = 0  # multiplications and additions that the result needs; 0: not counted
    to_peer: Summary | None = None  # speedup over another library, which reads NCHW

    @property
    def less_memory(self) -> float:
        """The peak of the leanest stock variant over the peak of segext's call."""
        least = min(peak for way, peak in self.peaks.items() if way.startswith("stock"))
        return least / max(self.peaks[f"segext {self.format}"], 1)

    @property
    def stock_wins(self) -> bool:
        return self.to_best.median < 1

    @property
    def where(self) -> str:
        return f"{self.map}, {self.dtype} {self.format}"


@dataclass(frozen=True)
class Case:
    """One call: ``segext`` and every way of ``stock`` take the input in a memory format; ``kernels``: whose run."""

    op: str
    map: str
    input: Tensor
    segext: Callable[[Tensor], Tensor | tuple[Tensor, ...]]
    stock: dict[str, Callable[[Tensor], Tensor | tuple[Tensor, ...]]]
    kernels: Callable[[Tensor], str]
    added_bytes: int = 0  # moved besides the input and the (first) result
    operations: int = 0  # multiplications and additions that the result needs; 0: not counted
    trains: bool = False  # the calls compute gradients and return them, the input's first
    peer: Callable[[], Tensor] | None = None  # the same call in another library


def run(cases: Sequence[Case], seconds: float, progress: Progress, clock: Clock = harness.cpu_clock) -> Iterator[Row]:
    """Checks and times every case in about ``seconds``."""
    pace = Pace(seconds, len(cases))
    for case in cases:
        progress.step(f"{case.op} {case.map} {case.input.dtype}")
        with torch.enable_grad() if case.trains else torch.inference_mode():
            yield from rows(case, pace.allot(), clock)


def rows(case: Case, seconds: float, clock: Clock = harness.cpu_clock) -> Iterator[Row]:
    inputs = {name: case.input.contiguous(memory_format=memory_format) for name, memory_format in FORMATS.items()}
    contest: dict[str, Call] = {}
    for format, x in inputs.items():
        contest[f"segext {format}"] = lambda x=x: case.segext(x)
        for way, function in case.stock.items():
            contest[f"{way} {format}"] = lambda x=x, function=function: function(x)
    _check(case, contest if case.peer is None else {**contest, "peer": case.peer})
    buffer = _all(case.segext(case.input))[0].clone()
    bytes_moved = sum(x.numel() * x.element_size() for x in (case.input, buffer)) + case.added_bytes
    entries = {**contest, "write": lambda: buffer.zero_(), "copy": copy_of(bytes_moved, buffer.device)}
    if case.peer is not None:
        entries["peer NCHW"] = case.peer
    samples = harness.measure(entries, seconds, clock=clock)
    peaks = {} if case.input.is_cuda else {name: _least_peak(call) for name, call in contest.items()}
    ways = [name for name in samples if name.startswith("stock")]
    best = min(ways, key=lambda way: Summary.of(samples[way]).median)
    for format, x in inputs.items():
        ours = samples[f"segext {format}"]
        bound_by_memory = not (case.trains or case.kernels(x).startswith("matrix"))
        yield Row(
            op=case.op,
            map=case.map,
            dtype=str(case.input.dtype).removeprefix("torch."),
            format=format,
            bytes_moved=bytes_moved,
            times={name: Summary.of(values) for name, values in samples.items()},
            to_stock=harness.ratio(samples[f"stock {format}"], ours),
            to_best=harness.ratio(samples[best], ours),
            best=best,
            to_write=harness.ratio(ours, samples["write"]) if bound_by_memory else None,
            to_copy=harness.ratio(ours, samples["copy"]) if bound_by_memory else None,
            kernels=case.kernels(x).partition(":")[0],
            peaks=peaks,
            operations=case.operations,
            to_peer=harness.ratio(samples["peer NCHW"], ours) if case.peer is not None else None,
        )


def _least_peak(call: Call) -> int:
    """Of two calls, after many: the system's accounts err upwards in one of them."""
    return min(memory.peak_bytes(call) for _ in range(2))


def _check(case: Case, contest: dict[str, Call]) -> None:
    """All ways agree within the rounding of their type; of labels, all but the few that it decides."""
    expected = contest["stock NCHW"]()
    # On CUDA, stock multiplies float32 with the precision of TF32.
    tolerance = 0.05 if case.input.element_size() == 2 or case.input.is_cuda else 1e-3
    for name, call in contest.items():
        first, *others = zip(_all(call()), _all(expected), strict=True)
        what = f"{case.op} of {case.input.dtype}: {name}"
        check_near(*first, tolerance, what)
        for result, right in others:  # gradients of weights sum over all pixels: all are as inexact as the largest
            check_near(result / right.abs().max(), right / right.abs().max(), tolerance, what)


def _all(results: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (results,) if isinstance(results, Tensor) else results


def check_near(result: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Raises CheckFailed unless scores are within the tolerance, or as large a share of labels is the same."""
    if result.is_floating_point():
        agrees = torch.allclose(result, expected, rtol=tolerance, atol=tolerance)
    else:
        agrees = (result == expected).float().mean() > 1 - tolerance
    if not agrees:
        raise CheckFailed(f"{what} differs from stock's")
