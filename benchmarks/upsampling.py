"""Transposed convolution and its fusions against stock's compositions: class scores on their way to full size.

Where channels do not mix, stock has two ways: the depthwise convolution, and the dense kernel with a diagonal of
filters that FCN's published weights hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as stock
from torch import Tensor

import segext
import segext.functional as own

from .contest import Case
from .throughput import DTYPES

CLASSES = 21

# The names of the ops; those that upsample by several factors, by the factor.
SCALES = (2, 8, 32)
UPSAMPLING = {scale: f"bilinear x{scale}" for scale in SCALES}
UPSAMPLING_TRAINS = {scale: f"{op}, fwd+bwd" for scale, op in UPSAMPLING.items()}
LOSS = {scale: f"upsample x{scale}, crop, loss, backward" for scale in SCALES}
ADD, ARGMAX = "upsample x2, crop, add", "upsample x8, crop, argmax"
FULLY_CONNECTED = "fc6-deconv 7x7"


@dataclass(frozen=True)
class Setting:
    """Where, and on maps of which side: those upsampled by 2, 8 and 32, below the skip connection, and labelled."""

    device: str = "cpu"
    batch: int = 1
    sizes: tuple[int, int, int] = (128, 64, 16)
    skip: int = 16
    labels: int = 70

    @property
    def labelled(self) -> int:
        """The side of the label map: of the image, for FCN-8s."""
        return 8 * self.labels - 60


def cases(dtypes: Sequence[str] = DTYPES, *, quick: bool, setting: Setting = Setting()) -> list[Case]:
    """Every case in these types; ``quick`` leaves out what takes long."""
    return [case for dtype in dtypes for case in _cases(getattr(torch, dtype), quick, setting)]


def _cases(dtype: torch.dtype, quick: bool, setting: Setting) -> Iterator[Case]:
    for scale, size in zip(SCALES, setting.sizes, strict=True):
        yield _upsampling(scale, size, dtype, setting)
        if dtype is torch.float32:
            yield _trained(scale, size, dtype, setting)
    yield _skip(dtype, setting)
    yield labels(dtype, setting)
    if dtype is torch.float32 or not quick:
        yield _loss(8, setting.labels, 31, dtype, setting)
        if setting.device != "cpu":
            yield _unchecked(_loss(8, setting.labels, 31, dtype, setting))
    if dtype is torch.float32 and not quick:
        yield _loss(2, 250, 1, dtype, setting)
        if setting.device == "cpu":  # on CUDA, cuDNN takes a minute to choose an algorithm for dense filters
            yield _loss(32, 17, 19, dtype, setting)
        yield _fully_connected(setting)


def _filters(scale: int, dtype: torch.dtype, setting: Setting) -> Tensor:
    """Bilinear filters of (CLASSES, 1, 2 * scale, 2 * scale)."""
    ramp = 1 - ((torch.arange(2 * scale) - scale + 0.5) / scale).abs()
    return torch.outer(ramp, ramp).expand(CLASSES, 1, -1, -1).contiguous().to(setting.device, dtype)


def _scores(size: int, dtype: torch.dtype, setting: Setting) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(setting.batch, CLASSES, size, size, generator=generator).to(setting.device, dtype)


def _in_format_of(tensor: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns what returns ``tensor``, converted beforehand, in the memory format of the map it is given."""
    contiguous, channels_last = (
        tensor.contiguous(memory_format=format) for format in (torch.contiguous_format, torch.channels_last)
    )
    return lambda x: contiguous if x.is_contiguous() else channels_last


def _dense(filters: Tensor) -> Tensor:
    """The same filters on the diagonal of (CLASSES, CLASSES, ...)."""
    return torch.diag_embed(filters.squeeze(1).permute(1, 2, 0)).permute(2, 3, 0, 1).contiguous()


def _upsampling(scale: int, size: int, dtype: torch.dtype, setting: Setting) -> Case:
    filters, arguments = _filters(scale, dtype, setting), (None, scale, scale // 2, 0, CLASSES)
    return Case(
        UPSAMPLING[scale],
        f"{CLASSES}@{size}x{size}",
        _scores(size, dtype, setting),
        lambda x: own.conv_transpose2d(x, filters, *arguments),
        {"stock": lambda x: stock.conv_transpose2d(x, filters, *arguments)},
        lambda x: segext.explain(own.conv_transpose2d, x, filters, *arguments),
        operations=setting.batch * CLASSES * (size * 2 * scale) ** 2 * 2,
    )


def _trained(scale: int, size: int, dtype: torch.dtype, setting: Setting) -> Case:
    """The same with gradients of scores and filters."""
    case = _upsampling(scale, size, dtype, setting)
    filters, arguments = _filters(scale, dtype, setting).requires_grad_(), (None, scale, scale // 2, 0, CLASSES)
    grad = _scores(scale * size, dtype, setting)
    grad_like = _in_format_of(grad)

    def gradients(upsample: Callable[..., Tensor]) -> Callable[[Tensor], tuple[Tensor, ...]]:
        def call(x: Tensor) -> tuple[Tensor, ...]:
            leaf = x.detach().requires_grad_()
            return torch.autograd.grad(upsample(leaf, filters, *arguments), (leaf, filters), grad_like(x))

        return call

    return replace(
        case,
        op=UPSAMPLING_TRAINS[scale],
        segext=gradients(own.conv_transpose2d),
        stock={"stock": gradients(stock.conv_transpose2d)},
        kernels=lambda x: segext.explain(own.conv_transpose2d, x, filters, *arguments),
        added_bytes=2 * grad.nbytes,  # the output's gradient is read, the output written
        operations=0,
        trains=True,
    )


def _skip(dtype: torch.dtype, setting: Setting) -> Case:
    """FCN's upscore2 and fuse_pool4 at 500x500, by default."""
    size = 2 * setting.skip + 2
    filters, addend = _filters(2, dtype, setting), _scores(size + 10, dtype, setting)
    addend_like = _in_format_of(addend)

    def part_like(x: Tensor) -> Tensor:
        return addend_like(x)[..., 5 : 5 + size, 5 : 5 + size]

    options = {"stride": 2, "groups": CLASSES, "addend_crop": (5, 5)}
    return Case(
        ADD,
        f"{CLASSES}@{setting.skip}x{setting.skip}",
        _scores(setting.skip, dtype, setting),
        lambda x: own.conv_transpose2d_add(x, filters, addend_like(x), **options),
        {"stock": lambda x: stock.conv_transpose2d(x, filters, None, 2, groups=CLASSES) + part_like(x)},
        lambda x: segext.explain(own.conv_transpose2d_add, x, filters, addend_like(x), **options),
        part_like(addend).nbytes,
    )


def labels(dtype: torch.dtype, setting: Setting = Setting()) -> Case:
    """FCN-8s' upscore8 and the label map at 500x500, by default."""
    filters = _filters(8, dtype, setting)
    dense = _dense(filters)
    size = setting.labelled

    def label_map(scores: Tensor) -> Tensor:
        return scores[..., 31 : 31 + size, 31 : 31 + size].argmax(1)

    options = {"stride": 8, "groups": CLASSES, "crop": (31, 31), "output_size": (size, size)}
    return Case(
        ARGMAX,
        f"{CLASSES}@{setting.labels}x{setting.labels}",
        _scores(setting.labels, dtype, setting),
        lambda x: own.conv_transpose2d_argmax(x, filters, **options),
        {
            "stock": lambda x: label_map(stock.conv_transpose2d(x, filters, None, 8, groups=CLASSES)),
            "stock dense": lambda x: label_map(stock.conv_transpose2d(x, dense, None, 8)),
        },
        lambda x: segext.explain(own.conv_transpose2d_argmax, x, filters, **options),
        operations=setting.batch * CLASSES * size**2 * 2 * 4,  # each pixel is computed from four scores
    )


def _loss(scale: int, size: int, crop: int, dtype: torch.dtype, setting: Setting) -> Case:
    """How FCNs train at 500x500: the loss of upsampled scores, and the gradient of the coarse ones."""
    filters = _filters(scale, dtype, setting)
    dense = _dense(filters)
    side = setting.labelled
    target = torch.randint(0, CLASSES, (setting.batch, side, side), generator=torch.Generator().manual_seed(0))
    target[:, : side // 20] = 255
    target = target.to(setting.device)

    def gradient(loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def call(x: Tensor) -> Tensor:
            leaf = x.detach().requires_grad_()
            return torch.autograd.grad(loss(leaf), leaf)[0]

        return call

    def by_stock(weight: Tensor, groups: int) -> Callable[[Tensor], Tensor]:
        def loss(x: Tensor) -> Tensor:
            scores = stock.conv_transpose2d(x, weight, None, scale, groups=groups)
            return stock.cross_entropy(
                scores[..., crop : crop + side, crop : crop + side], target, ignore_index=255, reduction="sum"
            )

        return gradient(loss)

    options = {"stride": scale, "groups": CLASSES, "crop": (crop, crop), "ignore_index": 255, "reduction": "sum"}

    def fused(x: Tensor) -> Tensor:
        return own.conv_transpose2d_cross_entropy(x, filters, target, **options)

    return Case(
        LOSS[scale],
        f"{CLASSES}@{size}x{size}",
        _scores(size, dtype, setting),
        gradient(fused),
        {"stock": by_stock(filters, CLASSES), "stock dense": by_stock(dense, 1)},
        lambda x: segext.explain(own.conv_transpose2d_cross_entropy, x, filters, target, **options),
        trains=True,
    )


def _unchecked(case: Case) -> Case:
    """Without the check of targets, a reduction before the loss on CUDA, for which the call waits."""

    def call(x: Tensor) -> Tensor:
        with own.set_index_check(False):
            return case.segext(x)

    return replace(case, op=f"{case.op}, unchecked", segext=call)


def _fully_connected(setting: Setting) -> Case:
    """DeconvNet's fc6-deconv."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        torch.randn(shape, generator=generator).to(setting.device) for shape in ((1, 4096, 1, 1), (4096, 512, 7, 7))
    )
    return Case(
        FULLY_CONNECTED,
        "4096 to 512@1x1",
        x,
        lambda x: own.conv_transpose2d(x, weight),
        {"stock": lambda x: stock.conv_transpose2d(x, weight)},
        lambda x: segext.explain(own.conv_transpose2d, x, weight),
        weight.nbytes,
        operations=2 * weight.numel(),
    )
