"""Sets up a run (data, model, trainer) from settings or from the saved state of an earlier process."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import checkpoint
from .augmentation import Augmentation
from .census import census, count_classes
from .data import Segmentation
from .errors import UserError, counted
from .evaluation import Predictor
from .folders import Pair, find, named_classes
from .initialization import initial_model
from .logs import Log
from .loop import Run
from .normalization import NORMALIZATIONS
from .processes import Process
from .settings import Settings
from .tiles import Tiling
from .trainer import Trainer


@dataclass(frozen=True)
class Splits:
    """The images of a run, whose labels have all been checked.

    Args:
        train, val: the pairs to learn from and to evaluate on.
        classes: the number of classes.
        class_weights: those of the loss; None for 1 each.
    """

    train: list[Pair]
    val: list[Pair]
    classes: int
    class_weights: list[float] | None


def checked_splits(settings: Settings, data: Path, *, show: bool) -> Splits:
    """Finds the splits of a folder and checks their labels.

    Args:
        show: whether to show progress.

    Raises:
        UserError: for images and labels that do not fit together, or do not fit the settings.
    """
    train, val = find(data, "train"), find(data, "val")
    names = named_classes(data, settings.classes)
    classes = settings.classes if names is None else len(names)
    censuses = [census(pairs, settings.ignore, classes, training=True, show=show) for pairs in (train, val)]
    for split, found in zip(("train", "val"), censuses, strict=True):
        if not found.pixels.any():
            raise UserError(f"no pixel of the split {split!r} has a class: all are {settings.ignore}, which is ignored")
    if classes is None:
        classes = count_classes(censuses)
    if classes == 1:
        raise UserError(
            f"the labels hold one class, 0, which leaves nothing to learn: is {settings.ignore}, which is ignored, a "
            "class? See --ignore and --classes (or classes.txt)"
        )
    balanced = settings.class_weights == "median-frequency"
    return Splits(train, val, classes, censuses[0].median_frequency_weights(classes) if balanced else None)


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
    splits = checked_splits(settings, data, show=process.first)
    images = len(splits.train)
    if state is not None and state["run"]["images"] != images:
        raise UserError(
            f"{data} holds {counted(images, 'image')} to train on, but the run had {state['run']['images']}"
        )
    settings = replace(settings, classes=splits.classes)
    if state is None:
        model, origin = initial_model(settings)
    else:
        model = checkpoint.build(state, out / checkpoint.LAST, settings.layers)
        origin = f"resumed after step {state['step']}"
    model.to(process.device, memory_format=torch.channels_last)
    epoch = math.ceil(images / settings.batch)
    steps = settings.steps or settings.epochs * epoch
    trainer = Trainer(model, settings, steps, splits.class_weights, process)
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
        train=Segmentation(splits.train, augmentation, settings.seed),
        val=Segmentation(splits.val),
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
