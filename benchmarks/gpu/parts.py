"""The parts of a run: their time, what they need, what they leave behind, and how one is run under a limit."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]
FORMAT = 1  # of a part's JSON file
STATUSES = ("passed", "failed", "not run")
# Seconds between a part's deadline and the moment when it is stopped, so that it can still save its results.
GRACE = 8.0
# Seconds that a process may take to end when asked to. One that has started others needs them for those as well.
PATIENCE = 2.0
GLANCE = 0.5  # seconds after which a thread that waits for a command looks up


@dataclass(frozen=True)
class Part:
    """A part, its share of the time in seconds, and the Python packages without which it cannot run."""

    name: str
    seconds: float
    packages: tuple[str, ...] = ()


BUILD = Part("build", 95, ("ninja", "numpy", "pybind11", "setuptools>=77", "torch"))
PARTS = (
    Part("test", 115, ("expecttest", "hypothesis", "numpy", "pytest")),
    Part("sanitize", 110),
    Part("bench", 160),
    Part("profile", 40),
)
BY_NAME = {part.name: part for part in (BUILD, *PARTS)}


def missing(part: Part) -> list[str]:
    """The packages that ``part`` needs and this interpreter lacks, or has in too old a version."""
    lacking = []
    for requirement in part.packages:
        name, _, least = requirement.partition(">=")
        if importlib.util.find_spec(name) is None or (least and _major(name) < int(least)):
            lacking.append(requirement)
    return lacking


def _major(package: str) -> int:
    """The first number of a package's version; 0 where it does not say."""
    try:
        return int(re.match(r"\d*", importlib.metadata.version(package))[0] or 0)
    except importlib.metadata.PackageNotFoundError:
        return 0


@dataclass(frozen=True)
class Job:
    """What a part's process is told: where to write, for how long to work, on which device, and whether in earnest."""

    out: Path
    seconds: float
    device: str = "cuda"
    rehearsal: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a part: one of STATUSES, a line for the table, and everything else it found."""

    status: str
    summary: str
    details: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status should be one of {STATUSES}, but got {self.status!r}")

    def write(self, path: Path, **more: Any) -> None:
        """Writes all at once: a reader, or a part that is ended while it writes, never leaves half a file."""
        content = {
            "format": FORMAT,
            **more,
            "status": self.status,
            "summary": self.summary,
            "details": dict(self.details),
        }
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(content, indent=1) + "\n")
        draft.replace(path)

    @classmethod
    def read(cls, path: Path) -> Outcome | None:
        """What a part wrote, or None where there is nothing that can be read."""
        try:
            content = json.loads(path.read_text())
            return cls(content["status"], content["summary"], content["details"])
        except (OSError, ValueError, KeyError):
            return None


def not_run(why: str) -> Outcome:
    return Outcome("not run", why, {})


def command(part: str, job: Job) -> list[str]:
    """How a part is started."""
    options = ["--out", str(job.out), "--seconds", f"{job.seconds:.0f}", "--device", job.device]
    return [sys.executable, "-m", "benchmarks.gpu.work", part, *options, *["--rehearse"] * job.rehearsal]


def run(part: str, job: Job) -> Outcome:
    """Runs a part under its limit. Its output goes to ``<part>.txt``; without its word, the reason for that counts."""
    result = job.out / f"{part}.json"
    result.unlink(missing_ok=True)
    with open(job.out / f"{part}.txt", "w") as log:
        code = run_limited(command(part, job), job.seconds + GRACE, log, patience=3 * PATIENCE)
    found = Outcome.read(result)
    if code == 0:
        return found or Outcome("failed", "it left no result", {})
    why = f"ended after {job.seconds:.0f} s" if code is None else f"ended by {ended_by(code)}"
    if found is None:
        return Outcome("failed", why, {})
    return Outcome("failed", f"{why}, so far: {found.summary}", found.details)


_ending = threading.Event()  # for the threads that wait for a command: only the main one sees the exception


def end_with_children() -> None:
    """Lets SIGTERM end this process as an exception does, so that what it has started is ended too."""

    def end(number: int, _frame: object) -> None:
        _ending.set()
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)


def ended_by(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"status {code}"


def run_limited(
    command: list[str],
    seconds: float,
    log: TextIO | None,
    *,
    environment: Mapping[str, str] | None = None,
    patience: float = PATIENCE,
) -> int | None:
    """The exit status of a command, or None if it was ended, with all it had started, after ``seconds``.

    Its output goes to ``log``, or where this process's goes. It is asked to end, and after ``patience`` seconds ended.
    """
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
    process = subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + seconds
    try:
        while not _ending.is_set() and (left := end - time.monotonic()) > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(min(left, GLANCE))
        return None
    finally:
        _end(process, patience)


def _end(process: subprocess.Popen, patience: float) -> None:
    """Ends a process and whatever is left of its session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        end = time.monotonic() + patience
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
    process.poll()
