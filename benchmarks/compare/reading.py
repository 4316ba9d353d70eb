"""Reads result files: of the report, ``models``, ``model``, ``peers`` and the GPU's bench, all as figures by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ..errors import Unusable
from ..harness import Summary

COMMITTED = Path(__file__).resolve().parent.parent / "results"
FILES = ("results.json", "bench.json")
FORMAT = 1  # of every file


class Kind(Enum):
    """What a figure is, which says how two are compared."""

    RATIO = "times stock's speed"  # more is better, on any machine
    COST = "times a copy's time"  # less is better, on any machine
    TIME = "ns"  # less is better, on the same machine
    STOCK_TIME = "ns of stock"  # tells how far the machine itself has moved
    BYTES = "bytes"  # counted exactly
    PEAK = "bytes at the peak"  # counted in pages


@dataclass(frozen=True)
class Figure:
    kind: Kind
    value: Summary


Figures = dict[tuple[str, str], Figure]  # keyed by what was measured and the measure


@dataclass(frozen=True)
class Section:
    """A list of rows in a file: the fields that name a row, and those that hold figures of each kind."""

    name: tuple[str, ...]
    ratios: tuple[str, ...] = ()
    costs: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    peaks: tuple[str, ...] = ()
    by_way: bool = False  # the field "way" says whose row it is; else all rows are segext's and hold stock's times too
    rows: Callable[[list[dict], dict], Iterator[dict]] = lambda rows, content: iter(rows)


def _costs(networks: list[dict], content: dict) -> Iterator[dict]:
    """The costs of networks; what they were run on belongs to the name."""
    plan = content["plan"]
    run = f"{plan['width']:g} wide, {plan['batch']} crops of {plan['crop']}"
    for network in networks:
        for cost in network["costs"]:
            yield {**cost, "network": network["network"], "run": run}


def _grown(rows: list[dict], content: dict) -> Iterator[dict]:
    """The contests of what grows with the image or the batch."""
    for row in rows:
        yield {**row["measured"], "axis": row["axis"], "value": row["value"]}


_CONTEST = Section(
    ("op", "map", "dtype", "format"), ratios=("to_stock", "to_best", "to_peer"), costs=("to_write", "to_copy")
)
SECTIONS = {
    "throughput": Section(
        ("op", "network", "pool", "window", "batch", "dtype", "format"),
        ratios=("to_stock", "to_best", "to_compiled"),
        costs=("to_copy",),
    ),
    "upsampling": _CONTEST,
    "decoding": _CONTEST,
    "peers": _CONTEST,
    "calls": Section(("op", "shape", "trains", "compiled", "way"), ratios=("ratio",), times=("segext",)),
    "switches": Section(("network",), exact=("packed",)),
    "saved": Section(("stack", "compiled"), exact=("pool", "relu_pool")),
    "footprint": Section(
        ("network", "layers", "height", "width", "batch"), exact=("kept", "switches", "peak", "prediction")
    ),
    "scaling": Section(("op", "axis", "value", "format"), ratios=("to_stock", "to_best"), rows=_grown),
    "stream": Section(("op", "sizes"), ratios=("to_stock",), costs=("segext",)),
    "networks": Section(
        ("network", "run", "way"),
        ratios=("step_to_stock", "image_to_stock"),
        times=("step", "image"),
        exact=("kept", "switches"),
        peaks=("peak_step", "peak_image"),
        by_way=True,
        rows=_costs,
    ),
    "rows": Section(
        ("input", "dtype", "task", "way", "format"),
        ratios=("to_best",),
        times=("time",),
        exact=("kept", "switches"),
        peaks=("peak",),
        by_way=True,
    ),
}


def find(name: str) -> Path:
    """The result file that a path, a folder or the name of a committed result stands for.

    Raises:
        Unusable: where there is none.
    """
    for path in (Path(name), COMMITTED / name):
        if path.is_file():
            return path
        for file in FILES:
            if (path / file).is_file():
                return path / file
    committed = ", ".join(sorted(path.name for path in COMMITTED.iterdir()))
    raise Unusable(f"{name} is no result file, no folder that holds one, and no committed result ({committed})")


def read(path: Path) -> tuple[dict[str, object], Figures]:
    """What a file says of where it was made, and its figures.

    Raises:
        Unusable: for a file that no benchmark wrote.
    """
    try:
        content = json.loads(path.read_text())
        content = {**content, **content.get("details", {})}
        if content["format"] != FORMAT:
            raise Unusable(f"{path} is of format {content['format']}, where {FORMAT} is known")
        found = {}
        for key in SECTIONS.keys() & content.keys():
            for row in SECTIONS[key].rows(content[key], content):
                found |= _figures(key, row)
        return content["environment"], found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unusable(f"{path} is no result of these benchmarks: {type(error).__name__}: {error}") from error


def _figures(key: str, row: dict) -> Figures:
    section = SECTIONS[key]
    what = f"{key}: " + ", ".join(_text(row[name], name) for name in section.name if name in row)
    found = {}

    def add(kind: Kind, measure: str, value: object) -> None:
        if value is not None:
            summary = Summary(**value) if isinstance(value, dict) else Summary(value, value, value, 1)
            found[what, measure] = Figure(kind, summary)

    ours = not section.by_way or row["way"].startswith("segext")
    for name in section.times:
        add(Kind.TIME if ours else Kind.STOCK_TIME, name, row[name])
    for way, time in row.get("times", {}).items():
        if way == f"segext {row['format']}":
            add(Kind.TIME, "time", time)
        elif way.startswith("stock"):
            add(Kind.STOCK_TIME, f"time of {way}", time)
    if ours:
        for kind, names in (
            (Kind.RATIO, section.ratios),
            (Kind.COST, section.costs),
            (Kind.BYTES, section.exact),
            (Kind.PEAK, section.peaks),
        ):
            for name in names:
                add(kind, name, row.get(name))
        add(Kind.PEAK, "peak of the call", row.get("peaks", {}).get(f"segext {row.get('format')}"))
    return found


def _text(value: object, name: str) -> str:
    if isinstance(value, list):
        return "x".join(map(str, value))
    if isinstance(value, bool):
        return name if value else f"not {name}"
    return f"batch {value}" if name == "batch" else str(value)
