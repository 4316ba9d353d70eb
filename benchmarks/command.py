"""How a command of the benchmarks ends: with its report and status 0, or with one sentence and another status."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from .errors import Unusable
from .harness import CheckFailed
from .progress import Progress


def run(command: Callable[[Progress], tuple[str, str]], unusable: type[Exception] = Unusable) -> int:
    """Runs ``command`` and prints what it returns: the report, and where it lies.

    Returns:
        The exit status: 0; 1 for a result that is wrong; 2 for ``unusable``, what was given cannot be used.
    """
    progress = Progress()
    try:
        text, where = command(progress)
    except CheckFailed as error:
        progress.close()
        print(f"Wrong result, nothing more was run: {error}", file=sys.stderr)
        return 1
    except unusable as error:
        progress.close()
        print(error, file=sys.stderr)
        return 2
    progress.close()
    print(text)
    print(f"{where} ({time.monotonic() - progress.start:.0f} s)")
    return 0
