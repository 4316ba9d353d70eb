"""The report as text: what a terminal shows and report.txt keeps."""

from __future__ import annotations

from collections.abc import Sequence

from . import contest, throughput
from .footprint import ENCODINGS, SEGEXT
from .harness import Summary
from .limits import MEMORY
from .results import Results
from .targets import Verdict


class Table(str):
    """A table as text, which still knows its cells: the HTML report folds them in."""

    title: str
    notes: Sequence[str]
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int


def render(results: Results, verdicts: Sequence[Verdict]) -> str:
    return "\n\n".join([_environment(results), *parts(results, verdicts)]) + "\n"


def parts(results: Results, verdicts: Sequence[Verdict]) -> list[str]:
    """The tables of all that was run, in their order, and the notes."""
    parts: list[str] = []
    if results.throughput:
        parts += [key(results), *networks(results)]
    for title, rows in (
        ("Upsampling of class scores, batch 1", results.upsampling),
        ("Unpooling and convolution, and transposed convolution whose channels mix", results.decoding),
    ):
        if rows:
            parts.append(_contests(title, rows))
    if results.calls:
        parts.append(_calls(results))
    if results.switches:
        parts.append(_switches(results))
    if results.saved:
        parts.append(_saved(results))
    if results.footprint:
        parts += [_footprint(results), _encodings(results)]
    if results.scaling:
        parts.append(_scaling(results))
    if results.stream:
        parts.append(_stream(results))
    if results.limits:
        parts.append(_limits(results))
    if verdicts:
        parts.append(targets(verdicts))
    if results.notes:
        parts.append("\n".join(["Notes", *(f"  {note}" for note in results.notes)]))
    return parts


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *notes: str, left: int = 1) -> Table:
    """A table whose first ``left`` and last columns are text, the others numbers."""
    cells = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        last = len(row) - 1
        aligned = (
            cell.ljust(width) if n < left or n == last else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return ("  " + "  ".join(aligned)).rstrip()

    rule = ("  " + "  ".join("-" * width for width in widths)).rstrip()
    lines = [title, *(f"  {note}" for note in notes), "", line(cells[0]), rule, *map(line, cells[1:])]
    made = Table("\n".join(lines))
    made.title, made.notes, made.head, made.rows, made.left = title, notes, head, rows, left
    return made


def times(value: float) -> str:
    return f"{value:.0f}x" if value >= 99.5 else f"{value:.1f}x" if value >= 9.95 else f"{value:.2f}x"


def megabytes(value: float) -> str:
    """Of bytes, with as many digits as tell something."""
    return f"{value / 1e6:,.0f}" if value >= 99.5e6 else f"{value / 1e6:.3g}"


def percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.0995 else f"{100 * share:.0f} %"


def spread(value: Summary) -> str:
    return f"{times(value.median)} [{times(value.low)[:-1]}-{times(value.high)[:-1]}]"


def _environment(results: Results) -> str:
    e = results.environment
    commit = f", commit {e['commit']}" if e["commit"] else ""
    options = f"; options: {e['options']}" if e.get("options") else ""
    lines = [
        f"segext {e['segext']} ({e['instruction set']}{commit})",
        f"torch {e['torch']} ({e['torch instruction set']})",
        f"{e['processor']}, {e['cores']} cores, {e['threads']} threads; input: {e['images']}{options}",
    ]
    return "\n".join(lines)


def key(results: Results) -> str:
    rows = []
    for row in results.key_rows:
        rows.append(
            [
                row.op,
                row.dtype,
                row.format,
                spread(row.to_stock),
                times(row.to_compiled.median) if row.to_compiled else "-",
                times(row.to_best.median),
                row.best,
                times(row.to_copy.median),
                "stock wins" if row.stock_wins else "",
            ]
        )
    first = results.key_rows[0]
    return table(
        f"Every op on ({first.batch}, {first.channels}, {first.height}, {first.width})",
        ["op", "type", "format", "vs stock", "vs compiled", "vs best stock", "best stock", "copies", ""],
        rows,
        "vs stock: speedup over eager stock in the same format, median and quartiles of interleaved repetitions.",
        "vs best stock: over the fastest stock variant, eager or compiled, in either format. -: not compiled.",
        "copies: segext's time, in units of a plain copy of the bytes that must move into a reused buffer.",
        left=3,
    )


def networks(results: Results) -> list[str]:
    parts = []
    for title, suites in (
        ("The pools of DeconvNet, speedup vs eager stock in the same format", ("key", "deconvnet")),
        ("Odd sizes, channel counts and windows, likewise", ("odd",)),
    ):
        chosen = [row for row in results.throughput if row.suite in suites]
        if not chosen:
            continue
        ops = list(dict.fromkeys(row.op for row in chosen))
        maps: dict[tuple, dict[str, throughput.Row]] = {}
        for row in sorted(chosen, key=lambda row: (row.network, -row.batch)):
            window = f" {row.window}" if row.window != "2x2/2" else ""
            what = f"{row.batch} x {row.channels}@{row.height}x{row.width}{window}"
            maps.setdefault((row.network, row.pool, what, row.dtype, row.format), {})[row.op] = row
        rows = [
            [*label, *(times(by_op[op].to_stock.median) + "* "[not by_op[op].stock_wins] for op in ops), _losses(by_op)]
            for label, by_op in maps.items()
        ]
        lost = sum(row.stock_wins for row in chosen)
        short = [f"{op.replace('backward', 'bwd')} " for op in ops]
        head = ["network", "pool", "map", "type", "format", *short, "* best stock is faster"]
        parts.append(table(f"{title}; the best stock variant is faster in {lost} of {len(chosen)}", head, rows, left=5))
    return parts


def _losses(by_op: dict[str, throughput.Row]) -> str:
    lost = sorted((row.to_best.median, op) for op, row in by_op.items() if row.stock_wins)
    if not lost:
        return ""
    worst, op = lost[0]
    more = f", and {len(lost) - 1} more" if lost[1:] else ""
    return f"{op}: {by_op[op].best} {times(1 / worst)}{more}"


def _contests(title: str, contests: Sequence[contest.Row]) -> str:
    rows = [
        [
            row.op,
            row.map,
            row.dtype,
            row.format,
            row.kernels,
            f"{row.times[f'segext {row.format}'].median / 1e3:,.0f}",
            spread(row.to_stock),
            times(row.to_best.median),
            row.best,
            times(row.to_write.median) if row.to_write else "-",
            f"{row.peaks[f'segext {row.format}'] / 1e6:.1f}",
            times(row.less_memory),
            "stock wins" if row.stock_wins else "",
        ]
        for row in contests
    ]
    head = ["op", "map", "type", "format", "kernels", "us", "vs stock", "vs best stock", "best stock", "writes"]
    head += ["MB", "less", ""]
    return table(
        title,
        head,
        rows,
        "kernels: whose kernels segext.functional runs. us: microseconds of segext's call.",
        "vs stock: speedup over plain stock in the same format; vs best stock: over its fastest variant in either.",
        "writes: segext's time, in units of a plain write of the result into a reused buffer.",
        "MB: peak of segext's call, beyond its result; less: by how many times the leanest stock variant exceeds it.",
        left=5,
    )


def _calls(results: Results) -> str:
    rows = [
        [
            row.op,
            str(row.shape),
            "forward+backward" if row.trains else "inference",
            "compiled" if row.compiled else "eager",
            f"{row.segext.median / 1e3:.1f}",
            f"{row.stock.median / 1e3:.1f}",
            f"{row.difference.median / 1e3:+.1f} [{row.difference.low / 1e3:+.1f} {row.difference.high / 1e3:+.1f}]",
            times(row.ratio.median),
            "stock wins" if row.stock_wins else "",
        ]
        for row in results.calls
    ]
    head = ["op", "shape", "mode", "execution", "segext", "stock", "difference", "vs stock", ""]
    return table("What a call costs, in microseconds (float32, NCHW, warm caches)", head, rows, left=4)


def _switches(results: Results) -> str:
    rows = [
        [r.network, *(f"{n:,}" for n in (r.int64, r.int32, r.uint8, r.packed)), f"{r.int64 / r.packed:.1f}x smaller"]
        for r in results.switches
    ]
    head = ["network", "int64 (stock)", "int32", "uint8", "packed (segext)", ""]
    return table("Bytes of all switches, batch 1", head, rows)


def _saved(results: Results) -> str:
    rows = [
        [
            row.stack,
            "compiled" if row.compiled else "eager",
            f"{row.stock:,}",
            f"{row.pool:,}",
            f"{row.relu_pool:,}",
            f"{row.stock / row.relu_pool:.1f}x less" if row.relu_pool < row.stock else "stock wins",
        ]
        for row in results.saved
    ]
    head = ["convolution, ReLU and pool", "execution", "stock", "MaxPool2d", "ReLUMaxPool2d", ""]
    note = "Each storage is counted once; parameters and the input are left out. segext's layers are given by name."
    return table("Bytes that autograd keeps, batch 1, float32 channels_last", head, rows, note, left=2)


def _footprint(results: Results) -> str:
    rows = [
        [
            row.network,
            row.layers,
            row.size,
            str(row.batch),
            *map(megabytes, (row.parameters, row.gradients, row.momentum, row.maps, row.switches, row.step)),
            megabytes(row.parameters + row.momentum + row.peak),
            megabytes(row.parameters + row.prediction),
            "",
        ]
        for row in results.footprint
    ]
    head = ["network", "layers", "image", "batch", "parameters", "gradients", "momentum", "maps", "switches", "step"]
    return table(
        "What networks hold, in MB, at their full published width, float32, 21 classes",
        [*head, "peak", "prediction", ""],
        rows,
        "step: the sum, for SGD with momentum. maps: what autograd keeps beside the switches.",
        "peak: what is alive at once in such a step, in which gradients replace maps. prediction: likewise.",
        left=3,
    )


def _encodings(results: Results) -> str:
    rows = []
    for row in results.footprint:
        if row.layers == SEGEXT:
            cells = [
                f"{megabytes(row.encoded[name])} ({percent(row.share(name))}"
                + (f", {percent(row.predicted_share(name))})" if row.unpools else ")")
                for name in ENCODINGS
            ]
            rows.append([row.network, row.size, str(row.batch), *cells, ""])
    return table(
        "What all switches take, in MB (share of a training step, and of a prediction where it unpools)",
        ["network", "image", "batch", *ENCODINGS, ""],
        rows,
        "By the type that holds a switch; all else is as with segext's layers. Stock uses int64, segext 2 bits.",
        left=2,
    )


def _scaling(results: Results) -> str:
    rows = []
    for row in sorted(results.scaling, key=lambda row: (row.measured.op, row.axis, row.value)):
        found = row.measured
        rows.append(
            [
                found.op,
                row.axis,
                str(row.value),
                found.format,
                f"{found.times[f'segext {found.format}'].median / 1e3:,.0f}",
                spread(found.to_stock),
                times(found.to_best.median),
                found.best,
                "stock wins" if found.stock_wins else "",
            ]
        )
    head = ["op", "grows", "", "format", "us", "vs stock", "vs best stock", "best stock", ""]
    note = "Images grow in side length, batches in number. The image maps have 64 channels; scores have 21 classes."
    return table("From small to large, float32", head, rows, note, left=2)


def _stream(results: Results) -> str:
    rows = [
        [row.op, str(row.sizes), spread(row.segext), spread(row.stock), spread(row.to_stock)] for row in results.stream
    ]
    head = ["op", "sizes", "segext, first / second", "stock, first / second", "first call vs stock"]
    note = "Each size is run twice in a row; first / second: ratio of the two times. float32, NCHW, batch 1."
    return table("A stream of sizes", head, rows, note)


def _limits(results: Results) -> str:
    units = {MEMORY: "GB/s, read and written by a copy"}
    rows = [
        [
            row.what,
            f"{row.most:.1f}",
            f"{row.rate.median:.1f}",
            units.get(row.what, "billion operations a second, by torch.mm"),
        ]
        for row in results.limits
    ]
    return table("What the machine can do at most", ["limit", "maximum", "median", ""], rows)


def targets(verdicts: Sequence[Verdict]) -> str:
    rows = []
    for v in verdicts:
        few = f" ({v.met_by} of {v.count})" if v.count > 1 and not v.met else ""
        where = f"worst: {v.where}" if v.where and v.count > 1 else ""
        rows.append(["met" if v.met else f"MISSED{few}", v.what, v.target, v.measured, where])
    met = sum(v.met for v in verdicts)
    return table(
        f"Targets: {met} of {len(verdicts)} met",
        ["", "what", "target", "measured", ""],
        rows,
        "Aims set before the kernels were written. Ratios depend on the machine and its load: a miss says how far this",
        "machine is from an aim, not that something is broken.",
        left=2,
    )
