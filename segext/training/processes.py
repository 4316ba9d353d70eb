"""The processes of a run: a single one, or those started by torchrun, each with its share of every batch."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import UserError


@dataclass(frozen=True)
class Process:
    """One of ``count`` processes, and the device it computes on."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """``tensor``, which now holds its sum over all processes."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all processes must call this."""
        return bool(self.sum(torch.tensor(int(flag), device=self.device))) if self.count > 1 else flag

    def share_buffers(self, module: nn.Module) -> None:
        """Gives all processes the buffers of the first: batch norm's statistics come from each process's own images."""
        if self.count > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)


def choose_device(name: str | None, local_rank: int = 0) -> torch.device:
    """The device called ``name``, on the CPU or CUDA; if None, CUDA if available, else the CPU.

    Raises:
        UserError: for a device of another type, or one that is not available.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: it should be cpu, cuda or cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"--device {name}: torch sees no CUDA device")
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        if device.index >= torch.cuda.device_count():
            raise UserError(f"--device {device}: torch sees no more than {torch.cuda.device_count()}, counted from 0")
    return device


def backend(device: torch.device) -> str:
    """torch.distributed's backends for a run on ``device``; the confusion matrix is on the CPU in any case."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


@contextmanager
def joined(device: str | None) -> Iterator[Process]:
    """This process among those started by torchrun, if any.

    The group's threads end with the last reference to it, which DistributedDataParallel has too, so none may be left
    outside: a thread that is late to free a tensor needs the GIL, and aborts the process if the interpreter has ended.
    """
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield Process(choose_device(device))
        return
    process = Process(choose_device(device, int(os.environ["LOCAL_RANK"])), int(os.environ["RANK"]), count)
    if process.device.type == "cuda":
        torch.cuda.set_device(process.device)
    # DistributedDataParallel imports it, and its functions keep, as a default argument, the group that there is then.
    import_module("torch.distributed.nn.functional")
    dist.init_process_group(backend(process.device))
    try:
        yield process
    except BaseException as error:
        _clear_frames(error)
        raise
    finally:
        dist.destroy_process_group()


def _clear_frames(error: BaseException | None) -> None:
    """Lets go of the variables of all calls that an error, and those that led to it, have ended."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
