"""What segext is meant to reach on a GPU, and whether a run reached it: aims, as in ``benchmarks/targets.py``."""

from __future__ import annotations

from collections.abc import Sequence

from .. import contest, decoding, throughput, upsampling
from ..targets import Verdict, judge

# Percent of the bandwidth of a device copy of the same bytes, on maps much larger than the L2.
COPY_PERCENT = 85.0
# Speedup over eager stock in the same format. None: any.
STOCK = (
    ("pool", "float32", None, 1.3),
    ("pool", "bfloat16", None, 1.7),
    ("unpool", None, "NCHW", 2.0),
    ("unpool", None, "channels_last", 4.0),
    ("pool backward", None, None, 2.0),
)
# The same for upsampling. Its label map and loss move too few bytes for this measure and are compared with the best
# stock variant instead.
UPSAMPLING_PERCENT = 80.0
UPSAMPLED = (*upsampling.UPSAMPLING.values(), upsampling.ADD)
FUSED = (upsampling.ARGMAX, upsampling.LOSS[8])
TO_BEST = 5.0
# Speedup of fused unpooling and convolution at batch 16 over the best stock variant, by type and channels. From 256
# channels on, half types are unpooled into a map.
DECODED = (
    (decoding.UNPOOLING, "bfloat16", (64,), 1.4),
    (decoding.UNPOOLING, "bfloat16", (128,), 1.1),
    (decoding.UNPOOLING, "bfloat16", (256, 512), 1.0),
    (decoding.STRICT, "float32", (64, 128, 256, 512), 1.5),
)


def verdicts(
    rows: Sequence[throughput.Row], upsampled: Sequence[contest.Row] = (), decoded: Sequence[contest.Row] = ()
) -> list[Verdict]:
    """Verdicts for the maps well over the L2; the worst row counts."""
    rows = [row for row in rows if row.suite == "key"]
    found = []
    for op in dict.fromkeys(row.op for row in rows):
        values = [(copy_percent(row), row.where) for row in rows if row.op == op]
        found += judge(f"{op}, of the copy bandwidth", values, COPY_PERCENT, least=True, unit=" %")
    for op, dtype, format, bound in STOCK:
        values = [
            (row.to_stock.median, row.where)
            for row in rows
            if row.op == op and dtype in (None, row.dtype) and format in (None, row.format)
        ]
        found += judge(" ".join(filter(None, (op, dtype, format))) + ", vs stock", values, bound, least=True)
    for op in UPSAMPLED:
        values = [(copy_percent(row), row.where) for row in upsampled if row.op == op]
        found += judge(f"{op}, of the copy bandwidth", values, UPSAMPLING_PERCENT, least=True, unit=" %")
    for op in FUSED:
        values = [(row.to_best.median, row.where) for row in upsampled if row.op == op]
        found += judge(f"{op}, vs best stock", values, TO_BEST, least=True)
    for op, dtype, channels, bound in DECODED:
        maps = tuple(f"{count}@" for count in channels)
        values = [
            (row.to_best.median, row.where)
            for row in decoded
            if row.op == op and row.dtype == dtype and row.map.startswith(maps)
        ]
        named = ", ".join(map(str, channels))
        found += judge(f"{op}, {dtype}, {named} channels, vs best stock", values, bound, least=True)
    return found


def copy_percent(row: throughput.Row | contest.Row) -> float:
    return 100 / row.to_copy.median


def gigabytes_per_second(row: throughput.Row | contest.Row) -> float:
    """Of the bytes that must move at least."""
    return row.bytes_moved / row.times[f"segext {row.format}"].median
