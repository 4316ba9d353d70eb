"""The public face of conversion: the call and its report. What does the work is imported by the first call.

``trace`` reads forwards, ``source`` and ``sites`` the calls in their methods, ``reach`` the paths that no trace takes;
``calls`` knows what one call is, ``dataflow`` links forwards, ``plan`` decides, ``apply`` changes the model, ``swaps``
is what it then calls. A swapped layer keeps its identity and changes its class, so that names, state, hooks, sharing
and every reference to it stay.
"""

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..memory import Memory, measure
from ..nn import Prepackable

__all__ = ["Change", "Report", "convert"]


@dataclass(frozen=True)
class Change:
    """One line of a report.

    ``action`` is "swapped", "fused" or "left"; ``name`` is the layer's, ``before`` and ``after`` are kinds of layer:
    ``after`` is the one whose computation runs, which need not be the layer's class. ``reason`` says why something was
    left.
    """

    action: str
    name: str
    before: str
    after: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """What :func:`segext.convert` did, one :class:`segext.Change` each; ``print`` shows it as a table.

    ``changes`` has all of them, ``swapped``, ``fused`` and ``left`` those of one action. ``before`` and ``after`` count
    the bytes of one call of the model, where there was an example to call it with.
    """

    changes: tuple[Change, ...] = ()
    before: Memory | None = None
    after: Memory | None = None

    def _of(self, action: str) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.action == action)

    swapped = property(lambda self: self._of("swapped"))
    fused = property(lambda self: self._of("fused"))
    left = property(lambda self: self._of("left"))

    def __str__(self) -> str:
        head = f"segext.convert: {len(self.swapped)} swapped, {len(self.fused)} fused, {len(self.left)} left"
        rows = [(c.action, c.name, f"{c.before} -> {c.after}" if c.after else c.before, c.reason) for c in self.changes]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [head, *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)]
        if self.before and self.after:
            for what, name in (("kept for backward", "kept"), ("of switches", "switches")):
                lines.append(f"bytes {what}: {getattr(self.before, name):,} -> {getattr(self.after, name):,}")
        return "\n  ".join(lines)


@torch.inference_mode(False)  # in which copies could not be trained
def convert(
    model: nn.Module, *, inplace: bool = False, example: Tensor | tuple | None = None, prepack: bool = False
) -> tuple[nn.Module, Report]:
    """Swap the pooling, unpooling and transposed convolution of ``model`` for segext's, and fuse what neighbours do.

    ::

        model, report = segext.convert(model)
        print(report)

    ``nn.MaxPool2d``, ``nn.MaxUnpool2d`` and ``nn.ConvTranspose2d`` become their namesakes in ``segext.nn``; so do
    ``F.max_pool2d``, ``torch.max_pool2d`` and ``F.max_unpool2d`` where a method of a module's class calls them by name.
    A ReLU, as a layer or as a call, whose output goes to a pool and nowhere else becomes part of that pool, and an
    unpooling whose map goes to an ``nn.Conv2d`` or ``nn.ConvTranspose2d`` and nowhere else becomes part of that, where
    the forwards around it run the same way every time: without conditions, contexts and the like. State dict,
    parameters, hooks, modes, shared layers and the classes of your own modules stay, and your code runs as you wrote
    it; a converted model can be converted again, copied, pickled, trained and compiled. Subclasses of the stock layers
    are left alone, and so are layers whose indices may reach anything but an unpooling of the same windows: a model
    that returns indices returns stock's. Unpooling gives the sizes that stock gives.

    Exact means that the model's ``forward`` gives the same values and gradients, but for the order of the sums in the
    convolutions that change, as long as it runs the layers that it has now. An output that a ReLU and pool in one gives
    must not be changed in place before the backward pass, which reads it, though stock's may be: autograd raises an
    error if it was. A pair whose map the model itself may change in place is not fused. What lies between two fused
    layers is gone: a hook or a layer added there later, a method other than ``forward`` or a block ending between them,
    called on its own, meets the values from before the first, switches for indices, and for an unpooled map the pair of
    both.

    Args:
        model: any module that can be deep-copied; forwards run once, on a copy and on stand-ins for tensors.
        inplace: change ``model`` itself instead of a deep copy, as training that holds its parameters needs.
        example: an input, or a tuple of all arguments of one call. The report then tells the bytes that autograd keeps
            for the backward pass of that call, and those of all pools' switches, before and after. The forward runs
            twice, on copies.
        prepack: pack the weights of unpooling and convolution in one, for inference:
            :meth:`segext.nn.Prepackable.prepack`.

    Returns:
        The converted model and a :class:`segext.Report`.

    Raises:
        TypeError: ``model`` is not an ``nn.Module``.
    """
    from .apply import apply
    from .dataflow import Dataflow
    from .plan import Plan

    if not isinstance(model, nn.Module):
        raise TypeError(f"segext.convert: model must be a torch.nn.Module, but got {type(model).__name__}")
    model = model if inplace else copy.deepcopy(model)
    arguments = example if isinstance(example, tuple) else (example,)
    before = measure(model, arguments) if example is not None else None
    plan = Plan(Dataflow(model))
    report = plan.report()
    apply(plan)
    if prepack:
        for module in model.modules():
            if isinstance(module, Prepackable):
                module.prepack()
    if example is not None:
        report = replace(report, before=before, after=measure(model, arguments))
    return model, report
