"""Reads one module's own forward as a torch.fx graph, children as leaves, or refuses where a trace would not tell all.

A trace runs the forward once on stand-ins for tensors. What that run would hide (a branch on the mode or on an optional
argument, a type test, ``no_grad``, state kept on the module, random numbers) makes a forward unreadable.
"""

import inspect
import operator
import random
from collections.abc import Iterator

import torch
from torch import fx, nn
from torch.nn.utils import parametrize
from torch.utils import checkpoint

from .. import functional
from .. import nn as layers

_OPERATORS = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
IN_PLACE = tuple(getattr(operator, f"i{name}") for name in _OPERATORS)
# What a trace adds to a graph for an argument that has a given value.
_GUARDS = (operator.eq, torch._assert, fx._symbolic_trace._assert_is_none)
# Classes that a conversion may give to layers.
_SWAPS = ({nn.MaxPool2d: layers.ReLUMaxPool2d, nn.MaxUnpool2d: layers.MaxUnpool2d}, {nn.ReLU: nn.Identity})


class Untraceable(Exception):
    """Why a forward cannot be read; ``graph`` is what was read before that showed."""

    graph: fx.Graph | None = None


class _Proxy(fx.Proxy):
    """Records ``x += y`` as in place; fx itself takes it for ``x = x + y``."""


def _in_place(operation):
    return lambda self, other: self.tracer.create_proxy("call_function", operation, (self, other), {})


for _operation in IN_PLACE:
    setattr(_Proxy, f"__{_operation.__name__}__", _in_place(_operation))


class Tracer(fx.Tracer):
    """Records one forward, children as leaves."""

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        calls = (functional.max_pool2d, functional.relu_max_pool2d, functional.max_unpool2d, checkpoint.checkpoint)
        super().__init__(autowrap_functions=calls)  # recorded as calls; looked for in forwards, and in these modules:
        self._autowrap_search += [functional, checkpoint]
        self._context = _context()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def to_bool(self, obj: fx.Proxy) -> bool:
        if obj.node.op == "get_attr" and obj.node.target.split(".")[-1] == "training":
            raise Untraceable("its forward runs other calls in training than in evaluation")
        return super().to_bool(obj)

    def create_node(self, *args, **kwargs) -> fx.Node:
        if _context() != self._context:
            raise Untraceable("its forward enters a context such as no_grad or autocast")
        return super().create_node(*args, **kwargs)


def _context() -> tuple:
    autocast = (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"))
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *autocast


def read(module: nn.Module) -> fx.Graph:
    """The graph of a module's own forward, for training and evaluation alike.

    ``module`` must be a copy made for this: its mode is lost.
    """
    if "forward" in vars(module):
        raise Untraceable("its forward was replaced on the instance")
    if not inspect.isfunction(getattr(type(module), "forward", None)):
        raise Untraceable("it is compiled")
    if parametrize.is_parametrized(module):
        raise Untraceable("it is parametrized")
    graph = _record(module)
    parameters = inspect.signature(type(module).forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    for training in (True, False):  # a stand-in is never None and never True: `is` sees one side of a branch only
        if _calls(_record(module, training, defaults)) != _calls(graph):
            raise Untraceable("its forward branches on an optional argument or on its mode")
    return graph


def types_read(module: nn.Module, graph: fx.Graph) -> set[str]:
    """Names of the layers whose type decides what a forward calls, as ``isinstance(layer, nn.ReLU)`` may."""
    found = set()
    called = {node.target: module.get_submodule(node.target) for node in graph.nodes if node.op == "call_module"}
    for swaps in _SWAPS:
        before = {name: type(layer) for name, layer in called.items() if type(layer) in swaps}
        for name, kind in before.items():
            called[name].__class__ = swaps[kind]
        try:
            same = not before or str(_record(module)) == str(graph)
        except Untraceable:
            same = False
        for name, kind in before.items():
            called[name].__class__ = kind
        found |= set() if same else set(before)
    return found


def _calls(graph: fx.Graph) -> list[tuple]:
    return [(n.op, n.target) for n in graph.nodes if n.op.startswith("call") and n.target not in _GUARDS]


def _record(module: nn.Module, training: bool | None = None, arguments: dict | None = None) -> fx.Graph:
    """One trace, with ``arguments`` at fixed values; the mode is what ``self.training`` reads where it is None."""
    _set_mode(module, training)
    forward_globals = inspect.unwrap(type(module).forward).__globals__
    before, torch_seed, seed, tracer = list(_contents(module)), torch.get_rng_state(), random.getstate(), Tracer()
    forward_globals["isinstance"] = _isinstance
    try:
        graph = tracer.trace(module, arguments)
        after = list(_contents(module))
        if len(before) != len(after) or any(a is not b for a, b in zip(before, after, strict=True)):
            raise Untraceable("its forward keeps values on the module or makes tensors of its own")
        if not torch.equal(torch_seed, torch.get_rng_state()) or seed != random.getstate():
            raise Untraceable("its forward draws random numbers")
        return graph
    except Exception as error:  # whatever user code raises when it meets a proxy
        reason = Untraceable(str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__)
        reason.graph = getattr(tracer, "graph", None)
        raise reason from error
    finally:
        del forward_globals["isinstance"]
        torch.set_rng_state(torch_seed)
        random.setstate(seed)


def _set_mode(module: nn.Module, training: bool | None) -> None:
    """Set the mode of a module and all it holds; None makes it a buffer, which a trace records as it is read."""
    for m in module.modules():
        if isinstance(m, torch.jit.ScriptModule):
            continue
        vars(m).pop("training", None)
        m._buffers.pop("training", None)
        if training is None:
            m._buffers["training"] = torch.tensor(True)
        else:
            vars(m)["training"] = training


def _contents(module: nn.Module) -> Iterator[object]:
    """Everything a module and its children hold, two levels deep: identities that a pure forward leaves unchanged."""
    for m in module.modules():
        for name, value in vars(m).items():
            yield from (name, value)
            if isinstance(value, dict | list | tuple):
                yield from value.values() if isinstance(value, dict) else value


def _isinstance(value: object, kind) -> bool:
    """Stands in for ``isinstance`` in a traced forward, where a tensor's type cannot be known."""
    if isinstance(value, fx.Proxy):
        raise Untraceable("its forward asks for the type of a tensor")
    return isinstance(value, kind)
