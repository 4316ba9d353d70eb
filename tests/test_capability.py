"""The kernels of every instruction set agree with the reference: the agreement tests rerun at each lower level."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import segext._C
from levels import LEVELS, LOWER, run

TESTS = Path(__file__).resolve().parent
AGREEMENT = (
    "test_max_pool2d.py",
    "test_relu_max_pool2d.py",
    "test_max_unpool2d.py",
    "test_properties.py",
    "test_conv_transpose2d.py",
    "test_conv_transpose2d_fusions.py",
    "test_dense_conv_transpose2d.py",
    "test_unpool_conv2d.py",
    "test_switches.py::test_repacking_of_any_shape",
    *(
        f"test_conv_transpose2d_cross_entropy.py::{test}"
        for test in (
            "test_is_the_composition",
            "test_widths_around_a_vector",
            "test_infinities_and_nan",
            "test_accuracy",
        )
    ),
)


def test_level_in_use():
    assert segext._C.cpu_capability() in LEVELS


@pytest.fixture(scope="module")
def agreement():
    """Runs of the tests at each lower level, both at once: each takes one core, and minutes."""
    paths = [str(TESTS / name) for name in AGREEMENT]
    kernels_alone = "not compile and not export and not prepacked_layers"
    command = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", kernels_alone, *paths)
    here = LEVELS.index(segext._C.cpu_capability())
    with ThreadPoolExecutor() as pool:
        yield {level: pool.submit(run, *command, level=level) for level in LOWER if LEVELS.index(level) <= here}


@pytest.mark.slow
@pytest.mark.parametrize("level", LOWER)
def test_level(level, agreement):
    if level not in agreement:
        pytest.skip(f"this processor has no {level}")
    script = "import segext, segext._C; print(segext._C.cpu_capability())"
    assert run("-c", script, level=level).stdout.strip() == level
    done = agreement[level].result()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


USES = {
    "question": "import segext, segext._C; print(segext._C.cpu_capability())",
    "op": "import torch, segext.functional as F; print(F.max_pool2d(torch.ones(1, 1, 4, 4), 2).shape)",
    "op on threads": "import torch, segext.functional as F; F.max_pool2d(torch.ones(8, 64, 64, 64), 2)",
}


@pytest.mark.parametrize("use", USES)
def test_a_level_that_does_not_exist_is_refused(use):
    """Whoever measures a level must not measure another."""
    done = run("-c", USES[use], level="abacus")
    assert done.returncode == 1
    error = "RuntimeError: SEGEXT_CPU_CAPABILITY should be baseline, avx2 or avx512, but is abacus"
    assert done.stderr.splitlines()[-1] == error


@pytest.mark.parametrize("level", ["", "BASELINE", "Avx2", "AVX512"])
def test_a_level_in_capitals(level):
    done = run("-c", USES["question"], level=level)
    here = LEVELS.index(segext._C.cpu_capability())
    assert done.stdout.strip() == LEVELS[min(here, LEVELS.index(level.lower()) if level else here)]
