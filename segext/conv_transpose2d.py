"""Transposed convolution and what follows it: which kernels a call takes, fusions with crop, sum, argmax and loss."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops
from .switches import prefers_channels_last

_MOST_LABELS = 256  # that uint8 holds
_LARGE_STRIDE = 4
_LARGEST_STRIDE = 256  # scratch grows with it, and beyond it most of the output is no tap of any input
_MANY_PIXELS = 256
_FEW_CHANNELS = 64
_MULTIPLIES_BFLOAT16 = bool(torch.cpu.get_capabilities().get("amx_bf16"))

IntPair = int | Sequence[int]


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

    As :func:`torch.nn.functional.conv_transpose2d`, in arguments, values, gradients and errors. Where channels do
    not mix (``groups`` equal to the input's channels, as in bilinear upsampling of class scores), or all mix and the
    stride is more than one, segext's kernels run if they are the faster ones; one pixel of input is a matrix product;
    all else is stock's. :func:`explain` tells which, from shapes, types and the device alone.

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (C, K / groups, kernel height, kernel width), as stock's.
        bias: (K,), added to the output.
        stride, padding, output_padding, dilation: in pixels, one int or (vertical, horizontal).
        groups: into how many groups channels are divided.

    Returns:
        (N, K, H', W') or (K, H', W') with
        H' = (H - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1.

    Raises:
        RuntimeError, ValueError, TypeError: as stock, for shapes, types and arguments that do not fit.
    """
    call = _depthwise(input, weight, bias, stride, padding, output_padding, groups, dilation)
    if call is not None and call.beats_stock(input):
        return call.run(input, weight, bias)
    if _is_product(input, weight, bias, stride, padding, output_padding, groups, dilation):
        return _product(input, weight, bias, _pair(padding))
    dense = _dense(input, weight, bias, stride, padding, output_padding, groups, dilation)
    if dense is not None and dense.beats_stock(input, weight):
        return dense.run(input, weight, bias)
    return F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)


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
    crop: tuple[int, int] = (0, 0),
    addend_crop: tuple[int, int] = (0, 0),
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """``crop(conv_transpose2d(input, ...)) + crop(addend)``: the skip connection of FCN, in one pass where channels do
    not mix.

    Args:
        addend: (N, K, H'', W''), the map that is added.
        crop, addend_crop: (top, left) of the part that is kept, of the transposed convolution's output and of
            ``addend``.
        output_size: (height, width) kept from there on; by default all that both maps have.

    Other arguments and errors as :func:`conv_transpose2d`.

    Raises:
        ValueError: for a crop that reaches past either map.
    """
    call = _depthwise(input, weight, bias, stride, padding, output_padding, groups, dilation)
    if call is not None and call.takes_addend(input, weight, addend):
        size = _common_size(call.output_size, crop, addend.shape[-2:], addend_crop, output_size)
        return call.run(input, weight, bias, addend, crop=crop, size=size, addend_crop=addend_crop)
    result = conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    size = _common_size(result.shape[-2:], crop, addend.shape[-2:], addend_crop, output_size)
    return _part(result, crop, size) + _part(addend, addend_crop, size)


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
    crop: tuple[int, int] = (0, 0),
    output_size: Sequence[int] | None = None,
    return_scores: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The label map ``crop(conv_transpose2d(input, ...)).argmax(1)``; where channels do not mix, without the scores.

    Ties go to the lowest class and a NaN beats every number, as in :func:`torch.argmax`. Not differentiable.

    Args:
        crop: (top, left) of the part of the transposed convolution's output that is labelled.
        output_size: (height, width) labelled from there on; by default all that is left.
        return_scores: return (labels, largest score of each pixel) rather than the labels alone.

    Returns:
        (N, height, width), or (height, width) without a batch; uint8 for up to 256 classes, else int64.

    Other arguments and errors as :func:`conv_transpose2d`.

    Raises:
        ValueError: for a crop that reaches past the output.
    """
    with torch.no_grad():
        call = _depthwise(input, weight, bias, stride, padding, output_padding, groups, dilation)
        if call is not None and weight.shape[0] * weight.shape[1] <= _MOST_LABELS:
            size = _checked_size(call.output_size, crop, output_size)
            labels, scores = call.argmax(input, weight, bias, crop, size, return_scores)
        else:
            result = conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
            size = _checked_size(result.shape[-2:], crop, output_size)
            scores, labels = _part(result, crop, size).max(-3)
            labels = labels.to(torch.uint8) if result.shape[-3] <= _MOST_LABELS else labels
    return (labels, scores) if return_scores else labels


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
    crop: tuple[int, int] = (0, 0),
    class_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """``cross_entropy(crop(conv_transpose2d(input, ...)), target, ...)``, without the scores where channels do not mix.

    Then neither forward nor backward holds scores at full size, and autograd keeps nothing but the arguments. Second
    derivatives and forward mode do hold the scores.

    Args:
        target: (N, height, width), or (height, width) without a batch: the class of each pixel, int64. Its size is
            what is kept of the transposed convolution's output from ``crop`` on.
        crop: (top, left) of the part of the output that is compared with ``target``.
        class_weight, ignore_index, reduction, label_smoothing: as :func:`torch.nn.functional.cross_entropy`, where the
            first, (K,), is ``weight``.

    Returns:
        One value, or with ``reduction="none"`` one for each pixel; float32 under autocast.

    Other arguments and errors as :func:`conv_transpose2d` and :func:`torch.nn.functional.cross_entropy`.

    Raises:
        ValueError: for a crop that reaches past the output.
        IndexError: for a target that is neither a class nor ``ignore_index``.
    """
    call = _depthwise(input, weight, bias, stride, padding, output_padding, groups, dilation)
    criterion = _Criterion(class_weight, ignore_index, reduction, label_smoothing)
    if call is not None and criterion.fits(call, input, weight, target):
        _checked_size(call.output_size, crop, target.shape[-2:])
        return call.cross_entropy(input, weight, bias, target, crop, criterion)
    result = conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    if isinstance(target, Tensor) and target.dim() >= 2:  # else stock's error
        result = _part(result, crop, _checked_size(result.shape[-2:], crop, target.shape[-2:]))
    if result.dim() == 3 and isinstance(target, Tensor):
        loss = criterion.of_scores(result[None], target[None])
        return loss[0] if reduction == "none" else loss
    return criterion.of_scores(result, target)


def explain(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    output_padding: IntPair = 0,
    groups: int = 1,
    dilation: IntPair = 1,
) -> str:
    """Which kernels :func:`conv_transpose2d` takes for these arguments, and why, in one line."""
    call = _depthwise(input, weight, bias, stride, padding, output_padding, groups, dilation)
    if call is not None and call.beats_stock(input):
        return "segext: channels do not mix, so each output row is a sum of a few rows of input"
    if _is_product(input, weight, bias, stride, padding, output_padding, groups, dilation):
        return "matrix product: the input is one pixel, so each weight is used once"
    dense = _dense(input, weight, bias, stride, padding, output_padding, groups, dilation)
    if dense is not None and dense.beats_stock(input, weight):
        return "segext: a sum of few taps for each phase of the stride, in the memory format of the input"
    if input.device.type not in ops.DEVICES:
        return f"torch: segext has no kernels for {input.device.type}"
    if groups not in (1, weight.shape[0]):
        return "torch: channels mix in groups"
    if call is not None or dense is not None:
        return "torch: it is faster for strides, sizes, types and formats such as these"
    return "torch: segext has no kernels for these arguments"


@dataclass(frozen=True)
class _Depthwise:
    """A call whose channels do not mix."""

    dtype: torch.dtype
    output_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def beats_stock(self, input: Tensor) -> bool:
        """Whether segext's kernels are the faster ones.

        Measured on CPUs with AVX-512. On CUDA a guess, never measured: they move each byte once, and stock's take
        depthwise transposed convolution for the gradient of a general convolution.
        """
        if max(self.stride) == 1:
            return False
        if input.is_cuda:
            return True
        if self.dtype is not torch.float32 or max(self.stride) >= _LARGE_STRIDE:
            return True  # stock has fast paths for float32 alone
        return not prefers_channels_last(input) and input.shape[-2] * input.shape[-1] >= _MANY_PIXELS

    def takes_addend(self, input: Tensor, weight: Tensor, addend: Tensor) -> bool:
        """Whether the sum needs no conversion and no broadcasting."""
        maps = (*input.shape[:-3], weight.shape[0] * weight.shape[1])
        return addend.dtype == self.dtype and addend.device == input.device and tuple(addend.shape[:-2]) == maps

    def run(self, input, weight, bias, addend=None, *, crop=(0, 0), size=None, addend_crop=(0, 0)) -> Tensor:
        input, weight, bias = _cast(self.dtype, input, weight, bias)
        batched = input.dim() == 4
        if not batched:
            input, addend = input[None], None if addend is None else addend[None]
        size, origin = size or self.output_size, self._origin(crop)
        channels_last = prefers_channels_last(input)
        result = ops.depthwise_conv_transpose2d(
            input, weight, bias, addend, size, self.stride, origin, self.dilation, tuple(addend_crop), channels_last
        )
        return result if batched else result[0]

    def argmax(self, input, weight, bias, crop, size, return_scores) -> tuple[Tensor, Tensor]:
        input, weight, bias = _cast(self.dtype, input, weight, bias)
        batch = input if input.dim() == 4 else input[None]
        origin, channels_last = self._origin(crop), prefers_channels_last(batch)
        results = ops.depthwise_conv_transpose2d_argmax(
            batch, weight, bias, size, self.stride, origin, self.dilation, channels_last, return_scores
        )
        labels, scores = results
        if input.dim() == 4:
            return results
        return labels[0], scores[0] if return_scores else scores

    def cross_entropy(self, input, weight, bias, target, crop, criterion: _Criterion) -> Tensor:
        sum_dtype = torch.promote_types(self.dtype, torch.float32)
        result_dtype = sum_dtype if _autocasts(input) else self.dtype
        input, weight, bias = _cast(self.dtype, input, weight, bias)
        (class_weight,) = _cast(sum_dtype, criterion.class_weight)
        batched = input.dim() == 4
        if not batched:
            input, target = input[None], target[None]
        reduce = criterion.reduction != "none"
        window = (self.stride, self._origin(crop), self.dilation)
        options = (criterion.ignore_index, float(criterion.label_smoothing), prefers_channels_last(input), reduce)
        try:
            loss, total_weight = ops.depthwise_conv_transpose2d_cross_entropy(
                input, weight, bias, target, class_weight, *window, *options
            )
        except RuntimeError as error:
            invalid = re.search(r"Target -?\d+ is out of bounds\.", str(error))
            if invalid is None:
                raise
            raise IndexError(invalid.group()) from None  # as stock; an op can only raise the other
        if criterion.reduction == "mean":
            if criterion.label_smoothing > 0:  # stock divides nothing by no weight
                total_weight = total_weight.where(total_weight != 0, torch.nan)
            loss = loss / total_weight
        (loss,) = _cast(result_dtype, loss)
        return loss if batched or reduce else loss[0]

    def _origin(self, crop) -> tuple[int, int]:
        return self.padding[0] + crop[0], self.padding[1] + crop[1]


@dataclass(frozen=True)
class _Criterion:
    """The arguments of :func:`torch.nn.functional.cross_entropy` after scores and target."""

    class_weight: Tensor | None
    ignore_index: int
    reduction: str
    label_smoothing: float

    def of_scores(self, scores: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            scores,
            target,
            self.class_weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )

    def fits(self, call: _Depthwise, input: Tensor, weight: Tensor, target: Tensor) -> bool:
        """Whether all is as it should be for segext's kernels; else stock's, or its errors, are to speak."""
        if not isinstance(target, Tensor) or target.dtype != torch.int64 or target.device != input.device:
            return False
        if input.is_cuda:
            return False  # the loss has kernels on the CPU alone
        if target.dim() != input.dim() - 1 or target.shape[:-2] != input.shape[:-3]:
            return False
        if self.reduction not in ("mean", "sum", "none") or not isinstance(self.ignore_index, int):
            return False
        if not isinstance(self.label_smoothing, (int, float)) or not self.label_smoothing <= 1:
            return False
        if self.class_weight is None:
            return True
        given = self.class_weight
        if not isinstance(given, Tensor) or given.requires_grad or given.device != input.device:
            return False
        # Autocast brings all but float64 to one type.
        fits = given.dtype in ops.FLOATS - {torch.float64} if _autocasts(input) else given.dtype == call.dtype
        return fits and given.shape == (weight.shape[0] * weight.shape[1],)


def _depthwise(input, weight, bias, stride, padding, output_padding, groups, dilation) -> _Depthwise | None:
    """The call, if it is one for segext's kernels and all its arguments are as they should be."""
    window = _window(input, weight, bias, stride, padding, output_padding, dilation)
    if window is None or not groups == weight.shape[0] == input.shape[-3]:
        return None
    stride, padding, output_padding, dilation = window
    if max(stride) > _LARGEST_STRIDE or (not input.is_cuda and _has_absent_taps(weight, stride, dilation)):
        return None
    size = _output_size(input, weight, stride, padding, output_padding, dilation)
    outputs = weight.shape[0] * weight.shape[1]
    if size[0] <= 0 or size[1] <= 0 or (bias is not None and bias.shape != (outputs,)):
        return None
    return _Depthwise(_compute_dtype(input), size, stride, padding, dilation)


@dataclass(frozen=True)
class _Dense:
    """A call whose channels all mix."""

    dtype: torch.dtype
    output_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def beats_stock(self, input: Tensor, weight: Tensor) -> bool:
        """Whether segext's kernels are the faster ones, as measured on a CPU with AVX-512 and AMX."""
        if max(self.stride) == 1:
            return False  # a plain convolution, at which stock's are at the machine's limit
        # Class scores, for one: stock's kernels are for multiples of 16.
        few = max(weight.shape[:2]) < _FEW_CHANNELS and weight.shape[1] % 16 != 0
        if has_fast_products(self.dtype):
            return few and max(self.stride) >= _LARGE_STRIDE
        if few or self.dtype is torch.float64:
            return True
        return not prefers_channels_last(input) and input.shape[-2] * input.shape[-1] >= 4 * _MANY_PIXELS

    def run(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        input, weight, bias = _cast(self.dtype, input, weight, bias)
        batch = input if input.dim() == 4 else input[None]
        window = self.output_size, self.stride, self.padding, self.dilation
        result = ops.dense_conv_transpose2d(batch, weight, bias, *window, prefers_channels_last(batch))
        return result if input.dim() == 4 else result[0]


def has_fast_products(dtype: torch.dtype) -> bool:
    """Whether this CPU has instructions that multiply matrices of a type, which stock uses and segext does not."""
    return dtype is torch.bfloat16 and _MULTIPLIES_BFLOAT16


def _dense(input, weight, bias, stride, padding, output_padding, groups, dilation) -> _Dense | None:
    """The call, if it is one for segext's kernels and all its arguments are as they should be."""
    window = _window(input, weight, bias, stride, padding, output_padding, dilation)
    if window is None or input.is_cuda or groups != 1 or weight.shape[0] != input.shape[-3]:
        return None
    if max(window[0]) > _LARGEST_STRIDE or (bias is not None and bias.shape != weight.shape[1:2]):
        return None
    size = _output_size(input, weight, *window)
    stride, padding, _, dilation = window
    return _Dense(_compute_dtype(input), size, stride, padding, dilation) if min(size) > 0 else None


def _has_absent_taps(weight: Tensor, stride: tuple[int, int], dilation: tuple[int, int]) -> bool:
    """Whether some output pixels have fewer taps than others. The CPU's depthwise kernels multiply by zero in their
    place, which an infinite input turns into NaN."""
    sizes = zip(weight.shape[-2:], stride, dilation, strict=True)
    return any(kernel % s != 0 or (d > 1 and kernel > 1) for kernel, s, d in sizes)


def _output_size(input, weight, stride, padding, output_padding, dilation) -> tuple[int, int]:
    axes = zip(input.shape[-2:], weight.shape[-2:], stride, padding, output_padding, dilation, strict=True)
    return tuple((n - 1) * s - 2 * p + d * (k - 1) + more + 1 for n, k, s, p, more, d in axes)


def _is_product(input, weight, bias, stride, padding, output_padding, groups, dilation) -> bool:
    """Whether the input is one pixel whose channels all mix, and the output the kernel less its padding."""
    window = _window(input, weight, bias, stride, padding, output_padding, dilation)
    if window is None or groups != 1 or tuple(input.shape[-2:]) != (1, 1) or input.shape[-3] != weight.shape[0]:
        return False
    _, padding, output_padding, dilation = window
    fits = all(2 * p < k for p, k in zip(padding, weight.shape[-2:], strict=True))
    return (
        fits and output_padding == (0, 0) and dilation == (1, 1) and (bias is None or bias.shape == weight.shape[1:2])
    )


def _product(input: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    input, weight, bias = _cast(_compute_dtype(input), input, weight, bias)
    if padding != (0, 0):
        (top, left), (height, width) = padding, weight.shape[-2:]
        weight = weight[..., top : height - top, left : width - left]
    pixels = input.reshape(-1, weight.shape[0])
    # In the order weights lie in: they are all that is to be read.
    if weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous():
        _, outputs, height, width = weight.shape
        result = (pixels @ weight.permute(0, 2, 3, 1).flatten(1)).view(-1, height, width, outputs).permute(0, 3, 1, 2)
    else:
        result = (pixels @ weight.flatten(1)).view(-1, *weight.shape[1:])
    result = result if bias is None else result + bias.view(-1, 1, 1)
    return result if input.dim() == 4 else result[0]


def _window(input, weight, bias, stride, padding, output_padding, dilation) -> tuple[tuple[int, int], ...] | None:
    """Stride, padding, output_padding and dilation as pairs; None where stock's kernels, or errors, are to speak."""
    tensors = [input, weight] if bias is None else [input, weight, bias]
    if not all(isinstance(x, Tensor) for x in tensors):
        return None
    if input.device.type not in ops.DEVICES or any(x.device != input.device for x in tensors):
        return None
    if input.dim() not in (3, 4) or weight.dim() != 4 or 0 in input.shape[-3:] or 0 in weight.shape:
        return None
    if input.dtype not in ops.FLOATS or not (_autocasts(input) or all(x.dtype == input.dtype for x in tensors)):
        return None
    pairs = [_pair(value) for value in (stride, padding, output_padding, dilation)]
    if None in pairs:
        return None
    for s, p, more, d in zip(*pairs, strict=True):
        if s < 1 or p < 0 or d < 1 or more < 0 or more >= max(s, d):
            return None
    return tuple(pairs)


def _pair(value: IntPair) -> tuple[int, int] | None:
    if isinstance(value, int):
        return value, value
    if isinstance(value, Sequence) and len(value) in (1, 2) and all(isinstance(v, int) for v in value):
        return value[0], value[-1]
    return None


def _autocasts(input: Tensor) -> bool:
    return not input.is_meta and torch.is_autocast_enabled(input.device.type) and input.dtype != torch.float64


def _compute_dtype(input: Tensor) -> torch.dtype:
    """Stock casts transposed convolutions to the lower precision under autocast."""
    return torch.get_autocast_dtype(input.device.type) if _autocasts(input) else input.dtype


def _cast(dtype: torch.dtype, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(x if x is None or x.dtype == dtype else x.to(dtype) for x in tensors)


def _part(x: Tensor, crop: Sequence[int], size: Sequence[int]) -> Tensor:
    return x[..., crop[0] : crop[0] + size[0], crop[1] : crop[1] + size[1]]


def _checked_size(have: Sequence[int], crop: Sequence[int], output_size: Sequence[int] | None) -> tuple[int, int]:
    """The size kept from ``crop`` on of a map of ``have``: ``output_size``, which must fit, or all that is left."""
    left = (have[0] - crop[0], have[1] - crop[1])
    size = left if output_size is None else tuple(output_size)
    if min(crop) < 0 or len(size) != 2 or min(size) < 1 or size[0] > left[0] or size[1] > left[1]:
        raise ValueError(f"a crop at {tuple(crop)} of size {size} does not fit a map of {tuple(have)}")
    return size


def _common_size(have, crop, addend_size, addend_crop, output_size) -> tuple[int, int]:
    if output_size is None:
        ours, theirs = _checked_size(have, crop, None), _checked_size(addend_size, addend_crop, None)
        return min(ours[0], theirs[0]), min(ours[1], theirs[1])
    _checked_size(addend_size, addend_crop, output_size)
    return _checked_size(have, crop, output_size)
