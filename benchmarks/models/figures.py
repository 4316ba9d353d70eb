"""The pictures of a comparison: what the networks see, and how DeconvNet's decoder puts it together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import segext.functional as own
from segext.training.data import as_tensor
from segext.training.folders import Pair
from segext.training.palette import CAMVID
from segext.training.pictures import read_image, read_label

from ..figure import INK, MUTED
from .comparison import NORMALIZE, Data, NetworkRow
from .results import Results, percent

STAGES = ("deconv5", "deconv4", "deconv3", "deconv2", "deconv1")


def comparison(results: Results, data: Data, models: Mapping[str, nn.Module], path: Path, *, images: int = 4) -> None:
    """A row an image: the image, the truth, and what each network makes of it."""
    pairs = spread(data.val, images)
    columns = ["image", "ground truth", *models]
    height, width = read_image(pairs[0].image).size[::-1]
    figure = Figure(
        figsize=(2.6 * len(columns), 0.9 + len(pairs) * (2.6 * height / width + 0.06)), layout="constrained"
    )
    grid = figure.subplots(len(pairs), len(columns), squeeze=False)
    rows = {row.network: row for row in results.networks}
    for line, pair in zip(grid, pairs, strict=True):
        image = read_image(pair.image)
        truth = np.asarray(read_label(pair.label))
        shown = [np.asarray(image), colours(truth, data)]
        for model in models.values():
            shown.append(colours(model.predict(NORMALIZE(as_tensor(image)[None]))[0].numpy(), data))
        for axes, picture in zip(line, shown, strict=True):
            axes.imshow(picture)
            bare(axes)
    for axes, title in zip(grid[0], columns, strict=True):
        axes.set_title(title + scores(rows.get(title)), fontsize=10, color=INK)
    plan = results.plan
    figure.suptitle(
        f"{data.name}: {plan.width:g} of the published width, {plan.steps} steps each, from random weights",
        x=0.01,
        ha="left",
        fontsize=10,
        color=MUTED,
    )
    figure.savefig(path, dpi=100)


def scores(row: NetworkRow | None) -> str:
    return f"\nmIoU {percent(row.mean_iou)}, boundary F1 {percent(row.boundary_f1)}" if row else "\n"


def spread(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """``count`` of the pairs, as far from each other as can be."""
    places = np.linspace(0, len(pairs) - 1, min(count, len(pairs)))
    return [pairs[round(place)] for place in places]


def colours(labels: np.ndarray, data: Data) -> np.ndarray:
    """RGB of labels; white where they are ignored."""
    palette = np.array(CAMVID, np.uint8)
    palette[data.ignore] = 255
    return palette[labels]


def bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def decoder(model: nn.Module, image: Tensor, path: Path) -> None:
    """DeconvNet's maps of 14 to 224 pixels: what each stage unpools, and what its convolutions make of that.

    Of each map the channel that varies most. After the paper's figure 4.

    Args:
        image: RGB (3, 224, 224), uint8.
    """
    with recorded(model) as maps, torch.no_grad():
        labels = model.predict(NORMALIZE(image[None]))[0]
    figure = Figure(figsize=(2.3 * (len(STAGES) + 1), 5.2), layout="constrained")
    grid = figure.subplots(2, len(STAGES) + 1)
    for column, stage in enumerate(STAGES, start=1):
        unpooled, convolved = maps[stage]
        for axes, map in zip(grid[:, column], (unpooled[0], convolved[0]), strict=True):
            channel = map[map.flatten(1).std(1).argmax()]
            axes.imshow(channel.numpy(), cmap="inferno", interpolation="nearest")
        side = convolved.shape[-1]
        grid[0, column].set_title(f"unpooled to {side}x{side}", fontsize=10, color=INK)
        grid[1, column].set_title("deconvolved", fontsize=10, color=INK)
    grid[0, 0].imshow(image.permute(1, 2, 0).numpy())
    grid[0, 0].set_title("image", fontsize=10, color=INK)
    grid[1, 0].imshow(np.array(CAMVID, np.uint8)[labels.numpy()])
    grid[1, 0].set_title("labels", fontsize=10, color=INK)
    for axes in grid.flat:
        bare(axes)
    figure.savefig(path, dpi=100)


@contextmanager
def recorded(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """For each stage of the decoder, while this lasts: its unpooled map and its last map, rectified."""
    maps: dict[str, list[Tensor]] = {}
    hooks = []
    for stage in STAGES:
        first = getattr(model, f"{stage}_1")
        last = [name for name, _ in model.named_children() if name.startswith(f"{stage}_") and name.endswith("_bn")][-1]

        def unpool(module: nn.Module, inputs: tuple, stage: str = stage) -> None:
            pooled, (switches, size) = inputs
            maps[stage] = [own.max_unpool2d(pooled, switches, 2, output_size=size)]

        def convolved(module: nn.Module, inputs: tuple, output: Tensor, stage: str = stage) -> None:
            maps[stage].append(output.relu())

        hooks += [first.register_forward_pre_hook(unpool), getattr(model, last).register_forward_hook(convolved)]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()
