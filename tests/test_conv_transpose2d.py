"""Transposed convolution, whichever kernels a call takes: as the reference and as stock, its gradients too."""

import itertools
import re

import pytest
import torch
import torch.nn.functional as stock
from hypothesis import given
from hypothesis import strategies as st
from samples import FLOATS, FORMATS, LAYOUTS, channels_last, contiguous, name, normal, threads
from torch._dynamo.backends.common import aot_autograd
from torch.testing._internal.common_methods_invocations import op_db
from upsampling_samples import TOLERANCES, assert_near, inputs

import segext.functional as own
from segext import explain, nn, reference

ops = torch.ops.segext

# (kernel, stride, padding, output_padding, dilation), of bilinear upsampling by 2, 8 and 32 and of all else.
WINDOWS = (
    (4, 2, 1, 0, 1),
    (16, 8, 4, 0, 1),
    (64, 32, 16, 0, 1),
    (3, 1, 1, 0, 1),
    (2, 2, 0, 1, 1),
    (1, 3, 0, 2, 1),
    ((5, 2), (3, 1), (2, 0), (1, 0), (1, 3)),
    (3, 2, 2, 1, 2),
    (2, 5, 1, 3, 4),
)


def upsample(x, weight, bias, stride, padding, output_padding, groups, dilation=1):
    """By segext's kernels, whichever conv_transpose2d would choose."""
    size = stock.conv_transpose2d(
        x.to("meta"), weight.to("meta"), None, stride, padding, output_padding, groups, dilation
    ).shape[-2:]
    pairs = [value if isinstance(value, tuple) else (value, value) for value in (stride, padding, dilation)]
    last = x.dim() == 4 and not x.is_contiguous()
    return ops.depthwise_conv_transpose2d(x, weight, bias, None, size, *pairs, (0, 0), last)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize(
    ("channels", "multiplier", "size"), [(21, 1, (5, 7)), (3, 2, (1, 9)), (1, 4, (6, 1)), (17, 1, (4, 33))]
)
def test_depthwise(channels, multiplier, size, window, layout, dtype):
    _, stride, padding, output_padding, dilation = window
    x, weight, bias = inputs(channels, multiplier, size, window, dtype)
    arguments = (stride, padding, output_padding, channels, dilation)
    actual = upsample(layout(x), weight, bias, *arguments)
    expected = reference.conv_transpose2d(x.double(), weight.double(), bias.double(), *arguments)
    assert_near(actual, expected, dtype)
    assert actual.dtype == dtype
    if channels > 1:  # one channel is in both formats
        assert actual.is_contiguous(
            memory_format=torch.channels_last if layout is channels_last else torch.contiguous_format
        )
    torch.testing.assert_close(expected, stock.conv_transpose2d(x.double(), weight.double(), bias.double(), *arguments))
    assert_near(upsample(layout(x), weight, None, *arguments), expected - bias.double().view(-1, 1, 1), dtype, 4)
    chosen = own.conv_transpose2d(layout(x), weight, bias, *arguments)
    assert_near(chosen, expected, dtype)
    assert chosen.dtype == dtype


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65])
@pytest.mark.parametrize("channels", [1, 5, 16])
@pytest.mark.parametrize("scale", [2, 3, 8, 20])
def test_widths_around_a_vector(scale, channels, width, layout):
    x, weight, _ = inputs(channels, 1, (2, width), (2 * scale,), torch.float32, bias=False)
    actual = upsample(layout(x), weight, None, scale, scale // 2, 0, channels)
    assert_near(actual, reference.conv_transpose2d(x, weight, None, scale, scale // 2, 0, channels), torch.float32)


@given(st.data())
def test_any_window(data):
    def pair(least, most):
        return data.draw(st.tuples(*[st.integers(least, most)] * 2))

    channels, multiplier = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    kernel, stride, dilation, padding = pair(1, 6), pair(1, 5), pair(1, 3), pair(0, 3)
    output_padding = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    x, weight, bias = inputs(channels, multiplier, pair(1, 6), (kernel,))
    arguments = (stride, padding, output_padding, channels, dilation)
    try:
        expected = stock.conv_transpose2d(x, weight, bias, *arguments)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            own.conv_transpose2d(x, weight, bias, *arguments)
        return
    layout = data.draw(st.sampled_from(FORMATS))
    torch.testing.assert_close(own.conv_transpose2d(layout(x), weight, bias, *arguments), expected)
    torch.testing.assert_close(upsample(layout(x), weight, bias, *arguments), expected)


@given(st.data())
def test_kernels_of_two_strides(data):
    """Bilinear ones, whose rows are made by twos: parts of the output that begin and end anywhere, or beyond it."""

    def pair(least, most):
        return data.draw(st.tuples(*[st.integers(least, most)] * 2))

    channels, multiplier, stride = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 2)), pair(1, 9)
    kernel = 2 * stride[0], 2 * stride[1]
    dtype = data.draw(st.sampled_from((torch.float64, torch.float32, torch.bfloat16)))
    x, weight, bias = inputs(channels, multiplier, pair(1, 5), (kernel,), dtype)
    more = pair(0, 12)  # output_padding, here with no limit
    whole = reference.conv_transpose2d(x.double(), weight.double(), bias.double(), stride, 0, 0, channels)
    beyond = bias.double().view(-1, 1, 1).expand(2, -1, whole.shape[2] + more[0], whole.shape[3] + more[1]).clone()
    beyond[..., : whole.shape[2], : whole.shape[3]] = whole
    height, width = beyond.shape[2:]
    y, x0 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    size = data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x0))
    expected = beyond[..., y : y + size[0], x0 : x0 + size[1]]
    layout = data.draw(st.sampled_from(FORMATS))
    addend = normal((2, channels * multiplier, size[0] + 1, size[1] + 2), dtype, seed=3)
    last = layout is channels_last
    for added in (None, layout(addend)):
        actual = ops.depthwise_conv_transpose2d(
            layout(x), weight, bias, added, size, stride, (y, x0), (1, 1), (1, 2), last
        )
        assert_near(actual, expected if added is None else expected + addend[..., 1:, 2:].double(), dtype, 2)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("kernel", [4, 3])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_values_that_are_no_numbers(dtype, kernel, layout):
    """And sums beyond the type, and halfway between two values of it: half types are float64's, rounded once."""
    largest, eps = torch.finfo(dtype).max, torch.finfo(dtype).eps
    values = [1 + eps, 1, torch.nan, 0.0, -0.0, 2, torch.inf, 1 - eps, -torch.inf, 3, 2 + 2 * eps, 0.5]
    x = torch.tensor(values, dtype=dtype).repeat(1, 2, 5, 5)
    x[0, :, 2] = x[0, :, 2].flip(-1)
    x[0, 0, 3:] = (1 + eps * torch.arange(120)).view(2, 60)  # whose sums and halves lie between two values
    x[0, 1] = torch.tensor([0, 0, largest], dtype=dtype).repeat(20)
    x[0, 1, ::2] = 0
    weight = torch.tensor([1.0, 0.5, -1.0, 1 + eps], dtype=dtype).repeat(2, 1, kernel, 1)[..., :kernel].contiguous()
    expected = stock.conv_transpose2d(x.double(), weight.double(), None, 2, 1, groups=2).to(dtype)
    actual = upsample(layout(x), weight, None, 2, 1, 0, 2).contiguous()
    tolerance = 0 if dtype.itemsize == 2 else 4 * eps
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("weight_layout", FORMATS, ids=name)
@pytest.mark.parametrize("padding", [0, (1, 2), (3, 2)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (3, 8, 1, 1), (8, 1, 1)])
def test_one_pixel_is_a_matrix_product(shape, with_bias, padding, weight_layout, layout):
    x, weight, bias = normal(shape), weight_layout(normal((8, 6, 7, 5))), normal((6,)) if with_bias else None
    assert explain(own.conv_transpose2d, x, weight, bias, 2, padding).startswith("matrix product")
    actual = own.conv_transpose2d(layout(x), weight, bias, 2, padding)
    torch.testing.assert_close(actual, stock.conv_transpose2d(x, weight, bias, 2, padding), rtol=1e-5, atol=1e-5)
    assert actual.untyped_storage().nbytes() == actual.nbytes


def test_a_product_of_float16_is_slow_on_a_cpu():
    x, weight = normal((2, 512, 1, 1), torch.float16), normal((512, 8, 4, 4), torch.float16)
    assert explain(own.conv_transpose2d, x, weight).startswith("torch: ")
    assert explain(own.conv_transpose2d, x.bfloat16(), weight.bfloat16()).startswith("matrix product")


@pytest.mark.parametrize(
    ("dtype", "stride", "size", "layout", "whose"),
    [
        (torch.float32, 8, 4, channels_last, "segext"),
        (torch.bfloat16, 2, 4, channels_last, "segext"),
        (torch.float32, 2, 64, contiguous, "segext"),
        (torch.float32, 2, 4, contiguous, "segext"),
        (torch.float32, 2, 64, channels_last, "segext"),
        (torch.float32, 2, 200, channels_last, "segext"),
        (torch.bfloat16, 1, 64, contiguous, "torch"),
    ],
)
def test_explains_its_choice(dtype, stride, size, layout, whose):
    check_choice(layout(normal((1, 5, size, size), dtype)), 2 * stride, stride, whose)


@pytest.mark.parametrize(
    ("kernel", "channels", "size", "whose"),
    [
        (2, 512, 28, "segext"),
        (4, 511, 28, "segext"),
        (4, 512, 28, "torch"),
        (4, 512, 8, "segext"),
        (3, 5, 64, "segext"),
        (3, 5, 200, "torch"),
        (3, 5, 640, "segext"),
    ],
)
def test_explains_where_stock_is_fast(kernel, channels, size, whose):
    check_choice(channels_last(normal((1, channels, size, size), torch.float32)), kernel, 2, whose)


def test_dilated_kernels_are_not_bilinear():
    x, weight = channels_last(normal((1, 64, 56, 56), torch.float32)), normal((64, 1, 4, 4), torch.float32)
    assert explain(own.conv_transpose2d, x, weight, stride=2, groups=64).startswith("segext: ")
    assert explain(own.conv_transpose2d, x, weight, stride=2, dilation=2, groups=64).startswith("torch: ")
    assert explain(own.conv_transpose2d, x, weight, stride=(2, 1), groups=64).startswith("torch: ")


def check_choice(x, kernel, stride, whose):
    weight, groups = normal((x.shape[1], 1, kernel, kernel), x.dtype), x.shape[1]
    assert explain(own.conv_transpose2d, x, weight, stride=stride, groups=groups).startswith(f"{whose}: ")
    trained = weight.requires_grad_()
    assert explain(own.conv_transpose2d, x, trained, stride=stride, groups=groups).startswith(
        "segext: " if stride > 1 else "torch: "
    )
    with torch.no_grad():
        assert explain(own.conv_transpose2d, x, trained, stride=stride, groups=groups).startswith(f"{whose}: ")


@pytest.mark.parametrize(
    ("shape", "weight", "arguments"),
    [
        ((2, 4, 5, 5), (4, 3, 3, 3), {}),
        ((2, 4, 5, 5), (4, 1, 3, 3), {"groups": 4}),
        ((2, 4, 5, 5), (4, 1, 3, 3), {"groups": 2}),
        ((2, 4, 1, 1), (4, 3, 3, 3), {"output_padding": 1, "dilation": 2}),
        ((2, 4, 1, 1), (4, 3, 3, 3), {"padding": 1, "dilation": 2}),
    ],
)
def test_all_else_is_stock_s(shape, weight, arguments):
    x, weight = normal(shape), normal(weight)
    assert explain(own.conv_transpose2d, x, weight, **arguments).startswith("torch")
    assert torch.equal(own.conv_transpose2d(x, weight, **arguments), stock.conv_transpose2d(x, weight, **arguments))


@pytest.mark.parametrize("sample", range(12))
def test_opinfo(sample):
    (info,) = (info for info in op_db if info.name == "nn.functional.conv_transpose2d")
    samples = list(info.sample_inputs("cpu", torch.float64, requires_grad=True))
    assert len(samples) == 12
    given = samples[sample]
    actual = own.conv_transpose2d(given.input, *given.args, **given.kwargs)
    expected = stock.conv_transpose2d(given.input, *given.args, **given.kwargs)
    torch.testing.assert_close(actual, expected)
    leaves = [x for x in (given.input, *given.args) if isinstance(x, torch.Tensor) and x.requires_grad]
    grad = normal(expected.shape, torch.float64)
    for a, e in zip(
        torch.autograd.grad(actual, leaves, grad), torch.autograd.grad(expected, leaves, grad), strict=True
    ):
        torch.testing.assert_close(a, e)


@pytest.mark.parametrize(
    "change",
    [
        {"weight": normal((4, 1, 3, 3))},
        {"weight": normal((5, 3, 3))},
        {"weight": normal((5, 1, 3, 3), torch.float64)},
        {"bias": normal((4,))},
        {"stride": 0},
        {"stride": -1},
        {"padding": -1},
        {"output_padding": 2, "stride": 2},
        {"dilation": 0},
        {"groups": 0},
        {"groups": 4},
        {"padding": 9},
        {"stride": "2"},
        {"stride": 1.5},
        {"input": normal((5, 5))},
        {"input": normal((2, 5, 0, 4))},
        {"input": normal((2, 5, 4, 4)).bool()},
        {"input": [[1.0]]},
        {"weight": [[1.0]]},
        {"bias": [1.0] * 5},
        {"bias": normal((5,), torch.float64)},
        {"padding": (9, 0)},
        {"padding": (0, 9)},
        {"output_padding": (0, 2)},
        {"dilation": (1, 0)},
        {"dilation": (1, 1, 1)},
    ],
    ids=str,
)
@pytest.mark.parametrize("stride", [1, 2])  # of which segext's kernels take the second
def test_errors_are_stock_s(stride, change):
    call = {"input": normal((2, 5, 4, 4)), "weight": normal((5, 1, 3, 3)), "stride": stride, "groups": 5} | change
    with pytest.raises(Exception) as by_stock:  # noqa: PT011 - its type is what is asked for
        stock.conv_transpose2d(**call)
    with pytest.raises(by_stock.type) as by_own:
        own.conv_transpose2d(**call)
    by_place = r" \(position \d+\)"  # stock says it where arguments were given by place
    assert re.sub(by_place, "", str(by_own.value)) == re.sub(by_place, "", str(by_stock.value))


def test_output_padding_around_the_product_of_one_pixel():
    x, weight = normal((2, 40, 1, 1)), normal((40, 6, 3, 3))
    expected = stock.conv_transpose2d(x, weight, stride=2, output_padding=1)
    torch.testing.assert_close(own.conv_transpose2d(x, weight, stride=2, output_padding=1), expected)


@pytest.mark.parametrize("stride", [257, (1, 10**9), 10**9])
def test_strides_far_larger_than_the_kernel(stride):
    """Take no memory for what lies between the taps."""
    x, weight, _ = inputs(3, 1, (1, 1), (2,), torch.float32)
    assert explain(own.conv_transpose2d, x, weight, None, stride, groups=3).startswith("torch")
    expected = stock.conv_transpose2d(x, weight, None, stride, groups=3)
    assert torch.equal(own.conv_transpose2d(x, weight, None, stride, groups=3), expected)
    labels = own.conv_transpose2d_argmax(x, weight, None, stride, groups=3)
    assert torch.equal(labels.long(), expected.argmax(1))
    assert torch.equal(own.conv_transpose2d_add(x, weight, expected, None, stride, groups=3), expected * 2)


@pytest.mark.parametrize("dilation", [(20_000, 1), (1, 20_000), (2**31 + 1, 1), (2**62, 1)])
def test_dilations_far_larger_than_the_map(dilation):
    """Neither time nor memory grows with the gaps between taps; beyond what memory holds, stock's error."""
    score, weight = normal((1, 3, 4, 5)), normal((3, 1, 3, 3))
    arguments = {"stride": 2, "groups": 3, "dilation": dilation}
    part = {"crop": (1, 2), "output_size": (4, 4)}
    if max(dilation) < 2**31:
        full = stock.conv_transpose2d(score, weight, **arguments)[..., 1:5, 2:6]
        assert torch.equal(own.conv_transpose2d_argmax(score, weight, **arguments, **part), full.argmax(1).byte())
    else:
        with pytest.raises(RuntimeError):
            own.conv_transpose2d_argmax(score, weight, **arguments, **part)


@pytest.mark.parametrize("stride", [2, 8, (2, 4), 1])
def test_bilinear_weight(stride):
    """As stock interpolates, except for the border."""
    vertical, horizontal = stride if isinstance(stride, tuple) else (stride, stride)
    weight = own.bilinear_weight(3, stride, dtype=torch.float64)
    assert weight.shape == (3, 1, 2 * vertical, 2 * horizontal)
    assert weight.is_contiguous()
    score = normal((2, 3, 6, 5), torch.float64)
    up = own.conv_transpose2d(score, weight, None, stride, (vertical // 2, horizontal // 2), groups=3)
    expected = stock.interpolate(score, scale_factor=(vertical, horizontal), mode="bilinear", align_corners=False)
    rows, columns = (slice(s, -s) if s > 1 else slice(None) for s in (vertical, horizontal))
    if stride == 1:  # its filters have two pixels, a quarter each: they blur
        assert torch.equal(weight, torch.full((3, 1, 2, 2), 0.25, dtype=torch.float64))
    else:
        torch.testing.assert_close(up[..., rows, columns], expected[..., rows, columns])
    thirds = torch.tensor([1 / 6, 3 / 6, 5 / 6, 5 / 6, 3 / 6, 1 / 6], dtype=torch.float64)
    torch.testing.assert_close(own.bilinear_weight(1, 3, dtype=torch.float64)[0, 0], torch.outer(thirds, thirds))
    with pytest.raises(TypeError, match=r"stride .* 2\.5"):
        own.bilinear_weight(3, 2.5)
    assert own.bilinear_weight(3, 2).dtype == torch.get_default_dtype()


@pytest.mark.parametrize(
    ("arguments", "error", "names"),
    [
        ((3, 0), ValueError, "stride .* 3 and 0"),
        ((3, (2, -2)), ValueError, "stride .* -2"),
        ((-1, 2), ValueError, "channels .* -1"),
        ((3.0, 2), TypeError, "channels .* 3.0"),
        ((3, 2, torch.int32), TypeError, "int32"),
    ],
)
def test_bilinear_weight_refuses(arguments, error, names):
    *sizes, dtype = (*arguments, None)[:3]
    with pytest.raises(error, match=names):
        own.bilinear_weight(*sizes, dtype=dtype)


def test_empty_batch():
    x, weight, bias = inputs(5, 1, (3, 4), (4,), torch.float32, samples=0)
    assert own.conv_transpose2d(x, weight, bias, 2, 1, 0, 5).shape == (0, 5, 6, 8)
    assert own.conv_transpose2d_argmax(x, weight, bias, 2, 1, 0, 5).shape == (0, 6, 8)


@pytest.mark.parametrize("groups", [1, 3])
def test_layouts_without_kernels_are_stock_s(groups):
    x, weight = normal((1, 3, 9, 14)).to_mkldnn(), normal((3, 4 if groups == 1 else 1, 4, 4))
    expected = stock.conv_transpose2d(x, weight, None, 2, 1, groups=groups)
    actual = own.conv_transpose2d(x, weight, None, 2, 1, groups=groups)
    assert torch.equal(actual.to_dense(), expected.to_dense())


# ---- Gradients -----------------------------------------------------------------------------------------------------


def check_gradients(grad, x, weight, stride, padding, dilation, tolerance, layout=contiguous):
    """All gradients are stock's in float64, whatever the format of ``grad``; each alone is the same."""
    wide = [t.double().requires_grad_() for t in (x, weight, normal((grad.shape[1],), x.dtype))]
    more = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]  # the output may be cut short
    output = stock.conv_transpose2d(*wide, stride, 0, more, x.shape[1], dilation)
    (top, left), (height, width) = padding, grad.shape[-2:]
    expected = torch.autograd.grad(output[..., top : top + height, left : left + width], wide, grad.double())
    last = layout is channels_last
    arguments = (layout(x), weight, stride, padding, dilation, last)
    actual = ops.depthwise_conv_transpose2d_backward(grad, *arguments, True, True, True)
    terms = weight[0].numel(), x[:, 0].numel(), grad[:, 0].numel()
    for k, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert (a.shape, a.dtype) == (e.shape, x.dtype)
        scale = terms[k] ** 0.5  # what a sum of so many normal numbers is like, even if they happen to cancel out
        torch.testing.assert_close(a.double(), e, rtol=tolerance, atol=tolerance * scale)
        alone = ops.depthwise_conv_transpose2d_backward(layout(grad), *arguments, *(n == k for n in range(3)))
        assert [n.numel() for n in alone] == [a.numel() if n == k else 0 for n in range(3)]
        assert torch.equal(alone[k], a)
    assert actual[0].is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize(("channels", "multiplier", "size"), [(21, 1, (3, 4)), (3, 2, (2, 9)), (1, 4, (5, 3))])
def test_gradients_of_the_kernels(channels, multiplier, size, window, layout, dtype):
    if window[0] == 64:
        channels, size = min(channels, 5), (2, 2)
    x, weight, _ = inputs(channels, multiplier, size, window, dtype)
    stride, padding, output_padding, dilation = (v if isinstance(v, tuple) else (v, v) for v in window[1:])
    shape = stock.conv_transpose2d(x, weight, None, stride, padding, output_padding, channels, dilation).shape
    check_gradients(normal(shape, dtype), x, weight, stride, padding, dilation, TOLERANCES[dtype], layout)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65])
@pytest.mark.parametrize("channels", [1, 5, 16])
@pytest.mark.parametrize("scale", [2, 3, 8, 20])
def test_gradients_of_widths_around_a_vector(scale, channels, width, layout):
    x, weight, _ = inputs(channels, 1, (2, width), (2 * scale,), torch.float32)
    grad = normal((2, channels, 2 * scale, width * scale), torch.float32)
    check_gradients(grad, x, weight, (scale, scale), (scale // 2,) * 2, (1, 1), 1e-5, layout)


@given(st.data())
def test_gradients_of_any_window_and_crop(data):
    def pair(least, most):
        return data.draw(st.tuples(*[st.integers(least, most)] * 2))

    channels, multiplier, kernel = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3)), pair(1, 6)
    size, stride, dilation = pair(1, 12), pair(1, 5), pair(1, 3)
    axes = zip(size, stride, kernel, dilation, strict=True)
    whole = [(n - 1) * s + (k - 1) * d + max(s, d) for n, s, k, d in axes]
    crop = [data.draw(st.integers(0, extent - 1)) for extent in whole]
    kept = [data.draw(st.integers(1, extent - start)) for extent, start in zip(whole, crop, strict=True)]
    dtype = data.draw(st.sampled_from(FLOATS))
    x, weight, _ = inputs(channels, multiplier, size, (kernel,), dtype, samples=data.draw(st.integers(0, 2)))
    grad = data.draw(st.sampled_from(LAYOUTS))(normal((x.shape[0], channels * multiplier, *kept), dtype))
    layout = data.draw(st.sampled_from(FORMATS))
    check_gradients(grad, x, weight, stride, crop, dilation, TOLERANCES[dtype], layout)


@pytest.mark.parametrize("size", [(0, 7), (7, 0)])
def test_gradients_of_no_output(size, deterministic):
    """Zeros: what is left unwritten is NaN here."""
    operands, rest = (normal((2, 3, 4, 5)), normal((3, 2, 4, 4))), ((2, 2), (0, 0), (1, 1))
    gradients = ops.depthwise_conv_transpose2d_backward(
        normal((2, 6, *size)), *operands, *rest, False, True, True, True
    )
    kept = normal((2, *size, 2)), torch.zeros(2, *size, dtype=torch.uint8)
    of_loss = ops.depthwise_conv_transpose2d_cross_entropy_backward(
        normal((2, *size)), *operands, None, None, *kept, *rest, 0.0, False, True, True, True
    )
    for gradient, shape in zip((*gradients, *of_loss), ((2, 3, 4, 5), (3, 2, 4, 4), (6,)) * 2, strict=True):
        assert gradient.shape == shape
        assert not gradient.any()


def test_gradients_do_not_depend_on_threads():
    x, weight, bias = (t.requires_grad_() for t in inputs(21, 1, (40, 41), (16,), torch.float32))
    for layout in FORMATS:
        output = own.conv_transpose2d(layout(x), weight, bias, 8, groups=21)
        grad, results = normal(output.shape, torch.float32), []
        for count in (1, 2, 3):
            with threads(count):
                results.append(torch.autograd.grad(output, (x, weight, bias), grad, retain_graph=True))
        for other in results[1:]:
            assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(4, 2, 1), (3, 2, 1), (2, 3, 1), (5, 4, 1), (16, 8, 1), (3, 2, 3)]
)
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_an_infinite_gradient_reaches_what_fed_it_and_no_more(layout, value, kernel, stride, dilation):
    """Wherever it lies: at edges it has neighbours that do not exist, and are no zeros that make NaN of it."""
    x, weight, bias = inputs(3, 1, (4, 5), (kernel,))
    x[0, 0, 0, 0] = weight[2, 0, 0, 0] = float("inf")  # nor does what exists meet zeros that do not
    leaves = [layout(x).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    window = {"stride": stride, "dilation": dilation, "groups": 3}
    output = own.conv_transpose2d(*leaves, **window)
    expected = reference.conv_transpose2d(*leaves, **window)
    for y, column in itertools.product((0, 5, output.shape[-2] - 1), (0, 6, output.shape[-1] - 1)):
        grad = normal(output.shape, torch.float64)
        grad[0, 1, y, column] = value
        actual = torch.autograd.grad(output, leaves, grad, retain_graph=True)
        for a, e in zip(actual, torch.autograd.grad(expected, leaves, grad, retain_graph=True), strict=True):
            torch.testing.assert_close(a, e, equal_nan=True)


# ---- Derivatives, dispatch -----------------------------------------------------------------------------------------


def _leaves(layout=contiguous, multiplier=1):
    x, weight, bias = inputs(3, multiplier, (3, 2), (4,))
    addend = normal((2, 3 * multiplier, 9, 8), torch.float64, seed=3)
    return [layout(x).requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), addend.requires_grad_()]


@pytest.mark.parametrize(("crop", "size"), [((0, 12), None), ((9, 0), (1, 5)), ((9, 12), (1, 1))])
def test_derivatives_of_a_part_that_begins_in_the_output_padding(crop, size):
    """There only the bias and the addend count."""
    x, weight, bias = inputs(2, 1, (2, 3), (2, 3))
    addend = normal((2, 2, 10, 14), torch.float64, seed=3)
    leaves = [t.requires_grad_() for t in (x, weight, bias, addend)]

    def call(x, weight, bias, addend):
        window = {"stride": (7, 4), "output_padding": (1, 3), "groups": 2}
        return own.conv_transpose2d_add(x, weight, addend, bias, **window, crop=crop, output_size=size)

    assert torch.autograd.gradcheck(call, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, leaves)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("multiplier", [1, 2])
def test_gradients(multiplier, layout):
    def call(x, weight, bias, addend):
        return own.conv_transpose2d_add(x, weight, addend, bias, 2, groups=3, crop=(1, 2), addend_crop=(2, 1))

    leaves = _leaves(layout, multiplier)
    assert torch.autograd.gradcheck(call, leaves, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, leaves)
    result = call(*leaves)
    grad = normal(result.shape, torch.float64)
    every = dict(zip(map(id, leaves), torch.autograd.grad(result, leaves, grad), strict=True))
    for wanted in itertools.product([False, True], repeat=4):
        for leaf, needs in zip(leaves, wanted, strict=True):
            leaf.requires_grad_(needs)
        if some := list(itertools.compress(leaves, wanted)):
            for leaf, found in zip(some, torch.autograd.grad(call(*leaves), some, grad), strict=True):
                torch.testing.assert_close(found, every[id(leaf)])


def test_labels_have_no_gradient():
    x, weight, bias, _ = _leaves()
    labels, scores = own.conv_transpose2d_argmax(x, weight, bias, 2, groups=3, return_scores=True)
    assert not labels.requires_grad
    assert not scores.requires_grad


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_and_exports(dynamic):
    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(5, 5, 4, 2, 1, groups=5)

        def forward(self, x):
            up = self.up(x)
            return up, own.conv_transpose2d_argmax(up, self.up.weight, stride=2, groups=5, crop=(1, 1))

    head, x = Head(), normal((2, 5, 6, 7))
    torch._dynamo.reset()
    compiled = torch.compile(head, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    shapes = {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)} if dynamic else None
    exported = torch.export.export(head, (x,), dynamic_shapes=(shapes,)).module()
    for size in ((6, 7), (9, 4)) if dynamic else ((6, 7),):
        x = normal((2, 5, *size))
        for run in (compiled, exported):
            for actual, expected in zip(run(x), head(x), strict=True):
                torch.testing.assert_close(actual, expected)
    compiled(x)[0].sum().backward()
    assert head.up.weight.grad.isfinite().all()


def test_a_compiled_step_shows_the_gradients_as_one_op():
    head, x = nn.ConvTranspose2d(5, 5, 4, 2, 1, groups=5), normal((2, 5, 6, 7))
    head(x).square().sum().backward()
    expected, nodes = [parameter.grad.clone() for parameter in head.parameters()], []
    head.zero_grad()

    def backend(graph, _):
        nodes.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(head, fullgraph=True, backend=aot_autograd(fw_compiler=backend, bw_compiler=backend))
    compiled(x).square().sum().backward()
    for parameter, grad in zip(head.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
    assert "segext.depthwise_conv_transpose2d_backward.default" in nodes


def test_autocast():
    """As stock, transposed convolutions run in the lower precision."""
    x, weight, bias = inputs(5, 1, (3, 4), (4,), torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        actual = own.conv_transpose2d(x, weight, bias, 2, 1, 0, 5)
        expected = stock.conv_transpose2d(x, weight, bias, 2, 1, 0, 5)
        one = own.conv_transpose2d(normal((1, 5, 1, 1)), normal((5, 3, 3, 3)))
        summed = own.conv_transpose2d_add(x, weight, normal((2, 5, 8, 10)), bias, 2, groups=5)
    assert actual.dtype == expected.dtype == one.dtype == torch.bfloat16
    assert summed.dtype == torch.float32
    assert_near(actual, expected, torch.bfloat16)


@pytest.mark.parametrize("output_size", [None, (9, 11), (10, 12), [9, 12]])
def test_module(output_size):
    ours, theirs = nn.ConvTranspose2d(6, 6, 3, 2, 1, groups=6), torch.nn.ConvTranspose2d(6, 6, 3, 2, 1, groups=6)
    ours.load_state_dict(theirs.state_dict())
    x = normal((2, 6, 5, 6))
    torch.testing.assert_close(ours(x, output_size), theirs(x, output_size))
    with pytest.raises(ValueError, match="output"):
        ours(x, (20, 20))


def test_the_result_does_not_depend_on_threads():
    x, weight, bias = inputs(21, 1, (40, 41), (16,), torch.float32)
    results = []
    for count in (1, 2):
        with threads(count):
            results.append(own.conv_transpose2d(x, weight, bias, 8, groups=21))
    assert torch.equal(*results)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(4, 2, 1), (3, 2, 1), (2, 3, 1), (5, 4, 1), (16, 8, 1), (3, 2, 3)]
)
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_infinite_input_reaches_what_it_feeds_and_no_more(value, kernel, stride, dilation):
    x, weight = normal((1, 3, 6, 7), torch.float64), normal((3, 1, kernel, kernel), torch.float64, seed=1)
    x[0, 1, 2, 3] = value
    window = {"stride": stride, "dilation": dilation, "groups": 3}
    expected = stock.conv_transpose2d(x, weight, **window)
    torch.testing.assert_close(own.conv_transpose2d(x, weight, **window), expected, equal_nan=True)
    added = own.conv_transpose2d_add(x, weight, torch.zeros_like(expected), **window)
    torch.testing.assert_close(added, expected, equal_nan=True)
    labels, scores = own.conv_transpose2d_argmax(x, weight, **window, return_scores=True)
    assert torch.equal(labels.long(), expected.argmax(1))
    torch.testing.assert_close(scores, expected.amax(1), equal_nan=True)
