"""What a run found, where it ran, and the JSON that keeps both, written and read."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import segext._C
import torch

import segext

from . import calls, contest, footprint, limits, memory, scaling, stream, throughput
from .errors import Unusable, brief
from .revision import commit

FORMAT = 1  # of the JSON file


@dataclass
class Results:
    """Rows of every part that was run; an empty part was not run."""

    environment: dict[str, str | int]
    throughput: list[throughput.Row] = field(default_factory=list)
    calls: list[calls.Row] = field(default_factory=list)
    upsampling: list[contest.Row] = field(default_factory=list)
    decoding: list[contest.Row] = field(default_factory=list)
    switches: list[memory.SwitchRow] = field(default_factory=list)
    saved: list[memory.SavedRow] = field(default_factory=list)
    footprint: list[footprint.Row] = field(default_factory=list)
    limits: list[limits.Row] = field(default_factory=list)
    scaling: list[scaling.Row] = field(default_factory=list)
    stream: list[stream.Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def key_rows(self) -> list[throughput.Row]:
        """The rows of the key map, or of the largest of DeconvNet's that was timed."""
        rows = [row for row in self.throughput if row.suite in ("key", "deconvnet")]
        largest = max((row.batch * row.channels * row.height * row.width for row in rows), default=0)
        return [row for row in rows if row.batch * row.channels * row.height * row.width == largest]

    def write(self, path: Path, verdicts: list) -> None:
        content = {"format": FORMAT, **asdict(self), "targets": [asdict(verdict) for verdict in verdicts]}
        path.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """What :meth:`write` wrote. A part that the file's release did not have yet was not run.

        Raises:
            Unusable: for a file that cannot be read, or is of another format.
        """
        try:
            content = json.loads(path.read_text())
            if content["format"] != FORMAT:
                raise Unusable(f"{path} is of format {content['format']}, where {FORMAT} is known")
            return _revived(cls, content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Unusable(f"{path} holds no results of these benchmarks: {brief(error)}") from error


def _revived(kind: Any, value: Any) -> Any:
    """``value``, as JSON has it, as what the type annotation ``kind`` says."""
    if is_dataclass(kind):
        kinds = get_type_hints(kind)
        return kind(**{f.name: _revived(kinds[f.name], value[f.name]) for f in fields(kind) if f.name in value})
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:  # a union of a type and None
        return None if value is None else _revived(inner[0], value)
    if origin in (list, tuple):
        return origin(_revived(inner[0], item) for item in value)
    if origin is dict:
        return {key: _revived(inner[1], item) for key, item in value.items()}
    return value


def environment(images: str) -> dict[str, str | int]:
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "segext": segext.__version__,
        "instruction set": segext._C.cpu_capability(),
        "torch instruction set": torch.backends.cpu.get_cpu_capability(),
        "commit": commit(),
        "images": images,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
