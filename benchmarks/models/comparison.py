"""One network after the other: trained, scored, timed and weighed; what comes out are rows."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn

from segext.training.augmentation import Augmentation
from segext.training.census import census, count_classes
from segext.training.data import Segmentation
from segext.training.evaluation import Predictor, evaluate
from segext.training.folders import Pair, class_names, find
from segext.training.normalization import NORMALIZATIONS
from segext.training.tiles import Tiling

from ..harness import CheckFailed, Summary
from ..progress import Progress
from . import cost
from .plan import SEGEXT, STOCK, STOCK_NCHW, TITLES, Plan
from .training import PROCESS, train

SAME = 1e-9  # relative difference of scores that rounding in float64 explains
NORMALIZE = NORMALIZATIONS["torchvision"]


@dataclass(frozen=True)
class CostRow:
    """What a network costs by one way to build it. Times in ns, sizes in bytes."""

    way: str
    step: Summary
    step_to_stock: Summary  # speedup over stock in its better format
    image: Summary
    image_to_stock: Summary
    kept: int  # bytes that autograd keeps in a training step
    switches: int  # of one image, for all pools
    peak_step: int
    peak_image: int


@dataclass(frozen=True)
class NetworkRow:
    """What a network learned, and that it does not matter on whose layers."""

    network: str
    parameters: int
    pixel_accuracy: float
    class_accuracy: float
    mean_iou: float
    boundary_f1: float
    ious: list[float]
    boundary_f1s: list[float]
    losses: dict[str, list[float]]  # by way
    losses_differ: dict[str, float]  # by way: the mean relative difference from stock's, over the steps that all took
    scores_differ: dict[str, float]  # by way: the relative difference from stock's, from the same trained weights
    labels_agree: dict[str, float]  # by way: the share of pixels labelled as by stock, from the same trained weights
    costs: list[CostRow]


@dataclass(frozen=True)
class Data:
    """What networks are trained and scored on."""

    name: str
    train: list[Pair]
    val: list[Pair]
    classes: list[str]
    ignore: int

    @classmethod
    def of(cls, folder: Path, name: str, ignore: int) -> Data:
        """A folder of CamVid's or PASCAL VOC's layout.

        Raises:
            UserError: for files that are missing or do not fit.
        """
        train, val = find(folder, "train"), find(folder, "val")
        count = count_classes([census(pairs, ignore) for pairs in (train, val)])
        return cls(name, train, val, class_names(folder, count), ignore)


def compare(plan: Plan, data: Data, progress: Progress) -> Iterator[tuple[NetworkRow, nn.Module]]:
    """The row of each network in turn, and the trained model on segext's layers.

    Raises:
        CheckFailed: if the ways to build a network give different scores.
    """
    val = Segmentation(data.val)
    for network in plan.networks:
        title, settings = TITLES[network], plan.settings(network, len(data.classes), data.ignore)
        progress.step(f"{title}: {plan.steps} steps of training, the first {plan.together} by all ways")
        models, losses, step_times = train(plan, settings, data.train)
        model = models[SEGEXT]
        for other in models.values():
            other.load_state_dict(model.state_dict())
        images, labels = crops(plan, data)
        differ = check_alike(models, images)

        progress.step(f"{title}: scores of {len(val)} images")
        predictor = Predictor(model, NORMALIZE, PROCESS.device, Tiling())
        found = evaluate(predictor, val, len(data.classes), data.ignore, process=PROCESS, boundaries=True)
        compared = [NORMALIZE(val[n][0][None]) for n in range(min(plan.compared, len(val)))]

        progress.step(f"{title}: time and memory")
        image_times = cost.predictions(models, compared[0], plan.seconds)
        int64, packed = cost.switches(model, compared[0])
        costs = []
        for way, other in models.items():
            peak = cost.peaks(network, way, plan, tuple(compared[0].shape[-2:]))
            costs.append(
                CostRow(
                    way=way,
                    step=Summary.of(step_times[way]),
                    step_to_stock=cost.to_stock(step_times, way),
                    image=Summary.of(image_times[way]),
                    image_to_stock=cost.to_stock(image_times, way),
                    kept=cost.kept(other, images, labels, data.ignore),
                    switches=int64 if way in (STOCK, STOCK_NCHW) else packed,
                    peak_step=peak["step"],
                    peak_image=peak["prediction"],
                )
            )
        row = NetworkRow(
            network=title,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            pixel_accuracy=found.scores.pixel_accuracy,
            class_accuracy=found.scores.class_accuracy,
            mean_iou=found.scores.mean_iou,
            boundary_f1=found.boundary_f1,
            ious=found.scores.ious,
            boundary_f1s=found.boundary_f1s,
            losses=losses,
            losses_differ={way: mean_difference(losses[STOCK], losses[way]) for way in models if way != STOCK},
            scores_differ=differ,
            labels_agree=agreement(models, compared),
            costs=costs,
        )
        yield row, model


def crops(plan: Plan, data: Data) -> tuple[Tensor, Tensor]:
    """A batch of training, normalised images and labels, for what is counted once."""
    augmentation = Augmentation((plan.crop, plan.crop), (1.0, 1.0), False, NORMALIZE.fill, data.ignore)
    pairs = Segmentation(data.train, augmentation)
    images, labels = zip(*(pairs[n % len(pairs), n] for n in range(plan.batch)), strict=True)
    return NORMALIZE(torch.stack(images)), torch.stack(labels).long()


def check_alike(models: Mapping[str, nn.Module], images: Tensor) -> dict[str, float]:
    """The relative difference of each way's scores from stock's, in float32.

    Checked is float64: maxima that nearly tie swap places by rounding. In even areas of an image they tie but for
    rounding in any type, so that stock's own scores in one memory format differ from those in the other; these are not
    checked.

    Raises:
        CheckFailed: if it is more than rounding in float64.
    """
    exact = {way: copy.deepcopy(model).double() for way, model in models.items()}
    for way, difference in _differences(exact, images.double()).items():
        if way != STOCK_NCHW and not difference <= SAME:
            raise CheckFailed(f"{type(models[way]).__name__}: scores by {way} differ from stock's by {difference:.1e}")
    return _differences(models, images)


def _differences(models: Mapping[str, nn.Module], images: Tensor) -> dict[str, float]:
    with torch.no_grad():
        scores = {way: model.eval()(images) for way, model in models.items()}
    expected = scores.pop(STOCK)
    return {way: ((given - expected).norm() / expected.norm()).item() for way, given in scores.items()}


def mean_difference(stock: Sequence[float], other: Sequence[float]) -> float:
    """The relative difference of losses from stock's, in the mean over the steps that both took."""
    return mean(abs(b - a) / abs(a) for a, b in zip(stock, other, strict=False))


def agreement(models: Mapping[str, nn.Module], images: Sequence[Tensor]) -> dict[str, float]:
    """The share of pixels to which each way gives stock's label."""
    labels = {way: torch.stack([model.predict(image) for image in images]) for way, model in models.items()}
    expected = labels.pop(STOCK)
    return {way: (given == expected).double().mean().item() for way, given in labels.items()}
