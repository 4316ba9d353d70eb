"""Max-pooling with switches: values, indices, codes, strides and derivatives agree with stock and the reference."""

from itertools import product

import pytest
import torch
import torch.nn.functional as stock
from samples import (
    FLOATS,
    FORMATS,
    INTEGERS,
    LARGE_POOLS,
    LARGE_SHAPES,
    LAYOUTS,
    NETWORK_POOLS,
    POOLS,
    VECTOR_SIZES,
    Pool,
    assert_same,
    channels_last,
    check_pool,
    check_pool_backward,
    contiguous,
    hard_values,
    name,
    normal,
    threads,
    tie_free,
)

import segext.functional as own
from segext import reference


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS, ids=name)
@pytest.mark.parametrize("layout", LAYOUTS, ids=name)
@pytest.mark.parametrize("pool", POOLS, ids=name)
def test_window(pool, layout, dtype, device):
    check_pool(hard_values((2, 5, 13, 19), dtype), pool, layout, device)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("shape", [(2, 5, 13, 18), (2, 5, 14, 19), (2, 5, 15, 20)], ids=name)
def test_windows_that_would_start_in_the_far_padding(shape, layout, device):
    """With ceil_mode one that starts in its first pixel is left out, along either axis; one pixel before, it is not."""
    x = hard_values(shape, torch.float32)
    check_pool(x, Pool(2, (7, 5), 1, ceil_mode=True), layout, device)
    check_pool(x, Pool(2, (7, 5), ceil_mode=True), layout, device)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("layout", LAYOUTS, ids=name)
@pytest.mark.parametrize("pool", POOLS, ids=name)
def test_window_backward(pool, layout, dtype, device):
    check_pool_backward(hard_values((2, 5, 13, 19), dtype), pool, layout, device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8], ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize(("pool", "shape"), list(zip(LARGE_POOLS, LARGE_SHAPES, strict=True)), ids=name)
def test_codes_of_8_to_32_bits(pool, shape, layout, dtype, device):
    switches = check_pool(hard_values(shape, dtype), pool, layout, device)
    assert switches.bits == pool.bits
    if dtype.is_floating_point:
        check_pool_backward(hard_values(shape, dtype), pool, layout, device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("pool", [Pool(13, 1, 6), Pool(14), Pool((3, 126), 2), Pool((3, 127), 2)], ids=name)
def test_more_taps_than_a_half_type_has_nans(pool, layout, dtype, device):
    """NaNs in several rows of a window, of which the last wins."""
    # Vectors lie along rows or along channels; the reference takes a copy of the map for each tap.
    width = pool.window[0][1] + 5
    x = hard_values((2, 5, 15, 131) if layout is contiguous else (2, 70, 15, width), dtype)
    check_pool(x, pool, layout, device)
    check_pool(x, pool, layout, device, relu=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int8], ids=name)
@pytest.mark.parametrize("width", VECTOR_SIZES)
@pytest.mark.parametrize("pool", NETWORK_POOLS, ids=name)
def test_rows_around_a_vector(pool, width, dtype, device):
    for pooled in (width, 2 * width + 1):
        check_pool(hard_values((2, 3, 7, pooled), dtype), pool, contiguous, device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int8], ids=name)
@pytest.mark.parametrize("channels", [1, 2, 3, *VECTOR_SIZES])
@pytest.mark.parametrize("pool", NETWORK_POOLS, ids=name)
def test_channels_around_a_vector(pool, channels, dtype, device):
    check_pool(hard_values((2, channels, 7, 8), dtype), pool, channels_last, device)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("channels", [1, 16, 31, 64, 131])
@pytest.mark.parametrize("pool", [Pool(5, 1, 2), Pool((3, 6), 2, 1), Pool(12, 5, 6), Pool(20, 7, 3)], ids=name)
def test_many_taps_of_many_channels(pool, channels, dtype, device):
    """Up to 400: more than bytes number, and more than vectors of half types do."""
    check_pool(hard_values((1, channels, 23, 25), dtype), pool, channels_last, device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("size", VECTOR_SIZES)
@pytest.mark.parametrize("pool", NETWORK_POOLS, ids=name)
def test_backward_around_a_vector(pool, size, layout, dtype, device):
    shape = (2, size, 6, 9) if layout is channels_last else (2, 3, 7, 2 * size + 1)
    check_pool_backward(hard_values(shape, dtype), pool, layout, device)


@pytest.mark.parametrize(
    "shape",
    [(3, 8, 9), (1, 5, 5), (0, 3, 8, 9), (1, 1, 4, 4), (3, 1, 9, 7), (5, 3, 5, 5), (1, 7, 3, 3), (2, 2, 3, 70)],
    ids=name,
)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("pool", [Pool(2), Pool(3, 2, 1), Pool(2, 1), Pool(3)], ids=name)
def test_shape(pool, layout, shape, device):
    """Unbatched, empty, one pixel, one channel, and samples whose codes end within a byte."""
    check_pool(hard_values(shape, torch.float32), pool, layout, device)
    check_pool_backward(hard_values(shape, torch.float32), pool, layout, device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("pool", NETWORK_POOLS, ids=name)
def test_maps_of_many_threads(pool, layout, dtype, device):
    """Maps large enough to be shared among threads, odd in every size."""
    with threads(2):
        for shape in ((3, 17, 57, 61), (1, 3, 301, 203), (1, 259, 15, 15)):
            check_pool(hard_values(shape, dtype), pool, layout, device)
        if dtype.is_floating_point:
            check_pool_backward(hard_values((3, 17, 57, 61), dtype), pool, layout, device)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("value", [0.0, -torch.inf, torch.inf, torch.nan])
@pytest.mark.parametrize("pool", POOLS, ids=name)
def test_ties(pool, value, layout, dtype, device):
    """In a map of one value the first tap inside the map wins; of NaNs the last."""
    switches = check_pool(torch.full((1, 3, 11, 37), value, dtype=dtype), pool, layout, device)
    row, column = switches.indices()[0, 0, 0, 0].item() // 37, switches.indices()[0, 0, 0, 0].item() % 37
    last = [d * ((k - 1) - (-(-p // d))) if value != value else 0 for k, _, p, d in zip(*pool.window, strict=True)]
    first = [-(-p // d) * d - p for _, _, p, d in zip(*pool.window, strict=True)]
    assert [row, column] == [f + offset for f, offset in zip(first, last, strict=True)]


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_last_nan_wins(layout, dtype, device):
    row = torch.tensor([1, torch.nan, torch.nan, 5], dtype=dtype)
    x = layout(row.view(1, 1, 1, 4).expand(2, 33, 1, 4).contiguous().to(device))
    output, switches = own.max_pool2d(x, (1, 4), return_indices=True)
    assert output.isnan().all()
    assert (switches.indices() == 2).all()


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_zeros_are_equal(layout, dtype, device):
    """-0 and +0 tie, so the first wins and keeps its sign."""
    x = torch.tensor([[-0.0, 0.0], [0.0, -0.0]], dtype=dtype).view(1, 1, 2, 2).repeat(1, 33, 1, 40)
    check_pool(x, Pool(2), layout, device)
    assert own.max_pool2d(layout(x.to(device)), 2).signbit().all()


@pytest.mark.parametrize("dtype", [*FLOATS, torch.int32], ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_window_wholly_in_the_padding(layout, dtype, device):
    """It gives the lowest value, code 0 and no pixel, while stock's index lies outside the map."""
    x = torch.ones(1, 1, 1, 1, dtype=dtype)
    pool = Pool(2, 2, 1, 2)
    output, switches = own.max_pool2d(layout(x.to(device)), *pool, return_indices=True)
    _, stock_index = stock.max_pool2d(x, *pool, return_indices=True)
    assert output.item() == (-torch.inf if dtype.is_floating_point else torch.iinfo(dtype).min)
    assert not switches.codes.any()
    assert (switches.indices().item(), stock_index.item()) == (-1, 2)
    if dtype.is_floating_point:
        assert not own.max_unpool2d(output, switches).any()
        leaf = layout(x.to(device)).requires_grad_()
        own.max_pool2d(leaf, *pool).backward(torch.ones_like(output))
        assert not leaf.grad.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_half_types_add_in_float32(layout, dtype, device):
    """289 windows take one pixel. Stock's sum of their ones stops at 256 in bfloat16."""
    x = torch.zeros(1, 3, 33, 33, dtype=dtype)
    x[:, :, 16, 16] = 1
    x = layout(x.to(device)).requires_grad_()
    own.max_pool2d(x, 17, 1).sum().backward()
    assert x.grad[0, :, 16, 16].tolist() == 3 * [torch.tensor(289.0).to(dtype).item()]
    assert x.grad.count_nonzero() == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=name)
def test_half_gradients_are_rounded_float32_gradients(dtype, device):
    x = tie_free((2, 3, 15, 17)).to(device)
    grads = []
    for kind in (dtype, torch.float32):
        leaf = x.to(dtype).to(kind).requires_grad_()
        output = own.max_pool2d(leaf, 5, 1, 2)
        output.backward(normal(output.shape, dtype).to(device, kind))
        grads.append(leaf.grad)
    assert_same(grads[0], grads[1].to(dtype))


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("grad_layout", LAYOUTS, ids=name)
def test_gradient_in_another_layout(grad_layout, layout, device):
    x = layout(tie_free((2, 5, 9, 11), torch.float32))
    leaf = x.to(device).requires_grad_()
    output = own.max_pool2d(leaf, 3, 2)
    grad = grad_layout(normal(output.shape))
    output.backward(grad_layout(grad.to(device)))
    _, taps = reference.max_pool2d(x, 3, 2)
    assert_same(leaf.grad, reference.max_pool2d_backward(grad, taps, (9, 11), 3, 2))
    assert leaf.grad.stride() == x.stride()


def test_threads_change_nothing():
    """One thread and several give the same bytes, forward and backward."""
    x = hard_values((2, 19, 111, 113), torch.float32)

    def run(count):
        leaf = x.clone().requires_grad_()
        with threads(count):
            output, switches = own.max_pool2d(leaf, 3, 2, 1, return_indices=True)
            output.backward(normal(output.shape))
        return output, switches.codes, leaf.grad

    for one, several in zip(run(1), run(5), strict=True):
        assert_same(several, one)


def test_strides_of_any_strides():
    """Overlapping and expanded maps too: the rule by which stock tells channels_last from NCHW."""
    memory = torch.zeros(50)
    for shape in product((1, 2), repeat=4):
        for strides in product((0, 1, 2, 6), repeat=4):
            x = memory.as_strided(shape, strides)
            assert own.max_pool2d(x, 1).stride() == stock.max_pool2d(x, 1).stride(), (shape, strides)


@pytest.mark.parametrize(
    "shape", [(2, 1, 6, 8), (2, 4, 2, 2), (2, 4, 1, 6), (1, 4, 2, 2), (1, 1, 2, 2), (2, 1, 2, 2)], ids=name
)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_strides_of_maps_that_are_in_both_formats(layout, shape, device):
    """One channel, or one pixel: as stock's, at every step there and back."""
    x = layout(normal(shape)).to(device)
    pool = (1, 2) if shape[2] == 1 else 2
    output, switches = own.max_pool2d(x, pool, return_indices=True)
    expected, indices = stock.max_pool2d(x, pool, return_indices=True)
    assert_same(output, expected, strides=True)
    unpooled = own.max_unpool2d(output, switches)
    assert unpooled.stride() == x.stride()
    # On CUDA, stock's unpooling is always NCHW.
    assert_same(unpooled, stock.max_unpool2d(expected, indices, pool), strides=device.type == "cpu")

    nhwc = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert_same(own.max_pool2d(nhwc, pool), stock.max_pool2d(nhwc, pool), strides=True)


@pytest.mark.parametrize("make", [torch.Tensor.to_mkldnn, lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)])
def test_layouts_without_kernels_are_stock_s(make):
    x = make(normal((1, 3, 8, 8)))
    actual, expected = own.max_pool2d(x, 2), stock.max_pool2d(x, 2)
    to_dense = (lambda t: t.dequantize()) if x.is_quantized else (lambda t: t.to_dense())
    assert torch.equal(to_dense(actual), to_dense(expected))
