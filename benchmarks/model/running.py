"""Runs a network: forward, or forward and backward, on inputs in a memory format; all that comes out, by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import Unusable
from ..harness import Call

INFERENCE, TRAINING = "inference", "training step"


@dataclass(frozen=True)
class Subject:
    """A model and its inputs, in one type and memory format, and its loss: None where the network has none."""

    model: nn.Module
    inputs: tuple[Tensor, ...]
    loss: Callable[..., Tensor] | None

    def to(self, dtype: torch.dtype, memory_format: torch.memory_format) -> Subject:
        """A copy. Only what has four dimensions has a format."""
        inputs = tuple(
            x.to(dtype).contiguous(memory_format=memory_format if x.dim() == 4 else torch.contiguous_format)
            for x in self.inputs
        )
        return Subject(copy.deepcopy(self.model).to(dtype, memory_format=memory_format), inputs, self.loss)

    def call(self, task: str) -> Call:
        """What is timed: to be called in the task's grad mode. Gradients of parameters are freed inside."""
        self.model.train(task == TRAINING)
        if task == INFERENCE:
            return lambda: self.model(*self.inputs)
        parameters = list(self.model.parameters())
        seeds = self._seeds(self.model(*self.inputs))

        def step() -> None:
            self._backward(self.model(*self.inputs), seeds)
            for parameter in parameters:
                parameter.grad = None

        return step

    def results(self, task: str) -> dict[str, dict[str, Tensor]]:
        """The outputs and, of a training step, the gradients of parameters, each by name; without dropout.

        Runs a copy of the model, always from the same random state.
        """
        model = copy.deepcopy(self.model).train(task == TRAINING)
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.eval()
        torch.manual_seed(0)
        with grad_mode(task):
            output = model(*self.inputs)
            if task == TRAINING:
                self._backward(output, self._seeds(output))
        found = {"outputs": {f"output {n}": leaf.detach() for n, leaf in enumerate(floats(output))}}
        if task == TRAINING:
            gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
            found["gradients"] = {name: grad for name, grad in gradients.items() if grad is not None}
        return found

    def _seeds(self, output: object) -> list[Tensor]:
        """The gradients that a backward pass without a loss starts from: normal noise, the same in any memory format.

        Not ones: behind batch norm, the gradients of a sum are nothing but rounding.
        """
        leaves = [leaf for leaf in floats(output) if leaf.requires_grad]
        if not leaves:
            raise Unusable("nothing in the network's output requires a gradient: run it with --eval")
        generator = torch.Generator().manual_seed(1)
        return [torch.empty_like(x).copy_(torch.randn(x.shape, generator=generator)) for x in leaves]

    def _backward(self, output: object, seeds: list[Tensor]) -> None:
        if self.loss is not None:
            self.loss(output, *self.inputs).backward()
        else:
            torch.autograd.backward([leaf for leaf in floats(output) if leaf.requires_grad], seeds)


def grad_mode(task: str):
    return torch.enable_grad() if task == TRAINING else torch.inference_mode()


def floats(output: object) -> list[Tensor]:
    """The floating-point tensors of an output, however it is nested."""
    return [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point()]
