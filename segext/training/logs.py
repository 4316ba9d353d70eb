"""The logs of a run: a row of log.csv for each step and each evaluation, and TensorBoard files if requested."""

from __future__ import annotations

import csv
from pathlib import Path

from .errors import UserError
from .metrics import Scores
from .writing import replacing, writing

COLUMNS = ("step", "epoch", "lr", "loss", "pixel_accuracy", "class_accuracy", "mean_iou")
FILE = "log.csv"


class Log:
    """The log of the run in a folder, as it was after ``step`` steps; rows of later steps are dropped."""

    def __init__(self, folder: Path, step: int, *, tensorboard: bool) -> None:
        path = folder / FILE
        with replacing(path, "w", newline="") as file:
            rows = csv.DictWriter(file, COLUMNS)
            rows.writeheader()
            rows.writerows(_rows(path, step) if step else ())
        self._name = f"the logs in {folder}"
        self._file = path.open("a", newline="")
        self._rows = csv.DictWriter(self._file, COLUMNS)
        self._board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def step(self, step: int, epoch: int, lr: float, loss: float) -> None:
        self._write(step, epoch, lr=lr, loss=loss)

    def scores(self, step: int, epoch: int, scores: Scores) -> None:
        self._write(
            step,
            epoch,
            pixel_accuracy=scores.pixel_accuracy,
            class_accuracy=scores.class_accuracy,
            mean_iou=scores.mean_iou,
        )

    def _write(self, step: int, epoch: int, **values: float) -> None:
        with writing(self._name):
            self._rows.writerow({"step": step, "epoch": epoch, **values})
            if self._board:
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        with writing(self._name):
            self._file.flush()
            if self._board:
                self._board.flush()

    def close(self) -> None:
        with writing(self._name):
            self._file.close()
            if self._board:
                self._board.close()


def _rows(path: Path, step: int) -> list[dict[str, str]]:
    """The rows of a log up to ``step``, without a row that was cut short when its process died.

    Raises:
        UserError: for a file that is no such log.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="") as file:
            return [row for row in csv.DictReader(file) if None not in row.values() and int(row["step"]) <= step]
    except (ValueError, KeyError, csv.Error) as error:
        raise UserError(f"{path} is damaged: move it away, and the run goes on without its rows") from error
