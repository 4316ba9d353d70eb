"""Trains a network on segext's layers, and at first by the other ways beside it: the same batches, turn about."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import nn

from segext.training.augmentation import Augmentation
from segext.training.data import Draws, Segmentation, batches, training_loader
from segext.training.folders import Pair
from segext.training.initialization import initial_model
from segext.training.normalization import NORMALIZATIONS
from segext.training.processes import Process
from segext.training.settings import Settings
from segext.training.trainer import Trainer

from .plan import WAYS, Plan, memory_format, ways

PROCESS = Process(torch.device("cpu"))

ByWay = dict[str, list[float]]


def built(settings: Settings, way: str) -> nn.Module:
    """A network with its initial weights, which are the same by all ways."""
    more = dict(WAYS[way])
    layers = more.pop("layers")
    model, _ = initial_model(replace(settings, layers=layers, argument={**settings.argument, **more}))
    model.to(memory_format=memory_format(way))

    def convert(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        image, *target = inputs
        return image.contiguous(memory_format=memory_format(way)), *target

    model.register_forward_pre_hook(convert)
    return model


def train(plan: Plan, settings: Settings, pairs: list[Pair]) -> tuple[dict[str, nn.Module], ByWay, ByWay]:
    """Trains by all ways for ``plan.together`` steps, and by the first to the end.

    Returns:
        By way: the model; the loss of each step; the nanoseconds of each step that all took.
    """
    normalization = NORMALIZATIONS[settings.normalization]
    augmentation = Augmentation(settings.crop, settings.scale, settings.mirror, normalization.fill, settings.ignore)
    data = Segmentation(pairs, augmentation, settings.seed)
    draws = Draws(len(pairs), plan.batch, range(plan.steps), seed=settings.seed)
    models = {way: built(settings, way) for way in ways(settings.model)}
    trainers = {way: Trainer(model, settings, plan.steps, None, PROCESS) for way, model in models.items()}
    losses: ByWay = {way: [] for way in trainers}
    times: ByWay = {way: [] for way in trainers}
    order = list(trainers)
    first = order[0]
    for step, (images, labels) in enumerate(batches(training_loader(data, draws, 0, pin=False))):
        together = step < plan.together
        for way in order if together else (first,):
            start = time.perf_counter_ns()
            losses[way].append(trainers[way].train(images, labels).item())
            if together and step:  # the first step also selects kernels
                times[way].append(time.perf_counter_ns() - start)
        order.append(order.pop(0))  # each way is first, and last, equally often
    return models, losses, times
