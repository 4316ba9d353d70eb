"""The modules: stock's signatures, representation and state, and the functions' results."""

import copy
import pickle

import numpy as np
import pytest
import torch
from samples import FORMATS, assert_same, name, normal

import segext.functional as own
from segext import Switches, nn

SIGNATURES = (
    ("MaxPool2d", (2,)),
    ("MaxPool2d", ((3, 2), (2, 1), (1, 0), (1, 2), True, True)),
    ("MaxUnpool2d", (2,)),
    ("MaxUnpool2d", ((3, 2), (2, 1), (1, 0))),
    ("ConvTranspose2d", (4, 6, 3)),
    ("ConvTranspose2d", (4, 6, (3, 2), 2, 1, 1, 2, False, 2)),
)


@pytest.mark.parametrize(("module", "arguments"), SIGNATURES)
def test_looks_like_stock(module, arguments):
    """Same representation, attributes and state dict."""
    mine, stock = getattr(nn, module)(*arguments), getattr(torch.nn, module)(*arguments)
    assert repr(mine) == repr(stock)
    assert mine.state_dict().keys() == stock.state_dict().keys()
    stock.load_state_dict(mine.state_dict())
    mine.load_state_dict(stock.state_dict())
    public = {key: value for key, value in vars(stock).items() if not key.startswith("_") and key != "training"}
    assert {key: getattr(mine, key) for key in public} == public


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("module", [nn.MaxPool2d, nn.ReLUMaxPool2d])
def test_pools_are_the_functions(module, layout, device):
    x = layout(normal((2, 3, 9, 10)).to(device))
    arguments = (3, 2, 1, 1, True)
    function = own.max_pool2d if module is nn.MaxPool2d else own.relu_max_pool2d
    assert_same(module(*arguments[:4], ceil_mode=True)(x), function(x, *arguments), strides=True)
    output, switches = module(3, stride=2, padding=1, return_indices=True, ceil_mode=True)(x)
    assert isinstance(switches, Switches)
    expected, expected_switches = function(x, *arguments, return_indices=True)
    assert_same(output, expected)
    assert_same(switches.codes, expected_switches.codes)


def test_unpool_takes_switches_or_indices(device):
    x = normal((2, 3, 9, 11)).to(device)
    values, switches = nn.MaxPool2d(2, return_indices=True)(x)
    unpool = nn.MaxUnpool2d(2)
    expected = torch.where(switches.mask() == 1, x, 0)
    assert_same(unpool(values, switches), expected)
    assert_same(unpool(values, switches, output_size=x.size()), expected)
    assert_same(unpool(values, switches.indices(), output_size=x.size()), expected)
    assert_same(unpool(values, switches.indices(), x.shape[-2:]), expected)


@pytest.mark.parametrize("output_size", [None, (13, 15)])
def test_transposed_convolution_is_stock_s(output_size, device):
    mine, stock = (kind(4, 6, 3, 2, 1).to(device) for kind in (nn.ConvTranspose2d, torch.nn.ConvTranspose2d))
    stock.load_state_dict(mine.state_dict())
    x = normal((2, 4, 7, 8)).to(device)
    torch.testing.assert_close(mine(x, output_size), stock(x, output_size))


@pytest.mark.parametrize("groups", [4, 1])
def test_fused_transposed_convolutions_are_the_functions(groups):
    x, addend = normal((2, 4, 5, 6)), normal((2, 4, 15, 15))
    target = torch.randint(0, 4, (2, 6, 7), generator=torch.Generator().manual_seed(0))
    arguments, window = (4, 4, (4, 6), 2, 1, (0, 1), groups), (2, 1, (0, 1), groups)
    stock = torch.nn.ConvTranspose2d(*arguments)
    state = stock.state_dict().values()

    def loaded(module):
        module.load_state_dict(stock.state_dict())
        return module

    add = loaded(nn.ConvTranspose2dAdd(*arguments, crop=(1, 2), addend_crop=(2, 3)))
    weight, bias = state
    crops = {"crop": (1, 2), "addend_crop": (2, 3)}
    assert_same(add(x, addend), own.conv_transpose2d_add(x, weight, addend, bias, *window, **crops))
    assert add(x, addend, (4, 5)).shape == (2, 4, 4, 5)
    argmax = loaded(nn.ConvTranspose2dArgmax(*arguments, crop=(1, 2), return_scores=True))
    results = own.conv_transpose2d_argmax(x, weight, bias, *window, crop=(1, 2), return_scores=True)
    for actual, expected in zip(argmax(x), results, strict=True):
        assert_same(actual, expected)
    assert argmax(x, output_size=(4, 5))[0].shape == (2, 4, 5)
    loss = loaded(nn.ConvTranspose2dCrossEntropy(*arguments, crop=(1, 2), ignore_index=3, label_smoothing=0.1))
    options = {"crop": (1, 2), "ignore_index": 3, "label_smoothing": 0.1}
    assert_same(loss(x, target), own.conv_transpose2d_cross_entropy(x, weight, target, bias, *window, **options))


FUSED = (
    (nn.ConvTranspose2dAdd, {"crop": (1, 2), "addend_crop": (0, 0)}),
    (nn.ConvTranspose2dArgmax, {"crop": (1, 2), "return_scores": True}),
    (
        nn.ConvTranspose2dCrossEntropy,
        {"crop": (0, 0), "ignore_index": 255, "reduction": "mean", "label_smoothing": 0.1},
    ),
)


@pytest.mark.parametrize(("kind", "options"), FUSED)
def test_fused_transposed_convolutions_show_their_options(kind, options):
    module = kind(4, 4, 3, stride=2, groups=4, bias=False, **options)
    shown = repr(torch.nn.ConvTranspose2d(4, 4, 3, stride=2, groups=4, bias=False)).removesuffix(")")
    shown = ", ".join([shown, *(f"{key}={value!r}" for key, value in options.items())]) + ")"
    assert repr(module) == shown.replace("ConvTranspose2d", kind.__name__)
    for trip in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        assert repr(trip(module)) == repr(module)
    with pytest.raises(ValueError, match="padding mode"):
        kind(4, 4, 3, padding_mode="reflect")


@pytest.mark.parametrize("trip", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(trip):
    for module, arguments in SIGNATURES:
        assert repr(trip(getattr(nn, module)(*arguments))) == repr(getattr(nn, module)(*arguments))


def test_relu_pool_shows_its_window():
    assert repr(nn.ReLUMaxPool2d(3, 2)) == repr(nn.MaxPool2d(3, 2)).replace("MaxPool2d", "ReLUMaxPool2d")


@pytest.mark.parametrize("kernel_size", [np.int64(2), torch.tensor(2), (np.int64(2), 2), [np.int32(2)]])
def test_what_stands_for_an_int(kernel_size, tmp_path):
    """Sizes computed by numpy or torch; the switches' window is plain ints, which load with weights_only."""
    x = torch.randn(1, 3, 8, 8)
    output, switches = nn.MaxPool2d(kernel_size, return_indices=True)(x)
    assert torch.equal(output, torch.nn.functional.max_pool2d(x, 2))
    assert switches.window[:2] == ((2, 2), (2, 2))
    torch.save(switches, tmp_path / "switches.pt")
    assert torch.load(tmp_path / "switches.pt", weights_only=True) == switches


@pytest.mark.parametrize(
    "unpool", [nn.MaxUnpool2d(), nn.MaxUnpool2d(padding=[0, 0]), nn.MaxUnpool2d(stride=3)], ids=str
)
def test_unpool_without_a_window_takes_the_pools(unpool):
    x = torch.randn(1, 3, 8, 9)
    values, switches = nn.MaxPool2d(3, padding=1, return_indices=True)(x)
    assert torch.equal(unpool(values, switches), x * switches.mask())


def test_unpool_keeps_a_stride_without_a_kernel():
    values, switches = nn.MaxPool2d(2, return_indices=True)(torch.randn(1, 3, 8, 8))
    with pytest.raises(ValueError, match="stride"):
        nn.MaxUnpool2d(stride=3)(values, switches)
    assert nn.MaxUnpool2d(stride=2)(values, switches).shape == (1, 3, 8, 8)


class Net(torch.nn.Module):
    """A layer on what is given, after a pool if it unpools."""

    def __init__(self, layer, more):
        super().__init__()
        self.layer, self.more = layer, more
        self.pool = nn.ReLUMaxPool2d(2, return_indices=True) if "Unpool" in type(layer).__name__ else None

    def forward(self, x):
        if self.pool is None:
            return self.layer(x, *self.more)
        pooled, switches = self.pool(x)
        return self.layer(pooled, switches)


@pytest.mark.parametrize(
    ("layer", "more"),
    [
        (nn.MaxPool2d(2), ()),
        (nn.ReLUMaxPool2d(2), ()),
        (nn.MaxUnpool2d(2), ()),
        (nn.UnpoolConv2d(4, 5, 3, padding=1), ()),
        (nn.UnpoolConvTranspose2d(4, 5, 3, padding=1), ()),
        (nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=4), ()),
        (nn.ConvTranspose2dAdd(4, 4, 4, 2, 1, groups=4), (torch.ones(2, 4, 18, 20),)),
        (nn.ConvTranspose2dArgmax(4, 4, 4, 2, 1, groups=4), ()),
        (nn.ConvTranspose2dCrossEntropy(4, 4, 4, 2, 1, groups=4), (torch.zeros(2, 18, 20, dtype=torch.long),)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else "",
)
def test_torch_fx_records_a_node_a_call(layer, more):
    net, x = Net(layer, more), normal((2, 4, 9, 10))
    traced = torch.fx.symbolic_trace(net)
    called = [node for node in traced.graph.nodes if node.target in [getattr(own, name) for name in own.__all__]]
    assert len(called) == (1 if net.pool is None else 2)
    assert torch.equal(pickle.loads(pickle.dumps(traced))(x), net(x))
