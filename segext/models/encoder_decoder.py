"""The common part of DeconvNet and SegNet: blocks of convolution, batch norm and ReLU, pools whose switches are kept,
and a decoder that unpools with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .base import SegmentationModel, label_map
from .layers import LayerSet, Unpooling
from .vgg import channels_of, convolution_names

_BAND = 2**20  # scores that are held at once when only labels are wanted


class EncoderDecoder(SegmentationModel):
    """VGG-16's encoder with batch norm, a decoder that mirrors it, and a last convolution that scores classes.

    A subclass adds its convolutions, each with :meth:`_add`, and names them: ``_between`` lists those between encoder
    and decoder, ``_decoder`` those of each decoder stage, of which the first unpools, and ``_score`` the last.

    With ``recompute``, autograd keeps one map of each convolution, batch norm and ReLU rather than two: the normalised
    one is recomputed in the backward pass from the convolution's output. Gradients stay bitwise the same. Before an
    unpooling, where maps are a quarter of the size, both are kept. Under ``torch.compile`` the compiler chooses what to
    keep.
    """

    _between: Sequence[str] = ()
    _decoder: Sequence[Sequence[str]]
    _score: str

    def __init__(self, num_classes: int, in_channels: int, width: float, kinds: LayerSet, recompute: bool) -> None:
        super().__init__(num_classes, in_channels, width)
        self.recompute = recompute
        for name, (inputs, outputs) in channels_of(in_channels, width).items():
            self._add(name, nn.Conv2d(inputs, outputs, 3, padding=1))
        for stage in range(1, 6):
            self.add_module(f"pool{stage}", kinds.ReLUMaxPool2d(2, ceil_mode=True, return_indices=True))

    def _add(self, name: str, convolution: nn.Conv2d | nn.ConvTranspose2d) -> None:
        """Adds a convolution and, unless it scores classes, the batch norm after it."""
        self.add_module(name, convolution)
        if name != self._score:
            norm = nn.BatchNorm2d(convolution.out_channels)
            nn.init.constant_(norm.bias, 0.001)  # as published
            self.add_module(f"{name}_bn", norm)

    def _scores(self, image: Tensor) -> Tensor:
        return self._convolve(self._score, *self._decoded(image))

    def _labels(self, image: Tensor) -> Tensor:
        x, last = self._decoded(image)
        return _labels_by_bands(getattr(self, self._score), self._rectified(last, x))

    def _decoded(self, image: Tensor) -> tuple[Tensor, str]:
        """The output of the second-to-last convolution, before batch norm and ReLU, and its name."""
        self._check(image)
        x, last, unpoolings = image, None, []
        for stage, names in enumerate(convolution_names(), start=1):
            for name in names:
                x, last = self._convolve(name, x, last), name
            size = x.shape[-2:]
            x, indices = getattr(self, f"pool{stage}")(getattr(self, f"{last}_bn")(x))  # the pool rectifies
            last = None
            unpoolings.append((indices, size))
        for name in self._between:
            x, last = self._convolve(name, x, last), name
        for first, *names in self._decoder:
            x, last = self._convolve(first, x, last, unpoolings.pop()), first
            for name in names:
                x, last = self._convolve(name, x, last), name
        return x, last

    def _convolve(self, name: str, x: Tensor, last: str | None, *unpooling: Unpooling) -> Tensor:
        """Convolution ``name`` of ``x``, the output of convolution ``last``, after that one's batch norm and ReLU.

        Both belong to one call so that what lies between the convolutions need not be kept.
        """
        convolution = getattr(self, name)

        def run(x: Tensor) -> Tensor:
            return convolution(self._rectified(last, x), *unpooling)

        # A convolution that unpools saves its tensors after it has run, so it would run again before they exist.
        recomputes = self.recompute and torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if last is None or unpooling or not recomputes:
            return run(x)
        return _recomputed(run, x, getattr(self, f"{last}_bn"))

    def _rectified(self, last: str | None, x: Tensor) -> Tensor:
        return x if last is None else F.relu(getattr(self, f"{last}_bn")(x), inplace=True)


def _recomputed(function: Callable[[Tensor], Tensor], x: Tensor, norm: nn.Module) -> Tensor:
    """``function(x)``, for which autograd keeps only ``x``: the backward pass calls ``function`` again.

    That call stops at the last tensor needed, the input of the final convolution in ``function``, which therefore does
    not run again. ``norm`` does not count its batch twice.
    """

    def contexts():
        return nullcontext(), _statistics_kept(norm)

    return checkpoint(function, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


@contextmanager
def _statistics_kept(norm: nn.Module) -> Iterator[None]:
    """Context in which ``norm`` updates copies of its running statistics, which are then dropped."""
    buffers = dict(norm.named_buffers())
    for name, buffer in buffers.items():
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for name, buffer in buffers.items():
            setattr(norm, name, buffer)


def _labels_by_bands(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """``label_map(convolution(x))`` for a stride of 1, scoring no more than a band of rows at a time."""
    samples, _, height, width = x.shape
    margin = convolution.padding[0]
    rows = max(1, _BAND // max(1, samples * convolution.out_channels * width))  # there may be no samples
    bands = []
    for start in range(0, height, rows):
        first = max(0, start - margin)
        scores = convolution(x[:, :, first : start + rows + margin])
        bands.append(label_map(scores[:, :, start - first :][:, :, :rows]))
    return torch.cat(bands, 1)
