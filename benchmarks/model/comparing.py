"""Times and weighs a network and its conversion, in both memory formats, eager and compiled: the rows of the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from segext.memory import measure, saved_bytes

from .. import harness
from ..compiling import fresh
from ..errors import brief
from ..harness import Call, Summary
from ..memory import peak_bytes
from ..pooling import FORMATS
from ..progress import Progress
from .running import TRAINING, Subject, grad_mode

STOCK, SEGEXT = "stock", "segext"
COMPILED = " compiled"


@dataclass(frozen=True)
class Row:
    """What one way to run the network costs. Times in ns, sizes in bytes; None: not counted."""

    input: str
    dtype: str
    task: str
    way: str
    format: str
    time: Summary
    to_best: Summary  # speedup over the fastest stock variant, eager or compiled, in any of the formats
    best: str
    kept: int | None  # bytes that autograd keeps for the backward pass
    switches: int | None  # of all pools: int64 indices or packed switches
    peak: int  # peak during the call, beyond what was in use before it


def rows(
    subjects: Mapping[str, Subject],
    input: str,
    dtype: torch.dtype,
    formats: Sequence[str],
    tasks: Sequence[str],
    seconds: float,
    progress: Progress,
    *,
    compile: bool,
    notes: list[str],
) -> Iterator[Row]:
    """The rows of each task in turn. All ways take turns, in about ``seconds`` besides what compiling takes."""
    entrants = {
        (way, format): subject.to(dtype, FORMATS[format]) for format in formats for way, subject in subjects.items()
    }
    for task in tasks:
        with fresh() if compile else nullcontext(), grad_mode(task):
            running = {**entrants, **(_compiled(entrants, task, progress, notes) if compile else {})}
            contest = {entrant: subject.call(task) for entrant, subject in running.items()}
            progress.step(f"{input}, {task}")
            samples = harness.measure(contest, seconds / len(tasks))
            best = min(
                (entrant for entrant in samples if entrant[0].startswith(STOCK)),
                key=lambda entrant: Summary.of(samples[entrant]).median,
            )
            for (way, format), subject in running.items():
                kept, switches = _counts(subject, way) if task == TRAINING else (None, None)
                yield Row(
                    input=input,
                    dtype=str(dtype).removeprefix("torch."),
                    task=task,
                    way=way,
                    format=format,
                    time=Summary.of(samples[way, format]),
                    to_best=harness.ratio(samples[best], samples[way, format]),
                    best=" ".join(best),
                    kept=kept,
                    switches=switches,
                    peak=_peak(contest[way, format]),
                )


def _compiled(
    entrants: Mapping[tuple[str, str], Subject], task: str, progress: Progress, notes: list[str]
) -> dict[tuple[str, str], Subject]:
    """The same models compiled, breaks in their graphs allowed; what does not compile is left out and noted."""
    found = {}
    for (way, format), subject in entrants.items():
        progress.step(f"{task}, {way} {format} is being compiled")
        compiled = Subject(torch.compile(subject.model, dynamic=False), subject.inputs, subject.loss)
        try:
            compiled.call(task)()
        except Exception as error:  # no compiler, or one of the many ways in which compiling fails
            notes.append(f"{task}: {way} {format} does not compile: {brief(error)}")
        else:
            found[way + COMPILED, format] = compiled
    return found


def _counts(subject: Subject, way: str) -> tuple[int, int | None]:
    """Bytes kept for a training step up to the output, and of switches, which compiled code does not show."""
    if way.endswith(COMPILED):
        given = [*subject.inputs, *subject.model.parameters(), *subject.model.buffers()]
        return saved_bytes(lambda: subject.model(*subject.inputs), given), None
    found = measure(subject.model, subject.inputs)
    return found.kept, found.switches


def _peak(call: Call) -> int:
    def nothing_left() -> Tensor:
        call()
        return torch.empty(0)

    return peak_bytes(nothing_left)
