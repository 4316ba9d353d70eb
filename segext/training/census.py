"""Counts the pixels of each class before a run, and finds labels that do not fit their images or the classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from .errors import UserError, counted
from .folders import VALUES, Pair
from .pictures import image_size, read_label


@dataclass(frozen=True)
class Census:
    """The contents of the labels of some pairs."""

    pixels: np.ndarray  # (256,) int64: pixels of each value
    around: np.ndarray  # (256,) int64: labelled pixels of the labels in which the value occurs

    def median_frequency_weights(self, classes: int) -> list[float]:
        """The median of the class frequencies divided by each frequency; 0 for a class that does not occur.

        A class's frequency is its share of the labelled pixels in the images in which it occurs (Eigen and Fergus,
        2015; used for CamVid by Badrinarayanan et al., 2015).
        """
        pixels, around = self.pixels[:classes], self.around[:classes]
        occurring = pixels > 0
        frequencies = pixels[occurring] / around[occurring]
        weights = np.zeros(classes)
        weights[occurring] = np.median(frequencies) / frequencies
        return weights.tolist()


def census(
    pairs: Sequence[Pair], ignore: int, classes: int | None = None, *, training: bool = False, show: bool = False
) -> Census:
    """Reads every label, and the size of every image.

    Args:
        ignore: the value of pixels that are not labelled.
        classes: the number of classes; any number if None.
        training: whether an error may recommend options of ``segext train``.
        show: whether to show a progress bar.

    Raises:
        UserError: for a file that cannot be read, a label whose size differs from its image's, or a value that is
            neither a class nor ``ignore``.
    """
    pixels, around = np.zeros(VALUES, np.int64), np.zeros(VALUES, np.int64)
    for pair in tqdm(pairs, "reading labels", disable=None if show else True, leave=False):
        label = read_label(pair.label)
        size = image_size(pair.image)
        if size != label.size:
            raise UserError(f"{pair.label} is {_size(label.size)}, but its image {pair.image} is {_size(size)}")
        counts = np.bincount(np.asarray(label).ravel(), minlength=VALUES)
        counts[ignore] = 0
        if classes is not None and counts[classes:].any():
            largest = int(np.flatnonzero(counts).max())
            advice = f": --classes {largest + 1} (and as many in classes.txt), or --ignore {largest}?"
            raise UserError(
                f"{pair.label} holds the class {largest}, but with {counted(classes, 'class', 'classes')} the highest "
                f"is {classes - 1}, and {ignore} is ignored{advice * training}"
            )
        pixels += counts
        around[counts > 0] += counts.sum()
    return Census(pixels, around)


def count_classes(found: Iterable[Census]) -> int:
    """One more than the highest class of any of them.

    Raises:
        UserError: if no pixel is labelled.
    """
    values = np.flatnonzero(sum(census.pixels for census in found))
    if not values.size:
        raise UserError("no pixel of any label has a class: all are ignored")
    return int(values.max()) + 1


def _size(size: tuple[int, int]) -> str:
    return "{}x{}".format(*size)
