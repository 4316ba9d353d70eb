"""FCN's upsampling weights: one filter a class inside, dense and exactly the published keys outside."""

import copy

import pytest
import torch
import torch.nn.functional as F
from narrow_models import FCNS, image, narrow, relative

from segext.models.upscore import TorchUpscore, Upscore

KINDS = (Upscore, TorchUpscore)


def upscores(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, Upscore)}


@pytest.mark.parametrize("name", FCNS)
def test_round_trip(name):
    """State dicts hold dense weights; the model holds diagonals, before and after."""
    model = narrow(name)
    for module in upscores(model).values():
        module.weight.data.normal_()
    state = model.state_dict()
    for key, module in upscores(model).items():
        kernel = 2 * module.stride
        dense = state[f"{key}.weight"]
        assert dense.shape == (5, 5, kernel, kernel)
        for i in range(5):
            assert torch.equal(dense[i, i], module.weight[i, 0])
            dense[i, i] = 0
        assert not dense.any()
    state = model.state_dict()
    other = narrow(name, seed=1)
    assert not torch.equal(other.state_dict()["fc6.weight"], state["fc6.weight"])
    assert str(other.load_state_dict(state)) == "<All keys matched successfully>"
    assert other.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    assert all(module.weight.shape[1] == 1 for module in upscores(other).values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [1e-30, float("nan")])
def test_weights_that_mix_channels_stay_dense(kind, value):
    """One stray value beside the diagonal is enough; loading a diagonal again makes it depthwise again."""
    layer = kind(3, 2)
    plain = layer.state_dict()
    mixing = {"weight": plain["weight"].clone()}
    mixing["weight"][0, 2, 1, 1] = value
    layer.load_state_dict(mixing)
    assert layer.weight.shape == (3, 3, 4, 4)
    assert not layer.weight.requires_grad
    assert torch.equal(layer.state_dict()["weight"].nan_to_num(), mixing["weight"].nan_to_num())
    assert "channels mix" in repr(layer)
    layer.load_state_dict(plain)
    assert layer.weight.shape == (3, 1, 4, 4)
    assert torch.equal(layer.state_dict()["weight"], plain["weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_load(kind):
    """As a model's own ``named_parameters()`` hold them, also into a layer whose channels mix."""
    layer, other = kind(3, 2), kind(3, 2)
    layer.weight.data.normal_()
    other.load_state_dict({"weight": torch.randn(3, 3, 4, 4)})
    for target in (other, kind(3, 2)):
        target.load_state_dict(dict(layer.named_parameters()))
        assert torch.equal(target.weight, layer.weight)
        assert target.weight is not layer.weight


@pytest.mark.parametrize("mixing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_upscore_computes(kind, mixing):
    """Crops, sums and labels of the dense transposed convolution."""
    torch.manual_seed(0)
    layer = kind(3, 4)
    weight = torch.randn(3, 3, 8, 8)
    layer.load_state_dict({"weight": weight if mixing else weight * torch.eye(3)[..., None, None]})
    dense = layer.state_dict()["weight"]
    score, skip = torch.randn(2, 3, 6, 7), torch.randn(2, 3, 40, 43)
    whole = F.conv_transpose2d(score, dense, stride=4)
    cropped = whole[:, :, 5:22, 5:24]
    assert relative(layer(score, 5, (17, 19)), cropped) < 1e-6
    height, width = whole.shape[2:]
    assert relative(layer.add(score, skip, 3), whole + skip[:, :, 3 : 3 + height, 3 : 3 + width]) < 1e-6
    assert torch.equal(layer.labels(score, 5, (17, 19)), cropped.argmax(1).to(torch.uint8))


@pytest.mark.parametrize("kind", KINDS)
def test_one_class(kind):
    layer = kind(1, 2)
    layer.load_state_dict({"weight": torch.rand(1, 1, 4, 4)})
    score = torch.randn(1, 1, 5, 5)
    assert (
        relative(layer(score, 1, (8, 8)), F.conv_transpose2d(score, layer.weight, stride=2, padding=1)[..., :8, :8])
        < 1e-6
    )


def test_errors_are_stock_s():
    model = narrow("fcn8s")
    state = model.state_dict()
    for shape in ((5, 2, 16, 16), (5, 1, 4, 4), (5, 5, 4, 4), (7, 1, 16, 16), (7, 7, 16, 16)):
        before = model.upscore8.weight.clone()
        with pytest.raises(RuntimeError, match=r"size mismatch for upscore8.weight") as error:
            model.load_state_dict({**state, "upscore8.weight": torch.zeros(shape)})
        assert str(list(shape)) in str(error.value)
        assert "[5, 5, 16, 16]" in str(error.value)
        assert torch.equal(model.upscore8.weight, before)
    del state["upscore2.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*upscore2.weight"):
        model.load_state_dict(state)
    assert model.load_state_dict(state, strict=False).missing_keys == ["upscore2.weight"]


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("name", FCNS)
def test_upsampling_learns_on_request_alone(name, learn):
    model = narrow(name, learn_upscore=learn)
    model(image(33, 40)).square().sum().backward()
    frozen = {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == (set() if learn else {f"{key}.weight" for key in upscores(model)})
    for module in upscores(model).values():
        assert (module.weight.grad is not None and module.weight.grad.any()) if learn else module.weight.grad is None
    twin = copy.deepcopy(model)
    twin.load_state_dict(model.state_dict())
    assert {key for key, parameter in twin.named_parameters() if not parameter.requires_grad} == frozen


def test_assigned_state():
    """`assign=True` fills a model without data; parameters stay frozen, dtypes are the state dict's."""
    trained, x = narrow("fcn16s").eval(), image(20, 30)
    with torch.device("meta"):
        model = type(trained)(16, 5, width=1 / 16).eval()
    model.load_state_dict(trained.state_dict(), assign=True)
    assert not model.upscore16.weight.requires_grad
    with torch.no_grad():
        assert torch.equal(model(x), trained(x))
