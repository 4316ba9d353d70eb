"""Builds segext's two compiled parts with ninja: the op library (stable ABI of torch) and the pybind11 module.

CPU kernels are compiled once per instruction set; CUDA kernels whenever a usable nvcc is there, with or without a GPU
or a CUDA build of torch. The resolved settings are printed.

Environment: SEGEXT_CUDA=1 demands the CUDA part, 0 leaves it out; TORCH_CUDA_ARCH_LIST names architectures as for torch
("8.0 9.0+PTX"); SEGEXT_WERROR=1 makes warnings errors; CUDA_HOME, CXX, CXXFLAGS, NVCCFLAGS and MAX_JOBS as usual.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from shlex import quote

import ninja
import pybind11
import torch
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
STABLE_ABI = "0x020b000000000000"  # torch 2.11: the library runs under it and every later release
DEFAULT_CUDA_ARCHS = "7.5 8.0 8.6 8.9 9.0 10.0 12.0+PTX"

IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
# Processors that have AVX2 but no PREFETCHW take it for a no-op.
AVX2 = ["-mavx2", "-mfma", "-mbmi2", "-mf16c", "-mprfchw"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]
CPU_LEVELS = {"baseline": [], "avx2": AVX2, "avx512": AVX512} if IS_X86 else {"baseline": []}

KERNELS = "csrc/kernels"
PER_LEVEL = [
    f"{KERNELS}/cpu/{stem}.cpp"
    for stem in (
        "dense_conv_transpose2d",
        "depthwise_conv_transpose2d",
        "depthwise_conv_transpose2d_backward",
        "depthwise_cross_entropy",
        "extremes",
        "gather",
        "max_pool2d",
        "repack_codes",
        "scatter",
        "unpool_conv2d",
        "unpool_conv2d_backward",
        "weight_panels",
    )
]
ONCE = [f"{KERNELS}/cpu/{stem}.cpp" for stem in ("capability", "dispatch", "indices")]
OPS = (
    "checks",
    "dense_conv_transpose2d",
    "depthwise_conv_transpose2d",
    "depthwise_cross_entropy",
    "extremes",
    "kernel",
    "max_pool2d",
    "max_unpool2d",
    "pooling",
    "switches",
    "tensors",
    "unpool_conv2d",
    "upsampling",
)
GLUE = ["csrc/library.cpp", *(f"csrc/ops/{stem}.cpp" for stem in OPS)]
CUDA_STEMS = (
    "cell_division",
    "depthwise_argmax",
    "depthwise_conv_transpose2d",
    "depthwise_conv_transpose2d_backward",
    "depthwise_cross_entropy",
    "depthwise_cross_entropy_backward",
    "extremes",
    "gather",
    "indices",
    "max_pool2d",
    "scatter",
    "status",
    "unpool_conv2d",
    "weight_panels",
)
CUDA = [f"{KERNELS}/cuda/{stem}.cu" for stem in CUDA_STEMS]
MODULE = ["csrc/bindings.cpp", f"{KERNELS}/cpu/capability.cpp"]


def find_nvcc() -> str | None:
    """The nvcc to build CUDA kernels with, or None where there is none or SEGEXT_CUDA=0."""
    wanted = os.environ.get("SEGEXT_CUDA", "")
    if wanted == "0":
        return None
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = shutil.which(str(Path(home, "bin", "nvcc"))) if home else shutil.which("nvcc")
    nvcc = nvcc or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None and wanted == "1":
        sys.exit("SEGEXT_CUDA=1, but no nvcc was found: put it on PATH or set CUDA_HOME")
    return nvcc


def cuda_arch_flags(archs: str) -> list[str]:
    """nvcc's -gencode flags for a list such as "8.0 9.0a 12.0+PTX"."""
    flags = []
    for arch in re.split(r"[\s;,]+", archs.strip()):
        match = re.fullmatch(r"(\d+)\.(\d+)([af]?)(\+PTX)?", arch)
        if not match:
            sys.exit(f"TORCH_CUDA_ARCH_LIST: {arch!r} is no architecture such as 8.0, 9.0a or 12.0+PTX")
        number = "".join(match.group(1, 2, 3))
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match.group(4):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


class NinjaFile:
    """A ninja build file under construction. All paths are absolute, so ninja may run anywhere."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.lines = ["ninja_required_version = 1.5"]

    def rule(self, name: str, command: list[str], **more: str) -> None:
        self.lines += [f"rule {name}", f"  command = {' '.join(command)}", f"  description = {name} $out"]
        self.lines += [f"  {key} = {value}" for key, value in more.items()]

    def compile(self, rule: str, source: str, level: str = "") -> Path:
        """Compiles one source; `level`, an instruction set, keeps its objects apart."""
        target = self.folder / rule / level / (source.replace("/", "_") + ".o")
        flags = [f"-DSEGEXT_CPU_CAPABILITY={level}", *CPU_LEVELS[level]] if level else []
        self.build(rule, target, [ROOT / source], " ".join(flags))
        return target

    def build(self, rule: str, target: Path, inputs: list[Path], flags: str = "") -> None:
        escaped = [str(p).replace(" ", "$ ").replace(":", "$:") for p in (target, *inputs)]
        self.lines += [f"build {escaped[0]}: {rule} {' '.join(escaped[1:])}", f"  flags = {flags}"]

    def run(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "build.ninja").write_text("\n".join(self.lines) + "\n")
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        subprocess.run([Path(ninja.BIN_DIR, "ninja"), "-C", self.folder, *jobs], check=True)


class NinjaBuild(build_ext):
    """Writes one ninja file for both compiled parts and runs it."""

    def get_ext_filename(self, fullname: str) -> str:
        # The op library is no Python module: torch loads it, whatever the interpreter.
        *package, name = fullname.split(".")
        return os.path.join(*package, "_ops.so") if name == "_ops" else super().get_ext_filename(fullname)

    def build_extensions(self) -> None:
        cxx = os.environ.get("CXX") or shutil.which("g++") or "c++"
        nvcc = find_nvcc()
        archs = os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_CUDA_ARCHS
        torch_root = Path(torch.__file__).parent
        print(f"segext: torch {torch.__version__}, {cxx}, CPU levels {' '.join(CPU_LEVELS)}")
        print(f"segext: CUDA kernels {f'with {nvcc} for {archs}' if nvcc else 'left out (no nvcc, or SEGEXT_CUDA=0)'}")

        ninja_file = NinjaFile(Path(self.build_temp).resolve())
        # -Wno-psabi: vector arguments only pass inlined functions. GCC 12 warns in its own AVX-512 headers.
        warnings = ["-Wall", "-Wextra", "-Wno-psabi", "-Wno-maybe-uninitialized"]
        # Kernels write their vectors out: -O3 would take twice as long to compile and gain nothing.
        common = ["-std=c++20", "-O2", "-fvect-cost-model=dynamic", "-fPIC", "-fvisibility=hidden", *warnings]
        werror = os.environ.get("SEGEXT_WERROR") == "1"
        common += ["-Werror"] * werror
        common += ["-DSEGEXT_X86_LEVELS"] if IS_X86 else []
        common += [os.environ.get("CXXFLAGS", "")]
        includes = [f"-isystem {quote(str(place))}" for place in (torch_root / "include", pybind11.get_include())]
        # Sources name themselves in error messages: by their place in the project, not on the machine that built them.
        named = {ROOT: ".", torch_root: "torch", Path(pybind11.__file__).parent: "pybind11"}
        common += [quote(f"-ffile-prefix-map={place}={name}") for place, name in named.items()]
        includes += [f"-isystem {quote(sysconfig.get_paths()['include'])}"]
        defines = [f"-DTORCH_TARGET_VERSION={STABLE_ABI}"]
        if nvcc:
            # USE_CUDA makes torch's header declare its CUDA entry points, which stay weak: a CPU-only torch lacks them.
            defines += ["-DSEGEXT_WITH_CUDA", "-DUSE_CUDA", f"-include {quote(str(ROOT / 'csrc/ops/weak_cuda.h'))}"]
        facts = {
            "TORCH": torch.__version__,
            "CUDA": self._nvcc_release(nvcc) if nvcc else "",
            "CUDA_ARCHS": archs if nvcc else "",
        }
        module_defines = [f"'-DSEGEXT_BUILD_{key}=\"{value}\"'" for key, value in facts.items()]

        deps = {"depfile": "$out.d", "deps": "gcc"}
        compile_tail = ["-MMD", "-MF", "$out.d", "$flags", "-c", "$in", "-o", "$out"]
        ninja_file.rule("kernel", [cxx, *common, *compile_tail], **deps)
        ninja_file.rule("glue", [cxx, *common, *includes, *defines, *compile_tail], **deps)
        ninja_file.rule("module", [cxx, *common, *includes, *module_defines, *compile_tail], **deps)
        link_flags = ["-shared", "-o", "$out", "$in"]
        libraries = [quote(f"-L{torch_root / 'lib'}"), "-ltorch", "-ltorch_cpu"]
        ninja_file.rule("link_module", [cxx, *link_flags])
        if nvcc:
            host = f"-Xcompiler {','.join(['-fPIC', '-fvisibility=hidden', '-Wall'])}"
            strict = "-Xptxas -warn-spills,-warn-lmem-usage" + " -Werror all-warnings" * werror
            user = os.environ.get("NVCCFLAGS", "")
            command = [nvcc, "-std=c++17", "-O3", host, strict, *cuda_arch_flags(archs), user]
            ninja_file.rule("cuda", [*command, *compile_tail], **deps)
            # nvcc links, because it knows where its static runtime lies.
            linker = [nvcc, "-cudart=static", "-Xcompiler=-fopenmp", *link_flags, "-Xlinker=--no-as-needed", *libraries]
        else:
            linker = [cxx, "-fopenmp", *link_flags, "-Wl,--no-as-needed", *libraries]
        ninja_file.rule("link_library", linker)

        objects = [ninja_file.compile("cuda", source) for source in CUDA] if nvcc else []
        objects += [ninja_file.compile("kernel", source, level) for source in PER_LEVEL for level in CPU_LEVELS]
        objects += [ninja_file.compile("kernel", source) for source in ONCE]
        objects += [ninja_file.compile("glue", source) for source in GLUE]
        outputs = {e.name: Path(self.get_ext_fullpath(e.name)).resolve() for e in self.extensions}
        ninja_file.build("link_library", outputs["segext._ops"], objects)
        ninja_file.build("link_module", outputs["segext._C"], [ninja_file.compile("module", s) for s in MODULE])
        for output in outputs.values():
            output.parent.mkdir(parents=True, exist_ok=True)
        ninja_file.run()

    @staticmethod
    def _nvcc_release(nvcc: str) -> str:
        banner = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
        match = re.search(r"release ([\d.]+)", banner)
        return match.group(1) if match else "unknown"


setup(
    ext_modules=[
        Extension("segext._ops", sorted([*PER_LEVEL, *ONCE, *GLUE, *CUDA])),
        Extension("segext._C", sorted(MODULE)),
    ],
    cmdclass={"build_ext": NinjaBuild},
)
