"""Lets what stands for a tensor, such as a proxy of torch.fx, take a call of segext's functions whole."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

Function = TypeVar("Function", bound=Callable)


def overridable(function: Function) -> Function:
    """A function of a tensor, its first argument, that ``__torch_function__`` of anything but a tensor may take over.

    So ``torch.fx.symbolic_trace`` records one node, and does not look inside, where values decide.
    """

    @functools.wraps(function)
    def public(input, *args, **kwargs):
        if not isinstance(input, Tensor) and has_torch_function_unary(input):
            return handle_torch_function(public, (input,), input, *args, **kwargs)
        return function(input, *args, **kwargs)

    return public
