"""Images and labels as tensors: the data set, the order in which training reads it, and its loaders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from .augmentation import Augmentation
from .errors import UserError
from .folders import Pair
from .pictures import read_image, read_label
from .randomness import Purpose, generator

Sample = tuple[Tensor, Tensor]  # image (3, H, W), label (H, W); uint8
Draw = tuple[int, int]  # index of the image, and number of images read before, which determine its augmentation


class Segmentation(Dataset):
    """Pairs of images and labels. An index returns a pair unchanged, a :data:`Draw` returns it augmented.

    For a file that cannot be read, the error is returned instead of a sample: raised in a worker, it would arrive with
    the worker's traceback as its text.
    """

    def __init__(self, pairs: Sequence[Pair], augmentation: Augmentation | None = None, seed: int = 0) -> None:
        self.pairs = pairs
        self._augmentation = augmentation
        self._seed = seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | Draw) -> Sample | UserError:
        index, draw = key if isinstance(key, tuple) else (key, None)
        pair = self.pairs[index]
        try:
            image, label = read_image(pair.image), read_label(pair.label)
        except UserError as error:
            return error
        if draw is not None:
            try:
                image, label = self._augmentation(image, label, generator(self._seed, Purpose.AUGMENTATION, draw))
            except (MemoryError, OverflowError):
                return UserError(f"--crop and --scale make {pair.image} larger than memory allows")
        return as_tensor(image), as_tensor(label)


def as_tensor(picture: Image.Image) -> Tensor:
    """uint8 (3, H, W) of an RGB image, (H, W) of a grey one."""
    pixels = torch.from_numpy(np.array(picture))
    return pixels.permute(2, 0, 1) if pixels.dim() == 3 else pixels


class Draws(Sampler[list[Draw]]):
    """The batches of one process, from one step to another.

    Epochs follow one another without a gap, each in its own order; a batch may contain the end of one and the start of
    the next. Each batch has ``batch`` images over all processes, and each process gets its share.
    """

    def __init__(self, images: int, batch: int, steps: range, *, seed: int, rank: int = 0, processes: int = 1) -> None:
        self._images, self._batch, self._steps, self._seed = images, batch, steps, seed
        share = batch // processes
        self._share = range(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, order = -1, None
        for step in self._steps:
            batch = []
            for place in self._share:
                draw = step * self._batch + place
                if draw // self._images != epoch:
                    epoch = draw // self._images
                    order = generator(self._seed, Purpose.ORDER, epoch).permutation(self._images)
                batch.append((int(order[draw % self._images]), draw))
            yield batch


def collate(samples: Sequence[Sample | UserError]) -> Sample | UserError:
    """Images (N, 3, H, W) and labels (N, H, W), or the error from one of them."""
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
    sizes = {tuple(label.shape) for _, label in samples}
    if len(sizes) > 1:
        first, second = (f"{h}x{w}" for h, w in sorted(sizes)[:2])
        return UserError(f"images of one batch differ in size ({first}, {second}): give --crop, or --batch 1")
    images, labels = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(labels)


def batches(loader: DataLoader) -> Iterator[Sample]:
    """The batches of a loader.

    Raises:
        UserError: for a file that cannot be read.
    """
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def training_loader(data: Segmentation, draws: Draws, workers: int, *, pin: bool) -> DataLoader:
    return DataLoader(data, batch_sampler=draws, num_workers=workers, collate_fn=collate, pin_memory=pin)


def evaluation_loader(data: Segmentation, workers: int, *, rank: int = 0, processes: int = 1) -> DataLoader:
    """A loader of single, unchanged images: those of one process."""
    mine = range(rank, len(data), processes)
    return DataLoader(data, batch_size=None, sampler=mine, num_workers=workers)
