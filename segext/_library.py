"""Loads the compiled parts of segext: the op library into torch's dispatcher, and the pybind11 module."""

import os

import torch


def _load() -> None:
    folder = os.path.dirname(os.path.abspath(__file__))
    rebuild = "rebuild it with `pip install --no-build-isolation --no-deps .` in a checkout, under the torch in use"
    library = os.path.join(folder, "_ops.so")
    if not os.path.exists(library):
        raise ImportError(f"segext's compiled op library is missing ({library}): {rebuild}")
    try:
        torch.ops.load_library(library)
    except OSError as error:
        raise ImportError(
            f"segext's compiled op library does not load under torch {torch.__version__}: {rebuild} ({error})"
        ) from error


_load()

from ._C import build_info, cpu_capability  # noqa: E402  (a missing library is explained first)

__all__ = ["build_info", "cpu_capability"]
