"""SegNet (Badrinarayanan, Kendall and Cipolla, 2015): VGG-16's convolutions mirrored by unpooling and convolution."""

from __future__ import annotations

from torch import nn

from .encoder_decoder import EncoderDecoder
from .layers import layer_set
from .vgg import STAGES, convolution_names, init_for_relu, scaled


class SegNet(EncoderDecoder):
    """See :func:`segnet`."""

    # Named after the encoder's convolutions that they mirror, so their numbers count down.
    _decoder = tuple(
        tuple(f"{name}_D" for name in reversed(names) if name != "conv1_1") for names in reversed(convolution_names())
    )
    _score = "conv1_1_D"

    def __init__(
        self,
        num_classes: int = 11,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        recompute: bool = False,
        layers: str = "segext",
    ) -> None:
        kinds = layer_set(layers)
        super().__init__(num_classes, in_channels, width, kinds, recompute)
        stages = [channels for channels, _ in reversed(STAGES)]
        for names, channels, next_channels in zip(self._decoder, stages, (*stages[1:], stages[-1]), strict=True):
            for name in names:
                # The last of a stage narrows to what the next pool had; conv1_1_D, which scores, ends the last stage.
                outputs = next_channels if name == names[-1] else channels
                kind = kinds.UnpoolConv2d if name == names[0] else nn.Conv2d
                self._add(name, kind(scaled(channels, width), scaled(outputs, width), 3, padding=1))
        self._add("conv1_1_D", nn.Conv2d(scaled(stages[-1], width), num_classes, 3, padding=1))
        init_for_relu(*(layer for layer in self.modules() if isinstance(layer, nn.Conv2d)))


def segnet(
    num_classes: int = 11,
    *,
    in_channels: int = 3,
    width: float = 1.0,
    recompute: bool = False,
    layers: str = "segext",
) -> SegNet:
    """SegNet, for images of any size: unpooling restores the sizes recorded by the pools.

    Args:
        num_classes: channels of the scores.
        in_channels: channels of the images.
        width: factor for the channels of every layer except the scores.
        recompute: keep one map of each convolution, batch norm and ReLU for the backward pass rather than two.
        layers: "segext", or "torch" for stock layers with the same state dict.

    Convolutions use He initialisation and batch norm starts with a shift of 0.001, as published.
    """
    return SegNet(num_classes, in_channels=in_channels, width=width, recompute=recompute, layers=layers)
