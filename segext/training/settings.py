"""The settings of a run, which determine its result. They are chosen at its start and kept when it is resumed."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..models import MODELS
from .errors import UserError
from .normalization import NORMALIZATIONS


def checked(kind: Callable[[str], Any], wanted: str, holds: Callable[[Any], bool]) -> Callable[[str], Any]:
    """A type for argparse: ``kind``, restricted to values for which ``holds`` is true."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not holds(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not a {wanted}")
        return value

    return parse


count = checked(int, "whole number above 0", lambda value: value > 0)
natural = checked(int, "whole number from 0 on", lambda value: value >= 0)
fraction = checked(float, "number from 0 on", lambda value: 0 <= value < float("inf"))
positive = checked(float, "number above 0", lambda value: 0 < value < float("inf"))
share = checked(float, "number from 0 to 1", lambda value: 0 <= value <= 1)
label_value = checked(int, "value of a label's pixel, 0 to 255", lambda value: 0 <= value <= 255)


def argument(text: str) -> tuple[str, bool | int | float | str]:
    """NAME=VALUE, for a builder in :mod:`segext.models`."""
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def option(default: Any, help: str, **more: Any) -> Any:
    """A field that is also a command-line option; ``more`` goes to argparse."""
    return field(default=default, metadata={"help": help, **more})


# Arguments of the builders that --argument cannot set, and what sets them.
_OWN_OPTIONS = {"num_classes": "--classes", "width": "--width", "layers": "--layers"}

# Settings that another one can leave without effect: when it does, and which it is.
_WITHOUT_EFFECT: dict[str, tuple[Callable[[Settings], bool], str]] = {
    "skip": (lambda settings: settings.weights is None, "without --weights"),
    "drop": (lambda settings: settings.schedule != "step", "without --schedule step"),
    "momentum": (lambda settings: settings.optimizer != "sgd", "with --optimizer {optimizer}"),
    "epochs": (lambda settings: settings.steps is not None, "beside --steps {steps}"),
}


@dataclass(frozen=True)
class Settings:
    """Each field is an option of ``segext train``, which documents it."""

    model: str = option("", "the architecture", choices=tuple(MODELS))
    width: float = option(1.0, "channels of each layer, as a share of the published", type=positive)
    argument: Mapping[str, Any] = option(
        None, "a further argument of the model's builder", type=argument, action="append", metavar="NAME=VALUE"
    )
    layers: str = option("segext", "whose layers the model is made of", choices=("segext", "torch"))
    weights: str | None = option(None, "published weights, a checkpoint or a run to start from", metavar="PATH")
    skip: tuple[str, ...] = option((), "a layer that --weights is not to set", action="append", metavar="LAYER")
    classes: int | None = option(
        None, "how many classes; as many as classes.txt names, or else the labels hold, if not given", type=count
    )
    ignore: int = option(255, "the value of pixels that are not labelled (CamVid: 11)", type=label_value)
    class_weights: str = option("none", "weights of the classes in the loss", choices=("none", "median-frequency"))
    normalization: str = option(
        "torchvision", "how pixels are normalised: as these weights want it", choices=tuple(NORMALIZATIONS)
    )
    crop: tuple[int, int] | None = option(
        None, "size of random crops; whole images, if not given", type=count, nargs=2, metavar=("HEIGHT", "WIDTH")
    )
    scale: tuple[float, float] = option((1.0, 1.0), "range of random scales", type=positive, nargs=2)
    mirror: bool = option(True, "horizontal flip of half of the images", action=argparse.BooleanOptionalAction)
    batch: int = option(4, "images a step, over all processes", type=count)
    epochs: int = option(100, "how often to go through the images", type=count)
    steps: int | None = option(None, "how many steps, rather than epochs", type=count)
    every: int | None = option(
        None, "steps between evaluations, each with a checkpoint; an epoch, if not given", type=count
    )
    optimizer: str = option("sgd", "with SGD, biases learn twice as fast", choices=("sgd", "adam"))
    lr: float | None = option(None, "learning rate; 0.01 with SGD and 0.001 with Adam, if not given", type=positive)
    momentum: float = option(0.9, "of SGD", type=share)
    weight_decay: float = option(5e-4, "of all but biases", type=fraction)
    schedule: str = option("constant", "how the learning rate falls", choices=("constant", "poly", "step"))
    drop: int = option(10_000, "steps between tenfold drops of the schedule 'step'", type=count)
    precision: str = option("float32", "below float32: mixed precision", choices=("float32", "bfloat16", "float16"))
    seed: int = option(0, "of everything random", type=natural)

    @classmethod
    def of(cls, given: Mapping[str, Any], recorded: Mapping[str, Any] | None = None) -> Settings:
        """Settings from argparse's result, which may contain other values too.

        Args:
            recorded: what ``plain`` returned for a run. It holds where nothing is given.

        Raises:
            UserError: for values that cannot be combined, or a given one without effect.
        """
        known = {**(recorded or {}), **given}
        values = {item.name: known[item.name] for item in fields(cls) if item.name in known}
        values["argument"] = dict(values.get("argument") or ())
        for name in ("crop", "scale", "skip"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        if values.get("lr") is None:
            values["lr"] = 0.001 if values.get("optimizer") == "adam" else 0.01
        settings = cls(**values)
        if not settings.model:
            raise UserError(f"--model is missing: one of {', '.join(MODELS)}")
        for name in settings.argument.keys() & _OWN_OPTIONS.keys():
            raise UserError(f"--argument {name}: it has an option of its own, {_OWN_OPTIONS[name]}")
        if settings.scale[0] > settings.scale[1]:
            raise UserError(f"--scale: {settings.scale[0]} is above {settings.scale[1]}")
        if settings.classes is not None and settings.classes > 256:
            raise UserError(f"--classes {settings.classes}: a label's pixel holds no more than 256")
        for name, (idle, reason) in _WITHOUT_EFFECT.items():
            if name in given and idle(settings):
                reason = reason.format_map(vars(settings))
                raise UserError(f"{_flag(name)} {_shown(values[name])} has no effect {reason}")
        return settings

    def plain(self) -> dict[str, Any]:
        """The settings as a dict of plain values, which ``of`` accepts."""
        return asdict(self)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the model's builder, except ``layers``, which do not affect its weights."""
        return {"num_classes": self.classes, "width": self.width, **self.argument}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds options for all settings. Omitted options do not appear in argparse's result."""
    for item in fields(Settings):
        more = dict(item.metadata)
        text = more.pop("help")
        if item.default not in (None, "", ()):
            text += f" ({_shown(item.default)})"
        parser.add_argument(_flag(item.name), default=argparse.SUPPRESS, help=text.replace("%", "%%"), **more)


def agree(recorded: Settings, given: Mapping[str, Any], run: str) -> None:
    """Checks that repeated settings match those of the run.

    Raises:
        UserError: naming the first one that does not.
    """
    again = Settings.of(given, recorded.plain())
    for item in fields(Settings):
        before, now = getattr(recorded, item.name), getattr(again, item.name)
        if before != now:
            raise UserError(
                f"{_flag(item.name)} {_shown(now)}: {run} was started with {_shown(before)}, and a resumed run keeps "
                "its settings"
            )
