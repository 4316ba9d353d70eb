"""``segext.convert`` where code reaches methods and classes in unusual ways: it fuses only what its edits reach."""

import abc
import copy
import functools
import inspect
import operator
import pickle

import pytest
import torch
import torch.nn.functional as F
from networks import Pooling, block, reason
from torch import nn

import segext

pytestmark = pytest.mark.usefixtures("one_thread")


class ToSuper(Pooling):
    def forward(self, x):
        return super()._down(F.relu(self.conv(x)))


class ByClass(Pooling):
    def forward(self, x):
        return Pooling._down(self, F.relu(self.conv(x)))


class Kept(Pooling):
    """Calls what it keeps as an attribute since it was made."""

    def __init__(self, keep=lambda self: self._down):
        super().__init__()
        self.reduce = keep(self)

    def forward(self, x):
        return self.reduce(self.relu(self.conv(x)))


class KeptLambda(Kept):
    def __init__(self):
        super().__init__(lambda _: lambda x: F.max_pool2d(x, 2))


class KeptClosure(Pooling):
    def __init__(self, size=2):
        super().__init__()

        def reduce(x):
            return F.max_pool2d(x, size)

        self.reduce = reduce

    def forward(self, x):
        return self.reduce(F.relu(self.conv(x)))


class KeptPartial(Kept):
    def __init__(self):
        super().__init__(lambda self: functools.partial(self._down))


class OfAChild(nn.Module):
    """Calls a method of a child that it keeps."""

    def __init__(self):
        super().__init__()
        self.encoder = Pooling()
        self.encode = self.encoder._down

    def forward(self, x):
        return self.encode(F.relu(self.encoder.conv(x)))


def helper(self, x):
    return F.max_pool2d(x, 2)


class Borrowing(Pooling):
    """A function that is a method too."""

    _down = helper

    def forward(self, x):
        return helper(self, F.relu(self.conv(x)))


def results(model, x):
    """The output, and gradients of the input and all parameters."""
    leaf = x.clone().requires_grad_()
    model.zero_grad()
    out = model(leaf * 1)
    out.square().sum().backward()
    return out.detach(), leaf.grad, {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_converts_exactly(model, *, fused, size=16):
    x = torch.randn(2, 4, size, size)
    expected = results(model, x)
    converted, report = segext.convert(model)
    torch.testing.assert_close(results(converted, x), expected, rtol=0, atol=0)
    assert len(report.fused) == fused, str(report)
    return converted, report


@pytest.mark.parametrize(
    "kind",
    [ToSuper, ByClass, Kept, KeptLambda, KeptClosure, KeptPartial, OfAChild, Borrowing],
    ids=lambda kind: kind.__name__,
)
def test_calls_that_do_not_find_the_edited_method(kind):
    assert_converts_exactly(kind(), fused=0)
    assert_converts_exactly(Pooling(), fused=1)


def test_what_makes_its_functions_in_the_forward_is_edited():
    class Making(Pooling):
        def forward(self, x):
            def reduce(y):
                return F.max_pool2d(y, 2)

            return reduce(F.relu(self.conv(x)))

    assert_converts_exactly(Making(), fused=1)


class Features(nn.Module):
    """As users call a network's parts, and Lightning its steps."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)

    def features(self, x):
        return self.relu(self.conv(x))

    def forward(self, x):
        return self.pool(self.features(x))

    def training_step(self, x):
        return self.features(x).mean()


class CalledFeatures(Features):
    def features(self, x):
        return F.relu(self.conv(x))


class Pools(Features):
    def forward(self, x):
        return self.pool(self.relu(self.conv(x)))

    def reduce(self, x):
        return self.pool(x)


class InAChild(Features):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(self.conv, self.relu)

    def features(self, x):
        for layer in self.stem:
            x = layer(x)
        return x

    def forward(self, x):
        return self.pool(self.stem(x))


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (Features, "features"),
        (Features, "training_step"),
        (CalledFeatures, "features"),
        (Pools, "reduce"),
        (InAChild, "features"),
    ],
)
def test_public_methods_run_as_before(kind, method):
    model, x = kind(), torch.randn(1, 4, 8, 8)
    converted, _ = assert_converts_exactly(model, fused=0)
    assert torch.equal(getattr(converted, method)(x), getattr(model, method)(x))


def test_public_methods_that_run_both_do_not_keep_a_pair_apart():
    class Net(Features):
        def features(self, x):
            return self.pool(self.relu(self.conv(x)))

        def _half(self, x):
            return self.relu(self.conv(x))

        def forward(self, x):
            return self.features(x)

    model, x = Net(), torch.randn(1, 4, 8, 8)
    converted, _ = assert_converts_exactly(model, fused=1)
    assert torch.equal(converted.training_step(x), model.training_step(x))


def test_a_public_method_that_unpools_returns_a_map():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
            self.conv = nn.ConvTranspose2d(4, 4, 3)

        def detail(self, x):
            values, indices = self.pool(x)
            return self.unpool(values, indices)

        def forward(self, x):
            return self.conv(self.detail(x))

    model, x = Net(), torch.randn(1, 4, 8, 8)
    converted, report = segext.convert(model)
    assert not report.fused
    assert torch.equal(converted.detail(x), model.detail(x))


def test_parameters_and_buffers_keep_their_values():
    """A forward that changes them runs once, to be read."""

    class Clipped(Features):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.zeros(1))

        def forward(self, x):
            for weight in self.parameters():
                weight.data.clamp_(-0.01, 0.01)
            for count in self.buffers():
                count.add_(1)
            return super().forward(x)

    model = Clipped()
    before = copy.deepcopy(model.state_dict())
    for converted in (segext.convert(model)[0], segext.convert(model, inplace=True)[0]):
        assert all(map(torch.equal, converted.state_dict().values(), before.values()))


class ChildsMethod(nn.Module):
    """Calls a child, and a method of the child that pools without a ReLU."""

    def __init__(self):
        super().__init__()
        self.backbone = Pooling()

    def forward(self, x):
        return self.backbone(x) + self.backbone._down(x)


class OutlivingItsMethod(Pooling):
    """Calls a function that a method has made, in the method and after it."""

    def tool(self, x):
        def reduce(y):
            return F.max_pool2d(y, 2)

        return reduce(x), reduce

    def forward(self, x):
        y, reduce = self.tool(F.relu(self.conv(x)))
        return y + reduce(self.conv(x))


class Wrapped:
    def __init__(self, values):
        self.values = values

    def relu(self):
        return F.relu(self.values)


class OfAnotherKind(Pooling):
    """Calls a method named like a tensor's."""

    def forward(self, x):
        return F.max_pool2d(Wrapped(self.conv(x)).relu(), 2)


class OfAConstant(Pooling):
    """Pools what it has computed from no argument, after pooling the argument."""

    def forward(self, x):
        return self._down(F.relu(self.conv(x))) + self._down(torch.linspace(-1, 1, x.shape[-1] ** 2).view(1, 1, 16, 16))


class KeptToo(Pooling):
    def __init__(self):
        super().__init__()
        self.keep = self._down

    def forward(self, x):
        return self._down(F.relu(self.conv(x))) + self.keep(self.conv(x))


@pytest.mark.parametrize(
    "kind",
    [ChildsMethod, OutlivingItsMethod, OfAnotherKind, OfAConstant, KeptToo],
    ids=lambda kind: kind.__name__,
)
def test_calls_that_run_in_more_ways_than_one(kind):
    model = kind()
    converted, _ = assert_converts_exactly(model, fused=0)
    x = torch.randn(1, 4, 16, 16)
    for copied in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert torch.equal(copied(x), model(x))


class NamingItself(Pooling):
    SCALE = 2

    def forward(self, x):
        return super(NamingItself, self).forward(x) * NamingItself.SCALE  # noqa: UP008 - it is about that


class AnyNames(Pooling):
    def _down(*arguments):
        _, (x,) = arguments
        return F.max_pool2d(x, 2)

    def forward(self, x):
        return self._down([F.relu(self.conv(x))])


@pytest.mark.parametrize("kind", [NamingItself, AnyNames], ids=lambda kind: kind.__name__)
def test_methods_of_unusual_form(kind):
    assert_converts_exactly(kind(), fused=0)


def test_a_forward_that_converts():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.ready = Pooling(), False

        def forward(self, x):
            if not self.ready:
                segext.convert(self.net, inplace=True)
                self.ready = True
            return self.net(x)

    model, x = Lazy(), torch.randn(1, 4, 8, 8)
    converted, _ = segext.convert(model)
    assert torch.equal(converted(x), model(x))


def test_converting_again_a_class_with_other_methods():
    class Half(Pooling):
        def other(self, x):
            return F.max_pool2d(x, 3, return_indices=self.training)

    converted, _ = assert_converts_exactly(Half(), fused=1)
    again, report = segext.convert(converted)
    x = torch.randn(1, 4, 8, 8)
    assert torch.equal(again(x), converted(x))
    assert not report.fused


class Cloning(Pooling):
    """Like code that makes target networks."""

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        return self.pool(F.relu(self.conv(x)))

    def clone(self):
        other = type(self)()
        other.load_state_dict(self.state_dict())
        return other

    def reset(self):
        self.__init__()


def test_a_new_instance_of_a_converted_class_is_not_converted():
    model = Cloning()
    converted, _ = assert_converts_exactly(model, fused=1)
    x = torch.randn(2, 4, 8, 8)
    clone = converted.clone()
    assert type(clone) is Cloning
    assert type(clone.pool) is nn.MaxPool2d
    assert torch.equal(clone(x), model(x))
    again, report = segext.convert(clone)
    assert len(report.fused) == 1
    assert torch.equal(again(x), model(x))
    converted.reset()
    assert type(converted) is Cloning
    assert torch.equal(converted(x), converted.pool(F.relu(converted.conv(x))))


def test_a_clone_that_is_given_converted_layers():
    class Given(nn.Module):
        def __init__(self, body, scale=1.0):
            super().__init__()
            self.body, self.scale = body, scale

        def forward(self, x):
            return F.max_pool2d(self.body(x), 2) * self.scale

        def _clone(self):
            return type(self)(copy.deepcopy(self.body), self.scale)

    converted, _ = assert_converts_exactly(Given(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())), fused=1)
    x = torch.randn(1, 4, 8, 8)
    assert torch.equal(converted._clone()(x), converted(x))
    assert list(inspect.signature(type(converted)).parameters) == ["body", "scale"]


def test_registries_do_not_hear_of_converted_classes():
    known = {}

    class Registered(nn.Module):
        def __init_subclass__(cls, *, key, **keywords):
            super().__init_subclass__(**keywords)
            if key in known:
                raise ValueError(f"{key} is taken")
            known[key] = cls

    class Net(Registered, Cloning, key="net"):
        pass

    assert_converts_exactly(Net(), fused=1)
    assert known == {"net": Net}


@pytest.mark.parametrize("base", [type, abc.ABCMeta])
def test_metaclasses_do_not_hear_of_converted_classes(base):
    made = []

    class Meta(base):
        def __new__(cls, name, bases, members):
            made.append(super().__new__(cls, name, bases, members))
            return made[-1]

    class Net(Cloning, metaclass=Meta):
        pass

    converted, _ = assert_converts_exactly(Net(), fused=1)
    assert made == [Net]
    assert isinstance(converted, Net)
    assert isinstance(type(converted), Meta)


# --- Callers that work in place ---------------------------------------------------------------------------------------


class Adding(nn.Module):
    """Changes in place what a block of it returns."""

    def __init__(self, features):
        super().__init__()
        self.features, self.skip = features, nn.Conv2d(4, 4, 1, stride=2)

    def forward(self, x):
        y = self.features(x)
        y += self.skip(x)
        return y


class Checking(Adding):
    def forward(self, x):
        if x.dim() != 4:
            raise ValueError("no batch")
        y = self.features(x)
        y += self.skip(x)
        return y


class InPlaceLayer(Adding):
    def __init__(self, features):
        super().__init__(features)
        self.drop = nn.Dropout(inplace=True)

    def forward(self, x):
        return self.drop(self.features(x)) if x.dim() == 4 else x


class AnyArguments(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *arguments):
        return self.inner(*arguments)


class Branching(AnyArguments):
    def forward(self, x):
        return self.inner(x) if x.dim() == 4 else x


class PositionalInPlace(Adding):
    def forward(self, x):
        return F.leaky_relu(self.features(x), 0.1, True) if x.dim() == 4 else x


class Setting(Adding):
    def forward(self, x):
        rows = slice(0, 2) if x.dim() == 4 else 0
        y = self.features(x) * 1
        z = self.features(x)
        z[rows] = 0
        return y + z


class SettingASlice(Adding):
    def forward(self, x):
        y = self.features(x)
        if x.dim() == 4:
            y[:1] = 0
        return y


class CallingAnOperator(Adding):
    def forward(self, x):
        y = self.features(x)
        return operator.iadd(y, 1) if x.dim() == 4 else y


class PassingAFlag(Adding):
    """By place, and not as a literal."""

    inplace = True

    def forward(self, x):
        y = self.features(x)
        return F.leaky_relu(y, 0.1, self.inplace) if x.dim() == 4 else y


class DictOfResults(Adding):
    def forward(self, x):
        results = {}
        if x.dim() == 4:
            results["out"] = self.skip(x) + self.features(x)
        return results["out"]


class Residual(nn.Module):
    """A basic block: its input is added, not added to."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.conv(x)
        y += x
        return self.relu(y)


class Shortcut(Residual):
    """A basic block of which some have a layer in their shortcut."""

    def __init__(self, shortcut=None):
        super().__init__()
        self.shortcut = shortcut

    def forward(self, x):
        y, identity = self.conv(x), x
        if self.shortcut is not None:
            identity = self.shortcut(x)
        y += identity
        return self.relu(y)


class Staged(nn.Module):
    """Named stages, run on a condition."""

    def __init__(self):
        super().__init__()
        self.stem, self.stages = block(), nn.ModuleList([Residual(), Residual()])

    def forward(self, x):
        if x.dim() != 4:
            raise ValueError("no batch")
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x


def hooked_before(hook):
    layer = nn.Conv2d(4, 4, 1)
    layer.register_forward_pre_hook(hook)
    return layer


def hooked(hook):
    features = block()
    features.register_forward_hook(hook)
    return features


@pytest.mark.parametrize(
    "make",
    [
        lambda: Adding(block()),
        lambda: Checking(block()),
        lambda: InPlaceLayer(block()),
        lambda: Adding(nn.DataParallel(block())),
        lambda: Adding(hooked(lambda module, inputs, output: None)),
        lambda: Branching(hooked(lambda module, inputs, output: output.mul_(2))),
        lambda: Adding(AnyArguments(block())),
        lambda: Adding(Branching(block())),
        lambda: nn.Sequential(Branching(block()), nn.ReLU(inplace=True)),
        lambda: nn.Sequential(block(), hooked_before(lambda module, inputs: inputs[0].mul_(2))),
        lambda: PositionalInPlace(block()),
        lambda: Setting(block()),
        lambda: SettingASlice(block()),
        lambda: CallingAnOperator(block()),
        lambda: PassingAFlag(block()),
        lambda: nn.Sequential(nn.DataParallel(block()), nn.Dropout(inplace=True)),
    ],
    ids=[
        *("by a reader", "by a checking reader", "by a layer", "past DataParallel", "past a hook", "by a hook"),
        *(
            "past any arguments",
            "past a branch",
            "a layer past a branch",
            "by a reader's hook",
            "by place",
            "by an item",
            "by a slice",
            "by an operator",
            "by a flag",
        ),
        "a layer past DataParallel",
    ],
)
def test_maps_that_a_caller_changes_in_place_are_not_fused(make):
    model = make()
    model(torch.randn(2, 4, 8, 8)).sum().backward()  # which works before the conversion
    converted, report = segext.convert(model)
    assert not report.fused, str(report)
    converted(torch.randn(2, 4, 8, 8)).sum().backward()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Branching(block()),
        lambda: nn.DataParallel(block()),
        lambda: nn.Sequential(nn.DataParallel(block()), nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)),
        lambda: nn.Sequential(Branching(block()), nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)),
        lambda: Branching(hooked(lambda module, inputs, output: None)),
        lambda: nn.Sequential(block(), Residual()),
        lambda: nn.Sequential(block(), Shortcut()),
        lambda: nn.Sequential(block(), Shortcut(nn.Conv2d(4, 4, 1))),
        lambda: DictOfResults(block()),
        Staged,
    ],
    ids=[
        *("branch", "DataParallel", "in place elsewhere", "elsewhere past a branch", "hook", "residual", "shortcut"),
        *("layer in a shortcut", "dict", "residual stages past a check"),
    ],
)
def test_callers_that_change_nothing_do_not_prevent_fusion(make):
    assert_converts_exactly(make(), fused=1)


def test_a_block_called_directly_and_in_parallel():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.branch = nn.ReLU(), nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 4, 1))
            self.parallel = nn.DataParallel(self.branch)

        def forward(self, x):
            return self.branch(self.relu(x)) + self.parallel(x)

    assert_converts_exactly(Twice(), fused=0)


def test_a_layer_that_another_forward_makes():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = block(), None

        def forward(self, x):
            x = self.first(x)
            return x if self.second is None else self.second(x)

    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x):
            y = self.block(x)
            self.block.second = nn.AvgPool2d(2)
            return y

    model, x = Lazy(), torch.randn(2, 4, 16, 16)
    converted, report = segext.convert(model)
    assert reason(report, "block").endswith("its forward calls a layer that another forward makes")
    for size in (8, 4):
        assert converted(x).shape[2:] == (size, size)


# --- Optional layers --------------------------------------------------------------------------------------------------


class WithOption(Pooling):
    """Reads its ReLU's output once more if it has another layer."""

    def __init__(self, other=None):
        super().__init__()
        self.pool, self.other = nn.MaxPool2d(2), other

    def forward(self, x):
        y = self.relu(self.conv(x))
        z = self.pool(y)
        return z if self.other is None else z + self.other(y)


class InAnotherMethod(WithOption):
    def _finish(self, x):
        if self.other is not None:
            x = self.other(x)
        return x

    def forward(self, x):
        return self._finish(self.pool(self.relu(self.conv(x))))


@pytest.mark.parametrize(
    ("make", "fused"),
    [
        (WithOption, 1),
        (lambda: WithOption(nn.AvgPool2d(2)), 0),
        (InAnotherMethod, 1),
        (lambda: InAnotherMethod(nn.Conv2d(4, 4, 1)), 1),
    ],
)
def test_forwards_that_ask_for_an_optional_layer_are_read(make, fused):
    _, report = assert_converts_exactly(make(), fused=fused)
    assert not [change for change in report.left if "branches" in change.reason]


class OptionalValue(WithOption):
    def forward(self, x):
        y = self.relu(self.conv(x))
        return self.pool(y) if self.other is None else self.pool(y) + y.mean() * self.other


class OptionAndMore(WithOption):
    pools = True

    def forward(self, x):
        y = self.relu(self.conv(x))
        return self.pool(y) if self.other is None and self.pools else y


class Growing(WithOption):
    def grow(self):
        self.other = nn.AvgPool2d(2)


class GrowingByName(WithOption):
    def grow(self):
        setattr(self, "".join(["ot", "her"]), nn.AvgPool2d(2))


class GrowingBySetter(WithOption):
    @property
    def grown(self):
        return False

    @grown.setter
    def grown(self, value):
        self.other = nn.AvgPool2d(2)

    def grow(self):
        self.grown = True


class GrowingOnceCalled(WithOption):
    def forward(self, x):
        y = super().forward(x)
        self.other = nn.AvgPool2d(2)
        return y

    def grow(self):
        """Which it does in its forward."""


class GrowingInABase(GrowingOnceCalled):
    def forward(self, x):
        return super().forward(x) * 1


class GrowingItsChild(nn.Module):
    def __init__(self):
        super().__init__()
        self.child = WithOption()

    def forward(self, x):
        return self.child(x)

    def grow(self):
        self.child.other = nn.AvgPool2d(2)


class OptionalProperty(WithOption):
    grown = False

    def __init__(self):
        Pooling.__init__(self)
        self.pool = nn.MaxPool2d(2)
        vars(self)["other"] = None

    @property
    def other(self):
        return [None, nn.AvgPool2d(2)][self.grown]


class SelfIsAnother(WithOption):
    def forward(self, x):
        y = self.relu(self.conv(x))
        z, self = self.pool(y), self.peer[0]
        return z if self.other is None else z + self.other(y)

    def __init__(self):
        super().__init__()
        self.peer = [WithOption()]


@pytest.mark.parametrize(
    ("make", "later"),
    [
        (OptionalValue, lambda model: setattr(model, "other", 2.0)),
        (OptionAndMore, lambda model: setattr(model, "pools", False)),
        (Growing, lambda model: model.grow()),
        (GrowingByName, lambda model: model.grow()),
        (GrowingBySetter, lambda model: model.grow()),
        (GrowingOnceCalled, lambda model: model.grow()),
        (GrowingInABase, lambda model: model.grow()),
        (GrowingItsChild, lambda model: model.grow()),
        (OptionalProperty, lambda model: setattr(model, "grown", True)),
        (SelfIsAnother, lambda model: setattr(model.peer[0], "other", nn.AvgPool2d(2))),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_no_optional_layer_may_change_later(make, later):
    torch.manual_seed(0)
    model = make()
    converted, report = segext.convert(model)
    assert not report.fused, str(report)
    x = torch.randn(2, 4, 16, 16)
    for _ in range(2):
        torch.testing.assert_close(results(converted, x), results(model, x), rtol=0, atol=0)
        later(model)
        later(converted)
