"""Compiles programs that test kernels on the CPU: the CUDA ones, by tests/cuda_emulation, and the CPU ones."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EMULATION = ROOT / "tests" / "cuda_emulation"
KERNEL_CASES = ROOT / "tests" / "kernel_cases"
KERNELS = ROOT / "csrc" / "kernels"
LAUNCHERS = sorted(
    path.with_suffix(".cu") for path in (KERNELS / "cuda").glob("*.cuh") if path.with_suffix(".cu").exists()
)
CASES = sorted(KERNEL_CASES.glob("*.cpp"))
CXX = os.environ.get("CXX", "g++")
FLAGS = [
    "-std=c++17",
    "-O1",
    "-g1",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-DSEGEXT_CUDA_EMULATION",
    f"-I{EMULATION}",
    f"-I{KERNEL_CASES}",
    f"-I{KERNELS}",
]

needs_compiler = pytest.mark.skipif(shutil.which(CXX) is None, reason=f"needs a C++ compiler, and there is no {CXX}")


def run(command, **options):
    return subprocess.run(command, capture_output=True, text=True, errors="replace", **options)


def compile_object(source, target, flags):
    result = run([CXX, *FLAGS, *flags, "-x", "c++", "-c", str(source), "-o", str(target)])
    assert result.returncode == 0, f"{source.name} does not compile:\n{result.stderr}"
    return target


def build(folder, name, sources, flags, core=("cuda_emulation.cpp",), core_flags=(), link_flags=()):
    """A program of ``sources``, compiled with ``flags``, and files of the emulation, compiled with ``core_flags``."""
    jobs = [(source, folder / f"{source.parent.name}_{source.stem}.o", flags) for source in sources]
    jobs += [(EMULATION / file, folder / Path(file).with_suffix(".o"), core_flags) for file in core]
    with ThreadPoolExecutor(max_workers=2) as pool:
        objects = list(pool.map(lambda job: compile_object(*job), jobs))
    program = folder / name
    # -rdynamic: the program names the kernels it ran.
    result = run([CXX, *link_flags, "-rdynamic", *map(str, objects), "-ldl", "-o", str(program)])
    assert result.returncode == 0, result.stderr
    return program
