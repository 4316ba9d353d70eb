"""Batching rules of the ops, for ``torch.vmap``.

The batch is folded into N, and an unbatched map becomes a batch. Sums over N, and convolutions with a separate kernel
for each sample, process one sample at a time.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from . import ops
from .derivatives import registrations


def _fold(info, in_dim, x, has_samples: bool):
    if not isinstance(x, Tensor):
        return x
    x = x.unsqueeze(0).expand(info.batch_size, *x.shape) if in_dim is None else x.movedim(in_dim, 0)
    return x.flatten(0, 1) if has_samples else x


def _each_result(result, function) -> tuple:
    """The return value of a batching rule: ``function`` of each result, mapped over its first dimension."""
    if isinstance(result, Tensor):
        return function(result), 0
    return tuple(map(function, result)), (0,) * len(result)


def _call_folded(op, info, in_dims, args, shared: Collection[int] = ()):
    """One call of ``op``, with the batch folded into N of all tensors except those ``shared`` by all samples."""
    has_samples = args[0].dim() - (in_dims[0] is not None) == 4
    samples = args[0].shape[1 if in_dims[0] == 0 else 0]
    folded = enumerate(zip(in_dims, args, strict=True))
    result = op(*(a if k in shared else _fold(info, d, a, has_samples) for k, (d, a) in folded))

    def unfold(x: Tensor) -> Tensor:
        if x.dim() == 1 and x.numel() == 0:
            return x.expand(info.batch_size, 0)  # a result that was not requested
        return x.unflatten(0, (info.batch_size, samples)) if has_samples else x

    return _each_result(result, unfold)


def _call_one_by_one(op, info, in_dims, args):
    def call(k: int):
        return op(*(x.select(d, k) if isinstance(d, int) else x for d, x in zip(in_dims, args, strict=True)))

    results = [call(k) for k in range(info.batch_size)]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return _each_result(tuple(zip(*results, strict=True)), torch.stack)


def _call_sharing_kernels(op, info, in_dims, args):
    """A convolution, as one call if all samples share its kernels."""
    shared = [k for k, argument in enumerate(op._schema.arguments) if argument.name in _KERNELS]
    if any(in_dims[k] is not None for k in shared):
        return _call_one_by_one(op, info, in_dims, args)
    return _call_folded(op, info, in_dims, args, shared)


_KERNELS = ("weight", "packed_weight", "bias")
_RULES = {
    _call_folded: (
        "max_pool2d",
        "relu_max_pool2d",
        "max_pool2d_backward",
        "max_pool2d_double_backward",
        "max_unpool2d",
        "max_unpool2d_backward",
        "max_unpool2d_indices",
        "max_unpool2d_indices_backward",
    ),
    _call_sharing_kernels: (
        "depthwise_conv_transpose2d",
        "depthwise_conv_transpose2d_argmax",
        "dense_conv_transpose2d",
        "unpool_conv2d",
    ),
    _call_one_by_one: (
        "depthwise_conv_transpose2d_backward",
        "depthwise_conv_transpose2d_cross_entropy",
        "depthwise_conv_transpose2d_cross_entropy_backward",
        "unpool_conv2d_backward",
    ),
}


def _register(op, call) -> None:
    torch.library.register_vmap(op, lambda info, in_dims, *args: call(op, info, in_dims, args), lib=registrations)


for _call, _names in _RULES.items():
    for _name in _names:
        _register(ops.overload(_name), _call)
