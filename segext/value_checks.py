"""Whether values that say where something belongs, int64 indices and classes, are checked before kernels read them."""

from __future__ import annotations

import torch
from torch import Tensor

from . import ops

_enabled = True


def set_index_check(enabled: bool) -> None:
    """Whether int64 indices and, on CUDA, class targets are checked before they are used; on by default.

    The check is one reduction and, on CUDA, one synchronisation. Without it, and while a CUDA graph is captured or a
    graph compiled, an index out of range places and gathers nothing, and a target out of range counts as ignored.
    Switches are never checked: they need not be.
    """
    global _enabled
    _enabled = enabled


def can_check(values: Tensor) -> bool:
    """Whether values are to be checked, and can be: a capture cannot wait for them."""
    if not _enabled or values.numel() == 0 or not ops.has_values(values):
        return False
    return not (values.is_cuda and torch.cuda.is_current_stream_capturing())


def extremes(values: Tensor) -> tuple[int, int]:
    """The least and the largest."""
    low, high = torch.stack(torch.aminmax(values)).tolist()
    return low, high
