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


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def described(text: str, default: Any) -> str:
    """A help text for argparse that ends with the default, a value or its description, unless that is empty."""
    if default not in (None, "", ()):
        text += f" (default: {_shown(default)})"
    return text.replace("%", "%%")


def option(default: Any, text: str, *, otherwise: str | None = None, **more: Any) -> Any:
    """A field that is also a command-line option.

    Args:
        text: describes the option.
        otherwise: describes the default, where its value does not.
        more: for argparse.
    """
    return field(default=default, metadata={"help": described(text, otherwise or default), **more})


LAYERS, LAYERS_HELP = ("segext", "torch"), "build the model from segext's or torch's layers"

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

    model: str = option("", "architecture; required unless --resume is given", choices=tuple(MODELS))
    width: float = option(1.0, "channels of each layer, as a share of the published number", type=positive)
    argument: Mapping[str, Any] = option(
        None,
        "further argument of the model's builder; may be repeated",
        type=argument,
        action="append",
        metavar="NAME=VALUE",
    )
    layers: str = option("segext", LAYERS_HELP, choices=LAYERS)
    weights: str | None = option(
        None, "start from published weights, a checkpoint or a run", otherwise="random weights", metavar="PATH"
    )
    skip: tuple[str, ...] = option(
        (), "layer that --weights does not set; may be repeated", action="append", metavar="LAYER"
    )
    classes: int | None = option(
        None, "number of classes", otherwise="as many as classes.txt names, or else as the labels hold", type=count
    )
    ignore: int = option(255, "label value to ignore, e.g. 11 for CamVid", type=label_value)
    class_weights: str = option("none", "class weights of the loss", choices=("none", "median-frequency"))
    normalization: str = option(
        "torchvision", "normalise pixels as these pretrained weights expect", choices=tuple(NORMALIZATIONS)
    )
    crop: tuple[int, int] | None = option(
        None, "size of random crops", otherwise="whole images", type=count, nargs=2, metavar=("HEIGHT", "WIDTH")
    )
    scale: tuple[float, float] = option(
        (1.0, 1.0), "range of random scaling factors", type=positive, nargs=2, metavar=("MIN", "MAX")
    )
    mirror: bool = option(
        True,
        "mirror half of the images left to right",
        otherwise="--mirror",
        action=argparse.BooleanOptionalAction,
    )
    batch: int = option(4, "images per step, over all processes", type=count)
    epochs: int = option(100, "passes over the training images", type=count)
    steps: int | None = option(None, "number of steps, instead of --epochs", type=count)
    every: int | None = option(
        None, "steps between evaluations, each of which saves a checkpoint", otherwise="one epoch", type=count
    )
    optimizer: str = option("sgd", "optimizer; with sgd, biases learn at twice the rate", choices=("sgd", "adam"))
    lr: float | None = option(None, "learning rate", otherwise="0.01 with sgd, 0.001 with adam", type=positive)
    momentum: float = option(0.9, "momentum of SGD", type=share)
    weight_decay: float = option(5e-4, "weight decay of everything except biases", type=fraction)
    schedule: str = option(
        "constant",
        "learning-rate schedule; poly falls to 0, step divides by 10 every --drop steps",
        choices=("constant", "poly", "step"),
    )
    drop: int = option(10_000, "steps after which --schedule step divides the learning rate by 10", type=count)
    precision: str = option(
        "float32", "compute type; below float32 it is mixed precision", choices=("float32", "bfloat16", "float16")
    )
    seed: int = option(0, "seed of all random numbers", type=natural)

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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds options for all settings. Omitted options do not appear in argparse's result."""
    for item in fields(Settings):
        parser.add_argument(_flag(item.name), default=argparse.SUPPRESS, **item.metadata)


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
