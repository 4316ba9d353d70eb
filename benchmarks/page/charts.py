"""Drawings for which text and boxes do not do: rooflines, curves, stacks. As SVG for the page, as PNG beside it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from .. import contest, footprint, scaling
from ..figure import ALARM, GRID, INK, MUTED, OURS, STOCK, tidy
from ..limits import MEMORY
from ..results import Results
from .findings import nbytes, plain

PAPER = "#ffffff"
PARTS = {
    "parameters": ("weights", "#5c6b7a"),
    "gradients": ("gradients", "#8b99a8"),
    "momentum": ("momentum", "#c3ccd5"),
    "maps": ("maps kept for the backward pass", OURS),
    "switches": ("switches", ALARM),
}
# The page's names for the colours of a drawing, which differ in dark mode.
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    STOCK: "stock",
    OURS: "ours",
    ALARM: "alarm",
    PAPER: "paper",
    **{colour: name for name, (_, colour) in PARTS.items() if colour not in (OURS, ALARM)},
}
SIZE = (4.6, 3.4)  # inches of a panel: fits a phone screen


@dataclass(frozen=True)
class Panel:
    """One drawing: what it shows in words, too, for those who do not see it."""

    title: str
    alt: str
    draw: Callable[[Axes], None]
    height: float = SIZE[1]


@dataclass(frozen=True)
class Point:
    """A call beside the limits of the machine: operations a byte, and billions of operations a second."""

    name: str
    intensity: float
    own: float
    stock: float


def pictures(results: Results) -> dict[str, list[Panel]]:
    """The panels of each picture, by the name of its file, of what was run."""
    found = {"memory.png": memory(results), "scaling.png": growth(results), "roofline.png": roofline(results)}
    return {name: panels for name, panels in found.items() if panels}


def write(panels: Sequence[Panel], path: Path) -> None:
    """Writes panels as a PNG, two in a row."""
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    with _style():
        drawing = Figure((SIZE[0] * columns, panels[0].height * rows), layout="constrained", facecolor=PAPER)
        for number, panel in enumerate(panels, start=1):
            axes = drawing.add_subplot(rows, columns, number)
            axes.set_title(panel.title)
            _draw(panel, axes)
        _legend(drawing, 4)
        drawing.savefig(path, dpi=140)


def svg(panel: Panel, key: str) -> str:
    """An SVG element whose colours are the page's variables. ``key`` keeps its names apart from other drawings'."""
    file = io.BytesIO()
    with _style(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        drawing = Figure((SIZE[0], panel.height), layout="constrained")
        drawing.patch.set_alpha(0)
        _draw(panel, drawing.add_subplot())
        _legend(drawing, 2)
        drawing.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue().decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{key}-", text)
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', text, count=1)
    for colour, name in VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    return text


def _style():
    return matplotlib.rc_context(
        {
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
        }
    )


def _draw(panel: Panel, axes: Axes) -> None:
    axes.patch.set_alpha(0)
    panel.draw(axes)
    tidy(axes)


def _legend(drawing: Figure, columns: int) -> None:
    """One for all panels, whose colours are the same."""
    handles, labels = drawing.axes[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


# ---- Memory --------------------------------------------------------------------------------------------------------


def memory(results: Results) -> list[Panel]:
    """What a training step holds, at the largest batch of each size. FCNs are much alike: FCN-8s stands for all."""
    found = []
    for size in dict.fromkeys(row.size for row in results.footprint):
        rows = [row for row in results.footprint if row.size == size and row.network not in ("FCN-32s", "FCN-16s")]
        batch = max(row.batch for row in rows)
        rows = [row for row in rows if row.batch == batch]
        alt = "; ".join(f"{row.network} on {row.layers} {nbytes(row.step)}" for row in rows)
        found.append(
            Panel(
                f"A training step at {size}, batch {batch}",
                f"What a training step holds at {size} and batch {batch}: {alt}.",
                lambda axes, rows=rows: _stacks(axes, rows),
                1.5 + 0.46 * len(rows),
            )
        )
    return found


def _stacks(axes: Axes, rows: Sequence[footprint.Row]) -> None:
    y, places = 0.0, []
    for number, row in enumerate(rows):
        y += 0.35 if number and row.network != rows[number - 1].network else 0
        places.append(y)
        left = 0
        for part, (name, colour) in PARTS.items():
            width = getattr(row, part)
            axes.barh(y, width, 0.42, left=left, color=colour, label=name if number == 0 else None)
            left += width
        axes.annotate(f"{row.network}, {row.layers}", (0, y - 0.24), (0, 2), textcoords="offset points", va="bottom")
        axes.annotate(nbytes(left), (left, y), (4, 0), textcoords="offset points", va="center", fontweight="bold")
        y += 1
    axes.set_ylim(y - 0.6, -0.75)
    axes.set_xlim(0, 1.2 * max(row.step for row in rows))
    axes.set_yticks([])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e9:g} GB"))
    axes.grid(axis="x", color=GRID)


# ---- Size and batch ------------------------------------------------------------------------------------------------

AXES = {scaling.IMAGE: "side of the image, pixels", scaling.BATCH: "batch"}


def growth(results: Results) -> list[Panel]:
    """A panel for each call and what grows, with the time of the better format of each side."""
    found = []
    for op in dict.fromkeys(row.measured.op for row in results.scaling):
        for axis in AXES:
            measured = {row.value: row.measured for row in results.scaling if (row.measured.op, row.axis) == (op, axis)}
            curves = {value: best_times(row) for value, row in sorted(measured.items())}
            if curves:
                alt = "; ".join(
                    f"{value}: {own / 1e6:.2g} ms, stock {stock / 1e6:.2g} ms, {plain(stock / own)} as fast"
                    for value, (own, stock) in curves.items()
                )
                found.append(
                    Panel(
                        f"{op}: {axis}",
                        f"Milliseconds of {op} by {AXES[axis]}. {alt}.",
                        lambda axes, curves=curves, axis=axis: _curves(axes, curves, AXES[axis]),
                    )
                )
    return found


def best_times(row: contest.Row) -> tuple[float, float]:
    """The median nanoseconds of segext and of stock, each in its fastest format and stock in its fastest variant."""

    def least(start: str) -> float:
        return min(time.median for way, time in row.times.items() if way.startswith(start))

    return least("segext"), least("stock")


def _curves(axes: Axes, curves: dict[int, tuple[float, float]], label: str) -> None:
    own, stock = ([pair[n] / 1e6 for pair in curves.values()] for n in (0, 1))
    axes.plot(list(curves), stock, "o-", color=STOCK, lw=2, ms=5, label="best stock")
    axes.plot(list(curves), own, "o-", color=OURS, lw=2, ms=5, label="segext")
    for value, ours, theirs in zip(curves, own, stock, strict=True):
        axes.annotate(
            plain(theirs / ours),
            (value, max(ours, theirs)),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(curves), [str(value) for value in curves])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)
    axes.set_ylabel("ms a call")
    axes.margins(0.09, 0.16)
    low, high = axes.get_ylim()
    _plain(axes.yaxis, (1, 2, 5) if high < 100 * low else (1,))
    axes.grid(axis="y", color=GRID)


def _plain(axis, subs: Sequence[float] = (1,)) -> None:
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


# ---- Roofline ------------------------------------------------------------------------------------------------------


def points(results: Results) -> list[Point]:
    """Every float32 call whose operations are counted; comparisons count where a pool does nothing else."""
    found = []
    for row in results.key_rows:
        if (row.op, row.dtype) == ("pool", "float32") and row.window == "2x2/2":
            operations = 3 * row.batch * row.channels * (row.height // 2) * (row.width // 2)
            stock = min(time.median for way, time in row.times.items() if way.split()[0] in ("stock", "compiled"))
            name = f"{row.op}, {row.format}"
            own = row.times[f"segext {row.format}"].median
            found.append(Point(name, operations / row.bytes_moved, operations / own, operations / stock))
    calls = {(row.op, row.map): row for row in (*results.upsampling, *results.decoding) if row.dtype == "float32"}
    for row in calls.values():
        if row.operations:
            own, stock = (row.operations / time for time in best_times(row))
            found.append(Point(f"{row.op}, {row.map}", row.operations / row.bytes_moved, own, stock))
    return found


def roofline(results: Results) -> list[Panel]:
    limits = {row.what: row.most for row in results.limits}
    found = points(results)
    if not limits or not found:
        return []
    memory, arithmetic = limits[MEMORY], limits["float32"]
    alt = "; ".join(
        f"{number}, {p.name}: {p.own:.3g} of {min(arithmetic, memory * p.intensity):.3g} possible, stock {p.stock:.3g}"
        for number, p in enumerate(found, start=1)
    )
    return [
        Panel(
            "Operations and bytes, float32",
            f"Billions of operations a second, where memory allows {memory:.3g} GB/s and arithmetic {arithmetic:.3g} "
            f"billion operations a second. {alt}.",
            lambda axes: _roof(axes, found, memory, arithmetic),
            4.2,
        )
    ]


def _roof(axes: Axes, found: Sequence[Point], memory: float, arithmetic: float) -> None:
    low, high = min(p.intensity for p in found) / 2, 2 * max(*(p.intensity for p in found), arithmetic / memory)
    knee = arithmetic / memory
    limits = f"memory, {memory:.3g} GB/s, and arithmetic, {arithmetic:.3g} Gop/s"
    axes.plot([low, knee, high], [memory * low, arithmetic, arithmetic], color=INK, lw=1.5, label=limits)
    for number, point in enumerate(found, start=1):
        axes.plot([point.intensity] * 2, [point.stock, point.own], color=MUTED, lw=1)
        axes.annotate(
            str(number), (point.intensity, point.own), (5, 3), textcoords="offset points", fontsize=9, color=INK
        )
    axes.plot([p.intensity for p in found], [p.stock for p in found], "o", color=STOCK, ms=5, label="best stock")
    axes.plot([p.intensity for p in found], [p.own for p in found], "o", color=OURS, ms=6, label="segext")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_xlabel("operations a byte that must move")
    axes.set_ylabel("billion operations a second")
    for axis in (axes.xaxis, axes.yaxis):
        _plain(axis)
    axes.grid(color=GRID)
