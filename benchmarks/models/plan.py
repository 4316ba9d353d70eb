"""What is compared: the networks, and the budget that all of them get."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from segext.training.settings import Settings

from ..networks import NORMALISED, TITLES

# Ways to build a network: by name, the extra arguments of its builder. Only the first is trained to the end.
SEGEXT, STOCK, STOCK_NCHW, RECOMPUTING = "segext", "stock", "stock NCHW", "segext, recomputing"
WAYS = {
    SEGEXT: {"layers": "segext"},
    STOCK: {"layers": "torch"},
    STOCK_NCHW: {"layers": "torch"},
    RECOMPUTING: {"layers": "segext", "recompute": True},
}


def ways(network: str) -> list[str]:
    """The ways to build a network: without batch norm there is nothing to recompute."""
    return [way for way in WAYS if way != RECOMPUTING or network in NORMALISED]


def memory_format(way: str) -> torch.memory_format:
    """Of images and weights. Stock is faster in one or the other; segext's layers take what the convolutions like."""
    return torch.contiguous_format if way == STOCK_NCHW else torch.channels_last


@dataclass(frozen=True)
class Plan:
    """The budget of every network. All else is the same too: images, their order and crops, seed, optimizer. But for
    the learning rate, which short trials chose.

    Args:
        width: share of the published channels.
        crop: side of the square crops that are trained on.
        batch: crops a step.
        steps: of training, on segext's layers.
        together: of these, the first, which stock's layers take as well, turn about.
        lr: of Adam for FCN, falling to zero ("poly").
        lr_normalised: the same for the networks with batch norm, which take larger steps.
        seconds: to time a network's predictions for.
        compared: validation images whose labels by all ways are compared.
        networks: which, in the order of the report.
    """

    width: float
    crop: int
    batch: int
    steps: int
    together: int
    lr: float
    lr_normalised: float
    seconds: float
    compared: int
    networks: tuple[str, ...] = tuple(TITLES)

    def settings(self, network: str, classes: int, ignore: int) -> Settings:
        return Settings.of(
            {
                "model": network,
                "width": self.width,
                "classes": classes,
                "ignore": ignore,
                "crop": (self.crop, self.crop),
                "batch": self.batch,
                "steps": self.steps,
                "optimizer": "adam",
                "lr": self.lr_normalised if network in NORMALISED else self.lr,
                "schedule": "poly",
                # So few steps need no dropout, whose masks would depend on the memory format.
                "argument": {"dropout": 0.0} if network.startswith("fcn") else {},
            }
        )


FULL = Plan(
    width=0.125, crop=224, batch=4, steps=1000, together=50, lr=1e-3, lr_normalised=3e-3, seconds=4.0, compared=10
)
QUICK = Plan(
    width=1 / 16, crop=224, batch=2, steps=10, together=6, lr=3e-3, lr_normalised=1e-2, seconds=0.5, compared=2
)
