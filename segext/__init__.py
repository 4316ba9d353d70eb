"""segext: pooling, unpooling and upsampling layers for segmentation networks, with switches that take two bits.

Drop-in layers are in :mod:`segext.nn` and :mod:`segext.functional`; :func:`convert` swaps them into an existing model.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from . import batching, fakes, functional, nn  # noqa: F401 (the first two register themselves)
from ._convert import Change, Report, convert
from ._explain import explain
from .switches import Switches

if TYPE_CHECKING:
    from . import models, onnx

__all__ = ["Change", "Report", "Switches", "convert", "explain", "functional", "models", "nn", "onnx"]

try:
    __version__ = version("segext")
except PackageNotFoundError:  # a checkout built in place but never installed
    __version__ = "unknown"


def __getattr__(name: str):
    # Imported on first use: most users only need the layers, for their own networks in PyTorch.
    if name in ("models", "onnx"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
