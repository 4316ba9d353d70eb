"""Unpooling, by switches and by int64 indices: values, strides and derivatives agree with the reference and stock."""

import itertools

import pytest
import torch
import torch.nn.functional as stock
from samples import (
    FLOATS,
    FORMATS,
    LARGE_POOLS,
    LARGE_SHAPES,
    LAYOUTS,
    NETWORK_POOLS,
    POOLS,
    VECTOR_SIZES,
    Pool,
    assert_same,
    channels_last,
    check_unpool,
    contiguous,
    hard_values,
    name,
    normal,
    random_codes,
    stock_unpool,
    threads,
)

import segext.functional as own
from segext import Switches, reference

ops = torch.ops.segext


def pooled(shape, pool, layout=contiguous, dtype=torch.float32):
    """Values and switches of a pool of hard values; the values are replaced so that no two agree."""
    output, switches = own.max_pool2d(layout(hard_values(shape, torch.float32)), *pool, return_indices=True)
    return normal(output.shape, dtype), switches


def random_switches(shape, pool, layout=contiguous, seed=2):
    """Switches made of random bytes, with the geometry of a pool over `shape`."""
    size = (*shape[:-2], *reference.pooled_size(shape[-2:], *pool))
    codes = random_codes(size, pool.bits, seed)
    return Switches(codes, size, shape[-2:], *pool.window, layout is channels_last and len(shape) == 4)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("layout", LAYOUTS, ids=name)
@pytest.mark.parametrize("pool", POOLS, ids=name)
def test_window(pool, layout, dtype, device):
    """Overlapping windows included: the last of them in row-major order keeps the pixel and gets its gradient."""
    values, switches = pooled((2, 5, 13, 19), pool, contiguous, dtype)
    legal = (switches.indices() >= 0).all()
    check_unpool(switches, values, layout, device, stock_agrees=legal)


@pytest.mark.parametrize("switch_layout", FORMATS, ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("pool", NETWORK_POOLS, ids=name)
def test_values_and_switches_in_different_formats(pool, layout, switch_layout, device):
    values, switches = pooled((3, 7, 13, 19), pool, switch_layout)
    assert switches.channels_last == (switch_layout is channels_last)
    check_unpool(switches, values, layout, device)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize(("pool", "shape"), list(zip(LARGE_POOLS, LARGE_SHAPES, strict=True)), ids=name)
def test_codes_of_8_to_32_bits(pool, shape, layout, device):
    values, switches = pooled(shape, pool, layout)
    check_unpool(switches, values, layout, device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("size", [1, 2, 3, *VECTOR_SIZES])
@pytest.mark.parametrize("pool", NETWORK_POOLS, ids=name)
def test_sizes_around_a_vector(pool, size, layout, dtype, device):
    shape = (2, size, 6, 9) if layout is channels_last else (2, 3, 7, 2 * size + 1)
    values, switches = pooled(shape, pool, layout, dtype)
    check_unpool(switches, values, layout, device)


@pytest.mark.parametrize(
    "shape", [(3, 8, 9), (1, 5, 5), (0, 3, 8, 9), (1, 1, 4, 4), (3, 1, 9, 7), (5, 3, 5, 5), (3, 17, 57, 61)], ids=name
)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("pool", [Pool(2), Pool(3, 2, 1), Pool(2, 1)], ids=name)
def test_shape(pool, layout, shape, device):
    values, switches = pooled(shape, pool, layout)
    check_unpool(switches, values, layout, device)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        *itertools.product(POOLS, [(2, 5, 13, 19), (3, 9, 10), (2, 33, 8, 67)]),
        *zip(LARGE_POOLS, LARGE_SHAPES, strict=True),
    ],
    ids=name,
)
def test_random_bytes_as_codes(pool, shape, layout, device):
    """Codes that name no tap or no pixel place nothing and gather zero, in every op that reads codes."""
    switches = random_switches(shape, pool, layout)
    taps = reference.unpack(switches.codes, switches.shape, pool.bits, switches.channels_last)
    indices = reference.tap_indices(taps, shape[-2:], *pool.window)
    values = normal(switches.shape)
    check_unpool(switches, values, layout, device, stock_agrees=False)
    moved = switches.to(device)
    assert_same(moved.indices(), indices)

    x, mask = layout(normal(shape, seed=4)), layout(hard_values(switches.shape, torch.float32))
    last = switches.channels_last
    for relu_output in (None, mask):
        on_device = None if relu_output is None else relu_output.to(device)
        grad = ops.max_pool2d_backward(
            layout(values.to(device)), moved.codes, on_device, shape[-2:], *pool.window, last
        )
        expected = reference.max_pool2d_backward(values, taps, shape[-2:], *pool.window, relu_output=relu_output)
        assert_same(grad, expected)
        grad = ops.max_pool2d_double_backward(
            x.to(device), moved.codes, on_device, switches.shape[-2:], *pool.window, last
        )
        assert_same(grad, reference.max_pool2d_double_backward(x, taps, *pool.window, relu_output=relu_output))


@pytest.mark.parametrize("byte", [0, 0x55, 0xFF])
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("pool", [*NETWORK_POOLS, LARGE_POOLS[1], LARGE_POOLS[2]], ids=name)
def test_one_byte_as_codes(pool, layout, byte, device):
    """The largest code of every width, far outside the window, among them."""
    switches = random_switches((2, 9, 37, 41), pool, layout)
    switches.codes.fill_(byte)
    check_unpool(switches, normal(switches.shape), layout, device, stock_agrees=False)


def test_duplicates_by_hand(device):
    """Two windows of a row share the largest value: the second stays, and alone gets the gradient."""
    x = torch.tensor([1.0, 9.0, 2.0], device=device).view(1, 1, 1, 3)
    _, switches = own.max_pool2d(x, (1, 2), 1, return_indices=True)
    for indices in (switches, switches.indices()):
        values = torch.tensor([[[[5.0, 7.0]]]], device=device, requires_grad=True)
        output = own.max_unpool2d(values, indices, (1, 2), 1)
        assert output.flatten().tolist() == [0, 7, 0]
        output.backward(torch.full_like(output, 3))
        assert values.grad.flatten().tolist() == [0, 3]


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("index_layout", FORMATS, ids=name)
@pytest.mark.parametrize("layout", LAYOUTS, ids=name)
@pytest.mark.parametrize("pool", [Pool(2), Pool(3, 2, 1), Pool(3, 1, 1), Pool((2, 3), (3, 2), (1, 0))], ids=name)
def test_indices(pool, layout, index_layout, dtype, device):
    """Stock's int64 indices, unique or not: stock's values and strides; the gradient goes to what stayed."""
    x = hard_values((2, 5, 13, 19), torch.float32)
    _, indices = stock.max_pool2d(x, *pool, return_indices=True)
    values = normal(indices.shape, dtype)
    arguments = (*pool.window[:3], (13, 19))
    moved = layout(values.to(device)).requires_grad_()
    output = own.max_unpool2d(moved, index_layout(indices.to(device)), *arguments)
    assert_same(output, stock_unpool(layout(values), indices, (13, 19)), strides=True)
    assert_same(output, reference.max_unpool2d_indices(layout(values), indices, (13, 19)))

    grad = layout(normal(x.shape, dtype).to(device)).requires_grad_()
    (grad_values,) = torch.autograd.grad(output, moved, grad, create_graph=True)
    assert_same(grad_values, reference.max_unpool2d_indices_backward(grad.detach().cpu(), indices))
    tangent = layout(normal(values.shape, dtype, seed=3).to(device))
    (grad_grad,) = torch.autograd.grad(grad_values, grad, tangent)
    assert_same(grad_grad, reference.max_unpool2d_indices(tangent.cpu(), indices, (13, 19)))


@pytest.mark.parametrize("shape", [(3, 9, 10), (1, 1, 5, 5), (0, 3, 8, 9), (2, 65, 57, 61)], ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_indices_of_shape(layout, shape, device):
    x = layout(hard_values(shape, torch.float32))
    values, indices = stock.max_pool2d(x, 3, 2, 1, return_indices=True)
    output = own.max_unpool2d(values.to(device), indices.to(device), 3, 2, 1, shape[-2:])
    assert_same(output, stock_unpool(values, indices, shape[-2:]), strides=True)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_many_indices_name_one_pixel(layout, device):
    values = layout(normal((2, 3, 8, 9)).to(device))
    indices = torch.full(values.shape, 17, device=device)
    output = own.max_unpool2d(values, indices, 2)
    expected = torch.zeros(2, 3, 16, 18)
    expected[:, :, 0, 17] = values[:, :, -1, -1].cpu()
    assert_same(output, expected)


def any_indices(order, shape, pixels):
    """Indices of every plane: the same pixel many times, within a block of the kernels and in blocks far apart."""
    generator = torch.Generator().manual_seed(5)
    if order == "random":
        return torch.randint(0, pixels, shape, generator=generator)
    if order == "out of range":
        wild = torch.randint(-pixels, 2 * pixels, shape, generator=generator)
        wild.flatten()[:2] = torch.tensor([torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max])
        return wild
    ascending = torch.arange(shape[-2] * shape[-1]).view(shape[-2:]) * 3 % pixels
    shifts = torch.randint(0, 9, shape, generator=generator)
    indices = (ascending + shifts) % pixels
    return indices.flip((-2, -1)) if order == "descending" else indices


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("order", ["ascending", "descending", "random", "out of range"])
@pytest.mark.parametrize("channels", [1, 7, 16, 17, 40, 67])
def test_indices_in_any_order_on_any_number_of_threads(channels, order, layout, dtype, device):
    """Also where threads divide the channels of one sample, at any of them."""
    shape, size = (2, channels, 37, 41), (73, 81)
    indices = any_indices(order, shape, size[0] * size[1])
    values, grad = normal(shape, dtype), normal((*shape[:2], *size), dtype, seed=2)
    expected = reference.max_unpool2d_indices(values, indices, size)
    expected_grad = reference.max_unpool2d_indices_backward(grad, indices)
    values, grad, indices = (layout(x.to(device)) for x in (values, grad, indices))
    last = layout is channels_last
    for count in (1, 2, 3, 5):
        with threads(count):
            assert_same(ops.max_unpool2d_indices(values, indices, size, last), expected)
            assert_same(ops.max_unpool2d_indices_backward(grad, indices, shape[-2:], last), expected_grad)


@pytest.mark.parametrize("last", [False, True])
def test_indices_of_an_empty_batch(last, device):
    shape = (0, 17, 4, 4)
    indices = torch.zeros(shape, dtype=torch.int64, device=device)
    assert ops.max_unpool2d_indices(normal(shape).to(device), indices, (8, 8), last).shape == (0, 17, 8, 8)
    grad = normal((0, 17, 8, 8)).to(device)
    assert ops.max_unpool2d_indices_backward(grad, indices, (4, 4), last).shape == shape


@pytest.mark.parametrize("output_size", [None, (4, 6), (5, 7), (2, 3, 5, 7), [3, 5], torch.Size((5, 5))])
def test_output_size_of_indices(output_size, device):
    """Stock's rule: by default the smallest map, else any less than one stride away."""
    x = normal((2, 3, 4, 6))
    values, _ = stock.max_pool2d(x, 2, return_indices=True)
    indices = torch.arange(6).view(2, 3).expand(values.shape).contiguous()
    output = own.max_unpool2d(values.to(device), indices.to(device), 2, output_size=output_size)
    assert_same(output, stock.max_unpool2d(values, indices, 2, output_size=output_size), strides=True)


@pytest.mark.parametrize("output_size", [None, (5, 7), (3, 5, 7), (2, 3, 5, 7), torch.Size((2, 3, 5, 7)), [5, 7]])
def test_output_size_of_switches(output_size, device):
    """The recorded size is the default; given in any rank it must agree, and its leading sizes are not looked at."""
    values, switches = own.max_pool2d(normal((2, 3, 5, 7)).to(device), 2, return_indices=True)
    assert own.max_unpool2d(values, switches, output_size=output_size).shape == (2, 3, 5, 7)
    assert own.max_unpool2d(values, switches, 2, 2, 0, output_size).shape == (2, 3, 5, 7)


def test_odd_sizes_land_where_they_came_from(device):
    """By default stock unpools a 4x5 map to 4x4 and moves the maxima of its lower half; switches know the size."""
    x = torch.tensor([[9.0, 1, 8, 1, 0], [1, 1, 1, 1, 0], [7, 1, 6, 1, 0], [1, 1, 1, 1, 0]]).view(1, 1, 4, 5)
    misplaced = stock.max_unpool2d(*stock.max_pool2d(x, 2, return_indices=True), 2)
    assert misplaced.tolist() == [[[[9, 0, 8, 0], [0, 0, 0, 0], [0, 0, 7, 0], [6, 0, 0, 0]]]]
    values, switches = own.max_pool2d(x.to(device), 2, return_indices=True)
    placed = own.max_unpool2d(values, switches, 2)
    assert placed.tolist() == [[[[9, 0, 8, 0, 0], [0, 0, 0, 0, 0], [7, 0, 6, 0, 0], [0, 0, 0, 0, 0]]]]


def test_dilated_pool_unpools(device):
    """Stock's max_unpool2d has no dilation; switches carry it."""
    x = normal((2, 3, 12, 13)).to(device)
    values, switches = own.max_pool2d(x, 2, 3, 0, 2, return_indices=True)
    assert_same(own.max_pool2d(own.max_unpool2d(values.abs(), switches), 2, 3, 0, 2), values.abs())


@pytest.mark.parametrize("by_indices", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS[:-1], ids=name)
@pytest.mark.parametrize("values_layout", FORMATS, ids=name)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_out(dtype, values_layout, layout, by_indices, device):
    """`out` is returned and filled whole, whatever it held and however it is laid out."""
    values, switches = pooled((2, 9, 13, 70), Pool(3, 2, 1), values_layout, dtype)
    values, switches = values_layout(values.to(device)), switches.to(device)
    indices = switches.indices() if by_indices else switches
    out = layout(torch.full((2, 9, 13, 70), torch.nan, dtype=dtype, device=device))
    expected = own.max_unpool2d(values, indices, 3, 2, 1, (13, 70))
    strides, address = out.stride(), out.data_ptr()
    assert own.max_unpool2d(values, indices, 3, 2, 1, (13, 70), out=out) is out
    assert (out.stride(), out.data_ptr()) == (strides, address)
    assert_same(out, expected)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_out_of_the_ops(layout, device):
    """The ops themselves write to memory in their own format."""
    values, switches = pooled((2, 9, 13, 70), Pool(3, 2, 1), layout)
    values, codes = layout(values.to(device)), switches.codes.to(device)
    geometry = (switches.input_size, *Pool(3, 2, 1).window, switches.channels_last)
    for functional, into, arguments in (
        (ops.max_unpool2d, ops.max_unpool2d_out, (values, codes)),
        (ops.max_pool2d_backward, ops.max_pool2d_backward_out, (values, codes, None)),
    ):
        out = layout(torch.full((2, 9, 13, 70), torch.nan, device=device))
        assert into(*arguments, *geometry, out) is None
        assert_same(out, functional(*arguments, *geometry))


def test_out_holds_a_slice_of_a_larger_buffer(device):
    """Nothing around the slice is touched."""
    values, switches = pooled((2, 3, 8, 10), Pool(2))
    buffer = torch.full((2, 3, 10, 12), 7.0, device=device)
    own.max_unpool2d(values.to(device), switches.to(device), out=buffer[:, :, 1:-1, 1:-1])
    expected = torch.full((2, 3, 10, 12), 7.0)
    expected[:, :, 1:-1, 1:-1] = own.max_unpool2d(values, switches)
    assert_same(buffer, expected)


def test_result_is_the_same_every_time(device):
    """Overlapping windows and duplicate indices on many threads."""
    values, switches = pooled((2, 16, 101, 103), Pool(3, 1, 1))
    values, switches = values.to(device), switches.to(device)
    with threads(5):
        for indices in (switches, switches.indices()):
            first = own.max_unpool2d(values, indices, 3, 1, 1)
            assert all(torch.equal(own.max_unpool2d(values, indices, 3, 1, 1), first) for _ in range(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name)
@pytest.mark.parametrize("size", [(16, 24), (17, 16), (25, 24), (25, 16)])
def test_gradient_where_the_map_is_larger_than_the_windows(size, dtype, device):
    """The switches read nothing below the last row of windows: also where rows of several planes are read at once."""
    numbers = torch.arange(1, 769, dtype=torch.float32, device=device).view(2, 8, 6, 8)
    codes = torch.randint(0, 256, (2, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(device)
    window = [2, 2], [2, 2], [0, 0], [1, 1], False
    places = ops.max_unpool2d(numbers, codes, list(size), *window).long().flatten()
    grad = normal((2, 8, *size), dtype).to(device)
    expected = torch.zeros(769, dtype=dtype, device=device).index_put((places,), grad.flatten())[1:].view(2, 8, 6, 8)
    assert_same(ops.max_unpool2d_backward(grad, codes, [6, 8], *window), expected)
