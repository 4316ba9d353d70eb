"""``segext.convert``: the converted model returns what the model returned, and the report says what was done."""

import contextlib
import copy
import cProfile
import gc
import io
import pickle
import pstats
import sys
import weakref
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import segext
from segext.convert import swaps
from segext.memory import Memory

pytestmark = pytest.mark.usefixtures("one_thread")

# --- Networks written the usual ways ----------------------------------------------------------------------------------


def conv_bn(cin, cout, inplace=False):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(inplace))


class VGG(nn.Module):
    """Conv-ReLU-pool in one Sequential."""

    def __init__(self, inplace=True):
        super().__init__()
        layers = []
        for cin, cout in ((3, 8), (8, 12), (12, 16)):
            layers += [nn.Conv2d(cin, cout, 3, padding=1), nn.ReLU(inplace), nn.MaxPool2d(2, 2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(16, 5)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class SegNet(nn.Module):
    """Blocks as layers, one pool and one unpool shared by all stages, sizes passed."""

    def __init__(self, inplace=True):
        super().__init__()
        self.enc1, self.enc2 = conv_bn(3, 8, inplace), conv_bn(8, 12, inplace)
        self.dec2, self.dec1 = conv_bn(12, 8, inplace), nn.Conv2d(8, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2, 2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2, 2)

    def forward(self, x):
        size1 = x.size()
        x, idx1 = self.pool(self.enc1(x))
        size2 = x.size()
        x, idx2 = self.pool(self.enc2(x))
        x = self.dec2(self.unpool(x, idx2, output_size=size2))
        return self.dec1(self.unpool(x, idx1, output_size=size1))


class SegNetWithoutSizes(SegNet):
    def forward(self, x):
        x, idx1 = self.pool(self.enc1(x))
        x, idx2 = self.pool(self.enc2(x))
        return self.dec1(self.unpool(self.dec2(self.unpool(x, idx2)), idx1))


class FunctionalSegNet(nn.Module):
    """Everything but the weights is a call; dropout reads the mode."""

    def __init__(self, p=0.0):
        super().__init__()
        self.p = p
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.deconv = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.spare = nn.Parameter(torch.zeros(3))  # never used: a state dict keeps it all the same

    def describe(self):
        return f"{type(self).__name__} with p={self.p}"

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        a, i1 = F.max_pool2d(x, 2, stride=2, return_indices=True)
        a = F.dropout(a, self.p, training=self.training)
        b, i2 = F.max_pool2d_with_indices(torch.relu(self.conv2(a)), kernel_size=(2, 2))
        b = F.max_unpool2d(b, i2, 2, output_size=a.shape[-2:])
        b = F.max_unpool2d(b.relu_(), i1, (2, 2), stride=2, output_size=x.size())
        return torch.max_pool2d(self.deconv(b).relu(), 3, 2, 1)


class Down(nn.Module):
    """ENet's downsampling bottleneck: hands its indices to the caller."""

    def __init__(self, cin, cout):
        super().__init__()
        self.main_max1 = nn.MaxPool2d(2, stride=2, return_indices=True)
        self.ext = nn.Sequential(nn.Conv2d(cin, cout, 2, stride=2, bias=False), nn.BatchNorm2d(cout), nn.PReLU())
        self.out_activation = nn.PReLU()

    def forward(self, x):
        main, max_indices = self.main_max1(x)
        ext = self.ext(x)
        n, channels, h, w = ext.size()
        padding = ext.new_zeros(n, channels - main.size(1), h, w)
        return self.out_activation(torch.cat((main, padding), 1) + ext), max_indices


class DownByDevice(Down):
    """The same with the branch of the published code, which no trace can take."""

    def forward(self, x):
        if x.is_cuda:
            return super().forward(x)
        main, max_indices = self.main_max1(x)
        ext = self.ext(x)
        n, channels, h, w = ext.size()
        padding = ext.new_zeros(n, channels - main.size(1), h, w)
        return self.out_activation(torch.cat((main, padding), 1) + ext), max_indices


class Up(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.main_conv1 = nn.Conv2d(cin, cout, 1, bias=False)
        self.main_unpool1 = nn.MaxUnpool2d(kernel_size=2)
        self.ext = nn.ConvTranspose2d(cin, cout, 2, stride=2)

    def forward(self, x, max_indices, output_size):
        main = self.main_unpool1(self.main_conv1(x), max_indices, output_size=output_size)
        return F.relu(main + self.ext(x, output_size=output_size))


class ENet(nn.Module):
    def __init__(self, down=Down):
        super().__init__()
        self.initial_conv, self.initial_pool = nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.MaxPool2d(3, 2, padding=1)
        self.down1, self.down2 = down(8, 12), down(12, 16)
        self.up4, self.up5 = Up(16, 12), Up(12, 8)

    def forward(self, x):
        x = torch.cat((self.initial_conv(x), self.initial_pool(x)), 1)
        size1 = x.size()
        x, max_indices1 = self.down1(x)
        size2 = x.size()
        x, max_indices2 = self.down2(x)
        x = self.up4(x, max_indices2, output_size=size2)
        return self.up5(x, max_indices1, output_size=size1)


class UNet(nn.Module):
    """ReLU outputs are skips as well: nothing to fuse."""

    def __init__(self):
        super().__init__()
        self.enc = nn.ModuleList([conv_bn(3, 4, True), conv_bn(4, 8, True)])
        self.pools = nn.ModuleDict({"a": nn.MaxPool2d(2), "b": nn.MaxPool2d(2)})
        self.mid = conv_bn(8, 8, True)
        self.ups = nn.ModuleList([nn.ConvTranspose2d(8, 8, 2, 2), nn.ConvTranspose2d(16, 4, 2, 2)])

    def forward(self, x):
        skips = []
        for block, name in zip(self.enc, "ab", strict=True):
            x = block(x)
            skips.append(x)
            x = self.pools[name](x)
        x = self.mid(x)
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = torch.cat((up(x), skip), 1)
        return x


class ByType(nn.Module):
    """Runs a VGG-like list of layers by their types, as many deconvolution networks do."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, return_indices=True))
        self.unpool = nn.MaxUnpool2d(2)

    def forward(self, x):
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                x, indices = layer(x)
            elif isinstance(layer, nn.ReLU):
                x = layer(x) * 2 - x
            else:
                x = layer(x)
        return self.unpool(x, indices)


class DataDependent(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x):
        x = self.features(x)
        if x.sum() > 1e9:
            x = x / 2
        x, indices = self.pool(x)
        return F.max_pool2d(self.unpool(x, indices), 2)


NETWORKS = {
    "vgg": lambda: VGG(inplace=False),
    "vgg-inplace": VGG,
    "segnet": SegNet,
    "segnet-no-size": lambda: SegNetWithoutSizes(inplace=False),
    "functional": FunctionalSegNet,
    "enet": ENet,
    "enet-by-device": lambda: ENet(DownByDevice),
    "unet": UNet,
    "by-type": ByType,
    "data-dependent": DataDependent,
}


# --- Helpers ----------------------------------------------------------------------------------------------------------


def image(*size, dtype=torch.float32, memory_format=torch.contiguous_format):
    x = torch.randn(*(size or (2, 3, 16, 24)), generator=torch.Generator().manual_seed(1))
    return x.to(dtype, memory_format=memory_format if x.dim() == 4 else torch.contiguous_format)


def flatten(value):
    return [t for v in value for t in flatten(v)] if isinstance(value, tuple | list) else [value]


def assert_same(model, converted, x, grad=True):
    """Outputs, gradients of input and parameters, state dict: bit for bit where no convolution changed."""
    assert list(model.state_dict()) == list(converted.state_dict())
    assert list(dict(model.named_modules())) == list(dict(converted.named_modules()))
    results = []
    for net in (model, converted):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_(grad)
        net.zero_grad(set_to_none=True)
        torch.manual_seed(0)
        out = flatten(net(leaf * 1))
        if grad:
            sum((o.float() ** 2).sum() for o in out if o.is_floating_point()).backward()
        results.append((out, leaf.grad, {n: p.grad for n, p in net.named_parameters()}, net.state_dict()))
    changed = any(isinstance(m, (swaps.UnpoolingConv2d, segext.nn.ConvTranspose2d)) for m in converted.modules())
    torch.testing.assert_close(*results, **({"rtol": 1e-3, "atol": 1e-3} if changed else {"rtol": 0, "atol": 0}))


def described(report, action):
    return {(c.name, c.before, c.after) for c in report.changes if c.action == action}


def reason(report, name, start=""):
    return next(c.reason for c in report.left if c.name == name and c.reason.startswith(start))


def types(model):
    return [type(m) for m in model.modules()]


# --- Whole networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_gradients_and_state_are_the_same(name, training):
    model = NETWORKS[name]().train(training)
    before, kinds = copy.deepcopy(model), types(model)
    converted, report = segext.convert(model)
    assert types(model) == kinds, "the model itself must stay"
    assert report.changes
    assert isinstance(converted, type(model))
    assert [m.training for m in converted.modules()] == [training] * len(types(model))
    for mode in (training, not training):
        assert_same(before.train(mode), converted.train(mode), image())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["segnet", "functional", "vgg-inplace"])
def test_types_and_formats(name, dtype, memory_format):
    model = NETWORKS[name]().to(dtype).to(memory_format=memory_format).eval()
    converted, _ = segext.convert(model)
    assert_same(model, converted, image(dtype=dtype, memory_format=memory_format), grad=False)


@pytest.mark.parametrize("name", NETWORKS)
def test_converting_twice_changes_nothing(name):
    once, _ = segext.convert(NETWORKS[name]())
    twice, report = segext.convert(once)
    assert not report.swapped
    assert not report.fused
    assert [t.__name__ for t in types(once)] == [t.__name__ for t in types(twice)]
    assert_same(once, twice, image())


class OtherNames(nn.Module):
    """One function has two names."""

    def encode(self, x):
        return F.max_pool2d(F.relu(x - 1), 2)

    forward = encode


def test_a_method_with_two_names_is_rewritten_under_both():
    model = OtherNames()
    converted, report = segext.convert(model)
    assert len(report.fused) == 1
    assert type(converted).encode is type(converted).forward
    assert_same(model, pickle.loads(pickle.dumps(converted)), image())


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_and_pickles(name):
    model = NETWORKS[name]().eval()
    converted, _ = segext.convert(model)
    assert_same(model, copy.deepcopy(converted), image())
    assert_same(model, pickle.loads(pickle.dumps(converted)), image())
    file = io.BytesIO()
    torch.save(converted, file)
    file.seek(0)
    assert_same(model, torch.load(file, weights_only=False), image())


def test_classes_made_in_functions_are_freed():
    """With all that their methods hold; until then two models of one class become one class, as do their copies."""

    def make():
        offset = torch.ones(1)

        class Net(nn.Module):
            def forward(self, x):
                return F.max_pool2d(x + offset, 2)

            def unchanged(self, x):
                return x * offset

        (model, _), (other, _) = segext.convert(Net()), segext.convert(Net())
        assert type(model) is not Net
        assert type(model) is type(other) is type(copy.deepcopy(model))
        assert torch.equal(model(image()), Net()(image()))
        return [weakref.ref(held) for held in (Net, type(model), Net.forward, Net.unchanged, offset)]

    held = make()
    gc.collect()
    assert [ref() for ref in held] == [None] * len(held)


@pytest.mark.parametrize("name", ["segnet", "functional", "vgg-inplace", "enet"])
def test_compiles_as_one_graph(name):
    torch._dynamo.reset()
    model = NETWORKS[name]().eval()
    converted, _ = segext.convert(model)
    compiled = torch.compile(converted, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image()), model(image()))


# --- What is swapped --------------------------------------------------------------------------------------------------


def test_the_model_may_be_one_layer():
    pool, report = segext.convert(nn.MaxPool2d(2))
    assert type(pool) is segext.nn.MaxPool2d
    assert [c.name for c in report.changes] == ["(model)"]


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)])
def test_a_layer_whose_indices_are_the_callers_is_left(layer):
    converted, report = segext.convert(layer)
    assert type(converted) is type(layer)
    assert [c.name for c in report.left] == ["(model)"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 0), "ceil_mode": True},
        {"kernel_size": 2, "dilation": 2, "stride": 1},
        {"kernel_size": 3, "ceil_mode": True},
    ],
)
@pytest.mark.parametrize("relu", [nn.ReLU(), nn.ReLU(True), nn.PReLU()])
def test_windows(arguments, relu):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.MaxPool2d(**arguments))
    converted, _ = segext.convert(model)
    assert type(converted[2]).__name__ == ("MaxPool2d" if isinstance(relu, nn.PReLU) else "ReLUMaxPool2d")
    assert all(getattr(converted[2], name) == value for name, value in arguments.items())
    assert_same(model, converted, image(2, 3, 17, 22))
    assert_same(model, converted, image(3, 17, 22))


def unpools(m, x):
    y, i = m.indexed(m.conv(x))
    return m.unpool(y, i)


def unpools_to_a_size(m, x):
    y, i = m.indexed(m.conv(x))
    return m.unpool(y, i, output_size=(16, 16))


def unpools_by_calls(m, x):
    y, i = F.max_pool2d(m.conv(x), 2, return_indices=True)
    z = F.max_unpool2d(y, i, 2)
    return torch.cat((z, x[:, :, : z.shape[2]]), 1)


@pytest.mark.parametrize("size", [(16, 16), (17, 16)])
@pytest.mark.parametrize("body", [unpools, unpools_to_a_size, unpools_by_calls])
def test_unpooling_keeps_the_size_that_stock_gives(body, size):
    model = network(body)
    converted, report = segext.convert(model)
    assert len(report.swapped) == 3
    assert_same(model, converted, image(1, 3, *size))


def test_sizes_that_stock_refuses_are_refused():
    converted, _ = segext.convert(network(unpools))
    with pytest.raises(RuntimeError, match="invalid max index"):
        converted(image(1, 3, 16, 17))


def test_nested_containers_report_paths():
    model = nn.Sequential(OrderedDict(a=nn.ModuleDict({"b": nn.ModuleList([nn.MaxPool2d(2)])})))
    converted, report = segext.convert(model)
    assert type(converted.a["b"][0]) is segext.nn.MaxPool2d
    assert described(report, "swapped") == {("a.b.0", "nn.MaxPool2d", "segext.nn.MaxPool2d")}


def test_inplace_changes_the_model_itself():
    model = SegNet()
    parameters = list(model.parameters())
    converted, _ = segext.convert(model, inplace=True)
    assert converted is model
    assert all(a is b for a, b in zip(parameters, converted.parameters(), strict=True))
    functional = FunctionalSegNet()
    expected = copy.deepcopy(functional)
    assert segext.convert(functional, inplace=True)[0] is functional
    assert_same(expected, functional, image())


def test_shared_layers_stay_shared():
    pool = nn.MaxPool2d(2)
    model = nn.ModuleDict({"a": nn.Sequential(nn.Conv2d(3, 3, 1), pool), "b": nn.Sequential(pool), "c": pool})
    converted, report = segext.convert(model)
    assert converted["a"][1] is converted["b"][0] is converted["c"]
    assert type(converted["c"]) is segext.nn.MaxPool2d
    assert len(report.swapped) == 1


class KeepsAList(nn.Module):
    """A plain list holds the layer too, and attributes are guarded."""

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.layers = [self.pool]
        self.frozen = True

    def __setattr__(self, name, value):
        if getattr(self, "frozen", False):
            raise AttributeError(f"{name} is frozen")
        super().__setattr__(name, value)

    def forward(self, x):
        return F.max_pool2d(self.layers[0](x), 2)


def test_every_reference_sees_the_swap():
    converted, _ = segext.convert(KeepsAList(), inplace=True)
    assert converted.layers[0] is converted.pool
    assert type(converted.pool) is segext.nn.MaxPool2d
    assert type(converted) is not KeepsAList


def test_hooks_and_attributes_survive():
    model = VGG()
    seen = []
    model.features[5].register_forward_hook(lambda m, args, out: seen.append(out.shape))
    model.features[5].note = "mine"
    converted, _ = segext.convert(model, inplace=True)
    converted(image())
    assert seen == [(2, 12, 4, 6)]
    assert converted.features[5].note == "mine"


def test_parametrizations_survive():
    model = VGG()
    nn.utils.parametrizations.weight_norm(model.features[0])
    converted, report = segext.convert(model)
    assert len(report.fused) == 3
    assert_same(model, converted, image())


def test_rewritten_modules_keep_their_class_and_methods():
    model = FunctionalSegNet()
    handle = model.register_forward_hook(lambda m, args, out: out + 1)
    converted, _ = segext.convert(model)
    assert isinstance(converted, FunctionalSegNet)
    assert converted.describe() == "FunctionalSegNet with p=0.0"
    assert_same(model, converted, image())
    handle.remove()


def test_the_mode_still_reaches_functional_dropout():
    converted, _ = segext.convert(FunctionalSegNet(p=0.9))
    x = image()
    assert torch.equal(converted.eval()(x), converted(x))
    converted.train()
    assert not torch.equal(converted(x), converted(x))


def test_graph_modules():
    model = FunctionalSegNet().eval()
    traced = torch.fx.symbolic_trace(model)
    converted, report = segext.convert(traced)
    assert isinstance(converted, torch.fx.GraphModule)
    assert len(report.fused) == 4
    for net in (converted, copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        torch.testing.assert_close(net(image()), model(image()))


# --- What is fused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [True, False])
def test_fuses_in_sequential(inplace):
    converted, report = segext.convert(VGG(inplace))
    assert types(converted.features)[1:4] == [nn.Conv2d, nn.Identity, segext.nn.ReLUMaxPool2d]
    pairs = {
        (f"features.{i} + features.{i + 1}", "nn.ReLU + nn.MaxPool2d", "segext.nn.ReLUMaxPool2d") for i in (1, 4, 7)
    }
    assert described(report, "fused") == pairs
    assert not report.swapped
    assert not report.left


def test_fuses_across_blocks_into_a_shared_pool():
    converted, report = segext.convert(SegNet())
    assert type(converted.pool) is segext.nn.ReLUMaxPool2d
    assert type(converted.enc1[2]) is type(converted.enc2[2]) is nn.Identity
    assert type(converted.dec2[2]) is nn.ReLU
    assert {c.name for c in report.fused} == {"enc1.2 + pool", "enc2.2 + pool", "unpool + dec2.0", "unpool + dec1"}
    assert not report.swapped


def test_fuses_and_replaces_calls():
    _, report = segext.convert(FunctionalSegNet())
    assert {c.before for c in report.fused} == {
        "F.relu + F.max_pool2d",
        "torch.relu + F.max_pool2d",
        "Tensor.relu + torch.max_pool2d",
        "F.max_unpool2d + nn.Conv2d",
    }
    # What is unpooled first goes to a ReLU.
    assert {c.before for c in report.swapped} == {"F.max_unpool2d"}


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()
        self.inplace, self.again = nn.ReLU(True), nn.Conv2d(4, 4, 1)
        self.indexed, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)


def network(forward, base=Parts, **attributes):
    """A module of ``base`` with a function as its forward, of a class that pickles."""
    name = f"Net_{forward.__name__}"
    members = {"forward": forward, "__module__": __name__, "__qualname__": name}
    kind = globals().setdefault(name, type(name, (base,), members))
    model = kind()
    for attribute, value in attributes.items():
        setattr(model, attribute, value)
    return model


def test_the_output_of_a_fused_pool_must_not_change_in_place():
    """Not before the backward pass, and nobody gets a wrong gradient."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    converted, _ = segext.convert(model)
    model(image()).mul_(2).sum().backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        converted(image()).mul_(2).sum().backward()


def skip(m, x):
    x = m.relu(m.conv(x))
    return m.pool(x), x


def skip_before(m, x):
    x = m.conv(x)
    return m.pool(m.relu(x)), x


def skip_before_inplace(m, x):
    x = m.conv(x)
    return m.pool(m.inplace(x)), x


def changed_between(m, x):
    x = m.conv(x)
    y = m.relu(x)
    x += 1
    return m.pool(y) + x.mean()


def alias_changed_between(m, x):
    x = m.conv(x)
    z = x
    y = m.relu(x)
    z += 1
    return m.pool(y) + x.mean()


def changed_afterwards(m, x):
    x = m.pool(m.relu(m.conv(x)))
    return m.inplace(x[:, 1:])


def layer_called_twice(m, x):
    return m.pool(m.again(m.relu(m.conv(x)))) + m.pool(m.relu(m.conv(x)))


def own_relus(m, x):
    return m.pool(F.relu(m.again(m.pool(torch.relu_(m.conv(x))))))


def input_inplace(m, x):
    return m.pool(F.relu_(x)), x


def view_inplace(m, x):
    y = m.conv(x)
    z = y.flatten(2).unflatten(2, (16, 24))
    return m.pool(z.relu_())


def method(m, x):
    return F.max_pool2d(m.conv(x).relu(), 2)


def converts(m, x):
    return m.pool(m.relu(m.conv(x.type(x.dtype))))


def keyword(m, x):
    return F.max_pool2d(input=F.relu(input=m.conv(x)), kernel_size=2, ceil_mode=True)


def computed_window(m, x):
    x = m.conv(x)
    return F.max_pool2d(F.relu(x), kernel_size=x.shape[2:])


@pytest.mark.parametrize(
    ("body", "fused"),
    [
        (skip, 0),
        (skip_before, 1),
        (skip_before_inplace, 0),
        (changed_between, 0),
        (alias_changed_between, 0),
        (changed_afterwards, 0),
        (layer_called_twice, 0),
        (own_relus, 2),
        (input_inplace, 0),
        (view_inplace, 0),
        (method, 1),
        (keyword, 1),
        (converts, 1),
        (computed_window, 1),
    ],
)
def test_fuses_only_where_exact(body, fused):
    model = network(body)
    converted, report = segext.convert(model)
    assert len(report.fused) == fused, report
    x = image()
    assert_same(model, converted, x)
    assert_same(model, pickle.loads(pickle.dumps(converted)), x)


def test_says_why_a_relu_stays():
    _, report = segext.convert(UNet())
    assert reason(report, "enc.0.2") == "not fused: its output has other uses"
    assert {c.name for c in report.swapped} == {"pools.a", "pools.b", "ups.0", "ups.1"}


@pytest.mark.parametrize(
    "register", ["register_forward_hook", "register_full_backward_hook", "register_forward_pre_hook"]
)
@pytest.mark.parametrize("layer", [1, 2])
def test_hooks_prevent_fusion(register, layer):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    seen = []
    getattr(model[layer], register)(lambda *args: seen.append(args[-1]))
    converted, report = segext.convert(model)
    assert not report.fused
    assert reason(report, "1") == f"not fused: {layer} has hooks"
    converted(image()).sum().backward()
    assert len(seen) == 1


def test_a_hook_on_a_block_sees_what_it_saw():
    model = SegNet()
    seen = []
    model.enc1.register_forward_hook(lambda m, args, out: seen.append(out.detach().clone()))
    converted, report = segext.convert(model)
    assert not [c for c in report.fused if "Pool2d" in c.after]  # the shared pool can be one thing only
    assert type(converted.pool) is segext.nn.MaxPool2d
    converted(image())
    assert seen[0].min() == 0


class Decoder(nn.Module):
    """Pool, something on the pooled map, unpool, and a convolution that alone reads the unpooled map."""

    def __init__(self, convolution=None):
        super().__init__()
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.mix, self.convolution = nn.Conv2d(3, 3, 1), convolution or nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        pooled, indices = self.pool(x)
        return self.convolution(self.unpool(self.mix(pooled), indices))


class DecoderToASize(Decoder):
    def forward(self, x):
        pooled, indices = self.pool(x)
        return self.convolution(self.unpool(self.mix(pooled), indices, output_size=x.shape[-2:]))


class ConvolutionRunsElsewhereToo(Decoder):
    def forward(self, x):
        return super().forward(x) + self.convolution(x)


class UnpooledTwiceRead(Decoder):
    def forward(self, x):
        pooled, indices = self.pool(x)
        unpooled = self.unpool(self.mix(pooled), indices)
        return self.convolution(unpooled) + unpooled.sum()


class UnpooledShapeRead(Decoder):
    def forward(self, x):
        pooled, indices = self.pool(x)
        unpooled = self.unpool(self.mix(pooled), indices)
        return self.convolution(unpooled) * unpooled.shape[-1]


class UnpooledReturned(Decoder):
    def forward(self, x):
        pooled, indices = self.pool(x)
        unpooled = self.unpool(self.mix(pooled), indices)
        return self.convolution(unpooled), unpooled


class PooledChangesBefore(Decoder):
    def forward(self, x):
        pooled, indices = self.pool(x)
        pooled = self.mix(pooled)
        unpooled = self.unpool(pooled, indices)
        pooled.mul_(2)
        return self.convolution(unpooled)


class PooledChangesLater(Decoder):
    def forward(self, x):
        pooled, indices = self.pool(x)
        pooled = self.mix(pooled)
        result = self.convolution(self.unpool(pooled, indices))
        pooled.mul_(2)
        return result


class PooledBaseChangesLater(Decoder):
    def forward(self, x):
        pooled, indices = self.pool(x)
        pooled = self.mix(pooled)
        result = self.convolution(self.unpool(pooled.view_as(pooled), indices))
        pooled.mul_(2)
        return result


class PooledChangesByAnOp(Decoder):
    def forward(self, x):
        pooled, indices = self.pool(x)
        pooled = self.mix(pooled)
        unpooled = self.unpool(pooled, indices)
        torch.ops.aten.mul_.Scalar(pooled, 0.0)
        return self.convolution(unpooled)


@pytest.mark.parametrize(
    ("kind", "fuses"),
    [
        (Decoder, True),
        (DecoderToASize, True),
        (ConvolutionRunsElsewhereToo, True),
        (UnpooledTwiceRead, False),
        (UnpooledShapeRead, False),
        (UnpooledReturned, False),
        (PooledChangesBefore, False),
        (PooledChangesLater, False),
        (PooledBaseChangesLater, False),
        (PooledChangesByAnOp, False),
    ],
)
def test_unpooling_is_left_to_the_convolution_that_reads_it(kind, fuses):
    model = kind()
    converted, report = segext.convert(model)
    assert bool(report.fused) == fuses
    again, _ = segext.convert(converted)
    for net in (converted, copy.deepcopy(converted), pickle.loads(pickle.dumps(converted)), again):
        assert_same(model, net, image())


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 6, 5, 2, groups=3, bias=False),
        nn.ConvTranspose2d(3, 4, 3, padding=1),
        nn.ConvTranspose2d(3, 4, 2, 2, output_padding=1, dilation=2),
    ],
    ids=str,
)
def test_any_convolution_takes_over_unpooling(convolution):
    model = Decoder(convolution)
    converted, report = segext.convert(model)
    after = "segext.nn.Unpool" + type(convolution).__name__
    assert described(report, "fused") == {("unpool + convolution", f"nn.MaxUnpool2d + nn.{after[16:]}", after)}
    assert_same(model, converted, image())
    compiled = torch.compile(converted, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image()), model(image()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", ["unpool", "convolution"])
def test_hooks_keep_unpooling_and_convolution_apart(layer):
    model, seen = Decoder(), []
    getattr(model, layer).register_forward_hook(lambda module, args, out: seen.append((args[0].shape, out.shape)))
    converted, report = segext.convert(model)
    assert not report.fused
    model(image())
    converted(image())
    assert seen[0] == seen[1]


def test_a_size_that_only_stock_knows_is_stock_s_to_unpool():
    model = Decoder().eval()
    converted, _ = segext.convert(model)
    torch.testing.assert_close(converted(image(2, 3, 17, 22)), model(image(2, 3, 17, 22)))


# --- What is left -----------------------------------------------------------------------------------------------------


class MyPool(nn.MaxPool2d):
    pass


def test_subclasses_are_left():
    converted, report = segext.convert(nn.Sequential(nn.ReLU(), MyPool(2)))
    assert types(converted)[1:] == [nn.ReLU, MyPool]
    assert described(report, "left") == {("1", "MyPool", "")}
    assert reason(report, "1") == "a subclass may do something else"


class Indices(nn.Module):
    """A pool whose indices meet ``use``."""

    def __init__(self, use, unpool=(2, 2)):
        super().__init__()
        self.conv, self.use = nn.Conv2d(3, 4, 3, padding=1), use
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(*unpool)

    def forward(self, x):
        x, indices = self.pool(self.conv(x))
        return self.use(self, x, indices)


class FunctionalIndices(Indices):
    def forward(self, x):
        x, indices = F.max_pool2d(self.conv(x), 2, return_indices=True)
        return self.use(self, x, indices)


def returned(m, x, i):
    return x, i


def returned_in_a_dict(m, x, i):
    return [{"x": x, "indices": i}["indices"], x]


def arithmetic(m, x, i):
    return m.unpool(x, i + 0)


def converted_to_long(m, x, i):
    return m.unpool(x, i), i.long()


def gathered(m, x, i):
    return x.flatten(2).gather(2, i.flatten(2) % 4)


def indexed(m, x, i):
    return m.unpool(x[:1], i[:1])


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("use", [returned, returned_in_a_dict, arithmetic, converted_to_long, gathered, indexed])
def test_indices_used_elsewhere(use, functional):
    model = (FunctionalIndices if functional else Indices)(use)
    converted, report = segext.convert(model)
    name = "forward:" if functional else "pool"
    expected = "its indices are returned" if use in (returned, returned_in_a_dict) else "its indices are used by"
    assert next(c for c in report.left if name in c.name).reason.startswith(expected)
    assert type(converted.pool) is nn.MaxPool2d
    assert_same(model, converted, image())


def plain(m, x, i):
    return m.unpool(x, i, output_size=(16, 24))


def test_windows_that_differ_are_left():
    model = Indices(plain, unpool=(3, 2, 1))
    converted, report = segext.convert(model)
    assert reason(report, "pool") == "its indices go to an unpooling of other windows"
    assert_same(model, converted, image())


def test_windows_that_overlap_are_left():
    model = Indices(plain, unpool=(3, 2, 1))
    model.pool = nn.MaxPool2d(3, 2, 1, return_indices=True)
    converted, report = segext.convert(model)
    assert reason(report, "pool").startswith("windows overlap")
    assert reason(report, "unpool") == "its indices come from no pool that is swapped"
    assert_same(model, converted, image())


def test_indices_through_blocks():
    _, report = segext.convert(ENet())
    names = {"initial_pool", "down1.main_max1", "down2.main_max1", "up4.main_unpool1", "up5.main_unpool1"}
    assert {c.name for c in report.swapped if "Pool" in c.after or "pool" in c.after} == names
    assert not report.left


def test_untraceable_forwards_still_have_their_layers_swapped():
    _, report = segext.convert(DataDependent())
    assert {c.name.split(":")[0] for c in report.swapped} == {"pool", "unpool", "forward"}
    assert {c.name for c in report.fused} == {"features.1 + features.2"}
    assert "control flow" in reason(report, "(model)")
    _, report = segext.convert(ENet(DownByDevice))
    assert {c.name for c in report.swapped if "Pool" in c.after} == {"initial_pool"}
    assert "torch.fx cannot trace its forward: symbolically traced" in reason(report, "down1.main_max1")
    assert "down1" not in {c.name for c in report.left}, "it has no ReLU"
    model = ENet(DownByDevice)
    model.down1.out_activation = nn.ReLU()
    _, report = segext.convert(model)
    assert "control flow" in reason(report, "down1", "ReLUs that it may call stay: torch.fx cannot trace its forward: ")
    assert "down2" not in {c.name for c in report.left}


class CountsReLUs(ByType):
    """Here the ReLU's output goes to the pool only, but what happens to its input depends on its type."""

    def forward(self, x):
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                x, indices = layer(x)
            else:
                x = layer(x * 2 if isinstance(layer, nn.ReLU) else x)
        return self.unpool(x, indices)


class StrictAboutPools(ByType):
    """A pool of another class would be skipped."""

    def forward(self, x):
        for layer in self.features:
            x = (layer(x)[0] if type(layer) is nn.MaxPool2d else x * 2) if "Pool" in type(layer).__name__ else layer(x)
        return x


@pytest.mark.parametrize("kind", [ByType, CountsReLUs, StrictAboutPools])
def test_layers_whose_type_a_forward_reads_keep_it(kind):
    model = kind()
    converted, report = segext.convert(model)
    assert types(converted) == types(model)
    assert "may call it (its forward branches)" in reason(report, "features.2") or kind is StrictAboutPools
    assert_same(model, converted, image())


class Branching(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.conv, self.pool, self.kind, self.seen = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), kind, []

    def forward(self, x, skip=None, scale=1):
        x = F.relu(self.conv(x))
        if self.kind == "optional argument" and skip is not None:
            x = x + skip
        if self.kind == "context":
            with torch.no_grad():
                y = x * 2
            x = x + y
        if self.kind == "keeps":
            self.seen.append(x)
        if self.kind == "own tensor":
            x = x + torch.arange(24)
        if self.kind == "random" and torch.rand(()) < 0.5:
            x = x + 1
        if self.kind == "mode" and self.training is True:
            x = x + 1
        if self.kind == "type of a tensor" and isinstance(x, torch.Tensor):
            x = x + 1
        return F.max_pool2d(x, 2) * scale + self.pool(x)


@pytest.mark.parametrize(
    "kind", ["optional argument", "context", "keeps", "own tensor", "random", "mode", "type of a tensor"]
)
def test_forwards_that_a_trace_would_misrepresent_run_as_written(kind):
    model = Branching(kind)
    converted, report = segext.convert(model)
    assert {c.name.split(":")[0] for c in report.swapped} == {"pool", "forward"}
    assert not report.fused
    assert reason(report, "(model)").startswith("ReLUs that it may call stay: its forward")
    assert model.seen == converted.seen == []
    assert_same(model, converted, image())


class AddsInPlace(nn.Module):
    def forward(self, x):
        y = F.max_pool2d(x, 2)
        z = y
        z += 1
        return y, z


def test_augmented_assignment_stays_in_place():
    model = AddsInPlace()
    converted, report = segext.convert(model)
    assert len(report.swapped) == 1
    assert_same(model, converted, image())


class ByMode(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)

    def forward(self, x):
        x = self.relu(self.conv(x))
        y = self.pool(x) + F.max_pool2d(x, 2) * 0 if self.training else self.pool(x)
        return y


def test_a_forward_that_differs_by_mode():
    model = ByMode()
    converted, report = segext.convert(model)
    assert not report.fused
    assert {c.name.split(":")[0] for c in report.swapped} == {"pool", "forward"}
    assert any("training" in c.reason for c in report.left)
    for training in (True, False):
        assert_same(model.train(training), converted.train(training), image())


def test_calls_under_checkpointing_stay_there():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))

        def forward(self, x):
            return F.max_pool2d(torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=False), 2)

    model = Net()
    converted, report = segext.convert(model)
    assert len(report.fused) == len(report.swapped) == 1
    assert_same(model, converted, image())


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("compile", [torch.jit.script, lambda block: torch.jit.trace(block, image(2, 4, 16, 24))])
def test_scripts_are_left(compile, inside):
    block = compile(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)))
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), block, nn.ReLU(), nn.MaxPool2d(2)) if inside else block
    converted, report = segext.convert(model)
    assert len(report.fused) == inside
    x = image() if inside else image(2, 4, 16, 24)
    assert torch.equal(converted(x), model(x))


def test_instance_forwards_are_left():
    pool = nn.MaxPool2d(2)
    pool.forward = lambda x: x
    model = nn.Sequential(pool)
    model.forward = pool
    _, report = segext.convert(model, inplace=True)
    assert not report.swapped
    assert reason(report, "0") == "its forward was replaced on the instance"


# --- The call itself --------------------------------------------------------------------------------------------------


def test_report_is_a_table():
    _, report = segext.convert(SegNet())
    lines = str(report).splitlines()
    assert lines[0] == "segext.convert: 0 swapped, 4 fused, 0 left"
    assert " ".join(lines[3].split()) == "fused unpool + dec2.0 nn.MaxUnpool2d + nn.Conv2d -> segext.nn.UnpoolConv2d"
    assert str(segext.convert(nn.Linear(2, 2))[1]) == "segext.convert: 0 swapped, 0 fused, 0 left"


def test_weights_that_kernels_read_are_packed_if_asked():
    model = NETWORKS["segnet"]().eval()
    plain, report = segext.convert(model)
    packed, same = segext.convert(model, prepack=True)
    assert same == report
    layers = [layer for layer in packed.modules() if isinstance(layer, segext.nn.Prepackable)]
    fused = [change for change in report.fused if "Unpool" in change.after]
    assert len(layers) == len(fused) > 0
    assert all("packed_weight" in layer._buffers for layer in layers)
    assert any(layer.packed_weight is not None for layer in layers)
    assert list(packed.state_dict()) == list(model.state_dict())
    x = image()
    torch.testing.assert_close(packed(x), plain(x), rtol=0, atol=0)


def test_an_example_tells_the_bytes_saved():
    """Of convolution, ReLU and pool, stock keeps the rectified map and int64 indices; the pool alone keeps its own
    output and switches."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)).requires_grad_()
    x = image(2, 3, 16, 24)
    rectified, pooled = 2 * 8 * 16 * 24, 2 * 8 * 8 * 12
    for example in (x, (x,)):
        _, report = segext.convert(model, example=example)
        assert report.before == Memory(4 * rectified + 8 * pooled, 8 * pooled)
        assert report.after == Memory(4 * pooled + pooled // 4, pooled // 4)
    assert str(report).splitlines()[-2:] == [
        "  bytes kept for backward: 36,864 -> 6,528",
        "  bytes of switches: 12,288 -> 384",
    ]
    assert segext.convert(model)[1].before is None


@pytest.mark.parametrize("name", ["enet", "unet", "segnet"])
@pytest.mark.parametrize("inplace", [False, True])
def test_networks_in_published_style_keep_less(name, inplace):
    """And measuring leaves no trace: state dict, gradients and results are as without it."""
    model = NETWORKS[name]()
    before = copy.deepcopy(model)
    converted, report = segext.convert(model, inplace=inplace, example=image())
    assert report.after.kept < report.before.kept
    assert report.after.switches <= report.before.switches / 16
    assert all(parameter.grad is None for parameter in converted.parameters())
    torch.testing.assert_close(dict(converted.state_dict()), dict(before.state_dict()), rtol=0, atol=0)
    assert_same(before, converted, image())


@pytest.mark.parametrize("name", ["vgg", "segnet", "enet"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_mode_around_the_call_changes_nothing(mode, name):
    """Neither the report nor that the copy can be trained."""
    model = NETWORKS[name]()
    _, expected = segext.convert(model, example=image())
    with mode():
        converted, report = segext.convert(model, example=image(), prepack=True)
    assert report == expected
    assert_same(model, converted, image())


@pytest.mark.parametrize("inplace", [False, True])
def test_models_made_in_inference_mode(inplace):
    """A copy can be trained, as one of ``copy.deepcopy`` can be."""
    with torch.inference_mode():
        model, x = SegNet().eval(), image()
        expected = model(x)
    normal = copy.deepcopy(model)
    converted, report = segext.convert(model, example=x, inplace=inplace)
    assert report == segext.convert(normal, example=image())[1]
    with torch.inference_mode():
        torch.testing.assert_close(converted(x), expected, rtol=1e-3, atol=1e-3)
    if not inplace:
        assert_same(normal, converted, image())


def test_the_random_state_is_untouched():
    model = Branching("random")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    segext.convert(model)
    assert torch.equal(torch.rand(3), expected)


def test_transposed_convolutions():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 5, 4, 2, 1), nn.ReLU())
    converted, report = segext.convert(model)
    assert type(converted[1]) is segext.nn.ConvTranspose2d
    assert described(report, "swapped") == {("1", "nn.ConvTranspose2d", "segext.nn.ConvTranspose2d")}
    assert_same(model, converted, image())


class Upsampling(nn.Module):
    def __init__(self):
        super().__init__()
        self.score, self.mix = nn.Conv2d(3, 4, 1), nn.Parameter(torch.randn(4, 2, 3, 3))
        self.register_buffer("bilinear", segext.functional.bilinear_weight(4, 2))

    def forward(self, x):
        scores = F.max_pool2d(self.score(x), 2)
        return F.conv_transpose2d(scores, self.bilinear, stride=2, groups=4), torch.conv_transpose2d(scores, self.mix)


@pytest.mark.parametrize("trace", [lambda model: model, torch.fx.symbolic_trace], ids=["method", "graph"])
def test_calls_of_transposed_convolution(trace):
    model = Upsampling()
    converted, report = segext.convert(trace(model))
    assert {c.after for c in report.swapped} == {f"segext.functional.{op}" for op in ("max_pool2d", "conv_transpose2d")}
    assert len(report.swapped) == 3
    assert not report.left
    for net in (converted, copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        torch.testing.assert_close(net(image()), model(image()))
        with torch.profiler.profile() as profiler:
            net(image())
        assert "segext::depthwise_conv_transpose2d" in {event.key for event in profiler.key_averages()}
    assert not segext.convert(converted)[1].changes


def test_layers_of_segext_are_no_subclasses_to_be_left():
    assert not segext.convert(segext.models.deconvnet(2, width=1 / 64))[1].left


@pytest.mark.parametrize("model", [None, [nn.MaxPool2d(2)], nn.MaxPool2d])
def test_refuses_what_is_not_a_module(model):
    with pytest.raises(TypeError, match=f"must be a torch.nn.Module, but got {type(model).__name__}"):
        segext.convert(model)


def test_what_runs_beside_a_forward_is_no_part_of_it():
    """Callbacks of the garbage collector, which may run at any time."""

    def on_collection(phase, _info):
        return "started" if phase == "start" else "stopped"

    threshold = gc.get_threshold()
    gc.callbacks.append(on_collection)
    gc.set_threshold(1)
    try:
        _, report = segext.convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(on_collection)
    assert len(report.fused) == 1
    assert gc.isenabled()


# --- Profilers and debuggers ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def cprofile(names):
    with cProfile.Profile() as profiler:
        yield
    names.update(name for _, _, name in pstats.Stats(profiler).stats)


@contextlib.contextmanager
def torch_profiler(names):
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, with_stack=True) as profiler:
        yield
    names.update(event.name.split(": ")[-1] for event in profiler.events())


@contextlib.contextmanager
def profile_function(names):
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, _: names.add(frame.f_code.co_name))
    yield
    sys.setprofile(before)


@contextlib.contextmanager
def debugger(names):
    before = sys.gettrace()
    sys.settrace(lambda frame, event, _: names.add(frame.f_code.co_name))
    yield
    sys.settrace(before)


def runs_afterwards():
    """For hooks to see."""


@pytest.mark.parametrize("hook", [cprofile, torch_profiler, profile_function, debugger])
def test_profilers_and_debuggers_see_all_that_runs(hook):
    model, names = VGG(), set()
    _, expected = segext.convert(model)
    with hook(names):
        _, report = segext.convert(model)
        runs_afterwards()
    assert report == expected
    assert {"convert", "forward", "runs_afterwards"} <= names


@pytest.mark.parametrize("profiler", [cprofile, torch_profiler, profile_function])
def test_a_profiler_and_a_debugger_at_once(profiler):
    model, profiled, traced = VGG(), set(), set()
    _, expected = segext.convert(model)
    with debugger(traced), profiler(profiled):
        _, report = segext.convert(model)
        runs_afterwards()
    assert report == expected
    assert "runs_afterwards" in profiled & traced


def test_a_profiler_and_a_debugger_that_cannot_rest(monkeypatch):
    """What C code put in place of both: layers are swapped all the same."""
    monkeypatch.setattr(sys, "getprofile", object)
    monkeypatch.setattr(sys, "gettrace", object)
    converted, report = segext.convert(nn.Sequential(ByMode()))
    assert type(converted[0].pool) is segext.nn.MaxPool2d
    assert not report.fused
    assert "its forward cannot be watched beside a profiler and a debugger" in reason(report, "0")
