"""segext: pooling, unpooling and upsampling layers for segmentation networks, with switches that cost two bits.

Drop-in layers are in :mod:`segext.nn` and :mod:`segext.functional`; :func:`convert` swaps them into an existing model.
"""

from importlib.metadata import PackageNotFoundError, version

from . import functional, models, nn
from .convert import convert
from .switches import Switches
from .unpool_conv2d import explain

__all__ = ["Switches", "convert", "explain", "functional", "models", "nn"]

try:
    __version__ = version("segext")
except PackageNotFoundError:  # a checkout that was built in place but never installed
    __version__ = "unknown"
