"""Runs a model over a split and scores its labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .boundary import BoundaryF1
from .data import Segmentation, batches, evaluation_loader
from .errors import UserError
from .metrics import Scores, confusion_matrix
from .normalization import Normalization
from .processes import Process
from .tiles import Tiling, predict


class Predictor:
    """Labels images with a model whose full-resolution scores are never stored.

    Args:
        model: one of :mod:`segext.models`, on ``device``.
    """

    def __init__(self, model: nn.Module, normalization: Normalization, device: torch.device, tiling: Tiling) -> None:
        self._model = model.to(memory_format=torch.channels_last)
        self._normalization, self._device, self._tiling = normalization, device, tiling

    def __call__(self, image: Tensor, name: object) -> Tensor:
        """uint8 RGB (3, H, W) -> uint8 labels (H, W) on the CPU.

        Raises:
            UserError: for an image, called ``name``, that is too small for the model.
        """
        try:
            return predict(self._labels, image, self._tiling)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from error

    def _labels(self, tile: Tensor) -> Tensor:
        # Only one tile at a time exists in float32.
        return self._model.predict(self._normalization(tile.to(self._device)))


@dataclass(frozen=True)
class Evaluation:
    """The scores of a split; boundary scores only if requested."""

    images: int
    scores: Scores
    boundary_f1: float | None = None
    boundary_f1s: list[float] | None = None


def evaluate(
    predictor: Callable[[Tensor, object], Tensor],
    data: Segmentation,
    classes: int,
    ignore: int,
    *,
    process: Process,
    workers: int = 0,
    boundaries: bool = False,
) -> Evaluation:
    """Scores the labels that ``predictor`` returns for the images of ``data`` against the true ones.

    With several processes, each processes its share and all receive the overall scores; boundary scores need a single
    process.

    Raises:
        UserError: for a file that cannot be read, or an image that is too small.
    """
    matrix = confusion_matrix(classes, ignore)
    contours = BoundaryF1(classes, ignore)
    loader = evaluation_loader(data, workers, rank=process.rank, processes=process.count)
    mine = range(process.rank, len(data), process.count)
    shown = tqdm(zip(mine, batches(loader), strict=True), "evaluating", len(mine), leave=False, disable=_quiet(process))
    for index, (image, label) in shown:
        predicted = predictor(image, data.pairs[index].image)
        matrix.update(predicted, label)
        if boundaries:
            contours.update(predicted.numpy(), label.numpy())
    scores = Scores(matrix.compute())
    if not boundaries:
        return Evaluation(len(data), scores)
    return Evaluation(len(data), scores, contours.mean(), contours.by_class())


def _quiet(process: Process) -> bool | None:
    """tqdm's ``disable``: None shows a bar on a terminal only."""
    return None if process.first else True
