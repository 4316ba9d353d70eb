"""Clocks for calls on a GPU: what the device took on a cold cache, and what the caller waits for.

Both are clocks of ``harness.measure``: nanoseconds of one of some calls, whose results are dropped inside.
"""

from __future__ import annotations

import time

import torch

from ..harness import Call, Clock, cpu_clock

# Reading this many times the size of the L2 evicts all that it held.
FLUSHED_CACHES = 4
# The device idles this long, some 900 us, before each call, so that the whole call is queued when the device starts it:
# queueing a backward pass through Python may take more than 300 us. If the host took longer, the call is timed again
# after an idle time of twice the length, up to this often.
SLEEP_CYCLES = 1_600_000
LENGTHENINGS = 2


class ColdClock:
    """The device's time of a call, between two events, with nothing of it in the L2.

    The L2 is flushed by reading: a flush by writing would leave lines that the call under the clock had to write back.
    A call that itself waits for the device is timed after the longest idle time.
    """

    def __init__(self, l2_bytes: int) -> None:
        self._flush = torch.ones(max(FLUSHED_CACHES * l2_bytes, 2**20) // 4, dtype=torch.int32, device="cuda")
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __call__(self, call: Call, calls: int) -> float:
        return 1e6 * sum(self._milliseconds(call) for _ in range(calls)) / calls

    def _milliseconds(self, call: Call) -> float:
        for lengthening in range(1 + LENGTHENINGS):
            self._flush.amax()
            torch.cuda._sleep(SLEEP_CYCLES << lengthening)
            self._start.record()
            result = call()
            self._end.record()
            device_waited = self._start.query()
            self._end.synchronize()
            del result
            if not device_waited:
                break
        return self._start.elapsed_time(self._end)


def waiting_clock(call: Call, calls: int) -> float:
    """The caller's time of a call, the device's work included: the larger of what either takes."""
    torch.cuda.synchronize()
    start = time.perf_counter_ns()
    for _ in range(calls):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter_ns() - start) / calls


def clocks(device: torch.device) -> tuple[Clock, Clock]:
    """The cold clock and the waiting one of ``device``; in a rehearsal on the CPU, the CPU's for both."""
    if device.type == "cpu":
        return cpu_clock, cpu_clock
    return ColdClock(torch.cuda.get_device_properties(device).L2_cache_size), waiting_clock
