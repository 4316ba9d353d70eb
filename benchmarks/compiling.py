"""torch.compile as the benchmarks use it: static shapes, no graph breaks, nothing left over from case to case."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import torch

from .harness import Call


class Miscompiled(Exception):
    """A compiled call gives another result than the eager one, so that there is nothing to be compared with."""


def compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False, fullgraph=True)


def check_compiled(call: Call, eager: Call, what: str) -> None:
    """Raises Miscompiled unless ``call``, which stock's compiler made, gives what ``eager`` does, but for rounding."""
    try:
        torch.testing.assert_close(call(), eager(), equal_nan=True)
    except AssertionError:
        raise Miscompiled(f"{what}, compiled, gives another result than eager: left out") from None


@contextmanager
def fresh():
    """A scope whose compiled functions recompile for nothing that came before, and whose backwards can run twice."""
    import torch._functorch.config

    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        yield
    torch._dynamo.reset()
