"""CUDA graphs as the benchmarks use them."""

from __future__ import annotations

import torch

from ..harness import Call

WARM_UP = 3


def captured(call: Call) -> Call:
    """A call that replays what ``call`` does on the device."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()

    def replay(kept=kept) -> None:
        graph.replay()

    return replay
