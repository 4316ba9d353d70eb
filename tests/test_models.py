"""The networks: published sizes and counts, the two sets of layers, labels, modes and copies."""

import pytest
import torch

from segext.models import MODELS

FCNS = ("fcn32s", "fcn16s", "fcn8s")
NARROW = 1 / 16

# Parameters and tensors of the state dict at full width, and the image that papers count for.
PUBLISHED = {
    "fcn32s": (136_152_917, 33, (500, 500)),
    "fcn16s": (134_815_994, 36, (500, 500)),
    "fcn8s": (134_489_759, 39, (500, 500)),
    "deconvnet": (251_805_653, 60 + 5 * 29, (224, 224)),
    "segnet": (29_449_355, 52 + 5 * 25, (360, 480)),
}


def narrow(name, *, seed=0, num_classes=5, **options):
    """A network of a sixteenth of the width whose scores say something, as if it had been trained: score layers are
    not zero, and batch norm has the statistics of an image."""
    torch.manual_seed(seed)
    model = MODELS[name](num_classes, width=NARROW, **options)
    for key, parameter in model.named_parameters():
        if key.startswith("score") and key.endswith("weight"):
            torch.nn.init.normal_(parameter)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = None  # the mean of all batches, of which there is one
        with torch.no_grad():
            model(image(256, 256))
        for norm in norms:
            norm.momentum = 0.1
    return model


def image(height, width, *, samples=2, channels=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(samples, channels, height, width, generator=generator, dtype=dtype)


def parameters_of(state):
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return {key: value for key, value in state.items() if not key.endswith(buffers)}


def relative(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("name", MODELS)
def test_published_counts(name):
    count, tensors, size = PUBLISHED[name]
    with torch.device("meta"):
        model = MODELS[name]()
        state = model.state_dict()
        assert len(state) == tensors
        assert sum(value.numel() for value in parameters_of(state).values()) == count
        classes = 11 if name == "segnet" else 21
        assert model.eval()(torch.empty(1, 3, *size)).shape == (1, classes, *size)


@pytest.mark.parametrize("name", MODELS)
def test_both_layer_sets_score_alike(name):
    """From one state dict, key for key, on a size that no pool divides."""
    own, torch_s = narrow(name).eval(), narrow(name, seed=1, layers="torch").eval()
    assert list(own.state_dict()) == list(torch_s.state_dict())
    torch_s.load_state_dict(own.state_dict())
    x = image(201, 197, samples=1)
    with torch.no_grad():
        assert relative(own(x), torch_s(x)) <= 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_labels_are_of_the_largest_score(name):
    for layers in ("segext", "torch"):
        model, x = narrow(name, layers=layers), image(203, 194)
        labels = model.predict(x)
        assert (labels.dtype, labels.shape) == (torch.uint8, (2, 203, 194))
        assert len(labels.unique()) > 1
        with torch.no_grad():
            scores = model.eval()(x)
        chosen = scores.gather(1, labels[:, None].long())[:, 0]
        assert (scores.amax(1) - chosen).max() <= 1e-5 * scores.abs().max()  # ties within rounding
        assert (labels == scores.argmax(1)).float().mean() > 0.999
        assert (model.predict(x[0]) == labels[0]).float().mean() > 0.999
