"""The command line: ``python -m benchmarks [report | ops | switches]``. Runs, prints the tables, writes the report.

The other commands are runs of their own, with options of their own: see ``COMMANDS``.
"""

from __future__ import annotations

import argparse
import importlib
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from . import (
    calls,
    command,
    contest,
    decoding,
    footprint,
    inputs,
    limits,
    memory,
    page,
    scaling,
    stream,
    tables,
    targets,
    throughput,
    upsampling,
)
from .progress import Progress
from .results import Results, environment

PARTS = {
    "report": "everything (the default)",
    "ops": "speed of every op on the pools of networks, of upsampling and decoding, and what a call costs",
    "switches": "bytes of switches, bytes that autograd keeps, and all that networks hold",
}
# Each is a module with a main. It is imported only when its command is run: some need packages that others do not.
COMMANDS = {
    "models": (
        ".models.__main__",
        "the networks of segext.models (needs segext[train]): trained, scored, timed, weighed",
    ),
    "model": (".model.__main__", "a network of yours, as it is and converted: model path.py:build --input 1x3x512x512"),
    "peers": (".peers", "ONNX Runtime beside segext and stock, on the ops that it has"),
    "html": (".page.__main__", "the page of a folder's results.json, drawn again: nothing is measured"),
    "compare": (".compare.__main__", "two result files: what got faster or slower, bigger or smaller"),
}
FINISH = 8.0  # seconds kept for tables and figures


def _listed(commands: dict[str, str]) -> str:
    return "\n".join(f"  {name:10}{text}" for name, text in commands.items())


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        usage="%(prog)s [COMMAND] [options]",
        description=f"commands with the options below:\n{_listed(PARTS)}",
        epilog="commands with options of their own, which COMMAND --help lists:\n"
        + _listed({name: text for name, (_, text) in COMMANDS.items()})
        + "\n\nexit status: 0; 1 where a result is wrong (of compare: got worse); 2 where nothing could be run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", nargs="?", choices=PARTS, default="report", help=argparse.SUPPRESS)
    parser.add_argument("--images", type=Path, metavar="DIR", help="photographs to run on, rather than matplotlib's")
    parser.add_argument("--output", type=Path, default=Path("benchmark-report"), metavar="DIR", help="%(default)s")
    parser.add_argument("--seconds", type=float, default=170.0, help="about how long to take (%(default).0f)")
    parser.add_argument("--threads", type=int, help="threads of torch and segext (torch's choice)")
    parser.add_argument("--quick", action="store_true", help="batch 1 and few networks; nothing is compiled")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    return parser.parse_args(argv)


def given(options: argparse.Namespace) -> str:
    """The options that change what is measured, as they were given: a figure names the command that made it."""
    words, default = [], arguments([])
    for name in ("images", "seconds", "threads", "quick", "no_compile"):
        value = getattr(options, name)
        if value != getattr(default, name):
            words.append(f"--{name.replace('_', '-')}")
            if value is not True:
                words.append(f"{value:g}" if name == "seconds" else str(value))
    return shlex.join(words)


def run(options: argparse.Namespace, progress: Progress) -> Results:
    if options.threads:
        torch.set_num_threads(options.threads)
    images = inputs.load(options.images)
    named = f"{len(images)} images of {options.images}" if options.images else "matplotlib's grace_hopper.jpg"
    results = Results({**environment(named), "options": given(options)})
    compile = not (options.no_compile or options.quick)

    def left() -> float:
        """Seconds until it is time to finish."""
        return max(options.seconds - progress.elapsed - FINISH, 0.0)

    if options.part in ("report", "switches"):
        results.switches += memory.switch_rows(progress, quick=options.quick)
        results.saved += memory.saved_rows(progress, compile=compile, notes=results.notes)
        results.footprint += footprint.run(progress, quick=options.quick)
    if options.part in ("report", "ops"):
        some = left()
        results.limits += limits.run(some / 50, progress)
        results.calls += calls.run(some / 6, progress, compile=compile, notes=results.notes)
        results.stream += stream.run(progress, quick=options.quick)
        results.upsampling += contest.run(upsampling.cases(quick=options.quick), left() / 9, progress)
        results.decoding += contest.run(decoding.cases(quick=options.quick), left() / 7, progress)
        results.scaling += scaling.run(scaling.cases(quick=options.quick), left() / 9, progress)
        more = {"compile": compile, "notes": results.notes}
        if options.quick:
            more["late"] = math.inf
        results.throughput += throughput.run(throughput.plan(options.quick), images, left(), progress, **more)
    return results


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        module, _ = COMMANDS[argv[0]]
        return importlib.import_module(module, __package__).main(argv[1:])
    options = arguments(argv)
    return command.run(lambda progress: reported(options, progress))


def reported(options: argparse.Namespace, progress: Progress) -> tuple[str, str]:
    """Runs, and writes the report; the text of it, and its files."""
    results = run(options, progress)
    progress.step("drawing")
    verdicts = targets.verdicts(results)
    options.output.mkdir(parents=True, exist_ok=True)
    results.write(options.output / "results.json", verdicts)
    text = tables.render(results, verdicts)
    (options.output / "report.txt").write_text(text)
    pictures = page.write(results, verdicts, options.output)
    names = ("report.html", *pictures, "report.txt", "results.json")
    return text, ", ".join(str(options.output / name) for name in names)


if __name__ == "__main__":
    sys.exit(main())
