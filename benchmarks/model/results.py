"""What a comparison of one network found, as JSON and as text."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..tables import spread, table
from .checking import Check
from .comparing import Row

FORMAT = 1  # of the JSON file


@dataclass
class Results:
    """Rows of every input, and what segext.convert said of the network."""

    environment: dict[str, str | int]
    network: str
    converted: str
    checks: list[Check] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")


def render(results: Results) -> str:
    e = results.environment
    commit = f", commit {e['commit']}" if e["commit"] else ""
    head = "\n".join(
        [
            f"{results.network} on segext {e['segext']} ({e['instruction set']}{commit}) and torch {e['torch']}",
            f"{e['processor']}, {e['cores']} cores, {e['threads']} threads",
        ]
    )
    parts = [head, results.converted, _checks(results), _rows(results)]
    if results.notes:
        parts.append("\n".join(["Notes", *(f"  {note}" for note in results.notes)]))
    return "\n\n".join(parts) + "\n"


def _checks(results: Results) -> str:
    rows = [
        [c.task, c.what, c.dtype, c.format, f"{c.difference:.1e}", f"{c.bound:.1e}", "equal within rounding"]
        for c in results.checks
    ]
    head = ["task", "what", "type", "format", "difference", "allowed", ""]
    note = "Relative, in the norm of all outputs or gradients. Stock's memory formats tell how much rounding explains."
    return table("Converted beside the network as it is", head, rows, note, left=4)


def _rows(results: Results) -> str:
    rows = [
        [
            row.input,
            row.task,
            row.way,
            row.format,
            f"{row.time.median / 1e6:.1f}",
            spread(row.to_best),
            *("-" if value is None else f"{value:,}" for value in (row.kept, row.switches)),
            f"{row.peak / 1e6:.1f}",
            f"{row.best} wins" if row.way.startswith("segext") and row.to_best.median < 1 else "",
        ]
        for row in results.rows
    ]
    head = ["input", "task", "way", "format", "ms", "vs best stock", "kept B", "switches B", "peak MB", ""]
    return table(
        f"What it costs, in {results.rows[0].dtype}",
        head,
        rows,
        "Medians; all variants run in turn. vs best stock: speedup over the fastest stock variant, with quartiles.",
        "kept: by autograd for the backward pass, parameters and inputs not counted. switches: of all pools.",
        "peak: what a call adds at most to the memory of this process.",
        left=4,
    )
