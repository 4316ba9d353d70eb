"""What holds for every window, shape, type and layout: hypothesis looks for a counterexample."""

import pytest
import torch
import torch.nn.functional as stock
from hypothesis import assume, given
from hypothesis import strategies as st
from samples import (
    FLOATS,
    FORMATS,
    INTEGERS,
    LAYOUTS,
    Pool,
    assert_same,
    channels_last,
    check_pool,
    check_pool_backward,
    check_unpool,
    hard_values,
    normal,
    random_codes,
    stock_relu,
    stock_unpool,
)

import segext.functional as own
from segext import Switches, reference

ops = torch.ops.segext
seeds = st.integers(0, 2**32 - 1)


@st.composite
def axes(draw):
    """Kernel, stride, padding, dilation and a map size they fit, along one axis."""
    kernel, stride, dilation = (draw(st.integers(1, most)) for most in (5, 4, 3))
    padding = draw(st.integers(0, kernel // 2))
    least = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
    return kernel, stride, padding, dilation, draw(st.integers(least, least + 14))


@st.composite
def pools(draw):
    """A pool and the shape of a map it fits, batched or not."""
    rows, columns = draw(axes()), draw(axes())
    *window, size = zip(rows, columns, strict=True)
    batch = draw(st.sampled_from(((), (0,), (1,), (2,), (3,))))
    channels = draw(st.integers(1, 9) | st.integers(10, 70))
    if draw(st.booleans()):
        window[1] = None
    return Pool(*window, draw(st.booleans())), (*batch, channels, *size)


def pooled_shape(pool, shape):
    return (*shape[:-2], *reference.pooled_size(shape[-2:], *pool))


def other_format(switches):
    return torch.contiguous_format if switches.channels_last else torch.channels_last


def integers(shape, seed):
    """Small integers in float64, whose sums and products are exact."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-9, 10, shape, generator=generator).double()


@given(pools(), st.sampled_from(FLOATS + INTEGERS), st.sampled_from(LAYOUTS), st.booleans(), seeds)
def test_pool_is_stock(pool_and_shape, dtype, layout, relu, seed):
    pool, shape = pool_and_shape
    check_pool(hard_values(shape, dtype, seed), pool, layout, torch.device("cpu"), relu=relu)


@given(pools(), st.sampled_from(FLOATS), st.sampled_from(LAYOUTS), st.booleans(), seeds)
def test_derivatives_are_the_reference(pool_and_shape, dtype, layout, relu, seed):
    pool, shape = pool_and_shape
    check_pool_backward(hard_values(shape, dtype, seed), pool, layout, torch.device("cpu"), relu=relu)


@given(pools(), st.sampled_from(FLOATS), st.sampled_from(LAYOUTS), st.booleans(), seeds)
def test_unpooling_random_codes_is_the_reference(pool_and_shape, dtype, layout, last, seed):
    pool, shape = pool_and_shape
    size = pooled_shape(pool, shape)
    switches = Switches(random_codes(size, pool.bits, seed), size, shape[-2:], *pool.window, last and len(shape) == 4)
    check_unpool(switches, normal(size, dtype, seed), layout, torch.device("cpu"), stock_agrees=False)


@given(pools(), st.booleans(), seeds)
def test_gather_is_the_adjoint_of_scatter(pool_and_shape, last, seed):
    """<scatter(v), m> == <v, gather(m)>, exactly, for both rules of overlap and whatever the codes."""
    pool, shape = pool_and_shape
    size = pooled_shape(pool, shape)
    codes, last = random_codes(size, pool.bits, seed), last and len(shape) == 4
    values, full = integers(size, seed), integers(shape, seed + 1)
    map_size = (shape[-2:], *pool.window, last)
    pooled_size = (size[-2:], *pool.window, last)

    placed = ops.max_unpool2d(values, codes, *map_size)
    gathered = ops.max_unpool2d_backward(full, codes, *pooled_size)
    assert (placed * full).sum() == (values * gathered).sum()

    added = ops.max_pool2d_backward(values, codes, None, *map_size)
    gathered = ops.max_pool2d_double_backward(full, codes, None, *pooled_size)
    assert (added * full).sum() == (values * gathered).sum()


@given(pools(), st.integers(1, 3), st.booleans(), seeds)
def test_gradients_of_upsampling_are_its_adjoint(pool_and_shape, multiplier, last, seed):
    """<upsample(x, w), g> is <x, grad of x> and <w, grad of w>, exactly, whatever the window."""
    pool, shape = pool_and_shape
    shape = shape if len(shape) == 4 else (1, *shape)
    kernel, stride, origin, dilation = pool.window
    size = pooled_shape(pool, shape)
    values = integers(size, seed)
    weight = integers((size[1], multiplier, *kernel), seed + 1)
    grad = integers((size[0], size[1] * multiplier, *shape[-2:]), seed + 2)
    window = (stride, origin, dilation)
    output = ops.depthwise_conv_transpose2d(values, weight, None, None, shape[-2:], *window, (0, 0), last)
    by_input, by_weight, by_bias = ops.depthwise_conv_transpose2d_backward(
        grad, values, weight, *window, last, True, True, True
    )
    product = (output * grad).sum()
    assert (values * by_input).sum() == product
    assert (weight * by_weight).sum() == product
    assert torch.equal(by_bias, grad.sum((0, 2, 3)))


@given(pools(), st.sampled_from(FORMATS), seeds)
def test_unpooling_maxima_keeps_them_in_place(pool_and_shape, layout, seed):
    """unpool(pool(x)) is x where a switch points and zero elsewhere, and pooling once more changes no maximum > 0."""
    pool, shape = pool_and_shape
    x = layout(integers(shape, seed))
    values, switches = own.max_pool2d(x, *pool, return_indices=True)
    unpooled = own.max_unpool2d(values, switches)
    assert_same(unpooled, torch.where(switches.mask() == 1, x, 0), strides=False)
    again = own.max_pool2d(unpooled, *pool)
    assert torch.equal(again[values > 0], values[values > 0])


@given(pools(), st.booleans(), seeds)
def test_unpooling_by_indices_is_stock(pool_and_shape, last, seed):
    """Whatever the indices, unique or not."""
    pool, shape = pool_and_shape
    last = last and len(shape) == 4
    size, output_size = pooled_shape(pool, shape), shape[-2:]
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(0, output_size[0] * output_size[1], size, generator=generator)
    values = normal(size, seed=seed)
    values = channels_last(values) if last else values
    actual = ops.max_unpool2d_indices(values, indices, output_size, last)
    assert_same(actual, stock_unpool(values, indices, output_size))
    gradient = ops.max_unpool2d_indices_backward(normal(shape, seed=seed), indices, size[-2:], last)
    assert_same(gradient, reference.max_unpool2d_indices_backward(normal(shape, seed=seed), indices))


@given(st.integers(1, 70000), st.booleans(), st.booleans(), seeds, st.data())
def test_packing_loses_nothing(taps, last, batched, seed, data):
    """In the reference: unpack inverts pack, and a sample takes ceil(elements * bits / 8) bytes."""
    size = (3, 5, 2, 7)[0 if batched else 1 :]
    bits = reference.code_bits(taps)
    assert 2**bits >= taps
    assert bits == 1 or 2 ** (bits // 2) < taps
    codes = torch.randint(0, taps, size, generator=torch.Generator().manual_seed(seed))
    packed = reference.pack(codes, bits, last)
    assert packed.shape[-1] == -(-70 * bits // 8)
    assert torch.equal(reference.unpack(packed, size, bits, last), codes)
    element = data.draw(st.integers(0, 69))
    flat = (codes.movedim(-3, -1) if last else codes).flatten(-3)
    row = int.from_bytes(bytes(packed.reshape(-1, packed.shape[-1])[0].tolist()), "little")
    assert row >> (element * bits) & (2**bits - 1) == flat.reshape(-1, 70)[0, element]


@given(pools(), st.sampled_from(FORMATS), seeds)
def test_conversions_of_switches(pool_and_shape, layout, seed):
    """To indices and back, and to the other memory format and back, give the same bytes."""
    pool, shape = pool_and_shape
    _, switches = own.max_pool2d(layout(hard_values(shape, torch.float32, seed)), *pool, return_indices=True)
    indices = switches.indices()
    if len(shape) == 4:
        other = switches.to_memory_format(other_format(switches))
        assert other.channels_last != switches.channels_last
        assert torch.equal(other.indices(), indices)
        assert torch.equal(other.to_memory_format(other_format(other)).codes, switches.codes)

    assume(bool((indices >= 0).all()))
    again = Switches.from_indices(indices, shape[-2:], *pool.window)
    assert torch.equal(again.indices(), indices)
    if again.channels_last != switches.channels_last:
        again = again.to_memory_format(other_format(again))
    assert torch.equal(again.codes, switches.codes)


@pytest.mark.parametrize("relu", [False, True])
@given(pools(), seeds)
def test_reference_derives_itself(relu, pool_and_shape, seed):
    """The reference's explicit backward is what autograd makes of its forward."""
    pool, shape = pool_and_shape
    x = integers(shape, seed).requires_grad_()
    function = reference.relu_max_pool2d if relu else reference.max_pool2d
    output, taps = function(x, *pool)
    grad = integers(output.shape, seed)
    (expected,) = torch.autograd.grad(output, x, grad)
    relu_output = output.detach() if relu else None
    actual = reference.max_pool2d_backward(grad, taps, shape[-2:], *pool.window, relu_output=relu_output)
    assert_same(actual + 0, expected + 0)
    assert torch.equal(output, stock.max_pool2d(stock_relu(x) if relu else x, *pool))
