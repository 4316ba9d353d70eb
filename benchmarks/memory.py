"""Counts bytes: what switches take, what autograd keeps for a backward pass, what a call takes at its peak."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as stock
from torch import Tensor, nn

import segext
import segext.functional as own
from segext.memory import saved_bytes

from .compiling import compiled, fresh
from .harness import CheckFailed
from .networks import DECONVNET, REMEMBERING, Network
from .progress import Progress


@dataclass(frozen=True)
class SwitchRow:
    """Bytes of one network's switches at batch 1, by what holds them."""

    network: str
    elements: int
    int64: int
    int32: int
    uint8: int
    packed: int
    exact: bool  # packed is ceil(C * H * W * bits / 8) for every pool


def switch_bytes(network: Network) -> SwitchRow:
    """Pools random maps of the network's sizes by stock and by segext, compares, and counts what both remember."""
    elements = int64 = int32 = uint8 = packed = 0
    exact = True
    for pool in network.pools:
        map = torch.rand(1, pool.channels, pool.height, pool.width, generator=torch.Generator().manual_seed(0))
        _, indices = stock.max_pool2d(map, *pool.window, return_indices=True)
        _, switches = own.max_pool2d(map, *pool.window, return_indices=True)
        if not torch.equal(switches.indices(), indices):
            raise CheckFailed(f"{network.name} {pool.name}: switches differ from stock's indices")
        elements += indices.numel()
        int64 += indices.nbytes
        int32 += indices.int().nbytes
        uint8 += (indices % 4).to(torch.uint8).nbytes
        packed += switches.nbytes
        exact &= switches.nbytes == (indices.numel() * switches.bits + 7) // 8
    return SwitchRow(network.name, elements, int64, int32, uint8, packed, exact)


def peak_bytes(call: Callable[[], Tensor | tuple[Tensor, ...]]) -> int:
    """Bytes that the process holds at the peak of a call beyond those before it and those of the results.

    Scratch that no allocator of torch's knows of counts too, and so does what a first call loads or keeps: make it
    before. Linux accounts for whole pages, and late.
    """
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _resident("VmRSS")
    result = call()
    results = (result,) if isinstance(result, Tensor) else result
    return max(_resident("VmHWM") - before - sum(x.nbytes for x in results), 0)


def _resident(what: str) -> int:
    return int(re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) * 1024


@dataclass(frozen=True)
class SavedRow:
    """Bytes autograd keeps for convolution, ReLU and pool, stage after stage, batch 1, by whose layers they are."""

    stack: str
    compiled: bool
    stock: int
    pool: int  # segext.nn.MaxPool2d
    relu_pool: int  # segext.nn.ReLUMaxPool2d
    switches_and_output: int  # what ReLUMaxPool2d needs: switches and its own output


LAYERS: dict[str, Callable[..., list[nn.Module]]] = {
    "stock": lambda *window: [nn.ReLU(), nn.MaxPool2d(*window)],
    "pool": lambda *window: [nn.ReLU(), segext.nn.MaxPool2d(*window)],
    "relu_pool": lambda *window: [segext.nn.ReLUMaxPool2d(*window)],
}


def stack(network: Network, whose: str) -> nn.Sequential:
    """The pools of ``network``, each after a convolution and a ReLU."""
    layers: list[nn.Module] = []
    inputs = 3
    for pool in network.pools:
        layers.append(nn.Conv2d(inputs, pool.channels, 3, padding=1))
        inputs = pool.channels
        layers += LAYERS[whose](pool.kernel, pool.stride, pool.padding, 1, False, pool.ceil_mode)
    return nn.Sequential(*layers)


def saved_row(network: Network, *, compile: bool = False) -> SavedRow:
    pool = network.pools[0]
    image = torch.rand(1, 3, pool.height, pool.width, generator=torch.Generator().manual_seed(0))
    # The format that compilers choose. Given another, they would convert image and weights and keep their own copies.
    image = image.contiguous(memory_format=torch.channels_last)
    counts = {}
    outputs = []
    for whose in LAYERS:
        torch.manual_seed(0)
        model = stack(network, whose).to(memory_format=torch.channels_last)
        with fresh():
            call = compiled(model) if compile else model
            counts[whose] = saved_bytes(lambda call=call: call(image), [image, *model.parameters()])
        outputs.append(model(image).detach())
    if not all(torch.equal(outputs[0], output) for output in outputs[1:]):
        raise CheckFailed(f"{network.name}: a stack on segext's layers gives another result")
    needed = 0
    for pool in network.pools:
        map = torch.rand(1, pool.channels, pool.height, pool.width)
        output, switches = own.relu_max_pool2d(map, *pool.window, return_indices=True)
        needed += output.nbytes + switches.nbytes
    what = "all five pools" if len(network.pools) == 5 else ", ".join(pool.name for pool in network.pools)
    return SavedRow(f"{network.name}, {what}", compile, **counts, switches_and_output=needed)


def switch_rows(progress: Progress, *, quick: bool) -> Iterator[SwitchRow]:
    for network in REMEMBERING[:1] if quick else REMEMBERING:
        progress.step(f"switches of {network.name}")
        yield switch_bytes(network)


def saved_rows(progress: Progress, *, compile: bool, notes: list[str]) -> Iterator[SavedRow]:
    for network in (DECONVNET, DECONVNET.only("pool1")):
        progress.step(f"what autograd keeps, {network.name}")
        yield saved_row(network)
    if compile:
        progress.step("what autograd keeps, compiled")
        try:
            yield saved_row(DECONVNET, compile=True)
        except CheckFailed:
            raise
        except Exception as error:  # no compiler, or one of the many ways in which compiling fails
            notes.append(f"the stack does not compile: {type(error).__name__}: {str(error).strip()[:200]}")
