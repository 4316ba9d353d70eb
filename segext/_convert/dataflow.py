"""Links the forwards of a model into graphs that show where every ReLU, index and pooled map goes.

A *unit* is what a swap changes: a layer, a call in a method (its *site*), or a node of a GraphModule. A call that is
not in a method of a module's class has the node that recorded it as its unit, and cannot be changed. Linked nodes carry
in ``meta`` their ``unit``, the layer they call as ``module``, and the ``owner`` of the forward that contains them.
"""

import copy
import itertools
import operator
from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import fx, nn

from . import calls, reach, sites
from .sites import Site
from .trace import Untraceable, changes_tensors, read, reads_types

# Attributes and operations that a ReLU does not change.
_SHAPE = ("size", "dim", "shape", "ndim", "dtype", "device")

Unit = nn.Module | Site | fx.Node


class Dataflow:
    """The data flow of the forwards of ``model``, as far as they can be read.

    Attributes:
        names: the name of each module.
        forwards: the graph of each module's own forward, if it can be read.
        doubts: modules whose forward cannot be read, or may run other calls than those read, with the reason.
        exposed: modules that a forward in doubt may call, with the reason.
        leaking: those exposed modules whose indices may then go anywhere.
        unpooled: pools called by a forward in doubt that passes their indices only to unpoolings, with these.
        typed: layers whose type a forward may inspect, with the reason to keep it.
        sites: the calls of stock functions in each module's methods, by method and index.
        strays: keys of sites that also run in ways that no graph shows.
        calls: the linked nodes of every unit.
        roots: each linked graph, with the module whose forward it is.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.names = {module: name or "(model)" for name, module in model.named_modules()}
        self.forwards: dict[nn.Module, fx.Graph] = {}
        self.doubts: dict[nn.Module, str] = {}
        self.exposed: dict[nn.Module, str] = {}
        self.leaking: dict[nn.Module, str] = {}
        self.unpooled: dict[nn.Module, set[nn.Module]] = {}
        self.typed: dict[nn.Module, str] = {}
        self.sites: dict[nn.Module, dict[tuple[str, int], Site]] = {}
        self.strays: set[tuple] = set()
        self._marked: dict[type, type] = {}
        twins = _twins(model)
        read = {module: twin for module, twin in twins.items() if self._has_forward(module)}
        for module, twin in read.items():
            self.sites[module] = sites.find(module)
            if self.sites[module]:
                sites.mark(twin, self.sites[module].values(), self._marked, self.strays)
        changing = reach.changing(set(map(type, self.names)))
        for module, twin in read.items():
            self._read(module, twin, changing)
        keys = {site.key for found in self.sites.values() for site in found.values()}
        kept = set(sites.kept(self.names))
        self.strays |= {key for key in keys if key[:2] in kept}
        self.calls: dict[Unit, list[fx.Node]] = defaultdict(list)
        self.roots: dict[fx.Graph, nn.Module] = {}
        self._link(twins)

    def _has_forward(self, module: nn.Module) -> bool:
        """Whether a module has a forward of its own to be read."""
        leaf = calls.is_layer(module) or isinstance(module, calls.STOCK_LAYERS)
        return not (leaf or calls.is_container(module) or calls.inside(module) is not module)

    def _read(self, module: nn.Module, twin: nn.Module, changing: set[str]) -> None:
        try:
            graph, doubt = read(twin, changing)
            layers = dict(module.named_modules(remove_duplicate=False))
            if any(node.op == "call_module" and node.target not in layers for node in graph.nodes):
                raise Untraceable("its forward calls a layer that another forward makes")
            self.forwards[module] = graph
        except Untraceable as reason:
            doubt = str(reason)
        if doubt:
            self.doubts[module] = doubt
            self._expose(module, f"{self._title(module)} may call it ({doubt})")
        if reads_types(module):
            self.typed |= dict.fromkeys(self._below(module), f"the forward of {self._title(module)} looks at types")

    def _expose(self, module: nn.Module, reason: str) -> None:
        """Record what a module whose forward is in doubt may call, and where indices may then go."""
        called = {name: module._modules[name] for name in reach.only_called(module)}
        others = [m for name, m in module._modules.items() if name not in called and m is not None]
        exposed = (
            [*called.values(), *(inner for m in others for inner in m.modules())] if called else self._below(module)
        )
        unpooled = {}
        for name, pool in called.items():
            if type(pool) is nn.MaxPool2d and not calls.is_hooked(pool) and exposed.count(pool) == 1:
                unpools = {module._modules[child] for child in reach.unpoolings(module, name)}
                if unpools and all(calls.undoes(unpool, pool) for unpool in unpools):
                    unpooled[pool] = unpools
        self.exposed |= dict.fromkeys(exposed, reason)
        self.leaking |= {m: reason for m in exposed if m not in unpooled}
        self.unpooled |= unpooled

    def _below(self, module: nn.Module) -> list[nn.Module]:
        """The modules that a module may reach, whatever its methods do."""
        held = reach.held(module)
        return list(self.names) if held is None else held

    def _title(self, module: nn.Module) -> str:
        return self.names[module].replace("(model)", "the model")

    def _link(self, twins: dict[nn.Module, nn.Module]) -> None:
        modules = {twin: module for module, twin in twins.items()}
        for owner, graph in self.forwards.items():
            for node in graph.nodes:
                runs, *place = node.meta.get("site", (None,))
                node.meta = {"owner": owner, "module": None, "unit": node}
                if node.op == "call_module":
                    node.meta |= dict.fromkeys(("module", "unit"), owner.get_submodule(node.target))
                elif node.op == "get_attr":
                    held = operator.attrgetter(node.target)(twins[owner])
                    if isinstance(held, nn.Module):
                        self.exposed[modules[held]] = self.leaking[modules[held]] = f"{self._title(owner)} hands it on"
                elif calls.kind(node):
                    node.meta["unit"] = self.sites.get(modules.get(runs), {}).get(tuple(place), node)
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
        """Append the forward of ``owner``, called with ``values``, to ``linked``, and return its result."""
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
            elif (bound := self._bind(callee := calls.inside(node.meta["module"]), args, kwargs)) is not None:
                env[node] = self._inline(linked, callee, bound, inlined)
            else:
                new = env[node] = linked.create_node(node.op, node.target, args, kwargs)
                new.meta = dict(node.meta)
                self.calls[new.meta["unit"]].append(new)

    def _bind(self, module: nn.Module | None, args: tuple, kwargs: dict) -> dict[str, object] | None:
        """Arguments by name, or None if the call stays a leaf."""
        if module not in self.forwards or module in self.doubts or calls.is_hooked(module):
            return None
        places = self._placeholders(module)
        names = [node.target for node in places]
        values = {n.target: n.args[0] for n in places if n.args} | dict(zip(names, args, strict=False)) | dict(kwargs)
        fits = len(args) <= len(names) and set(values) == set(names) and not any(n.startswith("*") for n in names)
        return values if fits else None

    def may_change(self, node: fx.Node) -> bool:
        """Whether a reader of a result may change it, or a view of it, in place, in this forward or in one that calls
        this. What calls the model itself does not count."""
        results, roots = [node], {calls.inside(self.model)}
        for result in results:  # grows
            aliases = _aliases(result)
            if _any_changes(aliases):
                return True
            root = self.roots[result.graph]
            if root not in roots and any(user.op == "output" for alias in aliases for user in alias.users):
                roots.add(root)
                holders = [m for m in self.doubts if root in self.exposed and root in self._below(m)]
                callers = [m for m in self.names if calls.inside(m) is root] + holders
                if any(map(self._doubt_changes, holders)) or any(
                    calls.hooks_change(caller._forward_hooks.values()) for caller in callers
                ):
                    return True
                results.extend(call for caller in callers for call in self.calls[caller])
        return False

    def _doubt_changes(self, doubted: nn.Module) -> bool:
        """Whether a forward in doubt, or what it may call, may change a tensor that it is given.

        A layer inside a block counts with the block, if that can be read.
        """
        scope = {doubted, *self._below(doubted)}
        inner = {m for block in scope - {doubted} if block in self.forwards for m in block.modules() if m is not block}
        layers = (m for m in scope - inner if calls.is_layer(m) and getattr(m, "inplace", False))
        given = (n for graph, root in self.roots.items() if root in scope and root in self.exposed for n in graph.nodes)
        return (
            any(map(changes_tensors, scope & self.doubts.keys()))
            or any(layers)
            or any(_any_changes(_aliases(node)) for node in given if node.op == "placeholder")
        )


def _twins(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """The twin of each module in a copy of the model, for tracing.

    Its plain parameters and buffers have no values, for a forward may change what it finds by ``self.parameters()``.
    Other tensors that modules hold are copied; those that autograd made cannot be.
    """
    held = (t for m in model.modules() for t in vars(m).values() if isinstance(t, torch.Tensor) and not t.is_leaf)
    tensors = {id(t): t for t in held} | {id(t): _without_values(t) for t in (*model.parameters(), *model.buffers())}
    return dict(zip(model.modules(), copy.deepcopy(model, tensors).modules(), strict=True))


def _without_values(tensor: torch.Tensor) -> torch.Tensor:
    if type(tensor) is nn.Parameter:
        return nn.Parameter(_without_values(tensor.data), tensor.requires_grad)
    is_plain = type(tensor) is torch.Tensor and tensor.layout is torch.strided and not tensor.is_quantized
    return torch.empty_like(tensor, device="meta") if is_plain else tensor


def index_uses(pool: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """A pool's indices or its whole result, each with a node that reads it."""
    for user in pool.users:
        if user.target is operator.getitem and user.args[1] in (0, 1, -1, -2):
            yield from ((user, use) for use in user.users if user.args[1] in (1, -1))
        else:
            yield pool, user


def value_uses(node: fx.Node) -> list[fx.Node]:
    """The users of a tensor that read more than its shape."""

    def asks_shape(user: fx.Node) -> bool:
        name = user.args[1] if user.target is getattr else user.target if user.op == "call_method" else None
        return name in _SHAPE

    return [user for user in node.users if not asks_shape(user)]


def source_pool(unpool: fx.Node) -> fx.Node | None:
    """The pool whose indices an unpooling reads, if the graph shows it."""
    indices = calls.arguments(unpool).get("indices")
    if not isinstance(indices, fx.Node) or indices.target is not operator.getitem:
        return None
    source = indices.args[0]
    return source if isinstance(source, fx.Node) and calls.kind(source) in ("pool", "relu_pool") else None


def changes_between(start: fx.Node, end: fx.Node) -> bool:
    """Whether anything that runs between ``start`` and ``end`` may change a tensor in place."""
    between = itertools.takewhile(lambda node: node is not end, _following(start))
    return any(map(calls.mutates, between))


def _following(node: fx.Node) -> Iterator[fx.Node]:
    while (node := node.next).op != "root":
        yield node


def changes_after(node: fx.Node, source: fx.Node) -> bool:
    """Whether ``source``, its base, or another view of that base may change in place after ``node`` ran."""
    later, origins = set(_following(node)), [source]
    for origin in origins:  # grows
        if not calls.is_fresh(origin):
            origins.extend(operand for operand in origin.all_input_nodes if operand not in origins)
    aliases = list(origins)
    for alias in aliases:  # grows
        if any(user in later and calls.mutates(user) for user in alias.users):
            return True
        aliases.extend(user for user in alias.users if not calls.is_fresh(user) and user not in aliases)
    return False


def _aliases(node: fx.Node) -> list[fx.Node]:
    """A result and what may be a view of it or hold it."""
    aliases = [node]
    for alias in aliases:  # grows
        views = (user for user in alias.users if not calls.is_fresh(user) and not calls.spares(user, alias))
        aliases.extend(user for user in views if user not in aliases)
    return aliases


def _any_changes(aliases: list[fx.Node]) -> bool:
    users = ((user, alias) for alias in aliases for user in alias.users)
    return any(calls.mutates(user) and not calls.spares(user, alias) for user, alias in users)
