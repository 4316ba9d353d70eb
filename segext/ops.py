"""The registered ops in Python, with their derivatives. ``batching`` and ``fakes`` have the rest.

The only module that names ``torch.ops.segext``. Its ops are those of ``csrc/library.cpp``, with all their arguments
explicit. Each can be differentiated to any order, but for those listed at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

from . import _library
from .arguments import spatial_size
from .derivatives import Static, adjoint_pair, differentiable, split_arguments, undifferentiated

_ops = torch.ops.segext

# The types that ops on gradients and sums accept.
FLOATS = frozenset((torch.float32, torch.float64, torch.float16, torch.bfloat16))

# The types that pooling accepts besides.
INTEGERS = frozenset((torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64))

# Most classes of label maps, which are uint8.
MOST_LABELS = 256

# The window that unpool_conv2d undoes: kernel size, stride, padding and dilation of the pool. The same as
# the Window in csrc/ops/unpool_conv2d.cpp.
UNPOOLED_WINDOW = ((2, 2), (2, 2), (0, 0), (1, 1))

# The output channels of unpool_conv2d's packed weights are padded to a multiple of this. The same as kPanel in
# csrc/kernels/panels.h.
WEIGHT_PANEL = 16

# Number of values that one pair of extremes covers. The same as kExtremesPart in csrc/kernels/extremes.h.
EXTREMES_PART = 8192

# Most of a stride, of a padding and of (kernel - 1) * dilation. The same as kMaxReach in csrc/kernels/reach.h.
MOST_REACH = 32768

# The ops that return a pooled map and its codes.
POOLS = (_ops.max_pool2d.default, _ops.relu_max_pool2d.default)

# Devices with kernels, and the meta device, which has only shapes.
DEVICES = frozenset(("cpu", "meta", "cuda") if _library.build_info()["cuda"] else ("cpu", "meta"))


def has_values(x: Tensor) -> bool:
    """Whether values can be read now: not during tracing or transforms, nor from tensors that have only a shape."""
    unreadable = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return not (unreadable or x.is_meta or isinstance(x, FakeTensor))


def device_type(x: Tensor) -> str:
    """``x.device.type``, in a fraction of its time on the CPU, where call overhead dominates on small maps."""
    return "cpu" if x.is_cpu else x.device.type


def overload(name: str) -> torch._ops.OpOverload:
    """The op itself, as it appears in graphs."""
    return getattr(_ops, name).default


class _MaxPool2d(torch.autograd.Function):
    """Max-pooling, plain or fused with a ReLU: keeps the codes and, for the ReLU's mask, the output."""

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
        ctx.input_size = spatial_size(input)
        ctx.output_size = spatial_size(pooled)
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


def _pool(relu: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    op = _ops.relu_max_pool2d.default if relu else _ops.max_pool2d.default
    return differentiable(op, _MaxPool2d, lambda input, *rest: (input, Static(relu, *rest)), is_linear=True)


def _is_differentiated() -> bool:
    """Inside a backward pass: whether its result may itself be differentiated."""
    return torch.is_grad_enabled() or forward_ad._current_level >= 0


class _DepthwiseConvTranspose2d(torch.autograd.Function):
    """Transposed convolution whose channels do not mix, plus an addend. Second derivatives use stock's ops."""

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
    """The gradients of input, weight and bias requested by ``needs``: differentiable, with stock's convolutions."""
    needs_input, needs_weight, needs_bias = needs
    grad_input = grad_weight = grad_bias = None
    if needs_input or needs_weight:
        # The adjoint is a convolution over the whole result; the output is a part of it.
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
    """The tangent of an upsampling from the tangents of its operands, any of which may be None."""

    def upsample(input, weight, *added):
        return depthwise_conv_transpose2d(input, weight, *added, *static)

    return _product_tangent(upsample, (input, weight), (input_tangent, weight_tangent), (bias_tangent, addend_tangent))


def _product_tangent(function, operands, tangents, added) -> Tensor:
    """The tangent of ``function(input, weight, *terms)``, which is linear in input and in weight, and adds the terms.

    The tangents of operands and terms may be None.
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
    """Transposed convolution whose channels mix. Gradients use stock's ops."""

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
    """Unpooling and convolution: keeps the pooled map. Second derivatives are those of the two ops in sequence."""

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
            in_sequence = _is_differentiated() or grad_output.is_cuda  # CUDA has no kernels for the gradients
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
    """The result of unpool_conv2d_backward from ops that can be differentiated again and that exist on CUDA: the map is
    recomputed, and its products are stock's."""
    unpooling = size, *UNPOOLED_WINDOW, channels_last
    convolution = (1, 1), padding, (1, 1), transposed, (0, 0), 1
    return unpooled_convolution_gradients(grad_output, input, codes, weight, unpooling, convolution, *wanted)


def unpooled_convolution_gradients(
    grad_output, input, codes, weight, unpooling, convolution, *wanted
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of a pooled map and of the weight of the (plain or transposed) convolution that reads the unpooled map.

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
    """A map of ``size`` that contains ``x`` from ``origin`` on, as far as it fits, surrounded by zeros."""
    top, left = map(min, origin, size)  # a part may begin in the output padding, behind the map
    height, width = x.shape[-2:]
    return torch.nn.functional.pad(x, (left, size[1] - left - width, top, size[0] - top - height))


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy of upsampled scores. Keeps two values and the label of each pixel, with which the gradients turn
    scores that they compute again into a softmax.

    Returns these as results too, even if the op was called without ``return_normalizers``.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(input, weight, bias, target, class_weight, static):
        op = _ops.depthwise_conv_transpose2d_cross_entropy.default
        *rest, _return_normalizers = static.values
        with torch._C._AutoDispatchBelowAutograd():
            return op(input, weight, bias, target, class_weight, *rest, True)

    @staticmethod
    def setup_context(ctx, inputs, output):
        input, weight, bias, _target, class_weight, static = inputs
        _loss, *others = output
        ctx.mark_non_differentiable(*others)
        ctx.set_materialize_grads(False)
        _total_weight, normalizers, labels = others
        saved = (input, weight, bias, class_weight, normalizers, labels)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        *ctx.window, _ignore_index, ctx.label_smoothing, ctx.channels_last, ctx.reduce, _ = static.values

    @staticmethod
    def backward(ctx, grad_loss, *_):
        if grad_loss is None:
            return (None,) * 6
        needs = ctx.needs_input_grad[:3]
        gradients = depthwise_conv_transpose2d_cross_entropy_backward(
            grad_loss, *ctx.saved_tensors, *ctx.window, ctx.label_smoothing, ctx.channels_last, *needs
        )
        return *(x if needed else None for x, needed in zip(gradients, needs, strict=True)), None, None, None

    @staticmethod
    def jvp(ctx, input_tangent, weight_tangent, bias_tangent, *_):
        input, weight, bias, class_weight, _normalizers, labels = ctx.saved_tensors
        upsampling = (labels.shape[-2:], *ctx.window, (0, 0), ctx.channels_last)
        scores = depthwise_conv_transpose2d(input, weight, bias, None, *upsampling)
        tangent = _upsampling_tangent(input, weight, input_tangent, weight_tangent, bias_tangent, None, upsampling)
        by_score = _score_gradient(scores, labels, class_weight, ctx.label_smoothing)
        loss = (by_score * tangent).sum(1)
        return loss.sum() if ctx.reduce else loss, None, None, None


class _CrossEntropyBackward(torch.autograd.Function):
    """Gradients of :class:`_CrossEntropy`. Those of higher order come from a composition that does hold the scores.

    They are complete: the normalizers are taken to be functions of the scores, as in the loss, not constants.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(grad_loss, input, weight, bias, class_weight, normalizers, labels, static):
        op = _ops.depthwise_conv_transpose2d_cross_entropy_backward.default
        with torch._C._AutoDispatchBelowAutograd():
            return op(grad_loss, input, weight, bias, class_weight, normalizers, labels, *static.values)

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad_loss, input, weight, bias, class_weight, _normalizers, labels, static = inputs
        saved = (grad_loss, input, weight, bias, class_weight, labels)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        ctx.static = static.values

    @staticmethod
    def backward(ctx, *cotangents):
        _, pull_back = torch.func.vjp(*_CrossEntropyBackward._composition(ctx))
        gradients = (*pull_back(cotangents), None)[:4]  # there may be no bias
        return *gradients, None, None, None, None

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
        *primals, class_weight, labels = ctx.saved_tensors
        *window, label_smoothing, channels_last, needs_input, needs_weight, needs_bias = ctx.static

        def gradients(grad_loss, input, weight, bias=None):
            upsampling = (labels.shape[-2:], *window, (0, 0), channels_last)
            scores = depthwise_conv_transpose2d(input, weight, bias, None, *upsampling)
            by_score = _score_gradient(scores, labels, class_weight, label_smoothing)
            grad_scores = (grad_loss if grad_loss.dim() == 0 else grad_loss.unsqueeze(1)) * by_score
            needs = (needs_input, needs_weight, needs_bias)
            found = _upsampling_gradients(grad_scores.to(input.dtype), input, weight, *window, needs)
            return tuple(input.new_empty(0) if x is None else x for x in found)

        return gradients, *(x for x in primals if x is not None)


def _score_gradient(scores, labels, class_weight, label_smoothing) -> Tensor:
    """The derivative of each pixel's cross-entropy by its scores (N, K, H, W), differentiable."""
    probability = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(1)
    classes = probability.shape[1]
    if class_weight is None:
        class_weight = probability.new_ones(classes)
    labels = labels.unsqueeze(1)
    counts = (labels >= 0) & (labels < classes)
    is_target = labels == torch.arange(classes, device=labels.device).view(-1, 1, 1)
    each = class_weight.view(-1, 1, 1) * (max(label_smoothing, 0) / classes)
    shares = (is_target * class_weight.view(-1, 1, 1) * (1 - max(label_smoothing, 0)) + each) * counts
    return probability * shares.sum(1, keepdim=True) - shares


max_pool2d = _pool(relu=False)
relu_max_pool2d = _pool(relu=True)

max_pool2d_backward, max_pool2d_double_backward = adjoint_pair(
    _ops.max_pool2d_backward.default, _ops.max_pool2d_double_backward.default, tensors=2
)
max_unpool2d, max_unpool2d_backward = adjoint_pair(
    _ops.max_unpool2d.default, _ops.max_unpool2d_backward.default, tensors=1
)
max_unpool2d_indices, max_unpool2d_indices_backward = adjoint_pair(
    _ops.max_unpool2d_indices.default, _ops.max_unpool2d_indices_backward.default, tensors=1
)

depthwise_conv_transpose2d = differentiable(
    _ops.depthwise_conv_transpose2d.default, _DepthwiseConvTranspose2d, split_arguments(4)
)
depthwise_conv_transpose2d_cross_entropy = differentiable(
    _ops.depthwise_conv_transpose2d_cross_entropy.default, _CrossEntropy, split_arguments(5)
)
depthwise_conv_transpose2d_cross_entropy_backward = differentiable(
    _ops.depthwise_conv_transpose2d_cross_entropy_backward.default, _CrossEntropyBackward, split_arguments(7)
)
dense_conv_transpose2d = differentiable(_ops.dense_conv_transpose2d.default, _DenseConvTranspose2d, split_arguments(3))
unpool_conv2d = differentiable(_ops.unpool_conv2d.default, _UnpoolConv2d, split_arguments(5))

# Not differentiable: conversions of codes, checks, variants that write into a caller's tensor, and backward ops that
# are replaced by compositions of other ops where they are differentiated.
max_pool2d_backward_out = undifferentiated(_ops.max_pool2d_backward_out.default)
max_unpool2d_out = undifferentiated(_ops.max_unpool2d_out.default)
switches_to_indices = undifferentiated(_ops.switches_to_indices.default)
switches_from_indices = undifferentiated(_ops.switches_from_indices.default)
switches_repack = undifferentiated(_ops.switches_repack.default)
extremes = undifferentiated(_ops.extremes.default)
depthwise_conv_transpose2d_argmax = undifferentiated(_ops.depthwise_conv_transpose2d_argmax.default)
depthwise_conv_transpose2d_backward = undifferentiated(_ops.depthwise_conv_transpose2d_backward.default)
unpool_conv2d_backward = undifferentiated(_ops.unpool_conv2d_backward.default)
unpool_conv2d_pack = undifferentiated(_ops.unpool_conv2d_pack.default)
