"""FCN's upsampling of class scores: one filter per class, stored as such, but dense in state dicts, as is usual."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as stock
from torch import Tensor, nn

from .. import functional as F
from .base import label_map


class Upscore(nn.Module):
    """Transposed convolution of K class scores, initially bilinear interpolation, and what FCN does with its result.

    The published layer has a dense weight (K, K, k, k) with one filter per class on its diagonal. ``weight`` holds only
    the diagonal, (K, 1, k, k), so that channels do not mix. State dicts hold a copy of it as the dense weight, so that
    averages of weights have to be taken of parameters. ``load_state_dict`` takes both forms: it detects whether a dense
    weight is diagonal, and keeps one that is not unchanged.

    Args:
        num_classes: K.
        stride: s; the kernel size is 2s.
        learned: whether the weight is trained; in the published networks it is not.
    """

    def __init__(self, num_classes: int, stride: int, *, learned: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stride = stride
        self.weight = nn.Parameter(F.bilinear_weight(num_classes, stride), requires_grad=learned)

    @property
    def groups(self) -> int:
        """K if channels do not mix, else 1."""
        return self.num_classes // self.weight.shape[1]

    def forward(self, score: Tensor, crop: int, size: Sequence[int]) -> Tensor:
        """The upsampled score from row and column ``crop`` on: (N, K, H, W) to (N, K, *size).

        There must be ``crop`` more rows and columns below and to the right of that part, as in all FCNs.
        """
        whole = F.conv_transpose2d(score, self.weight, stride=self.stride, padding=crop - 1, groups=self.groups)
        return _inside(whole, size)

    def add(self, score: Tensor, skip: Tensor, crop: int) -> Tensor:
        """The upsampled score plus the part of ``skip`` of its size from row and column ``crop`` on."""
        return F.conv_transpose2d_add(
            score, self.weight, skip, stride=self.stride, groups=self.groups, addend_crop=(crop, crop)
        )

    def labels(self, score: Tensor, crop: int, size: Sequence[int]) -> Tensor:
        """The label map, (N, *size), of what ``forward`` returns, which is never stored."""
        return F.conv_transpose2d_argmax(
            score, self.weight, stride=self.stride, groups=self.groups, crop=(crop, crop), output_size=size
        )

    def loss(self, score: Tensor, target: Tensor, crop: int, **criterion) -> Tensor:
        """The cross-entropy of what ``forward`` returns for the size of ``target``, (N, *size), which is never stored.

        ``criterion``: the options of :func:`segext.functional.conv_transpose2d_cross_entropy`.
        """
        return F.conv_transpose2d_cross_entropy(
            score, self.weight, target, stride=self.stride, groups=self.groups, crop=(crop, crop), **criterion
        )

    def extra_repr(self) -> str:
        size, mixing = 2 * self.stride, "" if self.groups == self.num_classes else ", channels mix"
        return f"{self.num_classes}, kernel_size={size}, stride={self.stride}{mixing}"

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        weight = self.weight if keep_vars else self.weight.detach()
        destination[prefix + "weight"] = dense(weight) if self.groups == self.num_classes else weight

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        key = prefix + "weight"
        given = state_dict.get(key)
        shape = (self.num_classes, self.num_classes, *self.weight.shape[2:])
        if isinstance(given, Tensor) and tuple(given.shape) in (shape, (self.num_classes, 1, *shape[2:])):
            weight = diagonal(given) if tuple(given.shape) == shape and is_diagonal(given) else given
            state_dict = {**state_dict, key: weight}
            if weight.shape != self.weight.shape:
                self.weight = nn.Parameter(self.weight.new_empty(weight.shape), self.weight.requires_grad)
        elif isinstance(given, Tensor):
            error_msgs.append(
                f"size mismatch for {key}: copying a param with shape {given.shape} from checkpoint, the shape in "
                f"current model is {torch.Size(shape)}."
            )
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


class TorchUpscore(Upscore):
    """:class:`Upscore` on stock's operations."""

    def forward(self, score: Tensor, crop: int, size: Sequence[int]) -> Tensor:
        whole = stock.conv_transpose2d(score, self.weight, stride=self.stride, padding=crop - 1, groups=self.groups)
        return _inside(whole, size)

    def add(self, score: Tensor, skip: Tensor, crop: int) -> Tensor:
        upsampled = stock.conv_transpose2d(score, self.weight, stride=self.stride, groups=self.groups)
        height, width = upsampled.shape[-2:]
        return upsampled + skip[..., crop : crop + height, crop : crop + width]

    def labels(self, score: Tensor, crop: int, size: Sequence[int]) -> Tensor:
        return label_map(self.forward(score, crop, size))

    def loss(self, score: Tensor, target: Tensor, crop: int, *, class_weight: Tensor | None, **criterion) -> Tensor:
        return stock.cross_entropy(self.forward(score, crop, target.shape[1:]), target, class_weight, **criterion)


def _inside(whole: Tensor, size: Sequence[int]) -> Tensor:
    """The part of ``size`` inside a border of one pixel: always less than the whole, so that an exported program, which
    keeps whether a slice is the whole map, takes images of all sizes."""
    return whole[..., 1 : size[0] + 1, 1 : size[1] + 1]


def is_diagonal(weight: Tensor) -> bool:
    """Whether no two channels of (K, K, k, k) mix; assumed if there are no values to inspect."""
    if weight.is_meta:
        return True
    mixing = ~torch.eye(weight.shape[0], dtype=torch.bool, device=weight.device)
    return not weight[mixing].any()


def diagonal(weight: Tensor) -> Tensor:
    """(K, K, k, k) to (K, 1, k, k)."""
    return weight.diagonal().permute(2, 0, 1).unsqueeze(1).contiguous()


def dense(weight: Tensor) -> Tensor:
    """(K, 1, k, k) to (K, K, k, k), with zeros off the diagonal."""
    return torch.diag_embed(weight.squeeze(1).permute(1, 2, 0)).permute(2, 3, 0, 1).contiguous()
