"""What networks hold in memory, counted at full width without running them.

Stand-ins for tensors, which have sizes but no values, go through the real layers, forwards and backwards. What is alive
at each moment is counted from their storages. Scratch inside kernels is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from segext.models import MODELS

from .harness import CheckFailed
from .networks import NORMALISED, TITLES
from .progress import Progress

STOCK, SEGEXT, RECOMPUTING = "stock", "segext", "segext, recomputing"
LAYERS = {
    STOCK: {"layers": "torch"},
    SEGEXT: {"layers": "segext"},
    RECOMPUTING: {"layers": "segext", "recompute": True},
}
ENCODINGS = {"int64": 64, "int32": 32, "uint8": 8, "4 bits": 4, "2 bits": 2}  # bits of a switch
CLASSES = 21
# Height and width of the images. DeconvNet's batch norm needs more than one image of 224x224.
SIZES = ((224, 224), (512, 512))
BATCHES = (2, 16)
_POOLS = ("aten::max_pool2d_with_indices", "segext::max_pool2d", "segext::relu_max_pool2d")


@dataclass(frozen=True)
class Row:
    """Bytes of one network, on one set of layers, for one batch."""

    network: str
    layers: str
    height: int
    width: int
    batch: int
    parameters: int
    gradients: int  # of what is trained; momentum takes as much again
    kept: int  # by autograd from the forward pass to the backward pass, switches included
    switches: int  # of all pools, as these layers keep them
    encoded: dict[str, int]  # the same switches in each of ENCODINGS
    peak: int  # of what is alive in a step besides parameters, momentum and images
    prediction: int  # the same for a prediction

    @property
    def momentum(self) -> int:
        return self.gradients

    @property
    def maps(self) -> int:
        """What autograd keeps beside the switches."""
        return self.kept - self.switches

    @property
    def step(self) -> int:
        """All that a training step by SGD with momentum has to hold, were none of it ever given back."""
        return self.parameters + self.gradients + self.momentum + self.kept

    def share(self, encoding: str) -> float:
        """Of a step's bytes, were switches kept in this encoding and all else as it is."""
        return self.encoded[encoding] / (self.step - self.switches + self.encoded[encoding])

    def predicted_share(self, encoding: str) -> float:
        """Of the bytes of a prediction, likewise, were the switches alive at its peak."""
        return self.encoded[encoding] / (self.parameters + self.prediction + self.encoded[encoding])

    @property
    def unpools(self) -> bool:
        """Whether a prediction has to keep switches."""
        return self.network in (TITLES[name] for name in NORMALISED)

    @property
    def size(self) -> str:
        return f"{self.height}x{self.width}"


class Ledger(TorchDispatchMode):
    """Keeps the books of the storages that ops make: ``alive`` bytes, their ``peak``, and what pools remember."""

    def __init__(self, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.alive = self.peak = self.switches = 0
        self.encoded = dict.fromkeys(ENCODINGS, 0)
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in given}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._enter(leaf.untyped_storage())
        if function._schema.name in _POOLS:
            pooled, remembered = result[:2]
            self.switches += remembered.nbytes
            for name, bits in ENCODINGS.items():
                self.encoded[name] += pooled.shape[0] * -(-pooled[0].numel() * bits // 8)
        return result

    def _enter(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._sizes:
            return
        self._sizes[storage._cdata] = storage.nbytes()
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._leave, storage._cdata)

    def _leave(self, key: int) -> None:
        self.alive -= self._sizes.pop(key)


def count(model: nn.Module, image: Tensor, labels: Tensor) -> tuple[Ledger, int, Ledger]:
    """The books of a training step, the bytes that autograd kept in it, and the books of a prediction."""
    given = [image, labels, *model.parameters(), *model.buffers()]
    model.train().zero_grad(set_to_none=True)
    with Ledger(given) as step:
        loss = model(image, labels)
        kept = step.alive - loss.nbytes
        loss.backward()
    model.zero_grad(set_to_none=True)
    with Ledger(given) as prediction:
        model.predict(image)
    return step, kept, prediction


def rows(name: str, layers: str, sizes: Sequence[tuple[int, int]], batches: Sequence[int]) -> Iterator[Row]:
    """Counts one network on one set of layers at each size and batch.

    Raises:
        CheckFailed: if the layers keep switches in another encoding than they should.
    """
    with FakeTensorMode():
        model = MODELS[name](CLASSES, **LAYERS[layers])
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for height, width in sizes:
            for batch in batches:
                images, labels = torch.rand(batch, 3, height, width), torch.randint(CLASSES, (batch, height, width))
                step, kept, prediction = count(model, images, labels)
                row = Row(
                    TITLES[name],
                    layers,
                    height,
                    width,
                    batch,
                    sum(parameter.nbytes for parameter in model.parameters()),
                    sum(parameter.nbytes for parameter in trained),
                    kept,
                    step.switches,
                    step.encoded,
                    step.peak,
                    prediction.peak,
                )
                if row.switches != row.encoded["int64" if layers == STOCK else "2 bits"]:
                    raise CheckFailed(f"{row.network} on {layers}: {row.switches:,} bytes of switches")
                yield row


def run(progress: Progress, *, quick: bool) -> Iterator[Row]:
    """Every network on every set of layers; FCN-8s and DeconvNet at one size if ``quick``."""
    sizes, batches = (SIZES[:1], BATCHES[:1]) if quick else (SIZES, BATCHES)
    for name in ("fcn8s", "deconvnet") if quick else TITLES:
        progress.step(f"what {TITLES[name]} holds")
        for layers in LAYERS:
            if layers != RECOMPUTING or name in NORMALISED:  # without batch norm there is nothing to recompute
                yield from rows(name, layers, sizes, batches)
