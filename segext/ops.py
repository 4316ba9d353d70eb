"""The registered ops from Python: autograd, forward mode, batching rules and fake kernels.

The only module that names ``torch.ops.segext``. Each public function is one op of ``csrc/library.cpp`` with the op's
arguments, all explicit, and differentiates to any order.

An op reaches autograd by one of two doors that hold the same ``torch.autograd.Function``. In eager mode the functions
here apply it directly, which costs least a call. Under ``torch.compile`` and ``torch.export`` the op itself must show
in the graph, so the call goes to the dispatcher, whose Autograd key applies the ``Function`` when the graph is
differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

from . import _library

_ops = torch.ops.segext
_registrations = torch.library.Library("segext", "IMPL")


# What the ops on gradients and sums take.
FLOATS = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))

# What unpool_conv2d undoes: kernel size, stride, padding and dilation of its pool.
UNPOOLED_WINDOW = ((2, 2), (2, 2), (0, 0), (1, 1))

# Output channels that unpool_conv2d's packed weights are filled up to a multiple of.
WEIGHT_PANEL = 16

# What gives a pooled map and its codes.
POOLS = (_ops.max_pool2d.default, _ops.relu_max_pool2d.default)

# Devices with kernels, and the meta device, which has shapes.
DEVICES = frozenset(("cpu", "meta", "cuda") if _library.build_info()["cuda"] else ("cpu", "meta"))


def has_values(x: Tensor) -> bool:
    """Whether values can be read now: not while a graph is traced or transformed, nor of what is only a shape."""
    unreadable = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return not (unreadable or x.is_meta or isinstance(x, FakeTensor))


def overload(name: str) -> torch._ops.OpOverload:
    """The op itself, as it shows in graphs."""
    return getattr(_ops, name).default


class _Static:
    """An op's arguments that are no tensors, as one leaf: transforms would take a tuple apart."""

    __slots__ = ("values",)

    def __init__(self, *values: Any) -> None:
        self.values = values


class _MaxPool2d(torch.autograd.Function):
    """Max-pooling, plain or of a ReLU: keeps the codes and, for the ReLU's mask, the output."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input, static):
        relu, *args = static.values
        op = _ops.relu_max_pool2d.default if relu else _ops.max_pool2d.default
        with torch._C._AutoDispatchBelowAutograd():
            return op(input, *args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, static = inputs
        pooled, codes = output
        ctx.mark_non_differentiable(codes)
        ctx.set_materialize_grads(False)
        ctx.relu, *ctx.window, _ceil_mode, ctx.channels_last = static.values
        ctx.input_size = input.shape[-2:]
        ctx.output_size = pooled.shape[-2:]
        saved = (codes, pooled) if ctx.relu else (codes,)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx, grad_output, _grad_codes):
        if grad_output is None:
            return None, None
        codes, relu_output = ctx.saved_tensors if ctx.relu else (*ctx.saved_tensors, None)
        grad = max_pool2d_backward(grad_output, codes, relu_output, ctx.input_size, *ctx.window, ctx.channels_last)
        return grad, None

    @staticmethod
    def jvp(ctx, tangent, _):
        codes, relu_output = ctx.saved_tensors if ctx.relu else (*ctx.saved_tensors, None)
        pooled = max_pool2d_double_backward(
            tangent, codes, relu_output, ctx.output_size, *ctx.window, ctx.channels_last
        )
        return pooled, None


def _linear_function(name: str, adjoint: str, tensors: int) -> type[torch.autograd.Function]:
    """The autograd Function of op ``name``, which is linear in its first argument.

    The op's arguments are (x, `tensors` tensors that select, spatial size of the result, the rest). ``adjoint`` names
    the op with the same arguments that maps gradients of the result back; its size argument is x's.
    """
    op = getattr(_ops, name).default

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
            ctx.input_size = x.shape[-2:]
            ctx.output_size, *ctx.rest = static.values
            ctx.save_for_backward(*selecting)
            ctx.save_for_forward(*selecting)

        @staticmethod
        def backward(ctx, grad_output):
            nones = (None,) * (tensors + 1)
            if grad_output is None:
                return None, *nones
            return globals()[adjoint](grad_output, *ctx.saved_tensors, ctx.input_size, *ctx.rest), *nones

        @staticmethod
        def jvp(ctx, tangent, *_):
            return globals()[name](tangent, *ctx.saved_tensors, ctx.output_size, *ctx.rest)

    Linear.__name__ = Linear.__qualname__ = f"_{name}"
    return Linear


def _first_requires_grad(args) -> bool:
    return args[0].requires_grad


def _any_requires_grad(args) -> bool:
    return any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)


def _differentiable(
    op,
    function: type[torch.autograd.Function],
    arguments: Callable[..., tuple],
    requires_grad: Callable[[tuple], bool] = _first_requires_grad,
) -> Callable[..., Any]:
    """``op`` by the cheapest door that still differentiates; ``arguments`` turns the op's into the Function's."""
    # Function.apply binds defaults through inspect.signature, at several times the cost of the pool itself.
    apply_to_plain_tensors = super(torch.autograd.Function, function).apply

    def call_eagerly(*args):
        if torch._C._are_functorch_transforms_active():
            return function.apply(*arguments(*args))
        if (requires_grad(args) and torch.is_grad_enabled()) or forward_ad._current_level >= 0:
            return apply_to_plain_tensors(*arguments(*args))
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    def call(*args):
        return op(*args) if torch.compiler.is_compiling() else call_eagerly(*args)

    def call_below_transforms(*args):
        # The dispatcher has taken transforms off by now, down to the one level that this key stands for.
        if torch._C._are_functorch_transforms_active():
            with enable_single_level_autograd_function():
                return apply_to_plain_tensors(*arguments(*args))
        return call_eagerly(*args)

    name = op._schema.name.split("::")[1]
    _registrations.impl(name, call_below_transforms, "Autograd")
    call.__name__ = call.__qualname__ = name
    return call


def _pool(relu: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    op = _ops.relu_max_pool2d.default if relu else _ops.max_pool2d.default
    return _differentiable(op, _MaxPool2d, lambda input, *rest: (input, _Static(relu, *rest)))


def _linear(name: str, adjoint: str, tensors: int) -> Callable[..., Tensor]:
    split = tensors + 1
    return _differentiable(
        getattr(_ops, name).default,
        _linear_function(name, adjoint, tensors),
        lambda *args: (*args[:split], _Static(*args[split:])),
    )


def _is_differentiated() -> bool:
    """Inside a backward: whether its result may be differentiated in turn."""
    return torch.is_grad_enabled() or forward_ad._current_level >= 0


class _DepthwiseConvTranspose2d(torch.autograd.Function):
    """Transposed convolution whose channels do not mix, and its addend. Second derivatives are stock's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input, weight, bias, addend, static):
        with torch._C._AutoDispatchBelowAutograd():
            return _ops.depthwise_conv_transpose2d.default(input, weight, bias, addend, *static.values)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, weight, bias, addend, static = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, weight)
        ctx.save_for_forward(input, weight)
        ctx.static = static.values
        ctx.has_bias = bias is not None
        ctx.addend_size = None if addend is None else addend.shape[-2:]

    @staticmethod
    def backward(ctx, grad_output):
        if grad_output is None:
            return (None,) * 5
        _output_size, *window, addend_origin, channels_last = ctx.static
        *needs, needs_addend, _ = ctx.needs_input_grad
        needs[2] = needs[2] and ctx.has_bias
        if _is_differentiated():
            gradients = _upsampling_gradients(grad_output, *ctx.saved_tensors, *window, needs)
        else:
            found = depthwise_conv_transpose2d_backward(grad_output, *ctx.saved_tensors, *window, channels_last, *needs)
            gradients = (x if needed else None for x, needed in zip(found, needs, strict=True))
        grad_addend = None
        if ctx.addend_size is not None and needs_addend:
            grad_addend = _embed(grad_output, ctx.addend_size, addend_origin)
        return *gradients, grad_addend, None

    @staticmethod
    def jvp(ctx, input_tangent, weight_tangent, bias_tangent, addend_tangent, _):
        tangents = (input_tangent, weight_tangent, bias_tangent, addend_tangent)
        return _upsampling_tangent(*ctx.saved_tensors, *tangents, ctx.static)


def _upsampling_gradients(grad_output, input, weight, stride, origin, dilation, needs) -> tuple[Tensor | None, ...]:
    """Gradients of input, weight and bias, those that ``needs`` asks for: differentiable, by stock's convolutions."""
    needs_input, needs_weight, needs_bias = needs
    grad_input = grad_weight = grad_bias = None
    if needs_input or needs_weight:
        # The adjoint is a convolution over the whole result, of which the output is a part.
        axes = zip(input.shape[-2:], weight.shape[-2:], stride, dilation, strict=True)
        whole = [(size - 1) * s + (kernel - 1) * d + 1 for size, kernel, s, d in axes]
        grad = _embed(grad_output, whole, origin)
        convolution = (list(stride), [0, 0], list(dilation), False, [0, 0], input.shape[1])
        if needs_input:
            grad_input = torch.ops.aten.convolution(grad, weight, None, *convolution)
        if needs_weight:
            wanted = [False, True, False]
            _, grad_weight, _ = torch.ops.aten.convolution_backward(input, grad, weight, None, *convolution, wanted)
    if needs_bias:
        grad_bias = grad_output.sum((0, 2, 3))
    return grad_input, grad_weight, grad_bias


def _upsampling_tangent(input, weight, input_tangent, weight_tangent, bias_tangent, addend_tangent, static) -> Tensor:
    """The tangent of an upsampling from those of its operands, of which any may be None."""

    def upsample(input, weight, *added):
        return depthwise_conv_transpose2d(input, weight, *added, *static)

    return _product_tangent(upsample, (input, weight), (input_tangent, weight_tangent), (bias_tangent, addend_tangent))


def _product_tangent(function, operands, tangents, added) -> Tensor:
    """The tangent of ``function(input, weight, *terms)``, which is linear in input and in weight and adds the terms.

    Tangents of operands and of terms may be None.
    """
    (input, weight), (input_tangent, weight_tangent) = operands, tangents
    parts = []
    if input_tangent is not None:
        parts.append(function(input_tangent, weight, *added))
    if weight_tangent is not None or not parts:
        tangent = torch.zeros_like(weight) if weight_tangent is None else weight_tangent
        parts.append(function(input, tangent, *((None,) * len(added) if parts else added)))
    return parts[0] + parts[1] if len(parts) == 2 else parts[0]


class _DenseConvTranspose2d(torch.autograd.Function):
    """Transposed convolution whose channels mix. Gradients are stock's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input, weight, bias, static):
        with torch._C._AutoDispatchBelowAutograd():
            return _ops.dense_conv_transpose2d.default(input, weight, bias, *static.values)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, weight, bias, static = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, weight)
        ctx.save_for_forward(input, weight)
        ctx.static = static.values
        ctx.has_bias = bias is not None

    @staticmethod
    def backward(ctx, grad_output):
        if grad_output is None:
            return (None,) * 4
        input, weight = ctx.saved_tensors
        size, stride, padding, dilation, _channels_last = ctx.static
        axes = zip(size, input.shape[-2:], weight.shape[-2:], stride, padding, dilation, strict=True)
        output_padding = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for n, m, k, s, p, d in axes]
        needs_input, needs_weight, needs_bias, _ = ctx.needs_input_grad
        wanted = [needs_input, needs_weight, ctx.has_bias and needs_bias]
        convolution = list(stride), list(padding), list(dilation), True, output_padding, 1
        bias_size = [weight.shape[1]] if ctx.has_bias else None
        grads = torch.ops.aten.convolution_backward(grad_output, input, weight, bias_size, *convolution, wanted)
        return *grads, None

    @staticmethod
    def jvp(ctx, input_tangent, weight_tangent, bias_tangent, _):
        def convolve(input, weight, bias):
            return dense_conv_transpose2d(input, weight, bias, *ctx.static)

        return _product_tangent(convolve, ctx.saved_tensors, (input_tangent, weight_tangent), (bias_tangent,))


class _UnpoolConv2d(torch.autograd.Function):
    """Unpooling and convolution: keeps the pooled map. Second derivatives are those of the two in sequence."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input, codes, weight, packed_weight, bias, static):
        with torch._C._AutoDispatchBelowAutograd():
            return _ops.unpool_conv2d.default(input, codes, weight, packed_weight, bias, *static.values)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, codes, weight, _packed_weight, bias, static = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, codes, weight)
        ctx.save_for_forward(input, codes, weight)
        ctx.static = static.values
        ctx.has_bias = bias is not None

    @staticmethod
    def backward(ctx, grad_output):
        if grad_output is None:
            return (None,) * 6
        needs_input, _, needs_weight, _, needs_bias, _ = ctx.needs_input_grad
        wanted = needs_input, needs_weight
        grad_input = grad_weight = None
        if any(wanted):
            in_sequence = _is_differentiated() or grad_output.is_cuda  # which has no kernels for the gradients
            differentiate = _unpool_conv2d_gradients if in_sequence else unpool_conv2d_backward
            grads = differentiate(grad_output, *ctx.saved_tensors, *ctx.static, *wanted)
            grad_input, grad_weight = (g if needed else None for g, needed in zip(grads, wanted, strict=True))
        grad_bias = grad_output.sum((0, 2, 3)) if ctx.has_bias and needs_bias else None
        return grad_input, None, grad_weight, None, grad_bias, None

    @staticmethod
    def jvp(ctx, input_tangent, _codes, weight_tangent, _packed_weight, bias_tangent, _static):
        input, codes, weight = ctx.saved_tensors

        def convolve(input, weight, bias):
            return unpool_conv2d(input, codes, weight, None, bias, *ctx.static)

        return _product_tangent(convolve, (input, weight), (input_tangent, weight_tangent), (bias_tangent,))


def _unpool_conv2d_gradients(grad_output, input, codes, weight, size, padding, transposed, channels_last, *wanted):
    """What unpool_conv2d_backward gives, by ops that can be differentiated again and that CUDA has: the map is made
    again, and its products are stock's."""
    unpooling = size, *UNPOOLED_WINDOW, channels_last
    convolution = (1, 1), padding, (1, 1), transposed, (0, 0), 1
    return unpooled_convolution_gradients(grad_output, input, codes, weight, unpooling, convolution, *wanted)


def unpooled_convolution_gradients(
    grad_output, input, codes, weight, unpooling, convolution, *wanted
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of a pooled map and of the weight of the convolution, of any kind, that reads what was unpooled.

    ``unpooling`` and ``convolution``: the other arguments of :func:`max_unpool2d` and of stock's op.
    """
    unpooled = max_unpool2d(input, codes, *unpooling)
    grad_map, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad_output, unpooled, weight, None, *convolution, [*wanted, False]
    )
    if grad_map is not None:
        grad_map = max_unpool2d_backward(grad_map, codes, input.shape[-2:], *unpooling[1:])
    return grad_map, grad_weight


def _embed(x: Tensor, size: Sequence[int], origin: Sequence[int]) -> Tensor:
    """A map of ``size`` that holds ``x`` from ``origin`` on, as far as it reaches, and zeros around it."""
    (top, left), (height, width) = origin, x.shape[-2:]
    return torch.nn.functional.pad(x, (left, size[1] - left - width, top, size[0] - top - height))


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy of upsampled scores: keeps nothing but its arguments, from which gradients make scores again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input, weight, bias, target, class_weight, static):
        op = _ops.depthwise_conv_transpose2d_cross_entropy.default
        with torch._C._AutoDispatchBelowAutograd():
            return op(input, weight, bias, target, class_weight, *static.values)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, static = inputs
        _loss, total_weight = output
        ctx.mark_non_differentiable(total_weight)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        *ctx.static, ctx.reduce = static.values

    @staticmethod
    def backward(ctx, grad_loss, _grad_total_weight):
        if grad_loss is None:
            return (None,) * 6
        needs = ctx.needs_input_grad[:3]
        gradients = depthwise_conv_transpose2d_cross_entropy_backward(
            grad_loss, *ctx.saved_tensors, *ctx.static, *needs
        )
        return *(x if needed else None for x, needed in zip(gradients, needs, strict=True)), None, None, None

    @staticmethod
    def jvp(ctx, input_tangent, weight_tangent, bias_tangent, *_):
        input, weight, bias, target, class_weight = ctx.saved_tensors
        *window, ignore_index, label_smoothing, channels_last = ctx.static
        upsampling = (target.shape[-2:], *window, (0, 0), channels_last)
        scores = depthwise_conv_transpose2d(input, weight, bias, None, *upsampling)
        tangent = _upsampling_tangent(input, weight, input_tangent, weight_tangent, bias_tangent, None, upsampling)
        by_score = _score_gradient(scores, target, class_weight, ignore_index, label_smoothing)
        loss = (by_score * tangent).sum(1)
        return loss.sum() if ctx.reduce else loss, None


class _CrossEntropyBackward(torch.autograd.Function):
    """Gradients of :class:`_CrossEntropy`. Those of higher order come from a composition that does hold the scores."""

    generate_vmap_rule = True

    @staticmethod
    def forward(grad_loss, input, weight, bias, target, class_weight, static):
        op = _ops.depthwise_conv_transpose2d_cross_entropy_backward.default
        with torch._C._AutoDispatchBelowAutograd():
            return op(grad_loss, input, weight, bias, target, class_weight, *static.values)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, static = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.static = static.values

    @staticmethod
    def backward(ctx, *cotangents):
        _, pull_back = torch.func.vjp(*_CrossEntropyBackward._composition(ctx))
        gradients = (*pull_back(cotangents), None)[:4]  # there may be no bias
        return *gradients, None, None, None

    @staticmethod
    def jvp(ctx, *tangents):
        function, *primals = _CrossEntropyBackward._composition(ctx)
        tangents = (torch.zeros_like(x) if t is None else t for x, t in zip(primals, tangents, strict=False))
        # The transpose of the transpose: forward mode does not nest.
        gradients, pull_back = torch.func.vjp(function, *primals)
        _, push_forward = torch.func.vjp(pull_back, gradients)
        return push_forward(tuple(tangents))[0]

    @staticmethod
    def _composition(ctx):
        """The gradients as a differentiable function of what they depend on, and its arguments."""
        *primals, target, class_weight = ctx.saved_tensors
        *window, ignore_index, label_smoothing, channels_last, needs_input, needs_weight, needs_bias = ctx.static

        def gradients(grad_loss, input, weight, bias=None):
            upsampling = (target.shape[-2:], *window, (0, 0), channels_last)
            scores = depthwise_conv_transpose2d(input, weight, bias, None, *upsampling)
            by_score = _score_gradient(scores, target, class_weight, ignore_index, label_smoothing)
            grad_scores = (grad_loss if grad_loss.dim() == 0 else grad_loss.unsqueeze(1)) * by_score
            needs = (needs_input, needs_weight, needs_bias)
            found = _upsampling_gradients(grad_scores.to(input.dtype), input, weight, *window, needs)
            return tuple(input.new_empty(0) if x is None else x for x in found)

        return gradients, *(x for x in primals if x is not None)


def _score_gradient(scores, target, class_weight, ignore_index, label_smoothing) -> Tensor:
    """The derivative of each pixel's cross-entropy by its scores (N, K, H, W), differentiable."""
    probability = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(1)
    classes = probability.shape[1]
    if class_weight is None:
        class_weight = probability.new_ones(classes)
    counts = (target != ignore_index).unsqueeze(1)
    labels = target.unsqueeze(1).where(counts, 0)
    is_target = labels == torch.arange(classes, device=target.device).view(-1, 1, 1)
    each = class_weight.view(-1, 1, 1) * (max(label_smoothing, 0) / classes)
    shares = (is_target * class_weight.view(-1, 1, 1) * (1 - max(label_smoothing, 0)) + each) * counts
    return probability * shares.sum(1, keepdim=True) - shares


max_pool2d = _pool(relu=False)
relu_max_pool2d = _pool(relu=True)

# Each pair is adjoint to the other; so the family is closed under differentiation.
max_pool2d_backward = _linear("max_pool2d_backward", "max_pool2d_double_backward", tensors=2)
max_pool2d_double_backward = _linear("max_pool2d_double_backward", "max_pool2d_backward", tensors=2)
max_unpool2d = _linear("max_unpool2d", "max_unpool2d_backward", tensors=1)
max_unpool2d_backward = _linear("max_unpool2d_backward", "max_unpool2d", tensors=1)
max_unpool2d_indices = _linear("max_unpool2d_indices", "max_unpool2d_indices_backward", tensors=1)
max_unpool2d_indices_backward = _linear("max_unpool2d_indices_backward", "max_unpool2d_indices", tensors=1)

depthwise_conv_transpose2d = _differentiable(
    _ops.depthwise_conv_transpose2d.default,
    _DepthwiseConvTranspose2d,
    lambda *args: (*args[:4], _Static(*args[4:])),
    _any_requires_grad,
)

depthwise_conv_transpose2d_cross_entropy = _differentiable(
    _ops.depthwise_conv_transpose2d_cross_entropy.default,
    _CrossEntropy,
    lambda *args: (*args[:5], _Static(*args[5:])),
    _any_requires_grad,
)
depthwise_conv_transpose2d_cross_entropy_backward = _differentiable(
    _ops.depthwise_conv_transpose2d_cross_entropy_backward.default,
    _CrossEntropyBackward,
    lambda *args: (*args[:6], _Static(*args[6:])),
    _any_requires_grad,
)

dense_conv_transpose2d = _differentiable(
    _ops.dense_conv_transpose2d.default,
    _DenseConvTranspose2d,
    lambda *args: (*args[:3], _Static(*args[3:])),
    _any_requires_grad,
)

unpool_conv2d = _differentiable(
    _ops.unpool_conv2d.default,
    _UnpoolConv2d,
    lambda *args: (*args[:5], _Static(*args[5:])),
    _any_requires_grad,
)

# Not differentiable: conversions of codes, forms that write into a caller's tensor, and backwards that give way to
# compositions of other ops where they are differentiated.
max_pool2d_backward_out = _ops.max_pool2d_backward_out.default
max_unpool2d_out = _ops.max_unpool2d_out.default
switches_to_indices = _ops.switches_to_indices.default
switches_from_indices = _ops.switches_from_indices.default
switches_repack = _ops.switches_repack.default
depthwise_conv_transpose2d_argmax = _ops.depthwise_conv_transpose2d_argmax.default
depthwise_conv_transpose2d_backward = _ops.depthwise_conv_transpose2d_backward.default
unpool_conv2d_backward = _ops.unpool_conv2d_backward.default
unpool_conv2d_pack = _ops.unpool_conv2d_pack.default


# ---- Batching rules: the batch is folded into N, an unbatched map becomes a batch; a sum over N, or a kernel for each
# sample, takes one at a time ------------------------------------------------------------------------------------------


def _fold(info, in_dim, x, has_samples: bool):
    if not isinstance(x, Tensor):
        return x
    x = x.unsqueeze(0).expand(info.batch_size, *x.shape) if in_dim is None else x.movedim(in_dim, 0)
    return x.flatten(0, 1) if has_samples else x


def _each_result(result, function) -> tuple:
    """What a batching rule returns: ``function`` of each result, mapped over its first dimension."""
    if isinstance(result, Tensor):
        return function(result), 0
    return tuple(map(function, result)), (0,) * len(result)


def _call_folded(op, info, in_dims, args, shared: Collection[int] = ()):
    """``op`` once, with the batch folded into N of all tensors but those ``shared`` by all samples."""
    has_samples = args[0].dim() - (in_dims[0] is not None) == 4
    samples = args[0].shape[1 if in_dims[0] == 0 else 0]
    folded = enumerate(zip(in_dims, args, strict=True))
    result = op(*(a if k in shared else _fold(info, d, a, has_samples) for k, (d, a) in folded))

    def unfold(x: Tensor) -> Tensor:
        if x.dim() == 1 and x.numel() == 0:
            return x.expand(info.batch_size, 0)  # a result that was not asked for
        return x.unflatten(0, (info.batch_size, samples)) if has_samples else x

    return _each_result(result, unfold)


def _call_one_by_one(op, info, in_dims, args):
    def call(k: int):
        return op(*(x.select(d, k) if isinstance(d, int) else x for d, x in zip(in_dims, args, strict=True)))

    results = [call(k) for k in range(info.batch_size)]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return _each_result(tuple(zip(*results, strict=True)), torch.stack)


def _register_vmap(name: str) -> None:
    op = getattr(_ops, name).default

    def rule(info, in_dims, *args):
        return _call_folded(op, info, in_dims, args)

    torch.library.register_vmap(f"segext::{name}", rule, lib=_registrations)


for _name in (
    "max_pool2d",
    "relu_max_pool2d",
    "max_pool2d_backward",
    "max_pool2d_double_backward",
    "max_unpool2d",
    "max_unpool2d_backward",
    "max_unpool2d_indices",
    "max_unpool2d_indices_backward",
):
    _register_vmap(_name)


def _register_vmap_of_kernels(name: str, *kernels: str) -> None:
    """Of a convolution, whose ``kernels`` are the arguments that all samples share."""
    op = getattr(_ops, name).default
    shared = [k for k, argument in enumerate(op._schema.arguments) if argument.name in kernels]

    def rule(info, in_dims, *args):
        if any(in_dims[k] is not None for k in shared):
            return _call_one_by_one(op, info, in_dims, args)
        return _call_folded(op, info, in_dims, args, shared)

    torch.library.register_vmap(f"segext::{name}", rule, lib=_registrations)


for _name in ("depthwise_conv_transpose2d", "depthwise_conv_transpose2d_argmax", "dense_conv_transpose2d"):
    _register_vmap_of_kernels(_name, "weight", "bias")
_register_vmap_of_kernels("unpool_conv2d", "weight", "packed_weight", "bias")


def _register_vmap_one_by_one(name: str) -> None:
    op = getattr(_ops, name).default

    def rule(info, in_dims, *args):
        return _call_one_by_one(op, info, in_dims, args)

    torch.library.register_vmap(f"segext::{name}", rule, lib=_registrations)


for _name in (
    "depthwise_conv_transpose2d_backward",
    "depthwise_conv_transpose2d_cross_entropy",
    "depthwise_conv_transpose2d_cross_entropy_backward",
    "unpool_conv2d_backward",
):
    _register_vmap_one_by_one(_name)


# ---- Fake kernels: shapes, strides and the same errors as the real ones ---------------------------------------------


def code_bits(taps: int) -> int:
    """Bits of one code: the smallest of 1, 2, 4, 8, 16, 32 that tells ``taps`` taps apart."""
    return next(bits for bits in (1, 2, 4, 8, 16, 32) if 2**bits >= taps)


def code_bytes(elements: int, bits: int) -> int:
    """Bytes that hold ``elements`` codes of ``bits`` bits."""
    return (elements * bits + 7) // 8


def _pair(name: str, values: int | Sequence[int], least: int) -> tuple[int, int]:
    pair = (values, values) if isinstance(values, int) else tuple(values) * (2 if len(values) == 1 else 1)
    torch._check(
        len(pair) == 2, lambda: f"{name} must either be a single int, or a tuple of two ints, but got {values}"
    )
    bound = "greater than zero" if least else "non-negative"
    torch._check(min(pair) >= least, lambda: f"{name} should be {bound}, but got {values}")
    return pair


def _window(kernel_size, stride, padding, dilation) -> tuple[tuple[int, int], ...]:
    k = _pair("kernel_size", kernel_size, 1)
    s = k if not isinstance(stride, int) and len(stride) == 0 else _pair("stride", stride, 1)
    p, d = _pair("padding", padding, 0), _pair("dilation", dilation, 1)
    torch._check(
        all(2 * pad <= kernel for pad, kernel in zip(p, k, strict=True)),
        lambda: f"padding should be at most half of kernel_size, but got padding={p} and kernel_size={k}",
    )
    return k, s, p, d


def _check_format(x: Tensor, channels_last: bool) -> None:
    torch._check(
        x.dim() == 4 or not channels_last,
        lambda: f"channels_last needs a batch, but got a map of shape {list(x.shape)}",
    )


def _check_device(name: str, tensor: Tensor, like: Tensor) -> None:
    torch._check(
        tensor.device == like.device,
        lambda: f"{name} should be on the map's device, {like.device}, but is on {tensor.device}",
    )


def _check_map(name: str, x: Tensor) -> None:
    torch._check(
        x.dim() in (3, 4) and all(size != 0 for size in x.shape[-3:]),
        lambda: (
            f"Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for {name}, but got: {list(x.shape)}"
        ),
    )


def pooled_extent(size, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool):
    extent = (size + 2 * padding - dilation * (kernel - 1) - 1 + (stride - 1 if ceil_mode else 0)) // stride + 1
    # With ceil_mode the last window must still start inside the map or its left padding.
    return extent - 1 if ceil_mode and (extent - 1) * stride >= size + padding else extent


def _new_map(like: Tensor, size: Sequence[int], channels_last: bool) -> Tensor:
    _check_format(like, channels_last)
    return _empty_map((*like.shape[:-2], *size), like, channels_last)


def _check_codes(codes: Tensor, like: Tensor, pooled_size: Sequence[int], kernel_size) -> None:
    bits = code_bits(math.prod(_pair("kernel_size", kernel_size, 1)))
    expected = (*like.shape[:-3], code_bytes(like.shape[-3] * pooled_size[0] * pooled_size[1], bits))
    _check_device("codes", codes, like)
    torch._check(codes.dtype == torch.uint8, lambda: f"codes should be uint8, but got {codes.dtype}")
    torch._check(
        codes.dim() == len(expected) and all(a == b for a, b in zip(codes.shape, expected, strict=True)),
        lambda: f"codes should have shape {list(expected)}, but got {list(codes.shape)}",
    )


def _fake_pool(input, kernel_size, stride, padding, dilation, ceil_mode, channels_last):
    k, *rest = _window(kernel_size, stride, padding, dilation)
    _check_map("input", input)
    pooled = [pooled_extent(size, *window, ceil_mode) for size, *window in zip(input.shape[-2:], k, *rest, strict=True)]
    torch._check(
        pooled[0] > 0 and pooled[1] > 0,
        lambda: (
            f"Given input size: {tuple(input.shape[-3:])}. Calculated output size: {tuple(pooled)}. "
            "Output size is too small"
        ),
    )
    output = _new_map(input, pooled, channels_last)
    sample_bytes = code_bytes(input.shape[-3] * pooled[0] * pooled[1], code_bits(k[0] * k[1]))
    codes = torch.empty((*input.shape[:-3], sample_bytes), dtype=torch.uint8, device=input.device)
    return output, codes


def _fake_scatter(values, codes, size, *window_and_format):
    *window, channels_last = window_and_format
    _window(*window)
    _check_map("values", values)
    _check_codes(codes, values, values.shape[-2:], window[0])
    return _new_map(values, size, channels_last)


def _fake_max_unpool2d_out(*args):
    *args, out = args
    expected = _fake_scatter(*args)
    _check_device("out", out, args[0])
    torch._check(
        out.shape == expected.shape,
        lambda: f"out should have shape {list(expected.shape)}, but got {list(out.shape)}",
    )


def _fake_max_pool2d_backward_out(grad_output, codes, _relu_output, *rest):
    _fake_max_unpool2d_out(grad_output, codes, *rest)


def _fake_gather(map, codes, size, *window_and_format):
    *window, channels_last = window_and_format
    _window(*window)
    _check_map("map", map)
    _check_codes(codes, map, size, window[0])
    return _new_map(map, size, channels_last)


def _fake_max_unpool2d_indices(input, indices, output_size, channels_last):
    _check_map("input", input)
    _check_device("indices", indices, input)
    torch._check(indices.dtype == torch.int64, lambda: f"elements in indices should be type int64, not {indices.dtype}")
    torch._check(
        input.shape == indices.shape,
        lambda: (
            f"Expected shape of indices to be same as that of the input tensor ({list(input.shape)}) "
            f"but got indices tensor with shape: {list(indices.shape)}"
        ),
    )
    return _new_map(input, output_size, channels_last)


def _fake_switches_from_indices(indices, _input_size, kernel_size, stride, padding, dilation, _channels_last):
    k, *_ = _window(kernel_size, stride, padding, dilation)
    _check_map("indices", indices)
    sample_bytes = code_bytes(math.prod(indices.shape[-3:]), code_bits(k[0] * k[1]))
    codes = torch.empty((*indices.shape[:-3], sample_bytes), dtype=torch.uint8, device=indices.device)
    return codes, indices.new_empty(1)


def _fake_switches_to_indices(codes, size, _input_size, _k, _s, _p, _d, channels_last):
    memory_format = torch.channels_last if channels_last and len(size) == 4 else torch.contiguous_format
    return torch.empty(tuple(size), dtype=torch.int64, device=codes.device, memory_format=memory_format)


def _fake_conv_transpose2d(input, weight, bias, outputs, output_size, channels_last):
    torch._check(
        input.dim() == 4 and weight.dim() == 4 and input.shape[1] == weight.shape[0],
        lambda: f"weight {list(weight.shape)} does not fit input {list(input.shape)}",
    )
    torch._check(
        input.dtype == weight.dtype and (bias is None or input.dtype == bias.dtype),
        lambda: f"input, weight and bias should have one dtype, but input is {input.dtype}",
    )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            _check_device(name, tensor, input)
    return _empty_map((input.shape[0], outputs, *output_size), input, channels_last)


def _empty_map(size: Sequence[int], like: Tensor, channels_last: bool) -> Tensor:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=memory_format)


def _fake_depthwise(input, weight, bias, output_size, channels_last):
    outputs = math.prod(weight.shape[:2])
    return _fake_conv_transpose2d(input, weight, bias, outputs, output_size, channels_last)


def _fake_depthwise_conv_transpose2d(input, weight, bias, _addend, output_size, *window_and_format):
    return _fake_depthwise(input, weight, bias, output_size, window_and_format[-1])


def _empty_gradients(input, weight, channels_last, needs_input, needs_weight, needs_bias):
    return (
        _empty_map(input.shape, input, channels_last) if needs_input else input.new_empty(0),
        weight.new_empty(weight.shape if needs_weight else 0),
        weight.new_empty(weight.shape[0] * weight.shape[1] if needs_bias else 0),
    )


def _fake_depthwise_backward(grad_output, input, weight, _stride, _origin, _dilation, channels_last, *needs):
    expected = _fake_depthwise(input, weight, None, grad_output.shape[-2:], channels_last)
    _check_device("grad_output", grad_output, input)
    torch._check(
        grad_output.shape == expected.shape and grad_output.dtype == input.dtype,
        lambda: (
            f"grad_output should be {input.dtype} of size {list(expected.shape)}, but is {grad_output.dtype} of "
            f"{list(grad_output.shape)}"
        ),
    )
    return _empty_gradients(input, weight, channels_last, *needs)


def _fake_depthwise_argmax(input, weight, bias, output_size, *rest):
    *_window, _channels_last, return_scores = rest
    scores = _fake_depthwise(input, weight, bias, output_size, False)
    size = (scores.shape[0], *scores.shape[2:])
    return input.new_empty(size, dtype=torch.uint8), input.new_empty(size if return_scores else (0,))


def _check_cross_entropy(input, weight, bias, target, class_weight) -> torch.dtype:
    """The type that losses are summed in."""
    channels = _fake_depthwise(input, weight, bias, target.shape[-2:], False).shape[1]
    _check_device("target", target, input)
    torch._check(
        target.dtype == torch.int64 and target.dim() == 3 and target.shape[0] == input.shape[0],
        lambda: f"target should be int64 of size (N, height, width), but is {target.dtype} of {list(target.shape)}",
    )
    dtype = torch.promote_types(input.dtype, torch.float32)
    torch._check(
        class_weight is None or (class_weight.dtype == dtype and tuple(class_weight.shape) == (channels,)),
        lambda: (
            f"class_weight should be {dtype} of size [{channels}], but is {class_weight.dtype} of "
            f"{list(class_weight.shape)}"
        ),
    )
    return dtype


def _fake_cross_entropy(input, weight, bias, target, class_weight, *rest):
    *_criterion, reduce = rest
    dtype = _check_cross_entropy(input, weight, bias, target, class_weight)
    loss = torch.empty(() if reduce else target.shape, dtype=dtype, device=input.device)
    return loss, input.new_empty((), dtype=dtype)


def _fake_cross_entropy_backward(grad_loss, input, weight, bias, target, class_weight, *rest):
    *_criterion, channels_last, needs_input, needs_weight, needs_bias = rest
    dtype = _check_cross_entropy(input, weight, bias, target, class_weight)
    torch._check(
        grad_loss.dtype == dtype and (grad_loss.dim() == 0 or grad_loss.shape == target.shape),
        lambda: (
            f"grad_loss should be {dtype}, one value or of size {list(target.shape)}, but is {grad_loss.dtype} of "
            f"{list(grad_loss.shape)}"
        ),
    )
    return _empty_gradients(input, weight, channels_last, needs_input, needs_weight, needs_bias)


def _fake_dense_conv_transpose2d(input, weight, bias, output_size, _stride, _padding, _dilation, channels_last):
    return _fake_conv_transpose2d(input, weight, bias, weight.shape[1], output_size, channels_last)


def _kernel_channels(weight, transposed) -> tuple[int, int]:
    """Channels of the input and of the output."""
    torch._check(
        weight.dim() == 4 and tuple(weight.shape[2:]) == (3, 3) and 0 not in weight.shape,
        lambda: f"weight of size {list(weight.shape)} is no 3x3 kernel",
    )
    return weight.shape[:2] if transposed else weight.shape[1::-1]


def _fake_unpool_conv2d_pack(weight, transposed):
    channels, outputs = _kernel_channels(weight, transposed)
    size = -(-outputs // WEIGHT_PANEL) * WEIGHT_PANEL * channels * 9
    return weight.new_empty(size, dtype=torch.promote_types(weight.dtype, torch.float32))


def _check_unpool_conv2d(input, codes, weight, unpooled_size, padding, transposed):
    """Output channels and size."""
    channels, outputs = _kernel_channels(weight, transposed)
    torch._check(
        input.dim() == 4 and channels == input.shape[1] and input.dtype == weight.dtype,
        lambda: f"weight {list(weight.shape)}, {weight.dtype} does not fit input {list(input.shape)}, {input.dtype}",
    )
    _check_map("input", input)
    _check_device("weight", weight, input)
    _check_codes(codes, input, input.shape[-2:], UNPOOLED_WINDOW[0])
    margins = (2 - 2 * p if transposed else 2 * p - 2 for p in padding)
    size = [extent + margin for extent, margin in zip(unpooled_size, margins, strict=True)]
    torch._check(
        all(0 <= p <= 2 for p in padding) and size[0] > 0 and size[1] > 0,
        lambda: f"an unpooled map of {list(unpooled_size)} is too small for a 3x3 kernel with padding {list(padding)}",
    )
    return outputs, size


def _fake_unpool_conv2d(input, codes, weight, packed_weight, _bias, unpooled_size, padding, transposed, channels_last):
    if packed_weight is not None:
        expected = _fake_unpool_conv2d_pack(weight, transposed)
        torch._check(
            packed_weight.shape == expected.shape and packed_weight.dtype == expected.dtype,
            lambda: (
                f"packed_weight of size {list(packed_weight.shape)} was not packed from a weight of size "
                f"{list(weight.shape)} and this type"
            ),
        )
    outputs, size = _check_unpool_conv2d(input, codes, weight, unpooled_size, padding, transposed)
    return _empty_map((input.shape[0], outputs, *size), input, channels_last)


def _fake_unpool_conv2d_backward(
    _grad_output, input, codes, weight, unpooled_size, padding, transposed, channels_last, wants_input, wants_weight
):
    _check_unpool_conv2d(input, codes, weight, unpooled_size, padding, transposed)
    none = input.new_empty(0)
    grad_input = _new_map(input, input.shape[-2:], channels_last) if wants_input else none
    return grad_input, input.new_empty(weight.shape if wants_weight else (0,))


_FAKES = {
    "max_pool2d": _fake_pool,
    "relu_max_pool2d": _fake_pool,
    "max_pool2d_backward": lambda grad, codes, _relu_output, *rest: _fake_scatter(grad, codes, *rest),
    "max_pool2d_backward_out": _fake_max_pool2d_backward_out,
    "max_pool2d_double_backward": lambda grad, codes, _relu_output, *rest: _fake_gather(grad, codes, *rest),
    "max_unpool2d": _fake_scatter,
    "max_unpool2d_out": _fake_max_unpool2d_out,
    "max_unpool2d_backward": _fake_gather,
    "max_unpool2d_indices": _fake_max_unpool2d_indices,
    "max_unpool2d_indices_backward": lambda grad, _indices, size, channels_last: _new_map(grad, size, channels_last),
    "switches_to_indices": _fake_switches_to_indices,
    "switches_from_indices": _fake_switches_from_indices,
    "depthwise_conv_transpose2d": _fake_depthwise_conv_transpose2d,
    "depthwise_conv_transpose2d_backward": _fake_depthwise_backward,
    "depthwise_conv_transpose2d_argmax": _fake_depthwise_argmax,
    "depthwise_conv_transpose2d_cross_entropy": _fake_cross_entropy,
    "depthwise_conv_transpose2d_cross_entropy_backward": _fake_cross_entropy_backward,
    "dense_conv_transpose2d": _fake_dense_conv_transpose2d,
    "unpool_conv2d": _fake_unpool_conv2d,
    "unpool_conv2d_backward": _fake_unpool_conv2d_backward,
    "unpool_conv2d_pack": _fake_unpool_conv2d_pack,
    "switches_repack": lambda codes, *_: torch.empty_like(codes),
}
for _name, _fake in _FAKES.items():
    torch.library.register_fake(f"segext::{_name}", _fake, lib=_registrations)
