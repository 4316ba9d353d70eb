"""The calls of stock functions in the methods of a module's class, and their possible replacements."""

import ast
import builtins
import inspect
import types
from dataclasses import dataclass

from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from .. import functional
from . import calls, source, swaps


@dataclass(frozen=True)
class Site:
    """One call in a method that ``owner`` runs.

    Attributes:
        target: the function, or the name of the tensor's method, that is called.
        method, index: location: the method's name and the number of the call in it.
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

    def successor(self, fused: bool) -> object:
        """The replacement function."""
        if calls.KINDS[self.target][0] == "relu":
            return swaps.rectified_later
        if calls.KINDS[self.target][0] == "unpool":
            return swaps.deferred_max_unpool2d if fused else swaps.max_unpool2d
        if self.target is F.max_pool2d_with_indices:
            return swaps.relu_max_pool2d_with_indices if fused else swaps.max_pool2d_with_indices
        return functional.relu_max_pool2d if fused else functional.max_pool2d


def find(owner: nn.Module) -> dict[Site, tuple[str, ast.Call]]:
    """The sites of a module, each with its file and its syntax."""
    own_code = isinstance(owner, fx.GraphModule) or "forward" in vars(owner) or parametrize.is_parametrized(owner)
    if own_code or not inspect.isfunction(getattr(type(owner), "forward", None)):
        return {}
    found = {}
    functions = {function: name for name, function in source.methods(type(owner)).items()}  # once, under whatever names
    for function, name in functions.items():
        definition = source.definition(function)
        for index, call in enumerate(source.calls(definition) if definition else ()):
            target = _target(call, function)
            if target is not None:
                site = Site(owner, target, name, index, call.lineno, call.col_offset, _returns_indices(call, target))
                found[site] = (function.__code__.co_filename, call)
    return found


def locate(sites: dict[Site, tuple[str, ast.Call]], place: tuple, kind: str) -> Site | None:
    """The site of a call of ``kind`` that a trace met at ``place``."""
    if not place:
        return None
    file, line, column = place
    found = []
    for site, (site_file, call) in sites.items():
        if site_file == file and calls.KINDS[site.target][0] == kind:
            ends = [(end.end_lineno, end.end_col_offset) for end in (call, call.func)]
            if (line, column) in ends or (column is None and call.lineno <= line <= call.end_lineno):
                found.append(site)
    return found[0] if len(found) == 1 else None


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
