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
    else; for that of targets once the loss is queued or, of a loss that has a gradient, once the whole backward pass
    is, so that the device does not idle meanwhile. Then it is ``backward()`` that raises. A wait for targets is for an
    event, which :func:`torch.cuda.set_sync_debug_mode` does not tell of. Without the check, and while a CUDA graph is
    captured or a graph compiled, an index out of range places and gathers nothing, and a target out of range counts as
    ignored. Switches are never checked: they need not be.
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
    """Calls ``check`` with the least and the largest of zero and those values that are not ``ignored``, late.

    The device finds the two before it runs kernels that are launched next and read the values; the host waits for them
    after it has queued these, and queues what follows while they run. So the kernels must do no harm whatever the
    values are.
    """

    _parts: Tensor | None = None

    def __init__(self, values: Tensor, ignored: int, check: Callable[[int, int], None]) -> None:
        self._check = check
        self._parts = ops.extremes(values, ignored).to("cpu", non_blocking=True)  # which is pinned memory
        self._arrived = torch.cuda.Event()
        self._arrived.record(torch.cuda.current_stream(values.device))

    def wait(self) -> None:
        """Raises what ``check`` raises, the first time. Nothing is checked while a graph is captured, which must not
        wait for an event."""
        parts, self._parts = self._parts, None
        if parts is not None and not torch.cuda.is_current_stream_capturing():
            self._arrived.synchronize()
            self._check(*_of_all(parts))

    def wait_behind(self, node: torch.autograd.graph.Node | None) -> None:
        """Waits at the end of the backward pass that runs a node of the graph, or now if there is none.

        Behind the callbacks that others, such as DistributedDataParallel, have queued by then: of those behind one that
        raises, autograd calls none.
        """
        if node is None:
            self.wait()
        else:
            queue = torch.autograd.Variable._execution_engine.queue_callback
            node.register_hook(lambda *_: queue(lambda: queue(self.wait)))

    def __del__(self) -> None:
        self.wait()  # the node never ran: what is raised here is printed


def _of_all(parts: Tensor) -> tuple[int, int]:
    low, high = torch.aminmax(parts)
    return int(low), int(high)
