"""ReLU and max-pooling in one pass agree with stock's composition of the two, to the bit, and keep only switches."""

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
    hard_values,
    name,
    stock_relu,
)

import segext.functional as own


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS, ids=name)
@pytest.mark.parametrize("layout", LAYOUTS, ids=name)
@pytest.mark.parametrize("pool", POOLS, ids=name)
def test_window(pool, layout, dtype, device):
    check_pool(hard_values((2, 5, 13, 19), dtype), pool, layout, device, relu=True)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("layout", LAYOUTS, ids=name)
@pytest.mark.parametrize("pool", POOLS, ids=name)
def test_window_backward(pool, layout, dtype, device):
    check_pool_backward(hard_values((2, 5, 13, 19), dtype), pool, layout, device, relu=True)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize(("pool", "shape"), list(zip(LARGE_POOLS, LARGE_SHAPES, strict=True)), ids=name)
def test_codes_of_8_to_32_bits(pool, shape, layout, device):
    check_pool(hard_values(shape, torch.float32), pool, layout, device, relu=True)
    check_pool_backward(hard_values(shape, torch.float32), pool, layout, device, relu=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("size", VECTOR_SIZES)
@pytest.mark.parametrize("pool", NETWORK_POOLS, ids=name)
def test_sizes_around_a_vector(pool, size, layout, dtype, device):
    shape = (2, size, 6, 9) if layout is channels_last else (2, 3, 7, 2 * size + 1)
    check_pool(hard_values(shape, dtype), pool, layout, device, relu=True)
    check_pool_backward(hard_values(shape, dtype), pool, layout, device, relu=True)


@pytest.mark.parametrize("shape", [(3, 8, 9), (0, 3, 8, 9), (1, 1, 4, 4), (3, 17, 57, 61)], ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("pool", [Pool(2), Pool(3, 2, 1)], ids=name)
def test_shape(pool, layout, shape, device):
    check_pool(hard_values(shape, torch.float32), pool, layout, device, relu=True)
    check_pool_backward(hard_values(shape, torch.float32), pool, layout, device, relu=True)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("value", [-1.0, -0.0, 0.0, -torch.inf, torch.nan])
@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_no_positive_value(layout, value, dtype, device):
    """Such a window gives 0 at its first tap inside the map, and no gradient; NaN passes both ways."""
    x = torch.full((1, 35, 6, 70), value, dtype=dtype)
    check_pool(x, Pool(3, 2, 1), layout, device, relu=True)
    check_pool_backward(x, Pool(3, 2, 1), layout, device, relu=True)
    leaf = layout(x.detach().to(device)).detach().requires_grad_()
    own.relu_max_pool2d(leaf, 2).sum().backward()
    assert leaf.grad.count_nonzero() == (x.numel() // 4 if value != value else 0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_gradient_behind_relu_is_dropped_whatever_it_is(bad, device):
    """A gradient that is not finite leaves no trace where ReLU cut the value."""
    x = torch.tensor([[-1.0, -2.0, 3.0, 1.0], [-3.0, -4.0, 2.0, 0.0]], device=device).view(1, 1, 2, 4).requires_grad_()
    own.relu_max_pool2d(x, 2).backward(torch.tensor([bad, 5.0], device=device).view(1, 1, 1, 2))
    assert x.grad.flatten().tolist() == [0, 0, 5, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_unpools_like_the_composition(layout, device):
    """Stock's on the CPU: on CUDA its ReLU gives -0.0 another sign, and its unpooling is NCHW."""
    x = layout(hard_values((2, 5, 9, 11), torch.float32).nan_to_num())
    output, switches = own.relu_max_pool2d(layout(x.to(device)), 2, return_indices=True)
    pooled, indices = stock.max_pool2d(stock_relu(x), 2, return_indices=True)
    expected = stock.max_unpool2d(pooled, indices, 2, output_size=(9, 11))
    assert_same(own.max_unpool2d(output, switches), expected, strides=True)
