"""Layout of the page: sections of figures, each with its caption, its tables and the command that made it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from .. import calls, contest, tables
from ..results import Results
from ..tables import Table, spread, table
from . import charts, findings
from .findings import plain


@dataclass(frozen=True)
class Bar:
    """A bar from ``start`` on, in percent of its track; ``mark``: where the best stock variant is."""

    label: str
    value: str
    start: float
    width: float
    kind: str
    title: str = ""
    mark: float | None = None


@dataclass(frozen=True)
class Bars:
    """Bars that belong together."""

    name: str
    bars: list[Bar]


@dataclass(frozen=True)
class Drawing:
    """A drawing as SVG, and what it shows in words."""

    title: str
    alt: str
    svg: Markup


@dataclass(frozen=True)
class Figure:
    """Bars or drawings with their caption. ``ticks`` are places on the tracks of bars, with their text."""

    key: str
    title: str
    caption: str
    command: str
    bars: list[Bars] = field(default_factory=list)
    ticks: list[tuple[float, str]] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)  # what the numbers in a drawing refer to
    tables: list[Table] = field(default_factory=list)
    answer: str = ""  # to the title, if it is a question


@dataclass(frozen=True)
class Section:
    key: str
    title: str
    text: str
    figures: list[Figure]


class Scale:
    """Places of ratios on a logarithmic track, in percent. Bars start at 1."""

    def __init__(self, values: Iterable[float]) -> None:
        values = [1.0, *values]
        self._low, self._high = math.log(min(values) / 1.15), math.log(max(values) * 1.15)

    def place(self, value: float) -> float:
        return 100 * (math.log(value) - self._low) / (self._high - self._low)

    def bar(self, value: float) -> tuple[float, float]:
        """Start and width."""
        start, end = sorted((self.place(value), self.place(1.0)))
        return start, end - start

    def ticks(self) -> list[tuple[float, str]]:
        """Of 1, 2 and 5 and their multiples by ten, those on the track; of many, only powers of ten."""
        powers = range(math.floor(self._low / math.log(10)), math.ceil(self._high / math.log(10)) + 1)
        values = [step * 10.0**power for power in powers for step in (1, 2, 5)]
        values = [value for value in values if self._low <= math.log(value) <= self._high]
        if len(values) > 6:
            values = [value for value in values if round(math.log10(value), 9).is_integer()]
        return [(self.place(value), f"{value:g}{findings.TIMES}") for value in values]


def _amounts(name: str, *amounts: tuple[str, str, float, str]) -> Bars:
    """Bars of amounts, (label, text, amount, kind), of which the largest fills its track."""
    most = max(amount for *_, amount, _ in amounts)
    return Bars(name, [Bar(label, text, 0.0, 100 * amount / most, kind) for label, text, amount, kind in amounts])


def of(results: Results) -> list[Section]:
    """The sections of all that was run."""
    named = {made.title: made for made in tables.parts(results, []) if isinstance(made, Table)}

    def tabled(*starts: str) -> list[Table]:
        return [made for title, made in named.items() if title.startswith(starts)]

    def command(part: str) -> str:
        return " ".join(filter(None, ("python -m benchmarks", part, results.environment.get("options"))))

    makers: tuple[Callable[[], Section | None], ...] = (
        lambda: _speed(results, command("ops"), tabled),
        lambda: _memory(results, command("switches"), tabled),
        lambda: _fusions(results, command("ops"), tabled),
        lambda: _growth(results, command("ops"), tabled),
        lambda: _latency(results, command("ops"), tabled),
        lambda: _roofline(results, command("ops"), tabled),
        lambda: _losses(results, command("ops")),
    )
    return [section for make in makers if (section := make()) is not None]


# ---- Speed ---------------------------------------------------------------------------------------------------------

KINDS = {
    ("float32", "NCHW"): "a",
    ("float32", "channels_last"): "b",
    ("bfloat16", "NCHW"): "c",
    ("bfloat16", "channels_last"): "d",
}


def _speed(results: Results, command: str, tabled) -> Section | None:
    rows = results.key_rows
    if not rows:
        return None
    first = rows[0]
    shape = f"({first.batch}, {first.channels}, {first.height}, {first.width})"
    return Section(
        "speed",
        "Speed of every op",
        "segext's speedup over stock PyTorch. Left of the line at 1, stock is faster.",
        [
            Figure(
                "ops",
                f"On a map of {shape}",
                "Bars: speedup vs eager stock in the same type and memory format, the median of interleaved calls. "
                "Marks: speedup vs the best stock variant, in either format, eager or compiled.",
                command,
                **_faster(rows, lambda row: row.op, lambda row: f"{row.dtype} {row.format}"),
                tables=tabled("Every op", "The pools of", "Odd sizes"),
            )
        ],
    )


def _faster(rows: Sequence, group: Callable, label: Callable) -> dict:
    """Bars of speedups by group, with their ticks and legend."""
    scale = Scale([value for row in rows for value in (row.to_stock.median, row.to_best.median)])
    groups: dict[str, list[Bar]] = {}
    for row in rows:
        kind = KINDS.get((row.dtype, row.format), "a")
        bar = Bar(
            label(row),
            plain(row.to_stock.median),
            *scale.bar(row.to_stock.median),
            kind,
            f"{spread(row.to_stock)} vs stock; {plain(row.to_best.median)} vs best stock, {row.best}",
            scale.place(row.to_best.median),
        )
        groups.setdefault(group(row), []).append(bar)
    shown = {(row.dtype, row.format) for row in rows}
    legend = [(kind, " ".join(name)) for name, kind in KINDS.items() if name in shown]
    return {
        "bars": [Bars(name, bars) for name, bars in groups.items()],
        "ticks": scale.ticks(),
        "legend": [*legend, ("mark", "vs best stock")],
    }


# ---- Memory --------------------------------------------------------------------------------------------------------


HELD = {
    "int64": ("int64 (stock)", "stock"),
    "int32": ("int32", "stock"),
    "uint8": ("uint8", "stock"),
    "packed": ("2 bits (segext)", "ours"),
}
KEPT = {"stock": ("stock", "stock"), "pool": ("MaxPool2d", "ours"), "relu_pool": ("ReLUMaxPool2d", "ours")}


def _memory(results: Results, command: str, tabled) -> Section | None:
    figures = []
    if results.switches:
        groups = []
        for row in results.switches:
            held = {name: getattr(row, name) for name in HELD}
            bars = ((HELD[name][0], findings.nbytes(value), value, HELD[name][1]) for name, value in held.items())
            groups.append(_amounts(row.network, *bars))
        figures.append(
            Figure(
                "switches",
                "The switches of one image",
                "The positions of the maxima of all pools of a network, by the type that holds them.",
                command,
                groups,
                tables=tabled("Bytes of all switches", "What all switches take"),
            )
        )
    if results.footprint:
        figures.append(
            Figure(
                "networks",
                "Does DeconvNet cost much more memory than FCN?",
                findings.verdict(results)[1],
                command,
                answer=findings.verdict(results)[0],
                drawings=_drawn("memory", charts.memory(results)),
                tables=tabled("What networks hold"),
            )
        )
    if results.saved:
        groups = []
        for row in results.saved:
            kept = {name: getattr(row, name) for name in KEPT}
            bars = ((KEPT[name][0], findings.nbytes(value), value, KEPT[name][1]) for name, value in kept.items())
            groups.append(_amounts(f"{row.stack}, {'compiled' if row.compiled else 'eager'}", *bars))
        figures.append(
            Figure(
                "kept",
                "What autograd keeps for convolution, ReLU and pool",
                "One image, float32. The pools are the layers named.",
                command,
                groups,
                tables=tabled("Bytes that autograd keeps"),
            )
        )
    text = (
        "Bytes are counted, not estimated. What networks hold is counted at their full published width from the sizes "
        "of all tensors, without running them; a test compares it with real runs."
    )
    return Section("memory", "Memory", text, figures) if figures else None


# ---- The other parts -----------------------------------------------------------------------------------------------


def _fusions(results: Results, command: str, tabled) -> Section | None:
    figures = []
    for key, title, caption, rows, start in (
        (
            "upsampling",
            "Class scores on their way to full size",
            "Bilinear upsampling; with a skip connection added; to a label map; to a loss and its gradient. Marks are "
            "against the best stock variant.",
            results.upsampling,
            "Upsampling",
        ),
        (
            "decoding",
            "Unpooling with the convolution that reads it, and transposed convolution",
            '"fwd+bwd" trains. Where the marks are at the line, segext runs the same kernels as stock, or equals them.',
            results.decoding,
            "Unpooling",
        ),
    ):
        if rows:
            bars = _faster(rows, lambda row: f"{row.op}, {row.map}", lambda row: f"{row.dtype} {row.format}")
            figures.append(Figure(key, title, caption, command, **bars, tables=tabled(start)))
    if rows := [
        row for row in results.upsampling if row.dtype == "float32" and ("argmax" in row.op or "loss" in row.op)
    ]:
        figures.insert(1, _peaks(rows, command))
    text = (
        "Never written: the unpooled map that is three quarters zeros, and the scores of every class at full size. "
        "Left of the line at 1, stock is faster."
    )
    return Section("fusions", "Upsampling, decoding and the loss", text, figures) if figures else None


def _peaks(rows: Sequence[contest.Row], command: str) -> Figure:
    groups = []
    for row in {row.op: row for row in rows}.values():
        stock, own = (
            min(peak for way, peak in row.peaks.items() if way.startswith(whose)) for whose in ("stock", "segext")
        )
        bars = (("stock", findings.nbytes(stock), stock, "stock"), ("segext", findings.nbytes(own), own, "ours"))
        groups.append(_amounts(f"{row.op}, {row.map}", *bars))
    return Figure(
        "peaks",
        "Their memory at the peak of a call",
        "Beyond arguments and result, in the leanest format of each; the system counts whole pages.",
        command,
        groups,
    )


def _growth(results: Results, command: str, tabled) -> Section | None:
    if not results.scaling:
        return None
    figure = Figure(
        "scaling",
        "From small to large",
        "segext and stock each in their faster memory format, stock in its best variant; segext's speedup is above the "
        "points. Both axes are logarithmic.",
        command,
        drawings=_drawn("scaling", charts.growth(results)),
        tables=tabled("From small to large"),
    )
    text = "On small images call overhead dominates; on large ones, memory traffic does."
    return Section("growth", "Image size and batch", text, [figure])


def _latency(results: Results, command: str, tabled) -> Section | None:
    if not results.calls:
        return None
    groups = []
    for row in results.calls:
        mode = "forward and backward" if row.trains else "inference"
        name = f"{row.op} on {findings.shape(row.shape)}, {mode}{', compiled' * row.compiled}"
        bars = (
            (whose, f"{time.median / 1e3:.1f} µs", time.median, kind)
            for whose, time, kind in (("stock", row.stock, "stock"), ("segext", row.segext, "ours"))
        )
        groups.append(_amounts(name, *bars))
    figure = Figure(
        "calls",
        "What a call costs",
        f"Microseconds, with warm caches: on the small map {calls.SMALL}, and on {calls.TINY}, where only call "
        "overhead is left.",
        command,
        groups,
        tables=tabled("What a call costs"),
    )
    return Section(
        "latency",
        "Latency at small sizes",
        "On maps this small, call overhead dominates. segext's part of autograd is written in Python, stock's in C++.",
        [figure],
    )


def _roofline(results: Results, command: str, tabled) -> Section | None:
    panels = charts.roofline(results)
    if not panels:
        return None
    figure = Figure(
        "roofline",
        "Against the limits of the machine",
        "The line bounds them: left of the bend a call waits for memory, right of it for arithmetic. Counted are the "
        "operations that the result needs (of pooling, comparisons) and the bytes that must move. What stays in caches "
        "from call to call can be above the memory's part, and noise lifts some above the other.",
        command,
        drawings=_drawn("roofline", panels),
        listed=[
            f"{point.name}: {point.own:.3g} billion operations a second, stock {point.stock:.3g}"
            for point in charts.points(results)
        ],
        tables=tabled("What the machine"),
    )
    text = "A copy and a matrix product of torch's, measured in the same run, say what memory and arithmetic allow."
    return Section("limits", "Roofline", text, [figure])


def _losses(results: Results, command: str) -> Section | None:
    compared = findings.comparisons(results)
    if not compared:
        return None
    lost = sorted((row for row in compared if row.to_best < 1), key=lambda row: row.to_best)
    rows = [[row.op, row.where, row.best, plain(1 / row.to_best)] for row in lost]
    found = [table("Where stock wins", ["op", "where", "best stock", "stock's speedup"], rows, left=3)] if rows else []
    groups: dict[str, list] = {}
    for row in compared:
        groups.setdefault(row.op, []).append(row.to_best < 1)
    bars = [
        Bar(op, f"{sum(losses)} of {len(losses)}", 0.0, 100 * sum(losses) / len(losses), "stock")
        for op, losses in groups.items()
        if any(losses)
    ]
    figure = Figure(
        "losses",
        f"{len(lost)} of {len(compared)} comparisons",
        "By op, the share of comparisons in which the best stock variant is faster: either memory format, eager or "
        "compiled. Differences within the noise of a run are counted too.",
        command,
        [Bars("", bars)] if bars else [],
        tables=found,
    )
    return Section(
        "stock",
        "Where stock wins",
        "By time alone. Where stock is faster, its layers can be mixed with segext's.",
        [figure],
    )


def _drawn(key: str, panels: Sequence[charts.Panel]) -> list[Drawing]:
    return [
        Drawing(panel.title, panel.alt, Markup(charts.svg(panel, f"{key}{number}")))
        for number, panel in enumerate(panels)
    ]
