"""The ops in plain PyTorch, slow and obvious: the oracle for tests and benchmarks. Imports only torch.

Fused unpooling and convolution has no entry of its own: it is ``max_unpool2d`` here and then torch's convolution.

A *tap* is the position of a maximum in its window, ``i * kernel_w + j`` for row i and column j counted before
dilation; `taps` is an int64 tensor of the pooled shape with one tap per pooled element, the unpacked form of the
switches. The functions are built from differentiable operations, so derivatives of any order come from autograd,
while the explicit backwards state how segext computes them.

Maps are (N, C, H, W) or unbatched (C, H, W); a pooled map is (N, C, PH, PW) or (C, PH, PW). `kernel_size`, `stride`,
`padding` and `dilation` are an int or a pair as in torch.nn.MaxPool2d; `stride` defaults to `kernel_size`.

Sources: Zeiler, Taylor and Fergus, "Adaptive deconvolutional networks for mid and high level feature learning" (ICCV
2011), who record the switches; Zeiler and Fergus, "Visualizing and understanding convolutional networks" (ECCV 2014),
and Noh, Hong and Han, "Learning deconvolution network for semantic segmentation" (ICCV 2015), who unpool with them. The
rules for ties, NaN, padding and ceil_mode are those of torch.nn.functional.max_pool2d on a CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "code_bits",
    "conv_transpose2d",
    "conv_transpose2d_add",
    "conv_transpose2d_argmax",
    "conv_transpose2d_cross_entropy",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool2d_double_backward",
    "max_unpool2d",
    "max_unpool2d_backward",
    "max_unpool2d_indices",
    "max_unpool2d_indices_backward",
    "pack",
    "pooled_size",
    "relu_max_pool2d",
    "tap_indices",
    "unpack",
]

Size2 = int | tuple[int, int] | list[int]


class _Axis(NamedTuple):
    """A window along one axis, in pixels."""

    kernel: int
    stride: int
    padding: int
    dilation: int


def pooled_size(
    input_size: Size2,
    kernel_size: Size2,
    stride: Size2 | None = None,
    padding: Size2 = 0,
    dilation: Size2 = 1,
    ceil_mode: bool = False,
) -> tuple[int, int]:
    """(PH, PW) of a pool over a map of `input_size` (H, W).

    With `ceil_mode`, an incomplete last window counts too, unless it would start beyond the map and its left padding.
    """
    sizes = []
    for size, axis in zip(_pair(input_size), _axes(kernel_size, stride, padding, dilation), strict=True):
        free = size + 2 * axis.padding - axis.dilation * (axis.kernel - 1) - 1
        pooled = (free + (axis.stride - 1 if ceil_mode else 0)) // axis.stride + 1
        if ceil_mode and (pooled - 1) * axis.stride >= size + axis.padding:
            pooled -= 1
        sizes.append(pooled)
    return sizes[0], sizes[1]


def max_pool2d(
    input: Tensor,
    kernel_size: Size2,
    stride: Size2 | None = None,
    padding: Size2 = 0,
    dilation: Size2 = 1,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """Max-pooling of a map (N, C, H, W): the maxima (N, C, PH, PW) and their taps, same shape.

    Among equal maxima, the first in row-major order wins. A NaN beats every number, and the last NaN wins. Padding is
    ignored, so a window of -inf selects its first tap inside the map; a window wholly in the padding gives the lowest
    value of the type and tap 0.

    Source: torch.nn.functional.max_pool2d, eager CPU.
    """
    window = _axes(kernel_size, stride, padding, dilation)
    pooled = pooled_size(input.shape[-2:], kernel_size, stride, padding, dilation, ceil_mode)
    pixels = _pixels(input.shape[-2:], pooled, window, input.device)  # (PH, PW, T)
    inside = pixels >= 0
    values = input.flatten(-2)[..., pixels.clamp(min=0)]  # (N, C, PH, PW, T)
    lowest = float("-inf") if input.is_floating_point() else torch.iinfo(input.dtype).min

    taps = torch.arange(pixels.shape[-1], device=input.device)
    nan = inside & values.isnan()
    last_nan = torch.where(nan, taps, -1).amax(-1)
    numbers = torch.where(inside & ~nan, values, lowest)
    largest = inside & ~nan & (numbers == numbers.amax(-1, keepdim=True))
    first_largest = torch.where(largest, taps, len(taps)).amin(-1)

    chosen = torch.where(last_nan >= 0, last_nan, first_largest)
    chosen = torch.where(inside.any(-1), chosen, 0)
    output = values.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
    return torch.where(inside.any(-1), output, lowest), chosen


def relu_max_pool2d(
    input: Tensor,
    kernel_size: Size2,
    stride: Size2 | None = None,
    padding: Size2 = 0,
    dilation: Size2 = 1,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """ReLU, then max-pooling: output (N, C, PH, PW) and taps, same shape. The taps are taken after the ReLU.

    Source: the composition of torch.nn.functional.relu and torch.nn.functional.max_pool2d.
    """
    return max_pool2d(torch.relu(input), kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d_backward(
    grad_output: Tensor,
    taps: Tensor,
    input_size: Size2,
    kernel_size: Size2,
    stride: Size2 | None = None,
    padding: Size2 = 0,
    dilation: Size2 = 1,
    relu_output: Tensor | None = None,
) -> Tensor:
    """Gradient (N, C, H, W) of a pool's input from the gradient (N, C, PH, PW) of its output.

    Every pixel gets the sum of the gradients of the windows that selected it, added in row-major order of the pooled
    map and, for half types, in float32. With `relu_output`, the output of the fused ReLU and pool, a gradient counts as
    zero where that output is <= 0 (NaN is not).
    """
    height, width = _pair(input_size)
    indices = tap_indices(taps, input_size, kernel_size, stride, padding, dilation)
    grad = _through_relu(grad_output, relu_output)
    wide = grad.to(_accumulator(grad.dtype))
    wide = torch.where(indices >= 0, wide, 0)
    total = wide.new_zeros(*grad.shape[:-2], height * width)
    total = total.scatter_add(-1, indices.clamp(min=0).flatten(-2), wide.flatten(-2))
    return total.to(grad.dtype).unflatten(-1, (height, width))


def max_pool2d_double_backward(
    grad_grad_input: Tensor,
    taps: Tensor,
    kernel_size: Size2,
    stride: Size2 | None = None,
    padding: Size2 = 0,
    dilation: Size2 = 1,
    relu_output: Tensor | None = None,
) -> Tensor:
    """Adjoint of `max_pool2d_backward`: what each pooled element (N, C, PH, PW) reads at its tap of a map (N, C, H, W).

    Zero where a tap refers to no pixel or, with `relu_output`, where that is <= 0.
    """
    indices = tap_indices(taps, grad_grad_input.shape[-2:], kernel_size, stride, padding, dilation)
    return _through_relu(_read(grad_grad_input, indices), relu_output)


def max_unpool2d(
    values: Tensor,
    taps: Tensor,
    output_size: Size2,
    kernel_size: Size2,
    stride: Size2 | None = None,
    padding: Size2 = 0,
    dilation: Size2 = 1,
) -> Tensor:
    """Puts values (N, C, PH, PW) at their taps in a map (N, C, H, W) of `output_size` (H, W); zero everywhere else.

    Where several taps refer to the same pixel, the last in row-major order of the pooled map stays. A tap that refers
    to no pixel places nothing.

    Source: torch.nn.functional.max_unpool2d, eager CPU, and Noh et al. 2015, figure 3.
    """
    return max_unpool2d_indices(
        values, tap_indices(taps, output_size, kernel_size, stride, padding, dilation), output_size
    )


def max_unpool2d_backward(
    grad_output: Tensor,
    taps: Tensor,
    kernel_size: Size2,
    stride: Size2 | None = None,
    padding: Size2 = 0,
    dilation: Size2 = 1,
) -> Tensor:
    """Gradient (N, C, PH, PW) of the values that `max_unpool2d` placed, from that of its output (N, C, H, W).

    Only the element that stayed in a pixel gets its gradient; stock gives it to every element that refers to the pixel,
    which is not the derivative (https://github.com/pytorch/pytorch/issues/80827).
    """
    return max_unpool2d_indices_backward(
        grad_output, tap_indices(taps, grad_output.shape[-2:], kernel_size, stride, padding, dilation)
    )


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size2 = 1,
    padding: Size2 = 0,
    output_padding: Size2 = 0,
    groups: int = 1,
    dilation: Size2 = 1,
) -> Tensor:
    """Transposed convolution of (N, C, H, W): every tap adds the input times its weight to the pixel it reaches."""
    s, p, more, d = map(_pair, (stride, padding, output_padding, dilation))
    samples, _, height, width = input.shape
    kernel = weight.shape[-2:]
    inputs = input.unflatten(1, (groups, -1))
    weights = weight.unflatten(0, (groups, -1))
    extent = [(n - 1) * s[a] + d[a] * (kernel[a] - 1) + 1 + more[a] for a, n in enumerate((height, width))]
    whole = input.new_zeros(samples, groups, weight.shape[1], *extent)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows = slice(i * d[0], i * d[0] + (height - 1) * s[0] + 1, s[0])
            columns = slice(j * d[1], j * d[1] + (width - 1) * s[1] + 1, s[1])
            whole[..., rows, columns] += torch.einsum("ngchw,gck->ngkhw", inputs, weights[..., i, j])
    result = whole.flatten(1, 2)[:, :, p[0] : extent[0] - p[0], p[1] : extent[1] - p[1]]
    return result if bias is None else result + bias.view(-1, 1, 1)


def conv_transpose2d_add(
    input: Tensor, weight: Tensor, addend: Tensor, *arguments, crop: Size2, addend_crop: Size2, output_size: Size2
) -> Tensor:
    """The part of a transposed convolution from ``crop`` on plus that of ``addend`` from ``addend_crop`` on."""
    result = conv_transpose2d(input, weight, *arguments)
    return _part(result, crop, output_size) + _part(addend, addend_crop, output_size)


def conv_transpose2d_argmax(
    input: Tensor, weight: Tensor, *arguments, crop: Size2, output_size: Size2
) -> tuple[Tensor, Tensor]:
    """Labels and scores of the part of a transposed convolution from ``crop`` on."""
    scores, labels = _part(conv_transpose2d(input, weight, *arguments), crop, output_size).max(1)
    return labels, scores


def conv_transpose2d_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    *arguments,
    crop: Size2,
    class_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of the part of a transposed convolution from ``crop`` on with the classes ``target`` (N, H, W).

    A pixel's loss is that of its target's class, and with `label_smoothing` in part the mean over all classes. Pixels
    of `ignore_index` have none. The mean over pixels counts each as much as its class weighs.

    Source: torch.nn.functional.cross_entropy.
    """
    scores = _part(conv_transpose2d(input, weight, *arguments), crop, target.shape[-2:])
    below = scores - scores.amax(1, keepdim=True)
    surprise = below.exp().sum(1, keepdim=True).log() - below
    weights = scores.new_ones(scores.shape[1]) if class_weight is None else class_weight
    counts = target != ignore_index
    labels = target.where(counts, 0)
    weighted = weights.view(-1, 1, 1) * surprise
    chosen = weighted.gather(1, labels.unsqueeze(1)).squeeze(1)
    losses = ((1 - label_smoothing) * chosen + label_smoothing * weighted.mean(1)).where(counts, 0)
    if reduction == "none":
        return losses
    return losses.sum() / weights[labels].where(counts, 0).sum() if reduction == "mean" else losses.sum()


def _part(x: Tensor, crop: Size2, size: Size2) -> Tensor:
    (top, left), (height, width) = _pair(crop), _pair(size)
    return x[..., top : top + height, left : left + width]


def max_unpool2d_indices(values: Tensor, indices: Tensor, output_size: Size2) -> Tensor:
    """`max_unpool2d` by stock's indices (N, C, PH, PW): row * W + column of the map (N, C, H, W) of `output_size`.

    An index outside the map places nothing.
    """
    height, width = _pair(output_size)
    if values.shape[-2] * values.shape[-1] == 0:
        return values.new_zeros(*values.shape[:-2], height, width)
    winners = _winners(indices, height * width)
    placed = values.flatten(-2).gather(-1, winners.clamp(min=0))
    return torch.where(winners >= 0, placed, 0).unflatten(-1, (height, width))


def max_unpool2d_indices_backward(grad_output: Tensor, indices: Tensor) -> Tensor:
    """`max_unpool2d_backward` by stock's indices (N, C, PH, PW)."""
    pixels = grad_output.shape[-2] * grad_output.shape[-1]
    elements = torch.arange(indices.shape[-2] * indices.shape[-1], device=indices.device)
    legal = torch.where((indices >= 0) & (indices < pixels), indices, -1)
    if pixels == 0 or len(elements) == 0:
        return grad_output.new_zeros(indices.shape)
    stayed = _winners(indices, pixels).gather(-1, legal.clamp(min=0).flatten(-2)) == elements
    return torch.where(stayed.unflatten(-1, indices.shape[-2:]), _read(grad_output, legal), 0)


def tap_indices(
    taps: Tensor,
    input_size: Size2,
    kernel_size: Size2,
    stride: Size2 | None = None,
    padding: Size2 = 0,
    dilation: Size2 = 1,
) -> Tensor:
    """Stock's int64 indices, row * W + column of the map of `input_size`, of taps (N, C, PH, PW); same shape.

    -1 where a tap names no tap of the window or no pixel of the map.
    """
    window = _axes(kernel_size, stride, padding, dilation)
    pooled_height, pooled_width = taps.shape[-2:]
    height, width = _pair(input_size)
    top = torch.arange(pooled_height, device=taps.device).unsqueeze(-1) * window[0].stride - window[0].padding
    left = torch.arange(pooled_width, device=taps.device) * window[1].stride - window[1].padding
    i, j = taps // window[1].kernel, taps % window[1].kernel
    row, column = top + i * window[0].dilation, left + j * window[1].dilation
    named = (taps >= 0) & (i < window[0].kernel)
    named &= (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return torch.where(named, row * width + column, -1)


def code_bits(taps: int) -> int:
    """Bits of a packed code in a window of `taps` taps: the smallest of 1, 2, 4, 8, 16, 32 that tells them apart."""
    return next(bits for bits in (1, 2, 4, 8, 16, 32) if 2**bits >= taps)


def pack(taps: Tensor, bits: int, channels_last: bool = False) -> Tensor:
    """Packs taps (N, C, PH, PW) into uint8 codes (N, ceil(C * PH * PW * bits / 8)); unbatched taps into one row.

    Element e of a sample, in the memory order of the pooled map, starts at bit ``e * bits`` of the sample's row, its
    lowest bit first; the bits after the last element are zero.
    """
    flat = (taps.movedim(-3, -1) if channels_last else taps).flatten(-3)
    places = torch.arange(bits, device=taps.device)
    row = (flat.unsqueeze(-1) >> places & 1).flatten(-2)
    row = torch.nn.functional.pad(row, (0, -row.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (row << torch.arange(8, device=taps.device)).sum(-1).to(torch.uint8)


def unpack(codes: Tensor, size: torch.Size | tuple[int, ...], bits: int, channels_last: bool = False) -> Tensor:
    """The taps of pooled `size` (N, C, PH, PW) or (C, PH, PW) that uint8 `codes` hold: the inverse of `pack`."""
    *batch, channels, height, width = size
    row = (codes.long().unsqueeze(-1) >> torch.arange(8, device=codes.device) & 1).flatten(-2)
    row = row[..., : channels * height * width * bits].unflatten(-1, (channels * height * width, bits))
    flat = (row << torch.arange(bits, device=codes.device)).sum(-1)
    if channels_last:
        return flat.view(*batch, height, width, channels).movedim(-1, -3).contiguous()
    return flat.view(*batch, channels, height, width)


def _pair(size: Size2) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[-1])


def _axes(kernel_size: Size2, stride: Size2 | None, padding: Size2, dilation: Size2) -> tuple[_Axis, _Axis]:
    stride = kernel_size if stride is None else stride
    rows, columns = zip(_pair(kernel_size), _pair(stride), _pair(padding), _pair(dilation), strict=True)
    return _Axis(*rows), _Axis(*columns)


def _pixels(size: Size2, pooled: tuple[int, int], window: tuple[_Axis, _Axis], device: torch.device) -> Tensor:
    """The pixel, row * W + column, of each tap of each window, (PH, PW, T); -1 in the padding."""
    taps = torch.arange(window[0].kernel * window[1].kernel, device=device).expand(*pooled, -1)
    kernel, stride, padding, dilation = zip(*window, strict=True)
    return tap_indices(taps.movedim(-1, 0), size, kernel, stride, padding, dilation).movedim(0, -1)


def _winners(indices: Tensor, pixels: int) -> Tensor:
    """The last element, counted in row-major order, that names each pixel (N, C, H * W); -1 where none does."""
    indices = indices.flatten(-2)
    elements = torch.arange(indices.shape[-1], device=indices.device).expand_as(indices)
    legal = (indices >= 0) & (indices < pixels)
    winners = indices.new_full((*indices.shape[:-1], pixels + 1), -1)
    return winners.scatter_reduce(-1, torch.where(legal, indices, pixels), elements, "amax")[..., :pixels]


def _read(map: Tensor, indices: Tensor) -> Tensor:
    """What a map (N, C, H, W) holds at `indices` (N, C, PH, PW); zero at -1."""
    if map.shape[-2] * map.shape[-1] == 0:
        return map.new_zeros(indices.shape)
    values = map.flatten(-2).gather(-1, indices.clamp(min=0).flatten(-2)).unflatten(-1, indices.shape[-2:])
    return torch.where(indices >= 0, values, 0)


def _through_relu(grad: Tensor, relu_output: Tensor | None) -> Tensor:
    return grad if relu_output is None else torch.where(relu_output <= 0, 0, grad)


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
