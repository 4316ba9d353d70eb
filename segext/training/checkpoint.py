"""Checkpoints: files that are written atomically and identify the network that their weights belong to.

A checkpoint is a dict that ``torch.load(weights_only=True)`` reads:

format         FORMAT
architecture   name in segext.models.MODELS
arguments      those of its builder
model          its state dict, the same for either kind of layers
normalization  a key of NORMALIZATIONS
ignore         the value of labels that are not trained on
step           after which it was taken
mean_iou       the latest on the validation split, or None
run            in last.pt only: what else resuming needs (see loop.py)
"""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models import MODELS
from .errors import UserError, counted
from .writing import replacing

FORMAT = 1
_KEYS = {"format", "architecture", "arguments", "model", "normalization", "ignore", "step", "mean_iou"}
LAST, BEST = "last.pt", "best.pt"


def save(path: Path, content: dict[str, Any]) -> None:
    """Replaces ``path``. The old file stays until the new one is complete, and if the process dies.

    Raises:
        UserError: if it cannot be written.
    """
    with replacing(path, "wb") as file:
        torch.save({"format": FORMAT, **content}, file)


def find(place: Path) -> Path:
    """``place`` if it is a checkpoint, or the best checkpoint if it is the folder of a run."""
    if not place.is_dir():
        return place
    for name in (BEST, LAST):
        if (place / name).is_file():
            return place / name
    raise UserError(f"{place} holds no checkpoint ({BEST} or {LAST})")


def load(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint, on the CPU.

    Raises:
        UserError: for a file that is missing, damaged, or not a checkpoint of this format.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} holds more than tensors and plain values, or is damaged, and is not loaded") from error
    except (RuntimeError, EOFError, ValueError, LookupError, struct.error) as error:  # cut short, or a text
        raise UserError(f"{path} is damaged or was not written by torch.save") from error
    if not (isinstance(content, dict) and content.keys() >= _KEYS):
        raise UserError(f"{path} is not a checkpoint of segext (weights of another kind can start a run: --weights)")
    if content["format"] != FORMAT:
        raise UserError(
            f"{path} has the format {content['format']} of another release of segext; this one reads {FORMAT}"
        )
    return content


def build(content: dict[str, Any], path: Path, layers: str) -> nn.Module:
    """The network of a checkpoint, with its weights.

    Args:
        path: its origin, for error messages.
        layers: "segext" or "torch".

    Raises:
        UserError: if this version does not know the architecture, or the weights do not fit it.
    """
    name = content["architecture"]
    if name not in MODELS:
        raise UserError(f"{path} is of the architecture {name!r}, which is none of {', '.join(MODELS)}")
    try:
        model = MODELS[name](**content["arguments"], layers=layers)
        misfit = _misfit(model, content["model"])
    except (TypeError, ValueError) as error:
        misfit = str(error)
    if misfit:
        raise UserError(f"what {path} holds does not fit its architecture {name}: {misfit}")
    return model


def _misfit(model: nn.Module, state: dict[str, Tensor]) -> str | None:
    """Loads a state dict, and describes what does not fit."""
    try:
        missing, unknown = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # of shapes, a line each after the first
        return str(error).splitlines()[1].strip()
    if missing or unknown:
        return f"{counted(len(missing), 'missing tensor')}, {len(unknown)} unknown, such as {[*missing, *unknown][0]}"
    return None
