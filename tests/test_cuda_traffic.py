"""How the warps of CUDA kernels touch memory, counted on the CPU: coalescing and bank conflicts.

``pytest -s tests/test_cuda_traffic.py`` prints the counts of every buffer.
"""

from typing import NamedTuple

import pytest
from emulation import EMULATION, LAUNCHERS, build, needs_compiler, run

pytestmark = needs_compiler

# Instrumented as for ThreadSanitizer, whose library memory_traffic.cpp stands in for. Vectors stay whole.
COUNTING = {
    "flags": ["-fsanitize=thread", "-fno-tree-sra"],
    "core": ("cuda_emulation.cpp", "memory_traffic.cpp"),
}
# kernel_traffic.cpp runs no others.
OPS = ("cell_division", "max_pool2d", "scatter", "gather", "depthwise_")


class Counts(NamedTuple):
    requests: int  # instructions of warps
    bytes: int  # that their lanes touched
    steps: int  # sectors of 32 bytes, or cycles of the banks of shared memory
    fewest: int  # for as many bytes side by side


def counted(program):
    """The lines that ``program`` prints: what is counted, and the counts."""
    result = run([str(program)])
    assert result.returncode == 0, result.stderr
    for line in result.stdout.splitlines():
        *what, requests, touched, steps, fewest = line.split("\t")
        yield tuple(what), Counts(int(requests), int(touched), int(steps), int(fewest))


# (requests, bytes, steps, fewest) of the two blocks of each kernel in planted_traffic.cpp, by buffer and access.
PLANTED = {
    "coalesced": {("from", "read"): (2, 256, 8, 8), ("to", "written"): (2, 256, 8, 8)},
    "vectors": {("from", "read"): (2, 1024, 32, 32), ("to", "written"): (2, 1024, 32, 32)},
    "misaligned": {("from", "read"): (2, 256, 10, 8), ("to", "written"): (2, 256, 10, 8)},
    "every second": {("from", "read"): (2, 256, 16, 8), ("to", "written"): (2, 256, 16, 8)},
    "far apart": {("from", "read"): (2, 256, 64, 8), ("to", "written"): (2, 256, 64, 8)},
    "same": {("from", "read"): (2, 8, 2, 2), ("to", "written"): (2, 8, 2, 2)},
    "half of the lanes": {("from", "read"): (2, 128, 8, 4), ("to", "written"): (2, 128, 8, 4)},
    "uneven loop": {("from", "read"): (4, 384, 16, 12), ("to", "written"): (4, 384, 16, 12)},
    "banks": {("shared", "written"): (2, 256, 2, 2), ("shared", "read"): (2, 8, 2, 2)},
    "every second bank": {("shared", "written"): (2, 256, 4, 2)},
    "one bank": {("shared", "written"): (2, 256, 64, 2)},
    "padded": {("shared", "written"): (2, 256, 2, 2)},
    "vectors of banks": {("shared", "written"): (2, 1024, 8, 8), ("shared", "read"): (2, 1024, 8, 8)},
}


def test_counts_known_traffic(tmp_path):
    program = build(tmp_path, "planted_traffic", [EMULATION / "planted_traffic.cpp"], **COUNTING)
    found = dict(counted(program))
    assert {kernel for kernel, _, _ in found} == set(PLANTED)
    for kernel, places in PLANTED.items():
        for place, counts in places.items():
            assert found[(kernel, *place)] == counts, (kernel, place)


# The most steps for one of the fewest. Vectors that runs of channels or of columns fill begin anywhere in a sector.
USUAL = {"read": 1.75, "written": 1.12}
# Where it is more: by op, window or factor, format, buffer and access. "": any.
MORE = {
    # Lanes load vectors of a row of which every other one belongs to the next lanes' windows; one load later, these
    # find the other half of each sector in the L1 cache.
    ("max_pool2d", "2 at 224", "NCHW", "map", "read"): 2,
    ("gather", "2 at 224", "NCHW", "map", "read"): 2,
    # Rows that start anywhere: one element per lane, every second of a row, and the rest with the next load or store.
    ("max_pool2d", "2 at 175", "NCHW", "map", "read"): 2.5,
    ("scatter", "2 at 175", "NCHW", "map", "written"): 2.5,
    ("gather", "2 at 175", "NCHW", "map", "read"): 2.5,
    ("max_pool2d", "3 at 112", "NCHW", "map", "read"): 2.6,
    ("scatter", "3 at 112", "NCHW", "pooled", "read"): 1.8,
    ("scatter, add", "3 at 112", "NCHW", "pooled", "read"): 2,
    ("scatter, add", "3 at 112", "NCHW", "codes", "read"): 3.25,  # bytes here and there
    ("gather", "3 at 112", "NCHW", "map", "read"): 2.5,
    ("upsample", "2 at 128", "NCHW", "input", "read"): 2.5,
    ("upsample, add", "2 at 128", "NCHW", "input", "read"): 2.5,
    ("upsample, input gradient", "2 at 128", "NCHW", "output", "read"): 2.4,
    # Once per thread or block: the 16 weights of a channel each, of channels side by side.
    ("upsample", "2 at 128", "channels_last", "weight", "read"): 7,
    ("upsample, add", "2 at 128", "channels_last", "weight", "read"): 10.5,
    ("upsample, argmax", "2 at 128", "", "weight", "read"): 3.5,
    ("upsample, loss", "2 at 128", "", "weight", "read"): 3.5,
    ("upsample, input gradient", "", "", "weight", "read"): 3.5,
    # Tiles of some columns by some channels.
    ("upsample", "", "channels_last", "weight", "read"): 2,
    ("upsample, add", "", "channels_last", "weight", "read"): 2,
    ("upsample", "", "channels_last", "shared", "written"): 2.5,
    ("upsample, add", "", "channels_last", "shared", "written"): 2.5,
    # One class of neighbouring columns; the L1 cache keeps the other classes for the next loads.
    ("upsample, argmax", "2 at 128", "channels_last", "input", "read"): 9,
    ("upsample, loss", "2 at 128", "channels_last", "input", "read"): 9,
    ("upsample, argmax", "", "channels_last", "input", "read"): 4.75,
    ("upsample, loss", "", "channels_last", "input", "read"): 4.75,
    ("upsample, input gradient", "", "channels_last", "output", "read"): 2.2,  # runs of 21 half-type elements
    # Pairs, which the host's compiler takes apart.
    ("upsample, loss", "", "", "normalizers", "written"): 2,
    ("upsample, loss", "", "", "parts", "read"): 2,
    # Blocks stage rows of input and weights once, and read them many times.
    ("upsample, input gradient", "", "", "shared", "written"): 2,
}


def entry(op, case, layout, place, access):
    """The most specific key of MORE, or None."""
    for key in ((op, case, layout), (op, case, ""), (op, "", layout), (op, "", "")):
        if (*key, place, access) in MORE:
            return (*key, place, access)
    return None


@pytest.fixture(scope="module")
def traffic(tmp_path_factory):
    sources = [path for path in LAUNCHERS if path.stem.startswith(OPS)]
    program = build(
        tmp_path_factory.mktemp("traffic"), "kernel_traffic", [*sources, EMULATION / "kernel_traffic.cpp"], **COUNTING
    )
    return list(counted(program))


def test_kernels_are_coalesced(traffic):
    """No buffer takes more than its limit, and none has a limit that hides what gets worse."""
    kernels, worse, nearest = set(), [], dict.fromkeys(MORE, 0)
    for (op, case, layout, dtype, kernel, place, access), counts in traffic:
        ratio = round(counts.steps / counts.fewest, 2)
        what = f"{op:24} {case:8} {layout:13} {dtype:8} {place:14} {access:7} {counts.requests:6} x{ratio:.2f}"
        print(what, kernel)
        kernels.update(kernel.split(", segext::"))
        key = entry(op, case, layout, place, access)
        if key is not None:
            nearest[key] = max(nearest[key], ratio)
        if ratio > MORE.get(key, USUAL[access]):
            worse.append(what)
    assert len(kernels) > 20
    assert not worse
    assert {key: ratio for key, ratio in nearest.items() if ratio < 0.9 * MORE[key]} == {}
