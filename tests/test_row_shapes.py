"""Maps whose rows CPU kernels do not walk as they lie: short lines, pixels of few channels, outputs beyond caches."""

import pytest
import torch
from samples import (
    FORMATS,
    INTEGERS,
    Pool,
    assert_same,
    channels_last,
    check_pool,
    check_pool_backward,
    check_unpool,
    contiguous,
    hard_values,
    name,
    normal,
)

import segext.functional as own
from segext import reference

TYPES = (torch.float32, torch.bfloat16)


def check_all(shape, pool, layout, dtype, device):
    x = hard_values(shape, dtype)
    switches = check_pool(x, pool, layout, device)
    check_pool(x, pool, layout, device, relu=True)
    check_pool_backward(x, pool, layout, device)
    check_unpool(switches.to("cpu"), normal(switches.shape, dtype), layout, device)


@pytest.mark.parametrize("dtype", [*TYPES, torch.float64], ids=name)
@pytest.mark.parametrize("rest", [(0, 0), (1, 0), (0, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("columns", [1, 2, 5, 7, 11, 15, 17, 33])
@pytest.mark.parametrize("pool", [Pool(2), Pool(3), Pool(2, ceil_mode=True), Pool(3, ceil_mode=True)], ids=name)
def test_short_lines_that_windows_tile(pool, columns, rest, dtype, device):
    """As wide as their windows; as high, so that planes join; or with more to spare, which ceil_mode's windows take."""
    shape = (2, 37, 5 * pool.kernel_size + rest[0], columns * pool.kernel_size + rest[1])
    check_all(shape, pool, contiguous, dtype, device)


@pytest.mark.parametrize("dtype", TYPES, ids=name)
@pytest.mark.parametrize("channels", [1, 3, 8, 13, 21])
@pytest.mark.parametrize(
    "pool",
    [
        Pool(2),
        Pool(3, 2, 1),
        Pool(2, 1),
        Pool(2, 3, 1),
        Pool(3, 2, 1, 2),
        Pool((2, 3), (5, 4), (1, 1), 3),
        Pool((3, 5), 3, (1, 2), (2, 1)),
    ],
    ids=name,
)
def test_pixels_of_few_channels(pool, channels, dtype, device):
    """Lines of more pixels than are taken apart at a time."""
    check_all((1, channels, 11, 1999), pool, channels_last, dtype, device)


@pytest.mark.parametrize("dtype", INTEGERS, ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("channels", [1, 3, 8, 40])
@pytest.mark.parametrize("pool", [Pool(2), Pool(3), Pool(3, 2, 1), Pool(3, 1, 1, 2), Pool((9, 28), 3)], ids=name)
def test_integers(pool, channels, layout, dtype, device):
    check_pool(hard_values((2, channels, 21, 199), dtype), pool, layout, device)
    check_pool(hard_values((3, channels, 36, 30), dtype), pool, layout, device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (Pool(2), (2, 24, 600, 602)),
        (Pool(2), (2, 64, 360, 481)),
        (Pool(2), (3, 3, 1200, 1201)),
        (Pool(2), (1, 44000, 14, 14)),
        (Pool(3, 2, 1), (2, 24, 600, 602)),
        (Pool(3), (5, 16, 601, 602)),
        (Pool((3, 17), (2, 16)), (2, 24, 600, 602)),
    ],
    ids=name,
)
def test_large_outputs_of_the_caller(pool, shape, layout, dtype, device):
    """Written around the caches in whole aligned vectors wherever they start, and nothing beside them."""
    x = layout(normal(shape, dtype).to(device))
    pooled, switches = own.max_pool2d(x, *pool, return_indices=True)
    expected = own.max_unpool2d(pooled, switches)
    assert expected.nbytes >= 2**24
    for offset in (0, 1, 13):
        room = torch.full((x.numel() + 64,), 7, dtype=dtype, device=device)
        out = room[offset : offset + x.numel()].view(shape)
        if layout is channels_last:
            out = out.view(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)
        own.max_unpool2d(pooled, switches, out=out)
        assert_same(out, expected)
        assert room[:offset].eq(7).all()
        assert room[offset + x.numel() :].eq(7).all()


@pytest.mark.parametrize("dtype", TYPES, ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("shape", [(2, 3, 331, 109), (1, 211, 18, 17), (2, 37, 45, 40)], ids=name)
@pytest.mark.parametrize(
    "pool",
    [
        Pool(4),
        Pool((3, 8), padding=(1, 2), ceil_mode=True),
        Pool(2, 4),
        Pool(2, 2, 0, 2),
        Pool(3, 2, 1, (1, 3)),
        Pool(7, 4, 3),
        Pool(9, 1, 4),
        Pool((17, 16), (5, 8), 8),
    ],
    ids=name,
)
def test_windows_whose_switches_are_followed(pool, shape, layout, dtype, device):
    """Planes that are written in several bands, and many that are written in one."""
    check_all(shape, pool, layout, dtype, device)


@pytest.mark.parametrize("dtype", TYPES, ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("shape", [(3, 5, 71, 1), (4, 6, 1), (2, 1, 9, 1), (2, 3, 9, 2)], ids=name)
@pytest.mark.parametrize(
    "pool",
    [
        Pool((2, 1)),
        Pool((4, 1), 3, (2, 0), ceil_mode=True),
        Pool((3, 1), (2, 5), (1, 0), (2, 7)),
        Pool((5, 1), 1, (2, 0)),
        Pool((2, 3), 1, 1),
        Pool((3, 2), 2, 1),
    ],
    ids=name,
)
def test_maps_of_one_column(pool, shape, layout, dtype, device):
    """Of one or of two, of which a pool may leave one."""
    check_all(shape, pool, layout, dtype, device)


@pytest.mark.parametrize("shape", [(2, 3, 24, 41), (1, 2, 151, 73)], ids=str)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize(
    "pool",
    [Pool(3, 1, 1), Pool((5, 7), (1, 2), (2, 3)), Pool(3, 2, 1, 3), Pool((2, 3), 1, 1, (2, 1)), Pool(7, 1, 3)],
    ids=name,
)
def test_winners_of_overlapping_windows(pool, layout, shape, device):
    """Every pixel is named by many windows, and read by the last alone; planes are marked whole or in parts."""
    x = torch.zeros(shape)
    x[..., ::5, ::6] = normal(x[..., ::5, ::6].shape).abs() + 1
    _, switches = own.max_pool2d(layout(x), *pool, return_indices=True)
    taps = reference.unpack(switches.codes, switches.shape, pool.bits, switches.channels_last)
    indices = reference.tap_indices(taps, x.shape[-2:], *pool.window)
    assert indices.flatten(2).sort(2).values.diff(dim=2).eq(0).any()
    check_unpool(switches, normal(switches.shape), layout, device)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("pool", [Pool(16, 2, 8), Pool(16, 1, 8), Pool((15, 17), (2, 3), (7, 8))], ids=name)
def test_windows_whose_codes_take_all_values_of_a_byte(pool, layout, device):
    """No value is left to say that an element beyond a row's ends names no tap; with 255 taps one is."""
    check_all((2, 3, 21, 40), pool, layout, torch.float32, device)
