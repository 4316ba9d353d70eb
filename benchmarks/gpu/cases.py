"""A covering subset of ops and shapes: every kernel at least once, each compared with the CPU to the bit, or the loss
and its gradients within rounding.

Run as a process, it is what compute-sanitizer watches.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

import segext.functional as own
from segext import Switches, ops

# Prefix of the names of results that devices round differently, because each has its own exponential function.
ROUNDED = "loss"
FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


class Case(NamedTuple):
    """A pool on a map. Which kernels it comes to depends on window, channels, width and type."""

    name: str
    shape: tuple[int, int, int, int]
    window: tuple  # arguments of max_pool2d after its input
    dtype: torch.dtype
    format: str

    def __str__(self) -> str:
        return f"{self.name} of {self.shape} {str(self.dtype).removeprefix('torch.')} {self.format}"


class UpsamplingCase(NamedTuple):
    """Upsampling whose channels do not mix. Which kernels it comes to depends on the window and the output's size."""

    name: str
    shape: tuple[int, int, int, int]
    multiplier: int
    window: tuple[int, int, int, int]  # kernel, stride, origin, dilation
    dtype: torch.dtype
    format: str

    def __str__(self) -> str:
        return f"{self.name} of {self.shape} {str(self.dtype).removeprefix('torch.')} {self.format}"


class UnpoolConvCase(NamedTuple):
    """Unpooling and 3x3 convolution in one. Which kernel it comes to depends on type and format, and on the channels,
    whether it has vectors."""

    name: str
    shape: tuple[int, int, int, int]  # of the pooled map
    outputs: int
    size: tuple[int, int]  # of the unpooled map
    padding: tuple[int, int]
    dtype: torch.dtype
    format: str

    def __str__(self) -> str:
        return f"{self.name} of {self.shape} {str(self.dtype).removeprefix('torch.')} {self.format}"


AnyCase = Case | UpsamplingCase | UnpoolConvCase

# A shape that fills whole vectors and one that does not; windows that tile, leave gaps or overlap, and others.
SHAPES = ((2, 32, 32, 32), (2, 3, 17, 23))
# For windows that tile: rows shorter than a vector; rows of whole vectors and a half, in float32 and in bfloat16.
ROWS = ((1, 5, 8, 6), (1, 2, 6, 20), (1, 2, 6, 24))
WINDOWS = {
    "2x2": (2, 2, 0, 1, False),
    "2x2 ceil": (2, 2, 0, 1, True),
    "3x3/2": (3, 2, 1, 1, False),
    "2x2/3": (2, 3, 0, 1, False),
    "2x2/1": (2, 1, 0, 1, False),
    "3x3 dilated": (3, 2, 1, 2, False),
    "5x4": ((5, 4), (3, 4), (2, 1), 1, True),
}
# The types whose kernels the rarer types share.
COMMON = (torch.float32, torch.bfloat16)
DTYPES = (*COMMON, torch.float16, torch.float64, torch.int8)

# The last window spans more than two strides.
UPSAMPLED = ((2, 32, 6, 8), (1, 21, 7, 5))
UPSAMPLING_WINDOWS = {
    "upsampling x2": (1, (4, 2, 1, 1)),
    "upsampling x8, crop": (1, (16, 8, 9, 1)),
    "upsampling 3x3/2 dilated": (2, (3, 2, 2, 2)),
    "upsampling 5x5/2": (1, (5, 2, 0, 1)),
}

# This map is so high that one thread writes several groups of rows.
HIGH = ("upsampling 2x2/1", (1, 2, 21, 5), 1, (2, 1, 0, 1))
# So many samples and channels that blocks use their two buffers of input again and again, on a GPU with the 132
# multiprocessors of an H200 and on most others. test_buffers_are_reused of tests/cuda_emulation checks this shape.
MANY = ("upsampling 2x2/1, many strips", (16, 200, 2, 255), 1, (2, 1, 1, 1))

# Channels, outputs and pixels that fill whole tiles and steps; then some that do not, with windows that the map's edge
# cuts and with outputs for more than one block.
UNPOOL_CONVS = (
    ((2, 32, 16, 16), 64, (32, 32), (1, 1)),
    ((1, 24, 9, 17), 8, (17, 34), (1, 1)),
    ((2, 5, 7, 8), 73, (15, 15), (0, 2)),
)


def all_cases() -> Iterator[AnyCase]:
    yield from pooling_cases()
    yield from upsampling_cases()
    yield from unpool_conv_cases()


def unpool_conv_cases() -> Iterator[UnpoolConvCase]:
    for format in FORMATS:
        for dtype in DTYPES[:4]:
            for shape in UNPOOL_CONVS:
                yield UnpoolConvCase("unpool, 3x3 conv", *shape, dtype, format)


def upsampling_cases() -> Iterator[UpsamplingCase]:
    for format in FORMATS:
        for dtype in DTYPES[:4]:
            for shape in UPSAMPLED:
                for name, (multiplier, window) in UPSAMPLING_WINDOWS.items():
                    if dtype in COMMON or name == "upsampling x2":
                        yield UpsamplingCase(name, shape, multiplier, window, dtype, format)
        for dtype in COMMON:
            yield UpsamplingCase(*HIGH, dtype, format)
            yield UpsamplingCase(*MANY, dtype, format)


def pooling_cases() -> Iterator[Case]:
    for format in FORMATS:
        for dtype in DTYPES:
            for shape in SHAPES:
                for window in WINDOWS:
                    if dtype in COMMON or window in ("2x2", "3x3/2"):
                        yield Case(window, shape, WINDOWS[window], dtype, format)
        for dtype in COMMON:
            for shape in ROWS:
                yield Case("2x2", shape, WINDOWS["2x2"], dtype, format)


def values(case: Case) -> Tensor:
    """Few distinct values, so that ties are common, and, of floats, a NaN and infinities."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-3, 4, case.shape, generator=generator).to(case.dtype)
    if case.dtype.is_floating_point:
        x.view(-1)[:3] = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=case.dtype)
    return x.contiguous(memory_format=FORMATS[case.format])


def results(case: AnyCase, device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
    """What every op makes of the case on ``device``, by name."""
    if isinstance(case, UpsamplingCase):
        return upsampling_results(case, device)
    return unpool_conv_results(case, device) if isinstance(case, UnpoolConvCase) else pooling_results(case, device)


def unpool_conv_results(case: UnpoolConvCase, device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
    """Of small whole numbers, whose sums are exact in any order, and any switches."""
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randint(-3, 4, shape, generator=generator).to(case.dtype)

    samples, channels, height, width = case.shape
    x = numbers(*case.shape).contiguous(memory_format=FORMATS[case.format]).to(device)
    row = (channels * height * width + 3) // 4
    codes = torch.randint(256, (samples, row), generator=generator, dtype=torch.uint8).to(device)
    bias = numbers(case.outputs).to(device)
    rest = (case.size, case.padding)
    for transposed in (False, True):
        weight = numbers(*((channels, case.outputs) if transposed else (case.outputs, channels)), 3, 3).to(device)
        last = case.format == "channels_last"
        for name, added in (("", None), (", bias", bias)):
            kind = "transposed" if transposed else "plain"
            yield (
                f"unpool_conv2d, {kind}{name}",
                ops.unpool_conv2d(x, codes, weight, None, added, *rest, transposed, last),
            )


def upsampling_results(case: UpsamplingCase, device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
    """Of small whole numbers, whose sums are exact in any order, but for the loss and what comes of it."""
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randint(-3, 4, shape, generator=generator).to(case.dtype)

    kernel, *window = case.window
    stride, origin, dilation = ((value, value) for value in window)
    samples, inputs, height, width = case.shape
    outputs = inputs * case.multiplier
    size = tuple((n - 1) * stride[0] + (kernel - 1) * dilation[0] + 1 - 2 * origin[0] for n in (height, width))
    last = case.format == "channels_last"
    x, addend = (
        map.contiguous(memory_format=FORMATS[case.format]).to(device)
        for map in (numbers(*case.shape), numbers(samples, outputs, size[0] + 5, size[1] + 4))
    )
    weight, bias = numbers(inputs, case.multiplier, kernel, kernel).to(device), numbers(outputs).to(device)
    window = (size, stride, origin, dilation)
    yield "upsampling", ops.depthwise_conv_transpose2d(x, weight, None, None, *window, (0, 0), last)
    yield "upsampling, add", ops.depthwise_conv_transpose2d(x, weight, bias, addend, *window, (3, 1), last)
    grad = addend[..., : size[0], : size[1]]
    gradients = ops.depthwise_conv_transpose2d_backward(grad, x, weight, *window[1:], last, True, True, True)
    for name, gradient in zip(("input", "weight", "bias"), gradients, strict=True):
        yield f"gradient of {name}", gradient
    labels, scores = ops.depthwise_conv_transpose2d_argmax(x, weight, bias, *window, last, True)
    yield "argmax", labels
    yield "argmax, scores", scores
    target = torch.randint(-1, outputs, (samples, *size), generator=generator).to(device)
    for reduce, smoothing in ((False, 0.1), (True, 0.0)):
        criterion = (target, None, *window[1:], -1, smoothing, last)
        loss, total_weight, normalizers, labels = ops.depthwise_conv_transpose2d_cross_entropy(
            x, weight, bias, *criterion, reduce, True
        )
        yield f"{ROUNDED} of {'all' if reduce else 'each'}", loss
        yield "weight of all", total_weight
        yield "labels of all", labels
        gradients = ops.depthwise_conv_transpose2d_cross_entropy_backward(
            torch.ones_like(loss), x, weight, bias, None, normalizers, labels, *window[1:], smoothing, last, *[True] * 3
        )
        for name, gradient in zip(("input", "weight", "bias"), gradients, strict=True):
            yield f"{ROUNDED}, gradient of {name}", gradient


def pooling_results(case: Case, device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
    x = values(case).to(device)
    kernel_size, stride, padding, dilation, _ = case.window
    for name, pool in (("max_pool2d", own.max_pool2d), ("relu_max_pool2d", own.relu_max_pool2d)):
        output, switches = pool(x, *case.window, return_indices=True)
        yield name, output
        yield f"{name}, codes", switches.codes
        if not case.dtype.is_floating_point:
            continue
        leaf = x.detach().clone().requires_grad_()
        pooled = pool(leaf, *case.window)
        ones = torch.ones_like(pooled).requires_grad_()
        (grad,) = torch.autograd.grad(pooled, leaf, ones, create_graph=True)
        yield f"{name}, backward", grad.detach()
        yield f"{name}, double backward", torch.autograd.grad(grad, ones, torch.ones_like(grad))[0]
    indices = switches.indices()
    yield "indices", indices
    other = torch.contiguous_format if switches.channels_last else torch.channels_last
    yield "repack", switches.to_memory_format(other).codes
    if (indices >= 0).all():
        yield "from_indices", Switches.from_indices(indices, case.shape, kernel_size, stride, padding, dilation).codes
    if not case.dtype.is_floating_point:
        return
    for name, places in (("switches", switches), ("indices", indices)):
        window = (kernel_size, stride, padding, case.shape[-2:]) if name == "indices" else ()
        if name == "indices" and dilation != 1:
            continue  # stock's rule for output_size does not cover dilation
        leaf = output.detach().clone().requires_grad_()
        unpooled = own.max_unpool2d(leaf, places, *window)
        yield f"max_unpool2d by {name}", unpooled.detach()
        yield f"max_unpool2d by {name}, backward", torch.autograd.grad(unpooled, leaf, torch.ones_like(unpooled))[0]


def same(actual: Tensor, expected: Tensor) -> bool:
    """The same type, shape, strides and bits; all NaN count as one."""
    actual = actual.cpu()
    if (actual.dtype, actual.shape, actual.stride()) != (expected.dtype, expected.shape, expected.stride()):
        return False
    if not actual.dtype.is_floating_point:
        return torch.equal(actual, expected)
    nan = expected.isnan()
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[actual.element_size()]
    return torch.equal(actual.isnan(), nan) and torch.equal(
        actual.masked_fill(nan, 0).view(bits), expected.masked_fill(nan, 0).view(bits)
    )


def near(actual: Tensor, expected: Tensor) -> bool:
    """The same type, shape and strides and, beside the largest of them, the same numbers."""
    actual = actual.cpu()
    if (actual.dtype, actual.shape, actual.stride()) != (expected.dtype, expected.shape, expected.stride()):
        return False
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[actual.dtype]
    return bool((actual.double() - expected.double()).abs().max() <= tolerance * expected.double().abs().max())


def differences(case: AnyCase, device: torch.device | str, compute: Callable = results) -> list[str]:
    """The ops whose result on ``device`` is not the CPU's."""
    return [
        name
        for (name, expected), (_, actual) in zip(results(case, "cpu"), compute(case, device), strict=True)
        if not (near if name.startswith(ROUNDED) else same)(actual, expected)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.cases", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no case later than this")
    parser.add_argument("--common", action="store_true", help="only the types whose kernels the others share")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    cases = [case for case in all_cases() if case.dtype in (COMMON if options.common else DTYPES)]
    done = wrong = 0
    random.Random(0).shuffle(cases)  # so that the cases that there is time for are of all kinds
    for case in cases:
        if time.monotonic() > end:
            break
        for name in differences(case, options.device):
            wrong += 1
            print(f"{name} differs from the CPU's: {case}")
        done += 1
    print(f"{done} of {len(cases)} cases, {wrong} wrong results")
    return int(wrong > 0)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Skips torch's shutdown: under memcheck, with a separate allocation per tensor, one of its threads ends in abort().
    os._exit(status)
