"""What a comparison found, as JSON and as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from ..harness import Summary
from ..tables import table, times
from .comparison import CostRow, NetworkRow
from .plan import SEGEXT, STOCK_NCHW, Plan

FORMAT = 1  # of the JSON file
SAME_LOSS = 1e-4  # relative difference of losses that is always accepted

SCORES = {"mean_iou": "mIoU", "boundary_f1": "boundary F1"}


@dataclass
class Results:
    """Rows of all networks, and what they were asked to show."""

    environment: dict[str, str | int]
    plan: Plan
    classes: list[str]
    networks: list[NetworkRow]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({"format": FORMAT, **asdict(self), "findings": self.findings()}, indent=1) + "\n")

    def findings(self) -> list[dict[str, object]]:
        """What the literature and the project say should come out, and what did."""
        rows = {row.network: row for row in self.networks}
        found = []

        def note(what: str, holds: bool, seen: str) -> None:
            found.append({"what": what, "holds": holds, "seen": seen})

        fcns = [row for row in self.networks if row.network.startswith("FCN")]
        for score, name in SCORES.items():
            values = [getattr(row, score) for row in fcns]
            if len(fcns) > 1:
                what = f"{' < '.join(row.network for row in fcns)} by {name}"
                note(what, all(a < b for a, b in pairwise(values)), " ".join(map(percent, values)))
        coarse = rows.get("FCN-32s")
        for name in [name for name in ("DeconvNet", "SegNet") if coarse and name in rows]:
            values = rows[name].boundary_f1, coarse.boundary_f1
            note(f"{name} finer at boundaries than FCN-32s", values[0] > values[1], " ".join(map(percent, values)))
        for row in self.networks:
            # Training amplifies rounding from step to step. Stock in its other format shows by how much.
            ours = max(value for way, value in row.losses_differ.items() if way != STOCK_NCHW)
            rounding = row.losses_differ[STOCK_NCHW]
            what = (
                f"{row.network}: losses differ from stock's as stock's own formats do, over {self.plan.together} steps"
            )
            note(what, ours <= max(SAME_LOSS, 3 * rounding), f"{ours:.1e}, {rounding:.1e}")
        return found


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def render(results: Results) -> str:
    plan, e = results.plan, results.environment
    commit = f", commit {e['commit']}" if e["commit"] else ""
    head = "\n".join(
        [
            f"segext {e['segext']} ({e['instruction set']}{commit}) and torch {e['torch']}",
            f"{e['processor']}, {e['cores']} cores, {e['threads']} threads; {e['images']}",
            f"Every network: {plan.width:g} of the published width, {plan.steps} steps of {plan.batch} crops of "
            f"{plan.crop}x{plan.crop}, from random weights, seed 0",
            f"Adam at {plan.lr:g} (FCN) or {plan.lr_normalised:g} (with batch norm), falling to 0",
        ]
    )
    parts = [head, _quality(results), _alike(results.networks, plan), _costs(results.networks), _findings(results)]
    return "\n\n".join(parts) + "\n"


def _quality(results: Results) -> str:
    rows = [
        [
            row.network,
            f"{row.parameters:,}",
            *map(percent, (row.pixel_accuracy, row.class_accuracy, row.mean_iou, row.boundary_f1)),
            f"{row.losses[SEGEXT][-1]:.3f}",
            "",
        ]
        for row in results.networks
    ]
    head = ["network", "parameters", "pixels", "classes", "mIoU", "boundary F1", "last loss", ""]
    return table("What they learned, in percent", head, rows)


def _alike(networks: Sequence[NetworkRow], plan: Plan) -> str:
    rows = [
        [
            row.network,
            way,
            f"{row.scores_differ[way]:.1e}",
            f"{100 * row.labels_agree[way]:.4f}",
            f"{row.losses_differ[way]:.1e}",
            "",
        ]
        for row in networks
        for way in row.scores_differ
    ]
    return table(
        "Beside stock's layers",
        ["network", "layers", "scores differ", "labels agree", "losses differ", ""],
        rows,
        "scores: relative difference, from the same trained weights. labels: percent of pixels, likewise.",
        f"losses: the mean relative difference in the first {plan.together} steps, each way training for itself.",
        left=2,
    )


def _costs(networks: Sequence[NetworkRow]) -> str:
    rows = [
        [
            row.network,
            cost.way,
            _ms(cost.step),
            _to_stock(cost, "step"),
            _ms(cost.image),
            _to_stock(cost, "image"),
            f"{cost.kept / 1e6:.1f}",
            f"{cost.switches:,}",
            f"{cost.peak_step / 1e6:.0f}",
            f"{cost.peak_image / 1e6:.0f}",
            "",
        ]
        for row in networks
        for cost in row.costs
    ]
    return table(
        "What they cost",
        ["network", "layers", "ms a step", "", "ms an image", "", "kept MB", "switches B", "peak MB", "image MB", ""],
        rows,
        "step: forward, backward and update on a batch of crops. image: a prediction of one whole image.",
        "Medians, measured in turn; the factor is the speedup over stock in its faster format.",
        "kept: by autograd for a step, parameters not counted. switches: of all pools, one image; stock's are int64.",
        "peak, image: what a step, and a prediction, adds at most to the memory of a process of its own.",
        left=2,
    )


def _findings(results: Results) -> str:
    rows = [[n["what"], n["seen"], "as expected" if n["holds"] else "NOT as expected"] for n in results.findings()]
    return table("What should come out, and what did", ["", "seen", ""], rows)


def _ms(value: Summary) -> str:
    return f"{value.median / 1e6:.0f}"


def _to_stock(cost: CostRow, what: str) -> str:
    return times(getattr(cost, f"{what}_to_stock").median)
