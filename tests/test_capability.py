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


def test_a_level_that_does_not_exist_is_refused_or_ignored():
    """It must not crash, and the level in use stays one that exists."""
    done = run("-c", "import segext, segext._C; print(segext._C.cpu_capability())", level="abacus")
    assert done.stdout.strip() in LEVELS or "abacus" in done.stderr
