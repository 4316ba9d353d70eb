"""The convolutions of VGG-16, with which every network here begins, and the scaling of widths."""

from __future__ import annotations

from torch import nn

# Channels and number of convolutions of each stage; a 2x2 pool ends it.
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def scaled(channels: int, width: float) -> int:
    """``channels`` of a network that is ``width`` times as wide as the published one."""
    return max(1, round(channels * width))


def convolution_names() -> list[list[str]]:
    """Names by stage: conv1_1, conv1_2, conv2_1, and so on to conv5_3."""
    return [[f"conv{stage}_{i + 1}" for i in range(count)] for stage, (_, count) in enumerate(STAGES, start=1)]


def channels_of(in_channels: int, width: float) -> dict[str, tuple[int, int]]:
    """(input, output) channels of each convolution, in order."""
    result = {}
    for names, (channels, _) in zip(convolution_names(), STAGES, strict=True):
        for name in names:
            result[name] = in_channels, scaled(channels, width)
            in_channels = scaled(channels, width)
    return result


def init_for_relu(*layers: nn.Module) -> None:
    """Weights that preserve variance through ReLUs (He et al., 2015), and zero biases."""
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
