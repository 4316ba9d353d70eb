"""The command line: ``python -m benchmarks html [DIR]``. Draws the report of a ``results.json`` again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import page, targets
from ..errors import Unusable
from ..results import Results


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks html", description=__doc__.split("\n")[0])
    default = Path("benchmark-report")
    parser.add_argument("folder", nargs="?", type=Path, default=default, metavar="DIR", help="%(default)s")
    folder = parser.parse_args(argv).folder
    try:
        results = Results.read(folder / "results.json")
    except Unusable as error:
        print(error, file=sys.stderr)
        return 2
    pictures = page.write(results, targets.verdicts(results), folder)
    print(", ".join(str(folder / name) for name in ("report.html", *pictures)))
    return 0
