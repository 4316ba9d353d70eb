"""Loads published weights into a model, and reports what happened to each tensor."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .layouts import Layout, recognise

# The keys under which checkpoints keep the state dict, and the prefixes that wrappers add to its keys.
_WRAPPINGS = ("state_dict", "model_state_dict", "model_state", "model")
_PREFIXES = ("module.", "_orig_mod.")

_EPS = 1e-5  # of batch norm in torchvision's nets, and by default in torch


@dataclass
class LoadReport:
    """What :func:`load_weights` did; ``print`` shows it, one line per layer.

    Args:
        layout: the naming scheme of the weights.
        model: the model's class.
        loaded: key of the model to the key that it was loaded from.
        neutral: keys of batch norms that were set to the identity.
        missing: keys of the model that were left unchanged.
        unused: key of the weights to the reason why it was not loaded.
        notes: further decisions.
    """

    layout: str
    model: str
    loaded: dict[str, str] = field(default_factory=dict)
    neutral: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        head = (
            f"{self.layout} into {self.model}: {len(self.loaded)} tensors loaded, {len(self.missing)} missing, "
            f"{len(self.unused)} not used"
        )
        rows = [("loaded", _layer(key), f"from {_layer(source)}") for key, source in self.loaded.items()]
        loaded = {_layer(key) for key in self.loaded}
        rows += [("neutral", _layer(key), "changes nothing") for key in self.neutral if _layer(key) not in loaded]
        rows += [("missing", _layer(key), "stays as it was") for key in self.missing]
        rows += [("not used", _layer(key), reason) for key, reason in self.unused.items()]
        rows = list(dict.fromkeys(rows))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n  ".join([head, *lines, *(f"note: {note}" for note in self.notes)])


def load_weights(
    model: nn.Module, source: str | os.PathLike | Mapping[str, object], *, skip: Collection[str] = ()
) -> LoadReport:
    """Load published weights into a network of this package.

    ::

        print(load_weights(fcn8s(), "vgg16.pth"))

    Supported are torchvision's ``vgg16`` and ``vgg16_bn``, whose first two fully connected layers become the
    convolutions fc6 and fc7, and the layer names that the authors of FCN, SegNet and DeconvNet used in Caffe. They
    differ in batch norm:

    - For a model without batch norm, it is folded into the convolutions, which changes no prediction.
    - Scale and shift without statistics are taken to have them folded in, as in the authors' networks for inference.
    - Weights of SegNet or DeconvNet with no batch norm at all are taken to have it folded into the convolutions.
    - Weights of networks without batch norm, such as VGG-16, leave the model's unchanged.

    Names do not tell everything: SegNet's are shared by networks that rectify before they normalise, which this one
    does not, and FCN-8s trained at once needs ``at_once=True``.

    Args:
        model: the model whose parameters and buffers are set. After an error all are unchanged.
        source: a file, which is read with ``weights_only=True``, or a mapping: a state dict, a checkpoint that contains
            one, or Caffe's ``{layer: (weight, bias)}``. Values are tensors or arrays. For a ``.caffemodel``, which only
            Caffe reads, the mapping is ``{name: [b.data for b in blobs] for name, blobs in net.params.items()}``.
        skip: layers of the model to leave unchanged, such as score layers for classes other than those of the weights.

    Returns:
        What was loaded, what is missing, and what was not used and why.

    Raises:
        ValueError: for a file without weights, weights of an unknown layout, a tensor that does not fit, a batch norm
            to fold that lacks one, or a ``skip`` that the model does not have.
        TypeError: for a ``skip`` that is a string.
    """
    if isinstance(skip, str):
        raise TypeError(f"skip should be a list of layers, but got the string {skip!r}")
    tensors = _read(source)
    layout = recognise(tensors)
    state = model.state_dict()
    layers = {_layer(key) for key in state}
    if unknown := sorted(set(skip) - layers):
        raise ValueError(f"skip should name layers of {type(model).__name__}, but got {unknown[0]!r}")

    report = LoadReport(layout.name, type(model).__name__)
    # By the models' keys: the tensor and its key in the weights.
    given = {f"{layout.own[_layer(key)]}.{_kind(key)}": (tensor, key) for key, tensor in tensors.items()}
    _fold_batch_norms(given, layers, report)
    updates = _matching(given, state, layers, skip, report)
    _neutralise_batch_norms(model, layout, given, updates, report)
    model.load_state_dict(updates, strict=False)
    report.missing = [key for key in state if key not in updates and _kind(key) != "num_batches_tracked"]
    return report


def _fold_batch_norms(given: dict[str, tuple[Tensor, str]], layers: set[str], report: LoadReport) -> None:
    """Folds a batch norm of the weights into the convolution if the model has none there."""
    norms = {_layer(key): _layer(source) for key, (_, source) in given.items() if _layer(key).endswith("_bn")}
    folded = [layer for layer in sorted(layers) if f"{layer}_bn" in norms and f"{layer}_bn" not in layers]
    for layer in folded:
        norm = norms[f"{layer}_bn"]
        values = scale, shift, mean, variance = _batch_norm(given, f"{layer}_bn", norm)
        if f"{layer}.weight" not in given:
            raise ValueError(f"the weights have a batch norm {norm}, but no convolution before it")
        weight, weight_key = given[f"{layer}.weight"]
        bias, bias_key = given.get(f"{layer}.bias", (torch.zeros_like(scale), f"{norm}.bias"))
        if any(value is not None and value.shape != weight.shape[:1] for value in (*values, bias)):
            raise ValueError(f"{norm} does not fit {weight_key} of shape {tuple(weight.shape)}")
        if variance is not None:
            scale = scale / torch.sqrt(variance + _EPS)
            shift = shift - mean * scale
        given[f"{layer}.weight"] = weight * scale.view(-1, 1, 1, 1), weight_key
        given[f"{layer}.bias"] = bias * scale + shift, bias_key
    if folded:
        report.notes.append(f"{len(folded)} batch norms are folded into the convolutions before them")


def _batch_norm(given: dict[str, tuple[Tensor, str]], layer: str, source: str) -> list[Tensor | None]:
    """Takes scale, shift, mean and variance of a batch norm, called ``source`` in the weights, out of ``given``."""
    given.pop(f"{layer}.num_batches_tracked", None)
    kinds = ("weight", "bias", "running_mean", "running_var")
    values = [given.pop(f"{layer}.{kind}", (None,))[0] for kind in kinds]
    needed = kinds if any(value is not None for value in values[2:]) else kinds[:2]
    for kind, value in zip(needed, values, strict=False):
        if value is None:
            raise ValueError(f"the weights have a batch norm {source}, but no {source}.{kind}")
    return [None if value is None else value.flatten() for value in values]


def _matching(
    given: dict[str, tuple[Tensor, str]],
    state: dict[str, Tensor],
    layers: set[str],
    skip: Collection[str],
    report: LoadReport,
) -> dict[str, Tensor]:
    """What goes into the model, by its keys."""
    updates, misfits = {}, []
    for own, (tensor, key) in given.items():
        if _layer(own) in skip:
            report.unused[key] = "skipped"
        elif own not in state:
            report.unused[key] = f"the model has no {own if _layer(own) in layers else _layer(own)}"
        elif tensor.is_floating_point() and tensor.isnan().any():
            report.unused[key] = "holds NaN"
        elif not _fits(tensor, state[own]):
            misfits.append(f"{key} of shape {tuple(tensor.shape)} does not fit {own} of {tuple(state[own].shape)}")
        else:
            updates[own] = tensor.reshape(state[own].shape)
            report.loaded[own] = key
    if misfits:
        more = f" (and {len(misfits) - 1} more)" if len(misfits) > 1 else ""
        raise ValueError(f"{misfits[0]}{more}")
    return updates


def _fits(tensor: Tensor, target: Tensor) -> bool:
    """Whether the shapes are equal, or differ as allowed for fully connected layers or Caffe's batch norm."""
    if tensor.shape == target.shape:
        return True
    if target.dim() == 4 and tensor.dim() == 2:  # (outputs, inputs * height * width)
        return tensor.shape == target.flatten(1).shape
    return target.dim() == 1 and tensor.shape == (1, len(target), 1, 1)


def _neutralise_batch_norms(
    model: nn.Module,
    layout: Layout,
    given: dict[str, tuple[Tensor, str]],
    updates: dict[str, Tensor],
    report: LoadReport,
) -> None:
    """Sets the model's batch norms to the identity if they are folded into the weights."""
    absorbed = layout.normalised and not any(_layer(key).endswith("_bn") for key in given)
    for name, norm in model.named_modules():
        if not isinstance(norm, nn.BatchNorm2d) or f"{name}.running_var" in updates:
            continue
        neutral = {}
        if absorbed and f"{name.removesuffix('_bn')}.weight" in updates:
            neutral = {"weight": torch.ones_like(norm.weight), "bias": torch.zeros_like(norm.bias)}
        elif f"{name}.weight" not in updates:
            continue
        neutral["running_mean"] = torch.zeros_like(norm.running_mean)
        neutral["running_var"] = torch.full_like(norm.running_var, 1 - norm.eps)
        updates |= {f"{name}.{kind}": tensor.detach() for kind, tensor in neutral.items()}
        report.neutral += [f"{name}.{kind}" for kind in neutral]
    if report.neutral:
        where = "convolutions" if absorbed else "scale and shift"
        report.notes.append(f"statistics are taken to be folded into {where}; training would take new ones")


def _read(source: str | os.PathLike | Mapping[str, object]) -> dict[str, Tensor]:
    """The state dict in a file, a checkpoint or a mapping, without the prefixes of wrappers."""
    where = "the mapping"
    if isinstance(source, (str, os.PathLike)):
        where = os.fspath(source)
        try:
            source = torch.load(source, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, LookupError, struct.error) as error:
            hint = "; pass the mapping {layer: (weight, bias)} that Caffe reads from it" * (".caffemodel" in where)
            raise ValueError(f"{where} is not a file that torch.load(weights_only=True) reads{hint}") from error
    for wrapping in _WRAPPINGS:
        if isinstance(source, Mapping) and isinstance(source.get(wrapping), Mapping):
            source = source[wrapping]
    if not isinstance(source, Mapping):
        raise ValueError(f"{where} should hold a state dict, but holds a {type(source).__name__}")
    if odd := [key for key in source if not isinstance(key, str)]:
        raise ValueError(f"{where} should hold a state dict, whose keys are strings, but has the key {odd[0]!r}")
    tensors: dict[str, Tensor] = {}
    for key, value in source.items():
        blobs = zip(("weight", "bias"), value, strict=False) if isinstance(value, (list, tuple)) else ()
        for name, blob in {f"{key}.{kind}": blob for kind, blob in blobs}.items() or [(key, value)]:
            try:
                tensors[name] = torch.as_tensor(blob).detach()
            except (TypeError, ValueError, RuntimeError):
                raise ValueError(f"{where} should hold tensors, but {name} is a {type(blob).__name__}") from None
    for prefix in _PREFIXES:
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def _layer(key: str) -> str:
    return key.rpartition(".")[0]


def _kind(key: str) -> str:
    return key.rpartition(".")[2]
