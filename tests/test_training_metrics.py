"""Accuracies, IoU and boundary F1, against values reckoned by hand and by loops."""

import math

import numpy as np
import pytest
import torch

from segext.training.boundary import BoundaryF1, boundary, boundary_f1
from segext.training.metrics import Scores, confusion_matrix

VOID = 255


def scores(predicted, true, classes):
    matrix = confusion_matrix(classes, VOID)
    matrix.update(torch.tensor(predicted, dtype=torch.uint8), torch.tensor(true, dtype=torch.uint8))
    return Scores(matrix.compute())


def test_scores_by_hand():
    """Truth 0 0 0 1 1 void; predicted 0 0 1 1 2 0. Class 3 is nowhere; class 2 is predicted, but never true."""
    found = scores([[0, 0, 1, 1, 2, 0]], [[0, 0, 0, 1, 1, VOID]], 4)
    assert found.pixel_accuracy == pytest.approx(3 / 5)
    assert found.accuracies == pytest.approx([2 / 3, 1 / 2, math.nan, math.nan], nan_ok=True)
    assert found.class_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.ious == pytest.approx([2 / 3, 1 / 3, 0, math.nan], nan_ok=True)
    assert found.mean_iou == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)


def test_scores_by_loops():
    random = np.random.default_rng(0)
    true, predicted = random.integers(0, 5, (2, 3, 20, 20))
    true[random.random(true.shape) < 0.2] = VOID
    found = scores(predicted, true, 5)
    for number in range(5):
        pairs = [(p, t) for p, t in zip(predicted.ravel(), true.ravel(), strict=True) if t != VOID]
        both = sum(p == t == number for p, t in pairs)
        assert found.accuracies[number] == pytest.approx(both / sum(t == number for _, t in pairs))
        assert found.ious[number] == pytest.approx(both / sum(number in pair for pair in pairs))
    assert found.pixel_accuracy == pytest.approx(sum(p == t for p, t in pairs) / len(pairs))


def test_matrices_of_batches_add_up():
    matrix = confusion_matrix(2, VOID)
    for predicted, true in (([[0, 1]], [[0, 0]]), ([[1, 1]], [[1, VOID]])):
        matrix.update(torch.tensor(predicted), torch.tensor(true))
    assert matrix.compute().tolist() == [[1, 1], [0, 1]]


def test_boundary():
    mask = np.zeros((5, 6), bool)
    mask[1:5, 0:4] = True
    expected = np.array(
        [
            [0, 0, 0, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [0, 0, 0, 1, 0, 0],
            [0, 0, 0, 1, 0, 0],
            [0, 0, 0, 1, 0, 0],
        ],
        bool,
    )
    assert np.array_equal(boundary(mask), expected)  # the image's edge is no boundary


def square(left, size=40):
    label = np.zeros((size, size), int)
    label[10:20, left : left + 10] = 1
    return label


def test_boundary_f1_of_a_shifted_square():
    """Tolerance of 0.75 % of a diagonal of 400 pixels: 3. Shifted by 3 all is well, by 5 only what overlaps."""
    tolerance = 3 / math.hypot(40, 40)
    assert boundary_f1(square(12), square(12), 2, VOID, tolerance) == pytest.approx([1, 1])
    assert boundary_f1(square(15), square(12), 2, VOID, tolerance) == pytest.approx([1, 1])
    for found in boundary_f1(square(17), square(12), 2, VOID, tolerance):
        assert 0.3 < found < 0.9
    assert boundary_f1(np.zeros((40, 40), int), square(12), 2, VOID, tolerance)[1] == 0
    # A class that fills the image has no boundary to find.
    assert np.isnan(boundary_f1(square(12), np.zeros((40, 40), int), 2, VOID, tolerance)).all()


def test_tolerance_is_of_the_diagonal():
    """300x400: 0.75 % of 500 are 3.75 pixels, so that a shift of 3 is within it and one of 4 is not everywhere."""
    true = np.zeros((300, 400), int)
    true[:, 200:] = 1
    assert boundary_f1(np.roll(true, 3, 1), true, 1, VOID)[0] == pytest.approx(
        brute_force(np.roll(true, 3, 1), true, 1, 3.75)[0]
    )
    shifted = np.zeros_like(true)
    shifted[:, 203:] = 1
    assert boundary_f1(shifted, true, 2, VOID) == pytest.approx([1, 1])
    shifted[:, 203] = 0
    assert boundary_f1(shifted, true, 2, VOID) == pytest.approx([0, 0])


def brute_force(predicted, true, classes, distance):
    """Every boundary pixel against every other."""

    def contour(mask):
        points = []
        for i, j in np.argwhere(mask):
            beside = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
            inside = [(y, x) for y, x in beside if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]]
            if not all(mask[y, x] for y, x in inside):
                points.append((i, j))
        return points

    def share(points, others):
        near = [any(math.dist(p, q) <= distance for q in others) for p in points]
        return sum(near) / len(near)

    result = []
    for number in range(classes):
        wanted = contour(true == number)
        if not wanted:
            result.append(math.nan)
            continue
        found = contour(predicted == number)
        judged = [(i, j) for i, j in found if true[i, j] != VOID]
        recall = share(wanted, found)
        precision = share(judged, wanted) if judged else 1.0
        result.append(2 * precision * recall / (precision + recall) if recall else 0.0)
    return result


@pytest.mark.parametrize("seed", range(4))
def test_boundary_f1_by_loops(seed):
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 3, (2, 4, 5))
    predicted, true = coarse.repeat(6, 1).repeat(6, 2)
    true = true.copy()
    predicted = np.roll(np.where(random.random(true.shape) < 0.9, true, predicted), 1, 0)
    true[random.random(true.shape) < 0.05] = VOID
    for distance in (1.0, 1.5, 2.3):
        found = boundary_f1(predicted, true, 4, VOID, distance / math.hypot(*true.shape))
        assert found == pytest.approx(brute_force(predicted, true, 4, distance), nan_ok=True)
        assert 0 < np.nanmean(found) < 1


def test_means_of_boundary_f1():
    """A class's is over images, the data set's over images of the mean over classes."""
    found = BoundaryF1(2, VOID)
    tolerance = 0.0075 * math.hypot(40, 40)
    assert tolerance < 1  # so that nothing but the boundary itself counts
    empty = np.zeros((40, 40), int)
    found.update(square(12), square(12))  # 1, 1
    found.update(empty, square(12))  # 0, 0
    found.update(square(12), empty)  # no boundary: does not count
    lower = np.vstack([np.ones((20, 40), int), np.zeros((20, 40), int)])
    found.update(np.where(lower == 1, 2, 0), lower)  # 1, 0
    assert found.by_class() == pytest.approx([2 / 3, 1 / 3])
    assert found.mean() == pytest.approx((1 + 0 + 0.5) / 3)
