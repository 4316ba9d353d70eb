"""Decides from the data flow of a model what is swapped, what is fused, and what is left and why."""

from collections.abc import Iterator

from torch import fx, nn

from .. import nn as layers
from . import Change, Report, calls, reach, swaps
from .dataflow import Dataflow, Unit, changes_after, changes_between, index_uses, source_pool, value_uses
from .sites import Site

_SWAPPED = {
    nn.MaxPool2d: layers.MaxPool2d,
    nn.MaxUnpool2d: swaps.MaxUnpool2d,
    nn.ConvTranspose2d: layers.ConvTranspose2d,
}
_FUSED = {
    nn.ReLU: nn.Identity,
    **dict.fromkeys((nn.MaxPool2d, layers.MaxPool2d), layers.ReLUMaxPool2d),
    nn.MaxUnpool2d: swaps.DeferredMaxUnpool2d,
    nn.Conv2d: swaps.UnpoolingConv2d,
    **dict.fromkeys((nn.ConvTranspose2d, layers.ConvTranspose2d), swaps.UnpoolingConvTranspose2d),
}
_FUSIONS = {
    **dict.fromkeys((nn.MaxPool2d, layers.MaxPool2d), "segext.nn.ReLUMaxPool2d"),
    nn.Conv2d: "segext.nn.UnpoolConv2d",
    **dict.fromkeys((nn.ConvTranspose2d, layers.ConvTranspose2d), "segext.nn.UnpoolConvTranspose2d"),
}


class Plan:
    """What is swapped, fused and left.

    Attributes:
        swaps: units that become segext's.
        left: units that stay, with the reason.
        pairs: linked ReLUs and unpoolings, each with the pool or the convolution that takes it over.
        unfused: linked ReLUs before a pool that stay, with the reason.
    """

    def __init__(self, flow: Dataflow) -> None:
        self.flow = flow
        units = [m for m in flow.model.modules() if type(m) in calls.STOCK_LAYERS]
        units += [site for found in flow.sites.values() for site in found.values()]
        units += [unit for unit in flow.calls if isinstance(unit, fx.Node)]
        units = [unit for unit in units if _successor(unit)]
        self.left: dict[Unit, str] = {}
        verdicts = {"pool": self._why_leave_pool, "unpool": self._why_leave_unpool, "convolution": lambda _: ""}
        for kind, verdict in verdicts.items():
            for unit in units:
                if calls.KINDS[_key(unit)] == kind and (reason := self._why_leave(unit) or verdict(unit)):
                    self.left[unit] = reason
        self.swaps = [unit for unit in units if unit not in self.left]
        self.unfused: dict[fx.Node, str] = {}
        self._methods = {kind: reach.named_by_methods(kind) for kind in set(map(type, flow.names))}
        self.pairs = self._fusions() | self._unpooled_convolutions()
        self.fused = {node.meta["unit"] for pair in self.pairs.items() for node in pair}

    def _why_leave(self, unit: Unit) -> str:
        """Why a unit cannot be changed at all."""
        if isinstance(unit, nn.Module):
            return (
                "its forward was replaced on the instance" if "forward" in vars(unit) else self.flow.typed.get(unit, "")
            )
        if isinstance(unit, Site) or isinstance(unit.meta["owner"], fx.GraphModule):
            return ""
        return "no method that a module finds in its own class, and whose source is known, calls it by name"

    def _why_unknown(self, unit: Unit, layers: dict[nn.Module, str]) -> str:
        """Why more may happen around a unit than the data flow shows, including the reasons for layers."""
        if isinstance(unit, nn.Module):
            return layers.get(unit, "")
        owners = {call.meta["owner"] for call in self.flow.calls[unit]}
        if isinstance(unit, Site):
            if unit.key in self.flow.strays:
                return "it also runs in ways that no trace shows"
            owners.add(unit.owner)
            if unit.method != "forward" and unit.owner in self.flow.exposed:
                return self.flow.exposed[unit.owner]
        return next((self.flow.doubts[owner] for owner in owners if owner in self.flow.doubts), "")

    def _why_leave_pool(self, unit: Unit) -> str:
        found = self.flow.calls[unit]
        if isinstance(unit, Site) and unit.indices is None:
            return "it is not written there whether it returns indices"
        if not (unit.indices if isinstance(unit, Site) else self._arguments(unit).get("return_indices")):
            return ""
        if reason := self._why_unknown(unit, self.flow.leaking):
            return f"its indices may be used elsewhere: {reason}"
        if not found and unit not in self.flow.unpooled:
            return "its indices may be used elsewhere: no forward that was read calls it"
        if isinstance(unit, nn.Module) and calls.is_hooked(unit):
            return "a hook sees its indices"
        uses = (self._why_not_switches(call, value, use) for call in found for value, use in index_uses(call))
        return next(filter(None, uses), "")

    def _arguments(self, unit: nn.Module | fx.Node) -> dict[str, object]:
        return vars(unit) if isinstance(unit, nn.Module) else calls.arguments(self.flow.calls[unit][0])

    def _why_not_switches(self, pool: fx.Node, value: fx.Node, use: fx.Node) -> str:
        """Why a use of a pool's indices, or of its whole result, needs the stock index tensor."""
        if use.op == "output":
            return "its indices are returned to the caller"
        reads = calls.arguments(use) if calls.kind(use) == "unpool" else {}
        if reads.get("indices") is not value or reads.get("input") is value:
            return f"its indices are used by {self._label(use)}"
        if _successor(use.meta["unit"]) and self._why_leave(use.meta["unit"]):
            return f"its indices go to {self._label(use)}, which is left"
        if use.meta["module"] and calls.is_hooked(use.meta["module"]):
            return f"a hook on {self._label(use)} sees its indices"
        ours, theirs = calls.window(calls.arguments(pool)), calls.window(reads)  # an unpooling has no dilation
        if calls.overlaps(ours):
            return "windows overlap: where two elements name a pixel, stock gives both its gradient, segext one"
        return "" if theirs and ours[0] == theirs[0] else "its indices go to an unpooling of other windows"

    def _why_leave_unpool(self, unit: Unit) -> str:
        sources = filter(None, map(source_pool, self.flow.calls[unit]))
        known = [pool for pool, unpools in self.flow.unpooled.items() if unit in unpools]
        if any(pool not in self.left for pool in (*known, *(source.meta["unit"] for source in sources))):
            return ""
        return "its indices come from no pool that is swapped"

    def _fusions(self) -> dict[fx.Node, fx.Node]:
        pairs: dict[fx.Node, fx.Node] = {}
        for relu in [n for graph in self.flow.roots for n in graph.nodes if calls.kind(n) == "relu"]:
            uses = value_uses(relu)
            pool = next((u for u in uses if calls.kind(u) == "pool" and calls.arguments(u)["input"] is relu), None)
            if pool and (reason := self._why_not_fuse(relu, pool)):
                self.unfused[relu] = reason
            elif pool:
                pairs[relu] = pool

        def everywhere(node: fx.Node, fused) -> bool:
            return all(other in fused for other in self.flow.calls[node.meta["unit"]])

        while bad := [r for r, p in pairs.items() if not (everywhere(r, pairs) and everywhere(p, pairs.values()))]:
            for relu in bad:
                self.unfused[relu] = "the same layer or call also runs where it cannot be fused"
                del pairs[relu]
        return pairs

    def _unpooled_convolutions(self) -> dict[fx.Node, fx.Node]:
        """Unpoolings whose only reader is a convolution, wherever they run."""
        pairs: dict[fx.Node, fx.Node] = {}
        for unit in self.swaps:
            found = self.flow.calls[unit]
            if calls.KINDS[_key(unit)] == "unpool" and all(map(self._may_wait, found)):
                pairs |= {unpool: value_uses(unpool)[0] for unpool in found}
        return pairs

    def _may_wait(self, unpool: fx.Node) -> bool:
        """Whether an unpooling can be deferred to the only layer that reads it."""
        uses, unit = value_uses(unpool), unpool.meta["unit"]
        reader = uses[0].meta.get("module") if len(uses) == 1 else None
        if calls.KINDS.get(type(reader)) != "convolution" or calls.operand(uses[0]) is not unpool:
            return False
        if "forward" in vars(reader) or len(unpool.users) > 1 or self._why_unknown(unit, self.flow.exposed):
            return False
        layers_seen = (module for module in (unpool.meta["module"], reader) if module is not None)
        if any(map(calls.is_hooked, layers_seen)) or self.flow.typed.get(reader) or changes_between(unpool, uses[0]):
            return False
        if self._why_apart(unit, reader):
            return False
        source = calls.arguments(unpool)["input"]
        return isinstance(source, fx.Node) and not changes_after(unpool, source)

    def _why_not_fuse(self, relu: fx.Node, pool: fx.Node) -> str:
        for node in (relu, pool):
            unit = node.meta["unit"]
            if reason := self._why_leave(unit) or self._why_unknown(unit, self.flow.exposed):
                return reason
            if isinstance(unit, nn.Module) and calls.is_hooked(unit):
                return f"{self._label(node)} has hooks"
        if reason := self._why_apart(relu.meta["unit"], pool.meta["unit"]):
            return reason
        if len(value_uses(relu)) > 1:
            return "its output has other uses"
        if pool.meta["unit"] in self.left:
            return "its pool is left"
        if changes_between(relu, pool):
            return "a tensor may change in place between it and its pool"
        if self.flow.may_change(pool):
            return "the pooled map may change in place, and the fused backward pass needs it"
        source = calls.operand(relu)
        if calls.mutates(relu) and not (len(value_uses(source)) == 1 and calls.is_fresh(source)):
            return "it works in place on a tensor that others may read"
        return ""

    def _why_apart(self, first: Unit, second: Unit) -> str:
        """Why a pair must not be fused although no forward separates it: a public method runs one of them alone."""
        if isinstance(first, fx.Node) or isinstance(second, fx.Node):
            return ""
        for module in self.flow.names:
            methods = self._methods[type(module)]
            ways = [_ways_to(unit, module) for unit in (first, second)] if methods else ()
            for method, names in methods.items():
                if len({way.isdisjoint(names) for way in ways}) == 2:
                    return f"{type(module).__name__}.{method} runs one without the other"
        return ""

    def new_classes(self) -> dict[nn.Module, type]:
        """The layers that change, with what they become."""
        new = {unit: _SWAPPED[type(unit)] for unit in self.swaps if isinstance(unit, nn.Module)}
        return new | {unit: _FUSED[type(unit)] for unit in self.fused if isinstance(unit, nn.Module)}

    def edits(self) -> Iterator[tuple[Site | fx.Node, bool]]:
        """The calls that change, and whether they change by fusion."""
        for unit in dict.fromkeys((*self.swaps, *self.fused)):
            if not isinstance(unit, nn.Module):
                yield unit, unit in self.fused

    def report(self) -> Report:
        changes = []
        for unit in self.swaps:
            if unit not in self.fused:
                after = f"segext.{'nn' if isinstance(unit, nn.Module) else 'functional'}.{_successor(unit)}"
                changes.append(Change("swapped", self._where(unit), calls.title(_key(unit)), after))
        for pair in self.pairs.items():
            units = [node.meta["unit"] for node in pair]
            before = " + ".join(calls.title(_key(unit)) for unit in units)
            after = _FUSIONS.get(type(units[1]), "segext.functional.relu_max_pool2d")
            changes.append(Change("fused", " + ".join(map(self._where, units)), before, after))

        def leave(unit: Unit, title: str, reason: str) -> None:
            changes.append(Change("left", self._where(unit), title, reason=reason))

        for unit, reason in self.left.items():
            leave(unit, calls.title(_key(unit)), reason)
        for module in self.flow.model.modules():
            is_ours = any(base.__module__ == layers.__name__ for base in type(module).__mro__)
            if isinstance(module, calls.STOCK_LAYERS) and type(module) not in calls.KINDS and not is_ours:
                leave(module, type(module).__name__, "a subclass may do something else")
        for relu, reason in self.unfused.items():
            leave(relu.meta["unit"], calls.title(_key(relu.meta["unit"])), f"not fused: {reason}")
        for module, reason in self.flow.doubts.items():
            held = list(module.modules())
            pools = any(isinstance(m, nn.MaxPool2d) for m in held) or any(
                map(_successor, self.flow.sites[module].values())
            )
            called = [site for m in held for site in self.flow.sites.get(m, {}).values()]
            if pools and any(calls.KINDS.get(_key(unit)) == "relu" for unit in (*held, *called)):
                leave(module, type(module).__name__, f"ReLUs that it may call stay: {reason}")
        return Report(tuple(dict.fromkeys(changes)))

    def _label(self, node: fx.Node) -> str:
        return self._where(node.meta["unit"])

    def _where(self, unit: Unit) -> str:
        if isinstance(unit, nn.Module):
            return self.flow.names[unit]
        if isinstance(unit, Site):
            name = f"{self.flow.names[unit.owner]}.{unit.method}:{unit.line}:{unit.column}"
        else:
            name = f"{self.flow.names[unit.meta['owner']]}.forward: {unit.name}"
        return name.removeprefix("(model).")


def _ways_to(unit: nn.Module | Site, module: nn.Module) -> set[str]:
    """The names by which methods of ``module`` may run a unit."""
    if isinstance(unit, Site) and unit.owner is module:
        return {unit.method}
    return reach.children_with(module, unit.owner if isinstance(unit, Site) else unit)


def _key(unit: Unit):
    """The type of layer, function or method name of a unit."""
    return type(unit) if isinstance(unit, nn.Module) else unit.target


def _successor(unit: Unit) -> str | None:
    """The name of a unit's replacement in segext."""
    return calls.SUCCESSORS.get(_key(unit))
