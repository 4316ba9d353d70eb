"""The pools of known networks: which windows at which channel counts and sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from segext import reference

# The networks of segext.models: what they are called in tables, and which have batch norm.
TITLES = {"fcn32s": "FCN-32s", "fcn16s": "FCN-16s", "fcn8s": "FCN-8s", "deconvnet": "DeconvNet", "segnet": "SegNet"}
NORMALISED = ("deconvnet", "segnet")


@dataclass(frozen=True)
class Pool:
    """One max-pool: its window, and the (C, H, W) map that it reads."""

    name: str
    channels: int
    height: int
    width: int
    kernel: int = 2
    stride: int = 2
    padding: int = 0
    ceil_mode: bool = False

    @property
    def window(self) -> tuple[int, int, int, int, bool]:
        """The arguments of a pool after its input."""
        return self.kernel, self.stride, self.padding, 1, self.ceil_mode

    @property
    def pooled(self) -> tuple[int, int]:
        return reference.pooled_size((self.height, self.width), *self.window)

    @property
    def overlaps(self) -> bool:
        return self.stride < self.kernel

    def __str__(self) -> str:
        text = f"{self.channels}@{self.height}x{self.width}"
        if (self.kernel, self.stride, self.padding) != (2, 2, 0):
            text += f" {self.kernel}x{self.kernel}/{self.stride}" + f" pad {self.padding}" * bool(self.padding)
        return text


@dataclass(frozen=True)
class Network:
    """A network's name and its pools, first to last."""

    name: str
    pools: tuple[Pool, ...]

    def only(self, *names: str) -> Network:
        return replace(self, pools=tuple(pool for pool in self.pools if pool.name in names))


def vgg16(name: str, height: int, width: int, *, ceil_mode: bool = False) -> Network:
    """The five 2x2 pools of a VGG-16 encoder whose first pool reads (64, height, width)."""
    pools = []
    for number, channels in enumerate((64, 128, 256, 512, 512), start=1):
        pools.append(Pool(f"pool{number}", channels, height, width, ceil_mode=ceil_mode))
        height, width = pools[-1].pooled
    return Network(name, tuple(pools))


DECONVNET = vgg16("DeconvNet 224x224", 224, 224)
DECONVNET_512 = vgg16("DeconvNet 512x512", 512, 512)
SEGNET = vgg16("SegNet 360x480", 360, 480, ceil_mode=True)
FCN8S = vgg16("FCN-8s 500x500", 500 + 198, 500 + 198, ceil_mode=True)  # padded by 100 before a 3x3 convolution
ENET = Network(
    "ENet 512x512",
    (
        Pool("initial", 3, 512, 512, kernel=3, padding=1),
        Pool("initial 2x2", 3, 512, 512),
        Pool("13 channels", 13, 256, 256),
        Pool("stage 1", 16, 256, 256),
    ),
)
RESNET = Network("ResNet 224x224", (Pool("stem", 64, 112, 112, kernel=3, padding=1),))

# Networks that keep switches, or whose pools' backward needs them.
REMEMBERING = (DECONVNET, DECONVNET_512, SEGNET, FCN8S)
# Timed besides DeconvNet, for odd sizes, channel counts and windows. FCN-8s' other pools are left out: the last are
# much like SegNet's, and the first reads a map 2.4 times as large as any other here.
ODD = (SEGNET, FCN8S.only("pool2", "pool3"), ENET, RESNET)
