"""The calls of stock functions in the methods of a module's class: their possible replacements, and what runs them."""

import ast
import builtins
import functools
import inspect
import sys
import types
from collections import defaultdict
from collections.abc import Iterable, Iterator, ValuesView
from dataclasses import dataclass

from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from .. import functional
from . import calls, source, swaps
from .classes import become, subclass


@dataclass(frozen=True)
class Site:
    """One call in a method that ``owner`` runs.

    Attributes:
        target: the function, or the name of the tensor's method, that is called.
        method, index: the method's name and the number of the call in it.
        line, column: where the call starts in its file.
        indices: whether it returns indices; None if the source does not say.
    """

    owner: nn.Module
    target: object
    method: str
    index: int
    line: int
    column: int
    indices: bool | None

    @property
    def key(self) -> tuple[type, str, int]:
        """The same for all modules of a class."""
        return type(self.owner), self.method, self.index

    def successor(self, fused: bool) -> object:
        """The replacement function."""
        kind = calls.KINDS[self.target]
        if kind == "relu":
            return swaps.rectified_later
        if kind == "unpool":
            return swaps.deferred_max_unpool2d if fused else swaps.max_unpool2d
        if kind == "convolution":
            return functional.conv_transpose2d
        if self.target is F.max_pool2d_with_indices:
            return swaps.relu_max_pool2d_with_indices if fused else swaps.max_pool2d_with_indices
        return functional.relu_max_pool2d if fused else functional.max_pool2d


def find(owner: nn.Module) -> dict[tuple[str, int], Site]:
    """The sites of a module, by method and index."""
    own_code = isinstance(owner, fx.GraphModule) or "forward" in vars(owner) or parametrize.is_parametrized(owner)
    if own_code or not inspect.isfunction(getattr(type(owner), "forward", None)):
        return {}
    found = {}
    # Each once, under whatever names. What __init__ defined exists already.
    functions = {function: name for name, function in source.methods(type(owner)).items()}
    functions.pop(inspect.getattr_static(type(owner), "__init__"), None)
    for function, name in functions.items():
        definition = source.definition(function)
        for index, call in enumerate(source.calls(definition) if definition else ()):
            target = _target(call, function)
            if target is not None:
                indices = _returns_indices(call, target)
                found[name, index] = Site(owner, target, name, index, call.lineno, call.col_offset, indices)
    return found


class _Marked:
    """A stock function that says of what it records in a trace which call in a method it was.

    It adds its site to ``strays`` if a call is not recorded, because the operand is no stand-in, or if it is not known
    whose method made it: a function that was made in a method may run without it.
    """

    def __init__(self, site: Site, strays: set[tuple]) -> None:
        self._target, self._key, self._strays = site.target, site.key, strays
        self.__name__ = site.target if isinstance(site.target, str) else site.target.__name__
        self.method: types.FunctionType | None = None

    def __call__(self, *args, **kwargs):
        target = self._target
        result = getattr(args[0], target)() if isinstance(target, str) else target(*args, **kwargs)
        frame = sys._getframe(1)
        while frame and frame.f_code is not self.method.__code__:
            frame = frame.f_back
        runs = frame and frame.f_locals.get(next(iter(frame.f_code.co_varnames), None))
        operand = args[0] if args else kwargs.get("input")
        if isinstance(runs, nn.Module) and isinstance(operand, fx.Proxy) and isinstance(result, fx.Proxy):
            result.node.meta["site"] = (runs, *self._key[1:])
        else:
            self._strays.add(self._key)
        return result


def mark(twin: nn.Module, sites: Iterable[Site], marked: dict[type, type], strays: set[tuple]) -> None:
    """Makes a twin of the sites' owner run marked functions at the sites: in a trace of any module, a node's ``meta``
    then says as ``site`` which twin's method made the call, the method's name and the number of the call.

    What runs other code than a method of its class, such as a base class's or a bound method kept from before, is not
    marked; nor will it run what a conversion makes of the call. ``marked`` holds the classes made so far, ``strays``
    the keys of sites that were called in ways that do not show in a graph.
    """
    base = type(twin)
    if base not in marked:
        callees: dict[str, dict[int, _Marked]] = defaultdict(dict)
        for site in sites:
            callees[site.method][site.index] = _Marked(site, strays)
        rewritten = {}
        for name, function in source.methods(base).items():
            if name in callees:
                rewritten[function] = source.rewrite(function, callees[name])
                for callee in callees[name].values():
                    callee.method = rewritten[function]
        marked[base] = subclass(base, rewritten)
    become(twin, marked[base])


def kept(modules: Iterable[nn.Module]) -> Iterator[tuple[type, str]]:
    """The class and the name of each method that a module keeps as an attribute, bound to a module.

    Copies keep the method as it was, but pickles look it up again and get the edited one.
    """
    for module in modules:
        for value in vars(module).values():
            values = value.values() if isinstance(value, dict) else value
            for held in values if isinstance(values, (ValuesView, list, tuple)) else (value,):
                while isinstance(held, functools.partial):
                    held = held.func
                if isinstance(held, types.MethodType) and isinstance(held.__self__, nn.Module):
                    yield type(held.__self__), held.__name__


def _target(call: ast.Call, function: types.FunctionType) -> object:
    """The stock function that a call names through globals and modules, or the method of a tensor."""
    path, node = [], call.func
    while isinstance(node, ast.Attribute):
        path.insert(0, node.attr)
        node = node.value
    value = None
    if isinstance(node, ast.Name) and node.id not in source.local_names(function):
        value = function.__globals__.get(node.id, getattr(builtins, node.id, None))
        for name in path:
            value = getattr(value, name, None) if isinstance(value, types.ModuleType) else None
    if value is None and source.is_method_call(call):
        return call.func.attr
    return value if inspect.isroutine(value) and value in calls.KINDS else None


def _returns_indices(call: ast.Call, target: object) -> bool | None:
    if target is F.max_pool2d_with_indices:
        return True
    if any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords):
        return None
    given = [k.value for k in call.keywords if k.arg == "return_indices"] + call.args[6:7]
    if not all(isinstance(value, ast.Constant) for value in given):
        return None
    return any(value.value for value in given)
