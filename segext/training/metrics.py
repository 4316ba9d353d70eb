"""Pixel accuracy, class accuracy and IoU from a confusion matrix."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix


def confusion_matrix(classes: int, ignore: int) -> MulticlassConfusionMatrix:
    """torchmetrics' confusion matrix, (true class, predicted class), over pixels that are not ignored.

    Computing it sums the matrices of all processes.
    """
    return MulticlassConfusionMatrix(classes, ignore_index=ignore, validate_args=False)  # labels have been checked


class Scores:
    """Scores from a confusion matrix n (true i, predicted j), as defined by Long et al. (2015).

    pixel_accuracy   sum_i n_ii / sum_ij n_ij
    accuracies       n_ii / sum_j n_ij per class; NaN for a class without pixels. class_accuracy is their mean
    ious             n_ii / (sum_j n_ij + sum_j n_ji - n_ii) per class; NaN for a class with no true or predicted
                     pixels. mean_iou is their mean
    """

    def __init__(self, confusion: Tensor) -> None:
        confusion = confusion.cpu().double()
        right, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        self.pixel_accuracy = (right.sum() / true.sum()).item()
        accuracies, ious = right / true, right / (true + predicted - right)
        self.accuracies: list[float] = accuracies.tolist()
        self.ious: list[float] = ious.tolist()
        self.class_accuracy = torch.nanmean(accuracies).item()
        self.mean_iou = torch.nanmean(ious).item()
