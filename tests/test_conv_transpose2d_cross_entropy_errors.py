"""Cross-entropy of upsampled scores: targets are checked, on CUDA beside the op, and errors are stock's."""

import itertools
import re
import sys

import pytest
import torch
import torch.nn.functional as stock
from cross_entropy_samples import IGNORED, REDUCTIONS, composition, problem
from samples import normal

import segext.functional as own
from segext import ops
from segext.conv_routes import Criterion


@pytest.mark.parametrize("invalid", [5, -1, -100, 255, 2**40, -(2**63)])
def test_targets_out_of_range(invalid):
    x, weight, _, target, _ = problem(5, 1, (6, 7), 4, 2, 0, 0, 5)
    target[target == IGNORED] = 0
    target[1, 7, 0] = invalid
    options = {"groups": 5, "stride": 2, "ignore_index": IGNORED if invalid != IGNORED else -100}
    for reduction, smoothing in itertools.product(REDUCTIONS, (0.0, 0.1)):
        with pytest.raises(IndexError, match=rf"^Target {invalid} is out of bounds\.$"):
            own.conv_transpose2d_cross_entropy(
                x, weight, target, reduction=reduction, label_smoothing=smoothing, **options
            )
    target[1, 7, 0] = options["ignore_index"]
    own.conv_transpose2d_cross_entropy(x, weight, target, **options)


class OnCuda(torch.Tensor):
    """Says that it is on CUDA."""

    is_cuda = True


@pytest.fixture
def steps(monkeypatch):
    """What is done in which order: CUDA's events, as far as the check uses them, and launches of the op."""
    steps, op = [], ops.depthwise_conv_transpose2d_cross_entropy
    gradients = ops.depthwise_conv_transpose2d_cross_entropy_backward

    class Event:
        def record(self, stream):
            steps.append("record")

        def synchronize(self):
            steps.append("wait")

    def launch(input, weight, bias, target, class_weight, stride, origin, dilation, ignored, *rest):
        """Ignores targets that are no class, as the op does on CUDA."""
        steps.append("launch")
        is_class = (target >= 0) & (target < weight.shape[0] * weight.shape[1])
        target = target.where(is_class, ignored)
        return op(input, weight, bias, target, class_weight, stride, origin, dilation, ignored, *rest)

    def launch_gradients(*arguments):
        steps.append("launch gradients")
        return gradients(*arguments)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(ops, "depthwise_conv_transpose2d_cross_entropy", launch)
    monkeypatch.setattr(ops, "depthwise_conv_transpose2d_cross_entropy_backward", launch_gradients)
    return steps


@pytest.mark.parametrize(("ignored", "invalid"), [(255, 5), (255, -1), (-100, 255), (3, 2**40), (-100, -(2**63))])
def test_the_check_of_calls_on_cuda(ignored, invalid, steps):
    """There the op cannot tell: the check is begun before it is launched and waited for after. It runs anywhere."""
    criterion = Criterion(None, ignored, "mean", 0.0)
    target = torch.randint(0, 5, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    target[0, 1, :2] = ignored
    criterion.check_of(target, 5).wait()
    assert steps == ["record", "wait"]
    target[1, 2, 3] = invalid
    check = criterion.check_of(target, 5)
    with pytest.raises(IndexError, match=rf"^Target {invalid} is out of bounds\.$"):
        check.wait()
    check.wait()
    assert steps == ["record", "wait"] * 2


def test_the_check_waits_behind_the_backward_pass(steps):
    """Of a loss that has a gradient, once all of that is queued, and once."""
    x, weight, _, target, _ = problem(5, 1, (6, 7), 4, 2, 0, 0, 5)
    options = {"groups": 5, "stride": 2, "ignore_index": IGNORED}
    leaf = x.requires_grad_()

    def begin(values):
        steps.clear()
        values = values.as_subclass(OnCuda)
        middle = leaf * 1
        middle.register_hook(lambda grad: steps.append("rest of the pass"))
        loss = own.conv_transpose2d_cross_entropy(middle, weight, values, **options)
        assert steps == ["record", "launch"]
        return loss

    begin(target).backward(retain_graph=True)
    whole = ["record", "launch", "launch gradients", "rest of the pass", "wait"]
    assert steps == whole
    loss = begin(target)
    first, second = (torch.autograd.grad(loss, leaf, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert steps == [*whole, "launch gradients", "rest of the pass"]

    invalid = target.clone()
    invalid[1, 7, 3] = 77
    with pytest.raises(IndexError, match=r"^Target 77 is out of bounds\.$"):
        begin(invalid).backward()
    assert steps == whole


def test_an_error_of_the_check_keeps_no_callback_from_being_called(steps):
    """Such as DistributedDataParallel's, which are queued when its last gradient is there."""
    x, weight, _, target, _ = problem(5, 1, (6, 7), 4, 2, 0, 0, 5)
    target[1, 7, 3] = 77
    leaf, queue = x.requires_grad_(), torch.autograd.Variable._execution_engine.queue_callback
    middle = leaf * 1
    middle.register_hook(lambda grad: queue(lambda: steps.append("other callback")))
    options = {"groups": 5, "stride": 2, "ignore_index": IGNORED}
    loss = own.conv_transpose2d_cross_entropy(middle, weight, target.as_subclass(OnCuda), **options)
    with pytest.raises(IndexError, match=r"^Target 77 is out of bounds\.$"):
        loss.backward()
    assert steps == ["record", "launch", "launch gradients", "other callback", "wait"]


@pytest.mark.parametrize("backward", [True, False])
def test_a_check_in_flight_does_not_disturb_a_capture(backward, steps, monkeypatch):
    """Waiting for an event ends it, also for one that was recorded before."""
    x, weight, _, target, _ = problem(5, 1, (6, 7), 4, 2, 0, 0, 5)
    options = {"groups": 5, "stride": 2, "ignore_index": IGNORED}
    loss = own.conv_transpose2d_cross_entropy(x.requires_grad_(), weight, target.as_subclass(OnCuda), **options)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    if backward:
        loss.backward()
    del loss
    assert "wait" not in steps


def test_a_check_that_nothing_waited_for_is_printed(steps, monkeypatch):
    x, weight, _, target, _ = problem(5, 1, (6, 7), 4, 2, 0, 0, 5)
    target[1, 7, 3] = 77
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: printed.append(str(unraisable.exc_value)))
    options = {"groups": 5, "stride": 2, "ignore_index": IGNORED}
    loss = own.conv_transpose2d_cross_entropy(x.requires_grad_(), weight, target.as_subclass(OnCuda), **options)
    assert steps == ["record", "launch"]
    del loss
    assert steps == ["record", "launch", "wait"]
    assert printed == ["Target 77 is out of bounds."]


def test_calls_on_cuda_are_checked(steps):
    x, weight, _, target, _ = problem(5, 1, (6, 7), 4, 2, 0, 0, 5)
    options = {"groups": 5, "stride": 2, "ignore_index": IGNORED}
    expected = own.conv_transpose2d_cross_entropy(x, weight, target, **options)
    assert steps == ["launch"]
    target = target.as_subclass(OnCuda)
    for values, enabled, done in (
        (target, True, ["record", "launch", "wait"]),
        (target, False, ["launch"]),
        (target[:0], True, ["launch"]),
    ):
        steps.clear()
        with own.set_index_check(enabled):
            actual = own.conv_transpose2d_cross_entropy(x[: len(values)], weight, values, **options)
        assert steps == done
        if len(values) > 0:
            assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    "change",
    [
        {"target": torch.zeros(1, 8, 10, dtype=torch.int64)},
        {"target": torch.zeros(2, 1, 8, 10, dtype=torch.int64)},
        {"target": torch.zeros(8, 10, dtype=torch.int64)},
        {"target": torch.zeros(2, 8, 10, dtype=torch.int32)},
        {"target": torch.zeros(2, 8, 10, dtype=torch.uint8)},
        {"target": torch.zeros(2, 8, 10)},
        {"target": torch.zeros(2, 8, 10, dtype=torch.int64).to("meta")},
        {"target": None},
        {"target": 3},
        {"class_weight": torch.ones(4)},
        {"class_weight": torch.ones(5).double()},
        {"class_weight": torch.ones(5, requires_grad=True)},
        {"class_weight": 2.0},
        {"ignore_index": 2.5},
        {"ignore_index": None},
        {"reduction": "max"},
        {"reduction": None},
        {"label_smoothing": 1.5},
        {"label_smoothing": "much"},
        {"weight": normal((4, 1, 4, 4))},
        {"weight": normal((5, 1, 4, 4)).double()},
        {"bias": normal((4,))},
        {"stride": 0},
        {"groups": 3},
        {"input": normal((5, 5))},
        {"input": normal((2, 5, 3, 4)).bool()},
    ],
    ids=str,
)
def test_errors_are_stock_s(change):
    call = {"input": normal((2, 5, 3, 4)), "weight": normal((5, 1, 4, 4)), "groups": 5, "stride": 2}
    call |= {"target": torch.zeros(2, 8, 10, dtype=torch.int64)} | change
    convolution = {key: call[key] for key in ("input", "weight", "bias", "groups", "stride") if key in call}
    criterion = {key: value for key, value in call.items() if key not in convolution}
    weights = criterion.pop("class_weight", None)
    with pytest.raises(Exception) as by_stock:  # noqa: PT011 - its type is what is asked for
        stock.cross_entropy(stock.conv_transpose2d(**convolution), weight=weights, **criterion)
    with pytest.raises(by_stock.type) as by_own:
        own.conv_transpose2d_cross_entropy(**call)
    by_place = r" \(position \d+\)"  # stock says it where arguments were given by place
    assert re.sub(by_place, "", str(by_own.value)) == re.sub(by_place, "", str(by_stock.value))


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (torch.full((2, 5, 8, 10), 0.2), {}),
        (torch.full((2, 5, 8, 10), 0.2), {"label_smoothing": 0.1, "class_weight": torch.rand(5)}),
        (torch.zeros(2, 8, 10, dtype=torch.int64), {"label_smoothing": -1.0}),
        (torch.zeros(2, 8, 10, dtype=torch.int64), {"class_weight": torch.rand(5, 1)}),
        (torch.zeros(2, 8, 10, dtype=torch.int64), {"class_weight": torch.rand(10)[::2]}),
    ],
)
def test_what_else_stock_takes(target, options):
    """Probabilities of classes, among others."""
    arguments = (normal((2, 5, 3, 4)), normal((5, 1, 4, 4)), target, None, 2, 0, 0, 5)
    torch.testing.assert_close(
        own.conv_transpose2d_cross_entropy(*arguments, **options), composition(*arguments, **options)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": torch.zeros(2, 6, 7, dtype=torch.int32)}, "target should be"),
        ({"target": torch.zeros(6, 7, dtype=torch.int64)}, "target"),
        ({"target": torch.zeros(3, 6, 7, dtype=torch.int64)}, "target"),
        ({"target": torch.zeros(2, 1, 6, 7, dtype=torch.int64)}, "target"),
        ({"class_weight": torch.ones(5).double()}, "class_weight should be"),
        ({"class_weight": torch.ones(4)}, "class_weight should be"),
        ({"weight": torch.ones(4, 1, 4, 4)}, "weight"),
        ({"bias": torch.ones(5).double()}, "bias"),
        ({"labels": torch.zeros(2, 6, 7, dtype=torch.int32)}, "labels should be"),
        ({"labels": torch.zeros(3, 6, 7, dtype=torch.uint8)}, "labels"),
        ({"normalizers": torch.ones(2, 6, 7)}, "normalizers should be"),
        ({"normalizers": torch.ones(2, 6, 7, 2).double()}, "normalizers should be"),
        ({"grad_loss": torch.ones(2, 6, 6)}, "grad_loss should be"),
        ({"grad_loss": torch.ones(()).double()}, "grad_loss should be"),
    ],
    ids=str,
)
@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_the_ops_turn_away_what_does_not_fit(where, change, message):
    """Whoever calls them, and whether there are values."""
    tensors = {
        "input": torch.ones(2, 5, 3, 4),
        "weight": torch.ones(5, 1, 4, 4),
        "bias": torch.ones(5),
        "target": torch.zeros(2, 6, 7, dtype=torch.int64),
        "class_weight": torch.ones(5),
        "normalizers": torch.ones(2, 6, 7, 2),
        "labels": torch.zeros(2, 6, 7, dtype=torch.uint8),
    }
    window = ((2, 2), (1, 1), (1, 1))
    grad_loss, tensors = change.get("grad_loss", torch.ones(())).to(where), tensors | change
    operands, criterion, kept = (
        [tensors[name].to(where) for name in names]
        for names in (("input", "weight", "bias"), ("target", "class_weight"), ("normalizers", "labels"))
    )
    registered = torch.ops.segext
    if "target" not in change:
        with pytest.raises(RuntimeError, match=message):
            registered.depthwise_conv_transpose2d_cross_entropy_backward(
                grad_loss, *operands, criterion[1], *kept, *window, 0.0, False, True, True, True
            )
    if change.keys().isdisjoint(("grad_loss", "normalizers", "labels")):
        with pytest.raises(RuntimeError, match=message):
            registered.depthwise_conv_transpose2d_cross_entropy(
                *operands, *criterion, *window, 255, 0.0, False, True, True
            )


@pytest.mark.parametrize("groups", [5, 1])
@pytest.mark.parametrize(("crop", "size"), [((-1, 0), (4, 4)), ((3, 3), (6, 7)), ((0, 0), (0, 4)), ((8, 0), (1, 1))])
def test_crops_that_do_not_fit(crop, size, groups):
    x, weight = normal((2, 5, 3, 4)), normal((5, 5 // groups, 4, 4))
    target = torch.zeros(2, *size, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"of a map of 8x10; see crop and target$"):
        own.conv_transpose2d_cross_entropy(x, weight, target, stride=2, groups=groups, crop=crop)
