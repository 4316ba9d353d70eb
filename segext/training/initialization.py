"""The model that a run starts with, with random weights, published weights or those of another run."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..models import MODELS, load_weights
from . import checkpoint
from .errors import UserError
from .randomness import Purpose, seed_torch
from .settings import Settings


def initial_model(settings: Settings) -> tuple[nn.Module, str]:
    """A model according to the settings, and a text that tells the origin of its weights.

    Raises:
        UserError: for arguments that the model does not have, or weights that do not fit it.
    """
    seed_torch(settings.seed, Purpose.MODEL)
    try:
        model = MODELS[settings.model](**settings.arguments, layers=settings.layers)
    except (TypeError, ValueError, RuntimeError) as error:  # torch's has the lines of a stack below its text
        given = "".join(f" --argument {name}={value}" for name, value in settings.argument.items())
        reason = str(error).partition("\n")[0]
        raise UserError(f"--model {settings.model} --width {settings.width}{given}: {reason}") from error
    if settings.weights is None:
        return model, "initial weights: random"
    path = checkpoint.find(Path(settings.weights))
    try:
        report = load_weights(model, path, skip=settings.skip)
    except FileNotFoundError:
        raise UserError(f"--weights: there is no file {path}") from None
    except ValueError as error:
        raise UserError(f"--weights {path}: {error}") from error
    return model, f"initial weights: {path}\n{report}"
