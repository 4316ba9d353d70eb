"""What segext is meant to reach, in one table, and whether a run reached it.

The targets are aims that were set before the kernels were written. Ratios to stock depend on the machine and on its
load: a missed target says how far this machine is from an aim, not that something is broken.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from . import decoding, upsampling
from .calls import SMALL, TINY
from .results import Results

# Speedup over eager stock in the same format, on the key map. None: any.
STOCK = (
    ("pool", "float32", "NCHW", 15.0),
    ("pool", "float32", "channels_last", 2.2),
    ("pool", "bfloat16", "NCHW", 25.0),
    ("pool", "bfloat16", "channels_last", 4.0),
    ("unpool", "float32", None, 2.4),
    ("unpool", "bfloat16", None, 3.5),
    ("pool backward", "float32", None, 2.4),
    ("pool backward", "bfloat16", None, 3.5),
    ("unpool backward", None, "NCHW", 3.0),
    ("unpool backward", None, "channels_last", 9.0),
    ("unpool out=", None, None, 4.0),
    ("pool backward out=", None, None, 4.0),
)
# Speedup over compiled stock in the same format, on the key map.
COMPILED = (
    ("pool", "float32", "NCHW", 5.0),
    ("pool", "bfloat16", "NCHW", 12.0),
    ("pool", None, "channels_last", 1.3),
    ("unpool", None, None, 1.3),
    ("pool backward", None, None, 1.3),
    ("unpool backward", None, None, 1.3),
)
# Most time on the key map, as a multiple of copying the bytes that must move.
COPIES = 1.4
COPIED = ("pool", "relu+pool", "pool backward", "unpool", "unpool backward", "pool backward out=", "unpool out=")
# Factor by which the odd sizes and channel counts of real networks may miss the above.
ODD_SLACK = 1.5
# Most microseconds over stock where call overhead dominates, by whether the call trains.
CALL = {False: 12.0, True: 25.0}
# Speedup over the best stock variant in either format, by op, map (None: any) and type (None: any).
BEST = (
    (upsampling.ARGMAX, None, "float32", 4.0),
    *((op, None, "float32", 2.0) for op in upsampling.LOSS.values()),
    (upsampling.FULLY_CONNECTED, None, "float32", 9.0),
    *((op, None, "bfloat16", 40.0) for op in upsampling.UPSAMPLING.values()),
    (decoding.UNPOOLING, "64@224x224", "float32", 2.0),
    *((decoding.UNPOOLING, f"{c}@{s}x{s}", "float32", 2.5) for c, s in decoding.STAGES[1:]),
    (decoding.PREPACKED, None, "float32", 2.5),
    (decoding.UNPOOLING_TRAINS, None, "float32", 1.8),
    (decoding.dense_op(3, 1), None, "float32", 0.97),
)
# Speedup over stock in the same format: transposed convolution whose channels mix.
DENSE = (("NCHW", 2.0), ("channels_last", 1.0))
DENSE_OPS = tuple(decoding.dense_op(kernel, stride) for kernel, stride in ((16, 8), (4, 2), (2, 2)))
# Most time of bilinear upsampling, as a multiple of writing the result.
WRITES = 1.3
# Most time of the first call of a new size, as a multiple of the second call.
NEW_SIZE = 1.1
# Least ratio of the leanest stock variant's peak memory to the call's, for fusions that store no scores.
LESS = (
    (upsampling.ARGMAX, 50.0),
    *((op, 20.0) for op in upsampling.LOSS.values()),
)
# Bytes of DeconvNet's switches at 224x224: as int64 indices, and packed.
SWITCHES = ("DeconvNet 224x224", 12_242_944, 382_592)


@dataclass(frozen=True)
class Verdict:
    """A target and what was measured: the worst of ``count`` rows, of which ``met_by`` meet it."""

    what: str
    target: str
    measured: str
    where: str
    met_by: int
    count: int

    @property
    def met(self) -> bool:
        return self.met_by == self.count


def judge(
    what: str, values: Iterable[tuple[float, str]], bound: float, *, least: bool, unit: str = "x"
) -> list[Verdict]:
    """The worst of ``values``, each with where it was measured, against ``bound``; none where nothing was measured."""
    values = sorted(values, reverse=not least)
    if not values:
        return []
    good = [value >= bound if least else value <= bound for value, _ in values]
    worst, where = values[0]
    target = f"{'>=' if least else '<='} {bound:.3g}{unit}"
    return [Verdict(what, target, f"{worst:.2f}{unit}", where, sum(good), len(good))]


def verdicts(results: Results) -> list[Verdict]:
    """Verdicts on every target for which something was measured."""
    return [*_throughput(results), *_convolutions(results), *_calls(results), *_stream(results), *_memory(results)]


def _throughput(results: Results) -> list[Verdict]:
    found = []
    for suite, slack, place in (("key", 1.0, "(4, 64, 224, 224)"), ("odd", ODD_SLACK, "odd sizes")):
        rows = [row for row in results.throughput if row.suite == suite]

        def chosen(op: str, dtype: str | None = None, format: str | None = None, rows=rows) -> list:
            # No network unpools with windows that overlap.
            asked = [r for r in rows if r.window == "2x2/2" or not op.startswith("unpool")]
            return [r for r in asked if r.op == op and dtype in (None, r.dtype) and format in (None, r.format)]

        for op, dtype, format, bound in STOCK:
            values = [(row.to_stock.median, row.where) for row in chosen(op, dtype, format)]
            found += judge(_label(op, dtype, format, "stock", place), values, bound / slack, least=True)
        for op, dtype, format, bound in COMPILED if suite == "key" else ():
            values = [(r.to_compiled.median, r.where) for r in chosen(op, dtype, format) if r.to_compiled]
            found += judge(_label(op, dtype, format, "compiled stock", place), values, bound, least=True)
        for op in COPIED:
            values = [(row.to_copy.median, row.where) for row in chosen(op)]
            label = _label(op, None, None, "in copies of its bytes", place)
            found += judge(label, values, COPIES * slack, least=False)
    return found


def _label(op: str, dtype: str | None, format: str | None, measure: str, place: str) -> str:
    kind = " ".join(filter(None, (op, dtype, format)))
    return f"{kind}, {measure if measure.startswith('in ') else f'vs {measure}'}, {place}"


def _convolutions(results: Results) -> list[Verdict]:
    rows, found = [*results.upsampling, *results.decoding], []
    for op, map, dtype, bound in BEST:
        chosen = [row for row in rows if row.op == op and map in (None, row.map) and dtype == row.dtype]
        values = [(row.to_best.median, row.where) for row in chosen]
        found += judge(f"{op}{f' {map}' if map else ''} {dtype}, vs best stock", values, bound, least=True)
    for format, bound in DENSE:
        chosen = [row for row in rows if row.op in DENSE_OPS and (row.dtype, row.format) == ("float32", format)]
        values = [(row.to_stock.median, f"{row.op}, {row.where}") for row in chosen]
        found += judge(f"dense deconv {format}, vs stock", values, bound, least=True)
    for op, bound in LESS:
        values = [(row.less_memory, row.where) for row in rows if row.op == op]
        found += judge(f"{op}, less memory", values, bound, least=True)
    chosen = [row for row in rows if row.op.startswith("bilinear") and row.to_write]
    values = [(row.to_write.median, f"{row.op}, {row.where}") for row in chosen]
    return [*found, *judge("bilinear upsampling, in writes of its result", values, WRITES, least=False)]


def _calls(results: Results) -> list[Verdict]:
    found = []
    for compiled in (False, True):
        rows = [row for row in results.calls if row.compiled == compiled]
        way = "compiled" if compiled else "eager"
        for trains, mode in ((False, "inference"), (True, "forward+backward")):
            values = [(row.ratio.median, row.where) for row in rows if (row.shape, row.trains) == (SMALL, trains)]
            found += judge(f"{mode}, {way}, {SMALL}", values, 1.0, least=True)
        for trains, mode in ((False, "inference"), (True, "forward+backward")):
            values = [
                (row.difference.median / 1e3, row.where) for row in rows if (row.shape, row.trains) == (TINY, trains)
            ]
            found += judge(f"{mode}, {way}, the call alone, over stock", values, CALL[trains], least=False, unit=" us")
    return found


def _stream(results: Results) -> list[Verdict]:
    values = [(row.segext.median, row.op) for row in results.stream]
    return judge("a stream of sizes, the first call of a size to the second", values, NEW_SIZE, least=False)


def _memory(results: Results) -> list[Verdict]:
    found = []
    for row in results.switches:
        if row.network == SWITCHES[0]:
            met = (row.int64, row.packed) == SWITCHES[1:]
            target, measured = f"{SWITCHES[1]:,} B -> {SWITCHES[2]:,} B", f"{row.int64:,} B -> {row.packed:,} B"
            found.append(Verdict(f"switches of {row.network}", target, measured, "", int(met), 1))
    if results.switches:
        met_by, count = sum(row.exact for row in results.switches), len(results.switches)
        what, target = "switches a sample", "ceil(C*H*W*b/8) B"
        found.append(Verdict(what, target, "exactly" if met_by == count else "more", "", met_by, count))
    for row in results.saved:
        if not row.compiled:
            met = row.relu_pool == row.switches_and_output
            what = f"kept by conv+ReLUMaxPool2d, {row.stack}"
            target = f"switches and output: {row.switches_and_output:,} B"
            found.append(Verdict(what, target, f"{row.relu_pool:,} B", "", int(met), 1))
    return found
