"""Boundary F1: how well the contours of predicted classes lie on those of the true ones.

Csurka et al., "What is a good evaluation measure for semantic segmentation?" (BMVC 2013), with the tolerance and the
means of Badrinarayanan et al., "SegNet" (2015):

- The boundary of a class in a label map consists of its pixels with a neighbour in the image (left, right, above or
  below) that is not of the class. In the ground truth, an ignored pixel belongs to no class.
- The precision of a class in an image is the share of its predicted boundary that lies within the tolerance of its
  true one, the recall the share of its true boundary within the tolerance of the predicted one; F1 is their harmonic
  mean. The tolerance is a Euclidean distance of 0.75 % of the image's diagonal. Predicted boundary on ignored pixels
  counts for recall, but not for precision: the correct label there is unknown.
- A class counts in an image if it has a boundary in the ground truth; its F1 there is 0 if it is not predicted.
- The score of a class is the mean over the images in which it counts. The score of a data set is the mean over images
  of the mean over the classes that count.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

TOLERANCE = 0.0075  # of the diagonal


def boundary(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask with a neighbour in the image outside the mask."""
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


def boundary_f1(
    predicted: np.ndarray, true: np.ndarray, classes: int, ignore: int, tolerance: float = TOLERANCE
) -> np.ndarray:
    """F1 of each class in one image, (classes,); NaN for a class that does not count in it.

    Args:
        predicted, true: classes of the pixels, (H, W).
        tolerance: as a fraction of the image's diagonal.
    """
    distance = tolerance * math.hypot(*true.shape)
    scores = np.full(classes, np.nan)
    for number in np.unique(true):
        if number >= classes or number == ignore:
            continue
        true_boundary = boundary(true == number)
        if not true_boundary.any():
            continue
        predicted_boundary = boundary(predicted == number)
        judged = predicted_boundary & (true != ignore)
        recall = _share(true_boundary, predicted_boundary, distance)
        precision = _share(judged, true_boundary, distance) if judged.any() else 1.0
        scores[number] = 2 * precision * recall / (precision + recall) if recall else 0.0
    return scores


def _share(points: np.ndarray, others: np.ndarray, distance: float) -> float:
    """The share of points within a distance of others, of which there may be none."""
    if not others.any():
        return 0.0
    return float((ndimage.distance_transform_edt(~others)[points] <= distance).mean())


class BoundaryF1:
    """The scores of a data set, image by image."""

    def __init__(self, classes: int, ignore: int) -> None:
        self._classes, self._ignore = classes, ignore
        self._rows: list[np.ndarray] = []

    def update(self, predicted: np.ndarray, true: np.ndarray) -> None:
        self._rows.append(boundary_f1(predicted, true, self._classes, self._ignore))

    def by_class(self) -> list[float]:
        """NaN for a class that counts nowhere."""
        return [_mean(column) for column in np.stack(self._rows).T]

    def mean(self) -> float:
        return _mean(np.array([_mean(row) for row in self._rows]))


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan
