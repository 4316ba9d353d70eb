"""Finds what the command line names: the function that builds a network, its loss, and the inputs to run it on."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from ..errors import Unusable, brief

DTYPES = ("float32", "float64", "bfloat16", "float16")
INPUT = re.compile(r"[1-9]\d*(x[1-9]\d*)+")


@dataclass(frozen=True)
class Network:
    """A builder, and the ``loss`` of the same file or module, which takes the output and then the inputs."""

    target: str
    build: Callable[[], nn.Module]
    loss: Callable[..., Tensor] | None

    def model(self) -> nn.Module:
        """The network with the weights of seed 0."""
        torch.manual_seed(0)
        try:
            model = self.build()
        except Exception as error:
            raise Unusable(f"{self.target} cannot be called without arguments: {brief(error)}") from error
        if not isinstance(model, nn.Module):
            raise Unusable(f"{self.target} must return a torch.nn.Module, but returned {type(model).__name__}")
        return model


def network(target: str) -> Network:
    """What ``path.py:name`` or ``package.module:name`` names.

    Raises:
        Unusable: where there is no such file, module or name, or importing it fails.
    """
    place, _, name = target.rpartition(":")
    if not place or not name.isidentifier():
        raise Unusable(f"{target!r} names no builder: give path.py:name or package.module:name")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_package(place)
    build = getattr(module, name, None)
    if build is None:
        raise Unusable(f"{place} has no {name}")
    if not callable(build):
        raise Unusable(f"{target} is no function that returns a network, but {type(build).__name__}")
    return Network(target, build, getattr(module, "loss", None))


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise Unusable(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"benchmarked_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses, among others, look up their module here
    sys.path.insert(0, str(path.resolve().parent))  # as if run as a script: it may import modules beside it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise Unusable(f"{path} cannot be imported: {brief(error)}") from error
    return module


def _from_package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise Unusable(f"{name} cannot be imported: {brief(error)}") from error


def sizes(text: str) -> tuple[tuple[int, ...], ...]:
    """The shapes of one call's arguments: ``1x3x512x512``, or several with commas between.

    Raises:
        Unusable: for anything else.
    """
    parts = text.split(",")
    if not all(INPUT.fullmatch(part) for part in parts):
        raise Unusable(f"--input {text}: give sizes such as 1x3x512x512, with commas between several arguments")
    return tuple(tuple(map(int, part.split("x"))) for part in parts)


def inputs(text: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Normal noise of these sizes, always the same."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(size, generator=generator).to(dtype) for size in sizes(text))
