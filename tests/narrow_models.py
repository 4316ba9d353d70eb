"""Networks of ``segext.models`` at a sixteenth of their width, images for them, and how far two results are apart."""

import torch
from torch import nn

from segext.models import MODELS

FCNS = ("fcn32s", "fcn16s", "fcn8s")
NARROW = 1 / 16


def narrow(name, *, seed=0, num_classes=5, **options):
    """A network of a sixteenth of the width as if it had been trained: score layers are not zero but tell classes
    apart, and batch norms have the statistics of a batch."""
    torch.manual_seed(seed)
    model = MODELS[name](num_classes, width=NARROW, **options)

    def centre(layer, _, scores):
        layer.bias.sub_(scores.mean((0, 2, 3)))

    hooks = []
    for key, module in model.named_children():
        if key.startswith("score"):
            nn.init.normal_(module.weight)
            hooks.append(module.register_forward_hook(centre))
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches, of which there is one
    with torch.no_grad():  # DeconvNet's fc6 and fc7 need more than a pixel a sample for statistics worth the name
        model(image(*((257, 257) if name == "deconvnet" else size_for(name))))
    for hook in hooks:
        hook.remove()
    for module in model.children():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return model


def size_for(name):
    """A size that no pool divides, large enough for the network."""
    return (201, 197) if name == "deconvnet" else (37, 45)


def image(height, width, *, samples=2, channels=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(samples, channels, height, width, generator=generator, dtype=dtype)


def relative(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()
