"""Fully convolutional networks (Long, Shelhamer and Darrell, 2015): FCN-32s, FCN-16s and FCN-8s on VGG-16."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .base import SegmentationModel
from .layers import layer_set
from .vgg import STAGES, channels_of, convolution_names, init_for_relu, scaled

_PADDING = 100  # of the first convolution, so that something is left for fc6 whatever the image size


@dataclass(frozen=True)
class _Skip:
    """Scores of a stage's pool, added after ``upscore`` has doubled the coarser ones. ``crop`` aligns the two maps."""

    stage: int
    upscore: str
    crop: int
    at_once_scale: float

    @property
    def score(self) -> str:
        return f"score_pool{self.stage}"


_POOL4 = _Skip(4, "upscore2", crop=5, at_once_scale=1e-2)
_POOL3 = _Skip(3, "upscore_pool4", crop=9, at_once_scale=1e-4)

# By stride of the finest scores: the skips, the layer that upsamples to pixels, and where the image lies in its output.
_HEADS = {32: ((), "upscore", 19), 16: ((_POOL4,), "upscore16", 27), 8: ((_POOL4, _POOL3), "upscore8", 31)}


class FCN(SegmentationModel):
    """An FCN with one stride: see :func:`fcn32s`, :func:`fcn16s`, :func:`fcn8s`.

    Layers and state dict keys have the names of the published networks: 33, 36 or 39 tensors, including the dense
    (K, K, k, k) weights of :class:`~segext.models.upscore.Upscore`.
    """

    def __init__(
        self,
        stride: int,
        num_classes: int = 21,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        fc_channels: int = 4096,
        dropout: float = 0.5,
        at_once: bool = False,
        learn_upscore: bool = False,
        layers: str = "segext",
    ) -> None:
        super().__init__(num_classes, in_channels, width)
        kinds = layer_set(layers)
        self._skips, self._last, self._crop = _HEADS[stride]
        self._at_once = at_once
        channels = channels_of(in_channels, width)
        for name, (inputs, outputs) in channels.items():
            padding = _PADDING if name == "conv1_1" else 1
            self.add_module(name, nn.Conv2d(inputs, outputs, 3, padding=padding))
        for stage in range(1, 6):
            self.add_module(f"pool{stage}", kinds.ReLUMaxPool2d(2, ceil_mode=True))
        fully_connected = scaled(fc_channels, width)
        self.fc6 = kinds.WholeMapConv2d(channels["conv5_3"][1], fully_connected, 7)
        self.fc7 = kinds.WholeMapConv2d(fully_connected, fully_connected, 1)
        self.dropout = nn.Dropout(dropout)
        init_for_relu(*(getattr(self, name) for name in channels), self.fc6, self.fc7)

        self.score_fr = _score_layer(fully_connected, num_classes)
        for skip in self._skips:
            pooled, _ = STAGES[skip.stage - 1]
            self.add_module(skip.score, _score_layer(scaled(pooled, width), num_classes))
        for skip in self._skips:
            self.add_module(skip.upscore, kinds.Upscore(num_classes, 2, learned=learn_upscore))
        self.add_module(self._last, kinds.Upscore(num_classes, stride, learned=learn_upscore))

    def _scores(self, image: Tensor) -> Tensor:
        return getattr(self, self._last)(self._coarse_scores(image), self._crop, image.shape[-2:])

    def _labels(self, image: Tensor) -> Tensor:
        return getattr(self, self._last).labels(self._coarse_scores(image), self._crop, image.shape[-2:])

    def _loss(self, image: Tensor, target: Tensor, **criterion) -> Tensor:
        if target.shape != (len(image), *image.shape[-2:]):
            return super()._loss(image, target, **criterion)  # raises the error
        return getattr(self, self._last).loss(self._coarse_scores(image), target, self._crop, **criterion)

    def _coarse_scores(self, image: Tensor) -> Tensor:
        """Scores at the network's stride, which ``self._last`` upsamples to pixels."""
        self._check(image)
        x, pooled = image, dict.fromkeys(skip.stage for skip in self._skips)
        for stage, names in enumerate(convolution_names(), start=1):
            for name in names[:-1]:
                x = F.relu(getattr(self, name)(x), inplace=True)
            x = getattr(self, f"pool{stage}")(getattr(self, names[-1])(x))  # the pool rectifies
            if stage in pooled:
                pooled[stage] = x
        x = self.dropout(F.relu(self.fc6(x), inplace=True))
        x = self.dropout(F.relu(self.fc7(x), inplace=True))
        score = self.score_fr(x)
        for skip in self._skips:
            x = pooled[skip.stage] * skip.at_once_scale if self._at_once else pooled[skip.stage]
            score = getattr(self, skip.upscore).add(score, getattr(self, skip.score)(x), skip.crop)
        return score


def _score_layer(channels: int, num_classes: int) -> nn.Conv2d:
    """A 1x1 convolution that initially scores every class zero, as published: a skip has no effect until it learns."""
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def fcn32s(
    num_classes: int = 21,
    *,
    in_channels: int = 3,
    width: float = 1.0,
    fc_channels: int = 4096,
    dropout: float = 0.5,
    learn_upscore: bool = False,
    layers: str = "segext",
) -> FCN:
    """FCN-32s: VGG-16's scores at stride 32, upsampled in one step.

    Args:
        num_classes: channels of the scores.
        in_channels: channels of the images.
        width: factor for the channels of every layer except the scores.
        fc_channels: channels of fc6 and fc7, before ``width``.
        dropout: the probability of dropping an element after fc6 and fc7.
        learn_upscore: train the upsampling too, one filter per class; in the published networks it stays bilinear.
        layers: "segext", or "torch" for stock layers with the same state dict.

    Convolutions use He initialisation, which trains from scratch; the published networks start from VGG-16's weights,
    for which see ``load_weights``. Score layers start at zero and upsampling is bilinear, as published.
    """
    return FCN(
        32,
        num_classes,
        in_channels=in_channels,
        width=width,
        fc_channels=fc_channels,
        dropout=dropout,
        learn_upscore=learn_upscore,
        layers=layers,
    )


def fcn16s(
    num_classes: int = 21,
    *,
    in_channels: int = 3,
    width: float = 1.0,
    fc_channels: int = 4096,
    dropout: float = 0.5,
    at_once: bool = False,
    learn_upscore: bool = False,
    layers: str = "segext",
) -> FCN:
    """FCN-16s: FCN-32s with the scores of pool4 added at stride 16.

    Arguments are those of :func:`fcn32s`, and ``at_once``: scale pool4 by 0.01 before it is scored, for training all
    strides at once rather than from FCN-32s' weights.
    """
    return FCN(
        16,
        num_classes,
        in_channels=in_channels,
        width=width,
        fc_channels=fc_channels,
        dropout=dropout,
        at_once=at_once,
        learn_upscore=learn_upscore,
        layers=layers,
    )


def fcn8s(
    num_classes: int = 21,
    *,
    in_channels: int = 3,
    width: float = 1.0,
    fc_channels: int = 4096,
    dropout: float = 0.5,
    at_once: bool = False,
    learn_upscore: bool = False,
    layers: str = "segext",
) -> FCN:
    """FCN-8s: FCN-16s with the scores of pool3 added at stride 8.

    Arguments are those of :func:`fcn32s`, and ``at_once``: scale pool4 by 0.01 and pool3 by 0.0001 before they are
    scored, for training all strides at once rather than from FCN-16s' weights. Staged and at-once weights have the same
    keys but are not interchangeable.
    """
    return FCN(
        8,
        num_classes,
        in_channels=in_channels,
        width=width,
        fc_channels=fc_channels,
        dropout=dropout,
        at_once=at_once,
        learn_upscore=learn_upscore,
        layers=layers,
    )
