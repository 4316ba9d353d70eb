"""Cross-entropy of upsampled scores: as the reference and as stock's composition, in values and derivatives."""

import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as stock
import torch.utils.checkpoint
from cross_entropy_samples import IGNORED, REDUCTIONS, composition, problem
from hypothesis import assume, given
from hypothesis import strategies as st
from samples import FLOATS, FORMATS, LAYOUTS, channels_last, contiguous, hard_values, name, normal, threads, unaligned
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import segext.functional as own
from segext import nn, reference
from segext.memory import saved_bytes

# Relative errors, in the norm of the whole: of the loss, and of gradients.
TOLERANCES = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 4e-3}


def distance(actual, expected):
    """Relative, in the norm; none where both are the same number or too large for the type."""
    if torch.equal(actual, expected.to(actual.dtype)):
        return 0.0
    return float((actual.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-2))


def derivatives(function, leaves, dtype=None):
    """The loss and its gradients by ``leaves``, for a random gradient of the loss that ``dtype`` holds, or for 1."""
    leaves = [leaf.detach().clone(memory_format=torch.preserve_format).requires_grad_() for leaf in leaves]
    loss = function(*leaves)
    grad = torch.ones_like(loss) if dtype is None else normal(loss.shape, dtype, seed=4).to(loss.dtype)
    return loss.detach(), *torch.autograd.grad(loss, leaves, grad)


def check(x, weight, bias, target, window, tolerance, layout=contiguous, **options):
    """Loss and gradients are the composition's in float64; type and format the input's."""
    wide = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    doubles = [t.double() for t in (x, weight, bias)]
    expected = derivatives(lambda x, w, b: composition(x, w, target, b, *window, **wide), doubles, x.dtype)
    actual = derivatives(
        lambda x, w, b: own.conv_transpose2d_cross_entropy(x, w, target, b, *window, **options),
        (layout(x), weight, bias),
        x.dtype,
    )
    for what, a, e in zip(("loss", "input", "weight", "bias"), actual, expected, strict=True):
        assert (a.shape, a.dtype) == (e.shape, x.dtype), what
        assert distance(a, e) <= tolerance, what
    assert actual[1].stride() == layout(x).stride()


# (kernel, stride, padding, output_padding, dilation), of bilinear upsampling by 2, 8 and 32 and of all else.
WINDOWS = (
    (4, 2, 1, 0, 1),
    (16, 8, 4, 0, 1),
    (64, 32, 16, 0, 1),
    (3, 1, 1, 0, 1),
    (1, 3, 0, 2, 1),
    ((5, 2), (3, 1), (2, 0), (1, 0), (1, 3)),
    (2, 5, 1, 3, 4),
)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize(("channels", "multiplier", "size"), [(21, 1, (3, 4)), (3, 2, (2, 9)), (1, 4, (5, 3))])
def test_is_the_composition(channels, multiplier, size, window, layout, dtype):
    kernel, stride, padding, output_padding, dilation = window
    window = (stride, padding, output_padding, channels, dilation)
    samples = 1 if channels > 3 else 2
    size = (2, 2) if kernel == 64 else size
    x, weight, bias, target, class_weight = problem(
        channels, multiplier, size, kernel, *window, dtype=dtype, samples=samples
    )
    reduced = ("mean", None, 0.0) if dtype.itemsize == 4 else ("sum", class_weight, 0.0)
    for reduction, weights, smoothing in (reduced, ("none", class_weight, 0.3)):
        check(
            x, weight, bias, target, window, TOLERANCES[dtype], layout, crop=(1, 2), ignore_index=IGNORED,
            reduction=reduction, class_weight=weights, label_smoothing=smoothing,
        )  # fmt: skip


@given(st.data())
def test_any_call(data):
    def pair(least, most):
        return data.draw(st.tuples(*[st.integers(least, most)] * 2))

    channels, multiplier = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    kernel, stride, dilation, padding = pair(1, 6), pair(1, 5), pair(1, 3), pair(0, 2)
    output_padding = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    window, crop = (stride, padding, output_padding, channels, dilation), pair(0, 3)
    size = pair(1, 6)
    axes = zip(size, kernel, *window[:3], dilation, crop, strict=True)
    assume(min((n - 1) * s - 2 * p + d * (k - 1) + 1 + more - c for n, k, s, p, more, d, c in axes) > 0)
    less = data.draw(st.integers(0, 3))
    x, weight, bias, target, class_weight = problem(channels, multiplier, size, kernel, *window, crop=crop, less=less)
    ignored = data.draw(st.sampled_from((IGNORED, 0, -100)))
    target[target == IGNORED] = ignored
    # One class has no gradients at all, so that what rounding leaves of them is all there is to compare.
    check(
        x, weight, bias, target, window, 1e-10, data.draw(st.sampled_from(FORMATS)), crop=crop, ignore_index=ignored,
        reduction=data.draw(st.sampled_from(("sum", "none"))),  # the mean of no pixel is NaN
        class_weight=data.draw(st.sampled_from((None, class_weight))),
        label_smoothing=data.draw(st.sampled_from((0.0, 0.1, 1.0))),
    )  # fmt: skip


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("width", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 65])
@pytest.mark.parametrize("scale", [2, 3, 8, 20])
def test_widths_around_a_vector(scale, width, layout):
    window = (scale, scale // 2, 0, 5)
    x, weight, bias, target, _ = problem(
        5, 1, (1, width), 2 * scale, *window, dtype=torch.float32, samples=1, crop=(1, 0), less=0
    )
    check(x, weight, bias, target, window, 2e-6, layout, crop=(1, 0), ignore_index=IGNORED, reduction="none")


@pytest.mark.parametrize("layout", LAYOUTS, ids=name)
def test_inputs_of_any_strides(layout):
    window = (2, 0, 0, 5)
    x, weight, bias, target, _ = problem(5, 1, (6, 7), 4, *window)
    expected = composition(layout(x), weight, target, bias, *window, crop=(1, 2), ignore_index=IGNORED)
    wide = torch.stack((target, target.flip(1)), -1)
    actual = own.conv_transpose2d_cross_entropy(
        layout(x), weight.mT.contiguous().mT, wide[..., 0], bias, *window, crop=(1, 2), ignore_index=IGNORED
    )
    torch.testing.assert_close(actual, expected)


def test_reference():
    window = (3, 1, 1, 3)
    x, weight, bias, target, class_weight = problem(3, 2, (4, 5), (6, 3), *window)
    for reduction, smoothing, weights in itertools.product(REDUCTIONS, (0.0, 0.2), (None, class_weight)):
        options = {"crop": (1, 2), "ignore_index": IGNORED, "class_weight": weights}
        options |= {"reduction": reduction, "label_smoothing": smoothing}
        expected = composition(x, weight, target, bias, *window, **options)
        actual = reference.conv_transpose2d_cross_entropy(x, weight, target, bias, *window, **options)
        torch.testing.assert_close(actual, expected)
        torch.testing.assert_close(
            own.conv_transpose2d_cross_entropy(x, weight, target, bias, *window, **options), actual
        )


@pytest.mark.parametrize("groups", [1, 2])
def test_where_channels_mix_it_is_the_composition(groups):
    x, weight, bias = normal((2, 4, 3, 5)), normal((4, 6 // groups, 4, 4)), normal((6,))
    target = torch.randint(0, 6, (2, 5, 7), generator=torch.Generator().manual_seed(0))
    arguments = (x, weight, target, bias, 2, 0, 0, groups)
    expected = composition(*arguments, crop=(1, 2), label_smoothing=0.1)
    actual = own.conv_transpose2d_cross_entropy(*arguments, crop=(1, 2), label_smoothing=0.1)
    torch.testing.assert_close(actual, expected)


def test_unbatched():
    """As a batch of one; stock takes the rows of unbatched scores for classes."""
    for groups, weight in ((5, normal((5, 1, 4, 4))), (1, normal((5, 5, 4, 4)))):
        x = normal((5, 3, 4))
        target = torch.randint(0, 5, (8, 9), generator=torch.Generator().manual_seed(0))
        for reduction in REDUCTIONS:
            loss = own.conv_transpose2d_cross_entropy(x, weight, target, None, 2, groups=groups, reduction=reduction)
            expected = composition(x[None], weight, target[None], None, 2, 0, 0, groups, reduction=reduction)
            torch.testing.assert_close(loss, expected[0] if reduction == "none" else expected)


def test_gradients_of_a_target_without_pixels():
    """Of the op itself: the functions refuse such a crop."""
    input, weight = normal((2, 3, 4, 5)), normal((3, 1, 4, 4), seed=1)
    of_pixels = (None, torch.zeros((2, 0, 5, 2)), torch.zeros((2, 0, 5), dtype=torch.uint8))
    options = ((2, 2), (1, 1), (1, 1), 0.0, False, True, True, False)
    backward = torch.ops.segext.depthwise_conv_transpose2d_cross_entropy_backward
    grads = backward(torch.ones(()), input, weight, None, *of_pixels, *options)
    for grad, of in zip(grads, (input, weight), strict=False):
        torch.testing.assert_close(grad, torch.zeros_like(of))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_empty_batch(reduction):
    x, weight, bias, target, _ = problem(5, 1, (3, 4), 4, 2, 0, 0, 5, samples=0)
    for smoothing in (0.0, 0.1):

        def results(function, smoothing=smoothing):
            options = {"reduction": reduction, "label_smoothing": smoothing}
            return derivatives(lambda x, w, b: function(x, w, target, b, 2, 0, 0, 5, **options), (x, weight, bias))

        for a, e in zip(results(own.conv_transpose2d_cross_entropy), results(composition), strict=True):
            assert (a.shape, a.dtype) == (e.shape, e.dtype)
            torch.testing.assert_close(a, e, equal_nan=True)


# ---- Hard values ---------------------------------------------------------------------------------------------------


def by_pixel(values, weight=None):
    """The calls of both on scores that are the input: a kernel of one pixel."""
    weight = values.new_ones(values.shape[1], 1, 1, 1) if weight is None else weight
    window = (None, 1, 0, 0, values.shape[1])

    def calls(target, **options):
        return (
            derivatives(lambda x: own.conv_transpose2d_cross_entropy(x, weight, target, *window, **options), (values,)),
            derivatives(lambda x: composition(x, weight, target, *window, **options), (values,)),
        )

    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_infinities_and_nan(reduction, smoothing, dtype):
    """NaN and infinite exactly where stock is, in losses and gradients, at ignored pixels too."""
    values = hard_values((1, 4, 20, 50), dtype)
    target = torch.randint(0, 4, (1, 20, 50), generator=torch.Generator().manual_seed(0))
    target[0, :, ::5] = IGNORED
    class_weight = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=dtype)
    for weights in (None, class_weight):
        options = {"reduction": reduction, "label_smoothing": smoothing, "class_weight": weights}
        actual, expected = by_pixel(values)(target, ignore_index=IGNORED, **options)
        for a, e in zip(actual, expected, strict=True):
            assert not e.isfinite().all()
            torch.testing.assert_close(a, e, equal_nan=True)


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (3, 2), (2, 3)])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_an_infinite_input_reaches_what_it_feeds_and_no_more(value, kernel, stride):
    x, weight, bias, target, _ = problem(3, 1, (6, 7), kernel, stride, 0, 0, 3)
    x[0, 1, 2, 3] = value

    def results(function):
        return derivatives(
            lambda x, b: function(
                x, weight, target, b, stride, 0, 0, 3, crop=(1, 2), ignore_index=IGNORED, reduction="none"
            ),
            (x, bias),
        )

    for actual, expected in zip(results(own.conv_transpose2d_cross_entropy), results(composition), strict=True):
        torch.testing.assert_close(actual, expected, equal_nan=True)


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (3, 2), (2, 3)])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_an_infinite_gradient_reaches_what_fed_it_and_no_more(layout, value, kernel, stride):
    """Wherever it lies: at edges it has neighbours that do not exist, and are no zeros that make NaN of it."""
    x, weight, bias, target, _ = problem(3, 1, (4, 5), kernel, stride, 0, 0, 3, crop=(0, 0), less=0)
    leaves = [leaf.requires_grad_() for leaf in (layout(x), weight, bias)]

    def loss(upsample):
        return stock.cross_entropy(upsample(*leaves, stride, 0, 0, 3), target, ignore_index=IGNORED, reduction="none")

    expected = loss(reference.conv_transpose2d)
    actual = own.conv_transpose2d_cross_entropy(
        leaves[0], weight, target, bias, stride, 0, 0, 3, ignore_index=IGNORED, reduction="none"
    )
    for y, column in itertools.product((0, 3, target.shape[1] - 1), (0, 4, target.shape[2] - 1)):
        grad = normal(target.shape, torch.float64)
        grad[0, y, column] = value
        both = [torch.autograd.grad(loss, leaves, grad, retain_graph=True) for loss in (actual, expected)]
        for a, e in zip(*both, strict=True):
            torch.testing.assert_close(a, e, equal_nan=True)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e8, 1e30])
def test_large_scores(scale):
    """Neither overflow nor the logarithm's loss beside a large maximum."""
    values = normal((1, 21, 30, 40)).sign() * scale + normal((1, 21, 30, 40), seed=2)
    target = torch.randint(0, 21, (1, 30, 40), generator=torch.Generator().manual_seed(0))
    for actual, expected in zip(*by_pixel(values)(target, reduction="none"), strict=True):
        torch.testing.assert_close(actual, expected)
    equal = torch.full((1, 21, 1, 1), scale)
    (loss, grad), _ = by_pixel(equal)(target[:, :1, :1])
    torch.testing.assert_close(loss, torch.tensor(math.log(21)))
    torch.testing.assert_close(grad.flatten(), 1 / 21 - torch.eye(21)[target[0, 0, 0]])


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0, 50.0])
def test_accuracy(spread):
    """As near to the truth as stock, on the whole and at the worst pixel."""
    values = normal((1, 21, 100, 160)) * spread
    target = torch.randint(0, 21, (1, 100, 160), generator=torch.Generator().manual_seed(0))
    single, by_stock = by_pixel(values)(target, reduction="none")
    _, exact = by_pixel(values.double())(target, reduction="none")
    for ours, theirs, truth in zip(single, by_stock, exact, strict=True):
        errors = [(x.double() - truth).abs() for x in (ours, theirs)]
        assert errors[0].mean() <= 1.5 * errors[1].mean()
        assert errors[0].max() <= 2 * errors[1].max()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nothing_counts(smoothing):
    """As stock: the mean is NaN, the sum zero, and no gradient either."""
    values, target = normal((2, 5, 3, 4)), torch.full((2, 3, 4), IGNORED)
    for reduction in REDUCTIONS:
        options = {"ignore_index": IGNORED, "reduction": reduction, "label_smoothing": smoothing}
        (loss, grad), (expected, _) = by_pixel(values)(target, **options)
        torch.testing.assert_close(loss, expected, equal_nan=True)
        assert grad.count_nonzero() == 0
    assert own.conv_transpose2d_cross_entropy(
        values, torch.ones(5, 1, 1, 1), target, groups=5, ignore_index=IGNORED
    ).isnan()


def test_weights_of_zero():
    """A mean over pixels that weigh nothing."""
    values, target = normal((1, 3, 2, 5)), torch.zeros(1, 2, 5, dtype=torch.int64)
    class_weight = torch.tensor([0.0, 1.0, 1.0])
    for smoothing in (0.0, 0.1):
        actual, expected = by_pixel(values)(target, class_weight=class_weight, label_smoothing=smoothing)
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e, equal_nan=True)


# ---- Derivatives, dispatch -----------------------------------------------------------------------------------------


def small(layout=contiguous, multiplier=1):
    """A call of three leaves, and stock's, and the leaves."""
    x, weight, bias, target, class_weight = problem(2, multiplier, (2, 2), (4, 2), 2, 0, 0, 2)
    leaves = (layout(x).requires_grad_(), weight.requires_grad_(), bias.requires_grad_())

    def calls(**options):
        options = {"crop": (1, 2), "ignore_index": IGNORED, **options}
        window = (2, 0, 0, 2)
        return (
            lambda x, weight, bias: own.conv_transpose2d_cross_entropy(x, weight, target, bias, *window, **options),
            lambda x, weight, bias: composition(x, weight, target, bias, *window, **options),
        )

    return calls, leaves, class_weight


@pytest.mark.parametrize(
    ("reduction", "smoothing", "weighted", "layout"),
    [("mean", 0.2, True, contiguous), ("none", 0.0, False, channels_last), ("sum", 0.1, False, contiguous)],
)
def test_derivatives(reduction, smoothing, weighted, layout):
    calls, leaves, class_weight = small(layout, multiplier=2 if weighted else 1)
    function, _ = calls(reduction=reduction, label_smoothing=smoothing, class_weight=class_weight if weighted else None)
    assert torch.autograd.gradcheck(
        function, leaves, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(function, leaves, check_fwd_over_rev=True)


@pytest.mark.parametrize("classes", [254, 255, 256, 257])
@pytest.mark.parametrize("ignored", [255, -100, 0])
def test_labels_of_many_classes(classes, ignored):
    """They are kept in bytes, of which one says that a pixel does not count, for as long as they fit."""
    window = (2, 1, 0, classes)
    x, weight, bias, target, class_weight = problem(classes, 1, (3, 4), 4, *window, samples=1, crop=(0, 0), less=0)
    target.view(-1)[: 2 * classes : 2] = torch.arange(classes)[: target.numel() // 2]
    target = torch.cat((target, torch.arange(classes).repeat(2)[: target.numel()].flip(0).view(target.shape)))
    target = torch.cat((target, torch.full_like(target, classes - 1)[:1]))
    target[target == IGNORED] = ignored if classes <= IGNORED else IGNORED
    target[:, 0, :3] = ignored
    x = torch.cat((x, x.sin(), x.cos()))
    for options in ({"reduction": "none", "label_smoothing": 0.1}, {"reduction": "sum", "class_weight": class_weight}):
        check(x, weight, bias, target, window, 1e-12, ignore_index=ignored, **options)


@pytest.mark.parametrize("layout", LAYOUTS, ids=name)
def test_stored_labels_that_are_no_class_count_as_none(layout):
    """Whatever the bytes say, nothing outside the gradient is written."""
    scores, weight = layout(normal((2, 3, 5, 6))), normal((3, 1, 4, 4), seed=1)
    target = torch.randint(3, (2, 12, 14))
    window, options = ((2, 2), (0, 0), (1, 1)), (0.0, layout is channels_last)
    forward = torch.ops.segext.depthwise_conv_transpose2d_cross_entropy
    *_, normalizers, labels = forward(
        scores, weight, None, target, None, *window, -100, *options, reduce=True, return_normalizers=True
    )
    backward = torch.ops.segext.depthwise_conv_transpose2d_cross_entropy_backward
    spoilt = labels.where(torch.arange(14) % 3 > 0, 200)
    unlabelled = labels.where(torch.arange(14) % 3 > 0, 255)
    grad = torch.tensor(1.0)
    actual, expected = (
        backward(grad, scores, weight, None, None, normalizers, given, *window, *options, True, True, True)
        for given in (spoilt, unlabelled)
    )
    for own_gradient, gradient in zip(actual, expected, strict=True):
        assert torch.equal(own_gradient, gradient)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_what_is_kept_serves_every_backward_pass(reduction, layout):
    """It knows nothing of the loss's gradient, and hooks may pack it."""
    window = (2, 1, 0, 5)
    x, weight, bias, target, class_weight = problem(5, 1, (6, 7), 4, *window)
    leaves = [leaf.requires_grad_() for leaf in (layout(x), weight, bias)]
    options = {"crop": (1, 2), "ignore_index": IGNORED, "class_weight": class_weight, "reduction": reduction}
    expected = composition(leaves[0], weight, target, bias, *window, **options)
    with torch.autograd.graph.save_on_cpu():
        hooked = own.conv_transpose2d_cross_entropy(leaves[0], weight, target, bias, *window, **options)
    for loss in (hooked, own.conv_transpose2d_cross_entropy(leaves[0], weight, target, bias, *window, **options)):
        for seed in range(3):
            grad = normal(expected.shape, torch.float64, seed=seed)
            both = [torch.autograd.grad(of, leaves, grad, retain_graph=True) for of in (loss, expected)]
            for actual, e in zip(*both, strict=True):
                torch.testing.assert_close(actual, e)
    checkpointed = torch.utils.checkpoint.checkpoint(
        lambda x: own.conv_transpose2d_cross_entropy(x, weight, target, bias, *window, **options),
        leaves[0],
        use_reentrant=False,
    )
    ones = torch.ones_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(checkpointed, leaves, ones), torch.autograd.grad(expected, leaves, ones)
    )


@pytest.mark.parametrize("scale", [1e4, 1e8, 1e30])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_scores_are_made_again_to_the_bit(window, scale):
    """Else those beside a large one would not be far below it, but anywhere: gradients would be no probabilities."""
    kernel, stride, padding, output_padding, dilation = window
    window = (stride, padding, output_padding, 5, dilation)
    size = (2, 2) if kernel == 64 else (5, 7)
    x, weight, bias, target, _ = problem(5, 1, size, kernel, *window, dtype=torch.float32)
    x, bias = (x * scale).requires_grad_(), bias * scale
    for layout in FORMATS:
        leaf = layout(x)
        loss = own.conv_transpose2d_cross_entropy(
            leaf, weight, target, bias, *window, crop=(1, 2), ignore_index=IGNORED, reduction="sum"
        )
        (grad,) = torch.autograd.grad(loss, leaf)
        # No pixel's gradient by a score is above one, and a pixel of input feeds no more than a kernel's.
        most = weight.abs().sum((1, 2, 3)).view(-1, 1, 1)
        assert (grad.abs() <= most * (1 + 1e-5)).all()
        assert grad.count_nonzero() > 0


def test_any_leaf_may_need_no_gradient():
    calls, leaves, _ = small()
    function, _ = calls()
    for wanted in itertools.product([False, True], repeat=3):
        for leaf, needs in zip(leaves, wanted, strict=True):
            leaf.requires_grad_(needs)
        if any(wanted):
            assert torch.autograd.gradcheck(function, leaves)


def test_transforms():
    calls, leaves, _ = small()
    ours, theirs = calls()
    for transform in (
        lambda f: torch.func.grad(f, (0, 1, 2)),
        lambda f: torch.func.jacrev(torch.func.jacrev(f)),
        torch.func.hessian,
        lambda f: lambda x, *rest: torch.func.jvp(lambda x: f(x, *rest), (x,), (x.cos(),)),
        lambda f: lambda x, *rest: torch.vmap(torch.func.grad(f), (1, None, None))(torch.stack((x, x.sin()), 1), *rest),
        lambda f: lambda x, w, b: torch.vmap(f, (None, 0, None))(x, torch.stack((w, w.sin(), w.cos())), b),
    ):
        torch.testing.assert_close(transform(ours)(*leaves), transform(theirs)(*leaves))


@pytest.mark.parametrize("return_normalizers", [False, True])
@pytest.mark.parametrize("differentiated", [False, True])
def test_the_op_itself(differentiated, return_normalizers):
    """Autograd asks for what it keeps, whether the caller does or not."""
    x, weight, bias, target, class_weight = problem(5, 1, (4, 5), 4, 2, 0, 0, 5)
    x.requires_grad_(differentiated)
    options = ((2, 2), (1, 2), (1, 1), IGNORED, 0.1, False, True, return_normalizers)
    arguments = (x, weight, bias, target, class_weight, *options)
    op = torch.ops.segext.depthwise_conv_transpose2d_cross_entropy.default
    torch.library.opcheck(op, arguments)
    *_, normalizers, labels = op(*arguments)
    assert [normalizers.requires_grad, labels.requires_grad] == [False, False]
    kept = differentiated or return_normalizers
    assert [tuple(t.shape) for t in (normalizers, labels)] == (
        [(*target.shape, 2), tuple(target.shape)] if kept else [(0,), (0,)]
    )


def test_third_derivative():
    calls, (x, weight, bias), _ = small()

    def third(function):
        def along(x):
            return torch.func.grad(torch.func.grad(lambda s: function(x * (1 + s), weight, bias)))(x.new_zeros(()))

        return torch.func.grad(along)(x)

    ours, theirs = calls()
    torch.testing.assert_close(third(ours), third(theirs))


class Head(torch.nn.Module):
    """How a network ends when it is trained."""

    def __init__(self, classes=5):
        super().__init__()
        self.loss = nn.ConvTranspose2dCrossEntropy(
            classes, classes, 4, 2, groups=classes, crop=(1, 2), ignore_index=IGNORED, label_smoothing=0.1
        )

    def forward(self, x, target):
        return self.loss(x * 2, target)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_and_exports(dynamic):
    torch.manual_seed(0)
    head = Head()
    x, *_, target, _ = problem(5, 1, (6, 7), 4, 2, 0, 0, 5, dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(head, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    sizes = [{n + 2: torch.export.Dim(f"{of}{n}", min=2) for n in (0, 1)} for of in ("input", "target")]
    sizes[1] = {n - 1: size for n, size in sizes[1].items()}
    shapes = tuple(sizes) if dynamic else None
    exported = torch.export.export(head, (x, target), dynamic_shapes=shapes).module()
    for size in ((6, 7), (9, 4)) if dynamic else ((6, 7),):
        x, *_, target, _ = problem(5, 1, size, 4, 2, 0, 0, 5, dtype=torch.float32)
        expected = derivatives(partial(head, target=target), (x,))
        for actual, e in zip(derivatives(partial(compiled, target=target), (x,)), expected, strict=True):
            torch.testing.assert_close(actual, e)
        torch.testing.assert_close(exported(x, target), expected[0])
    target[0, 0, 0] = 7
    for run in (compiled, exported):
        with pytest.raises(RuntimeError, match="Target 7 is out of bounds"):
            run(x, target)


@pytest.mark.parametrize(
    "weights", [None, torch.rand(5), torch.rand(5).bfloat16()], ids=["none", "float32", "bfloat16"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=name)
def test_autocast(dtype, weights):
    """As stock: scores in the lower precision, the loss in float32."""
    x, weight, bias, target, _ = problem(5, 1, (6, 7), 4, 2, 0, 0, 5, dtype=dtype)
    weights = weights.double() if weights is not None and dtype is torch.float64 else weights
    for reduction in REDUCTIONS:
        options = {"crop": (1, 2), "ignore_index": IGNORED, "class_weight": weights, "reduction": reduction}
        with torch.autocast("cpu", torch.bfloat16):
            actual = own.conv_transpose2d_cross_entropy(x, weight, target, bias, 2, groups=5, **options)
            expected = composition(x, weight, target, bias, 2, 0, 0, 5, **options)
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, rtol=2e-2, atol=5e-2)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match="expected scalar type"):
        own.conv_transpose2d_cross_entropy(
            x.float(), weight.float(), target, stride=2, groups=5, class_weight=torch.ones(5).double()
        )


def test_the_result_does_not_depend_on_threads(deterministic):
    """Nor on the run: to the bit, gradients of weight and bias too."""
    for scale, size in ((8, (21, 40, 41)), (2, (3, 50, 60)), (32, (5, 9, 3))):
        classes = size[0]
        x, weight, bias, target, class_weight = problem(
            classes, 1, size[1:], 2 * scale, scale, 0, 0, classes, dtype=torch.float32
        )
        results = []
        for count in (1, 2, 3, 2):
            with threads(count):
                results.append(
                    derivatives(
                        lambda x, w, b, t=target, c=class_weight, s=scale: own.conv_transpose2d_cross_entropy(
                            x, w, t, b, s, groups=x.shape[1], crop=(1, 2), class_weight=c, ignore_index=IGNORED
                        ),
                        (x, weight, bias),
                    )
                )
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_meta_tensors():
    """Shapes without data."""
    x, weight, bias, target, _ = (t.to("meta") for t in problem(5, 1, (6, 7), 4, 2, 0, 0, 5, dtype=torch.bfloat16))
    for reduction, shape in (("mean", ()), ("none", target.shape)):
        loss, *grads = derivatives(
            lambda *t, r=reduction: own.conv_transpose2d_cross_entropy(
                *t[:2], target, t[2], 2, groups=5, crop=(1, 2), reduction=r
            ),
            (x, weight, bias),
        )
        assert (loss.shape, loss.dtype, loss.device.type) == (shape, torch.bfloat16, "meta")
        assert [grad.shape for grad in grads] == [x.shape, weight.shape, bias.shape]


def test_torch_fx_does_not_lose_the_crop():
    """Of a call that it records, nor, in silence, of one that it would have to follow into what depends on shapes."""
    x, weight = torch.randn(1, 5, 6, 7), torch.randn(5, 1, 4, 4)
    target = torch.randint(0, 5, (1, 10, 11))

    class Head(torch.nn.Module):
        def forward(self, x, weight, target):
            return own.conv_transpose2d_cross_entropy(x, weight, target, stride=2, groups=5, crop=(1, 2))

    assert torch.equal(torch.fx.symbolic_trace(Head())(x, weight, target), Head()(x, weight, target))

    class Tail(torch.nn.Module):
        def forward(self, target):
            return own.conv_transpose2d_cross_entropy(x, weight, target, stride=2, groups=5, crop=(1, 2))

    with pytest.raises(RuntimeError, match="symbolic tracing"):
        torch.fx.symbolic_trace(Tail())


# ---- Memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "normalizer"), [(torch.float32, 8), (torch.bfloat16, 8), (torch.float64, 16)])
@pytest.mark.parametrize(("classes", "label"), [(5, 1), (255, 1), (256, 4)])
def test_autograd_keeps_a_normalizer_and_a_label_of_each_pixel(classes, label, dtype, normalizer):
    """Beside its arguments, if there will be a gradient."""
    x, weight, bias, target, class_weight = problem(classes, 1, (5, 6), 16, 8, 0, 0, classes, dtype=dtype, samples=1)
    class_weight = class_weight.to(torch.promote_types(dtype, torch.float32)) if dtype.itemsize > 2 else None

    def loss():
        return own.conv_transpose2d_cross_entropy(
            x, weight, target, bias, 8, groups=classes, class_weight=class_weight, ignore_index=IGNORED, reduction="sum"
        )

    given = [tensor for tensor in (x, weight, bias, target, class_weight) if tensor is not None]
    assert saved_bytes(loss, given) == 0
    x.requires_grad_()
    assert saved_bytes(loss, given) == target.numel() * (normalizer + label)
    with torch.no_grad():
        assert saved_bytes(loss, given) == 0


class Results(TorchDispatchMode):
    """The bytes of what the loss's op gives."""

    def __init__(self):
        super().__init__()
        self.nbytes = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        results = function(*arguments, **(keywords or {}))
        if function is torch.ops.segext.depthwise_conv_transpose2d_cross_entropy.default:
            self.nbytes.append(sum(x.nbytes for x in results))
        return results


def test_without_a_gradient_nothing_is_made_for_it():
    x, weight, bias, target, _ = problem(5, 1, (6, 7), 4, 2, 0, 0, 5, dtype=torch.float32)
    options = {"stride": 2, "groups": 5, "ignore_index": IGNORED}
    leaf = x.clone().requires_grad_()
    exported = torch.export.export(Head(), (leaf, target)).module()
    with Results() as results:
        for call in (
            lambda: own.conv_transpose2d_cross_entropy(x, weight, target, bias, **options),
            lambda: own.conv_transpose2d_cross_entropy(leaf, weight, target, bias, **options),
            lambda: exported(leaf, target),
        ):
            with torch.no_grad():
                call()
        own.conv_transpose2d_cross_entropy(x, weight, target, bias, **options)
    assert results.nbytes == [8] * 4


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an op made, and the ops that ran."""

    def __init__(self):
        super().__init__()
        self.elements, self.ops = 0, set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        results = function(*arguments, **(keywords or {}))
        self.ops.add(function.name())
        made = [x.numel() for x in tree_leaves(results) if isinstance(x, torch.Tensor)]
        self.elements = max(self.elements, *made, 0)
        return results


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_nothing_is_as_large_as_the_scores(layout, reduction):
    """Forward and backward; what kernels take for scratch, the benchmarks count."""
    x, weight, _, target, _ = problem(21, 1, (9, 9), 16, 8, 0, 0, 21, dtype=torch.float32)
    x = layout(x).requires_grad_()
    with Largest() as largest:
        loss = own.conv_transpose2d_cross_entropy(
            x, weight, target, None, 8, groups=21, crop=(1, 2), ignore_index=IGNORED, reduction=reduction
        )
        loss.sum().backward()
    assert largest.elements <= 2 * target.numel() < 21 * 9 * 9 * 16
    ran = {
        "segext::depthwise_conv_transpose2d_cross_entropy",
        "segext::depthwise_conv_transpose2d_cross_entropy_backward",
    }
    assert ran <= largest.ops


# ---- Modules -------------------------------------------------------------------------------------------------------


def test_class_weights_move_with_the_module_and_stay_out_of_its_state():
    class_weight = torch.rand(5, generator=torch.Generator().manual_seed(0))
    module = nn.ConvTranspose2dCrossEntropy(5, 5, 4, 2, groups=5, class_weight=class_weight, ignore_index=IGNORED)
    x, *_, target, _ = problem(5, 1, (6, 7), 4, 2, 0, 0, 5, dtype=torch.float32)
    expected = own.conv_transpose2d_cross_entropy(
        x, module.weight, target, module.bias, 2, groups=5, class_weight=class_weight, ignore_index=IGNORED
    )
    assert torch.equal(module(x, target), expected)
    for other in (torch.nn.ConvTranspose2d, nn.ConvTranspose2dArgmax):
        layer = other(5, 5, 4, 2, groups=5)
        layer.load_state_dict(module.state_dict())
        module.load_state_dict(layer.state_dict())
    assert module.double().class_weight.dtype == torch.float64
    assert module.to("meta").class_weight.is_meta


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=name)
def test_saved_tensors_may_lie_anywhere(dtype, device):
    """Hooks may return saved tensors that are aligned for an element alone; kernels read pairs of them."""
    x, weight, bias, target, _ = (t.to(device) for t in problem(8, 1, (9, 12), 16, 8, dtype=dtype))
    leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    pairs = []

    def moved(tensor):
        tensor = unaligned(tensor)
        if tensor.shape == (*target.shape, 2):
            pairs.append(tensor)
        return tensor

    def gradients():
        loss = own.conv_transpose2d_cross_entropy(x, weight, target, bias, 8, groups=8, crop=(1, 2), ignore_index=255)
        return torch.autograd.grad(loss, leaves)

    with torch.autograd.graph.saved_tensors_hooks(moved, lambda tensor: tensor):
        found = gradients()
    assert [pair.data_ptr() % (2 * pair.element_size()) for pair in pairs] == [x.element_size()]
    for actual, expected in zip(found, gradients(), strict=True):
        assert torch.equal(actual, expected)
