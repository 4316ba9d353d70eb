"""The networks: published sizes and counts, the two sets of layers, labels, modes, memory and copies."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from narrow_models import FCNS, NARROW, image, narrow, relative, size_for
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from segext.memory import saved_bytes
from segext.models import MODELS, encoder_decoder
from segext.models.layers import layer_set

# Parameters, tensors of the state dict, and the image that the authors' nets take.
PUBLISHED = {
    "fcn32s": (136_152_917, 33, (500, 500)),
    "fcn16s": (134_815_994, 36, (500, 500)),
    "fcn8s": (134_489_759, 39, (500, 500)),
    "deconvnet": (251_805_653, 60 + 29 * 5, (224, 224)),
    "segnet": (29_449_355, 52 + 25 * 5, (360, 480)),
}


def results(model, x):
    """Scores, gradients of parameters and buffers after one batch of training on made-up labels; nothing is dropped."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0
    scores = model.train()(x)
    model.zero_grad()
    F.cross_entropy(scores, rough_target(scores)).backward()
    gradients = {key: p.grad for key, p in model.named_parameters() if p.requires_grad}
    return scores.detach(), gradients, dict(model.named_buffers())


@pytest.mark.parametrize("name", MODELS)
def test_published_counts(name):
    """At full width; FCN's dense upsampling weights count as they are stored."""
    count, tensors, size = PUBLISHED[name]
    with torch.device("meta"):
        model = MODELS[name]()
        state = model.state_dict()
        scores = model(torch.empty(2, 3, *size))
    assert len(state) == tensors
    buffers = {key for key, _ in model.named_buffers()}
    assert sum(value.numel() for key, value in state.items() if key not in buffers) == count
    assert scores.shape == (2, 11 if name == "segnet" else 21, *size)


VGG_SHAPES = {
    **{"conv1_1": (64, 3), "conv1_2": (64, 64), "conv2_1": (128, 64), "conv2_2": (128, 128), "conv3_1": (256, 128)},
    **{"conv3_2": (256, 256), "conv3_3": (256, 256), "conv4_1": (512, 256)},
    **dict.fromkeys(("conv4_2", "conv4_3", "conv5_1", "conv5_2", "conv5_3"), (512, 512)),
}
FCN_SHAPES = {**{name: (*shape, 3, 3) for name, shape in VGG_SHAPES.items()}, "fc6": (4096, 512, 7, 7)}
FCN_SHAPES |= {"fc7": (4096, 4096, 1, 1), "score_fr": (21, 4096, 1, 1)}
SKIP_SHAPES = {"score_pool4": (21, 512, 1, 1), "score_pool3": (21, 256, 1, 1)}


@pytest.mark.parametrize(
    ("name", "skips", "upscores"),
    [
        ("fcn32s", [], {"upscore": 64}),
        ("fcn16s", ["score_pool4"], {"upscore2": 4, "upscore16": 32}),
        ("fcn8s", ["score_pool4", "score_pool3"], {"upscore2": 4, "upscore_pool4": 4, "upscore8": 16}),
    ],
)
def test_published_fcn_state_dict(name, skips, upscores):
    weights = FCN_SHAPES | {skip: SKIP_SHAPES[skip] for skip in skips}
    expected = {f"{layer}.weight": shape for layer, shape in weights.items()}
    expected |= {f"{layer}.bias": shape[:1] for layer, shape in weights.items()}
    expected |= {f"{layer}.weight": (21, 21, size, size) for layer, size in upscores.items()}
    with torch.device("meta"):
        assert {key: tuple(value.shape) for key, value in MODELS[name]().state_dict().items()} == expected


# (input, output) channels of each decoder layer, and the side of its output for an image of 224.
DECONVNET_DECODER = {
    **{"fc6": (512, 4096, 1), "fc7": (4096, 4096, 1), "fc6_deconv": (4096, 512, 7)},
    **dict.fromkeys(("deconv5_1", "deconv5_2", "deconv5_3"), (512, 512, 14)),
    **{"deconv4_1": (512, 512, 28), "deconv4_2": (512, 512, 28), "deconv4_3": (512, 256, 28)},
    **{"deconv3_1": (256, 256, 56), "deconv3_2": (256, 256, 56), "deconv3_3": (256, 128, 56)},
    **{"deconv2_1": (128, 128, 112), "deconv2_2": (128, 64, 112)},
    **{"deconv1_1": (64, 64, 224), "deconv1_2": (64, 64, 224), "seg_score": (64, 21, 224)},
}
# The same for SegNet, by the rows of an image of 360x480.
SEGNET_DECODER = {
    **dict.fromkeys(("conv5_3_D", "conv5_2_D", "conv5_1_D"), (512, 512, 23)),
    **{"conv4_3_D": (512, 512, 45), "conv4_2_D": (512, 512, 45), "conv4_1_D": (512, 256, 45)},
    **{"conv3_3_D": (256, 256, 90), "conv3_2_D": (256, 256, 90), "conv3_1_D": (256, 128, 90)},
    **{"conv2_2_D": (128, 128, 180), "conv2_1_D": (128, 64, 180)},
    **{"conv1_2_D": (64, 64, 360), "conv1_1_D": (64, 11, 360)},
}


@pytest.mark.parametrize(("name", "decoder"), [("deconvnet", DECONVNET_DECODER), ("segnet", SEGNET_DECODER)])
@pytest.mark.parametrize("layers", ["segext", "torch"])
def test_published_layers(name, decoder, layers):
    """Channels, sizes, order, and what has batch norm."""
    with torch.device("meta"):
        model = MODELS[name](layers=layers)
        seen = {}
        for layer, module in model.named_modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                at = lambda module, _, y, layer=layer: seen.update(  # noqa: E731
                    {layer: (module.in_channels, module.out_channels, y.shape[2])}
                )
                module.register_forward_hook(at)
        model(torch.empty(2, 3, *PUBLISHED[name][2]))
    assert {layer: seen[layer][1::-1] for layer in VGG_SHAPES} == VGG_SHAPES
    assert {layer: found for layer, found in seen.items() if layer not in VGG_SHAPES} == decoder
    assert list(seen) == [*VGG_SHAPES, *decoder]
    norms = {key for key, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert norms == {f"{layer}_bn" for layer in seen} - {"seg_score_bn", "conv1_1_D_bn"}
    transposed = {key for key, module in model.named_modules() if isinstance(module, nn.ConvTranspose2d)}
    assert transposed == {layer for layer in seen if "deconv" in layer}


@pytest.mark.parametrize("name", MODELS)
def test_both_layer_sets_train_alike(name):
    """From one state dict, key for key, on sizes that no pool divides; in float64, so that rounding does not hide."""
    own, stock = narrow(name).double(), narrow(name, seed=1, layers="torch").double()
    assert list(own.state_dict()) == list(stock.state_dict())
    stock.load_state_dict(own.state_dict())
    x = image(*size_for(name), samples=3, dtype=torch.float64)
    (scores, gradients, buffers), (expected, stock_gradients, stock_buffers) = results(own, x), results(stock, x)
    torch.testing.assert_close(scores, expected, rtol=1e-9, atol=1e-11)
    assert gradients.keys() == stock_gradients.keys()
    scale = max(gradient.abs().max() for gradient in gradients.values())
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, stock_gradients[key], rtol=1e-7, atol=1e-10 * scale, msg=key)
    torch.testing.assert_close(buffers, stock_buffers)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", MODELS)
def test_both_layer_sets_score_alike(name, layout):
    own = narrow(name).eval().to(memory_format=layout)
    stock = narrow(name, seed=1, layers="torch").eval()
    stock.load_state_dict(own.state_dict())
    x = image(*size_for(name))
    with torch.no_grad():
        assert relative(own(x.contiguous(memory_format=layout)), stock(x)) <= 1e-5


@pytest.mark.parametrize(
    ("name", "at_once"),
    [("fcn32s", False), ("fcn16s", False), ("fcn16s", True), ("fcn8s", False), ("fcn8s", True)],
)
def test_fcn_is_the_published_computation(name, at_once):
    """Dense transposed convolutions on whole maps, then crops, written out from the authors' nets."""
    model = narrow(name, **({"at_once": True} if at_once else {})).eval()
    weights = model.state_dict()

    def conv(layer, x, padding=0):
        return F.conv2d(x, weights[f"{layer}.weight"], weights[f"{layer}.bias"], padding=padding)

    def crop(x, offset, like):
        return x[:, :, offset : offset + like.shape[2], offset : offset + like.shape[3]]

    for size in ((1, 1), (2, 7), (26, 33), (63, 90)):
        picture = image(*size)
        x, pools = picture, []
        for stage, count in enumerate((2, 2, 3, 3, 3), start=1):
            for i in range(1, count + 1):
                x = F.relu(conv(f"conv{stage}_{i}", x, padding=100 if (stage, i) == (1, 1) else 1))
            x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            pools.append(x)
        score = conv("score_fr", F.relu(conv("fc7", F.relu(conv("fc6", x)))))
        pool4, pool3 = (pools[3] * 0.01, pools[2] * 0.0001) if at_once else (pools[3], pools[2])
        if name != "fcn32s":
            score = F.conv_transpose2d(score, weights["upscore2.weight"], stride=2)
            score = score + crop(conv("score_pool4", pool4), 5, score)
        if name == "fcn8s":
            score = F.conv_transpose2d(score, weights["upscore_pool4.weight"], stride=2)
            score = score + crop(conv("score_pool3", pool3), 9, score)
        last, stride, offset = {
            "fcn32s": ("upscore", 32, 19),
            "fcn16s": ("upscore16", 16, 27),
            "fcn8s": ("upscore8", 8, 31),
        }[name]
        expected = crop(F.conv_transpose2d(score, weights[f"{last}.weight"], stride=stride), offset, picture)
        assert expected.shape == (2, 5, *size)
        with torch.no_grad():
            assert relative(model(picture), expected) <= 1e-5
        assert_labels(model.predict(picture), expected)


def assert_labels(labels, scores):
    """Labels of the largest scores, but for ties within rounding."""
    assert (labels.dtype, labels.shape) == (torch.uint8, scores[:, 0].shape)
    chosen = scores.gather(1, labels[:, None].long())[:, 0]
    assert (scores.amax(1) - chosen).max() <= 1e-5 * scores.abs().max()
    assert (labels == scores.argmax(1)).float().mean() > 0.99


@pytest.mark.parametrize("layers", ["segext", "torch"])
@pytest.mark.parametrize("name", MODELS)
def test_labels_are_of_the_largest_score(name, layers, monkeypatch):
    monkeypatch.setattr(encoder_decoder, "_BAND", 10_000)  # so that there are several bands
    model, x = narrow(name, layers=layers), image(*((131, 150) if name in FCNS else size_for(name)))
    with torch.no_grad():
        scores = model.eval()(x)
    assert len(scores.argmax(1).unique()) > 1
    assert_labels(model.predict(x), scores)
    assert_labels(model.predict(x[0])[None], scores[:1])


@pytest.mark.parametrize("layers", ["segext", "torch"])
@pytest.mark.parametrize("name", MODELS)
def test_no_images_have_no_labels(name, layers):
    size = size_for(name)
    labels = MODELS[name](width=NARROW, layers=layers).predict(torch.zeros(0, 3, *size))
    assert (labels.dtype, labels.shape) == (torch.uint8, (0, *size))


def rough_target(scores, *, ignored=None):
    """Made-up labels of all classes; with ``ignored``, a tenth of the pixels have that one."""
    target = torch.arange(scores[:, 0].numel()).view_as(scores[:, 0]) // 7 % scores.shape[1]
    return target if ignored is None else target.where(torch.arange(target.shape[-1]) % 10 > 0, ignored)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": "sum", "ignore_index": 255, "class_weight": torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0])},
        {"reduction": "none", "label_smoothing": 0.1, "ignore_index": 2},
    ],
    ids=["plain", "weighted", "smoothed"],
)
@pytest.mark.parametrize("layers", ["segext", "torch"])
@pytest.mark.parametrize("name", MODELS)
def test_loss_is_the_cross_entropy_of_the_scores(name, layers, options):
    more = {"learn_upscore": True, "dropout": 0.0} if name in FCNS else {}
    model, x = narrow(name, layers=layers, **more), image(*size_for(name))
    target = rough_target(model(x), ignored=options.get("ignore_index"))
    stock = {**options, "weight": options.get("class_weight")}
    stock.pop("class_weight", None)
    losses, gradients = [], []
    for run in (lambda: model(x, target, **options), lambda: F.cross_entropy(model(x), target, **stock)):
        model.zero_grad()
        losses.append(run())
        losses[-1].sum().backward()
        gradients.append({key: p.grad for key, p in model.named_parameters()})
    assert losses[0].shape == losses[1].shape
    assert relative(*losses) <= 1e-5
    largest = max(gradient.norm() for gradient in gradients[1].values())
    for key, expected in gradients[1].items():
        assert (gradients[0][key] - expected).norm() <= 1e-4 * expected.norm() + 1e-6 * largest, key


@pytest.mark.parametrize("layers", ["segext", "torch"])
@pytest.mark.parametrize("name", ["fcn8s", "segnet"])
def test_loss_of_targets_that_do_not_fit_raises_stocks_error(name, layers):
    model, x = narrow(name, layers=layers).eval(), image(37, 45)
    for target in (torch.zeros(2, 37, 44), torch.zeros(2, 36, 45, dtype=torch.long), torch.full((2, 37, 45), 5)):
        with pytest.raises((RuntimeError, ValueError, IndexError)) as expected:
            F.cross_entropy(model(x), target)
        with pytest.raises(expected.type):
            model(x, target)
    probabilities = model(x).detach().softmax(1)
    torch.testing.assert_close(model(x, probabilities), F.cross_entropy(model(x), probabilities))


@pytest.mark.parametrize("name", FCNS)
def test_loss_holds_no_scores_at_full_resolution(name):
    height, width = size_for(name)
    model, x = narrow(name).train(), image(height, width)
    target = torch.zeros(2, height, width, dtype=torch.long)
    with Shapes() as shapes:
        model(x, target).backward()
    assert not [shape for shape in shapes.seen if len(shape) == 4 and shape[1] == 5 and shape[3] >= width]


def test_many_classes():
    x = image(20, 20)
    assert narrow("fcn8s", num_classes=300).predict(x).dtype == torch.int64
    assert narrow("segnet", num_classes=300).predict(x).dtype == torch.int64


class Shapes(TorchDispatchMode):
    """Records the shape of every tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = result if isinstance(result, (tuple, list)) else (result,)
        self.seen |= {tuple(tensor.shape) for tensor in tensors if isinstance(tensor, torch.Tensor)}
        return result


@pytest.mark.parametrize("name", MODELS)
def test_prediction_holds_no_scores_at_full_resolution(name, monkeypatch):
    monkeypatch.setattr(encoder_decoder, "_BAND", 5_000)
    height, width = size_for(name)
    model, x = narrow(name), image(height, width)
    with Shapes() as shapes:
        model.predict(x)
    assert (2, height, width) in shapes.seen
    rows = [shape[2] for shape in shapes.seen if len(shape) == 4 and shape[1] == 5 and shape[3] >= width]
    assert not rows if name in FCNS else 0 < max(rows) < height / 2
    with Shapes() as shapes, torch.no_grad():
        model(x)
    assert (2, 5, height, width) in shapes.seen


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 5), (31, 33), (64, 96)])
def test_segnet_takes_any_size(size):
    own, stock = narrow("segnet").eval(), narrow("segnet", layers="torch").eval()
    x = image(*size)
    with torch.no_grad():
        assert own(x).shape == (2, 5, *size)
        assert relative(own(x), stock(x)) <= 1e-5
    assert own.predict(x).shape == (2, *size)


@pytest.mark.parametrize("size", [(193, 193), (224, 224), (225, 258)])
def test_deconvnet_takes_any_size_that_leaves_a_map_for_fc6(size):
    own, stock = narrow("deconvnet").eval(), narrow("deconvnet", layers="torch").eval()
    x = image(*size, samples=1)
    with torch.no_grad():
        assert own(x).shape == (1, 5, *size)
        assert relative(own(x), stock(x)) <= 1e-5


@pytest.mark.parametrize("kind", ["UnpoolConv2d", "UnpoolConvTranspose2d"])
def test_unpooling_by_int64_indices(kind):
    """As pools give them on a device that segext has no kernels for."""
    own, stock = (getattr(layer_set(name), kind)(4, 6, 3, padding=1) for name in ("segext", "torch"))
    stock.load_state_dict(own.state_dict())
    pooled, indices = F.max_pool2d(image(9, 11, channels=4), 2, ceil_mode=True, return_indices=True)
    torch.testing.assert_close(own(pooled, (indices, (9, 11))), stock(pooled, (indices, (9, 11))))


def test_errors():
    with pytest.raises(ValueError, match=r"DeconvNet takes images from 193x193 on.* but got 192x500"):
        narrow("deconvnet")(image(192, 500))
    for name in MODELS:
        with pytest.raises(ValueError, match=r"layers should be one of 'segext', 'torch', but got 'caffe'"):
            MODELS[name](layers="caffe")
        model = narrow(name)
        for shape in ((3, 224, 224), (2, 4, 224, 224), (1, 3, 0, 224)):
            with pytest.raises(ValueError, match=rf"\(N, 3, H, W\), but got \({', '.join(map(str, shape))}\)"):
                model(torch.zeros(shape))
        with pytest.raises(ValueError, match=r"but got \(224, 224\)"):
            model.predict(torch.zeros(224, 224))
        for dtype in (torch.uint8, torch.float64):
            with pytest.raises(TypeError, match=f"image should be of dtype torch.float32, .* but got {dtype}"):
                model.predict(torch.zeros(1, 3, 224, 224, dtype=dtype))
        assert model.training
    with pytest.raises(TypeError, match=r"num_classes should be an int, but got 5\.5"):
        MODELS["fcn8s"](5.5, width=NARROW)
    with pytest.raises(TypeError, match="num_classes should be an int, but got None"):
        MODELS["fcn8s"](None)
    with pytest.raises(TypeError, match="width should be a number, but got '1'"):
        MODELS["fcn8s"](width="1")


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("argument", ["num_classes", "in_channels", "width"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_sizes_that_make_no_network(name, argument, value):
    with pytest.raises(ValueError, match=f"{argument} should be a finite number above 0, but got {value}"):
        MODELS[name](**{"width": NARROW, argument: value})


@pytest.mark.parametrize("name", MODELS)
def test_options(name):
    torch.manual_seed(0)
    model = MODELS[name](7, in_channels=4, width=1 / 32)
    height, width = size_for(name)
    assert model(image(height, width, channels=4)).shape == (2, 7, height, width)
    assert model.conv4_2.out_channels == 16
    if name != "segnet":
        assert MODELS[name](7, width=1 / 32, fc_channels=1024).fc7.out_channels == 32


def test_prediction_takes_images_of_the_weights_dtype_or_what_autocast_casts():
    model, x = narrow("fcn8s"), image(64, 64)
    assert model.bfloat16().predict(x.bfloat16()).shape == (2, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.float().predict(x.bfloat16()).shape == (2, 64, 64)
        for dtype in (torch.uint8, torch.float64):
            with pytest.raises(TypeError, match=f"dtype torch.float32, .* but got {dtype}"):
                model.predict(x.to(dtype))


@pytest.mark.parametrize("name", MODELS)
def test_prediction_leaves_modes_and_state(name):
    model = narrow(name).train()
    model.conv1_1.eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    labels = model.predict(image(*size_for(name)))
    assert not labels.requires_grad
    assert model.training
    assert [key for key, module in model.named_modules() if not module.training] == ["conv1_1"]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(model.eval().predict(image(*size_for(name))), labels)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("name", FCNS)
def test_dropout_drops_elements_in_training_alone(name):
    model, x = narrow(name), image(40, 50)
    with torch.no_grad():
        assert not torch.equal(model.train()(x), model(x))
        assert torch.equal(model.eval()(x), model(x))
    assert isinstance(model.dropout, nn.Dropout)
    assert model.dropout.p == 0.5
    assert MODELS[name](width=NARROW, dropout=0.1).dropout.p == 0.1


def test_published_initialisation():
    torch.manual_seed(0)
    fcn, deconvnet, segnet = (MODELS[name](width=0.25) for name in ("fcn8s", "deconvnet", "segnet"))
    for layer in (fcn.score_fr, fcn.score_pool4, fcn.score_pool3):
        assert not layer.weight.any()
    row = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(fcn.upscore2.weight, (row[:, None] * row).expand(21, 1, 4, 4))
    assert fcn.upscore8.weight[0].sum() == 64
    for model in (fcn, deconvnet, segnet):
        for key, module in model.named_modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                assert not module.bias.any(), key
            elif isinstance(module, nn.BatchNorm2d):
                assert module.weight.eq(1).all(), key
                assert module.bias.eq(0.001).all(), key
    for model in (fcn, deconvnet, segnet):  # He's, which keeps the variance through ReLUs
        assert model.conv4_2.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.05)
    for layer in (deconvnet.fc6_deconv, deconvnet.deconv4_2, deconvnet.seg_score):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert segnet.conv3_2_D.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_trains_from_scratch(name):
    """Bright boxes on dark ground: a few steps from the initial weights, and the loss is below what the share of their
    pixels alone gives."""
    torch.manual_seed(0)
    model = MODELS[name](2, width=NARROW, **({"dropout": 0.0} if name in FCNS else {}))
    side = 193 if name == "deconvnet" else 64
    target = torch.zeros(2, side, side, dtype=torch.long)
    target[0, side // 4 : side // 2, side // 4 : side * 2 // 3] = 1
    target[1, side // 4 : side * 3 // 4, side // 4 : side // 2] = 1
    x = target[:, None].float().expand(-1, 3, -1, -1) + 0.1 * torch.randn(2, 3, side, side)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), 0.002 if name in FCNS else 0.03)
    losses = []
    for _ in range(24):
        loss = model(x, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    share = target.float().mean()
    assert losses[-1] < 0.9 * -(share * share.log() + (1 - share) * (1 - share).log()), losses


@pytest.mark.parametrize("layers", ["segext", "torch"])
@pytest.mark.parametrize("name", ["deconvnet", "segnet"])
def test_recomputing_changes_no_bit(name, layers):
    """Scores, gradients and running statistics, which count each batch once; in evaluation mode too."""
    plain, recomputing = (narrow(name, layers=layers, recompute=recompute) for recompute in (False, True))
    x = image(*size_for(name))
    expected, actual = results(plain, x), results(recomputing, x)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    assert actual[2]["conv3_1_bn.num_batches_tracked"] == 2  # with that of `narrow`
    for model in (plain, recomputing):
        model.zero_grad()
        model.eval()(x).square().sum().backward()
    for one, other in zip(plain.parameters(), recomputing.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    torch.testing.assert_close(dict(recomputing.named_buffers()), expected[2], rtol=0, atol=0)


class Convolutions(TorchDispatchMode):
    """Counts convolutions that run forwards."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten.convolution.default, torch.ops.segext.unpool_conv2d.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("layers", ["segext", "torch"])
def test_recomputing_repeats_no_convolution(layers):
    model, x = narrow("segnet", layers=layers, recompute=True), image(32, 32)
    with Convolutions() as forward:
        loss = model(x).sum()
    assert forward.count == 26
    with Convolutions() as backward:
        loss.backward()
    assert backward.count == 0


def kept_bytes(name, size, **options):
    torch.manual_seed(0)
    model, x = MODELS[name](width=NARROW, **options), image(*size)
    return saved_bytes(lambda: model(x), [x, *model.parameters(), *model.buffers()])


def test_bytes_kept_for_the_backward_pass():
    """Widths scale every map alike, so that the ratios are those of the published width."""
    stock, plain, recomputing = (
        kept_bytes("deconvnet", (224, 224), **options) for options in ({"layers": "torch"}, {}, {"recompute": True})
    )
    assert stock == pytest.approx(499e6 * NARROW, rel=0.01)  # as counted from the layers of the published net
    assert plain <= 0.78 * stock
    assert recomputing <= 0.5 * stock
    fcn = kept_bytes("fcn8s", (224, 224), layers="torch")
    assert fcn == pytest.approx(532e6 * NARROW, rel=0.01)
    assert plain < fcn
    assert kept_bytes("fcn8s", (224, 224)) <= 0.52 * fcn
    stock = kept_bytes("segnet", (120, 160), layers="torch")
    assert kept_bytes("segnet", (120, 160)) <= 0.78 * stock
    assert kept_bytes("segnet", (120, 160), recompute=True) <= 0.5 * stock


@pytest.mark.parametrize("name", MODELS)
def test_compiles_without_a_break(name):
    """What the compiler is handed is one graph that computes the same; code for it is not generated here."""
    torch.compiler.reset()
    model = narrow(name).eval()
    x = image(*size_for(name))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert relative(compiled(x), model(x)) <= 1e-5


def test_trains_compiled():
    """The compiler, rather than `recompute`, then chooses what is kept."""
    torch.compiler.reset()
    eager, x = narrow("segnet", recompute=True).double(), image(40, 50, samples=3, dtype=torch.float64)
    compiled = copy.deepcopy(eager)
    actual = results(torch.compile(compiled, fullgraph=True, backend="aot_eager"), x)
    torch.testing.assert_close(actual[0], results(eager, x)[0])
    torch.testing.assert_close(dict(compiled.named_buffers()), dict(eager.named_buffers()))
    for (key, one), other in zip(eager.named_parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-6, atol=1e-10, msg=key)


def test_compiled_code_scores_alike():
    """With code that the compiler generates, for one network."""
    torch.compiler.reset()
    model, x = narrow("fcn16s").eval(), image(37, 45)
    with torch.no_grad():
        assert relative(torch.compile(model, fullgraph=True)(x), model(x)) <= 1e-5


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit")
def test_traced_code_scores_alike():
    """FCN alone: a trace takes no unpooling."""
    model = narrow("fcn8s").eval()
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, image(40, 48, samples=1)), file)
    file.seek(0)
    traced = torch.jit.load(file)
    for height, width in ((40, 48), (53, 41)):
        x = image(height, width, samples=3)
        with torch.no_grad():
            assert relative(traced(x), model(x)) <= 1e-5


@pytest.mark.parametrize("trip", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("name", MODELS)
def test_copies(name, trip):
    model, x = narrow(name).eval(), image(*size_for(name))
    twin = trip(model)
    with torch.no_grad():
        assert torch.equal(twin(x), model(x))
        twin.conv1_1.weight.zero_()
        assert not torch.equal(twin(x), model(x))


@pytest.mark.parametrize("name", MODELS)
def test_mixed_precision(name):
    model, x = narrow(name, **({"recompute": True} if name not in FCNS else {})), image(*size_for(name))
    with torch.autocast("cpu", torch.bfloat16):
        scores = model(x)
    scores.float().sum().backward()
    assert scores.dtype == torch.bfloat16
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(("name", "layers"), [*((name, "segext") for name in MODELS), ("fcn8s", "torch")])
def test_exported_programs_take_images_of_all_sizes(name, layers):
    """Those of which an FCN's upsampled scores are no larger than must be, too. But torch's own checks tell maps of one
    pixel, which DeconvNet's smallest images leave, from others."""
    model, least = narrow(name, layers=layers).eval(), 193 if name == "deconvnet" else 1
    axes = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(model, (image(69 + least, 94 + least),), dynamic_shapes=(axes,)).module()
    for height, width in ((69, 89), (57, 63), (89, 64), (130, 201)):
        x = image(height + least, width + least)
        assert relative(program(x), model(x)) < 1e-5
