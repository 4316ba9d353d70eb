"""What a forward may do with the modules it holds on paths that no trace took, from the syntax of its methods."""

import ast
import inspect

import torch
from torch import nn

from . import source

# Values in which no module hides.
_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.Size, torch.Tensor)


def only_called(module: nn.Module) -> set[str]:
    """The children that a module's forward, with the methods it runs, calls and does nothing else with.

    Empty where it may reach its children by other ways than their names.
    """
    methods, names = source.methods(type(module)), ["forward"]
    used_otherwise: set[str] = set()
    for name in names:  # grows
        definition = source.definition(methods[name]) if name in methods else None
        if definition is None or not definition.args.args or "forward" in vars(module):
            return set()
        me, nodes = definition.args.args[0].arg, list(ast.walk(definition))
        called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        mine = [n for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == me]
        attributes = {id(node.value) for node in mine}
        if any(isinstance(n, ast.Name) and n.id in (me, "super") and id(n) not in attributes for n in nodes):
            return set()
        for node in mine:
            if node.attr in methods:
                names.extend({node.attr} - set(names))
            elif node.attr in module._modules:
                used_otherwise |= {node.attr} if id(node) not in called else set()
            elif not (node.attr in (*module._parameters, *module._buffers) or _is_plain(module, node.attr)):
                return set()
    return set(module._modules) - used_otherwise


def _is_plain(module: nn.Module, name: str) -> bool:
    return isinstance(inspect.getattr_static(module, name, module), _PLAIN)
