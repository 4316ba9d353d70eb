"""Runs the steps of a run, evaluates in between, and keeps its results in the run's folder.

last.pt   the state after the latest evaluation, or when the run was stopped; resuming starts from it
best.pt   the weights with the best mean IoU on the validation split so far
log.csv   a row per step and a row per evaluation
"""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from . import checkpoint
from .data import Draws, Segmentation, batches, training_loader
from .errors import Failure
from .evaluation import Predictor, evaluate
from .logs import Log
from .processes import Process
from .settings import Settings
from .trainer import Trainer

# Losses stay on the device until there are this many: fetching each one would make the device wait for Python.
STEPS_BETWEEN_ROWS = 10


class Interrupted(Failure):
    """The run was stopped by signals to this process or another one of the run, and can be resumed."""

    def __init__(self, step: int, steps: int, signals: Sequence[int]) -> None:
        super().__init__(f"stopped after step {step} of {steps}: --resume goes on from there")
        self.status = 128 + (signals[0] if signals else signal.SIGTERM)


@dataclass
class Run:
    """A run, starting from the current step of its trainer.

    Args:
        steps: number of steps of the whole run.
        every: steps between evaluations.
        out: an existing folder, which only the first process writes to.
        workers: number of processes that read images.
        origin: the origin of the weights, in words.
        log: in the first process only.
        best, mean_iou: the best and the latest mean IoU on the validation split; None before the first evaluation.
    """

    settings: Settings
    trainer: Trainer
    predictor: Predictor
    train: Segmentation
    val: Segmentation
    steps: int
    every: int
    out: Path
    process: Process
    workers: int
    origin: str
    log: Log | None
    best: float | None = None
    mean_iou: float | None = None

    def run(self) -> None:
        """Trains to the last step.

        Raises:
            UserError: for a file that cannot be read.
            Failure: if the loss is no longer finite.
            Interrupted: if the process was asked to stop.
        """
        if self.trainer.step == 0:
            self._save_last()  # from here on there is something to resume
        losses: list[tuple[float, Tensor]] = []
        with stop_requests() as requests, self._bar() as bar:
            for images, labels in batches(self._loader()):
                losses.append((self.trainer.lr, self.trainer.train(images, labels)))
                step = self.trainer.step
                bar.update()
                pausing = step % STEPS_BETWEEN_ROWS == 0 or step == self.steps
                evaluating = step % self.every == 0 or step == self.steps
                # All processes stop after the same step, which they must agree on.
                stopping = (pausing or self.process.count == 1) and self.process.any(bool(requests))
                if pausing or evaluating or stopping:
                    self._write(losses, bar)
                    losses.clear()
                if evaluating:
                    self._evaluate(bar)
                if evaluating or stopping:
                    self._save_last()
                if stopping and step < self.steps:
                    raise Interrupted(step, self.steps, requests)

    def _loader(self) -> DataLoader:
        draws = Draws(
            len(self.train),
            self.settings.batch,
            range(self.trainer.step, self.steps),
            seed=self.settings.seed,
            rank=self.process.rank,
            processes=self.process.count,
        )
        return training_loader(self.train, draws, self.workers, pin=self.process.device.type == "cuda")

    def _bar(self) -> tqdm:
        shown = None if self.process.first else True
        return tqdm(total=self.steps, initial=self.trainer.step, desc=self.settings.model, unit="step", disable=shown)

    def _epoch(self, step: int) -> int:
        """The number of passes over the images when the last image of a step, counted from 1, was read."""
        return (step * self.settings.batch - 1) // len(self.train)

    def _write(self, losses: list[tuple[float, Tensor]], bar: tqdm) -> None:
        values = self.process.sum(torch.stack([loss for _, loss in losses])).tolist()
        first = self.trainer.step - len(losses) + 1
        for step, ((lr, _), loss) in enumerate(zip(losses, values, strict=True), start=first):
            if not math.isfinite(loss):
                raise Failure(
                    f"the loss of step {step} is {loss}: start again with a lower --lr than {self.settings.lr}"
                )
            if self.log:
                self.log.step(step, self._epoch(step), lr, loss)
        if self.log:
            self.log.flush()
        shown = {"loss": f"{sum(values) / len(values):.3f}"}
        if self.mean_iou is not None:
            shown["mIoU"] = f"{self.mean_iou:.1%}"
        bar.set_postfix(shown)

    def _evaluate(self, bar: tqdm) -> None:
        settings, step = self.settings, self.trainer.step
        self.process.share_buffers(self.trainer.model)
        found = evaluate(
            self.predictor, self.val, settings.classes, settings.ignore, process=self.process, workers=self.workers
        ).scores
        self.mean_iou = found.mean_iou
        better = self.best is None or found.mean_iou > self.best
        if better:
            self.best = found.mean_iou
        if not self.process.first:
            return
        self.log.scores(step, self._epoch(step), found)
        self.log.flush()
        # Before last.pt: a run that dies in between repeats this evaluation, and again finds it better.
        if better:
            checkpoint.save(self.out / checkpoint.BEST, self._content())
        bar.write(
            f"step {step} of {self.steps}: pixel accuracy {found.pixel_accuracy:.1%}, class accuracy "
            f"{found.class_accuracy:.1%}, mIoU {found.mean_iou:.1%}{', the best so far' * better}"
        )
        sys.stdout.flush()  # for whoever follows a file or a pipe

    def _content(self) -> dict[str, Any]:
        return {
            "architecture": self.settings.model,
            "arguments": self.settings.arguments,
            "model": self.trainer.model.state_dict(),
            "normalization": self.settings.normalization,
            "ignore": self.settings.ignore,
            "step": self.trainer.step,
            "mean_iou": self.mean_iou,
        }

    def _save_last(self) -> None:
        if self.process.first:
            run = {
                "settings": self.settings.plain(),
                "images": len(self.train),
                "best": self.best,
                "trainer": self.trainer.state(),
            }
            checkpoint.save(self.out / checkpoint.LAST, {**self._content(), "run": run})


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects the numbers of the signals that ask this process to stop, without doing anything else.

    A second keyboard interrupt takes effect at once.
    """
    requests: list[int] = []

    def note(number: int, frame: object) -> None:
        if number in requests:
            raise KeyboardInterrupt
        requests.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
