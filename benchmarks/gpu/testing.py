"""The part ``test``: the tests that run on a GPU, of which none may be skipped for want of one."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from . import recording
from .parts import Job, Outcome, run_limited

# Each worker holds a CUDA context and computes expected results on the CPU.
MOST_WORKERS = 12
REHEARSED = ["tests/test_nn.py", "-m", "not cuda and not slow"]


def run(job: Job) -> Outcome:
    cores = len(os.sched_getaffinity(0))
    parallel = importlib.util.find_spec("xdist") is not None and not job.rehearsal
    workers = min(cores, MOST_WORKERS) if parallel else 1
    chosen = REHEARSED if job.rehearsal else ["-m", "cuda"]
    environment = {"OMP_NUM_THREADS": str(max(cores // workers, 1))}
    environment |= {} if job.rehearsal else {"SEGEXT_REQUIRE_CUDA": "1"}
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "record")
        record.touch()
        command = [sys.executable, "-m", "pytest", "-p", recording.__name__, "-p", "no:cacheprovider", "--tb=short"]
        # Distributes tests by group, so that tests that fill the device's memory do not run at the same time.
        command += [*chosen, *(["-n", str(workers), "--dist", "loadgroup"] if workers > 1 else [])]
        code = run_limited(command, job.seconds, None, environment={**environment, recording.VARIABLE: str(record)})
        return judge([json.loads(line) for line in record.read_text().splitlines()], code)


def judge(records: Sequence[dict], code: int | None) -> Outcome:
    """Passed only where pytest came to its end, found tests and none of them failed."""
    tests = [record for record in records if record["outcome"] != "finished"]
    counts = Counter(record["outcome"] for record in tests)
    bad = [record for record in tests if record["outcome"] in ("failed", "error")]
    details = {
        "counts": dict(counts),
        "bad": [{**record, "text": record["text"][-2000:]} for record in bad[:50]],
        "skipped": dict(Counter(record["text"] for record in tests if record["outcome"] == "skipped")),
        "slowest": [
            [record["test"], round(record["seconds"], 2)]
            for record in sorted(tests, key=lambda record: -record["seconds"])[:15]
        ],
    }
    summary = ", ".join(
        f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "error", "skipped") if counts[outcome]
    )
    if bad:
        summary += f"; first: {bad[0]['test']}"
    if code is None:
        summary = f"ended before its end: {summary or 'nothing'}"
    elif code and not bad:
        summary = f"pytest ended with status {code}: {summary or 'no test'}"
    return Outcome("passed" if code == 0 and counts["passed"] and not bad else "failed", summary, details)
