"""The report as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from . import throughput
from .results import Results
from .targets import COPIES

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
STOCK, OURS, FUSED, ALARM = "#adb5bd", "#3b8ea5", "#0b4f6c", "#d1495b"
KINDS = {
    ("float32", "NCHW"): "#0b4f6c",
    ("float32", "channels_last"): "#3b8ea5",
    ("bfloat16", "NCHW"): "#c0692b",
    ("bfloat16", "channels_last"): "#efb366",
    ("float16", "NCHW"): "#4f7a3a",
    ("float16", "channels_last"): "#a3c48a",
}
LINES = ("#0b4f6c", "#3b8ea5", "#c0692b", "#d1495b", "#6b8f3a")


def draw(results: Results, path: Path, *, copies: float = COPIES) -> None:
    """Draws a panel for each part of ``results`` that was run. ``copies`` is the target in copies of the bytes."""
    speed, lower = bool(results.throughput), []
    if results.switches:
        lower.append(_switches)
    if results.saved:
        lower.append(_saved)
    if results.calls:
        lower.append(_calls)
    heights = [1.15, 1.0] * speed + [0.95] * bool(lower)
    style = {"font.size": 10, "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(15, 1.2 + 4.4 * sum(heights)), layout="constrained", facecolor="white")
        figure.get_layout_engine().set(h_pad=0.12, w_pad=0.12)
        # Each row has a layout of its own, so that its labels take no room from another row.
        rows = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        if speed:
            _speed(rows[0].subplots(), results)
            left, right = rows[1].subplots(1, 2)
            _copies(left, results, copies)
            _pools(right, results)
        if lower:
            for panel, axes in zip(lower, rows[-1].subplots(1, len(lower), squeeze=False)[0], strict=True):
                panel(axes, results)
        for axes in (axes for row in rows for axes in row.axes):
            tidy(axes)
        figure.suptitle(_caption(results), x=0.01, ha="left", fontsize=11, color=MUTED)
        figure.savefig(path, dpi=110)


def _caption(results: Results) -> str:
    e = results.environment
    commit = f", commit {e['commit']}" if e["commit"] else ""
    machine = e.get("device") or f"{e['processor']}, {e['threads']} threads, {e['instruction set']}"
    return (
        f"segext {e['segext']}{commit} beside torch {e['torch']}   |   {machine}   |   "
        f"medians of interleaved calls, on {e['images']}"
    )


def tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=INK, length=0, which="both")
    axes.set_axisbelow(True)


def _plain_log(axis) -> None:
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _megabytes(axis) -> None:
    axis.set_major_locator(MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:.0f} MB"))


def _grouped(rows: Sequence[throughput.Row]) -> tuple[list[str], dict[tuple[str, str], dict[str, throughput.Row]]]:
    ops = list(dict.fromkeys(row.op for row in rows))
    by_kind = {kind: {row.op: row for row in rows if (row.dtype, row.format) == kind} for kind in KINDS}
    return ops, {kind: rows for kind, rows in by_kind.items() if rows}


def _speed(axes: Axes, results: Results) -> None:
    rows = results.key_rows
    ops, by_kind = _grouped(rows)
    width = 0.8 / len(by_kind)
    for n, (kind, row_of) in enumerate(by_kind.items()):
        color = KINDS[kind]
        for x, op in enumerate(ops):
            if (row := row_of.get(op)) is None:
                continue
            place = x + (n - (len(by_kind) - 1) / 2) * width
            value, best = row.to_stock.median, row.to_best.median
            label = " ".join(kind) if x == 0 else None
            axes.bar(place, value - 1, width * 0.9, bottom=1, color=color, label=label)
            axes.vlines(place, row.to_stock.low, row.to_stock.high, color=INK, lw=1)
            label = "vs best stock: either format, eager or compiled" if x == n == 0 else None
            axes.plot(
                [place - width * 0.42, place + width * 0.42], [best, best], color=ALARM, lw=2.2, label=label, zorder=4
            )
            top = max(value, row.to_stock.high, 1)
            axes.annotate(
                f"{value:.0f}" if value >= 9.95 else f"{value:.1f}",
                (place, top),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=INK,
            )
    first = rows[0]
    axes.set_title(
        f"Speedup vs stock on ({first.batch}, {first.channels}, {first.height}, {first.width}); below 1 stock is faster"
    )
    axes.set_yscale("log")
    axes.set_xticks(range(len(ops)), ops)
    axes.axhline(1, color=INK, lw=1)
    axes.grid(axis="y", color=GRID)
    axes.set_xlim(-0.6, len(ops) - 0.4)
    axes.margins(y=0.12)
    _plain_log(axes.yaxis)
    axes.legend(frameon=False, ncols=5, loc="upper right", fontsize=9)


def _copies(axes: Axes, results: Results, target: float) -> None:
    ops, by_kind = _grouped(results.key_rows)
    for n, (kind, row_of) in enumerate(by_kind.items()):
        color = KINDS[kind]
        found = [(y, row_of[op].to_copy) for y, op in enumerate(ops) if op in row_of]
        places = [y + (n - (len(by_kind) - 1) / 2) * 0.68 / len(by_kind) for y, _ in found]
        medians = [value.median for _, value in found]
        axes.hlines(places, [v.low for _, v in found], [v.high for _, v in found], color=color, lw=2, alpha=0.6)
        axes.scatter(medians, places, color=color, s=42, zorder=3, label=" ".join(kind))
    axes.axvline(1, color=INK, lw=1)
    axes.axvline(target, color=ALARM, lw=1, ls=(0, (4, 3)))
    axes.annotate(
        f"target {target:.3g}",
        (target, -0.5),
        xytext=(4, 2),
        textcoords="offset points",
        color=ALARM,
        fontsize=9,
        va="top",
    )
    axes.set_title("segext's time in units of a plain copy of the bytes it must move")
    axes.set_yticks(range(len(ops)), ops)
    axes.set_ylim(len(ops) - 0.5, -0.6)
    axes.set_xlim(left=0)
    axes.grid(axis="x", color=GRID)


def _pools(axes: Axes, results: Results) -> None:
    rows = [row for row in results.throughput if row.suite in ("key", "deconvnet")]
    # The batch at which most pools were timed; if there are several, the largest.
    pools_at = {row.batch: {other.pool for other in rows if other.batch == row.batch} for row in rows}
    batch = max(pools_at, key=lambda batch: (len(pools_at[batch]), batch))
    rows = [row for row in rows if row.batch == batch and (row.dtype, row.format) == ("float32", "NCHW")]
    pools = list(dict.fromkeys(row.pool for row in rows))
    ops = [op for op in dict.fromkeys(row.op for row in rows) if not op.endswith("out=")]
    for op, color in zip(ops, LINES, strict=False):
        line = [row for row in rows if row.op == op]
        places = [pools.index(row.pool) for row in line]
        axes.fill_between(
            places, [r.to_stock.low for r in line], [r.to_stock.high for r in line], color=color, alpha=0.15, lw=0
        )
        axes.plot(places, [row.to_stock.median for row in line], "o-", color=color, lw=2, ms=5, label=op)
    shapes = {row.pool: f"{row.pool}\n{row.channels}@{row.height}²" for row in rows}
    axes.set_title(f"From large maps to small: speedup vs stock, float32 NCHW, batch {batch}")
    axes.set_xticks(range(len(pools)), [shapes[pool] for pool in pools])
    axes.set_yscale("log")
    axes.axhline(1, color=INK, lw=1)
    axes.grid(axis="y", color=GRID)
    axes.margins(y=0.2)
    _plain_log(axes.yaxis)
    axes.legend(frameon=False, ncols=3, fontsize=9, loc="upper right")


def _bytes(value: float) -> str:
    if value < 1e6:
        return f"{value / 1e3:.0f} kB"
    return f"{value / 1e6:.0f} MB" if value >= 99.5e6 else f"{value / 1e6:.1f} MB"


def _switches(axes: Axes, results: Results) -> None:
    kinds = {"int64": STOCK, "int32": "#8fb8c4", "uint8": OURS, "packed": FUSED}
    for n, (kind, color) in enumerate(kinds.items()):
        for y, row in enumerate(results.switches):
            place = y + (n - 1.5) * 0.2
            value = getattr(row, kind)
            name = {"int64": "int64 (stock)", "packed": "packed (segext)"}.get(kind, kind)
            axes.barh(place, value, 0.18, color=color, label=name if y == 0 else None)
            axes.annotate(
                _bytes(value), (value, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8
            )
    axes.set_title("All switches of a network, batch 1")
    axes.set_yticks(range(len(results.switches)), [row.network.replace(" ", "\n") for row in results.switches])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.22 * max(row.int64 for row in results.switches))
    _megabytes(axes.xaxis)
    axes.grid(axis="x", color=GRID)
    axes.legend(frameon=False, fontsize=9, loc="best")


def _saved(axes: Axes, results: Results) -> None:
    kinds = {"stock": STOCK, "pool": OURS, "relu_pool": FUSED}
    names = {"stock": "stock", "pool": "segext MaxPool2d", "relu_pool": "segext ReLUMaxPool2d"}
    for y, row in enumerate(results.saved):
        for n, (kind, color) in enumerate(kinds.items()):
            place, value = y + (n - 1) * 0.26, getattr(row, kind)
            axes.barh(place, value, 0.23, color=color, label=names[kind] if y == 0 else None)
            axes.annotate(
                _bytes(value), (value, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8
            )
    labels = [
        f"{row.stack.partition(', ')[2]}\n{'compiled' if row.compiled else 'eager'}".replace("all five", "five")
        for row in results.saved
    ]
    axes.set_title("What autograd keeps, DeconvNet encoder")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.22 * max(row.stock for row in results.saved))
    _megabytes(axes.xaxis)
    axes.grid(axis="x", color=GRID)
    axes.legend(frameon=False, fontsize=9, loc="upper center", ncols=3, bbox_to_anchor=(0.5, -0.08))


def _calls(axes: Axes, results: Results) -> None:
    places, labels, place, shape = [], [], -1.0, None
    for row in results.calls:
        if row.shape != shape:
            shape = row.shape
            axes.annotate(str(shape), (0, place + 0.9), (4, 0), ("axes fraction", "data"), "offset points", color=MUTED)
            place += 1
        place += 1
        for side, value, color, name in ((-1, row.stock, STOCK, "stock"), (1, row.segext, OURS, "segext")):
            label = None if places else name
            axes.barh(place + side * 0.19, value.median / 1e3, 0.34, color=color, label=label)
            axes.hlines(place + side * 0.19, value.low / 1e3, value.high / 1e3, color=INK, lw=1)
        places.append(place)
        labels.append(f"{row.op}, {'fwd+bwd' if row.trains else 'inference'}{', compiled' * row.compiled}")
    axes.set_title("A call on small maps, µs")
    axes.set_yticks(places, labels, fontsize=8)
    axes.set_xscale("log")
    axes.set_ylim(place + 0.6, -0.7)
    axes.grid(axis="x", color=GRID)
    _plain_log(axes.xaxis)
    axes.legend(frameon=False, fontsize=9, loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.08))
