"""Sample arguments of every op: small ones for checks of the dispatcher, larger ones for kernels on a GPU."""

from functools import cached_property
from typing import NamedTuple

import torch
from samples import Pool, channels_last, contiguous, normal, random_codes

from segext import ops


class Sizes(NamedTuple):
    """What differs between small samples and large ones: sizes, above all."""

    map: tuple[int, int, int, int]
    outputs: int  # of each channel, of upsampling
    kernel: tuple[int, int] | None  # of upsampling; otherwise twice the pool's window: two or three strides
    upsampled: tuple[int, int]  # what is kept of the upsampled map
    addend: tuple[int, int]
    addend_origin: tuple[int, int]
    reduce: bool  # whether losses are summed
    cells: tuple[int, int, int, int]  # a map that is unpooled by 2x2 windows, whatever the pool
    unpooled: tuple[int, int]
    mixed: int  # channels of the convolution that reads the unpooled map


SMALL = Sizes((2, 5, 7, 9), 2, (4, 3), (9, 11), (12, 14), (2, 1), False, (2, 5, 3, 4), (7, 9), 4)
LARGE = Sizes((2, 16, 20, 24), 1, None, (39, 44), (50, 60), (4, 3), True, (2, 16, 20, 24), (39, 48), 37)


class Samples:
    """Tensors and numbers that arguments are made of, on one device; tensors are made when an op asks for them.

    Pooled maps are in the format of ``layout``, and addends and gradients in that of ``others``.
    """

    upsampling = ((2, 2), (1, 2), (1, 1))  # stride, origin, dilation
    label_smoothing = 0.1
    ignore_index = -1

    def __init__(self, sizes, pool, device, layout, dtype, *, others, requires_grad=False):
        self.sizes, self.device, self.layout, self.dtype, self.others = sizes, device, layout, dtype, others
        self.requires_grad = requires_grad
        self.window, self.last = pool.window, layout is channels_last
        self.kernel = sizes.kernel or tuple(2 * side for side in self.window[0])
        self.samples, self.channels, *size = sizes.map
        self.size, self.classes = tuple(size), self.channels * sizes.outputs
        self.loss_type = torch.promote_types(dtype, torch.float32)

    def _normal(self, shape, *, seed=1, layout=contiguous, dtype=None):
        return layout(normal(shape, dtype or self.dtype, seed)).to(self.device)

    def _leaf(self, *arguments, **options):
        return self._normal(*arguments, **options).requires_grad_(self.requires_grad)

    # Of pooling and unpooling.

    @cached_property
    def map(self):
        return self._leaf(self.sizes.map, layout=self.layout)

    @cached_property
    def _pooling(self):
        return ops.max_pool2d(self.map.detach(), *self.window, False, self.last)

    @cached_property
    def pooled(self):
        return self._pooling[0].detach().requires_grad_(self.requires_grad)

    @property
    def pooled_size(self):
        return self.pooled.shape[-2:]

    @property
    def codes(self):
        return self._pooling[1]

    @cached_property
    def relu_output(self):
        return self.pooled.detach().relu()

    @cached_property
    def indices(self):
        return ops.switches_to_indices(self.codes, self.pooled.shape, self.size, *self.window, self.last)

    @property
    def out(self):
        return torch.full_like(self.map.detach(), torch.nan)

    # Of upsampling.

    @cached_property
    def weight(self):
        return self._leaf((self.channels, self.sizes.outputs, *self.kernel), seed=1)

    @cached_property
    def bias(self):
        return self._leaf((self.classes,), seed=2)

    @cached_property
    def addend(self):
        return self._leaf((self.samples, self.classes, *self.sizes.addend), layout=self.others)

    @cached_property
    def grad_upsampled(self):
        return self._normal((self.samples, self.classes, *self.sizes.upsampled), seed=6, layout=self.others)

    @cached_property
    def target(self):
        generator = torch.Generator().manual_seed(3)
        size = (self.samples, *self.sizes.upsampled)
        return torch.randint(self.ignore_index, self.classes, size, generator=generator).to(self.device)

    @cached_property
    def class_weight(self):
        return torch.rand(self.classes, generator=torch.Generator().manual_seed(4)).to(self.device, self.loss_type)

    @cached_property
    def grad_loss(self):
        return self._leaf((self.samples, *self.sizes.upsampled), seed=5, dtype=self.loss_type)

    # Of unpooling fused with a convolution.

    @cached_property
    def cells(self):
        return self._leaf(self.sizes.cells, layout=self.layout)

    @cached_property
    def cell_codes(self):
        return random_codes(self.sizes.cells, 2).to(self.device)

    @cached_property
    def mixing(self):
        return self._leaf((self.channels, self.sizes.mixed, 3, 3), seed=6)

    @cached_property
    def packed_mixing(self):
        return ops.unpool_conv2d_pack(self.mixing.detach(), True) if self.mixing.is_cpu else None

    @cached_property
    def offsets(self):
        return self._leaf((self.sizes.mixed,), seed=6)

    @cached_property
    def grad_mixed(self):
        return self._normal((self.samples, self.sizes.mixed, *self.sizes.unpooled), layout=self.others)


def small_samples(layout, dtype=torch.float32, device="cpu"):
    """For what looks at shapes, formats and derivatives: what is differentiated requires gradients, formats differ."""
    return Samples(SMALL, Pool(3, 2, 1), device, layout, dtype, others=contiguous, requires_grad=True)


def large_samples(layout, pool, dtype, device):
    """For what runs kernels: blocks of several threads, maps in one format."""
    return Samples(LARGE, pool, device, layout, dtype, others=layout)


ARGUMENTS = {}
WITHOUT_CUDA_KERNELS = ("dense_conv_transpose2d", "unpool_conv2d_backward", "unpool_conv2d_pack")


def sample(function):
    """Makes a function that gives an op's arguments, of `Samples`, known by the op's name."""
    ARGUMENTS[function.__name__] = function
    return function


@sample
def max_pool2d(of):
    return of.map, *of.window, False, of.last


@sample
def relu_max_pool2d(of):
    return of.map, *of.window, False, of.last


@sample
def max_pool2d_backward(of):
    return of.pooled, of.codes, of.relu_output, of.size, *of.window, of.last


@sample
def max_pool2d_backward_out(of):
    return of.pooled.detach(), of.codes, of.relu_output, of.size, *of.window, of.last, of.out


@sample
def max_pool2d_double_backward(of):
    return of.map, of.codes, of.relu_output, of.pooled_size, *of.window, of.last


@sample
def max_unpool2d(of):
    return of.pooled, of.codes, of.size, *of.window, of.last


@sample
def max_unpool2d_out(of):
    return of.pooled.detach(), of.codes, of.size, *of.window, of.last, of.out


@sample
def max_unpool2d_backward(of):
    return of.map, of.codes, of.pooled_size, *of.window, of.last


@sample
def max_unpool2d_indices(of):
    return of.pooled, of.indices, of.size, of.last


@sample
def max_unpool2d_indices_backward(of):
    return of.map, of.indices, of.pooled_size, of.last


@sample
def switches_to_indices(of):
    return of.codes, of.pooled.shape, of.size, *of.window, of.last


@sample
def switches_from_indices(of):
    return of.indices, of.size, *of.window, of.last


@sample
def switches_repack(of):
    return of.codes, of.pooled.shape, of.window[0], of.last


@sample
def extremes(of):
    return of.indices, 40


@sample
def depthwise_conv_transpose2d(of):
    sizes = of.sizes
    return of.map, of.weight, of.bias, of.addend, sizes.upsampled, *of.upsampling, sizes.addend_origin, of.last


@sample
def depthwise_conv_transpose2d_backward(of):
    return of.grad_upsampled, of.map.detach(), of.weight.detach(), *of.upsampling, of.last, True, True, True


@sample
def depthwise_conv_transpose2d_argmax(of):
    parameters = of.map.detach(), of.weight.detach(), of.bias.detach()
    return *parameters, of.sizes.upsampled, *of.upsampling, of.last, True


@sample
def depthwise_conv_transpose2d_cross_entropy(of):
    criterion = of.ignore_index, of.label_smoothing, of.last, of.sizes.reduce, True
    return of.map, of.weight, of.bias, of.target, of.class_weight, *of.upsampling, *criterion


@sample
def depthwise_conv_transpose2d_cross_entropy_backward(of):
    with torch.no_grad():
        *_, normalizers, labels = ops.depthwise_conv_transpose2d_cross_entropy(
            *depthwise_conv_transpose2d_cross_entropy(of)
        )
    of_pixels = of.class_weight, normalizers, labels
    rest = *of.upsampling, of.label_smoothing, of.last, True, True, True
    return of.grad_loss, of.map, of.weight, of.bias, *of_pixels, *rest


@sample
def dense_conv_transpose2d(of):
    """The weight mixes channels here, and an output padding makes a size for odd kernels."""
    bias = of.bias[: of.sizes.outputs]
    return of.map, of.weight, bias, tuple(2 * side for side in of.size), (2, 2), (1, 1), (1, 1), of.last


@sample
def unpool_conv2d(of):
    weight = of.mixing, of.packed_mixing, of.offsets
    return of.cells, of.cell_codes, *weight, of.sizes.unpooled, (1, 1), True, of.last


@sample
def unpool_conv2d_backward(of):
    tensors = of.grad_mixed, of.cells.detach(), of.cell_codes, of.mixing.detach()
    return *tensors, of.sizes.unpooled, (1, 1), True, of.last, True, True


@sample
def unpool_conv2d_pack(of):
    return of.mixing.detach(), True


def operands(op, layout, device="cpu"):
    """Small arguments of an op that require no gradients, and the tensors among them: place, name and value."""
    given = ARGUMENTS[op](small_samples(layout, device=device))
    arguments = [value.detach() if isinstance(value, torch.Tensor) else value for value in given]
    named = enumerate(zip(ops.overload(op)._schema.arguments, arguments, strict=True))
    return arguments, [(k, of.name, value) for k, (of, value) in named if isinstance(value, torch.Tensor)]
