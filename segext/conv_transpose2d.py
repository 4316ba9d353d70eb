"""Transposed convolution, and its fusions with the operations after it: crop, sum, argmax and loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops
from .arguments import IntPair, checked_pair
from .conv_routes import Call, Depthwise, fastest_call, supported_call
from .criterion import Criterion
from .overriding import overridable


@overridable
def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    output_padding: IntPair = 0,
    groups: int = 1,
    dilation: IntPair = 1,
) -> Tensor:
    """Transposed convolution.

    Arguments, values, gradients and errors are those of :func:`torch.nn.functional.conv_transpose2d`. If channels do
    not mix (``groups`` equal to the input's channels, as in bilinear upsampling of class scores), or all channels mix
    and the stride is greater than one, segext's kernels run where they are faster, as does a matrix product for an
    input of one pixel. Everything else runs stock's kernels. :func:`segext.explain` tells which kernels run, based on
    shapes, types, the memory format, the device and whether ``weight`` is trained.

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (C, K / groups, kernel height, kernel width), as in stock.
        bias: (K,), added to the output.
        stride, padding, output_padding, dilation: in pixels; one int or (vertical, horizontal).
        groups: number of groups that the channels are divided into.

    Returns:
        (N, K, H', W') or (K, H', W') with
        H' = (H - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1. From segext's kernels it is
        in the memory format of ``input``; stock's result may also take that of ``weight``.

    Raises:
        RuntimeError, ValueError, TypeError: as in stock, for shapes, types and arguments that do not fit.
    """
    call = fastest_call(input, weight, bias, stride, padding, output_padding, groups, dilation)
    if call is not None:
        return call.run(input, weight, bias)
    return F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)


@overridable
def conv_transpose2d_add(
    input: Tensor,
    weight: Tensor,
    addend: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    output_padding: IntPair = 0,
    groups: int = 1,
    dilation: IntPair = 1,
    *,
    crop: IntPair = (0, 0),
    addend_crop: IntPair = (0, 0),
    output_size: IntPair | None = None,
) -> Tensor:
    """``crop(conv_transpose2d(input, ...)) + crop(addend)``: FCN's skip connection, in one pass if channels do not mix.

    Args:
        addend: (N, K, H'', W'') or (K, H'', W''), the map to add.
        crop, addend_crop: one int or (top, left): where the kept part begins, in the transposed convolution's output
            and in ``addend``.
        output_size: one int or (height, width) of the kept part; by default all that both maps cover.

    Returns:
        (N, K, height, width) or (K, height, width).

    Other arguments and errors are those of :func:`conv_transpose2d`.

    Raises:
        TypeError: for an ``addend`` that is not a tensor; for crops and sizes that are not ints.
        ValueError: for a crop that reaches past either map; for a number of ints other than one or two.
    """
    if not isinstance(addend, Tensor):
        raise TypeError(f"conv_transpose2d_add(): argument 'addend' must be Tensor, not {type(addend).__name__}")
    if addend.dim() < 2:
        raise ValueError(f"addend should be a map, (N, K, H, W), but got one of shape {tuple(addend.shape)}")
    crop, addend_crop = checked_pair("crop", crop), checked_pair("addend_crop", addend_crop)
    output_size = _size_or_none(output_size)
    call = supported_call(input, weight, bias, stride, padding, output_padding, groups, dilation)
    if fuses_sum(call, input, weight, addend):
        size = _common_size(call.output_size, crop, addend.shape[-2:], addend_crop, output_size)
        return call.run(input, weight, bias, addend, crop=crop, size=size, addend_crop=addend_crop)
    result = conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    size = _common_size(result.shape[-2:], crop, addend.shape[-2:], addend_crop, output_size)
    return _part(result, crop, size) + _part(addend, addend_crop, size)


@overload
def conv_transpose2d_argmax(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    output_padding: IntPair = 0,
    groups: int = 1,
    dilation: IntPair = 1,
    *,
    crop: IntPair = (0, 0),
    output_size: IntPair | None = None,
    return_scores: Literal[False] = False,
) -> Tensor: ...
@overload
def conv_transpose2d_argmax(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    output_padding: IntPair = 0,
    groups: int = 1,
    dilation: IntPair = 1,
    *,
    crop: IntPair = (0, 0),
    output_size: IntPair | None = None,
    return_scores: Literal[True],
) -> tuple[Tensor, Tensor]: ...
@overridable
def conv_transpose2d_argmax(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    output_padding: IntPair = 0,
    groups: int = 1,
    dilation: IntPair = 1,
    *,
    crop: IntPair = (0, 0),
    output_size: IntPair | None = None,
    return_scores: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The label map ``crop(conv_transpose2d(input, ...)).argmax(1)``, without stored scores if channels do not mix.

    Ties go to the lowest class, and a NaN beats every number, as in :func:`torch.argmax`. Not differentiable.

    Args:
        crop: one int or (top, left): where the labelled part of the transposed convolution's output begins.
        output_size: one int or (height, width) of the labelled part; by default all from ``crop`` on.
        return_scores: return (labels, largest score of each pixel) rather than only the labels.

    Returns:
        (N, height, width), or (height, width) without a batch; uint8 for up to 256 classes, else int64. With
        ``return_scores``, the largest scores follow, of the same shape, in the type of the scores.

    Other arguments and errors are those of :func:`conv_transpose2d`.

    Raises:
        TypeError: for a crop or a size that is not made of ints.
        ValueError: for a crop that reaches past the output; for a number of ints other than one or two.
    """
    crop, output_size = checked_pair("crop", crop), _size_or_none(output_size)
    with torch.no_grad():
        call = supported_call(input, weight, bias, stride, padding, output_padding, groups, dilation)
        if fuses_argmax(call, weight):
            size = _checked_size(call.output_size, crop, output_size)
            labels, scores = call.argmax(input, weight, bias, crop, size, return_scores)
        else:
            result = conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
            size = _checked_size(result.shape[-2:], crop, output_size)
            scores, labels = _part(result, crop, size).max(-3)
            labels = labels.to(torch.uint8) if result.shape[-3] <= ops.MOST_LABELS else labels
    return (labels, scores) if return_scores else labels


@overridable
def conv_transpose2d_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    output_padding: IntPair = 0,
    groups: int = 1,
    dilation: IntPair = 1,
    *,
    crop: IntPair = (0, 0),
    class_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """``cross_entropy(crop(conv_transpose2d(input, ...)), target, ...)``, without stored scores if channels do not mix.

    In that case neither forward nor backward stores full-size scores (logits). If there will be a gradient, autograd
    keeps 9 bytes per pixel (17 for float64, 3 more beyond 255 classes) in place of the target: what turns recomputed
    scores into a softmax, and the label. Second derivatives and forward mode do store the scores.

    Args:
        target: (N, height, width), or (height, width) without a batch: the class of each pixel, int64. Its size is
            that of the part of the transposed convolution's output that is kept, from ``crop`` on.
        crop: one int or (top, left): where the part of the output that is compared with ``target`` begins.
        class_weight, ignore_index, reduction, label_smoothing: as in :func:`torch.nn.functional.cross_entropy`, which
            calls the first, (K,), ``weight``.

    Returns:
        One value, or with ``reduction="none"`` one per pixel; float32 under autocast.

    Other arguments and errors are those of :func:`conv_transpose2d` and :func:`torch.nn.functional.cross_entropy`.

    Raises:
        TypeError: for a crop that is not made of ints.
        ValueError: for a crop that reaches past the output, or a number of ints other than one or two.
        IndexError: for a target that is neither a class nor ``ignore_index``; on CUDA raised by ``backward()`` if there
            is a gradient, see :func:`segext.functional.set_index_check`. On the CPU, a compiled or exported graph
            raises RuntimeError instead.
    """
    crop = checked_pair("crop", crop)
    call = supported_call(input, weight, bias, stride, padding, output_padding, groups, dilation)
    criterion = Criterion(class_weight, ignore_index, reduction, label_smoothing)
    of_target = "crop and target"
    if fuses_cross_entropy(call, criterion, input, weight, target):
        _checked_size(call.output_size, crop, target.shape[-2:], of_target)
        return call.cross_entropy(input, weight, bias, target, crop, criterion)
    result = conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    if not hasattr(target, "shape") or len(target.shape) < 2:
        return criterion.of_scores(result, target)  # stock's error
    result = _part(result, crop, _checked_size(result.shape[-2:], crop, target.shape[-2:], of_target))
    if result.dim() == 4:
        return criterion.of_scores(result, target)
    loss = criterion.of_scores(result[None], target[None])
    return loss[0] if reduction == "none" else loss


def fuses_sum(call: Call | None, input: Tensor, weight: Tensor, addend: Tensor) -> bool:
    """Whether the sum with ``addend`` runs as one kernel; ``call`` is the supported one, likewise below."""
    return isinstance(call, Depthwise) and call.takes_addend(input, weight, addend)


def fuses_argmax(call: Call | None, weight: Tensor) -> bool:
    """Whether the label map is made without stored scores."""
    return isinstance(call, Depthwise) and weight.shape[0] * weight.shape[1] <= ops.MOST_LABELS


def fuses_cross_entropy(call: Call | None, criterion: Criterion, input: Tensor, weight: Tensor, target: Tensor) -> bool:
    """Whether the loss is computed without stored scores."""
    return isinstance(call, Depthwise) and criterion.fits(call.dtype, input, weight, target)


def _size_or_none(output_size: IntPair | None) -> tuple[int, int] | None:
    return None if output_size is None else checked_pair("output_size", output_size)


def _part(x: Tensor, crop: Sequence[int], size: Sequence[int]) -> Tensor:
    return x[..., crop[0] : crop[0] + size[0], crop[1] : crop[1] + size[1]]


def _checked_size(
    have: Sequence[int], crop: Sequence[int], output_size: Sequence[int] | None, names: str = "crop and output_size"
) -> tuple[int, int]:
    """The size kept from ``crop`` on in a map of size ``have``: ``output_size``, which must fit, or all that remains.

    ``names``: the arguments that determine it, for the error.
    """
    left = (have[0] - crop[0], have[1] - crop[1])
    size = left if output_size is None else tuple(output_size)
    # Not by min: an exported graph would accept only maps of which the same side is the smaller.
    if not all(start >= 0 and 1 <= kept <= most for start, kept, most in zip(crop, size, left, strict=True)):
        wanted = "something" if output_size is None else f"{size[0]}x{size[1]}"
        raise ValueError(f"cannot keep {wanted} from {tuple(crop)} on of a map of {have[0]}x{have[1]}; see {names}")
    return size


def _common_size(have, crop, addend_size, addend_crop, output_size) -> tuple[int, int]:
    of_addend = "addend_crop and output_size"
    if output_size is None:
        ours, theirs = _checked_size(have, crop, None), _checked_size(addend_size, addend_crop, None, of_addend)
        return min(ours[0], theirs[0]), min(ours[1], theirs[1])
    _checked_size(addend_size, addend_crop, output_size, of_addend)
    return _checked_size(have, crop, output_size)
