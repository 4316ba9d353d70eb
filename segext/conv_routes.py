"""Alternatives to stock's transposed convolution: which calls each supports, when it is faster, and how it runs."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from . import ops
from .arguments import pair_or_none, prefers_channels_last
from .conv_arguments import autocasts, cast, compute_dtype, transposed_size, window_or_none
from .criterion import Criterion
from .value_checks import can_check

_LARGE_STRIDE = 4
_STOCK_UPSAMPLES = (100_000, 2_000_000)  # range of elements of channels_last maps in which stock may be faster
_STOCK_CHANNELS = 512  # from here on, stock may be faster for bilinear kernels too
_LARGEST_REACH = 256  # of a kernel whose channels mix; the margin around the copied input grows with it
_LARGEST_STRIDE = 256  # scratch memory grows with it, and beyond it hardly any output meets a tap
_MOST_TAPS = 64  # along an axis of a phase of a depthwise call, gaps of dilation included, which cost as much as taps
_TILE_OUTPUTS = 32  # that the kernel for mixing channels computes at once, whether they exist or not
_FEWEST_OUTPUTS = 8  # below which it computes so many for nothing that stock is faster at every stride
_MANY_PIXELS = 1024  # of a NCHW map, from which on it is faster for any number of channels
_FEW_PIXELS = 400  # below which stock may be done before segext's kernels have begun
_MOST_DIRECT_ELEMENTS = 20480  # of the input, from which on stock's transposed convolution uses oneDNN
_FEW_CHANNELS = 64  # of both input and output
_STOCK_MULTIPLE = 16  # of channels, for which stock's kernels are made
# Strides from which on segext is faster and below which stock is. Like all bounds on what is faster, they come from
# interleaved timings of both; these, on an EPYC with AVX-512 and its bfloat16 dot products.
_NARROW_STRIDE = 32  # in float32, with so few outputs that they do not fill a tile
_CHANNELS_LAST_STRIDE = 8  # of few channels in channels_last
_DOTS_STRIDE = 16  # of few channels in bfloat16
_DOTS_LARGE_STRIDE, _DOTS_LARGE_PIXELS = 8, 3600  # likewise, of large maps: class scores of 60x60 and more
_LEAST_KEPT = 1 / 8  # of a kernel: with less left by padding, a product cuts the kernel rather than its result
_MULTIPLIES_BFLOAT16 = bool(torch.cpu.get_capabilities().get("amx_bf16"))
_DOTS_BFLOAT16 = bool(torch.cpu.get_capabilities().get("avx512_bf16"))

Pair = tuple[int, int]


def _onednn_has(dtype: str) -> bool:
    supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{dtype}_supported", None)
    return supported is not None and bool(supported())


# Half types that oneDNN convolves on this CPU. For others stock has general loops: float16 took 4 to 177 times as long.
_HALF_CONVOLVED = {torch.bfloat16: _onednn_has("bf16"), torch.float16: _onednn_has("fp16")}


def _stock_loops(input: Tensor, dtype: torch.dtype) -> bool:
    return not input.is_cuda and not _HALF_CONVOLVED.get(dtype, True)


@dataclass(frozen=True)
class Call:
    """A call in the form that one kind of kernels takes. ``why``: the reason why they are faster, where they are."""

    dtype: torch.dtype
    output_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    why: ClassVar[str]

    @staticmethod
    def beats_stock(input: Tensor, weight: Tensor, stride: Pair, dilation: Pair | None, dtype: torch.dtype) -> bool:
        """Whether these kernels are faster than stock's when computing in ``dtype``."""
        raise NotImplementedError

    def run(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The result of the transposed convolution."""
        raise NotImplementedError


class Depthwise(Call):
    """A call whose channels do not mix."""

    why = "segext: channels do not mix, so each output row is a sum of a few rows of input"

    @staticmethod
    def beats_stock(input: Tensor, weight: Tensor, stride: Pair, dilation: Pair | None, dtype: torch.dtype) -> bool:
        # Measured on CPUs with AVX-512 and, for strides above 1, on an H200, where stock's kernels treat this as the
        # gradient of a general convolution.
        if _stock_loops(input, dtype):
            return True
        if max(stride) == 1:
            return False
        if input.is_cuda:
            return True
        if dtype is not torch.float32 or max(stride) >= _LARGE_STRIDE:
            return True  # stock has fast paths for float32 only
        if not prefers_channels_last(input):
            return True
        if weight.requires_grad and torch.is_grad_enabled():
            return True  # stock's gradient of the weight takes several times as long as all else
        kernel = tuple(weight.shape[-2:])
        if dilation == (1, 1) and kernel == stride:
            return True
        bilinear = dilation == (1, 1) and kernel == (2 * stride[0], 2 * stride[1])
        if bilinear and weight.shape[0] < _STOCK_CHANNELS:
            return True
        least, most = _STOCK_UPSAMPLES
        return _always(input.numel() < least) or _always(input.numel() >= most)

    def takes_addend(self, input: Tensor, weight: Tensor, addend: Tensor) -> bool:
        """Whether the sum needs no conversion and no broadcasting, and is faster than stock's."""
        if max(self.stride) == 1 and not _stock_loops(input, self.dtype):
            return False
        maps = (*input.shape[:-3], weight.shape[0] * weight.shape[1])
        return addend.dtype == self.dtype and addend.device == input.device and tuple(addend.shape[:-2]) == maps

    def run(self, input, weight, bias, addend=None, *, crop=(0, 0), size=None, addend_crop=(0, 0)) -> Tensor:
        input, weight, bias = cast(self.dtype, input, weight, bias)
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
        input, weight, bias = cast(self.dtype, input, weight, bias)
        batch = input if input.dim() == 4 else input[None]
        origin, channels_last = self._origin(crop), prefers_channels_last(batch)
        results = ops.depthwise_conv_transpose2d_argmax(
            batch, weight, bias, size, self.stride, origin, self.dilation, channels_last, return_scores
        )
        labels, scores = results
        if input.dim() == 4:
            return results
        return labels[0], scores[0] if return_scores else scores

    def cross_entropy(self, input, weight, bias, target, crop, criterion: Criterion) -> Tensor:
        sum_dtype = torch.promote_types(self.dtype, torch.float32)
        result_dtype = sum_dtype if autocasts(input) else self.dtype
        input, weight, bias = cast(self.dtype, input, weight, bias)
        (class_weight,) = cast(sum_dtype, criterion.class_weight)
        batched = input.dim() == 4
        if not batched:
            input, target = input[None], target[None]
        reduce = criterion.reduction != "none"
        window = (self.stride, self._origin(crop), self.dilation)
        options = (criterion.ignore_index, float(criterion.label_smoothing), prefers_channels_last(input), reduce)
        check = None
        if target.is_cuda and can_check(target):
            check = criterion.check_of(target, weight.shape[0] * weight.shape[1])
        try:
            # Without what gradients need, which autograd asks for by itself.
            loss, total_weight, *_ = ops.depthwise_conv_transpose2d_cross_entropy(
                input, weight, bias, target, class_weight, *window, *options, False
            )
        except RuntimeError as error:
            invalid = re.search(r"Target -?\d+ is out of bounds\.", str(error))
            if invalid is None:
                raise
            raise IndexError(invalid.group()) from None  # as stock; an op can only raise the other
        node = None if check is None else loss.grad_fn
        if criterion.reduction == "mean":
            if criterion.label_smoothing > 0:  # stock divides nothing by no weight
                total_weight = total_weight.where(total_weight != 0, torch.nan)
            loss = loss / total_weight
        (loss,) = cast(result_dtype, loss)
        if check is not None:
            check.wait_behind(node)
        return loss if batched or reduce else loss[0]

    def _origin(self, crop) -> tuple[int, int]:
        return self.padding[0] + crop[0], self.padding[1] + crop[1]


class Dense(Call):
    """A call whose channels all mix."""

    why = "segext: a sum of few taps for each phase of the stride, in the memory format of the input"

    @staticmethod
    def beats_stock(input: Tensor, weight: Tensor, stride: Pair, dilation: Pair | None, dtype: torch.dtype) -> bool:
        # Measured on a CPU with AVX-512 and AMX, and on one with AVX-512 and its bfloat16 dot products.
        if _stock_loops(input, dtype):
            return True
        if max(stride) == 1:
            return False  # a plain convolution, for which stock's kernels reach the machine's limit
        channels, outputs, *_ = weight.shape
        if outputs < _FEWEST_OUTPUTS:
            return False
        pixels = input.shape[-2] * input.shape[-1]
        fills_tiles = outputs > _TILE_OUTPUTS // 2
        # Class scores, for example.
        few = max(channels, outputs) < _FEW_CHANNELS and outputs % _STOCK_MULTIPLE != 0
        if has_fast_products(dtype):
            return few and max(stride) >= _LARGE_STRIDE
        if dtype is torch.bfloat16 and _DOTS_BFLOAT16:
            if prefers_channels_last(input):
                return False
            if tuple(weight.shape[-2:]) == stride and channels <= _FEW_CHANNELS:
                return fills_tiles  # pixels of input share no pixel of output
            large = fills_tiles and max(stride) >= _DOTS_LARGE_STRIDE and _always(pixels >= _DOTS_LARGE_PIXELS)
            return few and (max(stride) >= _DOTS_STRIDE or large)
        if not fills_tiles:
            return dtype is torch.float32 and max(stride) >= _NARROW_STRIDE
        if dtype is torch.float64:
            return channels <= _FEW_CHANNELS and _always(pixels >= _FEW_PIXELS)
        if prefers_channels_last(input):
            return few and max(stride) >= _CHANNELS_LAST_STRIDE
        return (few and not _stock_is_direct(input, weight, dtype)) or _always(pixels >= _MANY_PIXELS)

    def run(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        input, weight, bias = cast(self.dtype, input, weight, bias)
        batch = input if input.dim() == 4 else input[None]
        window = self.output_size, self.stride, self.padding, self.dilation
        result = ops.dense_conv_transpose2d(batch, weight, bias, *window, prefers_channels_last(batch))
        return result if input.dim() == 4 else result[0]


class Product(Call):
    """A call with one input pixel whose channels all mix: the output is the kernel without its padding."""

    why = "matrix product: the input is one pixel, so each weight is used once"

    @staticmethod
    def beats_stock(input: Tensor, weight: Tensor, stride: Pair, dilation: Pair | None, dtype: torch.dtype) -> bool:
        # Torch's products of float16 on a CPU took 2 to 6 times as long as its convolution.
        return input.is_cuda or (dtype is not torch.float16 and not _stock_is_direct(input, weight, dtype))

    def run(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        input, weight, bias = cast(self.dtype, input, weight, bias)
        (top, left), (height, width) = self.padding, weight.shape[-2:]
        rows, columns = slice(top, height - top), slice(left, width - left)
        is_cut_first = math.prod(self.output_size) < _LEAST_KEPT * height * width
        if is_cut_first:
            weight = weight[..., rows, columns]
        pixels = input.reshape(-1, weight.shape[0])
        # In the memory order of the weights, which make up nearly all of what is read.
        if prefers_channels_last(weight):
            _, outputs, height, width = weight.shape
            by_pixel = (pixels @ weight.permute(0, 2, 3, 1).flatten(1)).view(-1, height, width, outputs)
            result = by_pixel.permute(0, 3, 1, 2)
        else:
            result = (pixels @ weight.flatten(1)).view(-1, *weight.shape[1:])
        if self.padding != (0, 0) and not is_cut_first:
            result = result[..., rows, columns].clone()
        result = result if bias is None else result + bias.view(-1, 1, 1)
        return result if input.dim() == 4 else result[0]


def supported_call(input, weight, bias, stride, padding, output_padding, groups, dilation) -> Call | None:
    """The call for kernels other than stock's, faster or not; None if stock should run it or raise the error."""
    kind = _kind_by_shape(input, weight, groups)
    if kind is None:
        return None
    return _checked_call(kind, input, weight, bias, stride, padding, output_padding, groups, dilation)


def _checked_call(kind, input, weight, bias, stride, padding, output_padding, groups, dilation) -> Call | None:
    """The call for kernels of this kind, or of another where these do not fit."""
    window = window_or_none(input, weight, bias, stride, padding, output_padding, dilation)
    if window is None:
        return None
    stride, padding, output_padding, dilation = window
    size = transposed_size(input, weight, stride, padding, output_padding, dilation)
    outputs = weight.shape[1] * groups
    if size[0] <= 0 or size[1] <= 0 or max(stride) > _LARGEST_STRIDE or (bias is not None and bias.shape != (outputs,)):
        return None
    call = compute_dtype(input), size, stride, padding, dilation
    if kind is Product and output_padding == (0, 0) and dilation == (1, 1):
        return kind(*call)
    reach = (weight.shape[-2] - 1) * dilation[0], (weight.shape[-1] - 1) * dilation[1]
    if kind is Depthwise:
        return kind(*call) if reach[0] < _MOST_TAPS * stride[0] and reach[1] < _MOST_TAPS * stride[1] else None
    if input.is_cuda or max(reach) > _LARGEST_REACH or any(p > r for p, r in zip(padding, reach, strict=True)):
        return None
    return Dense(*call)


def fastest_call(input, weight, bias, stride, padding, output_padding, groups, dilation) -> Call | None:
    """The call for the fastest kernels, or None if these are stock's."""
    # Most calls for stock are recognised here already, since on small maps call overhead dominates.
    kind, steps, gaps = _kind_by_shape(input, weight, groups), pair_or_none(stride), pair_or_none(dilation)
    if kind is None or steps is None or not kind.beats_stock(input, weight, steps, gaps, compute_dtype(input)):
        return None
    call = _checked_call(kind, input, weight, bias, stride, padding, output_padding, groups, dilation)
    # One input pixel is not a product if the kernel is dilated.
    wins = type(call) is kind or (call is not None and call.beats_stock(input, weight, steps, gaps, call.dtype))
    return call if wins else None


def _kind_by_shape(input, weight, groups) -> type[Call] | None:
    """Which kernels other than stock's may run a call, judging by shapes."""
    if not isinstance(input, Tensor) or not isinstance(weight, Tensor) or input.dim() < 3 or weight.dim() != 4:
        return None
    if ops.device_type(input) not in ops.DEVICES:
        return None
    channels, sizes = weight.shape[0], input.shape
    if sizes[-3] != channels or groups not in (1, channels):
        return None
    if groups == channels:
        return Depthwise
    return Product if sizes[-2] == 1 and sizes[-1] == 1 else Dense


def _stock_is_direct(input: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether stock computes a plain product on the CPU, without oneDNN, of so few pixels that it is done before
    segext's kernels have begun: for one sample and kernels of up to 3x3. Measured in float32 and float64."""
    if dtype.itemsize == 2 or (input.dim() == 4 and not _always(input.shape[0] == 1)):
        return False
    pixels = input.shape[-2] * input.shape[-1]
    if max(weight.shape[-2:]) > 3 or not _always(input.shape[-3] * pixels <= _MOST_DIRECT_ELEMENTS):
        return False
    return _always(pixels < _FEW_PIXELS) or prefers_channels_last(input)


def _always(condition) -> bool:
    """Whether a condition on sizes holds for all of them: a graph for dynamic sizes uses the same kernels for all."""
    if not torch.compiler.is_compiling():
        return bool(condition)
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # imports sympy

    return statically_known_true(condition)


def has_fast_products(dtype: torch.dtype) -> bool:
    """Whether this CPU has matrix instructions for ``dtype``, which stock uses and segext does not."""
    return dtype is torch.bfloat16 and _MULTIPLIES_BFLOAT16
