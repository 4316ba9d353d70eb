"""The two ways to call an op, with derivatives and without, and the autograd Functions of ops that are linear.

An op reaches autograd by one of two paths to the same ``torch.autograd.Function``. In eager mode the functions made
here apply it directly, which has the least call overhead. Under ``torch.compile``, ``torch.export`` and
``torch.jit.trace`` the op itself must appear in the graph, so the call goes through the dispatcher, whose Autograd key
applies the ``Function`` when the graph is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch._ops import OpOverload
from torch.autograd import forward_ad

from .arguments import spatial_size

registrations = torch.library.Library("segext", "IMPL")


class Static:
    """An op's non-tensor arguments as one leaf: transforms would take a tuple apart."""

    __slots__ = ("values",)

    def __init__(self, *values: Any) -> None:
        self.values = values


def _name_of(op: OpOverload) -> str:
    return op._schema.name.split("::")[1]


def _raise_as_stock(error: RuntimeError) -> NoReturn:
    """Raises ``error``, or the OutOfMemoryError that stock would: an op itself can raise only its base class."""
    if type(error) is RuntimeError and "CUDA out of memory" in str(error):
        raise torch.OutOfMemoryError(str(error)) from None
    raise error


def _first_requires_grad(args) -> bool:
    return args[0].requires_grad


def _any_requires_grad(args) -> bool:
    return any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)


def _refuse_nested_forward_mode(name: str) -> None:
    """An autograd Function saves its tensors for forward mode without the tangents of the enclosing levels."""
    levels = torch._C._functorch.get_interpreter_stack() or ()
    if sum(level.key() == torch._C._functorch.TransformType.Jvp for level in levels) > 1:
        raise NotImplementedError(
            f"{name}: forward-mode derivatives of forward-mode derivatives, as jacfwd(jacfwd(f)) takes them, would be "
            "wrong. Use jacfwd(jacrev(f)) or torch.func.hessian(f)."
        )


def _single_level(function: type[torch.autograd.Function]) -> type:
    """The Function for tensors below transforms, as torch.func derives one; later than 2.13, ``Function`` itself calls
    transforms again."""
    methods = ("forward", "setup_context", "backward", "jvp")
    base = torch.autograd.function._SingleLevelFunction
    return type(function.__name__, (base,), {name: staticmethod(getattr(function, name)) for name in methods})


def differentiable(
    op: OpOverload,
    function: type[torch.autograd.Function],
    arguments: Callable[..., tuple],
    *,
    is_linear: bool = False,
) -> Callable[..., Any]:
    """A function that calls ``op`` with the least overhead that still gives derivatives.

    Args:
        op: the op without autograd.
        function: its autograd Function.
        arguments: converts the op's arguments to those of ``function``.
        is_linear: whether the op is linear in its first argument and not differentiable in any other.
    """
    requires_grad = _first_requires_grad if is_linear else _any_requires_grad
    # Function.apply binds defaults through inspect.signature, which costs several times as much as a pool itself.
    apply_to_plain_tensors = super(torch.autograd.Function, function).apply
    apply_to_one_level = _single_level(function).apply

    def call_eagerly(*args):
        try:
            if torch._C._are_functorch_transforms_active():
                if not is_linear:
                    _refuse_nested_forward_mode(name)
                return function.apply(*arguments(*args))
            if (torch.is_grad_enabled() and requires_grad(args)) or forward_ad._current_level >= 0:
                # torch.jit must see the op when it traces. Below it always does, so calls without gradients skip this
                # test.
                return op(*args) if torch._C._is_tracing() else apply_to_plain_tensors(*arguments(*args))
            with torch._C._AutoDispatchBelowAutograd():
                return op(*args)
        except RuntimeError as error:
            _raise_as_stock(error)

    def call(*args):
        return op(*args) if torch.compiler.is_compiling() else call_eagerly(*args)

    def call_below_transforms(*args):
        # The dispatcher has taken transforms off by now, down to the one level that this key stands for.
        if torch._C._are_functorch_transforms_active():
            with enable_single_level_autograd_function():
                return apply_to_one_level(*arguments(*args))
        return call_eagerly(*args)

    name = _name_of(op)
    registrations.impl(name, call_below_transforms, "Autograd")
    call.__name__ = call.__qualname__ = name
    return call


def undifferentiated(op: OpOverload) -> Callable[..., Any]:
    """A function that calls an op without derivatives."""

    def call(*args):
        if torch.compiler.is_compiling():
            return op(*args)
        try:
            return op(*args)
        except RuntimeError as error:
            _raise_as_stock(error)

    call.__name__ = call.__qualname__ = _name_of(op)
    return call


def split_arguments(tensors: int) -> Callable[..., tuple]:
    """The arguments of an autograd Function for those of its op, which has so many tensors first."""
    return lambda *args: (*args[:tensors], Static(*args[tensors:]))


def _linear_function(op: OpOverload, adjoint: OpOverload, tensors: int, calls: dict[OpOverload, Callable]) -> type:
    """The autograd Function of ``op``. Derivatives call the op and its adjoint as ``calls`` has them by then."""

    class Linear(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(*args):
            *selected, static = args
            with torch._C._AutoDispatchBelowAutograd():
                return op(*selected, *static.values)

        @staticmethod
        def setup_context(ctx, inputs, output):
            x, *selecting, static = inputs
            ctx.set_materialize_grads(False)
            ctx.input_size = spatial_size(x)
            ctx.output_size, *ctx.rest = static.values
            ctx.save_for_backward(*selecting)
            ctx.save_for_forward(*selecting)

        @staticmethod
        def backward(ctx, grad_output):
            nones = (None,) * (tensors + 1)
            if grad_output is None:
                return None, *nones
            return calls[adjoint](grad_output, *ctx.saved_tensors, ctx.input_size, *ctx.rest), *nones

        @staticmethod
        def jvp(ctx, tangent, *_):
            if tangent is None:  # only the ReLU's output has one, and selecting by it is constant almost everywhere
                relu_output = ctx.saved_tensors[-1]
                return relu_output.new_zeros(*relu_output.shape[:-2], *ctx.output_size)
            return calls[op](tangent, *ctx.saved_tensors, ctx.output_size, *ctx.rest)

    Linear.__name__ = Linear.__qualname__ = f"_{_name_of(op)}"
    return Linear


def adjoint_pair(op: OpOverload, adjoint: OpOverload, tensors: int) -> tuple[Callable, Callable]:
    """The functions of two linear ops that are each other's derivative, so that they have derivatives of any order.

    The arguments of both are a map, so many ``tensors`` that select among its elements, the spatial size of the result,
    and the rest.
    """
    calls: dict[OpOverload, Callable] = {}
    for own, other in ((op, adjoint), (adjoint, op)):
        function = _linear_function(own, other, tensors, calls)
        calls[own] = differentiable(own, function, split_arguments(tensors + 1), is_linear=True)
    return calls[op], calls[adjoint]
