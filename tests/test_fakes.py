"""Fake kernels have the sizes of the real ones, and raise what these raise for what does not fit, in the same words."""

import pytest
import torch
from op_samples import ARGUMENTS, small_samples
from samples import POOLS, Pool, contiguous, name

import segext.functional as own

ops = torch.ops.segext

# By op: what is passed in place of one or more arguments of its sample, whose map is (2, 5, 7, 9), pooled by 3x3/2.
WINDOWS = (
    {"kernel_size": (3, 0)},
    {"kernel_size": (2**16, 2**16)},
    {"stride": (0, 2)},
    {"stride": (2, 2**31)},
    {"padding": (-1, 1)},
    {"padding": (1, 2)},
    {"dilation": (0, 1)},
)


def shape(*sizes, dtype=torch.float32):
    return torch.zeros(sizes, dtype=dtype)


POOL_MISFITS = (
    *WINDOWS,
    {"kernel_size": (9, 9), "padding": (0, 0)},
    {"input": shape(7, 9)},
    {"input": shape(1, 2, 5, 7, 9)},
    {"input": shape(2, 0, 7, 9)},
    {"input": shape(2, 5, 7, 9, dtype=torch.bool)},
    {"input": shape(2, 5, 7, 9, dtype=torch.complex64)},
    {"input": shape(5, 7, 9), "channels_last": True},
)


def selections(name, size, map, **more):
    """Of an op that reads or fills a map at the switches: the names of its map and size, and the shape of the map.

    ``more``: what must change too, for only the map's type not to fit.
    """
    return (
        *WINDOWS,
        {name: shape(7, 9)},
        {name: shape(*map[:-1], 0)},
        {name: shape(*map, dtype=torch.int32), **more},
        {name: shape(*map[1:]), "channels_last": True, "codes": shape(12, dtype=torch.uint8)},
        {size: (-1, 4)},
        {"codes": shape(2, 39, dtype=torch.uint8)},
        {"codes": shape(40, dtype=torch.uint8)},
        {"codes": shape(2, 40, dtype=torch.int8)},
    )


RELU_OUTPUTS = (
    {"relu_output": shape(2, 5, 4, 4)},
    {"relu_output": shape(5, 4, 5)},
    {"relu_output": shape(2, 5, 4, 5, dtype=torch.float64)},
)
OUTS = (
    {"out": shape(2, 5, 7, 8)},
    {"out": shape(2, 5, 7, 9, dtype=torch.float64)},
    {"out": shape(2, 5, 7, 18)[..., ::2]},
)
INDICES = (
    {"indices": shape(2, 5, 4, 5, dtype=torch.int32)},
    {"indices": shape(2, 5, 4, 4, dtype=torch.int64)},
)
POOLED_SIZES = ({"size": (5, 4)}, {"size": (2, 5, -1, 5)}, {"size": (5, 4, 5), "channels_last": True})
CODES = ({"codes": shape(2, 39, dtype=torch.uint8)}, {"codes": shape(2, 40)})
KERNELS = (
    {"input": shape(5, 7, 9)},
    {"input": shape(2, 6, 7, 9)},
    {"input": shape(2, 5, 0, 9)},
    {"input": shape(2, 5, 7, 9, dtype=torch.float64)},
    {"weight": shape(5, 2, 4)},
    {"weight": shape(5, 2, 0, 3)},
    {"stride": (0, 2)},
    {"stride": (2, 32769)},
    {"dilation": (1, 0)},
    {"dilation": (2**15, 1)},
)
UPSAMPLINGS = (*KERNELS, {"origin": (-1, 0)}, {"origin": (0, 2**31)})
BIASES = (
    {"bias": shape(9)},
    {"bias": shape(1, 10)},
    {"bias": shape(10, dtype=torch.float64)},
)
OUTPUT_SIZES = ({"output_size": (-1, 4)}, {"output_size": (2**31, 4)})
PIXELS = (
    {"class_weight": shape(9)},
    {"class_weight": shape(10, dtype=torch.float64)},
    {"label_smoothing": 1.5},
)
UNPOOLED = (
    {"weight": shape(5, 4, 3, 2)},
    {"weight": shape(5, 0, 3, 3)},
    {"weight": shape(6, 4, 3, 3)},
    {"weight": shape(5, 4, 3, 3, dtype=torch.float64)},
    {"weight": shape(5, 4, 3, 3, dtype=torch.int32)},
    {"input": shape(5, 3, 4)},
    {"input": shape(2, 5, 0, 4)},
    {"unpooled_size": (-1, 9)},
    {"unpooled_size": (1, 1), "padding": (2, 2)},
    {"padding": (1, 3)},
    {"codes": shape(2, 14, dtype=torch.uint8)},
    {"codes": shape(2, 15)},
)
MISFITS = {
    "max_pool2d": POOL_MISFITS,
    "relu_max_pool2d": POOL_MISFITS,
    "max_pool2d_backward": (
        *selections("grad_output", "input_size", (2, 5, 4, 5), relu_output=None),
        *RELU_OUTPUTS,
    ),
    "max_pool2d_backward_out": (*WINDOWS, *CODES, *RELU_OUTPUTS, *OUTS, {"input_size": (-1, 9)}),
    "max_pool2d_double_backward": (
        *selections("grad_grad_input", "output_size", (2, 5, 7, 9), relu_output=None),
        *RELU_OUTPUTS,
    ),
    "max_unpool2d": selections("input", "output_size", (2, 5, 4, 5)),
    "max_unpool2d_out": (*WINDOWS, *CODES, *OUTS, {"output_size": (-1, 9)}),
    "max_unpool2d_backward": selections("grad_output", "input_size", (2, 5, 7, 9)),
    "max_unpool2d_indices": (
        *INDICES,
        {"input": shape(4, 5)},
        {"input": shape(2, 5, 4, 5, dtype=torch.int64)},
        {"output_size": (7, -1)},
    ),
    "max_unpool2d_indices_backward": (
        *INDICES,
        {"indices": shape(4, 5, dtype=torch.int64)},
        {"grad_output": shape(2, 6, 7, 9)},
        {"grad_output": shape(2, 5, 7, 9, dtype=torch.int32)},
        {"input_size": (4, 4)},
    ),
    "switches_to_indices": (*WINDOWS, *CODES, *POOLED_SIZES, {"input_size": (7, -1)}),
    "switches_from_indices": (
        *WINDOWS,
        {"indices": shape(2, 5, 4, 5, dtype=torch.int32)},
        {"indices": shape(4, 5, dtype=torch.int64)},
        {"indices": shape(5, 4, 5, dtype=torch.int64), "channels_last": True},
        {"input_size": (-1, 7)},
    ),
    "switches_repack": (*CODES, *POOLED_SIZES, {"kernel_size": (0, 3)}),
    "extremes": ({"values": shape(3, dtype=torch.int32)},),
    "depthwise_conv_transpose2d": (
        *UPSAMPLINGS,
        *BIASES,
        *OUTPUT_SIZES,
        {"addend_origin": (-1, 0)},
        {"addend_origin": (4, 1)},
        {"addend": shape(2, 10, 11, 11)},
        {"addend": shape(2, 9, 12, 14)},
        {"addend": shape(10, 12, 14)},
        {"addend": shape(2, 10, 12, 14, dtype=torch.float64)},
    ),
    "depthwise_conv_transpose2d_backward": (
        *UPSAMPLINGS,
        {"grad_output": shape(2, 9, 9, 11)},
        {"grad_output": shape(3, 10, 9, 11)},
        {"grad_output": shape(10, 9, 11)},
        {"grad_output": shape(2, 10, 9, 11, dtype=torch.float64)},
    ),
    "depthwise_conv_transpose2d_argmax": (
        *UPSAMPLINGS,
        *BIASES,
        *OUTPUT_SIZES,
        {"weight": shape(5, 60, 4, 3), "bias": None},
    ),
    "depthwise_conv_transpose2d_cross_entropy": (
        *UPSAMPLINGS,
        *BIASES,
        *PIXELS,
        {"target": shape(2, 9, 11, dtype=torch.int32)},
        {"target": shape(3, 9, 11, dtype=torch.int64)},
        {"target": shape(9, 11, dtype=torch.int64)},
    ),
    "depthwise_conv_transpose2d_cross_entropy_backward": (
        *UPSAMPLINGS,
        *BIASES,
        *PIXELS,
        {"labels": shape(2, 9, 11, dtype=torch.int32)},
        {"labels": shape(3, 9, 11, dtype=torch.uint8)},
        {"normalizers": shape(2, 9, 11)},
        {"normalizers": shape(2, 9, 11, 2, dtype=torch.float64)},
        {"grad_loss": shape(2, 9, 10)},
        {"grad_loss": shape(dtype=torch.float64)},
    ),
    "dense_conv_transpose2d": (
        *KERNELS,
        {"bias": shape(3)},
        {"bias": shape(2, dtype=torch.float64)},
        {"output_size": (0, 4)},
        {"padding": (-1, 0)},
        {"padding": (0, 32769)},
    ),
    "unpool_conv2d": (
        *UNPOOLED,
        {"bias": shape(5)},
        {"bias": shape(4, dtype=torch.float64)},
        {"packed_weight": shape(720)},
        {"packed_weight": shape(721, dtype=torch.float64)},
    ),
    "unpool_conv2d_backward": (
        *UNPOOLED,
        {"grad_output": shape(2, 4, 7, 8)},
        {"grad_output": shape(2, 4, 7, 9, dtype=torch.float64)},
    ),
    "unpool_conv2d_pack": ({"weight": shape(5, 4, 3, 2)}, {"weight": shape(5, 4, 3, 3, dtype=torch.int32)}),
}
# How C++ names types.
TYPES = {
    "torch.float32": "Float",
    "torch.float64": "Double",
    "torch.int8": "Char",
    "torch.uint8": "Byte",
    "torch.int32": "Int",
    "torch.int64": "Long",
    "torch.bool": "Bool",
    "torch.complex64": "ComplexFloat",
}


def test_every_op_has_misfits():
    assert set(MISFITS) == set(ARGUMENTS)


def on_meta(argument):
    if not isinstance(argument, torch.Tensor):
        return argument
    return torch.empty_strided(argument.shape, argument.stride(), dtype=argument.dtype, device="meta")


def error_of(op, arguments):
    with torch.no_grad(), pytest.raises(RuntimeError) as caught:
        op(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("name", MISFITS)
def test_fakes_refuse_what_the_real_ops_refuse(name):
    op = getattr(ops, name).default
    names = [argument.name for argument in op._schema.arguments]
    samples = dict(zip(names, ARGUMENTS[name](small_samples(contiguous)), strict=True))
    for misfit in MISFITS[name]:
        assert misfit.keys() <= samples.keys()
        arguments = list((samples | misfit).values())
        told = error_of(op, list(map(on_meta, arguments)))
        for python, cpp in TYPES.items():
            told = told.replace(python, cpp)
        assert error_of(op, arguments).endswith(told), misfit


@pytest.mark.parametrize("pool", [*POOLS, Pool(1, 3, ceil_mode=True), Pool(2, 2, 1, ceil_mode=True)], ids=name)
def test_fake_pools_have_the_sizes_of_real_ones(pool):
    """The last two with windows that ceil_mode would begin behind the map."""
    for size in ((5, 6), (7, 9), (12, 13), (8, 11)):
        x = torch.zeros(1, 1, *size)
        assert own.max_pool2d(x.to("meta"), *pool).shape == own.max_pool2d(x, *pool).shape


@pytest.mark.parametrize("padding", [(0, 1), (2, 0)])
@pytest.mark.parametrize("convolve", [own.unpool_conv2d, own.unpool_conv_transpose2d])
def test_fake_unpooling_and_convolution_has_the_real_size(convolve, padding):
    values, switches = own.max_pool2d(torch.zeros(1, 4, 7, 9), 2, return_indices=True)
    weight = torch.zeros(4, 4, 3, 3)
    fake = convolve(values.to("meta"), switches.to("meta"), weight.to("meta"), padding=padding)
    assert fake.shape == convolve(values, switches, weight, padding=padding).shape
