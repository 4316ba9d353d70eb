"""The part ``build``: the compiled parts, in place, with all cores, for the GPU that is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from . import machine
from .parts import ROOT, Job, Outcome, not_run, run_limited

CHECK = "import json; from segext import _library; print(json.dumps(_library.build_info()))"


def run(job: Job) -> Outcome:
    if job.rehearsal:
        return not_run("a rehearsal builds nothing")
    # One architecture by default: build time grows with the number of architectures, and a release has several.
    archs = os.environ.get("TORCH_CUDA_ARCH_LIST") or machine.facts(job.device)["architecture"]
    # Clears MAKEFLAGS: under make, it would name make's job server, which ninja does not know.
    environment = {"TORCH_CUDA_ARCH_LIST": archs, "SEGEXT_CUDA": "1", "MAKEFLAGS": ""}
    code = run_limited(
        [sys.executable, "setup.py", "build_ext", "--inplace"], job.seconds, None, environment=environment
    )
    if code != 0:
        return Outcome("failed", f"no build within {job.seconds:.0f} s" if code is None else "setup.py failed", {})
    answer = subprocess.run([sys.executable, "-c", CHECK], cwd=ROOT, capture_output=True, text=True)
    if answer.returncode:
        print(answer.stderr)
        return Outcome("failed", f"what was built does not load: {answer.stderr.strip().splitlines()[-1]}", {})
    info = json.loads(answer.stdout)
    if not info["cuda"]:
        return Outcome("failed", "what was built has no CUDA kernels", info)
    return Outcome("passed", f"CUDA {info['cuda']} for {archs}", info)
