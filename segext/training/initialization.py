"""The model that a run starts with: its weights random, published, or another run's."""

from __future__ import annotations

from torch import nn

from ..models import MODELS, load_weights
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
    try:
        report = load_weights(model, settings.weights, skip=settings.skip)
    except FileNotFoundError:
        raise UserError(f"--weights: there is no file {settings.weights}") from None
    except ValueError as error:
        raise UserError(f"--weights {settings.weights}: {error}") from error
    return model, f"initial weights: {settings.weights}\n{report}"
