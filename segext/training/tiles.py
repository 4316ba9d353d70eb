"""Labels an image that is too large for one pass, by overlapping tiles.

The networks return labels, not scores, so overlaps cannot be averaged: each pixel takes its label from the tile in
which it lies further from the cut. The seam between two neighbours runs through the middle of their overlap, so that a
tile's margin of half the overlap is only context.

Tiles start at multiples of 32, so that the windows of five 2x2 pools are aligned as in the whole image. A network whose
receptive field reaches no further than half the overlap therefore returns the same labels as in one pass. The networks
here reach 200 pixels and more, and FCN pads by 100, so their labels may differ near seams.
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
        size: side length of a tile in pixels, a multiple of 32. Images that are no larger are not cut.
        overlap: pixels shared by neighbouring tiles, a multiple of 32.
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
        """The tiles along a side. The last is up to 31 pixels larger, to start aligned and end with the side."""
        if length <= self.size:
            return [Span(0, length, 0, length)]
        last = (length - self.size) // ALIGNMENT * ALIGNMENT
        starts = [*range(0, last, self.size - self.overlap), last]
        stops = [start + self.size for start in starts[:-1]] + [length]
        seams = [(start + stop) // 2 for start, stop in zip(starts[1:], stops, strict=False)]
        return list(map(Span, starts, stops, [0, *seams], [*seams, length]))


@dataclass(frozen=True)
class Span:
    """Along one side: the range that a tile reads, and the range in which its labels are kept."""

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
