"""A process of its own that predicts and trains, and prints by how many bytes it grew. Run by ``cost.peaks``.

Each call comes twice, and the second counts: in the first, the process also reads the code that it runs.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from segext.models import MODELS

from .plan import WAYS, memory_format

CLASSES = 11


def memory(field: str) -> int:
    """Bytes of this process: VmRSS, now, or VmHWM, the most since that was forgotten."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(found.group(1))


def growth(call: Callable[[], object]) -> int:
    """By how many bytes this process is larger at most while ``call`` runs."""
    call()
    forget_peak = Path("/proc/self/clear_refs")
    before = memory("VmRSS")
    forget_peak.write_text("5")
    call()
    return memory("VmHWM") - before


def main() -> None:
    network, way, width, *sizes = sys.argv[1:]
    crop, batch, height, columns, threads = map(int, sizes)
    torch.set_num_threads(threads)
    model = MODELS[network](CLASSES, width=float(width), **WAYS[way]).to(memory_format=memory_format(way))
    image = torch.rand(1, 3, height, columns).contiguous(memory_format=memory_format(way))
    images = torch.rand(batch, 3, crop, crop).contiguous(memory_format=memory_format(way))
    labels = torch.randint(CLASSES, (batch, crop, crop))

    def step() -> None:
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model.train()(images), labels).backward()

    print(json.dumps({"prediction": growth(lambda: model.predict(image)), "step": growth(step)}))


if __name__ == "__main__":
    main()
