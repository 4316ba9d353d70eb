"""Fake kernels of the ops: shapes, strides and the same errors as the real ones, for meta tensors and compilers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from . import ops
from .derivatives import registrations
from .geometry import code_bits, code_bytes, pooled_extent


def _pair(name: str, values: int | Sequence[int], least: int) -> tuple[int, int]:
    pair = (values, values) if isinstance(values, int) else tuple(values) * (2 if len(values) == 1 else 1)
    torch._check(
        len(pair) == 2, lambda: f"{name} must either be a single int, or a tuple of two ints, but got {values}"
    )
    bound = "greater than zero" if least else "non-negative"
    torch._check(min(pair) >= least, lambda: f"{name} should be {bound}, but got {values}")
    return pair


def _window(kernel_size, stride, padding, dilation) -> tuple[tuple[int, int], ...]:
    k = _pair("kernel_size", kernel_size, 1)
    s = k if not isinstance(stride, int) and len(stride) == 0 else _pair("stride", stride, 1)
    p, d = _pair("padding", padding, 0), _pair("dilation", dilation, 1)
    torch._check(
        all(2 * pad <= kernel for pad, kernel in zip(p, k, strict=True)),
        lambda: f"padding should be at most half of kernel_size, but got padding={p} and kernel_size={k}",
    )
    return k, s, p, d


def _check_format(x: Tensor, channels_last: bool) -> None:
    torch._check(
        x.dim() == 4 or not channels_last,
        lambda: f"channels_last needs a batch, but got a map of shape {list(x.shape)}",
    )


def _check_device(name: str, tensor: Tensor, like: Tensor) -> None:
    torch._check(
        tensor.device == like.device,
        lambda: f"{name} should be on the map's device, {like.device}, but is on {tensor.device}",
    )


def _check_map(name: str, x: Tensor) -> None:
    torch._check(
        x.dim() in (3, 4) and all(size != 0 for size in x.shape[-3:]),
        lambda: (
            f"Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for {name}, but got: {list(x.shape)}"
        ),
    )


def _new_map(like: Tensor, size: Sequence[int], channels_last: bool) -> Tensor:
    _check_format(like, channels_last)
    return _empty_map((*like.shape[:-2], *size), like, channels_last)


def _check_codes(codes: Tensor, like: Tensor, pooled_size: Sequence[int], kernel_size) -> None:
    bits = code_bits(math.prod(_pair("kernel_size", kernel_size, 1)))
    expected = (*like.shape[:-3], code_bytes(like.shape[-3] * pooled_size[0] * pooled_size[1], bits))
    _check_device("codes", codes, like)
    torch._check(codes.dtype == torch.uint8, lambda: f"codes should be uint8, but got {codes.dtype}")
    torch._check(
        codes.dim() == len(expected) and all(a == b for a, b in zip(codes.shape, expected, strict=True)),
        lambda: f"codes should have shape {list(expected)}, but got {list(codes.shape)}",
    )


def _fake_pool(input, kernel_size, stride, padding, dilation, ceil_mode, channels_last):
    k, *rest = _window(kernel_size, stride, padding, dilation)
    _check_map("input", input)
    pooled = [pooled_extent(size, *window, ceil_mode) for size, *window in zip(input.shape[-2:], k, *rest, strict=True)]
    torch._check(
        pooled[0] > 0 and pooled[1] > 0,
        lambda: (
            f"Given input size: {tuple(input.shape[-3:])}. Calculated output size: {tuple(pooled)}. "
            "Output size is too small"
        ),
    )
    output = _new_map(input, pooled, channels_last)
    sample_bytes = code_bytes(input.shape[-3] * pooled[0] * pooled[1], code_bits(k[0] * k[1]))
    codes = torch.empty((*input.shape[:-3], sample_bytes), dtype=torch.uint8, device=input.device)
    return output, codes


def _fake_scatter(values, codes, size, *window_and_format):
    *window, channels_last = window_and_format
    _window(*window)
    _check_map("values", values)
    _check_codes(codes, values, values.shape[-2:], window[0])
    return _new_map(values, size, channels_last)


def _fake_max_unpool2d_out(*args):
    *args, out = args
    expected = _fake_scatter(*args)
    _check_device("out", out, args[0])
    torch._check(
        out.shape == expected.shape,
        lambda: f"out should have shape {list(expected.shape)}, but got {list(out.shape)}",
    )


def _fake_max_pool2d_backward_out(grad_output, codes, _relu_output, *rest):
    _fake_max_unpool2d_out(grad_output, codes, *rest)


def _fake_gather(map, codes, size, *window_and_format):
    *window, channels_last = window_and_format
    _window(*window)
    _check_map("map", map)
    _check_codes(codes, map, size, window[0])
    return _new_map(map, size, channels_last)


def _fake_max_unpool2d_indices(input, indices, output_size, channels_last):
    _check_map("input", input)
    _check_device("indices", indices, input)
    torch._check(indices.dtype == torch.int64, lambda: f"elements in indices should be type int64, not {indices.dtype}")
    torch._check(
        input.shape == indices.shape,
        lambda: (
            f"Expected shape of indices to be same as that of the input tensor ({list(input.shape)}) "
            f"but got indices tensor with shape: {list(indices.shape)}"
        ),
    )
    return _new_map(input, output_size, channels_last)


def _fake_switches_from_indices(indices, _input_size, kernel_size, stride, padding, dilation, _channels_last):
    k, *_ = _window(kernel_size, stride, padding, dilation)
    _check_map("indices", indices)
    sample_bytes = code_bytes(math.prod(indices.shape[-3:]), code_bits(k[0] * k[1]))
    codes = torch.empty((*indices.shape[:-3], sample_bytes), dtype=torch.uint8, device=indices.device)
    return codes, indices.new_empty(1)


def _fake_switches_to_indices(codes, size, _input_size, _k, _s, _p, _d, channels_last):
    memory_format = torch.channels_last if channels_last and len(size) == 4 else torch.contiguous_format
    return torch.empty(tuple(size), dtype=torch.int64, device=codes.device, memory_format=memory_format)


def _fake_conv_transpose2d(input, weight, bias, outputs, output_size, channels_last):
    torch._check(
        input.dim() == 4 and weight.dim() == 4 and input.shape[1] == weight.shape[0],
        lambda: f"weight {list(weight.shape)} does not fit input {list(input.shape)}",
    )
    torch._check(
        input.dtype == weight.dtype and (bias is None or input.dtype == bias.dtype),
        lambda: f"input, weight and bias should have one dtype, but input is {input.dtype}",
    )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            _check_device(name, tensor, input)
    return _empty_map((input.shape[0], outputs, *output_size), input, channels_last)


def _empty_map(size: Sequence[int], like: Tensor, channels_last: bool) -> Tensor:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=memory_format)


def _fake_depthwise(input, weight, bias, output_size, channels_last):
    outputs = math.prod(weight.shape[:2])
    return _fake_conv_transpose2d(input, weight, bias, outputs, output_size, channels_last)


def _fake_depthwise_conv_transpose2d(input, weight, bias, _addend, output_size, *window_and_format):
    return _fake_depthwise(input, weight, bias, output_size, window_and_format[-1])


def _empty_gradients(input, weight, channels_last, needs_input, needs_weight, needs_bias):
    return (
        _empty_map(input.shape, input, channels_last) if needs_input else input.new_empty(0),
        weight.new_empty(weight.shape if needs_weight else 0),
        weight.new_empty(weight.shape[0] * weight.shape[1] if needs_bias else 0),
    )


def _fake_depthwise_backward(grad_output, input, weight, _stride, _origin, _dilation, channels_last, *needs):
    expected = _fake_depthwise(input, weight, None, grad_output.shape[-2:], channels_last)
    _check_device("grad_output", grad_output, input)
    torch._check(
        grad_output.shape == expected.shape and grad_output.dtype == input.dtype,
        lambda: (
            f"grad_output should be {input.dtype} of size {list(expected.shape)}, but is {grad_output.dtype} of "
            f"{list(grad_output.shape)}"
        ),
    )
    return _empty_gradients(input, weight, channels_last, *needs)


def _fake_depthwise_argmax(input, weight, bias, output_size, *rest):
    *_window, _channels_last, return_scores = rest
    scores = _fake_depthwise(input, weight, bias, output_size, False)
    size = (scores.shape[0], *scores.shape[2:])
    return input.new_empty(size, dtype=torch.uint8), input.new_empty(size if return_scores else (0,))


def _check_cross_entropy(input, weight, bias, name, pixels, class_weight) -> tuple[torch.dtype, torch.dtype]:
    """The types that losses are summed in and that labels have. ``pixels``: the target or, by ``name``, its labels."""
    channels = _fake_depthwise(input, weight, bias, pixels.shape[-2:], False).shape[1]
    label_dtype = torch.uint8 if channels <= 255 else torch.int32
    expected = label_dtype if name == "labels" else torch.int64
    _check_device(name, pixels, input)
    torch._check(
        pixels.dtype == expected and pixels.dim() == 3 and pixels.shape[0] == input.shape[0],
        lambda: (
            f"{name} should be {expected} of size (N, height, width), but is {pixels.dtype} of {list(pixels.shape)}"
        ),
    )
    dtype = torch.promote_types(input.dtype, torch.float32)
    if class_weight is not None:
        _check_tensor("class_weight", class_weight, dtype, (channels,))
    return dtype, label_dtype


def _check_tensor(name, tensor, dtype, shape) -> None:
    torch._check(
        tensor.dtype == dtype and tuple(tensor.shape) == tuple(shape),
        lambda: f"{name} should be {dtype} of size {list(shape)}, but is {tensor.dtype} of {list(tensor.shape)}",
    )


def _fake_cross_entropy(input, weight, bias, target, class_weight, *rest):
    *_criterion, reduce, return_normalizers = rest
    dtype, label_dtype = _check_cross_entropy(input, weight, bias, "target", target, class_weight)
    loss = torch.empty(() if reduce else target.shape, dtype=dtype, device=input.device)
    sizes = ((*target.shape, 2), target.shape) if return_normalizers else ((0,), (0,))
    kept = (input.new_empty(size, dtype=t) for size, t in zip(sizes, (dtype, label_dtype), strict=True))
    return loss, input.new_empty((), dtype=dtype), *kept


def _fake_cross_entropy_backward(grad_loss, input, weight, bias, class_weight, normalizers, labels, *rest):
    *_criterion, channels_last, needs_input, needs_weight, needs_bias = rest
    dtype, _ = _check_cross_entropy(input, weight, bias, "labels", labels, class_weight)
    _check_device("normalizers", normalizers, input)
    _check_tensor("normalizers", normalizers, dtype, (*labels.shape, 2))
    torch._check(
        grad_loss.dtype == dtype and (grad_loss.dim() == 0 or grad_loss.shape == labels.shape),
        lambda: (
            f"grad_loss should be {dtype}, one value or of size {list(labels.shape)}, but is {grad_loss.dtype} of "
            f"{list(grad_loss.shape)}"
        ),
    )
    return _empty_gradients(input, weight, channels_last, needs_input, needs_weight, needs_bias)


def _fake_dense_conv_transpose2d(input, weight, bias, output_size, _stride, _padding, _dilation, channels_last):
    return _fake_conv_transpose2d(input, weight, bias, weight.shape[1], output_size, channels_last)


def _kernel_channels(weight, transposed) -> tuple[int, int]:
    """Channels of the input and of the output."""
    torch._check(
        weight.dim() == 4 and tuple(weight.shape[2:]) == (3, 3) and 0 not in weight.shape,
        lambda: f"weight of size {list(weight.shape)} is no 3x3 kernel",
    )
    return weight.shape[:2] if transposed else weight.shape[1::-1]


def _fake_unpool_conv2d_pack(weight, transposed):
    channels, outputs = _kernel_channels(weight, transposed)
    size = -(-outputs // ops.WEIGHT_PANEL) * ops.WEIGHT_PANEL * channels * 9 + 1  # and what it is for
    return weight.new_empty(size, dtype=torch.promote_types(weight.dtype, torch.float32))


def _check_unpool_conv2d(input, codes, weight, unpooled_size, padding, transposed):
    """Output channels and size."""
    channels, outputs = _kernel_channels(weight, transposed)
    torch._check(
        input.dim() == 4 and channels == input.shape[1] and input.dtype == weight.dtype,
        lambda: f"weight {list(weight.shape)}, {weight.dtype} does not fit input {list(input.shape)}, {input.dtype}",
    )
    _check_map("input", input)
    _check_device("weight", weight, input)
    _check_codes(codes, input, input.shape[-2:], ops.UNPOOLED_WINDOW[0])
    margins = (2 - 2 * p if transposed else 2 * p - 2 for p in padding)
    size = [extent + margin for extent, margin in zip(unpooled_size, margins, strict=True)]
    torch._check(
        all(0 <= p <= 2 for p in padding) and size[0] > 0 and size[1] > 0,
        lambda: f"an unpooled map of {list(unpooled_size)} is too small for a 3x3 kernel with padding {list(padding)}",
    )
    return outputs, size


def _fake_unpool_conv2d(input, codes, weight, packed_weight, _bias, unpooled_size, padding, transposed, channels_last):
    if packed_weight is not None:
        expected = _fake_unpool_conv2d_pack(weight, transposed)
        torch._check(
            packed_weight.shape == expected.shape and packed_weight.dtype == expected.dtype,
            lambda: (
                f"packed_weight of size {list(packed_weight.shape)} was not packed from a weight of size "
                f"{list(weight.shape)} and this type"
            ),
        )
    outputs, size = _check_unpool_conv2d(input, codes, weight, unpooled_size, padding, transposed)
    return _empty_map((input.shape[0], outputs, *size), input, channels_last)


def _fake_unpool_conv2d_backward(
    _grad_output, input, codes, weight, unpooled_size, padding, transposed, channels_last, needs_input, needs_weight
):
    _check_unpool_conv2d(input, codes, weight, unpooled_size, padding, transposed)
    none = input.new_empty(0)
    grad_input = _new_map(input, input.shape[-2:], channels_last) if needs_input else none
    return grad_input, input.new_empty(weight.shape if needs_weight else (0,))


def _fake_extremes(values, _ignored):
    torch._check(values.dtype == torch.int64, lambda: f"values should be int64, but are {values.dtype}")
    return values.new_empty((values.numel() + ops.EXTREMES_PART - 1) // ops.EXTREMES_PART, 2)


_FAKES = {
    "max_pool2d": _fake_pool,
    "relu_max_pool2d": _fake_pool,
    "max_pool2d_backward": lambda grad, codes, _relu_output, *rest: _fake_scatter(grad, codes, *rest),
    "max_pool2d_backward_out": _fake_max_pool2d_backward_out,
    "max_pool2d_double_backward": lambda grad, codes, _relu_output, *rest: _fake_gather(grad, codes, *rest),
    "max_unpool2d": _fake_scatter,
    "max_unpool2d_out": _fake_max_unpool2d_out,
    "max_unpool2d_backward": _fake_gather,
    "max_unpool2d_indices": _fake_max_unpool2d_indices,
    "max_unpool2d_indices_backward": lambda grad, _indices, size, channels_last: _new_map(grad, size, channels_last),
    "switches_to_indices": _fake_switches_to_indices,
    "switches_from_indices": _fake_switches_from_indices,
    "depthwise_conv_transpose2d": _fake_depthwise_conv_transpose2d,
    "depthwise_conv_transpose2d_backward": _fake_depthwise_backward,
    "depthwise_conv_transpose2d_argmax": _fake_depthwise_argmax,
    "depthwise_conv_transpose2d_cross_entropy": _fake_cross_entropy,
    "depthwise_conv_transpose2d_cross_entropy_backward": _fake_cross_entropy_backward,
    "dense_conv_transpose2d": _fake_dense_conv_transpose2d,
    "unpool_conv2d": _fake_unpool_conv2d,
    "unpool_conv2d_backward": _fake_unpool_conv2d_backward,
    "unpool_conv2d_pack": _fake_unpool_conv2d_pack,
    "extremes": _fake_extremes,
    "switches_repack": lambda codes, *_: torch.empty_like(codes),
}
for _name, _fake in _FAKES.items():
    torch.library.register_fake(ops.overload(_name), _fake, lib=registrations)
