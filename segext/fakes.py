"""Fake kernels of the ops, for meta tensors and compilers: shapes, types and strides of the results, and the errors.

A fake raises what the real op raises for shapes, types and options that do not fit, in the same words, except that it
names types as Python does (``torch.float32``). It cannot tell what depends on values. Upper bounds on sizes it checks
only of plain ints: a graph for sizes that vary would keep the comparison. Of sizes that overflow, torch has its own
error.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import ops
from .derivatives import registrations
from .geometry import code_bits, code_bytes, pooled_extent

_MOST = 2**31 - 1  # of whatever the kernels keep in 32 bits
_MOST_BYTE_LABELS = 255  # of the loss, whose labels need a value for ignored pixels. The same as in has_byte_labels


# ---- Checks that ops share, as in csrc/ops/checks.cpp, pooling.cpp and upsampling.cpp --------------------------------


class _UnsupportedType(Exception):
    """Of a tensor, for which an op has no kernels. The message names the op, which checks do not know."""


def _named(name: str, fake: Callable) -> Callable:
    """``fake``, with the op's name in its errors."""

    @functools.wraps(fake)
    def call(*args):
        try:
            return fake(*args)
        except _UnsupportedType as error:
            raise RuntimeError(f"\"{name}\" not implemented for '{error}'") from None
        except RuntimeError as error:
            if type(error) is not RuntimeError:  # a compiler's own
                raise
            raise RuntimeError(f"{name}: {error}") from None

    return call


def _text(sizes: Sequence[int]) -> str:
    return str(list(sizes))


def _has_shape(tensor: Tensor, shape: Sequence[int]) -> bool:
    return tensor.dim() == len(shape) and all(a == b for a, b in zip(tensor.shape, shape, strict=True))


def _check_type(tensor: Tensor, integers: bool = False) -> None:
    if tensor.dtype not in (ops.FLOATS | ops.INTEGERS if integers else ops.FLOATS):
        raise _UnsupportedType(tensor.dtype)


def _check_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    torch._check(
        tensor.device == other.device,
        lambda: f"{name} and {other_name} should be on the same device, but got {tensor.device} and {other.device}",
    )


def _check_dtype(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    torch._check(
        tensor.dtype == other.dtype,
        lambda: f"{name} and {other_name} should have the same dtype, but got {tensor.dtype} and {other.dtype}",
    )


def _check_like(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    _check_device(name, tensor, other_name, other)
    _check_dtype(name, tensor, other_name, other)


def _check_int64(name: str, tensor: Tensor) -> None:
    torch._check(
        tensor.dtype == torch.int64, lambda: f"elements in {name} should be type int64 but got: {tensor.dtype}"
    )


def _window_pair(name: str, values: Sequence[int], least: int) -> tuple[int, int]:
    torch._check(
        len(values) in (1, 2),
        lambda: f"{name} must either be a single int, or a tuple of two ints, but got {_text(values)}",
    )
    pair = values[0], values[-1]
    bound = "should be greater than zero" if least else "should not be negative"
    torch._check(min(pair) >= least, lambda: f"{name} {bound}, but got {_text(values)}")
    torch._check(max(pair) <= _MOST, lambda: f"{name} is out of range: {_text(values)}")
    return pair


def _window(kernel_size, stride, padding, dilation) -> tuple[tuple[int, int], ...]:
    k = _window_pair("kernel_size", kernel_size, 1)
    s = _window_pair("stride", stride, 1) if len(stride) else k
    p, d = _window_pair("padding", padding, 0), _window_pair("dilation", dilation, 1)
    torch._check(
        all(2 * pad <= kernel for pad, kernel in zip(p, k, strict=True)),
        lambda: f"padding should be at most half of kernel_size, but got padding={_text(p)} and kernel_size={_text(k)}",
    )
    torch._check(math.prod(k) <= _MOST, lambda: f"kernel_size is out of range: {_text(k)}")
    return k, s, p, d


def _check_map(name: str, x: Tensor) -> None:
    torch._check(
        x.dim() in (3, 4) and all(size != 0 for size in x.shape[-3:]),
        lambda: (
            f"Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for {name}, but got: "
            f"{_text(x.shape)}"
        ),
    )


def _check_spatial_size(name: str, size: Sequence[int]) -> None:
    torch._check(
        len(size) == 2 and size[0] >= 0 and size[1] >= 0,
        lambda: f"{name} must be two sizes (height, width), none negative, but got {_text(size)}",
    )


def _check_format(size: Sequence[int], channels_last: bool) -> None:
    torch._check(
        len(size) == 4 or not channels_last,
        lambda: f"channels_last needs a batch, but got a map of shape {_text(size)}",
    )


def _sample_bytes(size: Sequence[int], kernel_size: Sequence[int]) -> int:
    """Bytes of the codes of one sample of a pooled map of this size."""
    return code_bytes(math.prod(size[-3:]), code_bits(kernel_size[0] * kernel_size[-1]))


def _check_codes(codes: Tensor, size: Sequence[int], kernel_size: Sequence[int]) -> None:
    """``size``: of the pooled map."""
    torch._check(codes.dtype == torch.uint8, lambda: f"codes should be uint8, but got {codes.dtype}")
    expected = (*size[:-3], _sample_bytes(size, kernel_size))
    pooled = size if len(size) == 4 else (1, *size)
    torch._check(
        _has_shape(codes, expected),
        lambda: (
            f"codes of a pooled map of {'x'.join(map(str, pooled))} and a {kernel_size[0]}x{kernel_size[-1]} window "
            f"should have shape {_text(expected)}, but got {_text(codes.shape)}"
        ),
    )


def _check_two(name: str, values: Sequence[int], least: int, most: int = _MOST) -> None:
    torch._check(
        len(values) == 2 and all(value >= least and (not isinstance(value, int) or value <= most) for value in values),
        lambda: f"{name} should be two values from {least} to {most}, but got {_text(values)}",
    )


def _check_kernel(input: Tensor, weight: Tensor, dilation: Sequence[int]) -> None:
    torch._check(
        input.dim() == 4 and weight.dim() == 4,
        lambda: f"expected 4D input and weight, but got {_text(input.shape)} and {_text(weight.shape)}",
    )
    sizes, kernel = input.shape, weight.shape
    torch._check(
        kernel[0] == sizes[1],
        lambda: (
            f"weight of size {_text(kernel)} expected input to have {kernel[0]} channels, but got {sizes[1]} channels "
            "instead"
        ),
    )
    torch._check(
        all(size != 0 for size in (*sizes[1:], *kernel[1:])),
        lambda: f"input {_text(sizes)} and weight {_text(kernel)} should have no empty dimension but the batch",
    )
    torch._check(
        not any(isinstance(size, int) and size > _MOST for size in (*sizes[1:], *kernel[1:])),
        lambda: f"input {_text(sizes)} and weight {_text(kernel)} should have no dimension above {_MOST} but the batch",
    )
    reaches = ((side - 1) * d for side, d in zip(kernel[2:], dilation, strict=True) if isinstance(side, int))
    torch._check(
        all(reach <= ops.MOST_REACH for reach in reaches),
        lambda: (
            f"(kernel size - 1) * dilation should be at most {ops.MOST_REACH}, but weight is of size {_text(kernel)} "
            f"and dilation {_text(dilation)}"
        ),
    )
    _check_like("weight", weight, "input", input)


def _check_bias(bias: Tensor | None, input: Tensor, outputs: int) -> None:
    if bias is not None:
        _check_like("bias", bias, "input", input)
        torch._check(
            _has_shape(bias, (outputs,)),
            lambda: f"bias should be of size {_text([outputs])}, but is of {_text(bias.shape)}",
        )


# ---- Results ---------------------------------------------------------------------------------------------------------


def _memory_format(size: Sequence[int], channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last and len(size) == 4 else torch.contiguous_format


def _empty_map(size: Sequence[int], like: Tensor, channels_last: bool, dtype: torch.dtype | None = None) -> Tensor:
    memory_format = _memory_format(size, channels_last)
    return torch.empty(tuple(size), dtype=dtype or like.dtype, device=like.device, memory_format=memory_format)


def _resized(like: Tensor, size: Sequence[int], channels_last: bool) -> Tensor:
    return _empty_map((*like.shape[:-2], *size), like, channels_last)


# ---- Pooling and unpooling -------------------------------------------------------------------------------------------


def _fake_pool(input, kernel_size, stride, padding, dilation, ceil_mode, channels_last):
    k, *rest = _window(kernel_size, stride, padding, dilation)
    _check_map("input", input)
    _check_type(input, integers=True)
    pooled = [pooled_extent(size, *window, ceil_mode) for size, *window in zip(input.shape[-2:], k, *rest, strict=True)]
    channels = input.shape[-3]
    torch._check(
        pooled[0] > 0 and pooled[1] > 0,
        lambda: (
            f"Given input size: ({'x'.join(map(str, input.shape[-3:]))}). Calculated output size: "
            f"({'x'.join(map(str, (channels, *pooled)))}). Output size is too small"
        ),
    )
    _check_format(input.shape, channels_last)
    codes = (*input.shape[:-3], _sample_bytes((channels, *pooled), k))
    return _resized(input, pooled, channels_last), input.new_empty(codes, dtype=torch.uint8)


def _fake_selection(name, x, codes, relu_output, size_name, size, rest, *, scatters):
    """Of what fills a map at the switches (``scatters``), for which ``x`` is the pooled map, or reads one, ``x``."""
    *window, channels_last = rest
    _window(*window)
    _check_map(name, x)
    _check_spatial_size(size_name, size)
    _check_device("codes", codes, name, x)
    _check_format(x.shape, channels_last)
    pooled = x.shape if scatters else (*x.shape[:-2], *size)
    _check_codes(codes, pooled, window[0])
    if relu_output is not None:
        other = "the pooled gradient"
        _check_device("relu_output", relu_output, other, x)
        torch._check(
            _has_shape(relu_output, pooled),
            lambda: (
                f"relu_output and {other} should have the same shape, but got {_text(relu_output.shape)} and "
                f"{_text(pooled)}"
            ),
        )
        _check_dtype("relu_output", relu_output, other, x)
    _check_type(x)
    return _resized(x, size, channels_last)


def _fake_max_pool2d_backward(grad_output, codes, relu_output, input_size, *rest):
    return _fake_selection(
        "grad_output", grad_output, codes, relu_output, "input_size", input_size, rest, scatters=True
    )


def _fake_max_pool2d_backward_out(*args):
    *args, out = args
    _check_out(out, args[0], _fake_max_pool2d_backward(*args), args[-1])


def _fake_max_pool2d_double_backward(grad, codes, relu_output, output_size, *rest):
    names = "grad_grad_input", "output_size"
    return _fake_selection(names[0], grad, codes, relu_output, names[1], output_size, rest, scatters=False)


def _fake_max_unpool2d(input, codes, output_size, *rest):
    return _fake_selection("input", input, codes, None, "output_size", output_size, rest, scatters=True)


def _fake_max_unpool2d_out(*args):
    *args, out = args
    _check_out(out, args[0], _fake_max_unpool2d(*args), args[-1])


def _fake_max_unpool2d_backward(grad_output, codes, input_size, *rest):
    return _fake_selection("grad_output", grad_output, codes, None, "input_size", input_size, rest, scatters=False)


def _check_out(out: Tensor, input: Tensor, expected: Tensor, channels_last: bool) -> None:
    _check_like("out", out, "input", input)
    torch._check(
        _has_shape(out, expected.shape),
        lambda: f"out should have shape {_text(expected.shape)}, but got {_text(out.shape)}",
    )
    torch._check(
        out.is_contiguous(memory_format=_memory_format(out.shape, channels_last)),
        lambda: f"out should be contiguous in the {'channels_last' if channels_last else 'contiguous'} memory format",
    )


def _check_indices(indices: Tensor, values: Tensor) -> None:
    _check_int64("indices", indices)
    _check_device("indices", indices, "the values", values)


def _fake_max_unpool2d_indices(input, indices, output_size, channels_last):
    _check_map("input", input)
    _check_spatial_size("output_size", output_size)
    _check_indices(indices, input)
    torch._check(
        _has_shape(indices, input.shape),
        lambda: (
            f"Expected shape of indices to be same as that of the input tensor ({_text(input.shape)}) but got indices "
            f"tensor with shape: {_text(indices.shape)}"
        ),
    )
    _check_type(input)
    return _resized(input, output_size, channels_last)


def _fake_max_unpool2d_indices_backward(grad_output, indices, input_size, channels_last):
    _check_map("indices", indices)
    torch._check(
        len(input_size) == 2 and all(a == b for a, b in zip(input_size, indices.shape[-2:], strict=True)),
        lambda: f"input_size should be {_text(indices.shape[-2:])}, that of indices, but got {_text(input_size)}",
    )
    _check_indices(indices, grad_output)
    torch._check(
        _has_shape(grad_output, (*indices.shape[:-2], *grad_output.shape[-2:])),
        lambda: (
            f"grad_output of shape {_text(grad_output.shape)} does not belong to indices of shape "
            f"{_text(indices.shape)}"
        ),
    )
    _check_type(grad_output)
    return _resized(grad_output, input_size, channels_last)


# ---- Switches --------------------------------------------------------------------------------------------------------


def _check_pooled_size(size: Sequence[int]) -> None:
    torch._check(
        len(size) in (3, 4) and all(s >= 0 for s in size),
        lambda: f"size should be that of a 3D or 4D pooled map, but got {_text(size)}",
    )


def _fake_switches_from_indices(indices, input_size, kernel_size, stride, padding, dilation, channels_last):
    k, *_ = _window(kernel_size, stride, padding, dilation)
    _check_map("indices", indices)
    _check_spatial_size("input_size", input_size)
    _check_int64("indices", indices)
    _check_format(indices.shape, channels_last)
    codes = (*indices.shape[:-3], _sample_bytes(indices.shape, k))
    return indices.new_empty(codes, dtype=torch.uint8), indices.new_empty(1)


def _fake_switches_to_indices(codes, size, input_size, kernel_size, stride, padding, dilation, channels_last):
    _window(kernel_size, stride, padding, dilation)
    _check_spatial_size("input_size", input_size)
    _check_pooled_size(size)
    _check_format(size, channels_last)
    _check_codes(codes, size, kernel_size)
    return _empty_map(size, codes, channels_last, torch.int64)


def _fake_switches_repack(codes, size, kernel_size, channels_last):
    _window(kernel_size, (), (0,), (1,))
    _check_pooled_size(size)
    _check_format(size, channels_last)
    _check_codes(codes, size, kernel_size)
    return codes.new_empty(codes.shape)


def _fake_extremes(values, _ignored):
    torch._check(values.dtype == torch.int64, lambda: f"values should be int64, but are {values.dtype}")
    return values.new_empty((values.numel() + ops.EXTREMES_PART - 1) // ops.EXTREMES_PART, 2)


# ---- Transposed convolution ------------------------------------------------------------------------------------------


def _check_upsampling(input, weight, bias, output_size, stride, origin, dilation) -> tuple[int, ...]:
    """The size of the scores."""
    _check_two("output_size", output_size, 0)
    _check_two("stride", stride, 1, ops.MOST_REACH)
    _check_two("origin", origin, 0)
    _check_two("dilation", dilation, 1)
    _check_kernel(input, weight, dilation)
    outputs = weight.shape[0] * weight.shape[1]
    _check_bias(bias, input, outputs)
    return input.shape[0], outputs, *output_size


def _fake_depthwise_conv_transpose2d(
    input, weight, bias, addend, output_size, stride, origin, dilation, addend_origin, channels_last
):
    size = _check_upsampling(input, weight, bias, output_size, stride, origin, dilation)
    _check_type(input)
    if addend is not None:
        _check_two("addend_origin", addend_origin, 0)
        _check_device("addend", addend, "input", input)
        torch._check(
            addend.dtype == input.dtype,
            lambda: f"addend should be {input.dtype} as input, but is {addend.dtype}",
        )
        torch._check(
            addend.dim() == 4
            and all(a == b for a, b in zip(addend.shape[:2], size[:2], strict=True))
            and all(a >= o + s for a, o, s in zip(addend.shape[2:], addend_origin, size[2:], strict=True)),
            lambda: f"addend of size {_text(addend.shape)} does not hold {_text(size)} from {_text(addend_origin)} on",
        )
    return _empty_map(size, input, channels_last)


def _fake_depthwise_backward(grad_output, input, weight, stride, origin, dilation, channels_last, *needs):
    _check_like("grad_output", grad_output, "input", input)
    torch._check(grad_output.dim() == 4, lambda: f"grad_output should be 4D, but is of size {_text(grad_output.shape)}")
    size = _check_upsampling(input, weight, None, grad_output.shape[2:], stride, origin, dilation)
    torch._check(
        _has_shape(grad_output, size),
        lambda: (
            f"grad_output of size {_text(grad_output.shape)} does not fit input of size {_text(input.shape)} and "
            f"weight of size {_text(weight.shape)}"
        ),
    )
    _check_type(input)
    return _empty_gradients(input, weight, channels_last, *needs)


def _empty_gradients(input, weight, channels_last, needs_input, needs_weight, needs_bias):
    return (
        _empty_map(input.shape, input, channels_last) if needs_input else input.new_empty(0),
        weight.new_empty(weight.shape if needs_weight else 0),
        weight.new_empty(weight.shape[0] * weight.shape[1] if needs_bias else 0),
    )


def _fake_depthwise_argmax(input, weight, bias, output_size, stride, origin, dilation, _channels_last, return_scores):
    samples, classes, *_ = _check_upsampling(input, weight, bias, output_size, stride, origin, dilation)
    torch._check(classes <= ops.MOST_LABELS, lambda: f"labels are uint8, but there are {classes} classes")
    _check_type(input)
    size = (samples, *output_size)
    return input.new_empty(size, dtype=torch.uint8), input.new_empty(size if return_scores else (0,))


def _check_tensor(name, tensor, dtype, shape, input) -> None:
    _check_device(name, tensor, "input", input)
    torch._check(
        tensor.dtype == dtype and _has_shape(tensor, shape),
        lambda: f"{name} should be {dtype} of size {_text(shape)}, but is {tensor.dtype} of {_text(tensor.shape)}",
    )


def _check_cross_entropy(
    input, weight, bias, name, pixels, class_weight, stride, origin, dilation, label_smoothing
) -> tuple[torch.dtype, torch.dtype]:
    """The types that losses are summed in and that labels have. ``pixels``: the target or, by ``name``, its labels."""
    _check_device(name, pixels, "input", input)
    torch._check(
        pixels.dim() == 3 and input.dim() == 4 and pixels.shape[0] == input.shape[0],
        lambda: f"{name} of size {_text(pixels.shape)} does not fit input of size {_text(input.shape)}",
    )
    _, classes, *_ = _check_upsampling(input, weight, bias, pixels.shape[1:], stride, origin, dilation)
    dtype = torch.promote_types(input.dtype, torch.float32)
    if class_weight is not None:
        _check_tensor("class_weight", class_weight, dtype, (classes,), input)
    torch._check(label_smoothing <= 1, lambda: f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing:g}")
    return dtype, torch.uint8 if classes <= _MOST_BYTE_LABELS else torch.int32


def _fake_cross_entropy(
    input,
    weight,
    bias,
    target,
    class_weight,
    stride,
    origin,
    dilation,
    _ignore_index,
    label_smoothing,
    _channels_last,
    reduce,
    return_normalizers,
):
    torch._check(target.dtype == torch.int64, lambda: f"target should be int64, but is {target.dtype}")
    of_call = class_weight, stride, origin, dilation, label_smoothing
    dtype, label_dtype = _check_cross_entropy(input, weight, bias, "target", target, *of_call)
    _check_type(input)
    loss = input.new_empty(() if reduce else target.shape, dtype=dtype)
    sizes = ((*target.shape, 2), target.shape) if return_normalizers else ((0,), (0,))
    kept = (input.new_empty(size, dtype=t) for size, t in zip(sizes, (dtype, label_dtype), strict=True))
    return loss, input.new_empty((), dtype=dtype), *kept


def _fake_cross_entropy_backward(
    grad_loss,
    input,
    weight,
    bias,
    class_weight,
    normalizers,
    labels,
    stride,
    origin,
    dilation,
    label_smoothing,
    channels_last,
    *needs,
):
    of_call = class_weight, stride, origin, dilation, label_smoothing
    dtype, label_dtype = _check_cross_entropy(input, weight, bias, "labels", labels, *of_call)
    _check_tensor("labels", labels, label_dtype, labels.shape, input)
    _check_tensor("normalizers", normalizers, dtype, (*labels.shape, 2), input)
    torch._check(
        grad_loss.dtype == dtype and (grad_loss.dim() == 0 or _has_shape(grad_loss, labels.shape)),
        lambda: (
            f"grad_loss should be {dtype}, one value or of size {_text(labels.shape)}, but is {grad_loss.dtype} of "
            f"{_text(grad_loss.shape)}"
        ),
    )
    _check_device("grad_loss", grad_loss, "input", input)
    _check_type(input)
    return _empty_gradients(input, weight, channels_last, *needs)


def _fake_dense_conv_transpose2d(input, weight, bias, output_size, stride, padding, dilation, channels_last):
    _check_two("output_size", output_size, 1)
    _check_two("stride", stride, 1, ops.MOST_REACH)
    _check_two("padding", padding, 0, ops.MOST_REACH)
    _check_two("dilation", dilation, 1)
    _check_kernel(input, weight, dilation)
    _check_bias(bias, input, weight.shape[1])
    _check_type(input)
    return _empty_map((input.shape[0], weight.shape[1], *output_size), input, channels_last)


# ---- Unpooling fused with a convolution ------------------------------------------------------------------------------


def _kernel_channels(weight, transposed) -> tuple[int, int]:
    """Channels of the input and of the output."""
    _check_type(weight)
    torch._check(
        weight.dim() == 4 and tuple(weight.shape[2:]) == (3, 3) and 0 not in weight.shape,
        lambda: f"weight of size {_text(weight.shape)} is no 3x3 kernel",
    )
    return weight.shape[:2] if transposed else weight.shape[1::-1]


def _fake_unpool_conv2d_pack(weight, transposed):
    channels, outputs = _kernel_channels(weight, transposed)
    panels = -(-outputs // ops.WEIGHT_PANEL)
    elements = panels * ops.WEIGHT_PANEL * channels * 9 + 1  # the last marks a plain or a transposed convolution
    return weight.new_empty(elements, dtype=torch.promote_types(weight.dtype, torch.float32))


def _check_unpool_conv2d(input, codes, weight, unpooled_size, padding, transposed) -> tuple[int, ...]:
    """The size of the output."""
    channels, outputs = _kernel_channels(weight, transposed)
    torch._check(input.dim() == 4, lambda: f"expected a 4D input, but got {_text(input.shape)}")
    _check_map("input", input)
    _check_spatial_size("unpooled_size", unpooled_size)
    _check_device("codes", codes, "input", input)
    _check_like("weight", weight, "input", input)
    _check_two("padding", padding, 0, 2)
    torch._check(
        channels == input.shape[1],
        lambda: f"weight of size {_text(weight.shape)} is no 3x3 kernel for input of size {_text(input.shape)}",
    )
    margins = (2 - 2 * p if transposed else 2 * p - 2 for p in padding)
    size = [extent + margin for extent, margin in zip(unpooled_size, margins, strict=True)]
    torch._check(
        size[0] > 0 and size[1] > 0,
        lambda: (
            f"an unpooled map of {_text(unpooled_size)} is too small for a 3x3 kernel with padding {_text(padding)}"
        ),
    )
    _check_codes(codes, input.shape, ops.UNPOOLED_WINDOW[0])
    return input.shape[0], outputs, *size


def _fake_unpool_conv2d(input, codes, weight, packed_weight, bias, unpooled_size, padding, transposed, channels_last):
    size = _check_unpool_conv2d(input, codes, weight, unpooled_size, padding, transposed)
    _check_bias(bias, input, size[1])
    if packed_weight is not None:
        _check_device("packed_weight", packed_weight, "weight", weight)
        torch._check(weight.device.type in ("cpu", "meta"), lambda: "packed_weight is for the CPU's kernels alone")
        expected = _fake_unpool_conv2d_pack(weight, transposed)
        torch._check(
            _has_shape(packed_weight, expected.shape)
            and packed_weight.dtype == expected.dtype
            and packed_weight.is_contiguous(),
            lambda: (
                f"packed_weight of size {_text(packed_weight.shape)} was not packed from a weight of size "
                f"{_text(weight.shape)} and this type"
            ),
        )
    return _empty_map(size, input, channels_last)


def _fake_unpool_conv2d_backward(
    grad_output, input, codes, weight, unpooled_size, padding, transposed, channels_last, needs_input, needs_weight
):
    size = _check_unpool_conv2d(input, codes, weight, unpooled_size, padding, transposed)
    _check_like("grad_output", grad_output, "input", input)
    torch._check(
        _has_shape(grad_output, size),
        lambda: f"grad_output of shape {_text(grad_output.shape)} should have shape {_text(size)}",
    )
    grad_input = _empty_map(input.shape, input, channels_last) if needs_input else input.new_empty(0)
    return grad_input, input.new_empty(weight.shape if needs_weight else (0,))


_FAKES = {
    "max_pool2d": _fake_pool,
    "relu_max_pool2d": _fake_pool,
    "max_pool2d_backward": _fake_max_pool2d_backward,
    "max_pool2d_backward_out": _fake_max_pool2d_backward_out,
    "max_pool2d_double_backward": _fake_max_pool2d_double_backward,
    "max_unpool2d": _fake_max_unpool2d,
    "max_unpool2d_out": _fake_max_unpool2d_out,
    "max_unpool2d_backward": _fake_max_unpool2d_backward,
    "max_unpool2d_indices": _fake_max_unpool2d_indices,
    "max_unpool2d_indices_backward": _fake_max_unpool2d_indices_backward,
    "switches_to_indices": _fake_switches_to_indices,
    "switches_from_indices": _fake_switches_from_indices,
    "switches_repack": _fake_switches_repack,
    "extremes": _fake_extremes,
    "depthwise_conv_transpose2d": _fake_depthwise_conv_transpose2d,
    "depthwise_conv_transpose2d_backward": _fake_depthwise_backward,
    "depthwise_conv_transpose2d_argmax": _fake_depthwise_argmax,
    "depthwise_conv_transpose2d_cross_entropy": _fake_cross_entropy,
    "depthwise_conv_transpose2d_cross_entropy_backward": _fake_cross_entropy_backward,
    "dense_conv_transpose2d": _fake_dense_conv_transpose2d,
    "unpool_conv2d": _fake_unpool_conv2d,
    "unpool_conv2d_backward": _fake_unpool_conv2d_backward,
    "unpool_conv2d_pack": _fake_unpool_conv2d_pack,
}
for _name, _fake in _FAKES.items():
    torch.library.register_fake(ops.overload(_name), _named(_name, _fake), lib=registrations)
