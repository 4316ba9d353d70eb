"""Sets up a run (data, model, trainer) from settings or from the saved state of an earlier process."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from . import checkpoint
from .augmentation import Augmentation
from .census import census, count_classes
from .data import Segmentation
from .errors import UserError
from .evaluation import Predictor
from .initialization import initial_model
from .layouts import find, named_classes
from .logs import Log
from .loop import Run
from .normalization import NORMALIZATIONS
from .processes import Process
from .settings import Settings
from .tiles import Tiling
from .trainer import Trainer
from .words import counted


def prepare(
    settings: Settings,
    data: Path,
    out: Path,
    process: Process,
    *,
    state: dict[str, Any] | None = None,
    workers: int = 0,
    tensorboard: bool = False,
) -> Run:
    """A run at its start, or as it was when ``state`` was saved.

    Args:
        out: the run's folder, which the first process creates if everything fits together.
        state: the contents of last.pt.

    Raises:
        UserError: for data, settings or weights that do not fit together.
    """
    if settings.batch % process.count:
        raise UserError(f"--batch {settings.batch} does not divide by {process.count} processes")
    train, val = find(data, "train"), find(data, "val")
    names = named_classes(data, settings.classes)
    if names is not None:
        settings = replace(settings, classes=len(names))
    censuses = [
        census(pairs, settings.ignore, settings.classes, training=True, show=process.first) for pairs in (train, val)
    ]
    for split, found in zip(("train", "val"), censuses, strict=True):
        if not found.pixels.any():
            raise UserError(f"no pixel of the split {split!r} has a class: all are {settings.ignore}, which is ignored")
    if state is not None and state["run"]["images"] != len(train):
        raise UserError(
            f"{data} holds {counted(len(train), 'image')} to train on, but the run had {state['run']['images']}"
        )
    if settings.classes is None:
        settings = replace(settings, classes=count_classes(censuses))
    if settings.classes == 1:
        raise UserError(
            f"the labels hold one class, 0, which leaves nothing to learn: is {settings.ignore}, which is ignored, a "
            "class? See --ignore and --classes (or classes.txt)"
        )
    weights = None
    if settings.class_weights == "median-frequency":
        weights = censuses[0].median_frequency_weights(settings.classes)
    if state is None:
        model, origin = initial_model(settings)
    else:
        model = checkpoint.build(state, out / checkpoint.LAST, settings.layers)
        origin = f"resumed after step {state['step']}"
    model.to(process.device, memory_format=torch.channels_last)
    epoch = math.ceil(len(train) / settings.batch)
    steps = settings.steps or settings.epochs * epoch
    trainer = Trainer(model, settings, steps, weights, process)
    if state is not None:
        trainer.restore(state["run"]["trainer"])
    normalization = NORMALIZATIONS[settings.normalization]
    augmentation = Augmentation(settings.crop, settings.scale, settings.mirror, normalization.fill, settings.ignore)
    log = None
    if process.first:
        out.mkdir(parents=True, exist_ok=True)
        log = Log(out, trainer.step, tensorboard=tensorboard)
    return Run(
        settings=settings,
        trainer=trainer,
        predictor=Predictor(model, normalization, process.device, Tiling()),
        train=Segmentation(train, augmentation, settings.seed),
        val=Segmentation(val),
        steps=steps,
        every=settings.every or epoch,
        out=out,
        process=process,
        workers=workers,
        origin=origin,
        log=log,
        best=state["run"]["best"] if state else None,
        mean_iou=state["mean_iou"] if state else None,
    )
