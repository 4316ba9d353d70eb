"""Lets tensor stand-ins, such as proxies of torch.fx, intercept calls of segext's functions as a whole."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

Function = TypeVar("Function", bound=Callable)


def overridable(function: Function) -> Function:
    """Makes a function defer to ``__torch_function__`` if its first argument is a stand-in rather than a tensor.

    ``torch.fx.symbolic_trace`` then records one node rather than tracing the function's body, which branches on values.
    """

    @functools.wraps(function)
    def public(input, *args, **kwargs):
        if not isinstance(input, Tensor) and has_torch_function_unary(input):
            return handle_torch_function(public, (input,), input, *args, **kwargs)
        return function(input, *args, **kwargs)

    return public
