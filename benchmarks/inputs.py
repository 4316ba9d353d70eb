"""What the benchmarks run on: feature maps that a VGG-like stack of fixed random filters makes of photographs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import Unusable
from .networks import Network

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def load(folder: Path | None) -> list[Tensor]:
    """The images of ``folder``, or the photograph that comes with matplotlib: (3, H, W), values about 0.

    Raises:
        Unusable: for a folder without images, or an image that cannot be read.
        ImportError: without matplotlib, which alone is needed to read images.
    """
    import matplotlib.cbook
    import matplotlib.image

    if folder is None:
        with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
            return [_normalised(matplotlib.image.imread(file, format="jpg"))]
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise Unusable(f"--images: no image ({' '.join(SUFFIXES)}) in {folder}")
    images = []
    for path in paths[:16]:
        try:
            images.append(_normalised(matplotlib.image.imread(path)))
        except Exception as error:  # any error of the format's decoder
            raise Unusable(f"--images: cannot read {path}: {error}") from error
    return images


def _normalised(pixels) -> Tensor:
    image = torch.tensor(pixels).float()
    if image.dim() == 2:
        image = image.unsqueeze(-1).expand(-1, -1, 3)
    image = image[..., :3].permute(2, 0, 1)
    return ((image - image.mean()) / image.std().clamp(min=1e-6)).contiguous()


def batch(images: Sequence[Tensor], count: int, height: int, width: int) -> Tensor:
    """(count, 3, height, width): a crop of each image in turn, at another corner each time round."""
    return torch.stack(
        [_crop(images[n % len(images)], n // len(images) + n % len(images), height, width) for n in range(count)]
    )


def _crop(image: Tensor, corner: int, height: int, width: int) -> Tensor:
    """The largest part of three quarters of ``image`` with the aspect of height x width, resized to that."""
    _, full_h, full_w = image.shape
    scale = 0.75 * min(full_h / height, full_w / width)
    h, w = max(1, round(scale * height)), max(1, round(scale * width))
    top = (full_h - h) * (corner // 2 % 2)
    left = (full_w - w) * (corner % 2)
    part = image[:, top : top + h, left : left + w].unsqueeze(0)
    return F.interpolate(part, (height, width), mode="bilinear", antialias=True).squeeze(0)


@lru_cache
def _filters(inputs: int, outputs: int) -> Tensor:
    generator = torch.Generator().manual_seed(inputs * 4099 + outputs)
    filters = torch.randn(outputs, inputs, 3, 3, generator=generator)
    return filters * (2 / (9 * inputs)) ** 0.5


def convolve(map: Tensor, channels: int) -> Tensor:
    """A 3x3 convolution with fixed filters: what a ReLU and a pool find before them."""
    return F.conv2d(map, _filters(map.shape[1], channels).to(map.device), padding=1)


def feature_maps(images: Sequence[Tensor], network: Network, count: int) -> list[Tensor]:
    """For each pool of ``network``, what its ReLU reads: (count, C, H, W) float32.

    On the images' device. One convolution a stage where the networks have up to three. A pool that does not read what
    the one before it wrote starts from the images again.
    """
    maps, previous = [], None
    with torch.no_grad():
        for pool in network.pools:
            size = (pool.height, pool.width)
            if previous is None or previous.shape[-2:] != size:
                previous = batch(images, count, *size)
            maps.append(convolve(previous, pool.channels))
            previous = F.max_pool2d(F.relu(maps[-1]), *pool.window)
    return maps
