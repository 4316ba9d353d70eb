"""Counts bytes: those that autograd keeps for a backward pass, and those of the pools' switches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from . import ops

_POOLS = (torch.ops.aten.max_pool2d_with_indices.default, *ops.POOLS)


def saved_bytes(function: Callable[[], object], given: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps after ``function()`` while its result is alive.

    Each storage counts once and in full, however many tensors view it; the storages of ``given`` (parameters, the
    input) exist anyway and do not count.
    """
    skipped = {tensor.untyped_storage().data_ptr() for tensor in given}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in skipped:
            storages[storage.data_ptr()] = storage  # kept alive, so that no address is reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    total = sum(storage.nbytes() for storage in storages.values())
    del result
    return total


class _SwitchBytes(TorchDispatchMode):
    """Adds up the sizes of the pools' second results: stock's int64 indices, segext's codes."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in _POOLS:
            self.total += result[1].nbytes
        return result


@dataclass(frozen=True)
class Memory:
    """Bytes of one call of a model: those that autograd keeps for the backward pass, and the switches of all pools."""

    kept: int
    switches: int


@torch.inference_mode(False)
def measure(model: nn.Module, arguments: tuple, copied: Callable = copy.deepcopy) -> Memory:
    """Call a copy of ``model`` once, in its current mode, and count bytes; parameters and ``arguments`` do not count.

    ``copied`` makes the copy. Neither the model's buffers nor the random state change. Autograd is enabled, even inside
    ``torch.inference_mode()`` and for tensors created there, which are copied.
    """
    model = copied(model)
    arguments = pytree.tree_map_only(Tensor, lambda x: x.clone() if x.is_inference() else x, arguments)
    tensors = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Tensor)]
    devices = {tensor.device for tensor in tensors if tensor.is_cuda}
    given = [*tensors, *model.parameters(), *model.buffers()]
    with torch.random.fork_rng(devices), torch.enable_grad(), _SwitchBytes() as switches:
        kept = saved_bytes(lambda: model(*arguments), given)
    return Memory(kept, switches.total)
