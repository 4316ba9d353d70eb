"""Links the forwards of a model into graphs that show where every ReLU, index and pooled map goes.

A *unit* is what a swap changes: a layer, or one call in a forward, known by its node in that forward's own graph, its
*site*. Linked nodes carry in ``meta`` their ``site`` and the layer they call, ``module``; sites carry their ``owner``.
"""

import copy
import itertools
import operator
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import fx, nn

from . import calls
from .trace import Untraceable, read, types_read

# What a ReLU does not change.
_SHAPE = ("size", "dim", "shape", "ndim", "dtype", "device")


class Dataflow:
    """What the forwards of ``model`` do, as far as they can be read.

    Attributes:
        forwards: the graph of each module's own forward.
        unread: the modules that have none, with the reason.
        typed: layers whose type a forward looks at, with the reason to keep it.
        exposed: layers that an unread forward may call.
        calls: the linked nodes of every unit and of every site.
        roots: each linked graph, with the module whose forward it is.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.names = {module: name or "(model)" for name, module in model.named_modules()}
        self.forwards: dict[nn.Module, fx.Graph] = {}
        self.unread: dict[nn.Module, Untraceable] = {}
        self.typed: dict[nn.Module, str] = {}
        for module, twin in _twins(model).items():
            if not (calls.is_container(module) or calls.is_layer(module) or isinstance(module, calls.STOCK_LAYERS)):
                self._read(module, twin)
        self.exposed = set(self._called_by_unread())
        self.calls: dict[nn.Module | fx.Node, list[fx.Node]] = defaultdict(list)
        self.roots: dict[fx.Graph, nn.Module] = {}
        self._link()

    def _read(self, module: nn.Module, twin: nn.Module) -> None:
        try:
            graph = self.forwards[module] = read(twin)
        except Untraceable as reason:
            self.unread[module] = reason
        else:
            reason = f"the forward of {self.names[module]} looks at its type".replace("(model)", "the model")
            self.typed |= {module.get_submodule(name): reason for name in types_read(twin, graph)}

    def _called_by_unread(self) -> Iterator[nn.Module]:
        for module, reason in self.unread.items():
            seen = [n.target for n in reason.graph.nodes if n.op == "call_module"] if reason.graph else []
            held = [*module.children(), *map(module.get_submodule, seen)]
            for m in held:  # grows: what a list holds, its owner calls
                yield m
                held.extend(m.children() if calls.is_container(m) else ())

    def _link(self) -> None:
        for owner, graph in self.forwards.items():
            for node in graph.nodes:
                node.meta = {"owner": owner, "module": None}
                if node.op == "call_module":
                    node.meta["module"] = owner.get_submodule(node.target)
        inlined: set[nn.Module] = set()
        for root in self.forwards:
            if root not in inlined or root in self.exposed:
                linked = fx.Graph()
                arguments = {node.target: linked.placeholder(node.target) for node in self._placeholders(root)}
                linked.output(self._inline(linked, root, arguments, inlined))
                self.roots[linked] = root

    def _placeholders(self, module: nn.Module) -> list[fx.Node]:
        return [node for node in self.forwards[module].nodes if node.op == "placeholder"]

    def _inline(self, linked: fx.Graph, owner: nn.Module, values: dict[str, object], inlined: set[nn.Module]):
        """Append the forward of ``owner``, called with ``values``, to ``linked``; returns its result."""
        inlined.add(owner)
        env: dict[fx.Node, object] = {}
        for node in self.forwards[owner].nodes:
            args, kwargs = (fx.node.map_arg(a, env.__getitem__) for a in (node.args, node.kwargs))
            if node.op == "placeholder":
                env[node] = values[node.target]
            elif node.op == "output":
                return args[0]
            elif node.target is operator.getitem and isinstance(args[0], tuple | list | dict):
                env[node] = args[0][args[1]]
            elif (bound := self._bind(node.meta["module"], args, kwargs)) is not None:
                env[node] = self._inline(linked, node.meta["module"], bound, inlined)
            else:
                new = env[node] = linked.create_node(node.op, node.target, args, kwargs)
                new.meta = {"site": node, "module": node.meta["module"]}
                for unit in {node, unit_of(new)}:
                    self.calls[unit].append(new)

    def _bind(self, module: nn.Module | None, args: tuple, kwargs: dict) -> dict[str, object] | None:
        """Arguments by name, or None where the call stays a leaf."""
        if module not in self.forwards or calls.is_hooked(module):
            return None
        places = self._placeholders(module)
        names = [node.target for node in places]
        values = {n.target: n.args[0] for n in places if n.args} | dict(zip(names, args, strict=False)) | dict(kwargs)
        fits = len(args) <= len(names) and set(values) == set(names) and not any(n.startswith("*") for n in names)
        return values if fits else None


def _twins(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """Every module's twin in a copy that shares the tensors, for traces to run on."""
    held = (t for m in model.modules() for t in vars(m).values() if isinstance(t, torch.Tensor))
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers(), *held)}
    return dict(zip(model.modules(), copy.deepcopy(model, tensors).modules(), strict=True))


def unit_of(node: fx.Node) -> nn.Module | fx.Node:
    """What a swap of a linked node changes."""
    return node.meta["module"] if node.op == "call_module" else node.meta["site"]


def index_uses(pool: fx.Node) -> Iterator[fx.Node]:
    """The nodes that read a pool's indices, or its whole result."""
    for user in pool.users:
        if user.target is operator.getitem and user.args[1] in (0, 1, -1, -2):
            yield from user.users if user.args[1] in (1, -1) else ()
        else:
            yield user


def value_uses(node: fx.Node) -> list[fx.Node]:
    """The users of a tensor that read more than its shape."""

    def asks_shape(user: fx.Node) -> bool:
        name = user.args[1] if user.target is getattr else user.target if user.op == "call_method" else None
        return name in _SHAPE

    return [user for user in node.users if not asks_shape(user)]


def source_pool(unpool: fx.Node) -> fx.Node | None:
    """The pool whose indices an unpooling reads, where the graph shows it."""
    indices = calls.arguments(unpool).get("indices")
    if not isinstance(indices, fx.Node) or indices.target is not operator.getitem:
        return None
    source = indices.args[0]
    return source if isinstance(source, fx.Node) and calls.kind(source) in ("pool", "relu_pool") else None


def changes_between(start: fx.Node, end: fx.Node) -> bool:
    """Whether anything that runs after ``start`` and before ``end`` may change a tensor in place."""
    between = itertools.takewhile(lambda node: node is not end, _following(start))
    return any(map(calls.mutates, between))


def _following(node: fx.Node) -> Iterator[fx.Node]:
    while (node := node.next).op != "root":
        yield node


def changes_later(node: fx.Node) -> bool:
    """Whether a result, or a view of it, may be changed in place by what reads it."""
    aliases = [node]
    for alias in aliases:  # grows
        if any(map(calls.mutates, alias.users)):
            return True
        aliases.extend(user for user in alias.users if not calls.is_fresh(user) and user not in aliases)
    return False
