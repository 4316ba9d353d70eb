"""Sizes derived from a pool's window, and bits of its codes.

The C++ counterparts are in ``csrc/kernels/switches.h`` and, of ``pooled_extent``, in ``csrc/ops/pooling.cpp``.
"""

from __future__ import annotations


def code_bits(taps: int) -> int:
    """Bits of one code: the smallest of 1, 2, 4, 8, 16, 32 that can distinguish ``taps`` taps."""
    return next(bits for bits in (1, 2, 4, 8, 16, 32) if 2**bits >= taps)


def code_bytes(elements: int, bits: int) -> int:
    """Bytes needed for ``elements`` codes of ``bits`` bits."""
    return (elements * bits + 7) // 8


def pooled_extent(size, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool):
    extent = (size + 2 * padding - dilation * (kernel - 1) - 1 + (stride - 1 if ceil_mode else 0)) // stride + 1
    # With ceil_mode the last window must still start inside the map or its left padding.
    return extent - 1 if ceil_mode and (extent - 1) * stride >= size + padding else extent
