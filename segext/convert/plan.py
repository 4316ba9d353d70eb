"""Decides what is swapped, what is fused, and what is left and why, from the data flow of a model."""

from torch import fx, nn

from .. import nn as layers
from . import Change, Report, calls
from .dataflow import Dataflow, changes_between, changes_later, index_uses, source_pool, unit_of, value_uses


class Plan:
    """What is swapped, fused and left.

    Attributes:
        swaps: units that become segext's.
        left: units that stay, with the reason.
        pairs: linked ReLUs, each with the pool that takes it over.
        unfused: linked ReLUs before a pool that stay, with the reason.
    """

    def __init__(self, flow: Dataflow) -> None:
        self.flow = flow
        units = [m for m in flow.model.modules() if type(m) in calls.STOCK_LAYERS]
        units += [u for u in flow.calls if isinstance(u, fx.Node) and u.op != "call_module" and _successor(u)]
        self.left: dict[nn.Module | fx.Node, str] = {}
        for kind, verdict in (("unpool", self._why_leave_unpool), ("pool", self._why_leave_pool)):
            for unit in units:
                if calls.KINDS[_key(unit)][0] == kind and (reason := self._why_leave(unit) or verdict(unit)):
                    self.left[unit] = reason
        self.swaps = [unit for unit in units if unit not in self.left]
        self.unfused: dict[fx.Node, str] = {}
        self.pairs = self._fusions()

    def _why_leave(self, unit: nn.Module | fx.Node) -> str:
        if isinstance(unit, nn.Module) and "forward" in vars(unit):
            return "its forward was replaced on the instance"
        return self.flow.typed.get(unit, "")

    def _arguments(self, unit: nn.Module | fx.Node) -> dict[str, object]:
        return vars(unit) if isinstance(unit, nn.Module) else calls.arguments(self.flow.calls[unit][0])

    def _why_leave_unpool(self, unit: nn.Module | fx.Node) -> str:
        sources = [source_pool(call) for call in self.flow.calls[unit]] or [None]
        for arguments in (calls.arguments(source) if source else self._arguments(unit) for source in sources):
            if calls.overlaps(calls.window(arguments)):
                return "windows overlap: where two elements name a pixel, stock gives both its gradient, segext one"
        return ""

    def _why_leave_pool(self, unit: nn.Module | fx.Node) -> str:
        arguments = self._arguments(unit)
        if not arguments.get("return_indices"):
            return ""
        if isinstance(unit, nn.Module) and calls.is_hooked(unit):
            return "a hook sees its indices"
        window = calls.window(arguments)
        uses = (use for call in self.flow.calls[unit] for use in index_uses(call))
        return next(filter(None, (self._why_not_switches(use, window) for use in uses)), "")

    def _why_not_switches(self, use: fx.Node, window: tuple | None) -> str:
        """Why a use of a pool's indices needs the stock index tensor."""
        if use.op == "output":
            return "its indices are returned to the caller" if self.flow.roots[use.graph] is self.flow.model else ""
        if calls.kind(use) == "unpool":
            if unit_of(use) in self.left:
                return f"its indices go to {self._label(use)}, which is left"
            theirs = calls.window(calls.arguments(use))  # an unpooling knows no dilation
            fits = window and theirs and window[0] == theirs[0]
            return "" if fits else "its indices go to an unpooling of other windows"
        return "" if calls.is_opaque(use) else f"its indices are used by {self._label(use)}"

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
            return all(other in fused for other in self.flow.calls[node.meta["site"]])

        while bad := [r for r, p in pairs.items() if not (everywhere(r, pairs) and everywhere(p, pairs.values()))]:
            for relu in bad:
                self.unfused[relu] = "the same layer or call also runs where it cannot be fused"
                del pairs[relu]
        return pairs

    def _why_not_fuse(self, relu: fx.Node, pool: fx.Node) -> str:
        for node, module in ((relu, relu.meta["module"]), (pool, pool.meta["module"])):
            if module in self.flow.typed:
                return self.flow.typed[module]
            if module and (calls.is_hooked(module) or "forward" in vars(module)):
                return f"{self._label(node)} has hooks"
        if len(value_uses(relu)) > 1:
            return "its output has other uses"
        if unit_of(pool) in self.left:
            return "its pool is left"
        if changes_between(relu, pool):
            return "a tensor may change in place between it and its pool"
        if changes_later(pool):
            return "the pooled map may change in place, and the fused backward pass needs it"
        source = calls.operand(relu)
        if calls.mutates(relu) and not (len(value_uses(source)) == 1 and calls.is_fresh(source)):
            return "it works in place on a tensor that others may read"
        return ""

    def goes_whole(self, node: fx.Node) -> bool:
        """Whether a fusion changes the layer itself, not one call of it."""
        module, fused = node.meta["module"], (*self.pairs, *self.pairs.values())
        return module not in (None, *self.flow.exposed) and all(n in fused for n in self.flow.calls[module])

    def new_classes(self) -> dict[nn.Module, type]:
        new = {unit: getattr(layers, _successor(unit)) for unit in self.swaps if isinstance(unit, nn.Module)}
        for relu, pool in self.pairs.items():
            for node, kind in ((relu, nn.Identity), (pool, layers.ReLUMaxPool2d)):
                if self.goes_whole(node):
                    new[node.meta["module"]] = kind
        return new

    def report(self) -> Report:
        changes, fused = [], {unit_of(pool) for pool in self.pairs.values()}
        for unit in self.swaps:
            if unit not in fused:
                after = f"segext.{'nn' if isinstance(unit, nn.Module) else 'functional'}.{_successor(unit)}"
                changes.append(Change("swapped", self._where(unit), calls.title(_key(unit)), after))
        for relu, pool in self.pairs.items():
            before = f"{calls.title(calls.target(relu))} + {calls.title(calls.target(pool))}"
            after = "segext.nn.ReLUMaxPool2d" if self.goes_whole(pool) else "segext.functional.relu_max_pool2d"
            changes.append(Change("fused", f"{self._label(relu)} + {self._label(pool)}", before, after))

        def leave(unit: nn.Module | fx.Node, title: str, reason: str) -> None:
            changes.append(Change("left", self._where(unit), title, reason=reason))

        for unit, reason in self.left.items():
            leave(unit, calls.title(_key(unit)), reason)
        for module in self.flow.model.modules():
            if isinstance(module, calls.STOCK_LAYERS) and type(module) not in calls.KINDS:
                leave(module, type(module).__name__, "a subclass may do something else")
        for relu, reason in self.unfused.items():
            leave(unit_of(relu), calls.title(calls.target(relu)), f"not fused: {reason}")
        for module, reason in self.flow.unread.items():
            leave(module, type(module).__name__, f"functional calls not looked at, no trace: {reason}")
        return Report(tuple(dict.fromkeys(changes)))

    def _label(self, node: fx.Node) -> str:
        return self._where(unit_of(node))

    def _where(self, unit: nn.Module | fx.Node) -> str:
        if isinstance(unit, nn.Module):
            return self.flow.names[unit]
        return f"{self.flow.names[unit.meta['owner']]}.forward: {unit.name}".removeprefix("(model).")


def _key(unit: nn.Module | fx.Node):
    return unit.target if isinstance(unit, fx.Node) else type(unit)


def _successor(unit: nn.Module | fx.Node) -> str | None:
    """The name in segext of what takes over from a unit."""
    return calls.KINDS.get(_key(unit), (None, None))[1]
