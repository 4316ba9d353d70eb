"""The weights that a run starts from: random, published, or a checkpoint's."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ..models import MODELS
from . import checkpoint
from .errors import UserError
from .randomness import Purpose, seed_torch
from .settings import Settings


def initial_model(settings: Settings) -> tuple[nn.Module, str]:
    """A model as the settings say, and a text that says where its weights are from.

    Raises:
        UserError: for arguments that the model does not have, or weights that do not fit it.
    """
    seed_torch(settings.seed, Purpose.MODEL)
    try:
        model = MODELS[settings.model](**settings.arguments, layers=settings.layers)
    except (TypeError, ValueError) as error:
        raise UserError(f"--model {settings.model}: {error}") from error
    if settings.weights is None:
        return model, "initial weights: random"
    from ..models import load_weights

    path = Path(settings.weights)
    content = checkpoint.read(path)
    weights = content["model"] if checkpoint.is_checkpoint(content) else content
    try:
        report = load_weights(model, weights)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"--weights {path}: {error}") from error
    return model, f"initial weights: {path}\n{report}"
