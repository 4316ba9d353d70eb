"""Training steps: model, optimizer and schedule, and the state needed to resume a run exactly."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .errors import UserError, counted
from .normalization import NORMALIZATIONS
from .processes import Process
from .randomness import Purpose, seed_torch
from .settings import Settings


class Trainer:
    """Trains ``model`` according to the settings.

    Args:
        model: on the process's device; the same in all processes.
        steps: number of steps of the whole run.
        class_weights: class weights of the loss; None for 1 each.
    """

    def __init__(
        self, model: nn.Module, settings: Settings, steps: int, class_weights: list[float] | None, process: Process
    ) -> None:
        self.model, self.step = model, 0
        self._settings, self._process = settings, process
        device = process.device
        self._network = DistributedDataParallel(model) if process.count > 1 else model
        self._normalize = NORMALIZATIONS[settings.normalization]
        self._class_weights = None if class_weights is None else torch.tensor(class_weights, device=device)
        self._optimizer = optimizer(model, settings)
        self._schedule = schedule(self._optimizer, settings, steps)
        if settings.precision == "float16" and device.type != "cuda":
            raise UserError(f"--precision float16 needs CUDA: on {device.type}, bfloat16 is the mixed precision")
        self._scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")

    @property
    def lr(self) -> float:
        return self._schedule.get_last_lr()[0]

    def train(self, images: Tensor, labels: Tensor) -> Tensor:
        """Takes one step on a process's share of a batch.

        The loss is the sum of the pixels' cross-entropies, times their class weights, divided by the number of labelled
        pixels in the whole batch, as in Badrinarayanan et al. and Long et al. (torch divides by the weights' sum).

        Args:
            images: (N, 3, H, W), uint8.
            labels: (N, H, W), uint8.

        Returns:
            This process's part of the loss, a scalar; the sum over all processes is the loss.

        Raises:
            UserError: for images too small for the model, or too few for batch norm.
        """
        process, device = self._process, self._process.device
        seed_torch(self._settings.seed, Purpose.STEP, self.step, process.rank)
        self.model.train()
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        try:
            with self._autocast():
                loss = self._network(
                    self._normalize(images),
                    labels.long(),
                    class_weight=self._class_weights,
                    ignore_index=self._settings.ignore,
                    reduction="sum",
                )
        except ValueError as error:
            number, _, height, width = images.shape
            raise UserError(f"a batch of {counted(number, 'image')} of {height}x{width}: {error}") from error
        labelled = (labels != self._settings.ignore).sum()
        loss = loss / process.sum(labelled).clamp(min=1)
        self._optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel averages the processes' gradients, but their sum is needed.
        self._scaler.scale(loss * process.count).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._schedule.step()
        self.step += 1
        return loss.detach()

    def _autocast(self):
        if self._settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self._process.device.type, getattr(torch, self._settings.precision))

    def state(self) -> dict[str, Any]:
        """Everything that the next steps depend on, except the settings and the model's own state."""
        return {
            "step": self.step,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._scaler.load_state_dict(state["scaler"])


def optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """The optimizer, as published for these networks: biases do not decay and, with SGD, learn at twice the rate."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    biases = [parameter for name, parameter in named if name.endswith("bias")]
    others = [parameter for name, parameter in named if not name.endswith("bias")]
    groups = [{"params": others, "weight_decay": settings.weight_decay}, {"params": biases, "weight_decay": 0.0}]
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, settings.lr)
    groups[1]["lr"] = 2 * settings.lr
    return torch.optim.SGD(groups, settings.lr, settings.momentum)


def schedule(optimizer: torch.optim.Optimizer, settings: Settings, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """constant: FCN, SegNet. step: DeconvNet, a tenth every ``drop`` steps. poly: (1 - step / steps) ** 0.9."""
    if settings.schedule == "poly":
        return torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, 0.9)
    if settings.schedule == "step":
        return torch.optim.lr_scheduler.StepLR(optimizer, settings.drop)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
