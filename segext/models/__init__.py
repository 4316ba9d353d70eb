"""Segmentation networks built from segext's layers: FCN-32s, FCN-16s and FCN-8s, DeconvNet, SegNet.

Each is built by a function of the same name; ``MODELS`` maps names to these functions. ``layers="torch"`` builds the
same network from stock layers, with the same state dict. ``load_weights`` loads published weights.
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
