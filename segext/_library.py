"""Loads the compiled parts of segext: the op library into torch's dispatcher, and the pybind11 module."""

import os
import sys

import torch

_REBUILD = (
    "rebuild it with `pip install --no-build-isolation --no-deps .` in a checkout, under the Python and torch in use"
)


def _load() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))
    library = os.path.join(folder, "_ops.so")
    if not os.path.exists(library):
        raise ImportError(f"segext's compiled op library is missing ({library}): {_REBUILD}")
    try:
        torch.ops.load_library(library)
    except OSError as error:
        raise ImportError(
            f"segext's compiled op library does not load under torch {torch.__version__}: {_REBUILD} ({error})"
        ) from error


_load()

try:
    from ._C import build_info, cpu_capability  # after _load, so that a missing library is explained first
except ModuleNotFoundError as error:
    version = ".".join(map(str, sys.version_info[:2]))
    raise ImportError(f"segext is not built for Python {version}: {_REBUILD} ({error})") from error

__all__ = ["build_info", "cpu_capability"]
