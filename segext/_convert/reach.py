"""What a forward may do with its layers on paths that no trace took, judging by the syntax of its methods."""

import ast
import inspect
import types
from collections.abc import Iterator

import torch
from torch import nn

from . import source

# Types of values that cannot contain a module.
_PLAIN = (bool, int, float, str, type(None), type, torch.dtype, torch.device, torch.Tensor, types.BuiltinFunctionType)
_OWN = vars(nn.Module())


def held(module: nn.Module) -> list[nn.Module] | None:
    """The modules below the attributes of a module; None if an attribute may hide further ones."""
    if isinstance(module, torch.jit.ScriptModule):
        return []  # runs in its own world
    found = []
    for name, value in vars(module).items():
        if name in _OWN and name != "_modules":
            continue
        values = value.values() if isinstance(value, dict) else value
        for inner in values if isinstance(value, dict | list | tuple) else (value,):
            if isinstance(inner, nn.Module):
                found.extend(m for m in inner.modules() if m is not module)
            elif not _is_plain(inner):
                return None
    return found


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN) or (inspect.isfunction(value) and not value.__closure__)


def only_called(module: nn.Module) -> set[str]:
    """The children that a module's forward and the methods it runs only call, and use in no other way.

    Empty if it may reach its children other than by name.
    """
    definitions = _run(module)
    found = {name for name, child in module._modules.items() if child is not None} if definitions else set()
    for definition in definitions:
        called = {id(call.func) for call in _of(ast.Call, definition)}
        found -= {node.attr for node in _own(definition) if id(node) not in called}
    return found


def unpoolings(module: nn.Module, pool: str) -> set[str]:
    """The children that receive the indices of a child of ``module``; empty if others may see these."""
    found: set[str] = set()
    for definition in _run(module) if pool in only_called(module) else ():
        own = {id(node): node.attr for node in _own(definition)}
        names, unread = set(), sum(own.get(id(call.func)) == pool for call in _of(ast.Call, definition))
        for node in _of(ast.Assign, definition):
            match node:  # values, indices = self.pool(...)
                case ast.Assign([ast.Tuple([ast.Name(), ast.Name(indices)])], ast.Call(func)) if (
                    own.get(id(func)) == pool
                ):
                    names.add(indices)
                    unread -= 1
        readers = [own.get(id(call.func)) for call in _of(ast.Call, definition) if _indices(call) in names]
        reads = sum(n.id in names and isinstance(n.ctx, ast.Load) for n in _of(ast.Name, definition))
        changed = any(isinstance(n.target, ast.Name) and n.target.id in names for n in _of(ast.AugAssign, definition))
        if unread or changed or None in readers or len(readers) != reads:
            return set()
        found.update(readers)
    return found


def named_by_methods(kind: type) -> dict[str, set[str]]:
    """For each public method of a module's class but ``forward``: all names in it and in what it calls by name."""
    found = {name: function for name, function in source.methods(kind).items() if name != "__init__"}
    return {
        name: {name, *(n for code in source.run_by(function, found) for n in code.co_names)}
        for name, function in found.items()
        if name != "forward" and not name.startswith("_")
    }


def children_with(module: nn.Module, inner: nn.Module) -> set[str]:
    """The names of the children of ``module`` that are or contain another module."""
    children = ((name, child) for name, child in module._modules.items() if child is not None)
    return {name for name, child in children if any(m is inner for m in child.modules())}


def _indices(call: ast.Call) -> str | None:
    """The name that a call passes as an unpooling's indices."""
    given = [k.value for k in call.keywords if k.arg == "indices"] + call.args[1:2]
    return given[0].id if given and isinstance(given[0], ast.Name) else None


def _run(module: nn.Module) -> list[ast.FunctionDef]:
    """The methods that a forward may run; none if it may reach its children other than by name."""
    methods, names = source.methods(type(module)), ["forward"]
    definitions = []
    for name in names:  # grows
        definition = source.definition(methods[name]) if name in methods else None
        if (
            definition is None
            or not definition.args.args
            or "forward" in vars(module)
            or any(_of(ast.Global, definition))
        ):
            return []
        own = list(_own(definition))
        direct, me = {id(node.value) for node in own}, definition.args.args[0].arg
        if any(n.id in (me, "super", "locals") and id(n) not in direct for n in _of(ast.Name, definition)):
            return []
        names.extend({node.attr for node in own if node.attr in methods} - set(names))
        others = {n.attr for n in own} - {*methods, *module._modules, *module._parameters, *module._buffers}
        if not all(_is_plain(inspect.getattr_static(module, other, module)) for other in others):
            return []
        definitions.append(definition)
    return definitions


def _own(definition: ast.FunctionDef) -> Iterator[ast.Attribute]:
    """The attributes of ``self`` that a method names."""
    me = definition.args.args[0].arg
    for node in _of(ast.Attribute, definition):
        if isinstance(node.value, ast.Name) and node.value.id == me:
            yield node


def _of(kind: type, definition: ast.FunctionDef) -> Iterator:
    return (node for node in ast.walk(definition) if isinstance(node, kind))
