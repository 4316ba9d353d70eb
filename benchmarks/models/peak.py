"""A process of its own that predicts and trains, and prints by how many bytes it grew. Run by ``cost.peaks``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from segext.models import MODELS

from ..memory import peak_bytes
from .plan import WAYS, memory_format

CLASSES = 11


def warm_peak(call: Callable[[], Tensor]) -> int:
    """Bytes at the peak of a second call: in the first, the process also reads the code that it runs."""
    call()
    return peak_bytes(call)


def main() -> None:
    network, way, width, *sizes = sys.argv[1:]
    crop, batch, height, columns, threads = map(int, sizes)
    torch.set_num_threads(threads)
    model = MODELS[network](CLASSES, width=float(width), **WAYS[way]).to(memory_format=memory_format(way))
    image = torch.rand(1, 3, height, columns).contiguous(memory_format=memory_format(way))
    images = torch.rand(batch, 3, crop, crop).contiguous(memory_format=memory_format(way))
    labels = torch.randint(CLASSES, (batch, crop, crop))

    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        loss = model.train()(images, labels)
        loss.backward()
        return loss

    print(json.dumps({"prediction": warm_peak(lambda: model.predict(image)), "step": warm_peak(step)}))


if __name__ == "__main__":
    main()
