"""The command line: ``python -m benchmarks compare A B``. Prints what moved between two runs, beyond noise."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import Unusable
from ..tables import table, times
from .judging import BAD, VERDICTS, Change, Comparison, compare, differences, same_machine
from .reading import Kind, find, read

SHARE = 0.2  # how far ratios of one commit have moved between runs on a shared machine
SHOWN = 10  # most names shown of rows that only one run has


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks compare",
        description="What got faster or slower, bigger or smaller from A to B beyond noise.",
        epilog="Exit status: 0; 1 where something got slower or bigger; 2 where the two cannot be compared.",
    )
    for name in "AB":
        parser.add_argument(name, help="a result file, its folder, or the name of one in benchmarks/results")
    parser.add_argument(
        "--share",
        type=float,
        default=SHARE,
        help="a move of less is noise, as are quartiles that overlap (%(default)s)",
    )
    return parser.parse_args(argv)


def render(names: tuple[Path, Path], environments: tuple[dict, dict], found: Comparison, share: float) -> str:
    lines = [
        f"{letter}: {name} ({environment.get('date', 'no date')}, commit {environment.get('commit') or 'unknown'})"
        for letter, name, environment in zip("AB", names, environments, strict=True)
    ]
    for name, (a, b) in differences(*environments).items():
        lines.append(f"DIFFERENT {name}: {a if a is not None else '-'} / {b if b is not None else '-'}")
    if not same_machine(*environments):
        lines.append(
            "Not the same machine and threads: times are not compared, only ratios vs stock, copies and bytes."
        )
    elif found.stock_moved is not None:
        lines.append(f"Stock itself takes {times(found.stock_moved)} A's time in B, the median of its calls.")
    parts = ["\n".join(lines)]
    counts = [f"{sum(c.verdict == verdict for c in found.changes)} {verdict}" for verdict in VERDICTS]
    title = f"{', '.join(counts)}; {found.unmoved} figures within noise"
    rows = [
        [c.verdict, c.what, c.measure, _shown(c, c.before), _shown(c, c.after), times(c.gain), ""]
        for c in found.changes
    ]
    note = (
        f"Beyond noise: quartiles do not overlap, and the median moved by more than {share:g}. Bytes: any difference."
    )
    if rows:
        parts.append(table(title, ["", "what", "measure", "A", "B", "better by", ""], rows, note, left=3))
    else:
        parts.append(f"{title}\n  {note}")
    for letter, only in zip("AB", found.only, strict=True):
        if only:
            more = [f"  and {len(only) - SHOWN} more"] if len(only) > SHOWN else []
            parts.append("\n".join([f"Only in {letter}", *(f"  {name}" for name in only[:SHOWN]), *more]))
    return "\n\n".join(parts) + "\n"


def _shown(change: Change, value: float) -> str:
    if change.kind in (Kind.RATIO, Kind.COST):
        return times(value)
    return f"{value / 1e6:,.3f} ms" if change.kind is Kind.TIME else f"{value:,.0f} B"


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    try:
        paths = find(options.A), find(options.B)
        (first, a), (second, b) = map(read, paths)
        if not a.keys() & b.keys():
            raise Unusable(f"{paths[0]} and {paths[1]} have no figure in common: results of different commands?")
    except Unusable as error:
        print(error, file=sys.stderr)
        return 2
    found = compare(a, b, options.share, times=same_machine(first, second))
    print(render(paths, (first, second), found, options.share))
    return int(any(change.verdict in BAD for change in found.changes))


if __name__ == "__main__":
    sys.exit(main())
