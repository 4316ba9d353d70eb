"""What the run is of: device, driver, CUDA, torch, commit. Run as a process, it prints them as JSON.

The driver asks in another process, because whoever looks at a GPU through torch keeps some of its memory.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import torch

from ..revision import commit


def facts(device: str) -> dict[str, str | int]:
    """Raises RuntimeError where torch sees no such device."""
    found: dict[str, str | int] = {"python": platform.python_version(), "torch": torch.__version__, "commit": commit()}
    found["cores"] = len(os.sched_getaffinity(0))
    if device == "cpu":
        return {**found, "device": "CPU (a rehearsal)", "architecture": "", "memory": 0, "l2": 0}
    if not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} sees no GPU (built for CUDA {torch.version.cuda})")
    properties = torch.cuda.get_device_properties(0)
    return {
        **found,
        "device": properties.name,
        "architecture": f"{properties.major}.{properties.minor}",
        "memory": properties.total_memory,
        "l2": properties.L2_cache_size,
        "multiprocessors": properties.multi_processor_count,
        "devices": torch.cuda.device_count(),
        "cuda": torch.version.cuda or "",
        "cudnn": torch.backends.cudnn.version() or 0,
        "driver": _driver(),
    }


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


if __name__ == "__main__":
    try:
        print(json.dumps(facts(sys.argv[1])))
    except RuntimeError as error:
        sys.exit(str(error))
