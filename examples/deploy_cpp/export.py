"""Exports DeconvNet as an AOTInductor package that labels images, with an image to try it on and the labels that Python
gives it: ``deconvnet.pt2``, ``image.pt`` and ``expected.pt``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import segext


class Labels(nn.Module):
    """A network's label map: the class of the largest score at each pixel, as uint8."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image).argmax(1).to(torch.uint8)


def settle(network: nn.Module, images: Tensor) -> None:
    """Gives batch norms the statistics of ``images``: without, what no one trained labels all pixels alike."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    network.train()(images)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--width", type=float, default=1.0, help="share of the channels of every layer")
    parser.add_argument("--size", type=int, default=224, help="height and width of the image, from 193 on")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    network = segext.models.deconvnet(width=arguments.width)  # load your own weights here
    settle(network, torch.randn(2, 3, arguments.size, arguments.size))
    network = Labels(network).eval()

    image = torch.randn(1, 3, arguments.size, arguments.size)
    program = torch.export.export(network, (image,))
    torch._inductor.aoti_compile_and_package(program, package_path=str(arguments.folder / "deconvnet.pt2"))
    torch.save(image, arguments.folder / "image.pt")
    torch.save(network(image), arguments.folder / "expected.pt")


if __name__ == "__main__":
    main()
