"""What a network costs: time, bytes that autograd keeps, bytes of switches, and peaks of memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as stock
from torch import Tensor, nn

import segext.functional as own
from segext.memory import saved_bytes

from ..harness import Summary, measure, ratio
from .plan import STOCK, STOCK_NCHW, Plan, memory_format

ROOT = Path(__file__).resolve().parent.parent.parent


def predictions(models: Mapping[str, nn.Module], image: Tensor, seconds: float) -> dict[str, list[float]]:
    """Nanoseconds of a prediction, turn about."""
    contest: dict[str, Callable[[], object]] = {}
    for way, model in models.items():
        given = image.contiguous(memory_format=memory_format(way))
        contest[way] = lambda model=model, given=given: model.predict(given)
    return measure(contest, seconds, fewest=3, most=21)


def kept(model: nn.Module, images: Tensor, labels: Tensor, ignore: int) -> int:
    """Bytes that autograd keeps for the backward pass of a training step, parameters and images not counted."""
    model.train()
    given = [images, labels, *model.parameters()]
    return saved_bytes(lambda: model(images, labels, ignore_index=ignore), given)


def switches(model: nn.Module, image: Tensor) -> tuple[int, int]:
    """Bytes of where the maxima of all pools were, for one image: as int64 indices and as packed switches."""
    int64 = packed = 0

    def count(pool: nn.MaxPool2d, inputs: tuple[Tensor, ...], output: object) -> None:
        nonlocal int64, packed
        window = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
        int64 += stock.max_pool2d(inputs[0], *window, return_indices=True)[1].nbytes
        packed += own.max_pool2d(inputs[0], *window, return_indices=True)[1].nbytes

    hooks = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, nn.MaxPool2d)]
    try:
        model.predict(image)
    finally:
        for hook in hooks:
            hook.remove()
    return int64, packed


def peaks(network: str, way: str, plan: Plan, size: tuple[int, int]) -> dict[str, int]:
    """Bytes by which a process of its own grows at most in a prediction and in a training step: see ``peak.py``."""
    numbers = (plan.width, plan.crop, plan.batch, *size, torch.get_num_threads())
    command = [sys.executable, "-m", "benchmarks.models.peak", network, way, *map(str, numbers)]
    # Returns freed memory to the system at once, so that a second call cannot reuse memory that the first left.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def to_stock(times: Mapping[str, list[float]], way: str) -> Summary:
    """How many times as fast a way is as stock, in the format in which stock is faster."""
    best = min((STOCK, STOCK_NCHW), key=lambda stock: median(times[stock]))
    return ratio(times[best], times[way])
