"""The CUDA kernels as compiled: no warnings, no spills, no local memory, no stack, and wide accesses where meant.

Reads the machine code of the built library, where that has one architecture of each generation, or compiles for these;
needs no GPU.
"""

import itertools
import os
import re
import shutil
import subprocess
import sysconfig
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest

import segext
from segext import _library

ROOT = Path(__file__).resolve().parents[1]
CUDA = ROOT / "csrc" / "kernels" / "cuda"
SOURCES = sorted(path.with_suffix(".cu") for path in CUDA.glob("*.cuh") if path.with_suffix(".cu").exists())
ARCHITECTURES = ["75", "80", "90", "120"]
FLAGS = ["-std=c++17", "-O3", "-Werror", "all-warnings", "-Xptxas", "-warn-spills,-warn-lmem-usage"]

# Kernels whose speed is the memory's: how many wide loads and stores a thread has at least.
HOT = {
    r"depthwise_conv_transpose2d_cells_kernel<float, 4, false>": {"STG.128": 8},
    r"depthwise_conv_transpose2d_cells_kernel<segext::\w+, 4, false>": {"STG.64": 8},
    r"depthwise_conv_transpose2d_cells_kernel<float, 2, true>": {"LDG.64": 24, "STG.64": 16},
    r"depthwise_conv_transpose2d_cells_kernel<float, 2, false>": {"STG.64": 8},
    r"depthwise_conv_transpose2d_cells_kernel<.*, 4, false>": {"LDS.128": 10},
    r"depthwise_conv_transpose2d_cells_kernel<(float|segext::\w+), 2, \w+>": {"LDS.64": 10},
    r"depthwise_conv_transpose2d_x2_kernel<float, 4, false, false>": {"STG.128": 8},
    r"depthwise_conv_transpose2d_x2_kernel<float, 4, false, true>": {"LDG.128": 4, "STG.128": 4},
    r"depthwise_conv_transpose2d_x2_kernel<segext::\w+, 4, false, false>": {"STG.64": 4},
    r"depthwise_conv_transpose2d_x2_kernel<segext::\w+, 4, false, true>": {"LDG.64": 8, "STG.64": 8},
    r"depthwise_conv_transpose2d_x2_kernel<float, 2, \w+, \w+>": {"STG.64": 8},
    r"depthwise_argmax_cells_kernel": {"LDS.128": 2},
    r"depthwise_cross_entropy_cells_kernel": {"LDS.128": 2},
    r"max_pool2d_tile_rows_kernel": {"LDG.128": 4, "STG.128": 1},
    r"max_pool2d_channels_last_kernel<.*Windows\)0>": {"LDG.128": 4, "STG.128": 1},
    r"max_pool2d_channels_last_kernel<.*Windows\)1>": {"LDG.128": 4, "STG.128": 1},
    r"max_pool2d_channels_last_kernel<.*Windows\)2>": {"LDG.128": 9, "STG.128": 1},
    r"max_pool2d_channels_last_kernel<.*Windows\)3>": {"LDG.128": 1, "STG.128": 1},
    r"max_pool2d_overlaps_kernel": {"LDG.128": 6, "STG.128": 1},
    r"gather_tile_rows_kernel<(unsigned int, 4|unsigned short, 8)>": {"LDG.128": 4, "STG.128": 1},
    r"gather_tile_rows_kernel<(unsigned int, 2|unsigned short, 4)>": {"LDG.128": 2, "STG.64": 1},
    r"gather_channels_last_tiles_kernel": {"LDG.128": 4, "STG.128": 1},
    r"scatter_tile_rows_kernel": {"STG.128": 2},
    r"scatter_channels_last_tiles_kernel": {"LDG.128": 1, "STG.128": 4},
    r"scatter_channels_last_windows_kernel": {"LDG.128": 1, "STG.128": 1},
    r"scatter_overlaps_kernel<.*, [24]>": {"LDG.64": 3, "STG.128": 4},
    r"scatter_channels_last_overlaps_kernel": {"LDG.128": 4, "STG.128": 4},
    r"scatter_channels_last_kernel": {"LDG.128": 1, "STG.128": 1},
    r"unpool_conv2d_cells_kernel": {"LDS.64": 9, "LDS.128": 1},
}
# Kernels that multiply by tensor cores. Before an architecture has the instructions, they have no body.
TILED = {
    r"unpool_conv2d_tiles_kernel<segext::\w+, true>": {"HMMA": 48, "LDSM": 6, "LDS.128": 6, "LDG.128": 1, "STG.128": 8},
    r"unpool_conv2d_tiles_kernel<segext::\w+, false>": {"HMMA": 48, "LDSM": 6, "LDS.128": 6, "STG.128": 8},
}
FIRST_TILED = 80
# Kernels that wait for copies to shared memory which they have begun.
COPYING = r"(unpool_conv2d_\w+|depthwise_conv_transpose2d_cells)_kernel"
MAX_REGISTERS = 64  # so that a multiprocessor holds at least half the threads it could
# Of kernels that keep weights or scores in them: a quarter of the threads, each with more stores or sums in flight.
MORE_REGISTERS = {
    r"depthwise_conv_transpose2d_(cells|x2)_kernel": 128,
    r"depthwise_argmax_cells_kernel<double": 96,
    r"depthwise_cross_entropy_cells_kernel<double": 128,
    r"depthwise_cross_entropy_cells_kernel": 96,
    r"depthwise_(cross_entropy|input_gradient)_kernel<.*\blong\b": 128,
    r"depthwise_weight_gradient_cells_kernel<double": 88,  # sums, weights and scores of 64 bits
    r"depthwise_input_gradient_x2_kernel<double": 96,  # sixteen weights and as many gradients
    r"depthwise_input_gradient_channels_last_kernel<double": 128,  # the gradients of a step, and where they lie
    r"depthwise_\w+_kernel<.*\blong\b": 96,
    r"depthwise_\w+_kernel": 80,
    r"scatter_channels_last_overlaps_kernel<segext::": 80,  # their launch bounds'
    r"unpool_conv2d_cells_kernel<double": 160,  # its bounds ask for one block
    r"unpool_conv2d_\w+_kernel": 128,  # their launch bounds': what would take more spills, and fails for that
}
# Of general kernels, whose loops the compiler unrolls further for this architecture than for those before it.
UNROLLED_REGISTERS = {
    ("sm_120", r"depthwise_argmax_cells_kernel<double"): 104,  # two blocks, as with 96
    ("sm_120", r"depthwise_weight_gradient_cells_kernel<double"): 100,
    ("sm_120", r"(depthwise_\w+(?<!_cells)(?<!_x2)|scatter)_kernel"): 128,
}
# Bytes of static shared memory that a kernel has at most; others have none. Static and dynamic together must fit what
# a block has without asking for more, 48 KB, and the emulation, which refuses launches, sees only the dynamic ones.
STATIC_SHARED = {
    r"unpool_conv2d_cells_kernel": 320,  # CellStrip
    r"extremes_kernel": 128,  # of two block_reduce
    r"depthwise_(cross_entropy|weight_gradient|bias_gradient)_\w*kernel": 64,  # kBlockReduceBytes
}
# cuobjdump adds what the system takes of a block's shared memory beyond those 48 KB.
SYSTEM_SHARED = {"sm_90": 1024, "sm_120": 1024}
ATOMIC = {"index_unpool_bid_kernel", "codes_from_indices_kernel"}


def find_tool(name):
    """A CUDA tool on the path, or one that came as a Python package."""
    found = shutil.which(name)
    if found:
        return Path(found)
    packages = Path(sysconfig.get_path("purelib")) / "nvidia"
    return next((path for path in sorted(packages.glob(f"**/bin/{name}")) if path.is_file()), None)


def read_usage(text):
    """Registers, stack, shared and local memory of each (architecture, kernel), as cuobjdump -res-usage lists them."""
    usage, architecture, function = {}, None, None
    for line in text.splitlines():
        if match := re.search(r"arch = (sm_\w+)", line):
            architecture = match[1]
        elif match := re.search(r"Function (\S+):", line):
            function = match[1]
        elif match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            usage[architecture, function] = SimpleNamespace(
                registers=int(match[1]), stack=int(match[2]), shared=int(match[3]), local=int(match[4])
            )
    return usage


def read_instructions(text):
    """How often each (architecture, kernel) has each kind of instruction, as cuobjdump -sass lists them."""
    counts, architecture, function = defaultdict(Counter), None, None
    for line in text.splitlines():
        if match := re.search(r"arch = (sm_\w+)", line):
            architecture = match[1]
        elif match := re.search(r"Function : (\S+)", line):
            function = match[1]
        elif match := re.search(r"/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", line):
            operation, *modifiers = match[1].split(".")
            counts[architecture, function][operation] += 1
            for width in {"64", "128"} & set(modifiers):
                counts[architecture, function][f"{operation}.{width}"] += 1
    return counts


def built_library():
    """The library as setup.py builds it, with warnings as errors; None where it lacks an architecture."""
    built = re.findall(r"\d+\.\d+", _library.build_info()["cuda_archs"])
    library = Path(segext.__file__).with_name("_ops.so")
    return library if set(ARCHITECTURES) <= {arch.replace(".", "") for arch in built} else None


def compiled(nvcc, folder):
    """A binary of each source."""
    architectures = [flag for arch in ARCHITECTURES for flag in ("-gencode", f"arch=compute_{arch},code=sm_{arch}")]
    for source in SOURCES:
        target = folder / f"{source.stem}.fatbin"
        command = [str(nvcc), *FLAGS, "--threads", "0", *architectures, "-fatbin", str(source), "-o", str(target)]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, f"{source.name} does not compile without warnings:\n{result.stderr[-4000:]}"
        yield target


@pytest.fixture(scope="module")
def binaries(tmp_path_factory):
    library = built_library()
    nvcc = find_tool("nvcc")
    if library is None and nvcc is None:
        pytest.skip("needs nvcc")
    return [library] if library else list(compiled(nvcc, tmp_path_factory.mktemp("cuda")))


@pytest.fixture(scope="module")
def kernels(binaries):
    """Each compiled kernel: its architecture, name, resources and instructions."""
    cuobjdump, nvdisasm, filt = find_tool("cuobjdump"), find_tool("nvdisasm"), shutil.which("c++filt")
    if not (cuobjdump and nvdisasm and filt):
        pytest.skip("needs cuobjdump and nvdisasm (PyPI: nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm) and c++filt")
    environment = {**os.environ, "PATH": f"{nvdisasm.parent}{os.pathsep}{os.environ['PATH']}"}

    def dump(option, architecture, binary):
        command = [str(cuobjdump), option, "-arch", f"sm_{architecture}", str(binary)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout

    usage, instructions = {}, {}
    for binary, architecture in itertools.product(binaries, ARCHITECTURES):
        usage |= read_usage(dump("-res-usage", architecture, binary))
        instructions |= read_instructions(dump("-sass", architecture, binary))
    assert usage
    assert usage.keys() == instructions.keys()
    keys = sorted(usage)
    listing = "\n".join(function for _, function in keys)
    names = subprocess.run([filt], input=listing, capture_output=True, text=True, check=True).stdout.splitlines()
    found = [
        SimpleNamespace(
            architecture=key[0],
            name=re.sub(r"^(void )?segext::", "", name),
            usage=usage[key],
            instructions=instructions[key],
        )
        for key, name in zip(keys, names, strict=True)
    ]
    for kernel in found:
        wide = {name: count for name, count in kernel.instructions.items() if name.endswith((".64", ".128"))}
        print(f"{kernel.architecture} {kernel.name}: {kernel.usage.registers} registers, {wide}")
    return found


def test_every_architecture_is_there(kernels):
    assert {kernel.architecture for kernel in kernels} == {f"sm_{arch}" for arch in ARCHITECTURES}


def test_no_kernel_uses_local_memory(kernels):
    for kernel in kernels:
        where = f"{kernel.name} for {kernel.architecture}"
        assert (kernel.usage.stack, kernel.usage.local) == (0, 0), where
        assert not kernel.instructions.keys() & {"LDL", "STL"}, where


def test_static_shared_memory_leaves_room_for_dynamic(kernels):
    for kernel in kernels:
        most = next((n for pattern, n in STATIC_SHARED.items() if re.match(pattern, kernel.name)), 0)
        most += SYSTEM_SHARED.get(kernel.architecture, 0)
        assert kernel.usage.shared <= most, f"{kernel.name} for {kernel.architecture}"


def named(pattern, kernels):
    found = [kernel for kernel in kernels if re.match(pattern, kernel.name)]
    assert found, f"no kernel is called {pattern}"
    return found


def test_hot_kernels_move_many_bytes_at_a_time(kernels):
    for pattern, least in HOT.items():
        for kernel in named(pattern, kernels):
            where = f"{kernel.name} for {kernel.architecture}: {dict(kernel.instructions)}"
            assert all(kernel.instructions[name] >= count for name, count in least.items()), where


def test_tiled_kernels_multiply_by_tensor_cores(kernels):
    for pattern, least in TILED.items():
        for kernel in named(pattern, kernels):
            where = f"{kernel.name} for {kernel.architecture}: {dict(kernel.instructions)}"
            if int(kernel.architecture.removeprefix("sm_")) < FIRST_TILED:
                assert kernel.usage.registers < 16, where
            else:
                assert all(kernel.instructions[name] >= count for name, count in least.items()), where


def test_copies_to_shared_memory_are_waited_for(kernels):
    for kernel in kernels:
        if re.match(COPYING, kernel.name) and int(kernel.architecture.removeprefix("sm_")) >= FIRST_TILED:
            where = f"{kernel.name} for {kernel.architecture}: {dict(kernel.instructions)}"
            assert all(kernel.instructions[name] for name in ("LDGSTS.128", "LDGDEPBAR", "DEPBAR")), where


def test_registers_leave_room_for_many_threads(kernels):
    for kernel in kernels:
        most = next((n for pattern, n in MORE_REGISTERS.items() if re.match(pattern, kernel.name)), MAX_REGISTERS)
        for (architecture, pattern), unrolled in UNROLLED_REGISTERS.items():
            if kernel.architecture == architecture and re.match(pattern, kernel.name):
                most = max(most, unrolled)
        assert kernel.usage.registers <= most, f"{kernel.name} for {kernel.architecture}"


def test_only_index_kernels_are_atomic(kernels):
    for kernel in kernels:
        if re.match(r"\w+", kernel.name)[0] not in ATOMIC:
            atomics = [name for name in kernel.instructions if name.startswith(("ATOM", "RED"))]
            assert not atomics, f"{kernel.name} for {kernel.architecture} has {atomics}"
