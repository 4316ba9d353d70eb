"""The public interface of conversion: the call and its report. The implementation is imported by the first call.

``trace`` reads forwards, ``source`` and ``sites`` the calls in their methods, ``reach`` the paths that no trace takes;
``calls`` classifies a single call, ``dataflow`` links forwards, ``plan`` decides, ``apply`` changes the model, and
``swaps`` holds what the model then calls. A swapped layer keeps its identity and changes its class, so that names,
state, hooks, sharing and all references to it are preserved.
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

    ``action`` is "swapped", "fused" or "left"; ``name`` is the name of the layer, ``before`` and ``after`` are kinds of
    layers. ``after`` is the kind whose computation runs, which need not be the layer's class. ``reason`` says why
    something was left unchanged.
    """

    action: str
    name: str
    before: str
    after: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """What :func:`segext.convert` did, as a list of :class:`segext.Change`; ``print`` shows it as a table.

    ``changes`` has all changes, ``swapped``, ``fused`` and ``left`` those with one action. ``before`` and ``after``
    count the bytes of one call of the model, if an example was given.
    """

    changes: tuple[Change, ...] = ()
    before: Memory | None = None
    after: Memory | None = None

    def _of(self, action: str) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.action == action)

    @property
    def swapped(self) -> tuple[Change, ...]:
        """Stock's layers and calls that one of segext's replaced."""
        return self._of("swapped")

    @property
    def fused(self) -> tuple[Change, ...]:
        """Pairs that one of segext's layers or calls replaced."""
        return self._of("fused")

    @property
    def left(self) -> tuple[Change, ...]:
        """What remained stock's; ``reason`` says why."""
        return self._of("left")

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
    """Replace pooling, unpooling and transposed convolution in ``model`` by segext's, and fuse neighbouring layers.

    ::

        model, report = segext.convert(model)
        print(report)

    **Swapped.** ``nn.MaxPool2d``, ``nn.MaxUnpool2d`` and ``nn.ConvTranspose2d`` become the layers of the same name in
    ``segext.nn``. The same goes for ``F.max_pool2d``, ``torch.max_pool2d``, ``F.max_unpool2d`` and
    ``F.conv_transpose2d`` where a method of a module's class calls them by name.

    **Fused.** A ReLU, as a layer or a call, is fused into a pool that is the only reader of its output. An unpooling is
    fused into an ``nn.Conv2d`` or ``nn.ConvTranspose2d`` that is the only reader of its map. Fusion requires that the
    forwards involved run the same way every time: without contexts and the like, and without conditions, except for
    whether the module has an optional layer: ``self.layer is None``.

    **Left alone.** Subclasses of the stock layers; layers whose indices may reach anything but an unpooling of the same
    windows, so that a model that returns indices returns stock's; pairs whose map the model itself may modify in place,
    as far as its forwards, what they call by name and hooks show; pairs of which a public method other than ``forward``
    runs only one.

    **Preserved.** State dict, parameters, hooks, modes, shared layers and the classes of your own modules; your code
    runs as written, and unpooling returns the same sizes as stock's. As long as the model runs its current layers, and
    no optional layer is added or removed, its ``forward`` returns the same values and gradients, except for the order
    of the sums in the convolutions that change, and for maps that stock's autocast on the CPU unpools in float32. A
    converted model can be converted again, copied, pickled, trained and compiled.

    **After conversion.** The output of a fused ReLU and pool must not be modified in place before the backward pass,
    which reads it; stock's may be. Autograd raises an error if it was. Do not hook into the middle of a fused pair: a
    hook, a layer or the end of a block between a ReLU and its pool sees the map before the ReLU; between an unpooling
    and its convolution, the pooled values and switches. So does a method named with a leading underscore that ends
    there and is called on its own. A method that returned indices may return switches. A new instance, made by
    ``type(model)(...)``, is not converted: initialise it from a state dict, not from layers of a converted model.

    Args:
        model: any module; forwards run once, on a copy, with stand-ins for tensors.
        inplace: change ``model`` itself rather than a deep copy, for example if an optimizer holds its parameters.
        example: an input, or a tuple of all arguments of one call. The report then gives the bytes that autograd keeps
            for the backward pass of that call, and the bytes of all pools' switches, before and after. The forward runs
            twice, on copies.
        prepack: pack the weights of fused unpooling and convolution, for inference; see
            :meth:`segext.nn.Prepackable.prepack`.

    Returns:
        The converted model and a :class:`segext.Report`.

    Raises:
        TypeError: if ``model`` is not an ``nn.Module``, or ``example`` neither a tensor nor a tuple.
        RuntimeError: if ``model`` cannot be deep-copied, but ``inplace`` is False or there is an example.
    """
    from .apply import apply
    from .dataflow import Dataflow
    from .plan import Plan

    if not isinstance(model, nn.Module):
        raise TypeError(f"segext.convert: model must be a torch.nn.Module, but got {type(model).__name__}")
    if not (example is None or isinstance(example, (Tensor, tuple))):
        raise TypeError(
            f"segext.convert: example must be a tensor, or a tuple of all arguments of a call, but got "
            f"{type(example).__name__}"
        )
    model = model if inplace else _copy(model)
    arguments = example if isinstance(example, tuple) else (example,)
    before = measure(model, arguments, _copy) if example is not None else None
    plan = Plan(Dataflow(model))
    report = plan.report()
    apply(plan)
    if prepack:
        for module in model.modules():
            if isinstance(module, Prepackable):
                module.prepack()
    if example is not None:
        report = replace(report, before=before, after=measure(model, arguments, _copy))
    return model, report


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise RuntimeError(
            f"segext.convert: the model cannot be copied; convert it with inplace=True and without an example. {error}"
        ) from error
