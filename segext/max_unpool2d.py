"""Max-unpooling: puts values back where the maxima were, using ``Switches`` or stock's int64 indices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from . import ops
from .arguments import IntPair, prefers_channels_last, window_of
from .overriding import overridable
from .switches import Switches
from .value_checks import can_check, extremes


@overridable
def max_unpool2d(
    input: Tensor,
    indices: Switches | Tensor,
    kernel_size: IntPair | None = None,
    stride: IntPair | None = None,
    padding: IntPair = 0,
    output_size: Sequence[int] | None = None,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Puts each value where its maximum was and zero elsewhere.

    Like :func:`torch.nn.functional.max_unpool2d`, with two differences. With :class:`segext.Switches`, the window and
    the output size are known and may be omitted. Where several elements refer to the same pixel, the last in row-major
    order is kept, on every device, and it alone receives the gradient; stock keeps an arbitrary one and passes the
    gradient to all of them.

    Args:
        input: pooled map, (N, C, H, W) or (C, H, W); float32, float64, float16 or bfloat16.
        indices: the pool's switches, or stock's int64 indices, of the same shape.
        kernel_size, stride, padding: the pool's window. With switches they may be omitted, but must agree if given.
        output_size: size of the full map; its last two values are used. With switches it must be the pool's input size.
        out: a tensor to write the result into.

    Returns:
        The full map, (N, C, H', W') or (C, H', W') with (H', W') the pool's input size or ``output_size``. It is in the
        memory format of ``input``.

    Raises:
        ValueError: for an ``output_size`` or window that does not fit.
        RuntimeError: for a wrong rank, dtype, shape or device, or an index out of range (see
            :func:`segext.functional.set_index_check`).
        TypeError: for int64 indices without a ``kernel_size``.
    """
    if not isinstance(input, Tensor) or not isinstance(indices, (Switches, Tensor)):
        raise TypeError(
            f"max_unpool2d(): expected a Tensor and Switches or a Tensor, not {type(input).__name__} and "
            f"{type(indices).__name__}"
        )
    if kernel_size is None and not isinstance(indices, Switches):
        raise TypeError("max_unpool2d(): int64 indices need a kernel_size; Switches carry their own")
    if ops.device_type(input) not in ops.DEVICES:
        unpooled = _stock_max_unpool2d(input, indices, kernel_size, stride, padding, output_size)
        return unpooled if out is None else _copy_out(out, input, unpooled)
    if input.dtype not in ops.FLOATS:
        raise NotImplementedError(f"\"max_unpool2d\" not implemented for '{input.dtype}'")
    if out is not None and not isinstance(out, Tensor):
        raise TypeError(f"max_unpool2d(): argument 'out' must be Tensor, not {type(out).__name__}")
    channels_last = prefers_channels_last(input)
    if isinstance(indices, Switches):
        check_agreement(indices, kernel_size, stride, padding, output_size)
        check_same_shape(input, indices)
        switches = indices
        if switches.channels_last != channels_last:
            switches = switches.to_memory_format(torch.channels_last if channels_last else torch.contiguous_format)
        args = (input, switches.codes, switches.input_size, *switches.window, channels_last)
        if out is None:
            return ops.max_unpool2d(*args)
        return _unpool_into(out, input, args)
    size = unpooled_size(input, kernel_size, stride, padding, output_size)
    check_same_shape(input, indices)
    _check_indices(indices, size)
    unpooled = ops.max_unpool2d_indices(input, indices, size, channels_last)
    return unpooled if out is None else _copy_out(out, input, unpooled)


def _stock_max_unpool2d(input, indices, kernel_size, stride, padding, output_size):
    if isinstance(indices, Switches):
        kernel_size, stride, padding, _ = indices.window
        output_size = indices.input_size
        indices = indices.indices()
    return F.max_unpool2d(input, indices, kernel_size, stride, padding, output_size)


def check_same_shape(input: Tensor, indices: Switches | Tensor) -> None:
    if input.shape != indices.shape and tuple(input.shape) != tuple(indices.shape):
        raise RuntimeError(
            f"Expected shape of indices to be same as that of the input tensor ({list(input.shape)}) but got indices "
            f"with shape: {list(indices.shape)}"
        )


def check_agreement(switches: Switches, kernel_size, stride, padding, output_size) -> None:
    """Raises ValueError if an argument contradicts what the switches know."""
    if kernel_size is not None or stride is not None or padding not in (0, (0, 0)):
        known = switches.kernel_size, switches.stride, switches.padding
        if kernel_size is None:
            stride = switches.stride if stride is None else stride
            padding = switches.padding if padding in (0, (0, 0), [0, 0]) else padding
        given = window_of(switches.kernel_size if kernel_size is None else kernel_size, stride, padding, 1)[:3]
        if given != known:
            raise ValueError(
                f"max_unpool2d: kernel_size={given[0]}, stride={given[1]}, padding={given[2]} do not agree with the "
                f"switches' kernel_size={known[0]}, stride={known[1]}, padding={known[2]}"
            )
    if output_size is not None:
        _check_output_rank(output_size)
        if tuple(output_size[-2:]) != tuple(switches.input_size):
            raise ValueError(
                f"max_unpool2d: output_size {tuple(output_size)} does not fit: the switches are of a map of "
                f"{tuple(switches.input_size)}"
            )


def _check_output_rank(output_size: Sequence[int]) -> None:
    if len(output_size) not in (2, 3, 4):
        raise ValueError(
            f"output_size should be a sequence containing 2, 3 or 4 elements, but it has length {len(output_size)}"
        )
    if not all(isinstance(size, (int, torch.SymInt)) for size in output_size):
        raise TypeError(f"max_unpool2d(): argument 'output_size' must be tuple of ints, not {output_size!r}")


def unpooled_size(input: Tensor, kernel_size, stride, padding, output_size) -> tuple[int, int]:
    """Stock's rule: the default size, or any within a stride of it."""
    kernel_size, stride, padding, _ = window_of(kernel_size, stride, padding, 1)
    default = tuple(
        (size - 1) * s + k - 2 * p for size, k, s, p in zip(input.shape[-2:], kernel_size, stride, padding, strict=True)
    )
    if output_size is None:
        size = default
    else:
        _check_output_rank(output_size)
        size = tuple(output_size[-2:])
        for dim in range(2):
            low, high = default[dim] - stride[dim], default[dim] + stride[dim]
            if not low < size[dim] < high:
                raise ValueError(
                    f'invalid output_size "{tuple(output_size)}" (dim {dim} must be between {low + 1} and {high - 1})'
                )
    if min(size) < 0:
        raise ValueError(f"max_unpool2d: the output size {size} is negative; give output_size")
    return size


def _check_indices(indices: Tensor, size: tuple[int, int]) -> None:
    if indices.dtype != torch.int64:
        raise RuntimeError(f"max_unpool2d: elements in indices should be type int64 but got: {indices.dtype}")
    if not can_check(indices):
        return
    low, high = extremes(indices)
    if low < 0 or high >= size[0] * size[1]:
        invalid = low if low < 0 else high
        raise RuntimeError(f"Found an invalid max index: {invalid} (output volumes are of size {size[0]}x{size[1]})")


def _unpool_into(out: Tensor, input: Tensor, args: tuple) -> Tensor:
    _, codes, *_, channels_last = args
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    if out.numel() == 0 or not out.is_contiguous(memory_format=memory_format) or _share_memory(out, input, codes):
        return _copy_out(out, input, ops.max_unpool2d(*args))
    _check_out_is_plain(out, input)
    ops.max_unpool2d_out(*args, out)
    if not torch.compiler.is_compiling():  # compilers track their own changes
        torch.autograd.graph.increment_version(out)
    return out


def _share_memory(out: Tensor, *others: Tensor) -> bool:
    if torch.compiler.is_compiling() or not ops.has_values(out):
        return False
    memory = out.untyped_storage().data_ptr()
    return any(other.untyped_storage().data_ptr() == memory for other in others)


def _copy_out(out: Tensor, input: Tensor, unpooled: Tensor) -> Tensor:
    _check_out_is_plain(out, input)
    if out.device != unpooled.device:
        raise RuntimeError(f"Expected out tensor to be on {unpooled.device}, but it is on {out.device}")
    if out.dtype != unpooled.dtype:
        raise RuntimeError(f"Expected out tensor to have dtype {unpooled.dtype}, but got {out.dtype} instead")
    if out.numel() == 0:
        out.resize_(unpooled.shape)
    if out.shape != unpooled.shape:
        raise RuntimeError(f"out should have shape {list(unpooled.shape)}, but got {list(out.shape)}")
    return out.copy_(unpooled)


def _check_out_is_plain(out: Tensor, input: Tensor) -> None:
    """As in stock, a result written into a caller's tensor has no derivative, so none may be requested."""
    if torch.is_grad_enabled() and (input.requires_grad or out.requires_grad):
        raise RuntimeError(
            "max_unpool2d(): functions with out=... arguments don't support automatic differentiation, but one of the "
            "arguments requires grad."
        )
    if torch._C._are_functorch_transforms_active() or _has_tangent(out) or _has_tangent(input):
        raise NotImplementedError(
            "max_unpool2d(): functions with out=... arguments support neither torch.func nor forward-mode "
            "differentiation; omit out="
        )
    compiling = torch.compiler.is_compiling()  # and cannot tell
    if not compiling and out.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError("Inplace update to inference tensor outside InferenceMode is not allowed.")


def _has_tangent(x: Tensor) -> bool:
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None
