"""The driver behind ``make gpu``: builds, runs the parts one after the other, and prints the table of all last.

The table also holds the parts that an earlier run left in the same folder, so that a run can be done part by part.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from datetime import datetime, timezone
from pathlib import Path

from ..harness import Pace
from . import parts
from .parts import BUILD, PARTS, Job, Outcome, Part

ANSWER = 90.0  # seconds that torch may take to load and to find the device
TAIL = 25  # lines shown of the output of a part that failed


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("part", nargs="?", choices=["all", *(part.name for part in PARTS)], default="all")
    parser.add_argument("--out", type=Path, default=Path("gpu-report"), metavar="DIR", help="%(default)s")
    parser.add_argument("--seconds", type=float, help="for all of it (the sum of the parts' shares)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: only to rehearse")
    parser.add_argument("--rehearse", action="store_true", help="build nothing, and run everything at its smallest")
    options = parser.parse_args(argv)
    if options.device == "cpu" and not options.rehearse:
        parser.error("--device cpu is only there to --rehearse")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    start = time.monotonic()
    parts.end_with_children()
    if lacking := parts.missing(BUILD):
        print(f"make gpu: {sys.executable} lacks the Python package{'s' * (len(lacking) > 1)} {', '.join(lacking)}")
        return 2
    machine = ask_machine(options.device)
    if isinstance(machine, str):
        print(f"make gpu: {machine}")
        return 2
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    print(describe(machine), flush=True)

    chosen = [part for part in PARTS if options.part in ("all", part.name)]
    ran, fresh = run_all([BUILD, *chosen], options, machine)
    text = table(options.out, machine, fresh)
    (options.out / "summary.txt").write_text(text)
    print(f"\n{text}{options.out} ({time.monotonic() - start:.0f} s)")
    return int(any(outcome.status == "failed" for outcome in ran.values()))


def ask_machine(device: str) -> dict | str:
    """The machine's facts, or a line that says why there are none."""
    asked = [sys.executable, "-m", "benchmarks.gpu.machine", device]
    try:
        answer = subprocess.run(asked, cwd=parts.ROOT, capture_output=True, text=True, timeout=ANSWER)
    except subprocess.TimeoutExpired:
        return f"torch did not find the device within {ANSWER:.0f} s"
    if answer.returncode:
        return (answer.stderr.strip().splitlines() or ["torch ended without a word"])[-1]
    return json.loads(answer.stdout)


def run_all(chosen: Sequence[Part], options: argparse.Namespace, machine: dict) -> tuple[dict[Part, Outcome], set[str]]:
    """Runs the parts; what one does not need of its time is the others'. Nothing runs on a build that failed.

    Returns the outcomes, and the names of the parts whose results are of this run: a part that cannot run leaves those
    of an earlier one.
    """
    total = sum(part.seconds for part in chosen)
    pace = Pace(options.seconds or total, total)
    ran: dict[Part, Outcome] = {}
    fresh: set[str] = set()
    for part in chosen:
        began = time.monotonic()
        job = Job(options.out, max(pace.allot(part.seconds) - parts.GRACE, 1.0), options.device, options.rehearse)
        print(f"{part.name}: at most {job.seconds:.0f} s ...", flush=True)
        obstacle = ""
        if BUILD in ran and ran[BUILD].status == "failed":
            obstacle = "the build failed"
        elif lacking := parts.missing(part):
            obstacle = f"missing Python package: {', '.join(lacking)}"
        outcome = ran[part] = parts.not_run(obstacle) if obstacle else parts.run(part.name, job)
        seconds = round(time.monotonic() - began, 1)
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        result = options.out / f"{part.name}.json"
        if not obstacle or not result.exists():
            fresh.add(part.name)
            outcome.write(result, part=part.name, seconds=seconds, date=date, machine=machine)
        print(f"{part.name}: {outcome.status} in {seconds:.0f} s: {outcome.summary}", flush=True)
        if outcome.status == "failed":
            log = options.out / f"{part.name}.txt"
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            print("\n".join(f"  | {line[:200]}" for line in lines[-TAIL:]), flush=True)
    return ran, fresh


def describe(machine: dict) -> str:
    versions = [f"torch {machine['torch']}"]
    if machine.get("cuda"):
        versions += [f"CUDA {machine['cuda']}", f"driver {machine['driver']}"]
    return f"{machine['device']}, {', '.join(versions)}, commit {machine['commit'] or 'unknown'}"


def table(out: Path, machine: dict, fresh: Collection[str]) -> str:
    """What each part has to show and one line a part: of this run, or of the one before it in the same folder."""
    texts, rows = [], []
    for name in parts.BY_NAME:
        try:
            content = json.loads((out / f"{name}.json").read_text())
        except (OSError, ValueError):
            rows.append([name, "not run", "", "not asked for"])
            continue
        if "date" not in content:  # as the part wrote it, of whose driver nothing more came
            rows.append([name, content["status"], "", f"{content['summary']} (of a run that was ended)"])
            continue
        row = [name, content["status"], f"{content['seconds']:.0f} s", content["summary"]]
        if name not in fresh:
            row[-1] += f" (an earlier run, {content['date']}, commit {content['machine']['commit']})"
        rows.append(row)
        if "table" in content["details"] and name in fresh:
            texts.append(content["details"]["table"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*texts, describe(machine), "", *(f"  {line}" for line in lines)]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
