"""torch.compile as the benchmarks use it: static shapes, no graph breaks, nothing left over from case to case."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager

import torch


def compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False, fullgraph=True)


@contextmanager
def fresh():
    """A scope whose compiled functions recompile for nothing that came before, and whose backwards can run twice."""
    import torch._functorch.config

    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        yield
    torch._dynamo.reset()
