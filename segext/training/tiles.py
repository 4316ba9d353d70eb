"""Labels of an image too large for one pass, by overlapping tiles.

A network gives labels, not scores, so overlaps cannot be averaged: each pixel takes its label from one tile, the one
in which it lies further from the cut. Between two neighbours the seam runs through the middle of their overlap, so
that a tile's margin of half the overlap is context only.

Tiles start at multiples of 32, where the windows of five 2x2 pools fall as they do in the whole image. A network that
sees no further than half the overlap therefore gives the labels it would give in one pass. The networks here see 200
pixels and more, and FCN pads by 100: their labels may differ near seams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

ALIGNMENT = 32


@dataclass(frozen=True)
class Tiling:
    """Which images are cut, and how.

    Args:
        size: pixels of a tile's side, a multiple of 32. An image no larger is not cut.
        overlap: pixels that neighbours share, a multiple of 32.
    """

    size: int = 1024
    overlap: int = 256

    def __post_init__(self) -> None:
        if self.size < ALIGNMENT or self.size % ALIGNMENT:
            raise ValueError(f"size of a tile: {self.size} is not a multiple of {ALIGNMENT} above 0")
        if not 0 <= self.overlap < self.size or self.overlap % ALIGNMENT:
            raise ValueError(
                f"overlap of tiles: {self.overlap} is not a multiple of {ALIGNMENT} below the size {self.size}"
            )

    def along(self, length: int) -> list[Span]:
        """The tiles along a side. The last is up to 31 pixels larger, so that it starts aligned and ends the side."""
        if length <= self.size:
            return [Span(0, length, 0, length)]
        last = (length - self.size) // ALIGNMENT * ALIGNMENT
        starts = [*range(0, last, self.size - self.overlap), last]
        stops = [start + self.size for start in starts[:-1]] + [length]
        seams = [(start + stop) // 2 for start, stop in zip(starts[1:], stops, strict=False)]
        return list(map(Span, starts, stops, [0, *seams], [*seams, length]))


@dataclass(frozen=True)
class Span:
    """Along one side: from where to where a tile reads, and from where to where its labels are kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int

    @property
    def read(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def kept(self) -> slice:
        return slice(self.keep_start, self.keep_stop)

    @property
    def kept_of_read(self) -> slice:
        return slice(self.keep_start - self.start, self.keep_stop - self.start)


def predict(network: Callable[[Tensor], Tensor], image: Tensor, tiling: Tiling) -> Tensor:
    """Labels (H, W), uint8, of an image (3, H, W), on its device.

    Args:
        network: (1, 3, h, w) -> labels (1, h, w), on any device.
    """
    height, width = image.shape[-2:]
    labels = torch.empty(height, width, dtype=torch.uint8, device=image.device)
    for rows, columns in _grid(tiling, height, width):
        tile = network(image[None, :, rows.read, columns.read])[0]
        labels[rows.kept, columns.kept] = tile[rows.kept_of_read, columns.kept_of_read]
    return labels


def _grid(tiling: Tiling, height: int, width: int) -> Iterator[tuple[Span, Span]]:
    return product(tiling.along(height), tiling.along(width))
