"""The example of deployment in C++: exported, built and run as it says, it gives the labels that Python gives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "deploy_cpp"
OPS = ROOT / "segext" / "_ops.so"


def run(*command, environment=None):
    """Runs a command; what it printed is the message if it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    run("make", "-C", EXAMPLE, f"PYTHON={sys.executable}", f"OUT={folder}")
    return folder / "segment"


@pytest.mark.slow
def test_labels_are_those_of_python(program, tmp_path):
    with_segext = {**os.environ, "PYTHONPATH": str(ROOT)}
    run(sys.executable, EXAMPLE / "export.py", tmp_path, "--width", 1 / 16, environment=with_segext)
    files = [tmp_path / name for name in ("deconvnet.pt2", "image.pt", "labels.pt")]
    said = run(program, OPS, *files, environment={})

    labels, expected = torch.load(tmp_path / "labels.pt"), torch.load(tmp_path / "expected.pt")
    assert (labels.dtype, labels.shape) == (torch.uint8, (1, 224, 224))
    assert len(expected.unique()) > 2
    assert (labels != expected).float().mean() < 1e-3  # where two scores are the same but for rounding
    assert len(said.splitlines()) == len(labels.unique())


@pytest.mark.slow
def test_it_needs_no_python(program):
    libraries = [line.split()[0] for path in (program, OPS) for line in run("ldd", path).splitlines()]
    assert not [name for name in libraries if "python" in name]
    assert "libtorch_cpu.so" in libraries


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "usage"),
        (("nothing.so", "a.pt2", "b.pt", "c.pt"), 1, "nothing.so"),
        ((OPS, "nothing.pt2", "b.pt", "c.pt"), 1, "open failed"),
    ],
)
def test_what_it_cannot_use_it_says_in_a_line(program, arguments, status, message):
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == status
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
