"""The CUDA kernels, run on the CPU by tests/cuda_emulation under sanitizers, and self-tests of that emulation."""

import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from emulation import CASES, EMULATION, KERNELS, LAUNCHERS, build, needs_compiler, run

MEMORY_FLAGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
MEMORY_SANITIZERS = {"flags": MEMORY_FLAGS, "core_flags": MEMORY_FLAGS, "link_flags": MEMORY_FLAGS}
# ThreadSanitizer must not instrument the emulation's core.
RACE_FLAGS = ["-fsanitize=thread"]
RACE_SANITIZER = {"flags": RACE_FLAGS, "core_flags": ["-DSEGEXT_EMULATION_TSAN"], "link_flags": RACE_FLAGS}
PROGRAM = [EMULATION / f"{name}.cpp" for name in ("cuda_backend", "kernel_choices", "kernels_test")]
KERNELS_TEST = [*LAUNCHERS, *CASES, *PROGRAM]
# The orders of threads, and which cases run in each: all, or every second one, from the first or from the second on.
ORDERS = {"ascending": (), "descending": ("2", "0"), "random": ("2", "1")}

# What the message says of each bug that planted_bugs.cpp plants.
BUGS = {
    "static-shared-overrun": "out of bounds",
    "dynamic-shared-overrun": "heap-buffer-overflow",
    "global-overrun": "heap-buffer-overflow",
    "misaligned-vector": "misaligned address",
    "divergent-barrier": "divergent barrier",
    "exit-before-barrier": "ended before the barrier",
    "lane-missing": "never arrives",
    "shuffle-outside-mask": "outside the mask",
    "misaligned-copy": "a misaligned address",
    "missing-wait": "nobody waits for asynchronous copies",
    "copy-elsewhere": "outside the dynamic shared memory",
    "matrix-elsewhere": "outside the dynamic shared memory",
    "too-much-shared-memory": "refused with error 1",
}
# Those that only ThreadSanitizer sees.
RACES = ["missing-barrier", "shuffle-as-fence", "vote-as-fence"]

pytestmark = needs_compiler


def run_sanitized(program, *arguments):
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "LD_PRELOAD": ""}
    result = run([str(program), *arguments], env=environment)
    if "unexpected memory mapping" in result.stderr:
        pytest.skip("ThreadSanitizer cannot run here: the kernel randomises addresses too widely")
    return result


@pytest.fixture(scope="module")
def kernels_test(tmp_path_factory):
    return build(tmp_path_factory.mktemp("kernels"), "kernels_test", KERNELS_TEST, **MEMORY_SANITIZERS)


@pytest.fixture(scope="module")
def planted_bugs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    return build(folder, "planted_bugs", [EMULATION / "planted_bugs.cpp"], **MEMORY_SANITIZERS)


@pytest.fixture(scope="module")
def planted_races(tmp_path_factory):
    folder = tmp_path_factory.mktemp("races")
    return build(folder, "planted_bugs", [EMULATION / "planted_bugs.cpp"], **RACE_SANITIZER)


def assert_every_kernel_ran_right(result):
    """Every kernel that the .cuh files define ran, and each computed what the model says."""
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    headers = (KERNELS / "cuda").glob("*.cuh")
    defined = {name for header in headers for name in re.findall(r"(\w+_kernel)\(", header.read_text())}
    assert len(defined) > 10
    not_run = {name for name in defined if f"segext::{name}" not in result.stdout}
    assert not not_run, f"no case ran {sorted(not_run)}"


@pytest.fixture(scope="module")
def kernel_runs(kernels_test):
    """One in each order, two at a time: each takes one core, and minutes."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {order: pool.submit(run_sanitized, kernels_test, order, *cases) for order, cases in ORDERS.items()}


@pytest.mark.parametrize("order", ORDERS)
def test_kernels_compute_what_the_model_says(kernel_runs, order):
    assert_every_kernel_ran_right(kernel_runs[order].result())


def test_every_instance_of_a_kernel_runs(kernels_test, kernel_runs):
    """Those for each type of elements, indices and labels that launchers can choose, in the run of all cases."""
    symbols = run(["nm", "-C", str(kernels_test)]).stdout
    compiled = set(re.findall(r" [TW] (?:void )?(segext::\w+_kernel(?:<.*?>)?)\(", symbols))
    launched = re.findall(r"^(segext::.*): \d+ launches$", kernel_runs["ascending"].result().stdout, re.MULTILINE)
    assert len(compiled) > 300
    assert not compiled - set(launched)


def test_conversions_of_half_types(tmp_path):
    program = build(tmp_path, "conversions_test", [EMULATION / "conversions_test.cpp"], **MEMORY_SANITIZERS)
    result = run_sanitized(program)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr


def test_correct_kernels_run_right(planted_bugs):
    result = run_sanitized(planted_bugs, "none")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("right") == len(ORDERS)


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_caught(planted_bugs, bug):
    result = run_sanitized(planted_bugs, bug)
    assert result.returncode != 0, f"{bug} went through:\n{result.stdout}"
    assert BUGS[bug] in result.stderr


def test_correct_kernels_have_no_races(planted_races):
    result = run_sanitized(planted_races, "none")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("race", RACES)
def test_planted_race_is_caught(planted_races, race):
    result = run_sanitized(planted_races, race)
    assert result.returncode != 0, f"{race} went through:\n{result.stdout}"
    assert "data race" in result.stderr


@pytest.mark.skipif(os.environ.get("SEGEXT_TSAN") != "1", reason="takes minutes; SEGEXT_TSAN=1 asks for it")
def test_kernels_have_no_races(tmp_path):
    program = build(tmp_path, "kernels_test", KERNELS_TEST, **RACE_SANITIZER)
    share = "17"  # others keep step with the loops over types and formats, and leave out kernels
    assert_every_kernel_ran_right(run_sanitized(program, "random", share))
