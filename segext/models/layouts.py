"""The layer names in published weights, and the models' layers that they correspond to."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from .vgg import convolution_names


@dataclass(frozen=True)
class Layout:
    """A naming scheme for the layers of published weights.

    Args:
        name: its name in reports.
        own: the models' name for each layer, such as conv1_1 for features.0; layers that no model has keep their name.
        normalised: whether these networks were trained with batch norm.
    """

    name: str
    own: dict[str, str]
    normalised: bool


def recognise(keys: Collection[str]) -> Layout:
    """The layout of a state dict, from its keys.

    Raises:
        ValueError: for keys of no known layout.
    """
    layers = {key.rpartition(".")[0] for key in keys}
    features = {layer for layer in layers if layer.startswith("features.")}
    for name, batch_norm in (("torchvision's vgg16", False), ("torchvision's vgg16_bn", True)):
        names = _features(batch_norm)
        if features == set(names):
            names |= {"classifier.0": "fc6", "classifier.3": "fc7"}
            return Layout(name, {layer: names.get(layer, layer) for layer in layers}, batch_norm)
    own = {layer: _own_name(layer) for layer in layers}
    if {name for stage in convolution_names() for name in stage} <= set(own.values()):
        for telling, name, normalised in _CAFFE_NETS:
            if telling in own.values():
                return Layout(name, own, normalised)
    some = ", ".join(list(keys)[:3]) or "none at all"
    raise ValueError(
        "these weights are of no known layout: neither torchvision's vgg16 or vgg16_bn, nor the layer names of FCN, "
        f"SegNet, DeconvNet or VGG-16 in Caffe. Their first keys: {some}"
    )


# A layer that identifies a network's naming scheme, the scheme's name, and whether the network has batch norm.
_CAFFE_NETS = (
    ("score_fr", "FCN's names", False),
    ("conv5_3_D", "SegNet's names", True),
    ("deconv5_1", "DeconvNet's names", True),
    ("conv1_1", "VGG-16's names", False),
)

# Where DeconvNet's names in Caffe differ from the models'.
_DECONVNET = (
    (r"bn(\d_\d)", r"conv\1_bn"),
    (r"debn(\d_\d)", r"deconv\1_bn"),
    (r"bn(fc[67])", r"\1_bn"),
    (r"fc6-deconv", "fc6_deconv"),
    (r"fc6-deconv-bn", "fc6_deconv_bn"),
    (r"seg-score-voc", "seg_score"),
)


def _own_name(layer: str) -> str:
    for pattern, own in _DECONVNET:
        if match := re.fullmatch(pattern, layer):
            return match.expand(own)
    return layer


def _features(batch_norm: bool) -> dict[str, str]:
    """The models' names for torchvision's ``features.N``: convolutions and batch norms."""
    names, index = {}, 0
    for stage in convolution_names():
        for name in stage:
            names[f"features.{index}"] = name
            if batch_norm:
                names[f"features.{index + 1}"] = f"{name}_bn"
            index += 3 if batch_norm else 2  # with the ReLU
        index += 1  # the pool
    return names
