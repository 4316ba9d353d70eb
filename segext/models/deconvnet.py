"""DeconvNet (Noh, Hong and Han, 2015): VGG-16 mirrored by unpooling and transposed convolution."""

from __future__ import annotations

from torch import Tensor, nn

from .encoder_decoder import EncoderDecoder
from .layers import layer_set
from .vgg import init_for_relu, scaled

_FC6 = 7  # fc6's kernel, on a map of 1/32 of the image
_SMALLEST = (_FC6 - 1) * 32 + 1

# Output channels of the transposed convolutions of each decoder stage; the first one unpools, the last one narrows.
_DECODER = (
    ("deconv5", (512, 512, 512)),
    ("deconv4", (512, 512, 256)),
    ("deconv3", (256, 256, 128)),
    ("deconv2", (128, 64)),
    ("deconv1", (64, 64)),
)


class DeconvNet(EncoderDecoder):
    """See :func:`deconvnet`."""

    _between = ("fc6", "fc7", "fc6_deconv")
    _decoder = tuple(tuple(f"{stage}_{i + 1}" for i in range(len(channels))) for stage, channels in _DECODER)
    _score = "seg_score"

    def __init__(
        self,
        num_classes: int = 21,
        *,
        in_channels: int = 3,
        width: float = 1.0,
        fc_channels: int = 4096,
        recompute: bool = False,
        layers: str = "segext",
    ) -> None:
        kinds = layer_set(layers)
        super().__init__(num_classes, in_channels, width, kinds, recompute)
        encoded, fully_connected = self.conv5_3.out_channels, scaled(fc_channels, width)
        self._add("fc6", kinds.WholeMapConv2d(encoded, fully_connected, _FC6))
        self._add("fc7", kinds.WholeMapConv2d(fully_connected, fully_connected, 1))
        init_for_relu(*(layer for layer in self.modules() if isinstance(layer, nn.Conv2d)))

        self._add("fc6_deconv", kinds.ConvTranspose2d(fully_connected, encoded, _FC6))
        inputs = encoded
        for names, (_, channels) in zip(self._decoder, _DECODER, strict=True):
            for name, outputs in zip(names, channels, strict=True):
                kind = kinds.UnpoolConvTranspose2d if name == names[0] else nn.ConvTranspose2d
                outputs = scaled(outputs, width)
                self._add(name, kind(inputs, outputs, 3, padding=1))
                inputs = outputs
        self._add("seg_score", nn.Conv2d(inputs, num_classes, 1))
        for layer in (*(m for m in self.modules() if isinstance(m, nn.ConvTranspose2d)), self.seg_score):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def _check(self, image: Tensor) -> None:
        super()._check(image)
        if image.shape[-2] < _SMALLEST or image.shape[-1] < _SMALLEST:
            raise ValueError(
                f"DeconvNet takes images from {_SMALLEST}x{_SMALLEST} on, of which the pools leave {_FC6}x{_FC6} for "
                f"fc6, but got {image.shape[-2]}x{image.shape[-1]}"
            )


def deconvnet(
    num_classes: int = 21,
    *,
    in_channels: int = 3,
    width: float = 1.0,
    fc_channels: int = 4096,
    recompute: bool = False,
    layers: str = "segext",
) -> DeconvNet:
    """DeconvNet, for images of 224x224 and of any size from 193x193 on.

    Pools round up and unpooling restores the recorded sizes, so that the scores have the size of the image. Training on
    images up to 224x224 needs a batch of two or more, because the output of fc6 and fc7 is a single pixel, over which
    batch norm computes its statistics.

    Args:
        num_classes: channels of the scores.
        in_channels: channels of the images.
        width: factor for the channels of every layer except the scores.
        fc_channels: channels of fc6 and fc7, before ``width``.
        recompute: keep one map of each convolution, batch norm and ReLU for the backward pass rather than two.
        layers: "segext", or "torch" for stock layers with the same state dict.

    The decoder and the score layer are initialised from a Gaussian with standard deviation 0.01, and batch norm with a
    shift of 0.001, as published. Encoder, fc6 and fc7 use He initialisation, which trains from scratch; the published
    network starts from VGG-16's weights, for which see ``load_weights``.
    """
    return DeconvNet(
        num_classes,
        in_channels=in_channels,
        width=width,
        fc_channels=fc_channels,
        recompute=recompute,
        layers=layers,
    )
