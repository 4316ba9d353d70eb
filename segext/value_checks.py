"""Whether and how values that say where something belongs, int64 indices and classes, are checked."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import ops

_enabled = True


def set_index_check(enabled: bool) -> None:
    """Whether int64 indices and, on CUDA, class targets are checked; on by default.

    The check reads them once. On CUDA the host waits for its result: for that of indices before it launches anything
    else, for that of targets once the loss is queued, so that the device does not idle meanwhile. The second wait is
    for an event, which :func:`torch.cuda.set_sync_debug_mode` does not tell of. Without the check, and while a CUDA
    graph is captured or a graph compiled, an index out of range places and gathers nothing, and a target out of range
    counts as ignored. Switches are never checked: they need not be.
    """
    global _enabled
    _enabled = enabled


def can_check(values: Tensor) -> bool:
    """Whether values are to be checked, and can be: a capture cannot wait for them."""
    if not _enabled or values.numel() == 0 or not ops.has_values(values):
        return False
    return not (values.is_cuda and torch.cuda.is_current_stream_capturing())


def extremes(values: Tensor) -> tuple[int, int]:
    """The least and the largest of zero and the values."""
    return _of_all(ops.extremes(values, 0).cpu())


class LateCheck:
    """Around the launch of CUDA kernels: calls ``check`` with the least and the largest of zero and those values, of
    what the kernels read, that are not ``ignored``.

    The device finds the two before it runs the kernels, and the host waits for them after it has queued these: it then
    queues what follows while they run. So the kernels must do no harm whatever the values are. What ``check`` raises
    comes before an error of the launch.
    """

    def __init__(self, values: Tensor, ignored: int, check: Callable[[int, int], None]) -> None:
        self._check = check
        self._parts = ops.extremes(values, ignored).to("cpu", non_blocking=True)  # which is pinned memory
        self._arrived = torch.cuda.Event()
        self._arrived.record(torch.cuda.current_stream(values.device))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._arrived.synchronize()
        self._check(*_of_all(self._parts))


def _of_all(parts: Tensor) -> tuple[int, int]:
    low, high = torch.aminmax(parts)
    return int(low), int(high)
