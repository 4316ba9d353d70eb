"""The part ``sanitize``: compute-sanitizer's memcheck and racecheck over the covering cases.

Before a clean report counts, the tool must find the bugs of ``planted.cu`` with the same options: where the driver or
the runtime keeps it from looking, it says that all is well.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .parts import Job, Outcome, not_run, run_limited

# Each tool and its options. Racecheck runs fewer types: it takes twice as long, and races do not depend on the type.
TOOLS = {"memcheck": (), "racecheck": ("--common",)}
FOUND = 99  # the exit status for errors found
# Only segext's kernels: checking torch's would take most of the time. API errors are normal, as torch probes pointers.
OPTIONS = ["--error-exitcode", str(FOUND), "--report-api-errors", "no", "--kernel-name", "kernel_substring=segext"]
# Seconds reserved for torch to load under the tool; the cases get the rest.
LOADING = 20.0
PLANT = Path(__file__).with_name("planted.cu")


def find_tool(name: str) -> str | None:
    """On the path, or where CUDA is installed."""
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    places = [None, *(str(Path(home, "bin")) for home in homes if home)]
    return next((found for place in places if (found := shutil.which(name, path=place))), None)


def run(job: Job) -> Outcome:
    end = time.monotonic() + job.seconds
    sanitizer, nvcc = find_tool("compute-sanitizer"), find_tool("nvcc")
    if lacking := [name for name, path in (("compute-sanitizer", sanitizer), ("nvcc", nvcc)) if path is None]:
        return not_run(f"{' and '.join(lacking)} not found")
    with tempfile.TemporaryDirectory() as folder:
        plant = Path(folder, "planted")
        compiled = subprocess.run([nvcc, "-arch=native", str(PLANT), "-o", str(plant)], capture_output=True, text=True)
        if compiled.returncode:
            print(compiled.stdout, compiled.stderr)
            return not_run("the program with planted bugs does not compile")
        with ThreadPoolExecutor() as pool:
            checks = [pool.submit(check, sanitizer, tool, plant, job.device, end) for tool in TOOLS]
            outcomes = {tool: check.result() for tool, check in zip(TOOLS, checks, strict=True)}
    statuses = {outcome.status for outcome in outcomes.values()}
    status = next(status for status in ("failed", "not run", "passed") if status in statuses)
    summary = "; ".join(f"{tool} {outcome.summary}" for tool, outcome in outcomes.items())
    return Outcome(status, summary, {tool: {"status": o.status, **o.details} for tool, o in outcomes.items()})


def check(sanitizer: str, tool: str, plant: Path, device: str, end: float) -> Outcome:
    """One tool: first over the planted bug, then over the cases."""
    command = [sanitizer, "--tool", tool, *OPTIONS]
    code, text = _run([*command, str(plant), tool], end)
    if code != FOUND:
        return Outcome("not run", "does not find a planted bug here", {"output": text[-4000:]})
    left = f"{max(end - time.monotonic() - LOADING, 0.0):.0f}"
    watched = [sys.executable, "-m", "benchmarks.gpu.cases", "--device", device, "--seconds", left, *TOOLS[tool]]
    code, text = _run([*command, *watched], end)
    details = {"output": text[-4000:]}
    cases = re.search(r"^(\d+) of (\d+) cases, ", text, re.MULTILINE)
    if code == 0 and cases:
        return Outcome("passed" if cases[1] == cases[2] else "failed", f"clean over {cases[0][:-2]}", details)
    if code is None:
        return Outcome("failed", "was ended before its end", details)
    errors = re.search(r"(\d+ errors?|\d+ hazards?)", text.partition("SUMMARY:")[2])
    return Outcome("failed", errors[1] if errors and code == FOUND else f"ended with status {code}", details)


def _run(command: list[str], end: float) -> tuple[int | None, str]:
    # Without torch's caching allocator, each tensor is a separate allocation with the tool's guards around it.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    with tempfile.TemporaryFile("w+") as log:
        code = run_limited(command, max(end - time.monotonic(), 1.0), log, environment=environment)
        log.seek(0)
        text = log.read()
    print(f"$ {' '.join(command)}\n{text}exit status {code}\n", flush=True)
    return code, text
