"""Kernels of the CPU touch nothing beside their arguments: these lie against a page that may not be touched.

Run in a process of its own, which a fault ends, at each level of instructions.
"""

import ctypes
import mmap
import os
import subprocess
import sys
from itertools import product

import pytest
import segext._C
import torch
from levels import LEVELS, run
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import segext.functional as F

SIDES = ("before", "after")
# Channels and widths. Pixels of 5 channels are taken apart, longer ones read as they lie, the longest asked for ahead.
MAPS = (*((5, width) for width in (1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17, 30, 31, 33, 65)), (30, 5), (150, 4))
POOLS = ((2, 2, 0), (3, 2, 1), (3, 3, 0), (2, 1, 0), (3, 1, 1), (5, 2, 2))
TYPES = (torch.float32, torch.float64, torch.bfloat16)
FORMATS = (torch.contiguous_format, torch.channels_last)


class Fenced(TorchDispatchMode):
    """Moves the tensors that ops of segext are given next to a forbidden page on one ``side`` of them."""

    def __init__(self, side):
        super().__init__()
        self.side = side
        self.calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "segext":
            self.calls += 1
            args = tree_map_only(torch.Tensor, lambda x: fence(x, self.side), args)
        return function(*args, **(kwargs or {}))


def fence(x, side):
    """A copy of ``x`` in pages of its own, of which the one on that side may not be touched."""
    if x.numel() == 0:
        return x
    elements = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)) + 1
    taken = elements * x.element_size()
    pages = -(-taken // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    end = pages * mmap.PAGESIZE
    forbidden, start = (0, mmap.PAGESIZE) if side == "before" else (end, end - taken)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + forbidden
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, 0) != 0:
        raise OSError("mprotect failed")
    flat = torch.frombuffer(memory, dtype=x.dtype, count=elements, offset=start)
    flat.copy_(x.detach().as_strided((elements,), (1,), x.storage_offset()))
    return flat.as_strided(x.shape, x.stride())


def sweep(side):
    """The ops of networks on maps whose rows end in each part of a vector. Returns the number of calls of ops."""
    torch.manual_seed(0)
    with Fenced(side) as fenced:
        for dtype, memory_format, (channels, width) in product(TYPES, FORMATS, MAPS):
            x = torch.randn(2, channels, 7, width, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_()
            for kernel, stride, padding in POOLS:
                if width < kernel:
                    continue
                pooled, switches = F.max_pool2d(x, kernel, stride, padding, return_indices=True)
                rectified = F.relu_max_pool2d(x, kernel, stride, padding)
                torch.autograd.grad(pooled.sum() + rectified.sum(), x)
                values = torch.randn_like(pooled).requires_grad_()
                unpooled = F.max_unpool2d(values, switches)
                torch.autograd.grad(unpooled, values, torch.randn_like(unpooled))
                with torch.no_grad():
                    F.max_unpool2d(values, switches, out=torch.empty_like(unpooled))
                by_indices = F.max_unpool2d(values, switches.indices(), kernel, stride, padding, unpooled.shape)
                torch.autograd.grad(by_indices, values, torch.randn_like(by_indices))
            upsample(x, torch.randn(channels, 1, 4, 4, dtype=dtype, requires_grad=True), {"stride": 2, "padding": 1})
            upsample(x, torch.randn(channels, 1, 3, 3, dtype=dtype, requires_grad=True), {"stride": 3, "dilation": 2})
            decode(x, torch.randn(channels, 19, 3, 3, dtype=dtype, requires_grad=True))
    return fenced.calls


def upsample(x, weight, window):
    window = {**window, "groups": x.shape[1]}
    up = F.conv_transpose2d(x, weight, **window)
    torch.autograd.grad(up, (x, weight), torch.randn_like(up))
    F.conv_transpose2d_add(x, weight, torch.randn_like(up), **window)
    F.conv_transpose2d_argmax(x, weight, **window)
    target = torch.randint(0, x.shape[1], (2, *up.shape[2:]))
    loss = F.conv_transpose2d_cross_entropy(x, weight, target, **window)
    torch.autograd.grad(loss, (x, weight))


def decode(x, weight):
    torch.ops.segext.dense_conv_transpose2d(
        x.detach(), weight.detach(), None, [15, 2 * x.shape[3] + 1], [2, 2], [0, 0], [1, 1], False
    )
    codes = torch.randint(0, 256, (2, -(-x[0].numel() * 2 // 8)), dtype=torch.uint8)
    size, channels_last = [14, 2 * x.shape[3]], x.is_contiguous(memory_format=torch.channels_last)
    for transposed in (True, False):
        kernel = (weight if transposed else weight.transpose(0, 1)).detach()
        arguments = size, [1, 1], transposed, channels_last
        out = torch.ops.segext.unpool_conv2d(x.detach(), codes, kernel, None, None, *arguments)
        torch.ops.segext.unpool_conv2d_backward(
            torch.randn_like(out), x.detach(), codes, kernel, *arguments, True, True
        )


@pytest.mark.parametrize("level", LEVELS)
def test_touches_nothing_beside_its_arguments(level):
    if LEVELS.index(level) > LEVELS.index(segext._C.cpu_capability()):
        pytest.skip(f"this processor has no {level}")
    swept = run(__file__, level=level)
    assert swept.returncode == 0, swept.stderr[-2000:]
    assert [int(calls) > 1000 for calls in swept.stdout.split()] == [True, True]


def test_the_page_is_forbidden():
    """What a fault would look like: the process does not live to tell."""
    read = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n" + (
        "import ctypes, torch\n"
        "from test_memory_bounds import fence\n"
        "x = fence(torch.zeros(8), 'after')\n"
        "print(x.sum().item(), flush=True)\n"
        "ctypes.string_at(x.data_ptr(), 33)\n"
    )
    ended = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True)
    assert (ended.stdout, ended.returncode < 0) == ("0.0\n", True)


if __name__ == "__main__":
    print(*map(sweep, SIDES))
