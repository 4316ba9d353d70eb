"""The levels of instructions that CPU kernels are compiled for, and processes that run at one of them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOWER = ("baseline", "avx2")
LEVELS = (*LOWER, "avx512")


def run(*command, level):
    # One thread: of two processes with two each, on two cores, threads wait for each other most of the time. Tests that
    # ask for more have them, and these sleep meanwhile.
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    environment = {**os.environ, "SEGEXT_CPU_CAPABILITY": level, **threads}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=ROOT)
