"""Whether the converted network gives what the network gives, and by how much they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import Unusable, brief
from ..harness import CheckFailed
from ..pooling import FORMATS
from .running import Subject

EXACT = 1e-9  # relative difference that the rounding of float64 explains
# The same for the other types: the least bound, used where stock's two memory formats differ by little.
ROUNDING = {torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 5e-2}
SLACK = 3  # the bound otherwise, as a multiple of the difference between stock's two formats


@dataclass(frozen=True)
class Check:
    """A relative difference from stock, in the norm of all outputs or gradients together, and the most it may be."""

    task: str
    what: str
    dtype: str
    format: str
    difference: float
    bound: float


def check(
    stock: Subject, converted: Subject, dtype: torch.dtype, formats: Sequence[str], tasks: Sequence[str], notes: list
) -> Iterator[Check]:
    """Compares in float64, where only rounding is let differ, and in ``dtype``.

    In other types, maxima that nearly tie swap places by rounding, and the gradients with them: there the converted
    network may differ as much as stock in one memory format does from stock in the other.

    Raises:
        CheckFailed: at the first difference that is too large.
    """
    if dtype != torch.float64:
        try:
            yield from _exactly(stock, converted, formats[0], tasks)
        except (Unusable, CheckFailed):
            raise
        except Exception as error:  # such as from a network that hard-codes its type
            notes.append(f"not compared in float64, in which the network does not run: {brief(error)}")
    for task in tasks:
        expected = {format: stock.to(dtype, FORMATS[format]).results(task) for format in FORMATS}
        for format in formats:
            (other,) = (results for name, results in expected.items() if name != format)
            actual = _converted(converted.to(dtype, FORMATS[format]), task)
            for what, tensors in expected[format].items():
                rounding, _ = difference(other[what], tensors)
                bound = max(ROUNDING[dtype], SLACK * rounding) if dtype in ROUNDING else EXACT
                yield _judge(task, what, dtype, format, actual[what], tensors, bound)


def _exactly(stock: Subject, converted: Subject, format: str, tasks: Sequence[str]) -> Iterator[Check]:
    stock = stock.to(torch.float64, FORMATS[format])
    for task in tasks:
        expected = stock.results(task)
        actual = _converted(converted.to(torch.float64, FORMATS[format]), task)
        for what, tensors in expected.items():
            yield _judge(task, what, torch.float64, format, actual[what], tensors, EXACT)


def _converted(subject: Subject, task: str) -> dict[str, dict[str, Tensor]]:
    try:
        return subject.results(task)
    except Exception as error:
        raise CheckFailed(f"{task}: the converted network fails where the network runs: {brief(error)}") from error


def _judge(task, what, dtype, format, actual, expected, bound: float) -> Check:
    value, most = difference(actual, expected)
    found = Check(task, what, str(dtype).removeprefix("torch."), format, value, bound)
    if not value <= bound:
        raise CheckFailed(
            f"{task}, {found.dtype} {format}: {what} of the converted network differ by {value:.1e} of their norm "
            f"where {bound:.1e} is rounding, most of all {most}"
        )
    return found


def difference(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """The relative difference of all tensors together, and the name of the one that adds most to it.

    Raises:
        CheckFailed: where names or shapes differ.
        Unusable: for what cannot be compared.
    """
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (actual, expected)]
    if shapes[0] != shapes[1]:
        raise CheckFailed(f"the converted network gives {shapes[0]}, not {shapes[1]}")
    if not all(tensor.isfinite().all() for tensor in expected.values()):
        raise Unusable("the network itself gives NaN or infinity on this input")
    norms = {name: (actual[name].double() - tensor.double()).norm().item() for name, tensor in expected.items()}
    scale = sum(tensor.double().norm().item() ** 2 for tensor in expected.values()) ** 0.5
    total = sum(norm**2 for norm in norms.values()) ** 0.5
    return total / scale if scale else total, max(norms, key=norms.get, default="")
