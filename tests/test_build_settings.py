"""What setup.py makes of its environment: the nvcc, its architectures and its host compiler."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")


def script(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def toolkit(tmp_path):
    """The home of a toolkit that knows the given architectures, and compiles nothing."""

    def make(*archs):
        listed = "\n".join(f"compute_{arch.replace('.', '')}" for arch in archs)
        answers = f"--list-gpu-arch) echo '{listed}';; --version) echo 'release 12.6, V12.6.77';; *) exit 1;;"
        script(tmp_path / "toolkit" / "bin" / "nvcc", f'case "$1" in {answers} esac')
        return tmp_path / "toolkit"

    return make


@pytest.fixture
def build(tmp_path):
    """Starts a build whose compilers fail. Returns what it printed and the ninja file that it had written."""
    failing = script(tmp_path / "g++-12", "exit 1")

    def run(**environment):
        folder = tmp_path / "temp"
        command = [sys.executable, "setup.py", "build_ext", f"--build-temp={folder}", f"--build-lib={tmp_path / 'lib'}"]
        names = ("CUDA_HOME", "CUDA_PATH", "SEGEXT_CUDA", "TORCH_CUDA_ARCH_LIST", "NVCCFLAGS", "NVCC_CCBIN")
        inherited = {name: value for name, value in os.environ.items() if name not in names}
        environment = {**inherited, "CXX": str(failing), **{k: str(v) for k, v in environment.items()}}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
        assert done.returncode != 0
        ninja_file = folder / "build.ninja"
        return done.stdout + done.stderr, ninja_file.read_text() if ninja_file.exists() else None

    return run


def codes_of(ninja_file):
    """What the rule for CUDA compiles for."""
    return re.findall(r"-gencode=arch=compute_\w+,code=(\w+)", ninja_file)


def test_default_architectures_are_those_that_nvcc_knows(build, toolkit):
    """And PTX of the last, for later GPUs."""
    home = toolkit("7.5", "8.0", "8.6", "8.7", "8.9", "9.0")
    printed, ninja_file = build(CUDA_HOME=home)
    assert codes_of(ninja_file) == ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "compute_90"]
    assert f"{home}/bin/nvcc does not know 10.0 12.0: left out" in printed


def test_all_default_architectures(build, toolkit):
    printed, ninja_file = build(CUDA_HOME=toolkit(*OURS, "12.1"))
    assert codes_of(ninja_file) == [*(f"sm_{arch.replace('.', '')}" for arch in OURS), "compute_120"]
    assert "left out" not in printed


def test_named_architectures_are_left_as_they_are(build, toolkit):
    """Whether nvcc knows them is for nvcc to say."""
    _, ninja_file = build(CUDA_HOME=toolkit("7.5"), TORCH_CUDA_ARCH_LIST="9.0a;12.0+PTX")
    assert codes_of(ninja_file) == ["sm_90a", "sm_120", "compute_120"]


def test_an_nvcc_that_knows_none_of_the_architectures(build, toolkit):
    printed, ninja_file = build(CUDA_HOME=toolkit("3.5"))
    assert ninja_file is None
    assert "lists none of 7.5 8.0" in printed


@pytest.mark.parametrize("name", ["CUDA_HOME", "CUDA_PATH"])
def test_a_home_without_nvcc(name, build, toolkit, tmp_path):
    """It is not replaced by an nvcc from elsewhere."""
    path = f"{toolkit(*OURS)}/bin{os.pathsep}{os.environ['PATH']}"
    printed, ninja_file = build(**{name: tmp_path / "nowhere"}, PATH=path)
    assert ninja_file is None
    assert f"{name}={tmp_path}/nowhere, but there is no {tmp_path}/nowhere/bin/nvcc" in printed
    _, ninja_file = build(**{name: tmp_path / "nowhere"}, PATH=path, SEGEXT_CUDA=0)
    assert codes_of(ninja_file) == []


@pytest.mark.parametrize("launcher", ["", "ccache "])
def test_nvcc_compiles_and_links_with_the_compiler_that_is_named(launcher, build, toolkit, tmp_path):
    _, ninja_file = build(CUDA_HOME=toolkit(*OURS), CXX=f"{launcher}{tmp_path}/g++-12 -m64")
    rules = dict(re.findall(r"^rule (\w+)\n  command = (.*)$", ninja_file, re.MULTILINE))
    assert f" -ccbin={tmp_path}/g++-12 " in rules["cuda"]
    assert f" -ccbin={tmp_path}/g++-12 " in rules["link_library"]


def test_a_compiler_that_flags_of_nvcc_name(build, toolkit):
    """Nvcc refuses to be told twice."""
    _, ninja_file = build(CUDA_HOME=toolkit(*OURS), NVCCFLAGS="-ccbin clang++")
    assert re.findall(r"-ccbin\S*", ninja_file) == ["-ccbin"]
