"""``segext.convert`` on models that a trace would misrepresent: outputs, gradients and types stay what they were."""

import copy
import dataclasses
import functools
import inspect
import math
import random
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import checkpoint

import segext

pytestmark = pytest.mark.usefixtures("one_thread")


# --- Models -----------------------------------------------------------------------------------------------------------


def features():
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = features()

    def forward(self, x):
        return self.features(x)


class Coder(nn.Module):
    """Does its work in methods that others may call."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        self.indexed, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def encode(self, x):
        return self.relu(self.conv(x))

    def flat_indices(self, x):
        y, i = self.indexed(x)
        return y, i.flatten(2)

    def forward(self, x):
        y, i = self.indexed(self.pool(self.encode(x)))
        return self.unpool(y, i)


class Down(nn.Module):
    def __init__(self, hooked=False):
        super().__init__()
        self.pool = nn.MaxPool2d(2, return_indices=True)
        if hooked:
            self.register_forward_hook(ignore)

    def forward(self, x):
        return self.pool(x)


class AnyArguments(Down):
    def forward(self, *args):
        return self.pool(args[0])


class Parts(nn.Module):
    flag = True

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        self.indexed, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.overlapping = nn.MaxPool2d(3, 2, 1, return_indices=True)
        self.inplace, self.features, self.scale, self.config = nn.ReLU(True), features(), 2.0, {"double": True}
        self.many, self.state, self.count = nn.ModuleList([nn.Conv2d(3, 3, 1)]), State(), 0
        self.down, self.hooked, self.any, self.coder = Down(), Down(hooked=True), AnyArguments(), Coder()

    @property
    def dtype(self):
        return self.conv.weight.dtype

    def scaled(self, x):
        return x * self.scale if self.flag else x


class State:
    count = 0


def ignore(*args):
    """A hook that does nothing."""


SWITCHED_ON = {"on": True}
Pair = namedtuple("Pair", "a b")


class Outputs(OrderedDict):
    pass


class Listed(list):
    pass


@dataclasses.dataclass
class Data:
    a: object


def first(x):
    return x[0] if isinstance(x, (list, tuple)) else x


CASES = {}


def case(function=None, **how):
    """Register a forward; ``how`` says how to call it: arguments, later changes, contexts."""
    if function is None:
        return functools.partial(case, **how)
    CASES[function.__name__] = (function, how)
    return function


# Layers used by parts.


@case
def slices(m, x):
    assert x.shape[-1] % 4 == 0
    a = m.features[:2](x)
    return a, m.features[2:](a)


@case
def slices_without_a_branch(m, x):
    a = m.features[:2](x)
    return a, m.features[2:](a)


@case
def loops(m, x):
    assert x.shape[-1] % 4 == 0
    outs = []
    for layer in m.features:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            outs.append(x)
    return outs


@case
def indexes(m, x):
    assert x.shape[-1] % 4 == 0
    outs = []
    for i in range(len(m.features)):
        x = m.features[i](x)
        if i in (1, 4):
            outs.append(x)
    return outs


@case
def reaches_into_a_child(m, x):
    if x.sum() > 1e9:
        x = x * 2
    return m.coder.encode(x), m.coder(x)


@case
def reaches_for_indices(m, x):
    assert x.dim() == 4
    return m.coder.flat_indices(m.coder.conv(x))


@case
def reaches_by_children(m, x):
    assert x.dim() == 4
    outs = [x]
    for child in list(m.children())[:3]:
        outs.append(child(outs[-1]))
    return outs


@case
def reaches_by_name(m, x):
    assert x.dim() == 4
    x = m.get_submodule("features.0")(x)
    return x, getattr(m, "feature" + "s")[1](x)


@case
def hooks(m, x):
    outs = []
    handle = m.features[1].register_forward_hook(lambda layer, args, out: outs.append(out))
    m.features(x)
    handle.remove()
    return outs


@case
def checkpoints_a_layer(m, x):
    x = m.conv(x)
    y = checkpoint.checkpoint(m.relu, x, use_reentrant=False)
    return m.pool(m.relu(x)), y


@case
def keeps_a_tensor_elsewhere(m, x):
    y = m.relu(m.conv(x))
    m.state.last = y
    return m.pool(y), m.state.last


# Arguments and modes.


@case
def kernel_by_default(m, x, k=None):
    k = 2 if k is None else k
    return F.max_pool2d(x, k)


@case(kwargs={"k": 4})
def kernel_given(m, x, k=None):
    k = 2 if k is None else k
    return F.max_pool2d(F.relu(x), k)


@case
def mode_is_none(m, x, mode=None):
    return F.max_pool2d(m.conv(x), 2) * (1 if mode is None else 2)


@case(kwargs={"mode": True})
def mode_is_true(m, x, mode=False):
    return F.max_pool2d(m.conv(x), 2) * (2 if mode is True else 1)


@case
def picks_by_identity(m, x, skip=None):
    y = m.relu(m.conv(x))
    return m.pool(y), (y, x)[skip is not None]


@case
def size_is_none(m, x, size=None):
    if size is None:
        size = (4, 4)
    return F.interpolate(F.max_pool2d(m.conv(x), 2), size)


@case
def training_is_true(m, x):
    return F.max_pool2d(m.conv(x), 2) * (2 if m.training is True else 1)


@case
def dropout_by_mode(m, x):
    return F.max_pool2d(F.dropout(m.conv(x), 0.5 if m.training else 0.0), 2)


@case
def table_by_mode(m, x):
    return F.max_pool2d(m.conv(x), 2) * {True: 2, False: 1}[m.training]


# Contexts.


@case(context=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
def without_autocast(m, x):
    with torch.autocast("cpu", enabled=False):
        x = m.conv(x.float())
    return F.max_pool2d(F.relu(x), 2)


@case(context=torch.no_grad)
def with_grad(m, x):
    with torch.enable_grad():
        return F.max_pool2d(F.relu(m.conv(x)), 2)


@case(convert_in=torch.no_grad)
def without_grad(m, x):
    with torch.no_grad():
        y = m.conv(x)
    return F.max_pool2d(F.relu(y), 2)


@case(convert_in=torch.no_grad)
def without_grad_by_calls(m, x):
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    y = m.relu(m.conv(x))
    torch.set_grad_enabled(before)
    return m.pool(y) * m.conv.bias[0]


@case(convert_in=torch.no_grad)
@torch.no_grad()
def decorated(m, x):
    return F.max_pool2d(F.relu(m.features(x)), 2)


@case(context=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
@torch.autocast("cpu", enabled=False)
def decorated_with_autocast(m, x):
    return F.max_pool2d(F.relu(m.features[0](x.float())), 2)


# Python that a trace runs once.


@case
def is_tensor(m, x):
    x = x if torch.is_tensor(x) else x[0]
    return F.max_pool2d(m.conv(x), 2)


@case
def type_is(m, x):
    if type(x) is torch.Tensor:
        x = x * 2
    return F.max_pool2d(m.conv(x), 2)


@case
def has_attribute(m, x):
    if hasattr(x, "numpy_"):
        x = x * 3
    return F.max_pool2d(m.conv(x), 2)


@case
def attribute_or_default(m, x):
    return F.max_pool2d(m.conv(x) * getattr(x, "scale", 2), 2)


@case
def attribute_or_relu(m, x):
    y = m.relu(m.conv(x))
    return m.pool(y), getattr(x, "cached", y)


@case
def tries(m, x):
    try:
        n = int(x.shape[0])
    except Exception:
        n = 7
    return F.max_pool2d(m.conv(x) * n, 2)


@case
def matches(m, x):
    match x:
        case torch.Tensor():
            x = x * 2
        case _:
            x = x * 3
    return F.max_pool2d(m.conv(x), 2)


@case
def type_in_a_helper(m, x):
    return F.max_pool2d(m.conv(first(x)), 2)


@case(as_list=True)
def list_in_a_helper(m, x):
    return F.max_pool2d(m.conv(first(x)), 2)


@case(seeds=4)
def numpy_random(m, x):
    x = m.conv(x)
    if np.random.rand() < 0.5:
        x = x * 2
    return F.max_pool2d(x, 2)


@case(later=lambda m: setattr(m, "flag", False))
def flag_in_a_helper(m, x):
    return F.max_pool2d(m.scaled(m.conv(x)), 2)


@case(later=lambda m: setattr(m, "scale", 3.0))
def scale_in_a_helper(m, x):
    return F.max_pool2d(m.scaled(m.conv(x)), 2)


@case(later=lambda m: m.config.update(double=False))
def flag_in_a_dict(m, x):
    return F.max_pool2d(m.conv(x) * 2 if m.config["double"] else x, 2)


@case(later=lambda m: vars(m.pool).update(kernel_size=4, stride=4))
def attributes_of_a_child(m, x):
    return F.max_pool2d(m.conv(x), m.pool.kernel_size, m.pool.stride)


@case(later=lambda m: setattr(m, "flag", False))
def class_attribute(m, x):
    return F.max_pool2d(m.conv(x), 2) * (2 if m.flag else 1)


@case(later=lambda m: SWITCHED_ON.update(on=False))
def global_flag(m, x):
    return F.max_pool2d(m.conv(x), 2) * (2 if SWITCHED_ON["on"] else 1)


@case(later=lambda m: m.many.append(nn.Tanh()))
def list_that_grows(m, x):
    for layer in m.many:
        x = layer(x)
    return F.max_pool2d(x, 2)


@case(later=lambda m: m.double())
def dtype_of_parameters(m, x):
    return F.max_pool2d(m.conv(x.to(next(m.parameters()).dtype)), 2)


@case(later=lambda m: m.double())
def dtype_of_a_property(m, x):
    return F.max_pool2d(m.conv(x.to(m.dtype)), 2)


@case
def counts(m, x):
    m.count += 1
    return F.max_pool2d(m.conv(x) * m.count, 2)


@case
def counts_elsewhere(m, x):
    m.state.count += 1
    return F.max_pool2d(m.conv(x) * m.state.count, 2)


@case
def returns_an_ordered_dict(m, x):
    return OrderedDict(out=F.max_pool2d(m.conv(x), 2))


@case
def returns_a_dict_of_its_own(m, x):
    return Outputs(out=F.max_pool2d(m.conv(x), 2))


@case
def returns_a_list_of_its_own(m, x):
    return Listed([F.max_pool2d(m.conv(x), 2)])


@case
def returns_a_named_tuple(m, x):
    return Pair(F.max_pool2d(m.conv(x), 2), math.pi)


@case
def returns_data(m, x):
    return Data(F.max_pool2d(m.conv(x), 2))


# Indices.


@case
def hooked_block(m, x):
    y, i = m.hooked(m.conv(x))
    return y, i.flatten(2)


@case
def hooked_block_returned(m, x):
    return m.hooked(m.conv(x))


@case
def block_of_any_arguments(m, x):
    y, i = m.any(m.conv(x))
    return y, i.flatten(2)


@case
def returned_by_a_block(m, x):
    return m.down(m.conv(x))


@case
def indices_flattened(m, x):
    if x.sum() > 1e9:
        x = x * 2
    y, i = m.indexed(m.conv(x))
    return y, i.flatten(2)


@case
def indices_returned(m, x):
    if x.sum() > 1e9:
        x = x * 2
    return m.indexed(m.conv(x))


@case
def indices_gathered(m, x):
    if x.sum() > 1e9:
        x = x * 2
    z = m.conv(x)
    y, i = m.indexed(z)
    return y, z.flatten(2).gather(2, i.flatten(2))


@case
def indices_unpooled_and_more(m, x):
    if x.sum() > 1e9:
        x = x * 2
    y, i = m.indexed(m.conv(x))
    j = i
    return m.unpool(y, i), j % 3


@case
def indices_in_the_other_branch(m, x):
    y, i = m.indexed(m.conv(x))
    return m.unpool(y, i) if m.flag else (y, i)


@case(later=lambda m: setattr(m, "flag", False))
def indices_in_the_later_branch(m, x):
    y, i = m.indexed(m.conv(x))
    return m.unpool(y, i) if m.flag else (y, i)


@case
def indices_changed(m, x):
    if x.sum() > 1e9:
        x = x * 2
    y, i = m.indexed(m.conv(x))
    i = i + 0
    return m.unpool(y, i)


@case
def indices_of_two_calls(m, x):
    if x.sum() > 1e9:
        x = x * 2
    y, i = m.indexed(m.conv(x))
    z, *rest = m.indexed(y)
    return m.unpool(y, i), z, rest


@case
def calls_under_a_branch(m, x):
    if x.sum() > 1e9:
        x = x * 2
    y, i = F.max_pool2d(m.conv(x), 2, return_indices=True)
    return F.max_unpool2d(y, i, 2), i + 1


@case(later=lambda m: setattr(m, "scale", 3))
def windows_that_change(m, x):
    y, i = F.max_pool2d(m.conv(x), (int(m.scale), 2), 2, return_indices=True)
    return F.max_unpool2d(y, i, (int(m.scale), 2), 2, output_size=x.shape[2:])


@case
def overlapping_windows(m, x):
    if x.sum() > 1e9:
        x = x * 2
    y, i = m.overlapping(m.conv(x))
    return m.unpool(y, i, output_size=x.shape)


# In place.


@case
def out_of_an_addition(m, x):
    a = m.conv(x).detach()
    return m.pool(F.relu_(torch.add(a, 1, out=a))), a


@case
def out_of_a_concatenation(m, x):
    a, b = m.conv(x).detach(), m.conv(x).detach()
    return m.pool(F.relu_(torch.cat((a,), out=b))), b


@case
def data_set_between(m, x):
    y = m.conv(x)
    z = F.relu(y)
    y.data = y.data * 2
    return m.pool(z) + y.mean()


# --- The test ---------------------------------------------------------------------------------------------------------


def build(forward):
    torch.manual_seed(0)
    return type(f"Net_{forward.__name__}", (Parts,), {"forward": forward})()


def tensors(value):
    if isinstance(value, Data):
        value = [value.a]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in tensors(v)] if isinstance(value, (tuple, list)) else [value]


def run(model, x, how):
    for generator in (torch.manual_seed, np.random.seed, random.seed):
        generator(how.get("seed", 0))
    leaf = x.clone().requires_grad_()
    with how.get("context", torch.enable_grad)():
        out = model([leaf * 1] if how.get("as_list") else leaf * 1, **how.get("kwargs", {}))
    found = tensors(out)
    for t in found:
        assert not isinstance(t, segext.Switches)
    wanted = [(t.float() ** 2).sum() for t in found if isinstance(t, torch.Tensor) and t.requires_grad]
    if wanted:
        sum(wanted).backward()
    kinds = [(type(t), getattr(t, "dtype", None), getattr(t, "requires_grad", None)) for t in found]
    return type(out), kinds, found, leaf.grad, [p.grad for p in model.parameters()]


def assert_equal_models(model, converted, how):
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    for seed in range(how.get("seeds", 1)):
        for training in (True, False):
            for net in (model, converted):
                net.train(training).zero_grad()
            expected, got = (run(net, x, {**how, "seed": seed}) for net in (model, converted))
            assert got[:2] == expected[:2]
            torch.testing.assert_close(got[2:], expected[2:], rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_models_that_a_trace_would_misrepresent(name):
    forward, how = CASES[name]
    model = build(forward)
    with how.get("convert_in", torch.enable_grad)():
        converted, report = segext.convert(model)
    assert type(converted).__name__ == type(model).__name__
    text = inspect.getsource(forward)
    if "F.max_pool2d(" in text and "return_indices" not in text and not hasattr(forward, "__wrapped__"):
        assert any(change.name.startswith("forward:") for change in (*report.swapped, *report.fused))
    assert_equal_models(model, converted, how)
    if "later" in how:
        try:
            how["later"](model), how["later"](converted)
            assert_equal_models(model, converted, how)
        finally:
            SWITCHED_ON["on"] = True


class Unread(nn.Module):
    """Calls, loops over or slices another model, where no trace can tell."""

    def __init__(self, inner, body):
        super().__init__()
        self.inner, self.body = inner, body

    def forward(self, x):
        if x.sum() > 1e9:
            x = x * 2
        return self.body(self.inner, x)


@pytest.mark.parametrize(
    "body",
    [
        lambda m, x: m(x),
        lambda m, x: m.features[:2](x),
        lambda m, x: [layer(x) for layer in m.features[:1]],
        lambda m, x: list(m.modules())[2](x),
    ],
)
def test_parents_that_cannot_be_read(body):
    model = Unread(Encoder(), body)
    converted, _ = segext.convert(model)
    assert_equal_models(model, converted, {})


class Calling(nn.Module):
    """Branches, but does nothing with its children except call them."""

    def __init__(self, shared=None):
        super().__init__()
        self.features, self.pool = features(), nn.MaxPool2d(2)
        self.shared = nn.ModuleList(self.features[:2]) if shared else nn.Identity()

    def forward(self, x):
        if x.sum() > 1e9:
            x = x * 2
        return self.pool(self.features(x)), self.shared(x)


class Sharing(Calling):
    def forward(self, x):
        if x.sum() > 1e9:
            x = x * 2
        y = x
        for layer in self.shared:
            y = layer(y)
        return self.pool(self.features(x)), y


class CallingByHelper(Calling):
    def forward(self, x):
        return self.features(x) if x.sum() > 1e9 else self.helper(x)

    def helper(self, x):
        y = self.features[:2](x)
        return y, self.features(x)


@pytest.mark.parametrize(("kind", "shared", "fused"), [(Calling, 0, 2), (Sharing, 1, 1), (CallingByHelper, 0, 0)])
def test_fuses_below_branches_that_only_call(kind, shared, fused):
    model = kind(shared)
    converted, report = segext.convert(model)
    assert len(report.fused) == fused
    assert_equal_models(model, converted, {})


class Peer(nn.Module):
    """Reaches into a model that it does not own."""

    def __init__(self, encoder):
        super().__init__()
        self.state = State()
        self.state.encoder = encoder

    def forward(self, x):
        if x.sum() > 1e9:
            x = x * 2
        return self.state.encoder.features[:2](x)


class WithPeer(Encoder):
    def __init__(self):
        super().__init__()
        self.peer = Peer(Encoder())
        self.encoder = self.peer.state.encoder

    def forward(self, x):
        return self.features(x), self.encoder(x), self.peer(x)


def test_modules_hidden_in_objects():
    model = WithPeer()
    converted, _ = segext.convert(model)
    assert_equal_models(model, converted, {})


class Asserting(nn.Module):
    """Branches, and hands indices to unpoolings only."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2, return_indices=True)
        self.unpool, self.by_keyword = nn.MaxUnpool2d(2), nn.MaxUnpool2d(2)

    def forward(self, x):
        if x.sum() > 1e9:
            x = x * 2
        x, first = self.pool(self.conv(x))
        size = x.shape
        x, second = self.pool(x)
        return self.unpool(self.by_keyword(x, indices=second, output_size=size), first)


class ByMode(Asserting):
    def forward(self, x):
        x, indices = self.pool(self.conv(x))
        return self.unpool(x, indices) if self.training else self.by_keyword(x, indices) * 2


class Differing(ByMode):
    def __init__(self):
        super().__init__()
        self.by_keyword = nn.MaxUnpool2d(3, 2)


@pytest.mark.parametrize("kind", [Asserting, ByMode])
def test_indices_that_branches_only_unpool_become_switches(kind):
    model = kind()
    converted, report = segext.convert(model)
    assert {change.name for change in report.swapped} == {"pool", "unpool", "by_keyword"}
    assert_equal_models(model, converted, {})


def test_indices_for_other_windows_on_some_branch_stay():
    model = Differing()
    converted, report = segext.convert(model)
    assert not report.swapped
    assert_equal_models(model, converted, {})


@pytest.mark.parametrize("wrap", [nn.DataParallel, nn.Sequential])
def test_wrapped_models_return_what_they_returned(wrap):
    model = wrap(build(returned_by_a_block))
    converted, _ = segext.convert(model)
    assert_equal_models(model, converted, {})


def test_the_device_is_read_on_every_call():
    def device_of_parameters(m, x):
        return F.max_pool2d(m.conv(x.to(next(m.parameters()).device)), 2)

    model = build(device_of_parameters)
    converted, report = segext.convert(model)
    assert any(change.name.startswith("forward") for change in report.swapped)
    assert converted.to("meta")(torch.zeros(2, 3, 16, 16)).device.type == "meta"


class Base(Parts):
    def forward(self, x):
        return F.max_pool2d(self.features(x), 2)


class Derived(Base):
    factor = 2

    def __private(self, x):
        return F.max_pool2d(x, 1)

    def forward(self, x):
        return F.max_pool2d(super().forward(self.__private(x)) * self.factor, 2)


def test_methods_of_base_classes_and_private_names():
    model = Derived()
    converted, report = segext.convert(model)
    assert any("__private" in change.name for change in report.swapped)
    for net in (converted, copy.deepcopy(converted)):
        assert_equal_models(model, net, {})
    model.factor = converted.factor = 3
    assert_equal_models(model, converted, {})


def test_tracebacks_show_the_users_lines():
    def fails(m, x):
        y = F.max_pool2d(x, 2)
        return y + torch.zeros(5)  # this line

    converted, report = segext.convert(build(fails))
    assert any(change.name.startswith("forward") for change in report.swapped)
    with pytest.raises(RuntimeError) as error:
        converted(torch.zeros(2, 3, 16, 16))
    frame = error.traceback[-1]
    assert frame.path.name == "test_convert_exactness.py"
    assert "this line" in str(frame.statement)
