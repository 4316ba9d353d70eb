"""An evaluation as a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .errors import counted
from .evaluation import Evaluation

COLUMNS = ("accuracy", "IoU", "boundary F1")


def table(found: Evaluation, names: Sequence[str]) -> str:
    """A line for each class and one for the means, in percent; a dash if there is nothing to score."""
    scores = found.scores
    columns = zip(scores.accuracies, scores.ious, found.boundary_f1s, strict=True)
    rows = [(name, *values) for name, values in zip(names, columns, strict=True)]
    rows.append(("mean", scores.class_accuracy, scores.mean_iou, found.boundary_f1))
    width = max(map(len, ("class", *names)))
    head = "  ".join(["class".ljust(width), *COLUMNS])
    rule = "  ".join("-" * n for n in (width, *map(len, COLUMNS)))
    lines = [
        "  ".join([name.ljust(width), *(_percent(v).rjust(len(c)) for v, c in zip(values, COLUMNS, strict=True))])
        for name, *values in rows
    ]
    lines.insert(len(names), rule)
    return "\n".join(
        [head, rule, *lines, "", f"pixel accuracy {_percent(scores.pixel_accuracy)}, {counted(found.images, 'image')}"]
    )


def plain(found: Evaluation, names: Sequence[str]) -> dict[str, Any]:
    """The scores as JSON values: None for NaN, shares from 0 to 1."""
    scores = found.scores
    return {
        "images": found.images,
        "pixel_accuracy": _known(scores.pixel_accuracy),
        "class_accuracy": _known(scores.class_accuracy),
        "mean_iou": _known(scores.mean_iou),
        "boundary_f1": _known(found.boundary_f1),
        "classes": [
            {"name": name, "accuracy": _known(accuracy), "iou": _known(iou), "boundary_f1": _known(f1)}
            for name, accuracy, iou, f1 in zip(names, scores.accuracies, scores.ious, found.boundary_f1s, strict=True)
        ],
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
