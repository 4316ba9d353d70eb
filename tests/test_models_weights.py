"""Published weights: state dicts with exactly the published keys, what becomes of each tensor, and the report."""

import re

import pytest
import torch
from narrow_models import NARROW, image, narrow, relative
from torch import nn

from segext.models import load_weights

# Positions in torchvision's `features`, and the layers that they are.
VGG16 = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG16_BN = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
CONVOLUTIONS = (
    *("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3"),
    *("conv4_1", "conv4_2", "conv4_3", "conv5_1", "conv5_2", "conv5_3"),
)
AFFINE, STATISTICS = ("weight", "bias"), ("running_mean", "running_var", "num_batches_tracked")


def vgg(batch_norm=False):
    """torchvision's vgg16 or vgg16_bn, narrow: the same modules in the same places."""
    torch.manual_seed(5)
    layers, inputs = [], 3
    for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        channels = int(channels * NARROW)
        for _ in range(count):
            layers.append(nn.Conv2d(inputs, channels, 3, padding=1))
            layers += [nn.BatchNorm2d(channels), nn.ReLU()] if batch_norm else [nn.ReLU()]
            inputs = channels
        layers.append(nn.MaxPool2d(2))
    fc = int(4096 * NARROW)
    classifier = [nn.Linear(inputs * 49, fc), nn.ReLU(), nn.Dropout(), nn.Linear(fc, fc), nn.ReLU(), nn.Dropout()]
    net = nn.Module()
    net.features, net.classifier = nn.Sequential(*layers), nn.Sequential(*classifier, nn.Linear(fc, 10))
    scatter_batch_norm(net)
    return net.eval()


def scatter_batch_norm(net):
    """Batch norms as after training: no scale, shift or statistic is what it starts with."""
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
            norm.running_mean.add_(torch.randn_like(norm.running_mean) * norm.running_var.sqrt())
            norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.5, 2))


def outputs_of(model, x, *names):
    """What the layers called ``names`` give."""
    seen = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda *call, name=name: seen.update({name: call[2]}))
    with torch.no_grad():
        model(x)
    return [seen[name] for name in names]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_fcn_from_torchvision(batch_norm):
    """Of one window of 224 pixels, fc7 is what the classifier's second layer is."""
    net, model = vgg(batch_norm), narrow("fcn8s").eval()
    report = load_weights(model, net.state_dict())
    positions = VGG16_BN if batch_norm else VGG16
    expected = {name: f"features.{i}" for name, i in zip(CONVOLUTIONS, positions, strict=True)}
    expected |= {"fc6": "classifier.0", "fc7": "classifier.3"}
    assert report.layout == ("torchvision's vgg16_bn" if batch_norm else "torchvision's vgg16")
    assert report.loaded == {f"{own}.{kind}": f"{at}.{kind}" for own, at in expected.items() for kind in AFFINE}
    heads = {"score_fr", "score_pool4", "score_pool3", "upscore2", "upscore_pool4", "upscore8"}
    assert {key.split(".")[0] for key in report.missing} == heads
    assert set(report.unused) == {"classifier.6.weight", "classifier.6.bias"}
    assert any("13 batch norms are folded" in note for note in report.notes) == batch_norm

    x = image(224, 224)
    model.conv1_1.padding = (1, 1)
    pooled, fc7 = outputs_of(model, x, "pool5", "fc7")
    with torch.no_grad():
        features = net.features(x)
        assert relative(pooled, features) < 1e-5
        assert relative(fc7.flatten(1).relu(), net.classifier[:5](features.flatten(1))) < 1e-5


@pytest.mark.parametrize("name", ["segnet", "deconvnet"])
def test_encoder_from_vgg16_bn(name):
    net, model = vgg(batch_norm=True), narrow(name).eval()
    report = load_weights(model, net.state_dict())
    assert {report.loaded[f"conv5_3_bn.{kind}"] for kind in AFFINE} == {"features.41.weight", "features.41.bias"}
    assert len(report.loaded) == 13 * 7 + (4 if name == "deconvnet" else 0)
    assert not report.notes
    x = image(224, 224)
    (pooled, _), *_ = outputs_of(model, x, "pool5")
    with torch.no_grad():
        assert relative(pooled, net.features(x)) < 1e-5


def test_encoder_without_batch_norm_leaves_the_model_s():
    model = narrow("segnet")
    before = {key: value.clone() for key, value in model.state_dict().items() if "_bn." in key}
    report = load_weights(model, vgg().state_dict())
    assert torch.equal(model.conv3_2.weight, vgg().features[12].weight)
    assert {key for key in before if not key.endswith("tracked")} <= set(report.missing)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items() if key in before)
    assert {report.unused[f"classifier.{i}.weight"] for i in (0, 3)} == {"the model has no fc6", "the model has no fc7"}


def caffe_name(layer):
    """DeconvNet's name of a layer in Caffe."""
    special = {"fc6_bn": "bnfc6", "fc7_bn": "bnfc7", "fc6_deconv": "fc6-deconv", "fc6_deconv_bn": "fc6-deconv-bn"}
    special["seg_score"] = "seg-score-voc"
    return special.get(layer) or re.sub(r"^(?:conv|(de)conv)(\d_\d)_bn$", lambda m: f"{m[1] or ''}bn{m[2]}", layer)


def layers_of(state):
    layers = {}
    for key, value in state.items():
        layer, kind = key.rsplit(".", 1)
        layers.setdefault(layer, {})[kind] = value.clone()
    return layers


def with_statistics(layers):
    return layers


def folded_into_scale_and_shift(layers):
    """As the authors' nets for inference: (1, C, 1, 1), and no statistics."""
    for layer, values in layers.items():
        if layer.endswith("_bn"):
            scale = values["weight"] / (values["running_var"] + 1e-5).sqrt()
            shift = values["bias"] - scale * values["running_mean"]
            layers[layer] = {"weight": scale.view(1, -1, 1, 1), "bias": shift.view(1, -1, 1, 1)}
    return layers


def absorbed(layers):
    """As BN-absorber leaves them: no batch norm at all."""
    for layer, values in folded_into_scale_and_shift(layers).copy().items():
        if layer.endswith("_bn"):
            convolution, scale = layers[layer.removesuffix("_bn")], values["weight"].flatten()
            outputs = 1 if "deconv" in layer else 0  # the dimension of a transposed convolution's
            shape = [-1 if dim == outputs else 1 for dim in range(4)]
            convolution["weight"] *= scale.view(shape)
            convolution["bias"] = convolution["bias"] * scale + values["bias"].flatten()
            del layers[layer]
    return layers


@pytest.mark.parametrize("fold", [with_statistics, folded_into_scale_and_shift, absorbed])
@pytest.mark.parametrize("name", ["segnet", "deconvnet"])
def test_caffe_names_and_what_becomes_of_batch_norm(name, fold):
    trained, model = narrow(name).eval(), narrow(name, seed=1).eval()
    scatter_batch_norm(trained)
    layers = fold(layers_of(trained.state_dict()))
    renamed = {caffe_name(layer) if name == "deconvnet" else layer: values for layer, values in layers.items()}
    if name == "deconvnet":
        assert {"conv1_1", "fc6", "fc6-deconv", "deconv5_1", "seg-score-voc"} <= set(renamed)
        assert fold is absorbed or {"bn1_1", "bnfc6", "bnfc7", "fc6-deconv-bn", "debn5_1"} <= set(renamed)
    report = load_weights(model, {f"{layer}.{kind}": v for layer, vs in renamed.items() for kind, v in vs.items()})
    assert report.layout == f"{type(model).__name__}'s names"
    assert not report.missing
    assert not report.unused
    assert bool(report.neutral) == bool(report.notes) == (fold is not with_statistics)
    assert ("changes nothing" in str(report)) == (fold is absorbed)
    x = image(224, 224)
    with torch.no_grad():
        assert relative(model(x), trained(x)) < 1e-4


def test_caffe_blobs():
    """{layer: (weight, bias)}, as arrays."""
    trained, model = narrow("segnet").eval(), narrow("segnet", seed=1).eval()
    layers = folded_into_scale_and_shift(layers_of(trained.state_dict()))
    report = load_weights(model, {k: [v["weight"].numpy(), v["bias"].numpy()] for k, v in layers.items()})
    assert not report.missing
    x = image(64, 64)
    with torch.no_grad():
        assert relative(model(x), trained(x)) < 1e-4


@pytest.mark.parametrize(("name", "tensors"), [("fcn32s", 33), ("fcn16s", 36), ("fcn8s", 39)])
@pytest.mark.parametrize("wrapped", [False, True])
def test_fcn_file_round_trip(name, tensors, wrapped, tmp_path):
    trained, model = narrow(name), narrow(name, seed=1)
    state = trained.state_dict()
    checkpoint = {"epoch": 3, "arch": name, "model_state_dict": {f"module.{k}": v for k, v in state.items()}}
    torch.save(checkpoint if wrapped else state, tmp_path / "weights.pth")
    report = load_weights(model, tmp_path / "weights.pth")
    assert (report.layout, len(report.loaded), report.missing, report.unused) == ("FCN's names", tensors, [], {})
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_each_stage_of_fcn_starts_from_the_one_before():
    coarse, fine = narrow("fcn32s"), narrow("fcn16s", seed=1)
    report = load_weights(fine, coarse.state_dict())
    assert {key.split(".")[0] for key in report.missing} == {"score_pool4", "upscore2", "upscore16"}
    assert report.unused == {"upscore.weight": "the model has no upscore"}
    assert torch.equal(fine.score_fr.weight, coarse.score_fr.weight)


def test_report_reads_as_text():
    net = vgg()
    net.classifier[0].weight.data.fill_(float("nan"))
    lines = str(load_weights(narrow("fcn32s"), net.state_dict(), skip=["fc7"])).splitlines()
    assert lines[0] == "torchvision's vgg16 into FCN: 27 tensors loaded, 6 missing, 5 not used"
    text = "\n".join(" ".join(line.split()) for line in lines)
    assert "loaded conv1_2 from features.2" in text
    assert "missing score_fr stays as it was" in text
    assert "not used classifier.0 holds NaN" in text
    assert "not used classifier.3 skipped" in text
    assert "not used classifier.6 the model has no classifier.6" in text


def test_a_shape_that_does_not_fit_changes_nothing():
    model, state = narrow("fcn8s"), narrow("fcn8s", num_classes=7).state_dict()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"^score_fr.weight of shape \(7, 256, 1, 1\) does not fit score_fr.weight of "
    ) as error:
        load_weights(model, state)
    assert "(5, 256, 1, 1)" in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    scores = [name for name, _ in model.named_children() if "score" in name]
    report = load_weights(model, state, skip=scores)
    assert set(report.unused.values()) == {"skipped"}
    assert torch.equal(model.fc6.weight, state["fc6.weight"])


def test_a_flat_layer_that_does_not_fit():
    state = vgg().state_dict() | {"classifier.0.weight": torch.zeros(256, 100)}
    with pytest.raises(
        ValueError, match=r"classifier.0.weight of shape \(256, 100\) does not fit fc6.weight of .*7, 7"
    ):
        load_weights(narrow("fcn8s"), state)


@pytest.mark.parametrize("source", ["torchvision", "SegNet"])
def test_a_missing_bias_counts_as_zero_where_batch_norm_is_folded(source):
    """As of convolutions with ``bias=False``, which batch norm follows."""
    state = vgg(batch_norm=True).state_dict() if source == "torchvision" else narrow("segnet").state_dict()
    convolutions = [f"features.{i}" for i in VGG16_BN] if source == "torchvision" else CONVOLUTIONS
    biases = {f"{convolution}.bias": state[f"{convolution}.bias"] for convolution in convolutions}
    model, expected = narrow("fcn8s"), narrow("fcn8s")
    load_weights(expected, state | {key: torch.zeros_like(bias) for key, bias in biases.items()})
    report = load_weights(model, {key: tensor for key, tensor in state.items() if key not in biases})
    assert report.loaded["conv2_1.bias"] == ("features.8.bias" if source == "torchvision" else "conv2_1_bn.bias")
    for (key, actual), other in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(actual, other), key


@pytest.mark.parametrize("kind", [*AFFINE, "running_mean", "running_var"])
def test_a_batch_norm_that_is_not_whole_is_not_folded(kind):
    state = vgg(batch_norm=True).state_dict()
    del state[f"features.8.{kind}"]
    with pytest.raises(ValueError, match=rf"^the weights have a batch norm features.8, but no features.8.{kind}$"):
        load_weights(narrow("fcn8s"), state)


@pytest.mark.parametrize("key", ["features.8.weight", "features.8.running_var", "features.7.bias"])
def test_a_batch_norm_that_does_not_fit_its_convolution(key):
    state = vgg(batch_norm=True).state_dict() | {key: torch.ones(3)}
    with pytest.raises(ValueError, match=r"^features.8 does not fit features.7.weight of shape \(8, 4, 3, 3\)$"):
        load_weights(narrow("fcn8s"), state)


def test_a_batch_norm_without_a_convolution():
    state = vgg(batch_norm=True).state_dict()
    del state["features.7.weight"]
    with pytest.raises(ValueError, match=r"batch norm features.8, but no convolution before it$"):
        load_weights(narrow("fcn8s"), state)


class Anything:
    """What no file of weights should hold."""


def test_errors(tmp_path):
    model = narrow("segnet")
    with pytest.raises(ValueError, match=r"no known layout.*Their first keys: backbone.conv1.weight"):
        load_weights(model, {"backbone.conv1.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match="no known layout"):  # vgg19's first convolutions are vgg16's
        load_weights(model, {f"features.{i}.weight": torch.zeros(3) for i in (*VGG16, 30, 32, 34)})
    with pytest.raises(ValueError, match=r"no known layout.*none at all"):
        load_weights(model, {})
    with pytest.raises(ValueError, match="skip should name layers of SegNet, but got 'fc6'"):
        load_weights(model, model.state_dict(), skip=["fc6"])
    with pytest.raises(TypeError, match="skip should be a list of layers, but got the string 'conv1_1'"):
        load_weights(model, model.state_dict(), skip="conv1_1")
    with pytest.raises(ValueError, match=r"whose keys are strings, but has the key 0$"):
        load_weights(model, {0: torch.zeros(2)})
    with pytest.raises(ValueError, match=r"conv1_1.weight is a str"):
        load_weights(model, {"conv1_1.weight": "a"})
    with pytest.raises(FileNotFoundError):
        load_weights(model, tmp_path / "nowhere.pth")
    for name, held in (("list.pth", [1, 2]), ("anything.pth", {"conv1_1.weight": Anything()})):
        torch.save(held, tmp_path / name)
        with pytest.raises(
            ValueError, match=rf"{name} (should hold a state dict, but holds a list|is not a file that torch.load)"
        ):
            load_weights(model, tmp_path / name)
    for text in ("no weights", "title", "hello", "G"):  # the unpickler fails at each in another way
        (tmp_path / "text.pth").write_text(text)
        with pytest.raises(ValueError, match=r"text.pth is not a file that torch.load"):
            load_weights(model, tmp_path / "text.pth")
