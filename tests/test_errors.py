"""Bad input: stock's exception type, a message that names the argument and the value, and no crash."""

import re
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as stock
from op_samples import ARGUMENTS, operands
from samples import contiguous, normal
from torch._subclasses import FakeTensorMode

import segext.functional as own
from segext import Switches, ops
from segext.derivatives import undifferentiated

ones = torch.ones


def refuses(call, names, stock_call=None):
    """`call` raises exactly the exception type stock does, with every one of `names` in its message.

    `call` takes the module of functions, segext's or stock's.
    """
    with pytest.raises(Exception) as by_stock:  # noqa: PT011 - its type is what is asked for
        (stock_call or call)(stock)
    with pytest.raises(by_stock.type) as by_own:
        call(own)
    assert by_own.type is by_stock.type
    message = str(by_own.value)
    assert all(part.lower() in message.lower() for part in names), message


POOL_INPUTS = {
    "vector": (ones(4), ("input", "[4]")),
    "matrix": (ones(4, 5), ("input", "[4, 5]")),
    "5-D": (ones(1, 1, 1, 4, 4), ("input", "[1, 1, 1, 4, 4]")),
    "scalar": (torch.tensor(1.0), ("input", "[]")),
    "no channel": (ones(2, 0, 4, 4), ("[2, 0, 4, 4]",)),
    "no row": (ones(2, 3, 0, 4), ("[2, 3, 0, 4]",)),
    "no column": (ones(3, 4, 0), ("[3, 4, 0]",)),
    "empty unbatched": (ones(0, 4, 4), ("[0, 4, 4]",)),
    "bool": (ones(1, 1, 4, 4, dtype=torch.bool), ("Bool",)),
    "complex": (ones(1, 1, 4, 4, dtype=torch.complex64), ("Complex",)),
    "float8": (ones(1, 1, 4, 4).to(torch.float8_e4m3fn), ("Float8",)),
    "uint16": (ones(1, 1, 4, 4).to(torch.uint16), ("UInt16",)),
    "list": ([[[1.0]]], ("input", "list")),
    "None": (None, ("input", "None")),
}

POOL_WINDOWS = {
    "kernel 0": ({"kernel_size": 0}, ("0",)),
    "kernel 0 with a stride": ({"kernel_size": 0, "stride": 1}, ("kernel", "0")),
    "kernel -1": ({"kernel_size": -1}, ("-1",)),
    "kernel (2, -3)": ({"kernel_size": (2, -3), "stride": 1}, ("kernel", "-3")),
    "kernel of 3": ({"kernel_size": (2, 2, 2)}, ("kernel_size",)),
    "kernel of 0": ({"kernel_size": ()}, ("kernel_size",)),
    "kernel 2.5": ({"kernel_size": 2.5}, ("kernel_size", "2.5")),
    "kernel str": ({"kernel_size": "2"}, ("kernel_size", "'2'")),
    "kernel of floats": ({"kernel_size": (2.0, 2.0)}, ("kernel_size", "2.0")),
    "kernel > map": ({"kernel_size": 9}, ("too small", "3x5x6")),
    "kernel > rows": ({"kernel_size": (9, 1)}, ("too small", "3x0x6")),
    "kernel > columns": ({"kernel_size": (1, 9)}, ("too small", "3x5x0")),
    "kernel 2^40": ({"kernel_size": 2**40}, ()),
    "ceil_mode str": ({"kernel_size": 2, "ceil_mode": "yes"}, ("ceil_mode", "str")),
    "ceil_mode int": ({"kernel_size": 2, "ceil_mode": 1}, ("ceil_mode", "int")),
    "kernel bool": ({"kernel_size": True}, ("kernel_size", "bool")),
    "stride bool": ({"kernel_size": 2, "stride": True}, ("stride", "bool")),
    "padding bool": ({"kernel_size": 2, "padding": True}, ("padding", "bool")),
    "dilation bool": ({"kernel_size": 2, "dilation": True}, ("dilation", "bool")),
    "stride 0": ({"kernel_size": 2, "stride": 0}, ("stride", "0")),
    "stride (1, 0)": ({"kernel_size": 2, "stride": (1, 0)}, ("stride", "0")),
    "stride -1": ({"kernel_size": 2, "stride": -1}, ("stride", "-1")),
    "stride of 3": ({"kernel_size": 2, "stride": (1, 2, 3)}, ("stride",)),
    "padding 2 of 2": ({"kernel_size": 2, "padding": 2}, ("pad", "2")),
    "padding (2, 0) of (3, 5)": ({"kernel_size": (3, 5), "padding": (2, 0)}, ("pad", "2", "3")),
    "padding (0, 2) of (5, 3)": ({"kernel_size": (5, 3), "padding": (0, 2)}, ("pad", "2", "3")),
    "padding 2 of dilated 3": ({"kernel_size": 3, "padding": 2, "dilation": 2}, ("pad", "2", "3")),
    "padding -1": ({"kernel_size": 2, "padding": -1}, ("pad", "-1")),
    "padding of 3": ({"kernel_size": 2, "padding": (0, 0, 0)}, ("padding",)),
    "dilation 0": ({"kernel_size": 2, "dilation": 0}, ("dilation", "0")),
    "dilation -1": ({"kernel_size": 2, "dilation": -1}, ("dilation", "-1")),
    "dilation of 3": ({"kernel_size": 2, "dilation": (1, 1, 1)}, ("dilation",)),
    "dilation > map": ({"kernel_size": 2, "dilation": 7}, ("too small", "3x5x6", "3x-1x0")),
    "dilation 2^62": ({"kernel_size": 2, "dilation": 2**62}, ()),
    "no kernel": ({}, ("kernel_size",)),
    "unknown keyword": ({"kernel_size": 2, "colour": 1}, ("colour",)),
}


def pool_and(function, *arguments, **keywords):
    """A call of max_pool2d or, for segext, relu_max_pool2d with the same arguments."""
    return lambda module: getattr(module, function if module is own else "max_pool2d")(*arguments, **keywords)


@pytest.mark.parametrize("return_indices", [False, True])
@pytest.mark.parametrize("function", ["max_pool2d", "relu_max_pool2d"])
@pytest.mark.parametrize("case", POOL_INPUTS)
def test_pool_refuses_input(case, function, return_indices):
    x, names = POOL_INPUTS[case]
    refuses(pool_and(function, x, 2, return_indices=return_indices), names)


@pytest.mark.parametrize("return_indices", [False, True])
@pytest.mark.parametrize("function", ["max_pool2d", "relu_max_pool2d"])
@pytest.mark.parametrize("case", POOL_WINDOWS)
def test_pool_refuses_window(case, function, return_indices):
    window, names = POOL_WINDOWS[case]
    refuses(pool_and(function, ones(2, 3, 5, 6), return_indices=return_indices, **window), names)


@pytest.mark.parametrize("case", POOL_WINDOWS)
def test_compilers_refuse_the_same_windows(case):
    window, _ = POOL_WINDOWS[case]
    with pytest.raises(Exception) as real:  # noqa: PT011 - its type is what is asked for
        own.max_pool2d(ones(2, 3, 5, 6), **window)
    with FakeTensorMode(), pytest.raises(real.type):
        own.max_pool2d(ones(2, 3, 5, 6), **window)


def values_and_indices():
    return stock.max_pool2d(normal((2, 3, 4, 6)), 2, return_indices=True)


INDICES = {
    "too large": (lambda v, i: (v, i + 100), ("4x6",)),
    "negative": (lambda v, i: (v, i - 100), ("-", "4x6")),
    "one past the end": (lambda v, i: (v, torch.full_like(i, 24)), ("24", "4x6")),
    "int32": (lambda v, i: (v, i.int()), ("indices", "Int")),
    "float": (lambda v, i: (v, v), ("indices", "Float")),
    "of another shape": (lambda v, i: (v, i[..., :1]), ("indices", "[2, 3, 2, 1]", "[2, 3, 2, 3]")),
    "of another rank": (lambda v, i: (v, i[0]), ("indices", "[3, 2, 3]", "[2, 3, 2, 3]")),
    "of a broadcastable shape": (lambda v, i: (v, i[:, :1]), ("indices", "[2, 1, 2, 3]")),
    "both of rank 2": (lambda v, i: (v[0, 0], i[0, 0]), ("[2, 3]",)),
    "both of rank 5": (lambda v, i: (v[None], i[None]), ("[1, 2, 3, 2, 3]",)),
    "no channel": (lambda v, i: (v[:, :0], i[:, :0]), ("[2, 0, 2, 3]",)),
    "integer values": (lambda v, i: (v.int(), i), ("Int",)),
    "bool values": (lambda v, i: (v.bool(), i), ("Bool",)),
    "complex values": (lambda v, i: (v.to(torch.complex64), i), ("Complex",)),
    "None": (lambda v, i: (v, None), ("None",)),
    "a list": (lambda v, i: (v, i.tolist()), ("list",)),
    "a str": (lambda v, i: (v, "indices"), ("str",)),
    "on another device": (lambda v, i: (v, i.to("meta")), ("meta",)),
}

OUTPUT_SIZES = {
    "of 1": ((4,), ("output_size", "1")),
    "of 5": ((1, 1, 1, 4, 6), ("output_size", "5")),
    "an int": (4, ()),
    "too small": ((2, 6), ("output_size", "(2, 6)")),
    "too large": ((4, 8), ("output_size", "(4, 8)")),
    "negative": ((-4, 6), ("output_size", "-4")),
    "floats": ((4.0, 6.0), ("output_size", "4.0")),
}


@pytest.mark.parametrize("case", INDICES)
def test_unpool_refuses_indices(case):
    arguments = INDICES[case][0](*values_and_indices())
    refuses(lambda module: module.max_unpool2d(*arguments, 2), INDICES[case][1])


@pytest.mark.parametrize("case", OUTPUT_SIZES)
def test_unpool_by_indices_refuses_output_size(case):
    values, indices = values_and_indices()
    size, names = OUTPUT_SIZES[case]
    refuses(lambda module: module.max_unpool2d(values, indices, 2, output_size=size), names)


@pytest.mark.parametrize(
    ("window", "names"),
    [
        ({}, ("kernel_size",)),
        ({"kernel_size": 2, "padding": 5}, ("output_size", "-6")),
        ({"kernel_size": 2.5}, ()),
        ({"kernel_size": 2, "stride": 0}, ()),
    ],
)
def test_unpool_by_indices_refuses_window(window, names):
    values, indices = values_and_indices()
    refuses(lambda module: module.max_unpool2d(values, indices, **window), names)


def test_indices_are_checked_before_anything_is_written():
    values, indices = values_and_indices()
    out = torch.full((2, 3, 4, 6), 7.0)
    with pytest.raises(RuntimeError, match="4x6"):
        own.max_unpool2d(values, indices + 100, 2, out=out)
    assert (out == 7).all()


def unpool_both(change_values=lambda v: v, change_indices=lambda i: i, change_switches=lambda s: s, **keywords):
    """One bad call in two forms: segext's with switches, stock's with indices."""
    x = normal((2, 3, 4, 6))
    values, indices = stock.max_pool2d(x, 2, return_indices=True)
    _, switches = own.max_pool2d(x, 2, return_indices=True)
    values, indices, switches = change_values(values), change_indices(indices), change_switches(switches)
    return (
        lambda module: module.max_unpool2d(values, switches, **keywords),
        lambda module: module.max_unpool2d(values, indices, 2, **keywords),
    )


SWITCHES = {
    "of another map": ({"change_values": lambda v: v[..., :2]}, ("[2, 3, 2, 2]", "[2, 3, 2, 3]")),
    "of another batch": ({"change_values": lambda v: v[:1]}, ("[1, 3, 2, 3]", "[2, 3, 2, 3]")),
    "of a broadcastable map": ({"change_values": lambda v: v[:, :1]}, ("[2, 1, 2, 3]", "[2, 3, 2, 3]")),
    "of another rank": ({"change_values": lambda v: v[0]}, ("[3, 2, 3]", "[2, 3, 2, 3]")),
    "of more samples": (
        {"change_switches": lambda s: s[:1], "change_indices": lambda i: i[:1]},
        ("[1, 3, 2, 3]", "[2, 3, 2, 3]"),
    ),
    "integer values": ({"change_values": lambda v: v.int()}, ("Int",)),
    "bool values": ({"change_values": lambda v: v.bool()}, ("Bool",)),
    "complex values": ({"change_values": lambda v: v.to(torch.complex128)}, ("Complex",)),
    "on another device": (
        {"change_switches": lambda s: s.to("meta"), "change_indices": lambda i: i.to("meta")},
        ("meta", "cpu"),
    ),
    "output_size of 1": ({"output_size": (4,)}, ("output_size", "1")),
    "output_size of 5": ({"output_size": (1, 1, 1, 4, 6)}, ("output_size", "5")),
    "output_size an int": ({"output_size": 4}, ()),
    "output_size too small": ({"output_size": (2, 6)}, ("output_size", "(2, 6)", "(4, 6)")),
    "output_size too large": ({"output_size": (4, 8)}, ("output_size", "(4, 8)", "(4, 6)")),
}


@pytest.mark.parametrize("case", SWITCHES)
def test_unpool_refuses_switches(case):
    changes, names = SWITCHES[case]
    call, stock_call = unpool_both(**changes)
    refuses(call, names, stock_call)


@pytest.mark.parametrize("pool", [own.max_pool2d, own.relu_max_pool2d])
def test_a_map_that_is_no_tensor(pool):
    with pytest.raises(TypeError, match=rf"^{pool.__name__}\(\): argument 'input' must be Tensor, not str$"):
        pool("x", 2)


@pytest.mark.parametrize("values", [[[1.0]], None, 1.0])
def test_values_that_are_no_tensor(values):
    _, switches = own.max_pool2d(normal((2, 3, 4, 6)), 2, return_indices=True)
    with pytest.raises(TypeError, match=type(values).__name__):
        own.max_unpool2d(values, switches)


@pytest.mark.parametrize("size", [(5, 6), (4, 7), (2, 3, 5, 7), (3, 3, 6)])
def test_output_size_must_be_the_recorded_one(size):
    """Stock would take (5, 7) and misplace nothing; switches know better, so another size is a mistake."""
    call, _ = unpool_both(output_size=size)
    with pytest.raises(ValueError, match=r"output_size.*4.*6"):
        call(own)


@pytest.mark.parametrize(
    ("window", "names"),
    [
        ({"kernel_size": 3}, ("kernel_size", "3", "2")),
        ({"kernel_size": 2, "stride": 1}, ("stride", "1", "2")),
        ({"kernel_size": 2, "padding": 1}, ("padding", "1", "0")),
        ({"stride": (2, 3)}, ("stride", "3", "2")),
        ({"kernel_size": (2, 2, 2)}, ("kernel_size",)),
    ],
)
def test_window_must_agree_with_the_switches(window, names):
    call, _ = unpool_both(**window)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is looked at below
        call(own)
    assert all(part in str(error.value) for part in names)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.codes[:, :-1],
        lambda s: s.codes[:1],
        lambda s: s.codes[:, :0],
        lambda s: s.codes[0],
        lambda s: torch.cat((s.codes, s.codes), 1),
        lambda s: s.codes.int(),
        lambda s: s.codes.bool(),
    ],
)
def test_codes_that_do_not_fit(change):
    """Truncated, of another batch, too long or of another type: refused by the ops themselves."""
    _, switches = own.max_pool2d(normal((2, 3, 4, 6)), 2, return_indices=True)
    window = (switches.kernel_size, switches.stride, switches.padding, switches.dilation, False)
    codes, values, full = change(switches), normal((2, 3, 2, 3)), normal((2, 3, 4, 6))
    ops = torch.ops.segext
    for call in (
        lambda: ops.max_unpool2d(values, codes, (4, 6), *window),
        lambda: ops.max_unpool2d_backward(full, codes, (2, 3), *window),
        lambda: ops.max_pool2d_backward(values, codes, None, (4, 6), *window),
        lambda: ops.max_pool2d_double_backward(full, codes, None, (2, 3), *window),
        lambda: ops.switches_to_indices(codes, (2, 3, 2, 3), (4, 6), *window),
        lambda: ops.switches_repack(codes, (2, 3, 2, 3), (2, 2), False),
    ):
        with pytest.raises(RuntimeError, match="codes"):
            call()


# What no argument of this name may be, whichever op takes it.
OUT_OF_RANGE = {
    "kernel_size": ((2, 0), (-1, 2), (2**31, 1), (2**16, 2**15), (2, 2, 2)),
    "stride": ((2, 0), (-1, 2), (2**31, 1), (1, 1, 1)),
    "padding": ((-1, 0), (0, -1), (2**31, 0), (0, 2**31), (1, 1, 1)),
    "dilation": ((1, 0), (-1, 1), (2**31, 1), (1, 1, 1)),
    "size": ((2, 3), (2, 5, 4, -5), (2, 5, 4, 5, 1)),
    "input_size": ((7, -1), (-1, 9), (7,), (7, 9, 1)),
    "output_size": ((7, -1), (-1, 9), (7,), (7, 9, 1)),
    "unpooled_size": ((7, -1), (-1, 9), (7,), (7, 9, 1)),
    "origin": ((-1, 0), (0, -1), (0, 2**31), (0,)),
    "addend_origin": ((-1, 0), (0, -1), (2**31, 0), (0, 0, 0)),
    "label_smoothing": (1.5,),
}


@pytest.mark.parametrize("op", ARGUMENTS)
def test_ops_refuse_numbers_out_of_range(op):
    """Functions never pass them."""
    call, (arguments, _) = ops.overload(op), operands(op, contiguous)
    for place, argument in enumerate(call._schema.arguments):
        for value in OUT_OF_RANGE.get(argument.name, ()):
            with pytest.raises(RuntimeError, match=rf"^{op}: {argument.name} (should|must|is out)"):
                call(*arguments[:place], value, *arguments[place + 1 :])


@pytest.mark.parametrize("op", [op for op in ARGUMENTS if op != "extremes"])
def test_ops_refuse_maps_without_elements(op):
    """Unless the batch is empty, or the map is the gradient of what an op may be asked to leave out."""
    call, (arguments, tensors) = ops.overload(op), operands(op, contiguous)
    for place, of, value in tensors:
        dims = {"weight": (0, 1, 2, 3), "grad_output": (1,)}.get(of, (1, 2, 3))
        for dim in dims if value.dim() == 4 else ():
            with pytest.raises(RuntimeError, match=rf"^{op}: .*\b{of}\b"):
                call(*arguments[:place], value.narrow(dim, 0, 0), *arguments[place + 1 :])


def test_ops_refuse_what_functions_never_pass():
    """Sizes and companions that do not fit, handed to the ops directly."""
    _, switches = own.max_pool2d(normal((2, 3, 4, 6)), 2, return_indices=True)
    codes, values, full, ops = switches.codes, normal((2, 3, 2, 3)), normal((2, 3, 4, 6)), torch.ops.segext
    two, one, zero, vast, weight = (2, 2), (1, 1), (0, 0), (2**62, 2**62), normal((3, 1, 2, 2))
    window, whole = (two, two, zero, one), (two, zero, one, False, True, True, True)
    classes = (normal((1, 257, 1, 1)), normal((257, 1, 1, 1)), None)

    def add(origin):
        return ops.depthwise_conv_transpose2d(values, weight, None, full, (4, 6), two, zero, one, origin, False)

    def enlarge(input_size, weight_size):
        x, kernel = ones(1, 1, 1, 1).expand(input_size), ones(1, 1, 1, 1).expand(weight_size)
        return ops.depthwise_conv_transpose2d(x, kernel, None, None, one, one, zero, one, zero, False)

    for message, call in (
        ("no dimension above 2147483647", lambda: enlarge((1, 1, 2**31, 1), (1, 1, 1, 1))),
        ("no dimension above 2147483647", lambda: enlarge((1, 1, 1, 1), (1, 2**31, 1, 1))),
        ("a map of [2, 3, 2, 3] by [4611", lambda: ops.switches_to_indices(codes, values.shape, vast, *window, False)),
        (
            "a batch, but got a map of shape [3, 2,",
            lambda: ops.max_unpool2d(values[0], codes[0], (4, 6), *window, True),
        ),
        (
            "input_size should be [2, 3]",
            lambda: ops.max_unpool2d_indices_backward(full, switches.indices(), two, False),
        ),
        ("of size [1, 3, 4, 6]", lambda: ops.depthwise_conv_transpose2d_backward(full[:1], values, weight, *whole)),
        ("of size [2, 2, 4, 6]", lambda: ops.depthwise_conv_transpose2d_backward(full[:, :2], values, weight, *whole)),
        ("should be 4D", lambda: ops.depthwise_conv_transpose2d_backward(full[:, :, 0], values, weight, *whole)),
        ("does not hold [2, 3, 4, 6] from [1, 0] on", lambda: add((1, 0))),
        ("does not hold [2, 3, 4, 6] from [0, 1] on", lambda: add((0, 1))),
        ("257", lambda: ops.depthwise_conv_transpose2d_argmax(*classes, one, one, zero, one, False, False)),
        ("from 1", lambda: ops.dense_conv_transpose2d(values, weight, None, (4, 0), two, zero, one, False)),
        ("from 1", lambda: ops.dense_conv_transpose2d(values, weight, None, (0, 6), two, zero, one, False)),
    ):
        with pytest.raises(RuntimeError, match=re.escape(message)):
            call()


@pytest.mark.parametrize("by_indices", [False, True])
@pytest.mark.parametrize(
    ("out", "error"),
    [
        (ones(2, 3, 4, 6, dtype=torch.float64), RuntimeError),
        (ones(2, 3, 4, 6, dtype=torch.int64), RuntimeError),
        (ones(2, 3, 4, 6, device="meta"), RuntimeError),
        (ones(2, 3, 4, 6).tolist(), TypeError),
        (ones(1).expand(2, 3, 4, 6), RuntimeError),
    ],
    ids=("float64", "int64", "meta", "list", "expanded"),
)
def test_out_that_does_not_fit(out, error, by_indices):
    x = normal((2, 3, 4, 6))
    values, switches = own.max_pool2d(x, 2, return_indices=True)
    with pytest.raises(error, match=r"\bout\b|written-to"):
        own.max_unpool2d(values, switches.indices() if by_indices else switches, 2, out=out)


@pytest.mark.parametrize("by_indices", [False, True])
def test_out_takes_no_part_in_autograd(by_indices):
    """As stock's out=."""
    values, indices = values_and_indices()
    values.requires_grad_()
    with pytest.raises(RuntimeError, match="automatic differentiation"):
        torch._C._nn.max_unpool2d(values, indices, (4, 6), out=ones(2, 3, 4, 6))
    switches = Switches.from_indices(indices, (4, 6), 2)
    with pytest.raises(RuntimeError, match=r"differentiation|grad"):
        own.max_unpool2d(values, indices if by_indices else switches, 2, out=ones(2, 3, 4, 6))


@pytest.mark.parametrize("corner", [False, True])
def test_out_that_overlaps_its_input(corner):
    """Values inside the map they are written to are read before they are overwritten, dense or not."""
    buffer = normal((2, 3, 4, 6))
    values, switches = own.max_pool2d(buffer, 2, return_indices=True)
    inside = buffer[:, :, :2, :3] if corner else buffer.view(-1)[: values.numel()].view(values.shape)
    inside.copy_(values)
    expected = own.max_unpool2d(values, switches)
    assert torch.equal(own.max_unpool2d(inside, switches, out=buffer), expected)


def test_out_that_overlaps_its_codes():
    values, switches = own.max_pool2d(normal((2, 3, 4, 6)), 2, return_indices=True)
    expected = own.max_unpool2d(values, switches)
    out = torch.zeros(2, 3, 4, 6)
    inside = out.view(-1).view(torch.uint8)[: switches.nbytes].view(switches.codes.shape).copy_(switches.codes)
    aliased = Switches(inside, switches.shape, switches.input_size, *switches.window)
    assert torch.equal(own.max_unpool2d(values, aliased, out=out), expected)


@pytest.mark.parametrize("strided", [False, True])
def test_out_that_a_backward_pass_needs(strided):
    """Writing to it is an in-place change that autograd sees."""
    values, switches = own.max_pool2d(normal((2, 3, 8, 8)), 2, return_indices=True)
    weight = torch.ones(2, 3, 8, 8, requires_grad=True)
    out = torch.ones(2, 3, 8, 16)[..., ::2] if strided else torch.ones(2, 3, 8, 8)
    product = (weight * out).sum()
    with torch.no_grad():
        own.max_unpool2d(values, switches, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("by_indices", [False, True])
def test_out_has_no_tangent(by_indices):
    values, switches = own.max_pool2d(normal((2, 3, 8, 8)), 2, return_indices=True)
    arguments = (switches.indices(), 2) if by_indices else (switches,)

    def unpool(x):
        return own.max_unpool2d(x, *arguments, out=torch.empty(2, 3, 8, 8))

    with pytest.raises(NotImplementedError, match="out="):
        torch.func.jvp(unpool, (values,), (values,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(values, values)
        with pytest.raises(NotImplementedError, match="out="):
            unpool(dual)


def test_products_refuse_forward_mode_over_forward_mode():
    """Autograd would drop the inner tangent of what they save, and give a wrong number."""
    x, weight = normal((1, 2, 5, 6), torch.float64), normal((2, 1, 4, 4), torch.float64)
    scale = torch.tensor(1.5, dtype=torch.float64)

    def scores(convolve):
        return lambda scale: convolve(x * scale, weight * scale, stride=2, groups=2).sum()

    with pytest.raises(NotImplementedError, match=r"conv_transpose2d: forward-mode .* Use jacfwd\(jacrev\(f\)\)"):
        torch.func.jacfwd(torch.func.jacfwd(scores(own.conv_transpose2d)))(scale)
    expected = torch.func.hessian(scores(stock.conv_transpose2d))(scale)
    torch.testing.assert_close(torch.func.hessian(scores(own.conv_transpose2d))(scale), expected)


def test_out_made_in_inference_mode():
    values, switches = own.max_pool2d(normal((2, 3, 8, 8)), 2, return_indices=True)
    with torch.inference_mode():
        out = torch.empty(2, 3, 8, 8)
        expected = own.max_unpool2d(values, switches)
        assert torch.equal(own.max_unpool2d(values, switches, out=out), expected)
    with pytest.raises(RuntimeError, match="inference tensor"):
        own.max_unpool2d(values, switches, out=out)


def test_bad_indices_on_cuda_are_an_exception(cuda):
    """No device assert: the context lives on."""
    values, indices = (tensor.to(cuda) for tensor in values_and_indices())
    for bad in (indices + 100, indices - 100, indices + 2**32):
        with pytest.raises(RuntimeError, match="4x6"):
            own.max_unpool2d(values, bad, 2)
    assert own.max_unpool2d(values, indices, 2).isfinite().all()


def test_switches_on_another_device(cuda):
    values, switches = own.max_pool2d(normal((2, 3, 4, 6)), 2, return_indices=True)
    with pytest.raises(RuntimeError, match="on the same device, but got cpu and cuda:0"):
        own.max_unpool2d(values.to(cuda), switches)


@pytest.mark.parametrize("name", ["unpool_conv2d", "unpool_conv_transpose2d"])
@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("Tensor", "; Switches.from_indices converts stock's indices"),
        ("list", ""),
    ],
)
def test_products_name_themselves_and_what_they_take(name, kind, hint):
    values, switches = own.max_pool2d(normal((1, 3, 4, 4)), 2, return_indices=True)
    wrong = switches.indices() if kind == "Tensor" else [switches]
    with pytest.raises(TypeError) as error:
        getattr(own, name)(values, wrong, normal((3, 3, 3, 3)))
    assert str(error.value) == f"{name}(): argument 'switches' must be segext.Switches, not {kind}{hint}"


def test_messages_name_functions_not_internal_ops():
    values, switches = own.max_pool2d(normal((1, 3, 4, 4)), 2, return_indices=True)
    expected = r"^max_unpool2d: elements in indices should be type int64 but got: torch\.int32$"
    with pytest.raises(RuntimeError, match=expected):
        own.max_unpool2d(values, switches.indices().int(), 2)


def test_messages_open_with_the_op():
    """Not with a place in segext's source, as those of torch's macro."""
    with pytest.raises(RuntimeError, match=r"^max_pool2d: stride should be greater than zero, but got \[0, 0\]$"):
        own.max_pool2d(ones(1, 4, 4), 2, 0)
    with pytest.raises(RuntimeError, match=r"^max_unpool2d: codes should be uint8, but got Long$"):
        torch.ops.segext.max_unpool2d(ones(1, 2, 2), ones(1).long(), (4, 4), 2, 2, 0, 1, False)
    expected = "codes of a pooled map of 4x5x2x3 and a 2x7 window should have shape [4, 15], but got [1]"
    with pytest.raises(RuntimeError, match=f"^max_unpool2d: {re.escape(expected)}$"):
        torch.ops.segext.max_unpool2d(ones(4, 5, 2, 3), ones(1).byte(), (4, 21), (2, 7), (2, 7), 0, 1, False)
    with pytest.raises(RuntimeError, match=r"^max_unpool2d: channels_last needs a batch, but got a map of"):
        torch.ops.segext.max_unpool2d(ones(1, 2, 2), ones(1).byte(), (4, 4), 2, 2, 0, 1, True)


@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("name", ["max_unpool2d", "max_pool2d_backward"])
def test_only_floating_types_move_by_switches(name, batch):
    """Forwards and backwards, also where there is nothing to move."""
    values, codes = torch.ones(batch, 3, 2, 3, dtype=torch.int32), torch.zeros(batch, 5, dtype=torch.uint8)
    full, window, ops = torch.ones(batch, 3, 4, 6, dtype=torch.int32), (2, 2, 0, 1, False), torch.ops.segext
    is_pool = name == "max_pool2d_backward"
    adjoint = "max_pool2d_double_backward" if is_pool else "max_unpool2d_backward"
    relu_output = (None,) * is_pool
    for op, source, size in ((name, values, (4, 6)), (adjoint, full, (2, 3))):
        with pytest.raises(RuntimeError, match=f"^\"{op}\" not implemented for 'Int'$"):
            getattr(ops, op)(source, codes, *relu_output, size, *window)


@pytest.mark.parametrize("height", [0, 4])
def test_only_floating_types_are_upsampled(height):
    """Also where there is no output."""
    x, weight = torch.ones(1, 3, 2, 3, dtype=torch.int32), torch.ones(3, 1, 2, 2, dtype=torch.int32)
    window, size, pixels = ((2, 2), (0, 0), (1, 1)), (height, 6), (1, height, 6)
    target, labels = torch.zeros(pixels, dtype=torch.int64), torch.zeros(pixels, dtype=torch.uint8)
    kept, needs = (torch.ones(*pixels, 2), labels), (False, True, True, True)
    name = "depthwise_conv_transpose2d"
    for op, arguments in (
        (name, (x, weight, None, None, size, *window, (0, 0), False)),
        (f"{name}_argmax", (x, weight, None, size, *window, False, False)),
        (f"{name}_backward", (torch.ones(1, 3, height, 6, dtype=torch.int32), x, weight, *window, *needs)),
        (f"{name}_cross_entropy", (x, weight, None, target, None, *window, -100, 0.0, False, True, True)),
        (
            f"{name}_cross_entropy_backward",
            (torch.ones(()), x, weight, None, None, *kept, *window, 0.0, *needs),
        ),
    ):
        with pytest.raises(RuntimeError, match=f"^\"{op}\" not implemented for 'Int'$"):
            getattr(torch.ops.segext, op)(*arguments)


def test_sizes_whose_product_wraps_around():
    """A file may say anything of its codes: their number must fit all the same."""
    height = (2**64 + 8) // 3
    switches = Switches(torch.zeros(1, 2, dtype=torch.uint8), (1, 3, height, 1), (2, 2), (2, 2), (2, 2), (0, 0), (1, 1))
    for use in (lambda: switches.to_memory_format(torch.channels_last), switches.indices):
        with pytest.raises(RuntimeError, match=r"^\w+: a map of .* has more elements than 64 bits count"):
            use()


@pytest.mark.parametrize(
    ("codes", "size", "kernel"), [((1, 0), (1, 2**30, 2**16, 2**16), 300), ((0, 0), (0, *[2**40] * 3), 2)]
)
def test_sizes_whose_bytes_wrap_around(codes, size, kernel):
    """Neither a code's bytes nor an empty batch make them fit."""
    switches = Switches(torch.zeros(codes, dtype=torch.uint8), size, (4, 4), *[(kernel,) * 2] * 2, (0, 0), (1, 1))
    for use in (lambda: switches.to_memory_format(torch.channels_last), switches.indices):
        with pytest.raises(RuntimeError, match=r"^\w+: a map of .* has more elements than 64 bits count"):
            use()


def test_sizes_of_a_result_that_wrap_around():
    values, codes = ones(1, 1, 2, 2), torch.zeros(1, 1, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match=r"^segext: a tensor of \[1, 1, 4.* has more elements than 64 bits count$"):
        torch.ops.segext.max_unpool2d(values, codes, (2**62, 2**62), (2, 2), (2, 2), (0, 0), (1, 1), False)


VAST = (2**24, 2**24)  # bytes beyond every address


@pytest.mark.parametrize("part", ["result", "copy of the input"])
def test_memory_that_there_is_not(part):
    """As stock's error: its type, and the words by which frameworks recognise it."""
    codes, window = torch.zeros(1, 1, dtype=torch.uint8), ((2, 2), (2, 2), (0, 0), (1, 1), False)
    call = {
        "result": lambda: torch.ops.segext.max_unpool2d(ones(1, 1, 2, 2), codes, VAST, *window),
        "copy of the input": lambda: torch.ops.segext.max_pool2d(ones(1, 1, 1, 1).expand(1, 1, *VAST), *window, False),
    }[part]
    with pytest.raises(Exception, match="DefaultCPUAllocator: can't allocate memory") as by_stock:
        torch.empty(1, 1, *VAST)
    with pytest.raises(by_stock.type, match="DefaultCPUAllocator: can't allocate memory") as by_own:
        call()
    assert by_own.type is by_stock.type
    assert str(by_own.value).startswith("segext: cannot allocate [1, 1, 16777216, 16777216] of Float on cpu: ")


def test_scratch_memory_that_there_is_not():
    """As it is raised on a thread of its own."""
    channels, gap = 2**16, (2**14, 2**14)
    x, weight = ones(1, channels, 1, 1), ones(channels, 1, 3, 3)
    with pytest.raises(MemoryError):
        torch.ops.segext.dense_conv_transpose2d(x, weight, None, (64, 64), (1, 1), (0, 0), gap, False)


OUT_OF_MEMORY = "segext: cannot allocate [4] of Float on cuda:0: CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.mark.parametrize("requires_grad", [True, False])
def test_cuda_memory_that_there_is_not(requires_grad, monkeypatch):
    """The op's own error, which can only be a RuntimeError, becomes torch's; others stay what they are."""
    x, weight = ones(1, 1, 2, 2, requires_grad=requires_grad), ones(1, 1, 2, 2)
    rest = (None, (4, 4), (2, 2), (0, 0), (1, 1), False)
    with pytest.raises(RuntimeError) as other:
        ops.dense_conv_transpose2d(x, weight, *rest[:2], (0, 0), *rest[3:])
    assert other.type is RuntimeError
    fail = Mock(side_effect=RuntimeError(OUT_OF_MEMORY))
    guard = torch._C._AutoDispatchBelowAutograd
    monkeypatch.setattr(torch._C, "_AutoDispatchBelowAutograd", lambda: fail() or guard())
    with pytest.raises(torch.OutOfMemoryError) as raised:
        ops.dense_conv_transpose2d(x, weight, *rest)
    assert (str(raised.value), fail.call_count) == (OUT_OF_MEMORY, 1)


def test_cuda_memory_that_there_is_not_without_derivatives():
    op = Mock(side_effect=RuntimeError(OUT_OF_MEMORY), _schema=ops.overload("extremes")._schema)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        undifferentiated(op)()
    assert str(raised.value) == OUT_OF_MEMORY
    op.side_effect = RuntimeError("segext: CUDA error: an illegal memory access was encountered")
    with pytest.raises(RuntimeError) as other:
        undifferentiated(op)()
    assert other.value is op.side_effect


FAR = 2**31 - 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dilation": (1, 10923)}, "weight is of size [1, 1, 4, 4] and dilation [1, 10923]"),
        ({"dilation": (10923, 1)}, "(kernel size - 1) * dilation should be at most 32768"),
        ({"dilation": (1, FAR)}, "weight is of size [1, 1, 4, 4] and dilation [1, 2147483647]"),
        ({"stride": (32769, 1)}, "stride should be two values from 1 to 32768, but got [32769, 1]"),
        ({"padding": (0, 32769)}, "padding should be two values from 0 to 32768, but got [0, 32769]"),
    ],
)
def test_kernels_that_reach_too_far(change, message):
    """The ops refuse them; functions leave them to stock."""
    x, weight, one, zero = ones(1, 1, 1, 1), ones(1, 1, 4, 4), (1, 1), (0, 0)
    stride, padding, dilation = ({"stride": one, "padding": zero, "dilation": one} | change).values()
    registered = torch.ops.segext
    with pytest.raises(RuntimeError, match=re.escape(message)):
        registered.dense_conv_transpose2d(x, weight, None, one, stride, padding, dilation, False)
    if padding != zero:
        return  # with a crop, it is an origin
    for op, before, after in (
        (registered.depthwise_conv_transpose2d, (None, None), (zero, False)),
        (registered.depthwise_conv_transpose2d_argmax, (None,), (False, False)),
    ):
        with pytest.raises(RuntimeError, match=re.escape(message)):
            op(x, weight, *before, one, stride, padding, dilation, *after)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("stride", [(10**7, 3), (3, 10**7), 10**7, 2**31 - 1])
def test_strides_far_larger_than_the_map(stride, memory_format):
    x = normal((2, 8, 5, 84)).contiguous(memory_format=memory_format)
    output, switches = own.max_pool2d(x, 3, stride, return_indices=True)
    expected, indices = stock.max_pool2d(x, 3, stride, return_indices=True)
    assert torch.equal(output, expected)
    assert torch.equal(switches.indices(), indices)
    values = output.requires_grad_()
    grad = normal(x.shape).contiguous(memory_format=memory_format)
    own.max_unpool2d(values, switches).backward(grad)
    assert torch.equal(values.grad, grad.flatten(2).gather(2, indices.flatten(2)).view_as(values))


def test_dilation_far_larger_than_the_map():
    """Only switches that no pool made have it; unpooling's gradient looks for other windows no further than the map."""
    codes = torch.randint(256, (1, 18), dtype=torch.uint8)
    switches = Switches(codes, (1, 3, 4, 3), (4, 12), (1, 16), (1, 1), (0, 0), (1, 2**31 - 1), True)
    values = normal((1, 3, 4, 3)).contiguous(memory_format=torch.channels_last).requires_grad_()
    own.max_unpool2d(values, switches).sum().backward()
    assert values.grad.isfinite().all()


def test_dilation_that_overflows_an_offset():
    """Sizes that only 64 bits hold are refused, not wrapped around."""
    for pool in ((2, 1, 0, 2**31), (2, 1, 0, 2**33), (2, 1, 0, 2**61), (2, 1, 0, (1, 2**62))):
        with pytest.raises(RuntimeError):
            own.max_pool2d(ones(1, 1, 5, 5), *pool)
    assert own.max_pool2d(ones(1, 1, 5, 5), 2, 2**31 - 1).shape == (1, 1, 1, 1)
    code = torch.tensor([[1, 2, 3, 4]], dtype=torch.uint8)
    assert torch.equal(torch.ops.segext.switches_repack(code, (1, 1, 1, 1), (2**31 - 1, 1), True), code)


@pytest.mark.parametrize("name", ["kernel_size", "stride", "padding"])
def test_windows_of_the_wrong_type_are_named(name):
    values, indices = stock.max_pool2d(normal((1, 2, 8, 8)), 2, return_indices=True)
    with pytest.raises(TypeError, match=f"{name}.*1.5"):
        own.max_unpool2d(values, indices, **{"kernel_size": 2} | {name: 1.5})
