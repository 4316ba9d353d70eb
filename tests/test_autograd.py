"""Derivatives: of any order, in both modes, under functorch's transforms and checkpointing; and what they keep."""

import pytest
import torch
import torch.nn.functional as stock
from samples import FLOATS, FORMATS, Pool, assert_same, channels_last, contiguous, name, normal, tie_free
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

import segext.functional as own
from segext import reference

GRAD_POOLS = (Pool(2), Pool(3, 2, 1), Pool(2, 1), Pool((2, 3), (1, 2), (1, 0), (2, 1)), Pool(3, 2, ceil_mode=True))
POOL_FUNCTIONS = (own.max_pool2d, own.relu_max_pool2d)


def composition(function):
    """What stock computes in place of one of POOL_FUNCTIONS."""
    if function is own.max_pool2d:
        return stock.max_pool2d
    return lambda x, *pool, **more: stock.max_pool2d(stock.relu(x), *pool, **more)


@pytest.fixture(params=POOL_FUNCTIONS, ids=name)
def pool_function(request):
    return request.param


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("shape", [(2, 2, 5, 6), (2, 6, 5)], ids=name)
@pytest.mark.parametrize("pool", GRAD_POOLS, ids=name)
def test_gradcheck_of_pooling(pool_function, pool, shape, layout, device):
    x = layout(tie_free(shape).to(device)).requires_grad_()
    assert gradcheck(lambda x: pool_function(x, *pool), x, check_batched_grad=True)
    assert gradgradcheck(lambda x: pool_function(x, *pool), x, check_batched_grad=True, check_fwd_over_rev=True)


@pytest.mark.parametrize("by_indices", [False, True])
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("shape", [(2, 2, 5, 6), (2, 6, 5)], ids=name)
@pytest.mark.parametrize("pool", [Pool(2), Pool(3, 2, 1), Pool(2, 1)], ids=name)
def test_gradcheck_of_unpooling(pool, shape, layout, by_indices, device):
    """Of overlapping windows too, which stock gets wrong."""
    x = layout(tie_free(shape).to(device))
    values, indices = own.max_pool2d(x, *pool, return_indices=True)
    if by_indices:
        indices = indices.indices()
    values = layout(normal(values.shape, torch.float64).to(device)).requires_grad_()

    def unpool(values):
        return own.max_unpool2d(values, indices, *pool.window[:3], shape[-2:])

    assert gradcheck(unpool, values, check_batched_grad=True)
    assert gradgradcheck(unpool, values, check_batched_grad=True)


@pytest.mark.parametrize("pool", [Pool(2), Pool(3, 2, 1)], ids=name)
def test_third_derivative(pool_function, pool, device):
    """Of a nonlinear chain of pool and unpool: it squares what the switches point at and drops the rest."""
    x = (tie_free((1, 2, 5, 6)) / 8).to(device).requires_grad_()
    cubic = x.pow(3) + x
    values, switches = pool_function(cubic, *pool, return_indices=True)
    actual = own.max_unpool2d(values.pow(2), switches)
    expected = (cubic if pool_function is own.max_pool2d else stock.relu(cubic)).pow(2) * switches.mask()
    for _ in range(3):
        torch.testing.assert_close(actual, expected)
        (actual,) = torch.autograd.grad(actual.sum(), x, create_graph=True)
        (expected,) = torch.autograd.grad(expected.sum(), x, create_graph=True)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("pool", GRAD_POOLS, ids=name)
def test_forward_mode(pool_function, pool, layout, device):
    x, tangent = layout(tie_free((2, 3, 6, 7)).to(device)), layout(normal((2, 3, 6, 7), torch.float64).to(device))
    for actual, expected in zip(
        torch.func.jvp(lambda x: pool_function(x, *pool), (x,), (tangent,)),
        torch.func.jvp(lambda x: composition(pool_function)(x, *pool), (x,), (tangent,)),
        strict=True,
    ):
        assert_same(actual, expected)
    with forward_ad.dual_level():
        output = pool_function(forward_ad.make_dual(x, tangent), *pool)
        assert_same(forward_ad.unpack_dual(output).tangent, expected)


@pytest.mark.parametrize("by_indices", [False, True])
@pytest.mark.parametrize("pool", [Pool(2), Pool(3, 2, 1), Pool(2, 1), Pool((2, 3), (1, 2), (1, 0))], ids=name)
def test_forward_mode_of_unpooling(pool, by_indices, device):
    """It is linear: the tangent is unpooled by the same switches."""
    x = tie_free((2, 3, 6, 7)).to(device)
    values, indices = own.max_pool2d(x, *pool, return_indices=True)
    indices = indices.indices() if by_indices else indices
    tangent = normal(values.shape, torch.float64).to(device)

    def unpool(values):
        return own.max_unpool2d(values, indices, *pool[:3], (6, 7))

    _, actual = torch.func.jvp(unpool, (values,), (tangent,))
    assert_same(actual, unpool(tangent))


def test_forward_over_reverse(pool_function, device):
    """The Hessian-vector product of a nonlinear function of the maxima."""
    x, tangent = tie_free((1, 2, 6, 7)).to(device), normal((1, 2, 6, 7), torch.float64).to(device)

    def product(function):
        return torch.func.jvp(torch.func.grad(lambda x: function(x, 3, 2, 1).pow(3).sum()), (x,), (tangent,))[1]

    torch.testing.assert_close(product(pool_function), product(composition(pool_function)))


def test_func_grad(pool_function, device):
    x = tie_free((2, 3, 6, 7)).to(device)

    def gradient(function):
        return torch.func.grad(lambda x: function(x, 3, 2, 1).pow(2).sum())(x)

    torch.testing.assert_close(gradient(pool_function), gradient(composition(pool_function)))


@pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.jacfwd, torch.func.hessian], ids=name)
def test_jacobians(pool_function, transform, device):
    x = tie_free((1, 2, 4, 5)).to(device)

    def derivative(function):
        return transform(lambda x: function(x, 3, 2, 1).pow(3).sum(dim=(0, 1)))(x)

    torch.testing.assert_close(derivative(pool_function), derivative(composition(pool_function)))


@pytest.mark.parametrize("power", [1, 3])
@pytest.mark.parametrize("outer", [torch.func.jacrev, torch.func.jacfwd], ids=name)
@pytest.mark.parametrize("inner", [torch.func.jacrev, torch.func.jacfwd], ids=name)
def test_second_derivatives_in_any_mode(pool_function, inner, outer, power, device):
    """Of what is linear in the maxima too, whose first derivative has no tangent."""
    x = tie_free((1, 2, 4, 5)).to(device)

    def derivative(function):
        return outer(inner(lambda x: function(x, 3, 2, 1).pow(power).sum()))(x)

    torch.testing.assert_close(derivative(pool_function), derivative(composition(pool_function)))


@pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.jacfwd, torch.func.hessian], ids=name)
def test_jacobians_of_unpooling(transform, device):
    """Of overlapping windows: x itself at the pixels the switches name."""
    x = tie_free((1, 1, 4, 5)).to(device)
    values, switches = own.max_pool2d(x, 2, 1, return_indices=True)

    def by_reference(values):
        taps = reference.unpack(switches.codes, switches.shape, switches.bits, switches.channels_last)
        return reference.max_unpool2d(values.pow(3), taps, (4, 5), 2, 1).sum(dim=(0, 1))

    def by_segext(values):
        return own.max_unpool2d(values.pow(3), switches).sum(dim=(0, 1))

    torch.testing.assert_close(transform(by_segext)(values), transform(by_reference)(values))


@pytest.mark.parametrize("in_dim", [0, 1, 4])
def test_vmap_of_pooling(pool_function, in_dim, device):
    x = tie_free((2, 3, 6, 7, 4), torch.float32).movedim(-1, in_dim).to(device)
    actual = torch.vmap(lambda x: pool_function(x, 3, 2, 1), in_dim)(x)
    assert_same(actual, torch.stack([pool_function(part, 3, 2, 1) for part in x.unbind(in_dim)]))


@pytest.mark.parametrize("by_indices", [False, True])
def test_vmap_of_pool_and_unpool(pool_function, by_indices, device):
    """Unbatched maps become a batch; with a second vmap, a batch of batches."""

    def there_and_back(x):
        values, switches = pool_function(x, 3, 2, 1, return_indices=True)
        indices = switches.indices() if by_indices else switches
        return own.max_unpool2d(values.pow(2), indices, 3, 2, 1, x.shape[-2:])

    x = tie_free((2, 5, 3, 6, 7), torch.float32).to(device)
    expected = torch.stack([torch.stack([there_and_back(unbatched) for unbatched in batch]) for batch in x])
    assert_same(torch.vmap(there_and_back)(x), expected)
    assert_same(torch.vmap(torch.vmap(there_and_back))(x), expected)


CONVOLUTIONS = {
    "depthwise": (lambda x, w: own.conv_transpose2d(x, w, None, 2, 1, 0, 4), (4, 2, 4, 4)),
    "argmax": (lambda x, w: own.conv_transpose2d_argmax(x, w, None, 2, 1, 0, 4), (4, 2, 4, 4)),
    "dense": (lambda x, w: own.conv_transpose2d(x, w, None, 2, 1), (4, 3, 4, 4)),
    "one pixel": (lambda x, w: own.conv_transpose2d(x[..., :1, :1], w), (4, 3, 4, 4)),
    "unpool": (
        lambda x, w: own.unpool_conv_transpose2d(*own.max_pool2d(x, 2, return_indices=True), w, padding=1),
        (4, 3, 3, 3),
    ),
}


@pytest.mark.filterwarnings("error")  # as one call, or deliberately one by one
@pytest.mark.parametrize("samples", [(), (2,)], ids=["unbatched", "batched"])
@pytest.mark.parametrize("dims", [(0, None), (None, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_vmap_of_convolutions(kind, dims, samples):
    function, kernel = CONVOLUTIONS[kind]
    x = normal((3, *samples, 4, 6, 8) if dims[0] == 0 else (*samples, 4, 6, 8), torch.float64)
    weight = normal((3, *kernel) if dims[1] == 0 else kernel, torch.float64, seed=1)

    def each(function):
        arguments = zip(*(a if d == 0 else [a] * 3 for a, d in zip((x, weight), dims, strict=True)), strict=True)
        return torch.stack([function(*a) for a in arguments])

    torch.testing.assert_close(torch.vmap(function, dims)(x, weight), each(function))
    if kind != "argmax":
        gradient = torch.func.grad(lambda x, w: function(x, w).square().sum(), 1)
        torch.testing.assert_close(torch.vmap(gradient, dims)(x, weight), each(gradient))


def test_vmap_of_nothing():
    x = torch.empty(0, 2, 3, 4, 4)
    assert torch.vmap(lambda x: own.max_pool2d(x, 2))(x).shape == (0, 2, 3, 2, 2)


def test_vmap_of_unpooling_by_shared_switches(device):
    """Several maps of values through one set of switches, as when maxima of different networks are compared."""
    _, switches = own.max_pool2d(tie_free((2, 3, 6, 7), torch.float32).to(device), 2, return_indices=True)
    values = normal((4, *switches.shape)).to(device)
    actual = torch.vmap(lambda values: own.max_unpool2d(values, switches))(values)
    assert_same(actual, torch.stack([own.max_unpool2d(part, switches) for part in values]))


def test_per_sample_gradients(pool_function, device):
    x = tie_free((4, 3, 6, 7), torch.float32).to(device)

    def gradients(function):
        return torch.vmap(torch.func.grad(lambda x: function(x, 2).pow(2).sum()))(x)

    assert_same(gradients(pool_function), gradients(composition(pool_function)))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant, device):
    """Switches leave a checkpointed segment and enter the next."""

    def encode(x):
        return own.relu_max_pool2d(x * 2, 2, return_indices=True)

    def decode(values, switches):
        return own.max_unpool2d(values.pow(2), switches)

    x = tie_free((2, 3, 5, 7), torch.float32).to(device)
    gradients = []
    for run in (lambda f, *a: checkpoint(f, *a, use_reentrant=reentrant), lambda f, *a: f(*a)):
        leaf = x.clone().requires_grad_()
        run(decode, *run(encode, leaf)).pow(2).sum().backward()
        gradients.append(leaf.grad)
    assert_same(*gradients)


@pytest.mark.usefixtures("deterministic")
def test_deterministic_mode(device):
    """Nothing is refused, overlapping windows and duplicate indices included, and every run gives the same bytes."""
    x = normal((2, 3, 33, 35)).to(device)
    values, indices = stock.max_pool2d(x, 3, 1, return_indices=True)
    with pytest.raises(RuntimeError, match="deterministic"):
        stock.max_unpool2d(values, indices, 3, 1)

    def gradients():
        leaf = x.clone().requires_grad_()
        pooled, switches = own.relu_max_pool2d(leaf, 3, 1, return_indices=True)
        for kind in (switches, switches.indices()):
            own.max_unpool2d(pooled.pow(2), kind, 3, 1).sum().backward(retain_graph=True)
        return leaf.grad

    first = gradients()
    assert all(torch.equal(gradients(), first) for _ in range(3))


def kept_for_backward(function):
    """The result of `function` and the tensors that autograd keeps for its backward."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        return function(), kept


@pytest.mark.parametrize("return_indices", [False, True])
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize(("pool", "sample_bytes"), [(Pool(2), 15), (Pool(3, 2), 30), (Pool(5), 5)], ids=name)
def test_pool_keeps_only_codes(pool, sample_bytes, dtype, layout, return_indices, device):
    """A sample of (5, 7, 9) has 5 * 3 * 4 codes of 2 bits, as many of 4 bits, or 5 of 8 bits."""
    x = layout(normal((2, 5, 7, 9), dtype).to(device)).requires_grad_()
    _, kept = kept_for_backward(lambda: own.max_pool2d(x, *pool, return_indices=return_indices))
    assert [(tensor.dtype, tensor.shape) for tensor in kept] == [(torch.uint8, (2, sample_bytes))]
    assert kept[0].untyped_storage().nbytes() == 2 * sample_bytes


@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_relu_pool_keeps_codes_and_its_output(layout, device):
    x = layout(normal((2, 5, 8, 9)).to(device)).requires_grad_()
    (output, switches), kept = kept_for_backward(lambda: own.relu_max_pool2d(x, 2, return_indices=True))
    assert {tensor.data_ptr() for tensor in kept} == {output.data_ptr(), switches.codes.data_ptr()}
    assert sum(tensor.untyped_storage().nbytes() for tensor in kept) == output.nbytes + switches.nbytes


@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_unpool_keeps_only_codes(layout, device):
    values, switches = own.max_pool2d(layout(normal((2, 5, 8, 9)).to(device)), 2, return_indices=True)
    values.requires_grad_()
    _, kept = kept_for_backward(lambda: own.max_unpool2d(values, switches))
    assert {tensor.data_ptr() for tensor in kept} == {switches.codes.data_ptr()}


@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_backward_needs_no_input(pool_function, layout, device):
    """The memory of a pool's input, and of what is unpooled, can go before the backward runs."""
    x = layout(normal((2, 5, 8, 9)).to(device)).requires_grad_()
    expected = torch.autograd.grad(composition(pool_function)(x, 3, 2, 1), x, normal((2, 5, 4, 5)).to(device))
    output = pool_function(x, 3, 2, 1)
    x.untyped_storage().resize_(0)
    assert_same(*torch.autograd.grad(output, x, normal((2, 5, 4, 5)).to(device)), *expected)

    values, switches = own.max_pool2d(normal((2, 5, 8, 9)).to(device), 2, return_indices=True)
    values = layout(values).requires_grad_()
    output, grad = own.max_unpool2d(values, switches), normal((2, 5, 8, 9)).to(device)
    expected = grad.flatten(-2).gather(-1, switches.indices().flatten(-2)).view(2, 5, 4, 4)
    for tensor in (values, output):
        tensor.untyped_storage().resize_(0)
    (actual,) = torch.autograd.grad(output, values, grad)
    assert_same(actual, expected)


def test_input_may_change_after_the_forward(pool_function, device):
    """An in-place layer behind the pool, for which stock's pool raises."""
    leaf = tie_free((2, 3, 6, 7), torch.float32).to(device).requires_grad_()
    x = leaf * 1
    output = pool_function(x, 2)
    x.mul_(-1)
    (actual,) = torch.autograd.grad(output.sum(), leaf)
    (expected,) = torch.autograd.grad(composition(pool_function)(leaf, 2).sum(), leaf)
    assert_same(actual, expected)


def test_output_may_change_after_the_forward(device):
    leaf = tie_free((2, 3, 6, 7), torch.float32).to(device).requires_grad_()
    own.max_pool2d(leaf, 2).mul_(2).sum().backward()
    assert_same(leaf.grad, torch.autograd.grad(stock.max_pool2d(leaf, 2).sum() * 2, leaf)[0])


@pytest.mark.parametrize("changed", ["codes", "relu output"])
def test_changing_what_is_kept_is_noticed(changed, device):
    leaf = tie_free((2, 3, 6, 7), torch.float32).to(device).requires_grad_()
    output, switches = own.relu_max_pool2d(leaf, 2, return_indices=True)
    total = output.sum()
    (switches.codes if changed == "codes" else output.detach()).zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_only_floating_results_require_gradients(pool_function, device):
    x = tie_free((2, 3, 6, 7), torch.float32).to(device)
    assert not pool_function(x, 2).requires_grad
    output, switches = pool_function(x.requires_grad_(), 2, return_indices=True)
    assert output.requires_grad
    assert not switches.codes.requires_grad
    assert not switches.indices().requires_grad
    with torch.no_grad():
        assert not pool_function(x, 2).requires_grad
    assert not pool_function(x.detach().int(), 2).requires_grad


@pytest.mark.parametrize("layout", [contiguous, channels_last], ids=name)
def test_gradients_of_a_chain_of_pools_and_unpools(layout, device):
    """An encoder and decoder of two levels, against stock, with unique maxima and windows that do not overlap."""
    x = layout(tie_free((2, 3, 12, 15), torch.float64).to(device))

    def run(functional):
        leaf = x.clone().requires_grad_()
        first, outer = functional.max_pool2d(leaf.tanh() * leaf, 2, return_indices=True)
        second, inner = functional.max_pool2d(first * 2, (2, 3), return_indices=True)
        up = functional.max_unpool2d(second.sin(), inner, (2, 3), output_size=first.shape)
        up = functional.max_unpool2d(up.cos(), outer, 2, output_size=x.shape)
        up.pow(2).sum().backward()
        return up, leaf.grad

    for actual, expected in zip(run(own), run(stock), strict=True):
        torch.testing.assert_close(actual, expected)


def _loss(x):
    pooled, switches = own.max_pool2d(x, 2, return_indices=True)
    return own.max_unpool2d(pooled.sin(), switches).pow(2).sum() + own.relu_max_pool2d(x, 3, 2).sum()


@pytest.mark.parametrize(
    "transformed",
    [
        torch.func.grad(_loss),
        lambda x: torch.func.jvp(_loss, (x,), (x.cos(),))[1],
        lambda x: torch.func.vjp(_loss, x)[1](torch.tensor(2.0))[0],
        torch.vmap(torch.func.grad(_loss)),
    ],
    ids=("grad", "jvp", "vjp", "vmap of grad"),
)
def test_transforms_inside_a_compiled_graph(transformed):
    x = torch.randn(3, 2, 9, 8)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(transformed, fullgraph=True, backend="aot_eager")(x), transformed(x))
