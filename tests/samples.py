"""Inputs worth testing and how results are compared: windows, shapes, memory layouts, hard values, to the bit."""

import platform
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as stock
from torch._prims_common import suggest_memory_format

import segext.functional as own
from segext import Switches, reference

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


class Pool(NamedTuple):
    """The arguments of a pool after its input."""

    kernel_size: int | tuple[int, int]
    stride: int | tuple[int, int] | None = None
    padding: int | tuple[int, int] = 0
    dilation: int | tuple[int, int] = 1
    ceil_mode: bool = False

    @property
    def window(self):
        """kernel_size, stride, padding and dilation, as the ops take them."""
        stride = self.kernel_size if self.stride is None else self.stride
        return tuple(
            (value, value) if isinstance(value, int) else value
            for value in (self.kernel_size, stride, self.padding, self.dilation)
        )

    @property
    def bits(self):
        (kernel_h, kernel_w), *_ = self.window
        return reference.code_bits(kernel_h * kernel_w)

    @property
    def overlaps(self):
        kernel, stride, _, dilation = self.window
        return any(s < (k - 1) * d + 1 for k, s, d in zip(kernel, stride, dilation, strict=True))

    def __str__(self):
        kernel, stride, padding, dilation = ("x".join(map(str, pair)) for pair in self.window)
        return f"k{kernel}s{stride}p{padding}d{dilation}{'ceil' if self.ceil_mode else ''}"


# Windows that networks use, then one for each branch a general kernel can take.
NETWORK_POOLS = (Pool(2), Pool(2, ceil_mode=True), Pool(3, 2), Pool(3, 2, ceil_mode=True), Pool(3, 2, 1), Pool(3))
POOLS = (
    *NETWORK_POOLS,
    Pool(1),
    Pool((1, 2)),
    Pool((2, 1)),
    Pool(2, 1),
    Pool(2, 3),
    Pool(2, 2, 1),
    Pool(3, 1, 1),
    Pool(2, (2, 1)),
    Pool((2, 3), (3, 2), (1, 0)),
    Pool(2, 2, 0, 2),
    Pool(3, 2, 1, (1, 3)),
    Pool(2, 2, 1, 2, ceil_mode=True),
    Pool(2, 3, 1, 3, ceil_mode=True),
    Pool(4),
    Pool(5, 2, 2),
    Pool((5, 3), (2, 1), (2, 1), (1, 2), ceil_mode=True),
)
# Windows of more taps than 4, 8 and 16 bits can name. The maps they need are in LARGE_SHAPES.
LARGE_POOLS = (Pool(5, 3), Pool(16, 7, 3), Pool((17, 16), 5, 8), Pool(257, 2))
LARGE_SHAPES = ((2, 3, 20, 23), (2, 3, 31, 40), (2, 3, 35, 40), (1, 2, 261, 259))

# One less, none and one more than what fits the vectors of the instruction sets.
VECTOR_SIZES = (7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65)


def contiguous(x):
    return x.contiguous()


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


def unaligned(x):
    """A map that starts one element after an allocation."""
    return x.new_empty(x.numel() + 1)[1:].view(x.shape).copy_(x)


def sliced(x):
    """Every second column of a map."""
    return x.new_zeros(*x.shape[:-1], 2 * x.shape[-1] + 1)[..., 1::2].copy_(x)


def sliced_channels(x):
    """The inner channels of a channels_last map."""
    channels = x.shape[-3]
    wide = channels_last(x.new_zeros(*x.shape[:-3], channels + 2, *x.shape[-2:]))
    return wide.narrow(-3, 1, channels).copy_(x)


def transposed(x):
    return x.mT.contiguous().mT


def expanded(x):
    """One channel, seen as many."""
    return x.narrow(-3, 0, 1).contiguous().expand_as(x)


LAYOUTS = (contiguous, channels_last, unaligned, sliced, sliced_channels, transposed, expanded)
FORMATS = (contiguous, channels_last)


def name(value):
    """A readable test id for the values of this module."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return "x".join(map(str, value))
    return value.__name__ if callable(value) else str(value)


def hard_values(shape, dtype, seed=0):
    """Few distinct values, so that ties are common; floats also hold NaN, infinities and both zeros."""
    generator = torch.Generator().manual_seed(seed)
    special = torch.randint(0, 100, shape, generator=generator)
    if not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        values = torch.randint(max(limits.min, -3), 4, shape, generator=generator).to(dtype)
        return values.where(special > 30, limits.min).where(special > 4, limits.max)
    values = torch.randint(-3, 4, shape, generator=generator).to(dtype)
    values = values.where(values != 0, torch.where(special % 2 == 0, 0.0, -0.0).to(dtype))
    return values.where(special > 30, -torch.inf).where(special > 6, torch.inf).where(special > 3, torch.nan)


def tie_free(shape, dtype=torch.float64, seed=0):
    """A random permutation: all values at least 1 apart, so that finite differences move no maximum."""
    count = torch.Size(shape).numel()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return (order - count // 2 + 0.25).to(dtype).view(shape)


def normal(shape, dtype=torch.float32, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def random_codes(size, bits, seed=2):
    """Random bytes of the shape that switches of `size` have."""
    *batch, channels, height, width = size
    generator = torch.Generator().manual_seed(seed)
    row = -(-channels * height * width * bits // 8)
    return torch.randint(0, 256, (*batch, row), generator=generator, dtype=torch.uint8)


def assert_same(actual, expected, *, strides=False):
    """Same type, shape and, to the bit, values; all NaN count as one. On request the same strides."""
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    if strides:
        assert actual.stride() == expected.stride()
    actual, expected = actual.detach().cpu(), expected.detach().cpu()
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    if actual.is_floating_point():
        number = ~expected.isnan()
        assert torch.equal(actual.signbit() & number, expected.signbit() & number), "zeros differ in sign"


@contextmanager
def threads(count):
    """Runs torch's CPU kernels on `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stock_unpool(values, indices, output_size):
    """Stock's unpooling. Where indices name a pixel twice, its threads race: on one thread the last always stays."""
    with threads(1):
        return torch._C._nn.max_unpool2d(values, indices, output_size)


def own_pool(relu):
    return own.relu_max_pool2d if relu else own.max_pool2d


def reference_pool(relu):
    return reference.relu_max_pool2d if relu else reference.max_pool2d


def stock_relu(x):
    """Stock's ReLU as it is on x86, where -0 stays. On ARM its scalars leave it, its vectors make it 0."""
    return stock.relu(x) if platform.machine() == "x86_64" else torch.where(x == 0, x.detach(), stock.relu(x))


def stock_pool(x, pool, relu):
    """Values and indices of stock's pool, after stock's ReLU if wanted."""
    x = stock_relu(x) if relu else x
    if x.dtype.is_floating_point:
        return stock.max_pool2d(x, *pool, return_indices=True)
    # Stock's channels_last kernel refuses maps with more pixels than a short integer type can count.
    memory_format = suggest_memory_format(x)
    return tuple(
        torch.empty_like(result, memory_format=memory_format).copy_(result)
        for result in stock.max_pool2d(x.contiguous(), *pool, return_indices=True)
    )


def check_pool(x, pool, layout, device, *, relu=False):
    """A pool of a CPU tensor `x`, laid out and moved, has stock's values, indices and strides; codes as specified."""
    input = layout(x.to(device))
    output, switches = own_pool(relu)(input, *pool, return_indices=True)
    expected, indices = stock_pool(layout(x), pool, relu)
    _, taps = reference_pool(relu)(layout(x), *pool)

    assert_same(output, expected, strides=True)
    assert_same(own_pool(relu)(input, *pool), expected, strides=True)

    assert isinstance(switches, Switches)
    legal = reference.tap_indices(taps, x.shape[-2:], *pool.window) >= 0  # false: window wholly in the padding
    assert_same(switches.indices(), indices.masked_fill_(~legal, -1), strides=True)
    assert_same(switches.codes, reference.pack(taps, pool.bits, switches.channels_last))
    return switches


def check_pool_backward(x, pool, layout, device, *, relu=False):
    """Gradient of a pool, and the gradient of that, equal the reference; the strides of the first are stock's."""
    input = layout(x.to(device)).requires_grad_()
    output = own_pool(relu)(input, *pool)
    _, taps = reference_pool(relu)(layout(x), *pool)
    relu_output = output.detach().cpu() if relu else None

    grad_output = layout(normal(output.shape, x.dtype)).requires_grad_()
    moved = layout(grad_output.detach().to(device)).requires_grad_()
    (grad_input,) = torch.autograd.grad(output, input, moved, create_graph=True)
    expected = reference.max_pool2d_backward(grad_output, taps, x.shape[-2:], *pool.window, relu_output=relu_output)
    assert_same(grad_input, expected)

    if (reference.tap_indices(taps, x.shape[-2:], *pool.window) >= 0).all():  # else stock writes out of bounds
        leaf = layout(x).requires_grad_()
        (stock_grad,) = torch.autograd.grad(stock_pool(leaf, pool, relu)[0], leaf, grad_output)
        if x.dtype in (torch.float32, torch.float64):  # stock adds half types in half precision
            torch.testing.assert_close(grad_input.cpu(), stock_grad, equal_nan=True)
        (stock_grad,) = torch.autograd.grad(stock_pool(leaf, pool, False)[0], leaf, grad_output)
        assert grad_input.stride() == stock_grad.stride()

    tangent = normal(x.shape, x.dtype, seed=3)
    (grad_grad,) = torch.autograd.grad(grad_input, moved, layout(tangent.to(device)))
    expected = reference.max_pool2d_double_backward(layout(tangent), taps, *pool.window, relu_output=relu_output)
    assert_same(grad_grad, expected)


def check_unpool(switches, values, layout, device, *, stock_agrees=True):
    """Unpooling CPU `values` by CPU `switches`, and its derivatives, equal the reference and, forward, stock."""
    window = (switches.kernel_size, switches.stride, switches.padding, switches.dilation)
    taps = reference.unpack(switches.codes, switches.shape, switches.bits, switches.channels_last)
    moved = layout(values.to(device)).requires_grad_()
    output = own.max_unpool2d(moved, switches.to(device))
    expected = reference.max_unpool2d(layout(values), taps, switches.input_size, *window)
    assert_same(output, expected)
    if stock_agrees:
        indices = reference.tap_indices(taps, switches.input_size, *window)
        assert_same(output, stock_unpool(layout(values), indices, switches.input_size), strides=True)

    grad = normal(expected.shape, values.dtype).requires_grad_()
    moved_grad = layout(grad.detach().to(device)).requires_grad_()
    (grad_values,) = torch.autograd.grad(output, moved, moved_grad, create_graph=True)
    assert_same(grad_values, reference.max_unpool2d_backward(layout(grad), taps, *window))

    tangent = normal(values.shape, values.dtype, seed=3)
    (grad_grad,) = torch.autograd.grad(grad_values, moved_grad, layout(tangent.to(device)))
    assert_same(grad_grad, reference.max_unpool2d(layout(tangent), taps, switches.input_size, *window))
