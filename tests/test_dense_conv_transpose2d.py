"""Transposed convolution whose channels mix: segext's kernels against the reference and stock, and when they run."""

import itertools

import pytest
import torch
import torch.nn.functional as stock
from hypothesis import given
from hypothesis import strategies as st
from samples import FLOATS, FORMATS, assert_same, channels_last, contiguous, name, normal, threads
from torch._subclasses.fake_tensor import FakeTensorMode

import segext.functional as own
from segext import conv_routes, explain, nn, reference
from segext import ops as differentiable

ops = torch.ops.segext
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

# (kernel, stride, padding, output_padding, dilation): U-Net's, DCGAN's, FCN's, and all else.
WINDOWS = (
    (2, 2, 0, 0, 1),
    (4, 2, 1, 0, 1),
    (16, 8, 4, 0, 1),
    (3, 2, 1, 1, 1),
    (1, 3, 0, 2, 1),
    (3, 1, 1, 0, 1),
    ((5, 2), (3, 1), (2, 0), (1, 0), (1, 3)),
    (3, 2, 2, 1, 2),
    (2, 5, 1, 3, 4),
)


def convolve(x, weight, bias, stride, padding, output_padding, dilation):
    """By segext's kernels, whichever conv_transpose2d would choose."""
    size = stock.conv_transpose2d(
        x.to("meta"), weight.to("meta"), None, stride, padding, output_padding, 1, dilation
    ).shape[-2:]
    pairs = [value if isinstance(value, tuple) else (value, value) for value in (stride, padding, dilation)]
    return differentiable.dense_conv_transpose2d(x, weight, bias, size, *pairs, not x.is_contiguous())


def assert_near(actual, expected, dtype):
    assert actual.dtype == dtype
    atol = TOLERANCES[dtype] * max(1, float(expected.abs().max()))
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize(
    ("channels", "outputs", "size"), [(21, 21, (5, 7)), (130, 16, (1, 33)), (3, 70, (9, 2)), (1, 1, (3, 15))]
)
def test_kernels(channels, outputs, size, window, layout, dtype):
    kernel, *rest = window
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    x, weight = normal((2, channels, *size), dtype, seed=0), normal((channels, outputs, *kernel), dtype, seed=1)
    bias = normal((outputs,), dtype, seed=2)
    actual = convolve(layout(x), weight, bias, *rest)
    stride, padding, output_padding, dilation = rest
    exact = x.double(), weight.double(), bias.double(), stride, padding, output_padding, 1, dilation
    expected = reference.conv_transpose2d(*exact)
    assert_near(actual, expected, dtype)
    torch.testing.assert_close(expected, stock.conv_transpose2d(*exact))
    assert_near(own.conv_transpose2d(layout(x), weight, bias, *rest[:3], 1, dilation), expected, dtype)
    if outputs > 1:
        memory_format = torch.channels_last if layout is channels_last else torch.contiguous_format
        assert actual.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("shape", [(3, 9, 13), (0, 3, 9, 13)])
def test_no_batch(shape):
    x, weight = normal(shape), normal((3, 17, 4, 4))
    assert explain(own.conv_transpose2d, x, weight, stride=2).startswith("segext")
    expected = stock.conv_transpose2d(x, weight, stride=2)
    torch.testing.assert_close(own.conv_transpose2d(x, weight, stride=2), expected)


@given(st.data())
def test_any_window(data):
    def pair(least, most):
        return data.draw(st.tuples(*[st.integers(least, most)] * 2))

    kernel, stride, dilation, padding = pair(1, 6), pair(1, 5), pair(1, 3), pair(0, 3)
    output_padding = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    channels, outputs, size = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)), pair(1, 20)
    x, weight = normal((2, channels, *size), torch.float64), normal((channels, outputs, *kernel), torch.float64, seed=1)
    arguments = stride, padding, output_padding, dilation
    try:
        expected = stock.conv_transpose2d(x, weight, None, *arguments[:3], 1, dilation)
    except RuntimeError:
        return  # negative sizes, which conv_transpose2d leaves to stock
    layout = data.draw(st.sampled_from(FORMATS))
    torch.testing.assert_close(convolve(layout(x), weight, None, *arguments), expected)


@pytest.mark.parametrize("width", [1, 2, 5, 6, 7, 13, 14, 15, 27, 28, 29, 95, 96, 193])
def test_widths_around_a_tile(width):
    for stride, height in itertools.product((1, 2), (1, 3)):
        x, weight = normal((1, 17, height, width)), normal((17, 18, 4, 4), seed=1)
        expected = stock.conv_transpose2d(x, weight, None, stride, 1)
        assert_near(convolve(x, weight, None, stride, 1, 0, 1), expected, torch.float32)


def test_derivatives():
    inputs = [
        normal(s, torch.float64, seed=n).requires_grad_() for n, s in enumerate(((1, 3, 2, 3), (3, 2, 3, 3), (2,)))
    ]

    def function(x, weight, bias):
        return convolve(x, weight, bias, 2, 1, 1, 1)

    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize(
    ("dtype", "channels", "stride", "size", "layout", "whose"),
    [
        (torch.float32, 21, 8, 4, contiguous, "segext"),
        (torch.float32, 21, 8, 4, channels_last, "segext"),
        (torch.float32, 21, 2, 4, channels_last, "torch"),
        (torch.float32, 17, 2, 4, contiguous, "segext"),
        (torch.float32, 16, 2, 32, contiguous, "torch"),
        (torch.float32, 12, 8, 32, channels_last, "torch"),
        (torch.float32, 12, 32, 8, channels_last, "segext"),
        (torch.float32, 7, 32, 8, contiguous, "torch"),
        (torch.float64, 64, 2, 20, channels_last, "segext"),
        (torch.float64, 64, 2, 19, channels_last, "torch"),
        (torch.float64, 65, 2, 32, contiguous, "torch"),
        (torch.float64, 16, 2, 32, contiguous, "torch"),
        (torch.float32, 64, 2, 32, contiguous, "segext"),
        (torch.float32, 64, 2, 32, channels_last, "torch"),
        (torch.float32, 64, 2, 8, contiguous, "torch"),
        (torch.float32, 21, 1, 32, contiguous, "torch"),
    ],
)
def test_explains_its_choice(dtype, channels, stride, size, layout, whose):
    x, weight = layout(normal((1, channels, size, size), dtype)), normal((channels, channels, 4, 4), dtype)
    assert explain(own.conv_transpose2d, x, weight, stride=stride).startswith(f"{whose}: ")


@pytest.mark.parametrize(
    ("shape", "kernel", "layout", "whose"),
    [
        ((1, 8, 19, 21), 2, contiguous, "torch"),
        ((8, 19, 21), 2, contiguous, "torch"),
        ((1, 8, 19, 21), 4, contiguous, "segext"),
        ((2, 8, 19, 21), 2, contiguous, "segext"),
        ((1, 8, 20, 20), 3, contiguous, "segext"),
        ((1, 8, 20, 20), 3, channels_last, "torch"),
        ((1, 256, 1, 1), 3, contiguous, "torch"),
        ((2, 256, 1, 1), 3, contiguous, "matrix product"),
        ((1, 256, 1, 1), 4, contiguous, "matrix product"),
    ],
)
def test_small_maps_that_stock_multiplies_directly(shape, kernel, layout, whose):
    x, weight = layout(normal(shape, torch.float32)), normal((shape[-3], 21, kernel, kernel), torch.float32)
    assert explain(own.conv_transpose2d, x, weight, stride=2).startswith(f"{whose}: ")


def test_matrix_instructions_are_left_to_stock(monkeypatch):
    monkeypatch.setattr(conv_routes, "_HALF_CONVOLVED", {})
    monkeypatch.setattr(conv_routes, "_DOTS_BFLOAT16", False)
    x, weight = normal((1, 8, 40, 40), torch.bfloat16), normal((8, 32, 2, 2), torch.bfloat16)
    for has_them, whose in ((True, "torch"), (False, "segext")):
        monkeypatch.setattr(conv_routes, "_MULTIPLIES_BFLOAT16", has_them)
        assert explain(own.conv_transpose2d, x, weight, stride=2).startswith(whose)


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "size", "layout", "whose"),
    [
        (21, 32, 16, 4, contiguous, "segext"),
        (21, 32, 16, 4, channels_last, "torch"),
        (21, 16, 8, 59, contiguous, "torch"),
        (21, 16, 8, 60, contiguous, "segext"),
        (64, 2, 2, 9, contiguous, "segext"),
        (64, 2, 2, 9, channels_last, "torch"),
        (65, 2, 2, 9, contiguous, "torch"),
        (16, 2, 2, 9, contiguous, "torch"),
        (12, 32, 16, 4, contiguous, "segext"),
        (12, 16, 8, 60, contiguous, "torch"),
        (64, 4, 2, 9, contiguous, "torch"),
    ],
)
def test_dot_products_of_bfloat16_are_left_to_stock(channels, kernel, stride, size, layout, whose, monkeypatch):
    monkeypatch.setattr(conv_routes, "_HALF_CONVOLVED", {})
    monkeypatch.setattr(conv_routes, "_MULTIPLIES_BFLOAT16", False)
    monkeypatch.setattr(conv_routes, "_DOTS_BFLOAT16", True)
    x = layout(normal((1, channels, size, size), torch.bfloat16))
    weight = normal((channels, channels, kernel, kernel), torch.bfloat16)
    assert explain(own.conv_transpose2d, x, weight, stride=stride).startswith(f"{whose}: ")


@pytest.mark.parametrize("groups", [1, 64], ids=["dense", "depthwise"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=name)
def test_half_types_that_stock_convolves_slowly(dtype, layout, stride, groups, monkeypatch):
    x = layout(normal((1, 64, 9, 8), dtype))
    weight, bias = normal((64, 64 // groups, 3, 3), dtype, seed=1), normal((64,), dtype, seed=2)
    arguments = {"stride": stride, "padding": 1, "groups": groups}
    monkeypatch.setattr(conv_routes, "_HALF_CONVOLVED", {dtype: False})
    assert explain(own.conv_transpose2d, x, weight, bias, **arguments).startswith("segext: ")
    expected = stock.conv_transpose2d(x.double(), weight.double(), bias.double(), **arguments)
    actual = own.conv_transpose2d(x, weight, bias, **arguments)
    torch.testing.assert_close(actual.double(), expected, rtol=2e-2, atol=2e-1)


def test_what_a_cpu_convolves_slowly_is_nothing_to_a_gpu(monkeypatch):
    """A call there is recognised as stock's at once, by strides alone."""
    monkeypatch.setattr(conv_routes, "_HALF_CONVOLVED", {torch.float16: False})
    monkeypatch.setattr(differentiable, "DEVICES", {"cpu", "cuda"})
    monkeypatch.setattr(conv_routes, "_checked_call", lambda *arguments: pytest.fail("looked at the arguments"))
    for groups in (1, 8):
        with FakeTensorMode():
            x = torch.empty(1, 8, 4, 4, dtype=torch.float16, device="cuda")
            weight = torch.empty(8, 8 // groups, 3, 3, dtype=torch.float16, device="cuda")
        assert conv_routes.fastest_call(x, weight, None, 1, 1, 0, groups, 1) is None


@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_threads_give_the_same_bits(layout):
    x, weight = layout(normal((3, 20, 17, 23))), normal((20, 100, 3, 3), seed=1)
    results = []
    for count in (1, 2, 3):
        with threads(count):
            results.append(convolve(x, weight, None, 2, 1, 0, 1))
    for other in results[1:]:
        assert_same(results[0], other)


def test_nan_and_infinity_reach_what_they_feed():
    x, weight = normal((1, 5, 9, 9)), normal((5, 5, 2, 2), seed=1)
    x[0, 1, 2, 3], x[0, 2, 7, 7] = float("nan"), float("inf")
    torch.testing.assert_close(
        convolve(x, weight, None, 2, 0, 0, 1), stock.conv_transpose2d(x, weight, None, 2), equal_nan=True
    )


@pytest.mark.parametrize("shape", [(2, 12, 6, 7), (12, 6, 7), (0, 12, 6, 7)])
def test_layer_compiled_exported_and_under_autocast(shape):
    layer, plain = nn.ConvTranspose2d(12, 11, 4, 2, 1), torch.nn.ConvTranspose2d(12, 11, 4, 2, 1)
    plain.load_state_dict(layer.state_dict())
    x = normal(shape)
    torch.testing.assert_close(layer(x), plain(x))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), plain(x))
    if 0 not in shape:
        torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), plain(x))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x), plain(x), rtol=5e-2, atol=5e-2)


def test_exports_for_any_size():
    """A graph of any size takes one way for all of them."""
    layer = nn.ConvTranspose2d(16, 32, 2, 2)
    sizes = {"input": {2: torch.export.Dim("h", min=2, max=512), 3: torch.export.Dim("w", min=2, max=512)}}
    graph = torch.export.export(layer, (normal((1, 16, 8, 8)),), dynamic_shapes=sizes).module()
    for side in (8, 64):
        x = normal((1, 16, side, side))
        torch.testing.assert_close(graph(x), layer(x), rtol=1e-4, atol=1e-4)


def test_kernels_that_reach_far_are_stock_s():
    x, weight = normal((1, 3, 4, 4)), normal((3, 5, 3, 3), seed=1)
    for arguments in ({"dilation": 600, "padding": 600}, {"dilation": 2, "padding": 5}):
        assert explain(own.conv_transpose2d, x, weight, stride=2, **arguments).startswith("torch")
    torch.testing.assert_close(
        own.conv_transpose2d(x, weight, None, 2, 600, 0, 1, 600),
        stock.conv_transpose2d(x, weight, None, 2, 600, 0, 1, 600),
    )


def test_errors():
    x, weight = normal((2, 5, 4, 4)), normal((5, 3, 2, 2))
    arguments = (x, weight, None, (8, 8), (2, 2), (0, 0), (1, 1), False)
    for index, wrong, message in (
        (0, x[0], "4D"),
        (0, x[:, :4], "channels"),
        (1, weight.double(), "dtype"),
        (1, weight[..., :0], "empty"),
        (2, normal((2,)), "bias"),
        (3, (0, 8), "output_size"),
        (4, (0, 1), "stride"),
        (5, (-1, 1), "padding"),
        (6, (0, 1), "dilation"),
    ):
        with pytest.raises(RuntimeError, match=message):
            ops.dense_conv_transpose2d(*arguments[:index], wrong, *arguments[index + 1 :])
