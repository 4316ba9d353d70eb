"""Builds segext's two compiled parts with ninja: the op library (stable ABI of torch) and the pybind11 module.

CPU kernels are compiled once per instruction set; CUDA kernels whenever a usable nvcc is there, with or without a GPU
or a CUDA build of torch. The resolved settings are printed.

Environment: SEGEXT_CUDA=1 demands the CUDA part, 0 leaves it out; TORCH_CUDA_ARCH_LIST names architectures as for torch
("8.0 9.0+PTX"); SEGEXT_WERROR=1 makes warnings errors; CUDA_HOME or else CUDA_PATH, CXX (also for nvcc), CXXFLAGS,
NVCCFLAGS and MAX_JOBS as usual.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from shlex import quote, split

import ninja
import pybind11
import torch
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
STABLE_ABI = "0x020b000000000000"  # torch 2.11: the library runs under it and every later release
DEFAULT_CUDA_ARCHS = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")  # the last that nvcc knows also as PTX

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
        "index_unpool",
        "indices",
        "max_pool2d",
        "repack_codes",
        "scatter",
        "unpool_conv2d",
        "unpool_conv2d_backward",
        "weight_panels",
    )
]
ONCE = [f"{KERNELS}/cpu/{stem}.cpp" for stem in ("capability", "dispatch")]
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
    "switch_moves",
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


@dataclass(frozen=True)
class Settings:
    """What the environment asks for. Without CUDA, ``nvcc`` is None and ``archs`` is empty."""

    cxx: str
    nvcc: str | None
    archs: str
    werror: bool

    @classmethod
    def resolve(cls) -> "Settings":
        nvcc = find_nvcc()
        cxx = os.environ.get("CXX") or shutil.which("g++") or "c++"
        return cls(cxx, nvcc, resolve_archs(nvcc) if nvcc else "", os.environ.get("SEGEXT_WERROR") == "1")

    def print(self) -> None:
        cuda = f"with {self.nvcc} for {self.archs}" if self.nvcc else "left out (no nvcc, or SEGEXT_CUDA=0)"
        print(f"segext: torch {torch.__version__}, {self.cxx}, CPU levels {' '.join(CPU_LEVELS)}")
        print(f"segext: CUDA kernels {cuda}")


def find_nvcc() -> str | None:
    """The nvcc to build CUDA kernels with, or None where there is none or SEGEXT_CUDA=0."""
    wanted = os.environ.get("SEGEXT_CUDA", "")
    if wanted == "0":
        return None
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(name):
            nvcc = shutil.which(str(Path(home, "bin", "nvcc")))
            if nvcc is None:
                sys.exit(f"{name}={home}, but there is no {home}/bin/nvcc: correct or unset it, or set SEGEXT_CUDA=0")
            return nvcc
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None and wanted == "1":
        sys.exit("SEGEXT_CUDA=1, but no nvcc was found: put it on PATH or set CUDA_HOME")
    return nvcc


def resolve_archs(nvcc: str) -> str:
    """TORCH_CUDA_ARCH_LIST as it is or, by default, the architectures of ours that this nvcc knows."""
    if asked := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return asked
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True).stdout.split()
    known = [arch for arch in DEFAULT_CUDA_ARCHS if f"compute_{arch.replace('.', '')}" in listed]
    if not known:
        sys.exit(f"{nvcc} --list-gpu-arch lists none of {' '.join(DEFAULT_CUDA_ARCHS)}: set TORCH_CUDA_ARCH_LIST")
    if dropped := [arch for arch in DEFAULT_CUDA_ARCHS if arch not in known]:
        print(f"segext: {nvcc} does not know {' '.join(dropped)}: left out")
    return " ".join(known) + "+PTX"


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


COMPILE = ["-MMD", "-MF", "$out.d", "$flags", "-c", "$in", "-o", "$out"]
DEPENDENCIES = {"depfile": "$out.d", "deps": "gcc"}
LINK = ["-shared", "-o", "$out", "$in"]
TORCH = Path(torch.__file__).parent


def add_host_rules(ninja_file: NinjaFile, settings: Settings) -> None:
    """The rules for kernels, for glue and for the module, which differ in the headers and definitions they see."""
    flags = host_flags(settings.werror)
    places = (TORCH / "include", pybind11.get_include(), sysconfig.get_paths()["include"])
    includes = [f"-isystem {quote(str(place))}" for place in places]
    defines = [f"-DTORCH_TARGET_VERSION={STABLE_ABI}"]
    if settings.nvcc:
        defines += ["-DSEGEXT_WITH_CUDA", "-DUSE_CUDA"]  # USE_CUDA makes torch's header declare its CUDA entry points
    facts = {
        "TORCH": torch.__version__,
        "CUDA": nvcc_release(settings.nvcc) if settings.nvcc else "",
        "CUDA_ARCHS": settings.archs,
    }
    module_defines = [f"'-DSEGEXT_BUILD_{key}=\"{value}\"'" for key, value in facts.items()]
    ninja_file.rule("kernel", [settings.cxx, *flags, *COMPILE], **DEPENDENCIES)
    ninja_file.rule("glue", [settings.cxx, *flags, *includes, *defines, *COMPILE], **DEPENDENCIES)
    ninja_file.rule("module", [settings.cxx, *flags, *includes, *module_defines, *COMPILE], **DEPENDENCIES)


def host_flags(werror: bool) -> list[str]:
    # Kernels write their vectors out: -O3 would take twice as long to compile and gain nothing.
    flags = ["-std=c++20", "-O2", "-fvect-cost-model=dynamic", "-fPIC", "-fvisibility=hidden"]
    # -Wno-psabi: vector arguments only pass inlined functions. GCC 12 warns in its own AVX-512 headers.
    flags += ["-Wall", "-Wextra", "-Wno-psabi", "-Wno-maybe-uninitialized"]
    flags += ["-Werror"] * werror
    flags += ["-DSEGEXT_X86_LEVELS"] * IS_X86
    flags += [os.environ.get("CXXFLAGS", "")]
    # Sources name themselves in error messages: by their place in the project, not on the machine that built them.
    named = {ROOT: ".", TORCH: "torch", Path(pybind11.__file__).parent: "pybind11"}
    return flags + [quote(f"-ffile-prefix-map={place}={name}") for place, name in named.items()]


def nvcc_release(nvcc: str) -> str:
    banner = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"release ([\d.]+)", banner)
    return match.group(1) if match else "unknown"


def add_cuda_rule(ninja_file: NinjaFile, settings: Settings) -> None:
    flags = ["-std=c++17", "-O3", f"-Xcompiler {','.join(['-fPIC', '-fvisibility=hidden', '-Wall'])}"]
    flags += ["-Xptxas -warn-spills,-warn-lmem-usage" + " -Werror all-warnings" * settings.werror]
    flags += [*cuda_arch_flags(settings.archs), os.environ.get("NVCCFLAGS", "")]
    ninja_file.rule("cuda", [settings.nvcc, *ccbin(), *flags, *COMPILE], **DEPENDENCIES)


def ccbin() -> list[str]:
    """Makes nvcc use the host compiler that CXX names, but for launchers such as ccache, and flags."""
    cxx, named = os.environ.get("CXX"), re.search("-ccbin|--compiler-bindir", os.environ.get("NVCCFLAGS", ""))
    if not cxx or named:
        return []
    return [f"-ccbin={quote(next(word for word in reversed(split(cxx)) if not word.startswith('-')))}"]


def add_link_rules(ninja_file: NinjaFile, settings: Settings) -> None:
    libraries = [quote(f"-L{TORCH / 'lib'}"), "-ltorch", "-ltorch_cpu"]
    if settings.nvcc:
        # nvcc links, because it knows where its static runtime lies.
        linker = [settings.nvcc, *ccbin(), "-cudart=static", "-Xcompiler=-fopenmp", *LINK, "-Xlinker=--no-as-needed"]
    else:
        linker = [settings.cxx, "-fopenmp", *LINK, "-Wl,--no-as-needed"]
    ninja_file.rule("link_library", [*linker, *libraries])
    ninja_file.rule("link_module", [settings.cxx, *LINK])


def library_objects(ninja_file: NinjaFile, settings: Settings) -> list[Path]:
    """The objects of the op library, CUDA's first: they take longest."""
    objects = [ninja_file.compile("cuda", source) for source in CUDA] if settings.nvcc else []
    objects += [ninja_file.compile("kernel", source, level) for source in PER_LEVEL for level in CPU_LEVELS]
    objects += [ninja_file.compile("kernel", source) for source in ONCE]
    return objects + [ninja_file.compile("glue", source) for source in GLUE]


class NinjaBuild(build_ext):
    """Writes one ninja file for both compiled parts and runs it."""

    def get_ext_filename(self, fullname: str) -> str:
        # The op library is no Python module: torch loads it, whatever the interpreter.
        *package, name = fullname.split(".")
        return os.path.join(*package, "_ops.so") if name == "_ops" else super().get_ext_filename(fullname)

    def build_extensions(self) -> None:
        settings = Settings.resolve()
        settings.print()
        ninja_file = NinjaFile(Path(self.build_temp).resolve())
        add_host_rules(ninja_file, settings)
        if settings.nvcc:
            add_cuda_rule(ninja_file, settings)
        add_link_rules(ninja_file, settings)
        outputs = {e.name: Path(self.get_ext_fullpath(e.name)).resolve() for e in self.extensions}
        ninja_file.build("link_library", outputs["segext._ops"], library_objects(ninja_file, settings))
        ninja_file.build("link_module", outputs["segext._C"], [ninja_file.compile("module", s) for s in MODULE])
        for output in outputs.values():
            output.parent.mkdir(parents=True, exist_ok=True)
        ninja_file.run()


setup(
    ext_modules=[
        Extension("segext._ops", sorted([*PER_LEVEL, *ONCE, *GLUE, *CUDA])),
        Extension("segext._C", sorted(MODULE)),
    ],
    cmdclass={"build_ext": NinjaBuild},
)
