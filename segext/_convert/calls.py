"""Classifies one call in a graph: pool, unpooling, convolution or ReLU, its window, and its effects on its tensors.

A node of a graph that ``dataflow`` made carries in ``meta`` the layer it calls, as ``module`` (None for functions).
"""

import inspect
import operator
from collections.abc import Callable, Iterable

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils import checkpoint

from .. import functional
from .. import nn as layers
from ..arguments import pair_or_none
from . import source, swaps
from .trace import IN_PLACE

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
STOCK_LAYERS = (nn.MaxPool2d, nn.MaxUnpool2d, nn.ConvTranspose2d)

_OF_KIND = {
    "relu": (nn.ReLU, F.relu, torch.relu, torch.relu_, "relu", "relu_"),
    "pool": (
        *(nn.MaxPool2d, F.max_pool2d, F.max_pool2d_with_indices, torch.max_pool2d),
        *(layers.MaxPool2d, functional.max_pool2d, swaps.max_pool2d_with_indices),
    ),
    "relu_pool": (layers.ReLUMaxPool2d, functional.relu_max_pool2d, swaps.relu_max_pool2d_with_indices),
    "unpool": (
        *(nn.MaxUnpool2d, F.max_unpool2d, layers.MaxUnpool2d, functional.max_unpool2d),
        *(swaps.MaxUnpool2d, swaps.max_unpool2d, swaps.DeferredMaxUnpool2d, swaps.deferred_max_unpool2d),
    ),
    "convolution": (
        *(nn.Conv2d, nn.ConvTranspose2d, F.conv_transpose2d),
        *(layers.ConvTranspose2d, functional.conv_transpose2d),
    ),
}
# What a layer, function or method computes.
KINDS = {key: kind for kind, keys in _OF_KIND.items() for key in keys}
# The name in segext of what replaces a layer or function of stock's by itself.
SUCCESSORS = {
    **{layer: layer.__name__ for layer in STOCK_LAYERS},
    **dict.fromkeys((F.max_pool2d, F.max_pool2d_with_indices, torch.max_pool2d), "max_pool2d"),
    F.max_unpool2d: "max_unpool2d",
    F.conv_transpose2d: "conv_transpose2d",
}
_POOL = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_UNPOOL = ("input", "indices", "kernel_size", "stride", "padding", "output_size")
# Calls that return a new tensor, never a view of an argument.
_FRESH_LAYERS = (*STOCK_LAYERS, nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.Linear)
_FRESH_CALLS = (
    *(F.conv2d, torch.conv2d, F.conv_transpose2d, F.batch_norm, torch.cat),
    *(torch.add, operator.add, operator.mul),
)
_OUR_MODULES = sorted({getattr(functional, name).__module__ for name in functional.__all__})
_KNOWN_MODULES = ("torch", "_operator", "operator", "math", "builtins", *_OUR_MODULES)


def target(node: fx.Node):
    """The type of layer, function or method name that a node calls."""
    return type(node.meta["module"]) if node.op == "call_module" else node.target


def kind(node: fx.Node) -> str | None:
    return KINDS.get(target(node)) if node.op.startswith("call") else None


def title(key) -> str:
    """A type, function or method as users write it."""
    if isinstance(key, type):
        return f"nn.{key.__name__}"
    if isinstance(key, str):
        return f"Tensor.{key}"
    homes = {name for name, home in (("torch", torch), ("F", F)) if getattr(home, key.__name__, None) is key}
    home = "torch" if homes == {"torch"} else "F"
    return f"{home}.{key.__name__.removesuffix('_with_indices')}"


def arguments(node: fx.Node) -> dict[str, object]:
    """The arguments of a pool or unpooling by stock's names, from the call and the layer."""
    names = _UNPOOL if kind(node) == "unpool" else _POOL
    called = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    if node.target is F.max_pool2d_with_indices:
        called["return_indices"] = True
    module = node.meta["module"]
    return called | {name: getattr(module, name) for name in names if hasattr(module, name)}


def operand(node: fx.Node) -> object:
    """The input tensor of a ReLU, an unpooling or a convolution."""
    return node.args[0] if node.args else node.kwargs["input"]


def window(arguments: dict[str, object]) -> tuple | None:
    """(kernel, stride, padding) as pairs and the dilation; None if the graph does not determine them."""
    kernel = arguments.get("kernel_size")
    values = (kernel, arguments.get("stride") or kernel, arguments.get("padding", 0), arguments.get("dilation", 1))
    *pairs, dilation = map(pair_or_none, values)
    return None if None in (*pairs, dilation) else (tuple(pairs), dilation)


def overlaps(window: tuple | None) -> bool:
    if window is None:
        return True
    (kernel, stride, _), dilation = window
    return any(s < d * (k - 1) + 1 for k, s, d in zip(kernel, stride, dilation, strict=True))


def undoes(unpool: nn.Module, pool: nn.Module) -> bool:
    """Whether a stock unpooling layer, as configured, can read a pooling layer's switches."""
    if type(unpool) is not nn.MaxUnpool2d or is_hooked(unpool) or "forward" in vars(unpool):
        return False
    window_of_pool = window(vars(pool))
    return not overlaps(window_of_pool) and window_of_pool[0] == window(vars(unpool))[0]


def is_container(module: nn.Module) -> bool:
    """Whether a module has no forward: its owner calls what it holds."""
    return getattr(type(module), "forward", None) is nn.Module.forward  # a ScriptModule's type has none


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a layer of torch or segext: a leaf that computes what its documentation says."""
    if isinstance(module, (nn.Sequential, *_WRAPPERS)):
        return False
    home = parametrize.type_before_parametrizations(module).__module__
    return home.startswith(("torch.nn.", layers.__name__, swaps.__name__))


def inside(module: nn.Module | None) -> nn.Module | None:
    """The module that a wrapper, which computes nothing itself, calls in its place; else the module."""
    while isinstance(module, _WRAPPERS) and not is_hooked(module):
        module = module.module
    return module


def is_hooked(module: nn.Module) -> bool:
    kinds = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(kinds)


def is_opaque(node: fx.Node) -> bool:
    """Whether the inside of a call is unknown."""
    if node.op == "call_module":
        return not is_layer(node.meta["module"])
    home = getattr(node.target, "__module__", None) or "torch"
    is_known = (home in _KNOWN_MODULES or home.startswith("torch.")) and home != checkpoint.__name__
    return node.op == "call_function" and not is_known


def is_fresh(node: fx.Node) -> bool:
    """Whether a call returns a new tensor that nothing else can access."""
    if node.op == "call_module":
        module = node.meta["module"]
        return isinstance(module, _FRESH_LAYERS) and is_layer(module) and not is_hooked(module)
    if node.target in _FRESH_CALLS and "out" not in node.kwargs:
        return True
    return kind(node) in ("pool", "relu_pool", "unpool")


def hooks_change(hooks: Iterable[Callable]) -> bool:
    """Whether a hook may change a tensor in place."""
    return any(not inspect.isfunction(h) or any(map(source.works_in_place, source.run_by(h, {}))) for h in hooks)


def mutates(node: fx.Node) -> bool:
    """Whether a call may modify an existing tensor."""
    if not node.op.startswith("call"):
        return False
    if is_opaque(node) or node.target in (*IN_PLACE, operator.setitem):
        return True
    if (schema := getattr(node.target, "_schema", None)) is not None:
        return schema.is_mutable
    if node.op == "call_module":
        module = node.meta["module"]
        return getattr(module, "inplace", False) or hooks_change(module._forward_pre_hooks.values())
    name = node.target if isinstance(node.target, str) else node.target.__name__
    flagged = node.kwargs.get("inplace") or any(a is True for a in node.args) or "out" in node.kwargs
    return bool((name.endswith("_") and name != "requires_grad_") or flagged)


def spares(node: fx.Node, operand: fx.Node) -> bool:
    """Whether a call modifies another operand, leaving this one alone and returning no view of it: ``x += operand``."""
    return node.target in (*IN_PLACE, operator.setitem) and node.args[0] is not operand
