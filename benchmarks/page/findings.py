"""What a run found, in words: every figure in them is computed from the results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from .. import footprint, upsampling
from ..footprint import RECOMPUTING, SEGEXT, STOCK
from ..results import Results
from ..tables import percent, times

FCN, DECONVNET = "FCN-8s", "DeconvNet"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Gain:
    """A figure to remember, and what it is of."""

    figure: str
    title: str
    text: str


def gains(results: Results) -> list[Gain]:
    """What a user gains, according to what was run."""
    found = []
    if results.switches:
        row = results.switches[0]
        found.append(
            Gain(
                f"{row.int64 / row.packed:.0f}{TIMES} smaller",
                "switches",
                f"The positions of the maxima take {nbytes(row.packed)} rather than {nbytes(row.int64)} "
                f"for one image through {row.network}.",
            )
        )
    if by_layers := _largest(results.footprint, DECONVNET):
        stock, own, least = (by_layers[name] for name in (STOCK, SEGEXT, RECOMPUTING))
        found.append(
            Gain(
                f"{percent(1 - least.kept / stock.kept)} less",
                "kept for the backward pass",
                f"For {DECONVNET} at {own.size}, batch {own.batch}, autograd keeps {nbytes(least.kept)} rather than "
                f"{nbytes(stock.kept)} if normalised maps are computed again, and {nbytes(own.kept)} if not.",
            )
        )
    if rows := results.key_rows:
        to_best = [row.to_best.median for row in rows]
        first = rows[0]
        found.append(
            Gain(
                f"{plain(median(to_best))} as fast",
                "pooling and unpooling",
                f"as the best stock variant: the median of {len(rows)} comparisons on "
                f"({first.batch}, {first.channels}, {first.height}, {first.width}), which range from "
                f"{plain(min(to_best))} to {plain(max(to_best))}.",
            )
        )
    labelled = [row for row in results.upsampling if row.op == upsampling.ARGMAX and row.dtype == "float32"]
    if labelled:
        row = min(labelled, key=lambda row: row.to_best.median)
        found.append(
            Gain(
                f"{plain(row.to_best.median)} as fast",
                "labels from coarse scores",
                f"as the best stock variant, with {plain(row.less_memory)} less peak memory: the scores of 21 classes "
                "at full size are never stored.",
            )
        )
    return found


def costs(results: Results) -> list[str]:
    """What it costs, in sentences."""
    found = []
    compared = comparisons(results)
    lost = [row for row in compared if row.to_best < 1]
    if compared:
        text = f"The best stock variant wins {len(lost)} of {len(compared)} comparisons"
        if lost:
            worst = min(lost, key=lambda row: row.to_best)
            text += (
                f", at worst by {plain(1 / worst.to_best)}: {worst.op}, {worst.where}. "
                'All are listed under "Where stock wins"'
            )
        found.append(text + ".")
    tiny = [row for row in results.calls if not row.compiled and row.shape == results.calls[-1].shape]
    for trains, name in ((False, "a call without gradients"), (True, "forward and backward")):
        differences = [row.difference.median / 1e3 for row in tiny if row.trains == trains]
        if differences:
            found.append(
                f"On a map of {shape(tiny[0].shape)}, where call overhead dominates, {name} takes "
                f"{min(differences):+.0f} to {max(differences):+.0f} µs compared with stock."
            )
    recomputed = _largest(results.footprint, DECONVNET)
    if recomputed:
        found.append(
            "Recomputing normalised maps costs a second batch norm and ReLU in the backward pass. "
            '"python -m benchmarks models" times it.'
        )
    return found


@dataclass(frozen=True)
class Comparison:
    """One figure against the best stock variant."""

    op: str
    where: str
    to_best: float
    best: str


def comparisons(results: Results) -> list[Comparison]:
    """Every comparison with stock, from all parts."""
    rows = [*results.throughput, *results.upsampling, *results.decoding]
    found = [Comparison(row.op, row.where, row.to_best.median, row.best) for row in rows]
    found += [
        Comparison(row.measured.op, f"{row.axis} {row.value}, {row.measured.format}", m.to_best.median, m.best)
        for row in results.scaling
        for m in (row.measured,)
    ]
    for row in results.calls:
        op, _, where = row.where.partition(" ")
        found.append(Comparison(f"a call of {op}", where, row.ratio.median, "stock"))
    return found


def verdict(results: Results) -> tuple[str, str]:
    """Whether DeconvNet still costs much more memory than FCN, in a sentence; and the figures behind it."""
    pairs = [
        (fcn, deconvnet)
        for fcn in results.footprint
        for deconvnet in results.footprint
        if (fcn.network, deconvnet.network, fcn.layers, deconvnet.layers) == (FCN, DECONVNET, STOCK, STOCK)
        and (fcn.size, fcn.batch) == (deconvnet.size, deconvnet.batch)
    ]
    # For each size, the largest batch.
    by_size = {fcn.size: (fcn, deconvnet) for fcn, deconvnet in sorted(pairs, key=lambda pair: pair[0].batch)}
    fcn, deconvnet = pairs[0]
    weights = deconvnet.parameters / fcn.parameters
    stock = " and ".join(f"{plain(other.kept / fcn.kept)} as much at {size}" for size, (fcn, other) in by_size.items())
    own = " and ".join(
        plain(_row(results.footprint, RECOMPUTING, other).kept / _row(results.footprint, SEGEXT, fcn).kept)
        for fcn, other in by_size.values()
    )
    each = "; ".join(
        f"at {size} {nbytes(other.kept / other.batch)} against {nbytes(fcn.kept / fcn.batch)}"
        for size, (fcn, other) in by_size.items()
    )
    fcn, deconvnet = list(by_size.values())[-1]
    packed = _row(results.footprint, SEGEXT, deconvnet)
    shares = [percent(row.switches / row.step) for row in (deconvnet, packed)]
    return (
        f"{'Yes' if weights > 1.25 else 'No'}, by its weights, which take {plain(weights)} as much as {FCN}'s; what "
        f"autograd keeps for an image takes {stock} with both on stock layers, and {own} with both on segext's, "
        f"{DECONVNET} recomputing.",
        f"Weights, each with its gradient and momentum: {nbytes(deconvnet.parameters)} against "
        f"{nbytes(fcn.parameters)}. Kept for an image, on stock layers: {each}. {FCN} pads every image by 100 pixels "
        f"on each side, which tells on small ones; FCN-32s and FCN-16s hold much the same. All switches are "
        f"{shares[0]} of {DECONVNET}'s training step as int64 on stock layers, at {deconvnet.size} and batch "
        f"{deconvnet.batch}, and {shares[1]} as segext's 2 bits.",
    )


def _row(rows: Iterable[footprint.Row], layers: str, like: footprint.Row) -> footprint.Row:
    """The row that is as ``like``, but on other layers."""
    asked = (like.network, layers, like.size, like.batch)
    return next(row for row in rows if (row.network, row.layers, row.size, row.batch) == asked)


def _largest(rows: Sequence[footprint.Row], network: str) -> dict[str, footprint.Row]:
    """By layers, the rows of a network's largest batch of the smallest images."""
    rows = [row for row in rows if row.network == network]
    if not rows:
        return {}
    size = min(row.height * row.width for row in rows)
    rows = [row for row in rows if row.height * row.width == size]
    batch = max(row.batch for row in rows)
    return {row.layers: row for row in rows if row.batch == batch}


def shape(shape: Sequence[int]) -> str:
    return TIMES.join(map(str, shape))


def plain(value: float) -> str:
    """A factor, with the sign that people write."""
    return times(value).replace("x", TIMES)


def nbytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 99.5 * size else f"{value / size:.0f} {unit}"
    return f"{value:.0f} B"
