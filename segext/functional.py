"""segext's layers as functions, with the signatures of ``torch.nn.functional`` and ``Switches`` for int64 indices."""

from __future__ import annotations

from .bilinear import bilinear_weight
from .conv_transpose2d import (
    conv_transpose2d,
    conv_transpose2d_add,
    conv_transpose2d_argmax,
    conv_transpose2d_cross_entropy,
)
from .max_pool2d import max_pool2d, relu_max_pool2d
from .max_unpool2d import max_unpool2d
from .unpool_conv2d import (
    prepack_unpool_conv2d,
    prepack_unpool_conv_transpose2d,
    unpool_conv2d,
    unpool_conv_transpose2d,
)
from .value_checks import set_index_check

__all__ = [
    "bilinear_weight",
    "conv_transpose2d",
    "conv_transpose2d_add",
    "conv_transpose2d_argmax",
    "conv_transpose2d_cross_entropy",
    "max_pool2d",
    "max_unpool2d",
    "prepack_unpool_conv2d",
    "prepack_unpool_conv_transpose2d",
    "relu_max_pool2d",
    "set_index_check",
    "unpool_conv2d",
    "unpool_conv_transpose2d",
]
