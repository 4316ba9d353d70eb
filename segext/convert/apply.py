"""Changes a model as planned: classes of layers, and forwards rewritten from their graphs.

A module whose forward calls ``F.max_pool2d`` and the like becomes an instance of a subclass of its own class.
"""

import importlib
import inspect
import linecache
from collections import defaultdict
from types import ModuleType

from torch import fx, nn

from .. import functional
from . import calls
from .plan import Plan
from .trace import Tracer


def apply(plan: Plan) -> None:
    """Do what ``plan`` says; it is spent afterwards."""
    fused = {n.meta["site"] for pair in plan.pairs.items() for n in pair if not plan.goes_whole(n)}
    sites = {unit for unit in plan.swaps if isinstance(unit, fx.Node)}
    edits: dict[nn.Module, list[fx.Node]] = defaultdict(list)
    for site in fused | sites:
        edits[site.meta["owner"]].append(site)
    new_classes = plan.new_classes()
    for owner, nodes in edits.items():
        for node in nodes:
            _rewrite(node, node in fused)
        _set_forward(owner, plan.flow.forwards[owner])
    for module, kind in new_classes.items():
        _become(module, kind)


def _become(module: nn.Module, kind: type) -> None:
    """Change a module's class, keeping all it holds and every reference to it.

    A layer of segext holds what its namesake in torch holds, so this is all there is to a swap.
    """
    object.__setattr__(module, "__class__", kind)


def _rewrite(node: fx.Node, fused: bool) -> None:
    """Put segext's function in place of one call, or take a fused ReLU out."""
    if calls.kind(node) == "relu":
        new = calls.operand(node)
    else:
        arguments = {name: v for name, v in calls.arguments(node).items() if v not in ((), [])}  # no stride, in schemas
        operands = tuple(arguments.pop(name) for name in ("input", "indices") if name in arguments)
        name = "max_unpool2d" if calls.kind(node) == "unpool" else "relu_max_pool2d" if fused else "max_pool2d"
        with node.graph.inserting_before(node):
            new = node.graph.call_function(getattr(functional, name), operands, arguments)
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def _set_forward(module: nn.Module, graph: fx.Graph) -> None:
    for node in graph.nodes:
        node.meta = {}  # a graph must not hold the model, nor fx generate a call of fx.wrap
    if isinstance(module, fx.GraphModule):
        module.graph, module._tracer_cls = graph, Tracer
        return
    code = graph.python_code("self")
    names = {name: value for name, value in code.globals.items() if name in code.src}
    base = vars(type(module)).get("_segext_base", type(module))
    read = inspect.unwrap(base.forward).__code__.co_names
    fixed = {n: v for n, v in vars(module).items() if n in read and isinstance(v, bool | int | float | str | None)}
    fixed.pop("training", None)
    _become(module, _subclass(base, code.src, names, fixed))


def _subclass(base: type, source: str, names: dict[str, object], fixed: dict[str, object]) -> type:
    """A subclass of a user's class with a forward of its own, which copies and pickles as class and source.

    The forward was traced with the values of ``fixed``, so setting another is an error.
    """
    filename = f"<segext.convert {base.__qualname__} {hash(source):x}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)  # for tracebacks
    namespace = dict(names)
    exec(compile(source, filename, "exec"), namespace)
    imports = {name: value.__name__ for name, value in names.items() if isinstance(value, ModuleType)}
    others = {name: value for name, value in names.items() if name not in imports}

    def __reduce_ex__(self, protocol):
        _, (_, *args), *state = base.__reduce_ex__(self, 2)
        return _remake, (base, source, imports, others, fixed, *args), *state

    def __setattr__(self, name, value):
        if name in fixed and fixed[name] != value:
            reason = f"segext.convert fixed it in forward as {fixed[name]!r}; set it before converting"
            raise AttributeError(f"cannot set {base.__name__}.{name} to {value!r}: {reason}")
        base.__setattr__(self, name, value)

    members = {"forward": namespace["forward"], "__reduce_ex__": __reduce_ex__, "__setattr__": __setattr__}
    members |= {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    return type(base)(base.__name__, (base,), members | {"_segext_base": base})


def _remake(base: type, source: str, imports: dict[str, str], others: dict, fixed: dict, *args) -> nn.Module:
    names = {name: importlib.import_module(module) for name, module in imports.items()} | others
    kind = _subclass(base, source, names, fixed)
    return kind.__new__(kind, *args)
