"""The weights with which a transposed convolution interpolates bilinearly."""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import IntPair, plain_int, plain_pair


def bilinear_weight(
    channels: int, stride: IntPair, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Weights with which a transposed convolution of this stride, with a group per channel, interpolates bilinearly.

    ::

        weight = F.bilinear_weight(21, 8)
        F.conv_transpose2d(scores, weight, stride=8, padding=4, groups=21)

    The filters of FCN's upsampling (Long et al., 2015). With a padding of half the stride, the result equals that of
    :func:`torch.nn.functional.interpolate` with ``scale_factor=stride, mode="bilinear", align_corners=False``, except
    within half a stride of the border, where scores beyond the map count as zero.

    Args:
        channels: C, the number of channels (classes).
        stride: one int or (vertical, horizontal): the factor of the upsampling.
        dtype, device: of the result; by default torch's.

    Returns:
        (C, 1, 2 * vertical stride, 2 * horizontal stride).

    Raises:
        TypeError: for channels or a stride that are not ints, or a dtype that is not a float's.
        ValueError: for a stride that is not one or two values, or not positive, and for a negative number of channels.
    """
    dtype = dtype or torch.get_default_dtype()
    if not dtype.is_floating_point:
        raise TypeError(f"dtype should be that of a float, but got {dtype}")
    try:
        channels = plain_int(channels)
    except TypeError:
        raise TypeError(f"channels should be an int, but got {channels!r}") from None
    vertical, horizontal = plain_pair("stride", stride)
    if channels < 0 or min(vertical, horizontal) < 1:
        raise ValueError(f"channels should not be negative and stride positive, but got {channels} and {stride}")
    precise = torch.promote_types(dtype, torch.float32)

    def ramp(stride: int) -> Tensor:
        return 1 - (torch.arange(2 * stride, dtype=precise, device=device) - (stride - 0.5)).abs() / stride

    weight = ramp(vertical)[:, None] * ramp(horizontal)
    return weight.to(dtype).expand(channels, 1, -1, -1).clone()
