"""``segext.convert``: which layers and calls are swapped one by one, and what of a model stays as it was."""

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from networks import VGG, FunctionalSegNet, SegNet, assert_same, described, image, network
from torch import nn

import segext

pytestmark = pytest.mark.usefixtures("one_thread")


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
