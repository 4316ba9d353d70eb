"""Unpooling followed by convolution, plain or transposed: fused where there are kernels, else composed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from . import ops
from .arguments import IntPair, pair_or_none, prefers_channels_last
from .conv_arguments import autocasts, cast, compute_dtype, fit_together
from .conv_routes import has_fast_products
from .conv_transpose2d import conv_transpose2d
from .max_unpool2d import check_agreement, check_same_shape, max_unpool2d
from .overriding import overridable
from .switches import Switches

# Devices whose kernels read prepacked weights; meta tensors have shapes only.
_PACKS = ("cpu", "meta")
_MOST_PADDING = 2  # of a 3x3 kernel
_NAMED_PADDING = {"same": 1, "valid": 0}  # of a 3x3 kernel
MOST_CHANNELS = 128  # of input or output, up to which CUDA uses its kernel for half types


@overridable
def unpool_conv_transpose2d(
    input: Tensor,
    switches: Switches,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    output_padding: IntPair = 0,
    groups: int = 1,
    dilation: IntPair = 1,
    *,
    output_size: Sequence[int] | None = None,
    packed_weight: Tensor | None = None,
) -> Tensor:
    """``conv_transpose2d(max_unpool2d(input, switches), weight, ...)``, without keeping the unpooled map for backward.

    For 2x2 windows and 3x3 kernels of stride 1, as in DeconvNet, there are kernels that never create the map. Three in
    four of its pixels are zero, so only a quarter of the multiplications remain, forward and backward. On CUDA these
    kernels cover the forward pass only. They are used in float64, and in float32 unless torch's convolutions may use
    TF32 (``torch.backends.cudnn.allow_tf32``), which is faster. For half types they use tensor cores and multiply the
    zeros too, and are used for up to 128 channels from compute capability 8.0 on. Otherwise the two operations run one
    after the other, and the map is recomputed for the backward pass. :func:`segext.explain` tells which kernels run.

    Args:
        input: the pooled map, (N, C, H, W) or (C, H, W).
        switches: those of the pool to be undone.
        weight: (C, K / groups, kernel height, kernel width).
        bias: (K,), added to the output.
        stride, padding, output_padding, groups, dilation: of the transposed convolution, as in stock.
        output_size: of the unpooled map, as in :func:`max_unpool2d`; it must be the pool's input size.
        packed_weight: the result of :func:`prepack_unpool_conv_transpose2d` for the current ``weight``, which saves
            the call from packing it. Worthwhile for small maps with many channels.

    Returns:
        (N, K, H', W') or (K, H', W').

    Raises:
        TypeError: for switches that are not :class:`segext.Switches`.
        RuntimeError, ValueError: as in :func:`max_unpool2d` and :func:`conv_transpose2d`; and for a ``packed_weight``
            made from a weight of another size or type, or made for :func:`unpool_conv2d`.
    """
    arguments = stride, padding, output_padding, groups, dilation
    known = kernel_padding(input, switches, weight, bias, *arguments, transposed=True)
    if known is not None and beats_stock(input, weight):
        return _run(input, switches, weight, packed_weight, bias, output_size, padding=known, transposed=True)
    convolution = _convolution(weight, *arguments, transposed=True)

    def convolve(unpooled: Tensor, weight, bias) -> Tensor:
        return conv_transpose2d(unpooled, weight, bias, *arguments)

    return _compose("unpool_conv_transpose2d", input, switches, weight, bias, output_size, convolve, convolution)


@overridable
def unpool_conv2d(
    input: Tensor,
    switches: Switches,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair | str = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    *,
    output_size: Sequence[int] | None = None,
    packed_weight: Tensor | None = None,
) -> Tensor:
    """``torch.nn.functional.conv2d(max_unpool2d(input, switches), weight, ...)``, the decoder step of SegNet.

    Like :func:`unpool_conv_transpose2d`, but with a plain convolution: ``weight`` is (K, C / groups, kernel height,
    kernel width), the arguments are those of :func:`torch.nn.functional.conv2d`, and ``packed_weight`` is the result of
    :func:`prepack_unpool_conv2d`.
    """
    arguments = stride, padding, 0, groups, dilation
    known = kernel_padding(input, switches, weight, bias, *arguments, transposed=False)
    if known is not None and beats_stock(input, weight):
        return _run(input, switches, weight, packed_weight, bias, output_size, padding=known, transposed=False)
    convolution = _convolution(weight, *arguments, transposed=False)

    def convolve(unpooled: Tensor, weight, bias) -> Tensor:
        return F.conv2d(unpooled, weight, bias, stride, padding, dilation, groups)

    return _compose("unpool_conv2d", input, switches, weight, bias, output_size, convolve, convolution)


def prepack_unpool_conv_transpose2d(weight: Tensor) -> Tensor:
    """``weight`` (C, K, 3, 3) in the form that :func:`unpool_conv_transpose2d` reads on the CPU, for fixed weights.

    Later changes to ``weight`` go unnoticed; pack it again after changing it.

    Returns:
        A one-dimensional float32 tensor, or float64 for float64. Its layout is an implementation detail.

    Raises:
        RuntimeError: for a kernel other than 3x3, a type other than floats, or a device other than the CPU.
    """
    return ops.unpool_conv2d_pack(weight.detach(), True)


def prepack_unpool_conv2d(weight: Tensor) -> Tensor:
    """``weight`` (K, C, 3, 3) in the form for :func:`unpool_conv2d`; see :func:`prepack_unpool_conv_transpose2d`."""
    return ops.unpool_conv2d_pack(weight.detach(), False)


def reads_packed(weight: Tensor, kernel_size, stride, padding, dilation, groups: int) -> bool:
    """Whether unpooling and convolution with this weight may run as one kernel that reads the weight packed."""
    if tuple(map(pair_or_none, (kernel_size, stride, dilation))) != ((3, 3), (1, 1), (1, 1)) or groups != 1:
        return False
    if not isinstance(padding, str) and max(pair_or_none(padding)) > _MOST_PADDING:
        return False
    return weight.device.type in _PACKS and weight.dtype in ops.FLOATS and not has_fast_products(weight.dtype)


def kernel_padding(
    input, switches, weight, bias, stride, padding, output_padding, groups, dilation, *, transposed: bool
) -> tuple[int, int] | None:
    """The padding, if the kernels support the call and all its arguments are valid."""
    if groups != 1 or pair_or_none(output_padding) != (0, 0):
        return None
    if not isinstance(switches, Switches) or switches.window != ops.UNPOOLED_WINDOW:
        return None
    if not fit_together(input, weight, bias, ops.DEVICES):
        return None
    if input.dim() not in (3, 4) or weight.dim() != 4 or tuple(weight.shape[-2:]) != (3, 3) or 0 in input.shape[-3:]:
        return None
    channels, outputs = weight.shape[:2] if transposed else weight.shape[1::-1]
    if channels != input.shape[-3] or outputs == 0 or (bias is not None and bias.shape != (outputs,)):
        return None
    stride, dilation = pair_or_none(stride), pair_or_none(dilation)
    if isinstance(padding, str) and not transposed:
        padding = _NAMED_PADDING.get(padding)
    padding = pair_or_none(padding)
    if (
        stride != (1, 1)
        or dilation != (1, 1)
        or padding is None
        or not 0 <= min(padding) <= max(padding) <= _MOST_PADDING
    ):
        return None
    margin = [2 - 2 * p if transposed else 2 * p - 2 for p in padding]
    if any(size + more <= 0 for size, more in zip(switches.input_size, margin, strict=True)):
        return None
    return padding


def beats_stock(input: Tensor, weight: Tensor) -> bool:
    """Whether the kernels are faster than unpooling and stock's convolution.

    Measured on CPUs with AVX-512, and on an H200. In half types, the more channels there are, the less is saved by not
    storing the map, relative to the cost of the products.
    """
    if input.is_cuda and multiplies_what_counts(input):
        return not multiplies_tf32(input)
    if input.is_cuda:
        return max(weight.shape[:2]) <= MOST_CHANNELS and multiplies_tiles(input.device)
    return not has_fast_products(compute_dtype(input))


def multiplies_what_counts(input: Tensor) -> bool:
    """Whether the kernels skip the products with zeros."""
    return not input.is_cuda or compute_dtype(input).itemsize > 2


def multiplies_tf32(input: Tensor) -> bool:
    """Whether torch's convolutions on a GPU round operands of this type to TF32, for the tensor cores."""
    rounds = compute_dtype(input) is torch.float32 and torch.backends.cudnn.allow_tf32
    return rounds and multiplies_tiles(input.device)


def multiplies_tiles(device: torch.device) -> bool:
    """Whether a GPU has the tensor cores that the kernels for half types use, from compute capability 8.0 on.

    A GPU that is not present, such as that of a fake tensor, is assumed to have them. Compilers can evaluate the calls
    made here.
    """
    if not torch.cuda.is_available():
        return True
    there = torch.compiler.is_compiling() or (device.index or 0) < torch.cuda.device_count()
    return not there or torch.cuda.get_device_properties(device).major >= 8


def _run(input, switches, weight, packed_weight, bias, output_size, *, padding, transposed: bool) -> Tensor:
    dtype = compute_dtype(input)
    packed_weight = packed_weight if weight.dtype is dtype else None  # autocast rounds the weight
    weight, bias = cast(dtype, weight, bias)
    batch, codes, (size, *_, channels_last) = _unpooling(input, switches, output_size)
    result = ops.unpool_conv2d(batch, codes, weight, packed_weight, bias, size, padding, transposed, channels_last)
    return result if input.dim() == 4 else result[0]


def _unpooling(input: Tensor, switches: Switches, output_size) -> tuple[Tensor, Tensor, tuple]:
    """The batch to unpool, in the type that convolutions compute in; its codes; the op's other arguments."""
    check_agreement(switches, None, None, 0, output_size)
    check_same_shape(input, switches)
    (input,) = cast(compute_dtype(input), input)
    batched = input.dim() == 4
    channels_last = batched and prefers_channels_last(input)
    if switches.channels_last != channels_last:
        switches = switches.to_memory_format(torch.channels_last if channels_last else torch.contiguous_format)
    batch, codes = (input, switches.codes) if batched else (input[None], switches.codes[None])
    return batch, codes, (switches.input_size, *switches.window, channels_last)


class _InSequence(torch.autograd.Function):
    """Unpooling, then convolution: keeps the pooled map, from which the backward pass recomputes the unpooled one."""

    @staticmethod
    def forward(ctx, input, codes, weight, bias, unpooling, convolve, convolution):
        ctx.save_for_backward(input, codes, weight)
        ctx.set_materialize_grads(False)
        ctx.unpooling, ctx.convolution = unpooling, convolution
        ctx.has_bias = bias is not None
        result = convolve(ops.max_unpool2d(input, codes, *unpooling), weight, bias)
        return result.clone() if result._is_view() else result  # callers may modify it in place

    @staticmethod
    def backward(ctx, grad_output):
        if grad_output is None:
            return (None,) * 7
        needs_input, _, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        grad_input = grad_weight = None
        if needs_input or needs_weight:
            grad_input, grad_weight = ops.unpooled_convolution_gradients(
                grad_output, *ctx.saved_tensors, ctx.unpooling, ctx.convolution, needs_input, needs_weight
            )
        grad_bias = grad_output.sum((0, 2, 3)) if ctx.has_bias and needs_bias else None
        return grad_input, None, grad_weight, grad_bias, None, None, None


def _convolution(weight, stride, padding, output_padding, groups, dilation, *, transposed: bool) -> tuple | None:
    """A convolution's arguments in the form of ``torch.ops.aten.convolution``.

    None if they have no such form, if they are invalid and stock should raise the error, and for transposed
    convolutions whose channels do not mix, for which segext's gradients are faster.
    """
    if not isinstance(weight, Tensor) or weight.dim() != 4 or (transposed and groups == weight.shape[0]):
        return None
    stride, dilation, output_padding = pair_or_none(stride), pair_or_none(dilation), pair_or_none(output_padding)
    if dilation is not None and isinstance(padding, str):
        reach = [(k - 1) * d for k, d in zip(weight.shape[2:], dilation, strict=True)]
        if padding == "same" and reach[0] % 2 == reach[1] % 2 == 0:
            padding = reach[0] // 2, reach[1] // 2
        else:
            padding = 0 if padding == "valid" else None
    padding = None if padding is None else pair_or_none(padding)
    if None in (stride, padding, dilation, output_padding):
        return None
    return stride, padding, dilation, transposed, output_padding, groups


def check_switches(name: str, switches) -> None:
    """Raises the TypeError of function ``name`` for what are not switches."""
    if isinstance(switches, Switches):
        return
    hint = ""
    if isinstance(switches, Tensor) and switches.device.type in ops.DEVICES:
        hint = "; Switches.from_indices converts stock's indices"
    elif isinstance(switches, Tensor):
        hint = f"; pools return Switches on {', '.join(sorted(ops.DEVICES))}"
    raise TypeError(f"{name}(): argument 'switches' must be segext.Switches, not {type(switches).__name__}{hint}")


def _compose(name, input, switches, weight, bias, output_size, convolve: Callable[..., Tensor], convolution) -> Tensor:
    """The two operations in sequence, the second as ``convolve(unpooled, weight, bias)``.

    ``name``: the function that was called. ``convolution``: what :func:`_convolution` returns for the second operation.
    """
    check_switches(name, switches)
    transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    trains = torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in (input, weight, bias))
    # Without a gradient there is nothing to keep, and compilers decide for themselves what to keep.
    saves = convolution is not None and not transformed and trains and forward_ad._current_level < 0
    if not isinstance(input, Tensor) or ops.device_type(input) not in ops.DEVICES or not saves or input.is_inference():
        if isinstance(input, Tensor):
            (input,) = cast(compute_dtype(input), input)
        return convolve(max_unpool2d(input, switches, output_size=output_size), weight, bias)
    if autocasts(input):
        weight, bias = cast(compute_dtype(input), weight, bias)
    batch, codes, unpooling = _unpooling(input, switches, output_size)
    result = _InSequence.apply(batch, codes, weight, bias, unpooling, convolve, convolution)
    return result if input.dim() == 4 else result[0]
