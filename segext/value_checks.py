"""Range checks of int64 indices and class targets: whether they are made, and how."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import ops

_enabled = True


class set_index_check:
    """Enable or disable the range check of int64 indices and, on CUDA, of class targets; enabled by default.

    A function, or a context manager that restores the earlier setting, like :class:`torch.set_grad_enabled`. All
    threads share one setting.

    The check reads the values once. On CUDA the host waits for its result. For indices, it waits before launching
    anything else. For targets, it waits only once the loss is queued or, if the loss has a gradient, once the whole
    backward pass is queued, so that the device does not idle; the error then comes from ``backward()``. The wait for
    targets is for an event, which :func:`torch.cuda.set_sync_debug_mode` does not report.

    Without the check, and during CUDA graph capture and compilation, an index out of range places and gathers nothing,
    and a target out of range counts as ignored. Switches need no check and are never checked.
    """

    def __init__(self, enabled: bool) -> None:
        global _enabled
        self._earlier, _enabled = _enabled, enabled

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        global _enabled
        _enabled = self._earlier


def can_check(values: Tensor) -> bool:
    """Whether values should be checked, and can be: a capture cannot wait for them."""
    if not _enabled or values.numel() == 0 or not ops.has_values(values):
        return False
    return not (values.is_cuda and torch.cuda.is_current_stream_capturing())


def extremes(values: Tensor) -> tuple[int, int]:
    """The smallest and the largest of zero and the values."""
    return _of_all(ops.extremes(values, 0).cpu())


class LateCheck:
    """A deferred call of ``check`` with the smallest and the largest of zero and all values that are not ``ignored``.

    The device computes the two before it runs the kernels launched next, which read the values. The host waits for them
    only after it has queued those kernels, so that work continues meanwhile. The kernels must therefore be safe
    whatever the values are.
    """

    _parts: Tensor | None = None

    def __init__(self, values: Tensor, ignored: int, check: Callable[[int, int], None]) -> None:
        self._check = check
        self._parts = ops.extremes(values, ignored).to("cpu", non_blocking=True)  # into pinned memory
        self._arrived = torch.cuda.Event()
        self._arrived.record(torch.cuda.current_stream(values.device))

    def wait(self) -> None:
        """Raises what ``check`` raises, on the first call. Does not check during graph capture, which must not wait for
        an event."""
        parts, self._parts = self._parts, None
        if parts is not None and not torch.cuda.is_current_stream_capturing():
            self._arrived.synchronize()
            self._check(*_of_all(parts))

    def wait_behind(self, node: torch.autograd.graph.Node | None) -> None:
        """Waits at the end of the backward pass that runs ``node``, or now if there is no node.

        The wait is queued behind the callbacks that others, such as DistributedDataParallel, have queued by then,
        because autograd skips all callbacks after one that raises.
        """
        if node is None:
            self.wait()
        else:
            queue = torch.autograd.Variable._execution_engine.queue_callback
            node.register_hook(lambda *_: queue(lambda: queue(self.wait)))

    def __del__(self) -> None:
        self.wait()  # the node never ran; an exception raised here is printed


def _of_all(parts: Tensor) -> tuple[int, int]:
    low, high = torch.aminmax(parts)
    return int(low), int(high)
