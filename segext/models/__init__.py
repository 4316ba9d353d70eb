"""Segmentation networks that the layers are for: FCN-32s, FCN-16s and FCN-8s, DeconvNet, SegNet.

Each is built by a function of its name; ``MODELS`` maps names to these. ``layers="torch"`` builds the same network,
with the same state dict, of stock layers. ``load_weights`` loads published weights.
"""

from .base import SegmentationModel
from .deconvnet import deconvnet
from .fcn import fcn8s, fcn16s, fcn32s
from .segnet import segnet
from .weights import LoadReport, load_weights

__all__ = [
    "MODELS",
    "LoadReport",
    "SegmentationModel",
    "deconvnet",
    "fcn8s",
    "fcn16s",
    "fcn32s",
    "load_weights",
    "segnet",
]

MODELS = {builder.__name__: builder for builder in (fcn32s, fcn16s, fcn8s, deconvnet, segnet)}
