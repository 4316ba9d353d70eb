"""Fake kernels of the ops, for meta tensors and compilers: shapes, types and strides of the results, and the errors.

A fake raises what the real op raises for shapes, types and options that do not fit, in the same words, except that it
names types as Python does (``torch.float32``). It cannot tell what depends on values. Of sizes that overflow, torch has
its own error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import ops
from .derivatives import registrations
from .fake_checks import (
    UnsupportedType,
    check_bias,
    check_codes,
    check_device,
    check_dtype,
    check_format,
    check_int64,
    check_kernel,
    check_like,
    check_map,
    check_spatial_size,
    check_two,
    check_type,
    checked_window,
    has_shape,
    sample_bytes,
    text,
)
from .geometry import pooled_extent

_MOST_BYTE_LABELS = 255  # of the loss, whose labels need a value for ignored pixels. The same as in has_byte_labels


def _named(name: str, fake: Callable) -> Callable:
    """``fake``, with the op's name in its errors."""

    @functools.wraps(fake)
    def call(*args):
        try:
            return fake(*args)
        except UnsupportedType as error:
            raise RuntimeError(f"\"{name}\" not implemented for '{error}'") from None
        except RuntimeError as error:
            if type(error) is not RuntimeError:  # a compiler's own
                raise
            raise RuntimeError(f"{name}: {error}") from None

    return call


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
    k, *rest = checked_window(kernel_size, stride, padding, dilation)
    check_map("input", input)
    check_type(input, integers=True)
    pooled = [pooled_extent(size, *window, ceil_mode) for size, *window in zip(input.shape[-2:], k, *rest, strict=True)]
    channels = input.shape[-3]
    torch._check(
        pooled[0] > 0 and pooled[1] > 0,
        lambda: (
            f"Given input size: ({'x'.join(map(str, input.shape[-3:]))}). Calculated output size: "
            f"({'x'.join(map(str, (channels, *pooled)))}). Output size is too small"
        ),
    )
    check_format(input.shape, channels_last)
    codes = (*input.shape[:-3], sample_bytes((channels, *pooled), k))
    return _resized(input, pooled, channels_last), input.new_empty(codes, dtype=torch.uint8)


def _fake_selection(name, x, codes, relu_output, size_name, size, rest, *, scatters):
    """Of what fills a map at the switches (``scatters``), for which ``x`` is the pooled map, or reads one, ``x``."""
    *window, channels_last = rest
    checked_window(*window)
    check_map(name, x)
    check_spatial_size(size_name, size)
    check_device("codes", codes, name, x)
    check_format(x.shape, channels_last)
    pooled = x.shape if scatters else (*x.shape[:-2], *size)
    check_codes(codes, pooled, window[0])
    if relu_output is not None:
        other = "the pooled gradient"
        check_device("relu_output", relu_output, other, x)
        torch._check(
            has_shape(relu_output, pooled),
            lambda: (
                f"relu_output and {other} should have the same shape, but got {text(relu_output.shape)} and "
                f"{text(pooled)}"
            ),
        )
        check_dtype("relu_output", relu_output, other, x)
    check_type(x)
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
    check_like("out", out, "input", input)
    torch._check(
        has_shape(out, expected.shape),
        lambda: f"out should have shape {text(expected.shape)}, but got {text(out.shape)}",
    )
    torch._check(
        out.is_contiguous(memory_format=_memory_format(out.shape, channels_last)),
        lambda: f"out should be contiguous in the {'channels_last' if channels_last else 'contiguous'} memory format",
    )


def _check_indices(indices: Tensor, values: Tensor) -> None:
    check_int64("indices", indices)
    check_device("indices", indices, "the values", values)


def _fake_max_unpool2d_indices(input, indices, output_size, channels_last):
    check_map("input", input)
    check_spatial_size("output_size", output_size)
    _check_indices(indices, input)
    torch._check(
        has_shape(indices, input.shape),
        lambda: (
            f"Expected shape of indices to be same as that of the input tensor ({text(input.shape)}) but got indices "
            f"tensor with shape: {text(indices.shape)}"
        ),
    )
    check_type(input)
    return _resized(input, output_size, channels_last)


def _fake_max_unpool2d_indices_backward(grad_output, indices, input_size, channels_last):
    check_map("indices", indices)
    torch._check(
        len(input_size) == 2 and all(a == b for a, b in zip(input_size, indices.shape[-2:], strict=True)),
        lambda: f"input_size should be {text(indices.shape[-2:])}, that of indices, but got {text(input_size)}",
    )
    _check_indices(indices, grad_output)
    torch._check(
        has_shape(grad_output, (*indices.shape[:-2], *grad_output.shape[-2:])),
        lambda: (
            f"grad_output of shape {text(grad_output.shape)} does not belong to indices of shape {text(indices.shape)}"
        ),
    )
    check_type(grad_output)
    return _resized(grad_output, input_size, channels_last)


# ---- Switches --------------------------------------------------------------------------------------------------------


def _check_pooled_size(size: Sequence[int]) -> None:
    torch._check(
        len(size) in (3, 4) and all(s >= 0 for s in size),
        lambda: f"size should be that of a 3D or 4D pooled map, but got {text(size)}",
    )


def _fake_switches_from_indices(indices, input_size, kernel_size, stride, padding, dilation, channels_last):
    k, *_ = checked_window(kernel_size, stride, padding, dilation)
    check_map("indices", indices)
    check_spatial_size("input_size", input_size)
    check_int64("indices", indices)
    check_format(indices.shape, channels_last)
    codes = (*indices.shape[:-3], sample_bytes(indices.shape, k))
    return indices.new_empty(codes, dtype=torch.uint8), indices.new_empty(1)


def _fake_switches_to_indices(codes, size, input_size, kernel_size, stride, padding, dilation, channels_last):
    checked_window(kernel_size, stride, padding, dilation)
    check_spatial_size("input_size", input_size)
    _check_pooled_size(size)
    check_format(size, channels_last)
    check_codes(codes, size, kernel_size)
    return _empty_map(size, codes, channels_last, torch.int64)


def _fake_switches_repack(codes, size, kernel_size, channels_last):
    checked_window(kernel_size, (), (0,), (1,))
    _check_pooled_size(size)
    check_format(size, channels_last)
    check_codes(codes, size, kernel_size)
    return codes.new_empty(codes.shape)


def _fake_extremes(values, _ignored):
    torch._check(values.dtype == torch.int64, lambda: f"values should be int64, but are {values.dtype}")
    return values.new_empty((values.numel() + ops.EXTREMES_PART - 1) // ops.EXTREMES_PART, 2)


# ---- Transposed convolution ------------------------------------------------------------------------------------------


def _check_upsampling(input, weight, bias, output_size, stride, origin, dilation) -> tuple[int, ...]:
    """The size of the scores."""
    check_two("output_size", output_size, 0)
    check_two("stride", stride, 1, ops.MOST_REACH)
    check_two("origin", origin, 0)
    check_two("dilation", dilation, 1)
    check_kernel(input, weight, dilation)
    outputs = weight.shape[0] * weight.shape[1]
    check_bias(bias, input, outputs)
    return input.shape[0], outputs, *output_size


def _fake_depthwise_conv_transpose2d(
    input, weight, bias, addend, output_size, stride, origin, dilation, addend_origin, channels_last
):
    size = _check_upsampling(input, weight, bias, output_size, stride, origin, dilation)
    check_type(input)
    if addend is not None:
        check_two("addend_origin", addend_origin, 0)
        check_device("addend", addend, "input", input)
        torch._check(
            addend.dtype == input.dtype,
            lambda: f"addend should be {input.dtype} as input, but is {addend.dtype}",
        )
        torch._check(
            addend.dim() == 4
            and all(a == b for a, b in zip(addend.shape[:2], size[:2], strict=True))
            and all(a >= o + s for a, o, s in zip(addend.shape[2:], addend_origin, size[2:], strict=True)),
            lambda: f"addend of size {text(addend.shape)} does not hold {text(size)} from {text(addend_origin)} on",
        )
    return _empty_map(size, input, channels_last)


def _fake_depthwise_backward(grad_output, input, weight, stride, origin, dilation, channels_last, *needs):
    check_like("grad_output", grad_output, "input", input)
    torch._check(grad_output.dim() == 4, lambda: f"grad_output should be 4D, but is of size {text(grad_output.shape)}")
    size = _check_upsampling(input, weight, None, grad_output.shape[2:], stride, origin, dilation)
    torch._check(
        has_shape(grad_output, size),
        lambda: (
            f"grad_output of size {text(grad_output.shape)} does not fit input of size {text(input.shape)} and "
            f"weight of size {text(weight.shape)}"
        ),
    )
    check_type(input)
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
    check_type(input)
    size = (samples, *output_size)
    return input.new_empty(size, dtype=torch.uint8), input.new_empty(size if return_scores else (0,))


def _check_tensor(name, tensor, dtype, shape, input) -> None:
    check_device(name, tensor, "input", input)
    torch._check(
        tensor.dtype == dtype and has_shape(tensor, shape),
        lambda: f"{name} should be {dtype} of size {text(shape)}, but is {tensor.dtype} of {text(tensor.shape)}",
    )


def _check_cross_entropy(
    input, weight, bias, name, pixels, class_weight, stride, origin, dilation, label_smoothing
) -> tuple[torch.dtype, torch.dtype]:
    """The types that losses are summed in and that labels have. ``pixels``: the target or, by ``name``, its labels."""
    check_device(name, pixels, "input", input)
    torch._check(
        pixels.dim() == 3 and input.dim() == 4 and pixels.shape[0] == input.shape[0],
        lambda: f"{name} of size {text(pixels.shape)} does not fit input of size {text(input.shape)}",
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
    check_type(input)
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
        grad_loss.dtype == dtype and (grad_loss.dim() == 0 or has_shape(grad_loss, labels.shape)),
        lambda: (
            f"grad_loss should be {dtype}, one value or of size {text(labels.shape)}, but is {grad_loss.dtype} of "
            f"{text(grad_loss.shape)}"
        ),
    )
    check_device("grad_loss", grad_loss, "input", input)
    check_type(input)
    return _empty_gradients(input, weight, channels_last, *needs)


def _fake_dense_conv_transpose2d(input, weight, bias, output_size, stride, padding, dilation, channels_last):
    check_two("output_size", output_size, 1)
    check_two("stride", stride, 1, ops.MOST_REACH)
    check_two("padding", padding, 0, ops.MOST_REACH)
    check_two("dilation", dilation, 1)
    check_kernel(input, weight, dilation)
    check_bias(bias, input, weight.shape[1])
    check_type(input)
    return _empty_map((input.shape[0], weight.shape[1], *output_size), input, channels_last)


# ---- Unpooling fused with a convolution ------------------------------------------------------------------------------


def _kernel_channels(weight, transposed) -> tuple[int, int]:
    """Channels of the input and of the output."""
    check_type(weight)
    torch._check(
        weight.dim() == 4 and tuple(weight.shape[2:]) == (3, 3) and 0 not in weight.shape,
        lambda: f"weight of size {text(weight.shape)} is no 3x3 kernel",
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
    torch._check(input.dim() == 4, lambda: f"expected a 4D input, but got {text(input.shape)}")
    check_map("input", input)
    check_spatial_size("unpooled_size", unpooled_size)
    check_device("codes", codes, "input", input)
    check_like("weight", weight, "input", input)
    check_two("padding", padding, 0, 2)
    torch._check(
        channels == input.shape[1],
        lambda: f"weight of size {text(weight.shape)} is no 3x3 kernel for input of size {text(input.shape)}",
    )
    margins = (2 - 2 * p if transposed else 2 * p - 2 for p in padding)
    size = [extent + margin for extent, margin in zip(unpooled_size, margins, strict=True)]
    torch._check(
        size[0] > 0 and size[1] > 0,
        lambda: f"an unpooled map of {text(unpooled_size)} is too small for a 3x3 kernel with padding {text(padding)}",
    )
    check_codes(codes, input.shape, ops.UNPOOLED_WINDOW[0])
    return input.shape[0], outputs, *size


def _fake_unpool_conv2d(input, codes, weight, packed_weight, bias, unpooled_size, padding, transposed, channels_last):
    size = _check_unpool_conv2d(input, codes, weight, unpooled_size, padding, transposed)
    check_bias(bias, input, size[1])
    if packed_weight is not None:
        check_device("packed_weight", packed_weight, "weight", weight)
        torch._check(weight.device.type in ("cpu", "meta"), lambda: "packed_weight is for the CPU's kernels alone")
        expected = _fake_unpool_conv2d_pack(weight, transposed)
        torch._check(
            has_shape(packed_weight, expected.shape)
            and packed_weight.dtype == expected.dtype
            and packed_weight.is_contiguous(),
            lambda: (
                f"packed_weight of size {text(packed_weight.shape)} was not packed from a weight of size "
                f"{text(weight.shape)} and this type"
            ),
        )
    return _empty_map(size, input, channels_last)


def _fake_unpool_conv2d_backward(
    grad_output, input, codes, weight, unpooled_size, padding, transposed, channels_last, needs_input, needs_weight
):
    size = _check_unpool_conv2d(input, codes, weight, unpooled_size, padding, transposed)
    check_like("grad_output", grad_output, "input", input)
    torch._check(
        has_shape(grad_output, size),
        lambda: f"grad_output of shape {text(grad_output.shape)} should have shape {text(size)}",
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
