"""Device memory, counted by the CUDA allocator: the peak of each op and of a training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..memory import LAYERS, stack
from ..networks import Network
from ..pooling import FORMATS, FRESH, Subject
from ..throughput import mode_of


@dataclass(frozen=True)
class Row:
    """Bytes that a call needs at its peak beyond what there was before, its result among them."""

    what: str
    format: str
    bytes: dict[str, int]  # keyed by whose layers they are


def peak(call: Callable[[], object]) -> int:
    """After a call that fills torch's and the compiler's own caches."""
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def op_rows(subject: Subject, what: str, format: str) -> Iterator[Row]:
    for op in FRESH:
        with mode_of(op):
            calls = op.calls(subject)
            yield Row(f"{op.name}, {what}", format, {"stock": peak(calls.stock), "segext": peak(calls.segext)})


def step_rows(network: Network, batch: int, device: torch.device) -> Iterator[Row]:
    """Forward and backward of the network's convolutions, ReLUs and pools, in bfloat16."""
    pool = network.pools[0]
    for format, memory_format in FORMATS.items():
        image = torch.rand(batch, 3, pool.height, pool.width, device=device, dtype=torch.bfloat16)
        image = image.contiguous(memory_format=memory_format)
        peaks = {}
        for whose in LAYERS:
            torch.manual_seed(0)
            model = stack(network, whose).to(device, torch.bfloat16, memory_format=memory_format)

            def step(model=model, image=image) -> Tensor:
                loss = model(image).float().sum()
                loss.backward()
                model.zero_grad(set_to_none=True)
                return loss.detach()

            peaks[whose] = peak(step)
        yield Row(f"training step of {network.name}'s encoder, batch {batch}, bfloat16", format, peaks)
