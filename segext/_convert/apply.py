"""Changes a model as planned: classes of layers, calls in methods, and nodes of GraphModules.

A module whose methods call ``F.max_pool2d`` and the like becomes an instance of a subclass of its own class.
"""

from collections import defaultdict

from torch import fx, nn

from .. import functional
from . import calls, source, swaps
from .classes import become, subclass
from .plan import Plan
from .sites import Site
from .trace import Tracer


def apply(plan: Plan) -> None:
    """Carry out ``plan``, which cannot be used again afterwards."""
    edits: dict[nn.Module, dict[str, dict[int, object]]] = defaultdict(lambda: defaultdict(dict))
    graphs: set[nn.Module] = set()
    for unit, fused in plan.edits():
        if isinstance(unit, Site):
            edits[unit.owner][unit.method][unit.index] = unit.successor(fused)
    kinds = plan.new_classes() | {module: _edited_class(module, methods) for module, methods in edits.items()}
    for unit, fused in plan.edits():
        if not isinstance(unit, Site):
            graphs.add(unit.meta["owner"])
            _rewrite(unit, fused)
    for module in graphs:
        for node in plan.flow.forwards[module].nodes:
            node.meta = {}  # a graph must not keep the model alive
        module.graph, module._tracer_cls = plan.flow.forwards[module], Tracer
    for module, kind in kinds.items():
        become(module, kind)


def _edited_class(module: nn.Module, methods: dict[str, dict[int, object]]) -> type:
    """What a module becomes if calls in its methods, by name and number, are redirected."""
    base, earlier = vars(type(module)).get("_segext_edits", (type(module), ()))
    found = source.methods(base)
    new = ((name, source.digest(found[name]), tuple(callees.items())) for name, callees in methods.items())
    return _subclass(base, (*earlier, *new))


def _rewrite(node: fx.Node, fused: bool) -> None:
    """Put segext's function in place of one node of a GraphModule, or take a fused ReLU out."""
    if calls.kind(node) == "relu":
        new = calls.operand(node)
    elif calls.kind(node) == "convolution":
        with node.graph.inserting_before(node):
            new = node.graph.call_function(functional.conv_transpose2d, node.args, node.kwargs)
    else:
        arguments = {name: v for name, v in calls.arguments(node).items() if v not in ((), [])}  # no stride, in schemas
        operands = tuple(arguments.pop(name) for name in ("input", "indices") if name in arguments)
        pool = functional.relu_max_pool2d if fused else functional.max_pool2d
        unpool = swaps.deferred_max_unpool2d if fused else swaps.max_unpool2d
        function = unpool if calls.kind(node) == "unpool" else pool
        with node.graph.inserting_before(node):
            new = node.graph.call_function(function, operands, arguments)
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def _subclass(base: type, edits: tuple) -> type:
    """A subclass of a user's class in whose methods some calls are redirected; it can be copied and pickled like it.

    ``edits`` holds each method's name and digest, and the numbers of the redirected calls with their new targets. While
    the subclass is in use, the same edits return the same class; ``base``, where it is cached, does not keep it alive.
    """
    for kind in type.__subclasses__(base):
        if vars(kind).get("_segext_edits") == (base, edits):
            return kind
    rewritten = {}
    for name, digest, callees in edits:
        function = source.methods(base).get(name)
        if not function or not source.definition(function) or source.digest(function) != digest:
            raise RuntimeError(
                f"{base.__qualname__}.{name} is not what segext.convert changed; convert the model again"
            )
        rewritten[function] = source.rewrite(function, dict(callees))

    def __reduce_ex__(self, protocol):
        _, (_, *args), *state = base.__reduce_ex__(self, 2)
        return _remake, (base, edits, *args), *state

    return subclass(base, rewritten, __reduce_ex__=__reduce_ex__, _segext_edits=(base, edits))


def _remake(base: type, edits: tuple, *args) -> nn.Module:
    kind = _subclass(base, edits)
    return kind.__new__(kind, *args)
