"""How anything is timed: interleaved repetitions, medians with quartiles, ratios of neighbours, a bounded total.

Knows nothing of pooling or of devices: a *call* is a function without arguments, and a clock says what some calls of it
cost. Another device brings another clock.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Call = Callable[[], object]
Clock = Callable[[Call, int], float]
Key = TypeVar("Key", bound=Hashable)

FEWEST, MOST = 5, 101
FEWEST_WHEN_LATE = 3
# Short calls are repeated, within bounds, until a sample lasts this long.
SAMPLE_NS = 200_000
MOST_CALLS = 100


class CheckFailed(Exception):
    """A result that was about to be timed is wrong."""


def cpu_clock(call: Call, calls: int) -> float:
    """Nanoseconds of one of ``calls`` calls; what they return is dropped inside."""
    start = time.perf_counter_ns()
    for _ in range(calls):
        call()
    return (time.perf_counter_ns() - start) / calls


@dataclass(frozen=True)
class Summary:
    """A median and its quartiles."""

    median: float
    low: float
    high: float
    samples: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, len(values))


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> Summary:
    """Of samples taken in the same repetitions: the median of their ratios, so that slow drift cancels."""
    return Summary.of([a / b for a, b in zip(numerator, denominator, strict=True)])


def measure(
    contest: Mapping[Key, Call],
    seconds: float,
    *,
    clock: Clock = cpu_clock,
    fewest: int = FEWEST,
    most: int = MOST,
) -> dict[Key, list[float]]:
    """Nanoseconds a call, one sample a repetition, for every entry of ``contest``.

    A repetition takes one sample of each entry, in an order that changes, so that a slow spell of the machine and a
    neighbour's cache footprint hit all alike. Repetitions go on for ``seconds``, but within ``fewest`` and ``most``.
    Every entry is warmed up; its inputs are as warm in the caches as the other entries leave them. Without any time
    left, ``seconds`` of 0, fewer repetitions do.
    """
    fewest = fewest if seconds > 0 else min(fewest, FEWEST_WHEN_LATE)
    latest = {}
    for name, call in contest.items():
        clock(call, 1)
        latest[name] = clock(call, 1)
    samples: dict[Key, list[float]] = {name: [] for name in contest}
    order = list(contest)
    shuffle = random.Random(0).shuffle
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        end = time.monotonic() + seconds
        for repetition in range(most):
            if repetition >= fewest and time.monotonic() > end:
                break
            shuffle(order)
            for name in order:
                calls = max(1, min(MOST_CALLS, int(SAMPLE_NS / max(latest[name], 1))))
                latest[name] = clock(contest[name], calls)
                samples[name].append(latest[name])
    finally:
        if collecting:
            gc.enable()
    return samples


class Pace:
    """Spreads the time that is left over the work that is left, so that a run ends about when it should."""

    def __init__(self, seconds: float, work: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = now() + seconds
        self._work = work

    @property
    def late(self) -> float:
        """Seconds past the end."""
        return self._now() - self._end

    def allot(self, work: float = 1.0) -> float:
        """Seconds for the next piece of ``work``; none is left when the run is late."""
        share = max(self._end - self._now(), 0.0) * work / max(self._work, work)
        self._work -= work
        return share
