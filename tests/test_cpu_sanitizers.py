"""The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer, at each level, on the cases of the CUDA ones.

AddressSanitizer does not see the masked loads and stores of AVX-512 and AVX2, which are instructions, not accesses of
the language; what a masked store writes beyond an array therefore shows at the baseline level only.
"""

import os
import platform
import runpy
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
from emulation import CASES, CXX, KERNEL_CASES, KERNELS, ROOT, needs_compiler, run

pytestmark = needs_compiler

CPU_KERNELS = ROOT / "tests" / "cpu_kernels"
INCLUDES = [f"-I{folder}" for folder in (KERNEL_CASES, CPU_KERNELS, KERNELS)]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# Compiling is most of the test's time: no optimisation, calls rather than inlined checks, and none of the checks that
# are made of every pointer. Nor is anything of the kernels inlined (inline.h says why they are otherwise): what levels
# then share, the linker takes from the first of them, and that one runs on every processor.
CHECKS = [
    *SANITIZERS,
    "-fno-sanitize=null,object-size,vptr,alignment",
    "--param=asan-instrumentation-with-call-threshold=0",
]
NOT_INLINED = "-Dalways_inline=noinline"  # compilers' own headers write __always_inline__
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
COMMON = ["-std=c++20", "-g1", *["-DSEGEXT_X86_LEVELS"] * IS_X86]
# At each level, every how many-th case runs whole and in ranges.
SHARE = "4"
BUGS = {
    "short-input": "heap-buffer-overflow",
    "short-output": "heap-buffer-overflow",
    "short-codes": "heap-buffer-overflow",
    "overflow": "signed integer overflow",
    "skipped-unit": "instead of",
}


def setup_settings():
    """What setup.py compiles, and how: its kernels and the flags of each level."""
    with mock.patch("setuptools.setup"):
        return runpy.run_path(str(ROOT / "setup.py"))


@pytest.fixture(scope="module")
def kernels_test(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpu_kernels")
    settings = setup_settings()
    kernel_flags = ["-O0", "-w", NOT_INLINED, *CHECKS]
    assert next(iter(settings["CPU_LEVELS"])) == "baseline"  # the first that is linked
    jobs = [
        (ROOT / source, level, [*kernel_flags, f"-DSEGEXT_CPU_CAPABILITY={level}", *flags])
        for level, flags in settings["CPU_LEVELS"].items()
        for source in settings["PER_LEVEL"]
    ]
    jobs += [(ROOT / source, "once", kernel_flags) for source in settings["ONCE"]]
    own = ["-O1", "-Wall", "-Wextra", "-Werror", *INCLUDES]
    jobs += [(source, "cases", own) for source in (*CASES, *sorted(CPU_KERNELS.glob("*.cpp")))]

    def compile_object(job):
        source, level, flags = job
        target = folder / f"{source.parent.name}_{source.stem}.{level}.o"
        result = run([CXX, *COMMON, *flags, "-c", str(source), "-o", str(target)])
        assert result.returncode == 0, f"{source.name} does not compile:\n{result.stderr[-4000:]}"
        return str(target)

    with ThreadPoolExecutor(max_workers=2) as pool:
        objects = list(pool.map(compile_object, jobs))
    program = folder / "kernels_test"
    result = run([CXX, *SANITIZERS, "-rdynamic", *objects, "-ldl", "-o", str(program)])
    assert result.returncode == 0, result.stderr
    return program


def run_at(level, program, *arguments):
    environment = {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=0",
        "LD_PRELOAD": "",
        "SEGEXT_CPU_CAPABILITY": level,
    }
    return run([str(program), *arguments], env=environment)


@pytest.mark.parametrize("division", ["whole", "split"])
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_cpu_kernels_compute_what_the_model_says(kernels_test, level, division):
    result = run_at(level, kernels_test, division, SHARE, "1" if division == "split" else "0")
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    if f"at {level}" not in result.stdout:
        pytest.skip(f"this processor has no {level}")


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_caught(kernels_test, bug):
    result = run_at("baseline", kernels_test, bug)
    assert result.returncode != 0, f"{bug} went through:\n{result.stdout}"
    assert BUGS[bug] in result.stderr
