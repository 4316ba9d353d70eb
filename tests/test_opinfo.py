"""PyTorch's own samples for max_pool2d and max_unpool2d, op_db's, as an oracle for segext's functions."""

import pytest
import torch
from samples import FLOATS, INTEGERS, Pool, assert_same, name, normal

import segext.functional as own
from segext import reference

# Where indices name a pixel twice, stock's threads race.
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def op_infos():
    """The entries of op_db that segext has counterparts for, by name and variant."""
    from torch.testing._internal.common_methods_invocations import op_db

    wanted = ("nn.functional.max_pool2d", "nn.functional.max_unpool2d")
    return {(op.name.rsplit(".")[-1], op.variant_test_name): op for op in op_db if op.name in wanted}


def legal_indices(sample, indices):
    """Stock's indices with -1 for windows wholly in the padding, for which stock's lie outside the map."""
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    pool = Pool(**{key: value for key, value in sample.kwargs.items() if key in names})
    _, taps = reference.max_pool2d(sample.input, *pool)
    return indices.masked_fill_(reference.tap_indices(taps, sample.input.shape[-2:], *pool.window) < 0, -1)


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS, ids=name)
def test_max_pool2d(op_infos, dtype):
    op, seen = op_infos["max_pool2d", ""], 0
    for sample in op.sample_inputs("cpu", dtype):
        actual = own.max_pool2d(sample.input, *sample.args, **sample.kwargs)
        expected = op(sample.input, *sample.args, **sample.kwargs)
        if sample.kwargs.get("return_indices"):
            (actual, switches), (expected, indices) = actual, expected
            assert_same(switches.indices(), legal_indices(sample, indices), strides=True)
        assert_same(actual, expected, strides=True)
        seen += 1
    assert seen >= 1440


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("variant", ["", "grad"])
def test_max_unpool2d(op_infos, variant, dtype):
    op, seen = op_infos["max_unpool2d", variant], 0
    for sample in op.sample_inputs("cpu", dtype):
        actual = own.max_unpool2d(sample.input, *sample.args, **sample.kwargs)
        assert_same(actual, op(sample.input, *sample.args, **sample.kwargs), strides=True)
        seen += 1
    assert seen >= (20 if variant else 288)


@pytest.mark.parametrize(("operator", "variant"), [("max_pool2d", ""), ("max_unpool2d", "grad")])
def test_gradients(op_infos, operator, variant):
    """Of the first output, for every sample whose derivative stock has right."""
    op, function = op_infos[operator, variant], getattr(own, operator)
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=True):
        gradients = []
        for call in (function, op):
            output = call(sample.input, *sample.args, **sample.kwargs)
            output = output[0] if isinstance(output, tuple) else output
            gradients += torch.autograd.grad(output, sample.input, normal(output.shape, torch.float64))
        torch.testing.assert_close(*gradients)


def test_gradcheck_of_unpooling(op_infos):
    for sample in op_infos["max_unpool2d", "grad"].sample_inputs("cpu", torch.float64, requires_grad=True):

        def function(values, sample=sample):
            return own.max_unpool2d(values, *sample.args, **sample.kwargs)

        assert torch.autograd.gradcheck(function, sample.input)
        assert torch.autograd.gradgradcheck(function, sample.input)


@pytest.mark.parametrize(("operator", "count"), [("max_pool2d", 7), ("max_unpool2d", 1)])
def test_errors(op_infos, operator, count):
    """Same exception type as stock for the inputs that PyTorch wants refused."""
    op, function, seen = op_infos[operator, ""], getattr(own, operator), 0
    for error in op.error_inputs("cpu"):
        sample = error.sample_input
        with pytest.raises(Exception) as by_stock:  # noqa: PT011 - its type is what is asked for
            op(sample.input, *sample.args, **sample.kwargs)
        with pytest.raises(by_stock.type) as by_own:
            function(sample.input, *sample.args, **sample.kwargs)
        assert by_own.type is by_stock.type
        seen += 1
    assert seen >= count
