"""Sizes that 32 bits, or the 24 bits of a float's mantissa, do not hold."""

import re
from pathlib import Path

import pytest
import torch

import segext.functional as own

GIB = 2**30


def needs_memory(device, gibibytes):
    """Skips a test that does not fit the device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info()
    else:
        # Pages that only cache files are free too.
        free = 1024 * int(re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())[1])
    if free < gibibytes * GIB:
        pytest.skip(f"needs {gibibytes} GiB of free memory")


def test_indices_beyond_float_precision(device):
    """A row of 2^24 + 3 pixels, whose last indices no float32 tells apart."""
    width = 2**24 + 3
    x = torch.zeros(1, 1, 1, width, dtype=torch.uint8, device=device)
    x[..., -2] = 1
    output, switches = own.max_pool2d(x, (1, 2), 1, return_indices=True)
    assert output.flatten()[-3:].tolist() == [0, 1, 1]
    assert switches.indices().flatten()[-2:].tolist() == [width - 2, width - 2]
    assert switches.mask().flatten()[-3:].tolist() == [0, 1, 0]


def test_rows_above_the_output_are_far_away(device):
    """Of an input row's 256 rows of output, a crop leaves the last. The others would begin 2^31 elements before it."""
    width = 2**23 + 2**16
    x, addend = (torch.arange(width, device=device).remainder(n).float().view(1, 1, 1, -1) for n in (7, 5))
    weight = torch.zeros(1, 1, 512, 1, device=device)
    weight[:, :, 255] = 3
    found = own.conv_transpose2d_add(x, weight, addend, stride=(256, 1), crop=(255, 0), output_size=(1, width))
    assert torch.equal(found, 3 * x + addend)


@pytest.mark.slow
@pytest.mark.xdist_group("memory")
@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [
        ((3, 1, 28000, 28001), False),
        ((3, 28000, 167, 167), True),
        ((28000, 3, 167, 167), False),
    ],
)
def test_more_than_2_31_elements(shape, channels_last, device):
    """In planes, channels or samples: marked pixels are found and put back, the last of the map among them."""
    needs_memory(device, 16)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.empty(shape, dtype=torch.uint8, device=device, memory_format=memory_format).zero_()
    assert x.numel() > 2**31
    height, width = (size // 2 * 2 for size in shape[2:])
    places = [(0, 0, 1, 0), (shape[0] - 1, shape[1] - 1, height - 1, width - 1), (shape[0] // 2, 0, height // 2, 1)]
    for value, place in enumerate(places, 1):
        x[place] = value
    output, switches = own.max_pool2d(x, 2, return_indices=True)
    del x
    assert output.count_nonzero() == len(places)
    for value, (sample, channel, row, column) in enumerate(places, 1):
        assert output[sample, channel, row // 2, column // 2] == value
    unpooled = own.max_unpool2d(output.bfloat16(), switches)
    assert unpooled.count_nonzero() == len(places)
    assert [unpooled[place].item() for place in places] == [1, 2, 3]
    gathered = torch.ops.segext.max_unpool2d_backward(
        unpooled, switches.codes, output.shape[-2:], *switches.window, switches.channels_last
    )
    assert torch.equal(gathered.to(torch.uint8), output)
