"""What changed from one run to another beyond noise, and whether the two can be compared at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from .reading import Figures, Kind

MACHINE = ("processor", "cores", "system", "instruction set", "torch instruction set", "device", "architecture")
SETTINGS = ("threads",)
VERSIONS = ("torch", "segext", "python", "commit", "cuda", "cudnn", "driver")
INPUT = ("images",)

BETTER = {Kind.RATIO: "faster", Kind.COST: "faster", Kind.TIME: "faster", Kind.BYTES: "smaller", Kind.PEAK: "smaller"}
WORSE = {Kind.RATIO: "slower", Kind.COST: "slower", Kind.TIME: "slower", Kind.BYTES: "bigger", Kind.PEAK: "bigger"}
VERDICTS = ("slower", "bigger", "faster", "smaller")  # bad news first
BAD = VERDICTS[:2]


@dataclass(frozen=True)
class Change:
    """A figure that moved beyond noise. ``gain``: how many times as good it became; below 1 it became worse."""

    verdict: str
    what: str
    measure: str
    kind: Kind
    before: float
    after: float
    gain: float


@dataclass(frozen=True)
class Comparison:
    """``stock_moved``: how many times as long stock took in the second run, None where times say nothing."""

    changes: list[Change]
    unmoved: int
    only: tuple[list[str], list[str]]  # names of the rows that only one run has, by run
    stock_moved: float | None


def differences(a: Mapping[str, object], b: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """Where two environments differ, the machine first."""
    names = [*MACHINE, *SETTINGS, *VERSIONS, *INPUT]
    return {name: (a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)}


def same_machine(a: Mapping[str, object], b: Mapping[str, object]) -> bool:
    """And the same number of threads on it: what makes times comparable."""
    return not differences(a, b).keys() & {*MACHINE, *SETTINGS}


def compare(a: Figures, b: Figures, share: float, *, times: bool) -> Comparison:
    """What moved from ``a`` to ``b``: its quartiles do not overlap, and its median moved by more than ``share``.

    Counted bytes move by any difference. Without ``times``, which other machines change, only ratios and bytes count.
    """
    changes, unmoved, moved = [], 0, []
    for key in a.keys() & b.keys():
        kind, before, after = a[key].kind, a[key].value, b[key].value
        if kind is Kind.STOCK_TIME:
            moved.append(after.median / before.median)
        elif kind is not Kind.TIME or times:
            gain = _gain(kind, before.median, after.median)
            overlap = before.low <= after.high and after.low <= before.high
            least = 0.0 if kind is Kind.BYTES else share
            if overlap or 1 / (1 + least) <= gain <= 1 + least:
                unmoved += 1
            else:
                verdict = (BETTER if gain > 1 else WORSE)[kind]
                changes.append(Change(verdict, *key, kind, before.median, after.median, gain))
    changes.sort(
        key=lambda c: (VERDICTS.index(c.verdict), -max(c.gain, 1 / c.gain if c.gain else float("inf")), c.what)
    )
    names = [{what for what, _ in figures} for figures in (a, b)]
    only = sorted(names[0] - names[1]), sorted(names[1] - names[0])
    return Comparison(changes, unmoved, only, median(moved) if moved and times else None)


def _gain(kind: Kind, before: float, after: float) -> float:
    better, worse = (after, before) if kind is Kind.RATIO else (before, after)
    if better == worse:
        return 1.0
    return better / worse if worse else float("inf")
