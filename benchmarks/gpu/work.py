"""The process of one part: does the part's work and writes its outcome. Started by the driver."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from . import parts

MODULES = {
    "build": "building",
    "test": "testing",
    "sanitize": "sanitizing",
    "bench": "timing",
    "profile": "profiling",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.work", description=__doc__)
    parser.add_argument("part", choices=MODULES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args(argv)
    parts.end_with_children()
    job = parts.Job(options.out, options.seconds, options.device, options.rehearse)
    outcome = importlib.import_module(f".{MODULES[options.part]}", __package__).run(job)
    outcome.write(job.out / f"{options.part}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
