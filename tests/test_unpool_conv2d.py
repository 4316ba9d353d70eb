"""Unpooling and convolution in one: as the two in sequence, by segext's kernels and by the composition."""

import copy
import io
import pickle
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as stock
from hypothesis import given
from hypothesis import strategies as st
from samples import FLOATS, FORMATS, Pool, assert_same, channels_last, contiguous, name, normal, random_codes, threads
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import segext.functional as own
from segext import Switches, _explain, conv_routes, explain, nn, reference, unpool_conv2d
from segext import ops as differentiable

ops = torch.ops.segext
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
WINDOW = Pool(2).window

# (channels, outputs, pooled size, unpooled size): sizes one off a vector, a block of channels or a panel of outputs, of
# maps that pools with and without ceil_mode leave, and larger and smaller than any pool would make them.
SHAPES = (
    (64, 64, (3, 5), (6, 10)),
    (3, 21, (4, 4), (9, 8)),
    (65, 17, (2, 3), (3, 5)),
    (1, 1, (1, 1), (2, 2)),
    (16, 33, (5, 1), (9, 2)),
    (130, 16, (1, 70), (2, 141)),
    (7, 5, (40, 3), (80, 6)),
    (4, 4, (3, 3), (11, 3)),
    (4, 4, (4, 4), (3, 5)),
)


def operands(channels, outputs, pooled, size, dtype=torch.float64, samples=2, transposed=True):
    values = normal((samples, channels, *pooled), dtype, seed=0)
    weight = normal((channels, outputs, 3, 3) if transposed else (outputs, channels, 3, 3), dtype, seed=1)
    taps = torch.randint(4, values.shape, generator=torch.Generator().manual_seed(2))
    return values, taps, weight, normal((outputs,), dtype, seed=3)


def switches_of(taps, size, layout):
    last = layout is channels_last
    return Switches(reference.pack(taps, 2, last), taps.shape, size, (2, 2), (2, 2), (0, 0), (1, 1), channels_last=last)


def in_sequence(values, taps, size, weight, bias, padding, transposed):
    """By the reference's unpooling and stock's convolution, in float64, with gradients."""
    unpooled = reference.max_unpool2d(values, taps, size, *WINDOW)
    convolve = stock.conv_transpose2d if transposed else stock.conv2d
    return convolve(unpooled, weight, bias, 1, padding)


def assert_near(actual, expected, dtype):
    expected = expected.detach()
    tolerance = TOLERANCES[dtype] * max(1, float(expected.abs().max()))
    assert actual.dtype == dtype
    torch.testing.assert_close(actual.double(), expected.double(), rtol=0, atol=tolerance)


def fits(size, padding, transposed):
    return all(extent + (2 - 2 * p if transposed else 2 * p - 2) > 0 for extent, p in zip(size, padding, strict=True))


def check(shape, padding, layout, dtype, transposed, with_bias=True):
    _, outputs, _, size = shape
    values, taps, weight, bias = operands(*shape, dtype, transposed=transposed)
    bias = bias if with_bias else None
    exact = [x.double().requires_grad_() for x in (values, weight)]
    expected = in_sequence(exact[0], taps, size, exact[1], None if bias is None else bias.double(), padding, transposed)
    grad = normal(expected.shape, dtype, seed=4)
    expected_grads = torch.autograd.grad(expected, exact, grad.double())

    last = layout is channels_last
    rest = (switches_of(taps, size, layout).codes, weight), (size, padding, transposed, last)
    actual = ops.unpool_conv2d(layout(values), *rest[0], None, bias, *rest[1])
    packed = ops.unpool_conv2d_pack(weight, transposed)
    assert_same(ops.unpool_conv2d(layout(values), *rest[0], packed, bias, *rest[1]), actual)
    assert_near(actual, expected, dtype)
    if outputs > 1:
        assert actual.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    grads = ops.unpool_conv2d_backward(layout(grad), layout(values), *rest[0], *rest[1], True, True)
    for one, other in zip(grads, expected_grads, strict=True):
        assert_near(one, other, dtype)
    only_input, _ = ops.unpool_conv2d_backward(layout(grad), layout(values), *rest[0], *rest[1], True, False)
    _, only_weight = ops.unpool_conv2d_backward(layout(grad), layout(values), *rest[0], *rest[1], False, True)
    assert_near(only_input, expected_grads[0], dtype)
    assert_near(only_weight, expected_grads[1], dtype)


@pytest.mark.parametrize("transposed", [True, False], ids=["transposed", "plain"])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels(shape, layout, dtype, transposed):
    for padding in ((1, 1), (0, 2), (2, 0)):
        if fits(shape[-1], padding, transposed):
            check(shape, padding, layout, dtype, transposed, with_bias=padding == (1, 1))


@given(
    shape=st.tuples(
        st.integers(1, 70),
        st.integers(1, 70),
        st.tuples(st.integers(1, 9), st.integers(1, 40)),
        st.tuples(st.integers(1, 19), st.integers(1, 82)),
    ),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    layout=st.sampled_from(FORMATS),
    dtype=st.sampled_from(FLOATS),
    transposed=st.booleans(),
)
def test_any_shape(shape, padding, layout, dtype, transposed):
    if fits(shape[-1], padding, transposed):
        check(shape, padding, layout, dtype, transposed)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("transposed", [True, False], ids=["transposed", "plain"])
def test_public_functions(layout, dtype, transposed):
    x = layout(normal((2, 6, 9, 12), dtype))
    values, switches = own.max_pool2d(x, 2, return_indices=True)
    shape = (6, 5, 3, 3) if transposed else (5, 6, 3, 3)
    weight, bias = normal(shape, dtype, seed=1), normal((5,), dtype, seed=2)
    function = own.unpool_conv_transpose2d if transposed else own.unpool_conv2d
    convolve = stock.conv_transpose2d if transposed else stock.conv2d
    unpooled = own.max_unpool2d(values.double(), switches)
    for padding in (0, 1, (1, 2)):
        actual = function(values, switches, weight, bias, 1, padding)
        expected = convolve(unpooled, weight.double(), bias.double(), 1, padding)
        assert_near(actual, expected, dtype)
        single = function(values[0], switches[0], weight, bias, 1, padding)
        assert_near(single, expected[0], dtype)
    # The layers are the functions.
    layer = (nn.UnpoolConvTranspose2d if transposed else nn.UnpoolConv2d)(6, 5, 3, padding=1, dtype=dtype)
    layer.load_state_dict({"weight": weight, "bias": bias})
    assert_same(layer(values, switches), function(values, switches, weight, bias, 1, 1))
    assert_same(layer(values, switches, (2, 6, 9, 12)), function(values, switches, weight, bias, 1, 1))


# (pool, arguments of the transposed convolution): what the kernels are not for.
OTHERS = (
    (Pool(2), {"stride": 2, "padding": 1, "output_padding": 1}),
    (Pool(2), {"groups": 2}),
    (Pool(2), {"dilation": 2, "padding": 1}),
    (Pool(3, 2, 1), {"padding": 1}),
    (Pool((2, 1)), {"padding": 1}),
)


@pytest.mark.parametrize(("pool", "arguments"), OTHERS, ids=str)
def test_all_else_is_composed(pool, arguments):
    """And keeps the pooled map rather than the unpooled one."""
    x = normal((2, 6, 16, 20), torch.float64)
    values, switches = own.max_pool2d(x, *pool[:4], return_indices=True)
    weight = normal((6, 5, 3, 3), torch.float64, seed=1)
    values.requires_grad_(), weight.requires_grad_()
    if arguments.get("groups"):
        weight = weight[:, :2]
    expected = stock.conv_transpose2d(own.max_unpool2d(values, switches), weight, **arguments)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        actual = own.unpool_conv_transpose2d(values, switches, weight, **arguments)
    assert not [t for t in saved if t.shape == (2, 6, 16, 20)]
    torch.testing.assert_close(actual, expected)
    grad = normal(expected.shape, torch.float64, seed=2)
    inputs = (values, weight)
    for one, other in zip(
        torch.autograd.grad(actual, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        torch.testing.assert_close(one, other)
    assert "then" in explain(own.unpool_conv_transpose2d, values, switches, weight, **arguments)


# What the plain convolution's kernels are not for, and whether its padding is one that the gradient has.
PLAIN = (
    ({"padding": "same", "kernel": 5}, True),
    ({"padding": "same", "kernel": 3, "dilation": 2}, True),
    ({"padding": "valid", "kernel": 5, "stride": 2}, True),
    ({"padding": (2, 1), "kernel": 1, "groups": 2}, True),
    ({"padding": "same", "kernel": 4}, False),
)


def test_explains_the_plain_convolution():
    """Whose weight has its channels the other way round."""
    values, switches = own.max_pool2d(normal((2, 4, 12, 10)), 2, return_indices=True)
    for padding in (1, (0, 2), "same", "valid"):
        why = explain(own.unpool_conv2d, values, switches, normal((6, 4, 3, 3)), padding=padding)
        assert "quarter" in why
    for weight, more in (((4, 6, 3, 3), {}), ((6, 4, 5, 5), {"padding": "same"}), ((6, 2, 3, 3), {"groups": 2})):
        why = explain(own.unpool_conv2d, values, switches, normal(weight), **more)
        assert why.startswith("segext's unpooling, then conv2d: fused kernels exist for 2x2 windows")
    assert "quarter" in explain(own.unpool_conv_transpose2d, values, switches, normal((4, 6, 3, 3)))
    assert "then conv_transpose2d" in explain(own.unpool_conv_transpose2d, values, switches, normal((6, 4, 3, 3)))


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("batched", [True, False], ids=["batched", "single"])
@pytest.mark.parametrize(("arguments", "keeps_less"), PLAIN, ids=str)
def test_plain_convolutions_that_are_composed(arguments, keeps_less, batched):
    arguments = dict(arguments)
    kernel, groups = arguments.pop("kernel"), arguments.get("groups", 1)
    x = normal((2, 4, 12, 10) if batched else (4, 12, 10), torch.float64)
    values, switches = own.max_pool2d(x, 2, return_indices=True)
    weight, bias = normal((6, 4 // groups, kernel, kernel), torch.float64, seed=1), normal((6,), torch.float64, seed=2)
    leaves = [tensor.requires_grad_() for tensor in (values, weight, bias)]
    expected = stock.conv2d(own.max_unpool2d(values, switches), weight, bias, **arguments)
    grads = torch.autograd.grad(expected.square().sum(), leaves)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        actual = own.unpool_conv2d(values, switches, weight, bias, **arguments)
    assert any(len(shape) > 2 and min(shape[-2:]) >= 10 for shape in kept) != keeps_less
    torch.testing.assert_close(actual, expected)
    for one, other in zip(torch.autograd.grad(actual.square().sum(), leaves), grads, strict=True):
        torch.testing.assert_close(one, other)
    for k in range(3):  # what needs no gradient gets none
        (one,) = torch.autograd.grad(
            own.unpool_conv2d(*alone(k, leaves, switches), **arguments).square().sum(), leaves[k]
        )
        torch.testing.assert_close(one, grads[k])


def alone(index, leaves, switches):
    values, *rest = (leaf if k == index else leaf.detach() for k, leaf in enumerate(leaves))
    return values, switches, *rest


def test_composition_under_autocast():
    values, switches = own.max_pool2d(normal((2, 4, 12, 10)), 2, return_indices=True)
    weight, bias = normal((3, 4, 5, 5), seed=1).requires_grad_(), normal((3,), seed=2).requires_grad_()
    values.requires_grad_()
    found = []
    for function in (
        own.unpool_conv2d,
        lambda values, switches, *rest: stock.conv2d(own.max_unpool2d(values, switches), *rest),
    ):
        with torch.autocast("cpu", torch.bfloat16):
            result = function(values, switches, weight, bias, 1, 2)
        assert result.dtype is torch.bfloat16
        found.append((result, *torch.autograd.grad(result.float().sum(), (values, weight, bias))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)


def test_composition_leaves_what_is_kept_to_hooks_and_checkpoints():
    values, switches = own.max_pool2d(normal((1, 2, 8, 8)), 2, return_indices=True)
    weight = normal((3, 2, 5, 5), seed=1).requires_grad_()
    moved = []

    def pack(tensor):
        moved.append(tensor.shape)
        return tensor.clone()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = own.unpool_conv2d(values, switches, weight, padding=2)
    assert sorted(moved) == sorted((values.shape, switches.codes.shape, weight.shape))
    values.zero_()  # what is kept is the hook's
    (grad,) = torch.autograd.grad(result.sum(), weight)
    assert grad.abs().sum() > 0

    values = normal((1, 2, 4, 4), seed=3).requires_grad_()
    plain = own.unpool_conv2d(values, switches, weight, padding=2)
    again = checkpoint(own.unpool_conv2d, values, switches, weight, padding=2, use_reentrant=False)
    for one, other in zip(
        *(torch.autograd.grad(y.square().sum(), (values, weight)) for y in (plain, again)), strict=True
    ):
        assert_same(one, other)


def test_a_composed_result_may_be_changed_in_place():
    """Of one pixel, too, whose transposed convolution is a view of a product."""
    values, switches = own.max_pool2d(normal((2, 4, 1, 1)), 2, ceil_mode=True, return_indices=True)
    weight = normal((4, 3, 3, 3), seed=1).requires_grad_()
    result = own.unpool_conv_transpose2d(values, switches, weight, stride=2).relu_()
    expected = stock.conv_transpose2d(values, weight, stride=2).relu()
    torch.testing.assert_close(result, expected)
    (grad,), (other,) = (torch.autograd.grad(y.square().sum(), weight) for y in (result, expected))
    torch.testing.assert_close(grad, other)


def test_composed_channels_that_do_not_mix_have_the_gradients_of_their_own_kernels():
    values, switches = own.max_pool2d(normal((2, 5, 8, 8)), 2, return_indices=True)
    weight = normal((5, 1, 4, 4), seed=1).requires_grad_()
    result = own.unpool_conv_transpose2d(values, switches, weight, None, 2, 1, 0, 5)
    assert "DepthwiseConvTranspose2d" in result.grad_fn.name()


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("wrong", [None, [[1.0]]])
def test_composition_of_what_is_no_tensor(wrong, trains):
    _, switches = own.max_pool2d(normal((1, 2, 8, 8)), 2, return_indices=True)
    weight = normal((2, 2, 5, 5)).requires_grad_(trains)
    with pytest.raises(TypeError, match="Tensor"):
        own.unpool_conv2d(wrong, switches, weight)


def test_composition_notices_a_pooled_map_that_was_changed():
    values, switches = own.max_pool2d(normal((1, 2, 8, 8)), 2, return_indices=True)
    weight = normal((2, 3, 5, 5), seed=1).requires_grad_()
    result = own.unpool_conv_transpose2d(values, switches, weight, padding=2)
    values.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.sum().backward()


def test_composition_notices_a_weight_that_was_changed():
    values, switches = own.max_pool2d(normal((1, 2, 8, 8)), 2, return_indices=True)
    values.requires_grad_()
    weight = normal((2, 3, 5, 5), seed=1).requires_grad_()
    result = own.unpool_conv_transpose2d(values, switches, weight, padding=2)
    with torch.no_grad():
        weight.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(result.sum(), values)


def test_composition_without_a_batch_keeps_no_unpooled_map():
    values, switches = own.max_pool2d(normal((2, 8, 8)), 2, return_indices=True)
    weight = normal((2, 3, 5, 5), seed=1).requires_grad_()
    result = own.unpool_conv_transpose2d(values, switches, weight, padding=2)
    expected = stock.conv_transpose2d(own.max_unpool2d(values, switches), weight, None, 1, 2)
    (actual,), (other,) = (torch.autograd.grad(y.square().sum(), weight) for y in (result, expected))
    torch.testing.assert_close(actual, other)


def test_composition_of_inference_tensors():
    with torch.inference_mode():
        values, switches = own.max_pool2d(normal((1, 2, 8, 8)), 2, return_indices=True)
    assert own.unpool_conv_transpose2d(values, switches, normal((2, 3, 5, 5))).shape == (1, 3, 12, 12)


def test_forward_over_reverse():
    values, switches = own.max_pool2d(normal((1, 2, 6, 6), torch.float64), 2, return_indices=True)
    weight, tangent = normal((2, 3, 3, 3), torch.float64, seed=1), normal(values.shape, torch.float64, seed=2)

    def gradient(values):
        leaf = values if values.requires_grad else values.requires_grad_()
        result = own.unpool_conv_transpose2d(leaf, switches, weight, padding=1)
        return torch.autograd.grad(result.square().sum(), leaf)[0]

    with forward_ad.dual_level():
        dual = forward_ad.make_dual(values.clone().requires_grad_(), tangent)
        actual = forward_ad.unpack_dual(gradient(dual)).tangent
    torch.testing.assert_close(actual, gradient(tangent.clone()))  # the gradient is linear


def test_keeps_the_pooled_map_alone():
    x = normal((2, 8, 32, 32)).requires_grad_()
    values, switches = own.max_pool2d(x, 2, return_indices=True)
    weight = normal((8, 8, 3, 3), seed=1).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        own.unpool_conv_transpose2d(values, switches, weight, padding=1)
    assert sorted(t.numel() * t.element_size() for t in kept) == sorted(
        t.numel() * t.element_size() for t in (values, switches.codes, weight)
    )
    assert "quarter" in explain(own.unpool_conv_transpose2d, values, switches, weight, padding=1)


@pytest.mark.parametrize("transposed", [True, False], ids=["transposed", "plain"])
def test_derivatives(transposed):
    values, taps, weight, bias = operands(2, 3, (2, 3), (4, 6), samples=1, transposed=transposed)
    codes = switches_of(taps, (4, 6), contiguous).codes
    inputs = [x.requires_grad_() for x in (values, weight, bias)]

    def function(values, weight, bias):
        return differentiable.unpool_conv2d(values, codes, weight, None, bias, (4, 6), (1, 1), transposed, False)

    assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, inputs)


def test_composed_derivatives():
    x = normal((1, 2, 5, 6), torch.float64)
    values, switches = own.max_pool2d(x, 3, 2, 1, return_indices=True)
    weight = normal((2, 2, 2, 2), torch.float64, seed=1).requires_grad_()

    def function(values, weight):
        return own.unpool_conv_transpose2d(values, switches, weight, stride=2)

    inputs = (values.requires_grad_(), weight)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_transforms(layout):
    x = layout(normal((3, 4, 6, 8), torch.float64))
    values, switches = own.max_pool2d(x, 2, return_indices=True)
    weight = normal((4, 2, 3, 3), torch.float64, seed=1)

    def loss(values, weight):
        return own.unpool_conv_transpose2d(values, switches, weight, padding=1).square().sum()

    leaves = values.clone().requires_grad_(), weight.clone().requires_grad_()
    expected = torch.autograd.grad(loss(*leaves), leaves)
    for one, other in zip(torch.func.grad(loss, (0, 1))(values, weight), expected, strict=True):
        torch.testing.assert_close(one, other)
    codes = switches.codes
    last = layout is channels_last

    def sample(value, code):
        return differentiable.unpool_conv2d(value[None], code[None], weight, None, None, (6, 8), (1, 1), True, last)[0]

    mapped = torch.func.vmap(sample)(values, codes)
    torch.testing.assert_close(mapped, own.unpool_conv_transpose2d(values, switches, weight, padding=1))


def test_compiles_and_exports():
    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fused = nn.UnpoolConvTranspose2d(4, 3, 3, padding=1)

        def forward(self, x):
            return self.fused(*own.max_pool2d(x, 2, return_indices=True))

    model, x = Decoder(), normal((2, 4, 10, 12))
    expected = model(x)
    expected.square().sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    nodes = []

    def backend(graph, _):
        nodes.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    from torch._dynamo.backends.common import aot_autograd

    compiled = torch.compile(model, fullgraph=True, backend=aot_autograd(fw_compiler=backend, bw_compiler=backend))
    actual = compiled(x)
    actual.square().sum().backward()
    torch.testing.assert_close(actual, expected)
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
    assert "segext.unpool_conv2d.default" in nodes
    assert "segext.unpool_conv2d_backward.default" in nodes
    exported = torch.export.export(model, (x,), dynamic_shapes={"x": {0: torch.export.Dim("n", min=2)}})
    buffer = io.BytesIO()
    torch.export.save(exported, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    more = normal((3, 4, 10, 12), seed=5)
    torch.testing.assert_close(loaded(more), model(more))
    assert isinstance(copy.deepcopy(model)(x), torch.Tensor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=name)
def test_autocast(dtype):
    x = normal((1, 4, 8, 8))
    values, switches = own.max_pool2d(x, 2, return_indices=True)
    weight, bias = normal((4, 3, 3, 3), seed=1), normal((3,), seed=2)
    with torch.autocast("cpu", dtype):
        actual = own.unpool_conv_transpose2d(values, switches, weight, bias, padding=1)
        plain = own.unpool_conv2d(values, switches, weight.transpose(0, 1), bias, padding=1)
    unpooled = own.max_unpool2d(values, switches).double()
    assert_near(actual, stock.conv_transpose2d(unpooled, weight.double(), bias.double(), 1, 1), dtype)
    assert_near(plain, stock.conv2d(unpooled, weight.transpose(0, 1).double(), bias.double(), 1, 1), dtype)


def test_matrix_instructions_are_left_to_stock(monkeypatch):
    values, switches = own.max_pool2d(normal((1, 4, 8, 8), torch.bfloat16), 2, return_indices=True)
    weight = normal((4, 3, 3, 3), torch.bfloat16)
    results = []
    for has_them in (True, False):
        monkeypatch.setattr(conv_routes, "_MULTIPLIES_BFLOAT16", has_them)
        assert ("matrix instructions" in explain(own.unpool_conv_transpose2d, values, switches, weight)) == has_them
        results.append(own.unpool_conv_transpose2d(values, switches, weight))
    torch.testing.assert_close(*results, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0)], ids=str)
def test_tensor_cores_are_asked_for(capability, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    properties = SimpleNamespace(major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert unpool_conv2d.multiplies_tiles(torch.device("cuda", 0)) == (capability >= (8, 0))
    assert unpool_conv2d.multiplies_tiles(torch.device("cuda", 1))  # is not there
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert unpool_conv2d.multiplies_tiles(torch.device("cuda", 0))


@pytest.mark.parametrize("allows_tf32", [True, False], ids=["TF32", "no TF32"])
@pytest.mark.parametrize("has_tiles", [True, False], ids=["8.0", "7.5"])
@pytest.mark.parametrize("channels", [128, 129])
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_explains_its_choice_on_cuda(dtype, channels, has_tiles, allows_tf32, monkeypatch):
    """As it would be there: half types by tensor cores, zeros too, and only where the map that is saved counts; float32
    where torch's is not rounded for them."""
    monkeypatch.setattr(differentiable, "DEVICES", {"cpu", "cuda"})
    monkeypatch.setattr(conv_routes, "_MULTIPLIES_BFLOAT16", True)  # whatever this CPU has
    for module in (unpool_conv2d, _explain):
        monkeypatch.setattr(module, "multiplies_tiles", lambda device: has_tiles)
    _, switches = own.max_pool2d(normal((1, channels, 8, 8)), 2, return_indices=True)
    with FakeTensorMode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=allows_tf32):
        values, weight = (
            torch.empty(size, dtype=dtype, device="cuda") for size in (switches.shape, (channels, 3, 3, 3))
        )
        why = explain(own.unpool_conv_transpose2d, values, switches, weight, padding=1)
        other = explain(own.unpool_conv_transpose2d, values, switches, weight, padding=1, stride=2)
    of_half = "never stored" if channels == 128 else "more than 128 channels"
    of_single = "TF32" if dtype is torch.float32 and has_tiles and allows_tf32 else "so a quarter"
    reason = of_single if dtype.itemsize > 2 else of_half if has_tiles else "need the tensor cores"
    assert reason in why
    assert "kernels exist for 2x2 windows" in other


def test_threads_give_the_same_bits():
    values, taps, weight, bias = operands(40, 40, (13, 17), (26, 34), torch.float32, samples=3)
    for layout in FORMATS:
        last = layout is channels_last
        codes = switches_of(taps, (26, 34), layout).codes
        rest = ((26, 34), (1, 1), True, last)
        grad = layout(normal((3, 40, 26, 34), seed=5))
        results = []
        for count in (1, 2, 3):
            with threads(count):
                forward = ops.unpool_conv2d(layout(values), codes, weight, None, bias, *rest)
                results.append(
                    (forward, *ops.unpool_conv2d_backward(grad, layout(values), codes, weight, *rest, True, True))
                )
        for other in results[1:]:
            for one, two in zip(results[0], other, strict=True):
                assert_same(one, two)


def test_nan_and_infinity_reach_what_they_feed():
    values, switches = own.max_pool2d(normal((1, 3, 12, 12)), 2, return_indices=True)
    values[0, 0, 1, 1], values[0, 2, 4, 4] = float("nan"), float("inf")
    weight = normal((3, 5, 3, 3), seed=1)
    actual = own.unpool_conv_transpose2d(values, switches, weight, padding=1)
    expected = reference.conv_transpose2d(own.max_unpool2d(values, switches), weight, None, 1, 1)
    torch.testing.assert_close(actual, expected, equal_nan=True, rtol=1e-5, atol=1e-5)


def test_weights_of_any_strides():
    values, switches = own.max_pool2d(normal((2, 6, 8, 8)), 2, return_indices=True)
    weight = normal((6, 20, 3, 3), seed=1)
    expected = own.unpool_conv_transpose2d(values, switches, weight, padding=1)
    for other in (
        weight.contiguous(memory_format=torch.channels_last),
        weight.transpose(0, 1).contiguous().transpose(0, 1),
        weight.transpose(2, 3).contiguous().transpose(2, 3),
        normal((6, 20, 3, 4), seed=2)[..., :3].copy_(weight),
    ):
        torch.testing.assert_close(own.unpool_conv_transpose2d(values, switches, other, padding=1), expected)


PREPACKED = (
    (nn.UnpoolConvTranspose2d, own.unpool_conv_transpose2d, own.prepack_unpool_conv_transpose2d),
    (nn.UnpoolConv2d, own.unpool_conv2d, own.prepack_unpool_conv2d),
)


@pytest.mark.parametrize(("kind", "function", "prepack"), PREPACKED)
def test_packed_weights(kind, function, prepack):
    """They are what is read, in their place and in their order; whoever needs the weight itself still has it."""
    values, switches = own.max_pool2d(normal((2, 6, 9, 12)), 2, return_indices=True)
    weight, other = kind(6, 20, 3).weight.detach(), kind(6, 20, 3).weight.detach()
    packed = prepack(other)
    expected = function(values, switches, other, None, 1, 1)
    assert_same(function(values, switches, weight, None, 1, 1, packed_weight=packed), expected)
    for arguments in ({"stride": 2}, {"padding": 3}):  # composed
        composed = function(values, switches, weight, **arguments)
        assert_same(function(values, switches, weight, **arguments, packed_weight=packed), composed)
    with torch.autocast("cpu", torch.float16):  # which rounds the weight
        cast = function(values, switches, weight, None, 1, 1)
        assert_same(function(values, switches, weight, None, 1, 1, packed_weight=packed), cast)
    leaf = values.clone().requires_grad_()
    grads = [
        torch.autograd.grad(function(leaf, switches, other, **keywords).square().sum(), leaf)[0]
        for keywords in ({}, {"packed_weight": packed})
    ]
    assert_same(*grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_weights_packed_for_the_other_convolution(dtype):
    """Of as many channels as outputs their size is right, and their order is not."""
    values, switches = own.max_pool2d(normal((1, 6, 8, 8), dtype), 2, return_indices=True)
    weight = normal((6, 6, 3, 3), dtype)
    for (_, function, _), (_, _, wrong) in (PREPACKED, PREPACKED[::-1]):
        with pytest.raises(RuntimeError, match="packed_weight was packed for a"):
            function(values, switches, weight, padding=1, packed_weight=wrong(weight))


@pytest.mark.parametrize("trip", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copied", "pickled"])
@pytest.mark.parametrize("kind", [kind for kind, *_ in PREPACKED])
def test_prepacked_layers(kind, trip):
    """They read what was packed, whichever way they are run; tampering with it shows that they do."""
    values, switches = own.max_pool2d(normal((2, 6, 9, 12)), 2, return_indices=True)
    layer = kind(6, 20, 3, padding=1, bias=False)
    expected = layer(values, switches).detach()
    assert layer.prepack() is layer
    assert sorted(layer.state_dict()) == ["weight"]
    copied = trip(layer).requires_grad_(False)
    assert_same(copied(values, switches), expected)
    copied.packed_weight.mul_(2)
    compiled = torch.compile(copied, fullgraph=True, backend="eager")
    exported = torch.export.export(copied, (values, switches)).module()
    for function in (copied, compiled, torch.fx.symbolic_trace(copied), exported):
        torch.testing.assert_close(function(values, switches), 2 * expected)
    assert copied.to("meta").packed_weight.is_meta
    assert layer.double().packed_weight.dtype is torch.float64


def replace(layer, weight):
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)


def write(layer, weight):
    with torch.no_grad():
        layer.weight.copy_(weight)


def train(layer, weight):
    layer.weight.grad = layer.weight.detach() - weight
    torch.optim.SGD([layer.weight], 1.0).step()


def train_fused(layer, weight):
    """By an optimizer that leaves the version of what it steps as it was."""
    values, switches = own.max_pool2d(normal((2, 6, 9, 12)), 2, return_indices=True)
    layer(values, switches).sum().backward()
    layer.weight.grad = layer.weight.detach() - weight
    torch.optim.SGD([layer.weight], 1.0, fused=True).step()


def assign_data(layer, weight):
    layer.weight.data = weight


def parametrize(layer, weight):
    class Other(torch.nn.Module):
        def forward(self, _):
            return weight

    torch.nn.utils.parametrize.register_parametrization(layer, "weight", Other(), unsafe=True)


# Ways of giving a layer another weight.
CHANGES = {
    "load_state_dict": lambda layer, weight: layer.load_state_dict({"weight": weight}),
    "load_state_dict, assign": lambda layer, weight: layer.load_state_dict({"weight": weight}, assign=True),
    **{function.__name__: function for function in (replace, write, train, train_fused, assign_data, parametrize)},
}


@pytest.mark.parametrize("trip", [lambda x: x, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", [kind for kind, *_ in PREPACKED])
def test_prepacked_layers_notice_another_weight(kind, change, trip):
    values, switches = own.max_pool2d(normal((2, 6, 9, 12)), 2, return_indices=True)
    layer, other = kind(6, 20, 3, padding=1, bias=False).prepack(), kind(6, 20, 3, padding=1, bias=False)
    CHANGES[change](layer, other.weight.detach().clone())
    if change != "parametrize":  # whose class here no copy can name
        layer = trip(layer)
    expected = other(values, switches).detach()
    with torch.no_grad():
        torch.testing.assert_close(layer(values, switches), expected)
    torch.testing.assert_close(layer(values, switches).detach(), expected)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(values, switches).detach(), expected)
    torch.testing.assert_close(layer.prepack()(values, switches).detach(), expected)
    assert layer.weight.requires_grad == (change not in ("replace", "parametrize"))


def test_prepacked_layers_of_other_weights_for_a_call():
    values, switches = own.max_pool2d(normal((2, 6, 9, 12)), 2, return_indices=True)
    layer = nn.UnpoolConv2d(6, 20, 3, bias=False).prepack()
    weights = normal((3, 20, 6, 3, 3), seed=1)
    expected = torch.stack([own.unpool_conv2d(values, switches, weight) for weight in weights])

    def call(weight):
        return torch.func.functional_call(layer, {"weight": weight}, (values, switches))

    assert_same(call(weights[1]), expected[1])
    torch.testing.assert_close(torch.func.vmap(call)(weights), expected)
    norm = torch.nn.BatchNorm2d(20).eval()
    norm.running_mean.fill_(1), norm.running_var.fill_(4)
    folded = torch.nn.utils.fuse_conv_bn_eval(layer.eval(), norm)
    torch.testing.assert_close(folded(values, switches), norm(layer(values, switches)))


@pytest.mark.parametrize(
    "arguments",
    [
        {"stride": 2},
        {"groups": 2},
        {"dilation": 2},
        {"kernel_size": 5},
        {"padding": 3},
        {"padding": 1, "padding_mode": "reflect"},
    ],
    ids=str,
)
def test_prepack_of_layers_that_are_composed(arguments):
    values, switches = own.max_pool2d(normal((2, 6, 16, 20)), 2, return_indices=True)
    layer = nn.UnpoolConv2d(6, 4, **{"kernel_size": 3, **arguments})
    expected = layer(values, switches).detach()
    assert layer.prepack().packed_weight is None
    assert_same(layer(values, switches).detach(), expected)


def test_any_bytes_are_safe():
    """Whatever the codes say, also of maps that the pool did not make."""
    values = normal((2, 5, 6, 7))
    codes = random_codes((2, 5, 6, 7), 2)
    taps = reference.unpack(codes, values.shape, 2)
    weight = normal((5, 4, 3, 3), seed=1)
    for size in ((12, 14), (11, 13), (5, 3), (30, 40)):
        actual = ops.unpool_conv2d(values, codes, weight, None, None, size, (1, 1), True, False)
        torch.testing.assert_close(actual, in_sequence(values, taps, size, weight, None, 1, True), rtol=1e-4, atol=1e-4)


def test_empty_batch():
    values, switches = own.max_pool2d(torch.empty(0, 4, 8, 8), 2, return_indices=True)
    weight = normal((4, 3, 3, 3)).requires_grad_()
    result = own.unpool_conv_transpose2d(values, switches, weight, padding=1)
    assert result.shape == (0, 3, 8, 8)
    result.sum().backward()
    assert_same(weight.grad, torch.zeros_like(weight))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, switches, w: own.unpool_conv_transpose2d(x, switches.indices(), w), TypeError, "Switches"),
        (
            lambda x, switches, w: own.unpool_conv_transpose2d(x, switches, w, output_size=(9, 9)),
            ValueError,
            "output_size",
        ),
        (lambda x, switches, w: own.unpool_conv_transpose2d(x[:, :, :2], switches, w), RuntimeError, "shape"),
        (lambda x, switches, w: own.unpool_conv_transpose2d(x, switches, w[:3]), RuntimeError, "channels"),
        (lambda x, switches, w: own.unpool_conv2d(x, switches, w), RuntimeError, "channels"),
        (lambda x, switches, w: own.unpool_conv_transpose2d(x, switches, w.double()), RuntimeError, "type"),
        (lambda x, switches, w: own.unpool_conv_transpose2d(x, switches, w, normal((4,))), RuntimeError, "bias"),
    ],
    ids=[
        *("indices", "output_size", "shape", "channels of a transposed weight", "channels of a weight", "type", "bias"),
    ],
)
def test_errors(call, error, message):
    values, switches = own.max_pool2d(normal((2, 4, 8, 8)), 2, return_indices=True)
    with pytest.raises(error, match=message):
        call(values, switches, normal((4, 3, 3, 3)))


def test_another_padding_mode_of_a_transposed_layer_is_refused():
    with pytest.raises(ValueError, match="padding mode"):
        nn.UnpoolConvTranspose2d(4, 3, 3, padding_mode="reflect")


def arguments_of_the_op():
    values, switches = own.max_pool2d(normal((2, 4, 8, 8)), 2, return_indices=True)
    return {
        "input": values,
        "codes": switches.codes,
        "weight": normal((4, 3, 3, 3)),
        "packed_weight": None,
        "bias": None,
        "unpooled_size": (8, 8),
        "padding": (1, 1),
        "transposed": True,
        "channels_last": False,
    }


@pytest.mark.parametrize(
    ("argument", "wrong", "message"),
    [
        ("input", lambda x: x[0], "4D"),
        ("codes", lambda codes: codes[:1], "codes"),
        ("weight", lambda weight: weight[..., :2], "3x3"),
        ("weight", lambda weight: weight.double(), "Double"),
        ("packed_weight", lambda _: normal((5,)), "packed_weight of size"),
        (
            "packed_weight",
            lambda _: ops.unpool_conv2d_pack(normal((4, 3, 3, 3)).double(), True),
            "packed_weight of size",
        ),
        ("bias", lambda _: normal((5,)), "bias"),
        ("unpooled_size", lambda _: (0, 8), "too small"),
        ("unpooled_size", lambda _: (8, 0), "too small"),
        ("padding", lambda _: (3, 1), "padding"),
        ("padding", lambda _: (1, 3), "padding"),
    ],
    ids=[
        *("a sample as input", "codes", "size of weight", "type of weight", "packed_weight", "type of packed_weight"),
        *("bias", "no row", "no column", "padding of rows", "padding of columns"),
    ],
)
def test_the_op_turns_away_what_does_not_fit(argument, wrong, message):
    arguments = arguments_of_the_op()
    arguments[argument] = wrong(arguments[argument])
    with pytest.raises(RuntimeError, match=message):
        ops.unpool_conv2d(*arguments.values())


def test_the_backward_op_turns_away_gradients_of_another_size():
    arguments = arguments_of_the_op()
    del arguments["packed_weight"], arguments["bias"]
    with pytest.raises(RuntimeError, match="grad_output"):
        ops.unpool_conv2d_backward(normal((2, 3, 8, 7)), *arguments.values(), True, True)


@pytest.mark.parametrize(
    ("prepack", "weight", "message"),
    [
        (own.prepack_unpool_conv2d, normal((4, 3, 3, 2)), "3x3"),
        (own.prepack_unpool_conv_transpose2d, torch.ones(4, 3, 3, 3, dtype=torch.long), "Long"),
    ],
    ids=["size", "type"],
)
def test_weights_that_cannot_be_packed(prepack, weight, message):
    with pytest.raises(RuntimeError, match=message):
        prepack(weight)


def test_convolution_with_another_padding_mode():
    layer = nn.UnpoolConv2d(4, 3, 3, padding=1, padding_mode="circular")
    values, switches = own.max_pool2d(normal((1, 4, 8, 8)), 2, return_indices=True)
    plain = torch.nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular")
    plain.load_state_dict(layer.state_dict())
    assert_same(layer(values, switches), plain(own.max_unpool2d(values, switches)))
