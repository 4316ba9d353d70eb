"""What the machine can do at most, measured in the same run: how fast it copies, and how fast torch multiplies."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import harness
from .harness import Call, Summary
from .progress import Progress
from .throughput import copy_of

COPIED = 256 * 2**20  # bytes that a copy reads and writes, in total: far more than caches hold
SIDE = 1536  # of the matrices that are multiplied


@dataclass(frozen=True)
class Row:
    """Work done in a nanosecond: gigabytes moved, or billions of operations, in a second."""

    what: str  # MEMORY, or the type that is multiplied
    rate: Summary
    most: float  # of all samples: other load on the machine can only lower a rate


MEMORY = "memory"


def run(seconds: float, progress: Progress) -> list[Row]:
    """The limits of the memory, and of arithmetic in float32."""
    progress.step("limits of the machine")
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SIDE, SIDE, generator=generator) for _ in range(2))
    product = torch.empty_like(a)
    contest: dict[str, Call] = {
        MEMORY: copy_of(COPIED, a.device),
        "float32": lambda: torch.mm(a, b, out=product),
    }
    work = {MEMORY: COPIED, "float32": 2 * SIDE**3}
    samples = harness.measure(contest, seconds)
    rates = {what: [work[what] / time for time in times] for what, times in samples.items()}
    return [Row(what, Summary.of(values), max(values)) for what, values in rates.items()]
