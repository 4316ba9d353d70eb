"""What a forward may do with its layers on paths that no trace took, judging by the syntax of its methods."""

import ast
import dis
import inspect
import types
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from . import source

# Types of values that cannot contain a module.
_PLAIN = (bool, int, float, str, type(None), type, torch.dtype, torch.device, torch.Tensor, types.BuiltinFunctionType)
_OWN = vars(nn.Module())
# What sets attributes whose names are not in the code, or layers.
_SETTERS = {"setattr", "delattr", "__setattr__", "__delattr__", "__dict__", "vars"}
_SETTERS |= {"add_module", "register_module", "_modules"}
# Syntax that decides what runs next.
_DECIDING = {"If", "IfExp", "While", "Assert", "Try", "TryStar", "With", "Match", "BoolOp"}


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


def undecided(code: types.CodeType, module: nn.Module | None, changing: set[str]) -> int:
    """The line of the first condition in a method of ``module`` that may hold at one time only, or 0.

    ``self.layer is None`` holds always or never for an optional layer: an attribute that has a layer or None, and that
    all methods only ask for or call. ``changing`` is what :func:`changing` found in the model. For code that is no
    method, the line is its first.
    """
    definition = None if module is None else source.defining(type(module), code)
    if definition is None or not definition.args.args or any(n.id == _me(definition) for n in _bound(definition)):
        return code.co_firstlineno
    asked = {
        id(node)
        for node in _asking(definition)
        if changing.isdisjoint({node.left.attr, *_SETTERS}) and _is_optional(module, node.left.attr)
    }
    deciding = filter(_decides, ast.walk(definition))
    others = (n for n in deciding if id(getattr(n, "test", n)) not in asked or isinstance(n, ast.While))
    return min((n.ifs[0].lineno if isinstance(n, ast.comprehension) else n.lineno for n in others), default=0)


def changing(kinds: Iterable[type]) -> set[str]:
    """The attributes that methods of classes, or what these call by name, set or delete, and the setters that they use.

    What ``__init__`` does was done before.
    """
    found: set[str] = set()
    for kind in kinds:
        later = {function for name, function in source.functions(kind) if name != "__init__"}
        for code in {code for function in later for code in source.run_by(function, source.methods(kind))}:
            found |= _SETTERS.intersection(code.co_names)
            found |= {i.argval for i in dis.get_instructions(code) if i.opname in ("STORE_ATTR", "DELETE_ATTR")}
    return found


def _asking(definition: ast.FunctionDef) -> Iterator[ast.Compare]:
    """The comparisons ``self.name is None`` and ``self.name is not None`` in a method."""
    own = set(map(id, _own(definition)))
    for node in _of(ast.Compare, definition):
        match node:
            case ast.Compare(left, [ast.Is() | ast.IsNot()], [ast.Constant(None)]) if id(left) in own:
                yield node


def _decides(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return len(node.ops) > 1 or isinstance(node.ops[0], ast.Is | ast.IsNot | ast.In | ast.NotIn)
    return type(node).__name__ in _DECIDING or bool(isinstance(node, ast.comprehension) and node.ifs)


def _is_optional(module: nn.Module, name: str) -> bool:
    """Whether an attribute has a layer or None, and all methods of its module only ask for it or call it."""
    kind = type(module)
    value = {**vars(module), **module._modules}.get(name, name)
    if hasattr(kind, name) or not isinstance(value, nn.Module | None):
        return False
    for method, function in source.functions(kind):
        if method == "__init__" or not any(name in code.co_names for code in source.nested(function.__code__)):
            continue
        definition = source.definition(function) or source.defining(kind, function.__code__)
        if definition is None:
            return False
        plain = {id(node.left) for node in _asking(definition)} | {id(call.func) for call in _of(ast.Call, definition)}
        named = (node for node in _of(ast.Attribute, definition) if node.attr == name)
        if not all(id(node) in plain for node in named):
            return False
    return True


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
        direct = {id(node.value) for node in own}
        if any(n.id in (_me(definition), "super", "locals") and id(n) not in direct for n in _of(ast.Name, definition)):
            return []
        names.extend({node.attr for node in own if node.attr in methods} - set(names))
        others = {n.attr for n in own} - {*methods, *module._modules, *module._parameters, *module._buffers}
        if not all(_is_plain(inspect.getattr_static(module, other, module)) for other in others):
            return []
        definitions.append(definition)
    return definitions


def _me(definition: ast.FunctionDef) -> str:
    return definition.args.args[0].arg


def _own(definition: ast.FunctionDef) -> Iterator[ast.Attribute]:
    """The attributes of ``self`` that a method names."""
    for node in _of(ast.Attribute, definition):
        if isinstance(node.value, ast.Name) and node.value.id == _me(definition):
            yield node


def _bound(definition: ast.FunctionDef) -> Iterator[ast.Name]:
    """The names that a method assigns or deletes."""
    return (node for node in _of(ast.Name, definition) if not isinstance(node.ctx, ast.Load))


def _of(kind: type, definition: ast.FunctionDef) -> Iterator:
    return (node for node in ast.walk(definition) if isinstance(node, kind))
