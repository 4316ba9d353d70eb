"""What explain says of fused calls and of what it cannot explain; tests of each kernel have what it says of those."""

import pytest
import torch
from samples import normal

import segext.functional as own
from segext import explain

SCORES, FILTERS = normal((2, 3, 5, 6), torch.float32), normal((3, 1, 4, 4), torch.float32)
DENSE = normal((3, 21, 4, 4), torch.float32)
TARGET = torch.zeros(2, 12, 14, dtype=torch.long)
UPSAMPLING = {"stride": 2, "groups": 3}


def launched(function, *arguments, **keywords):
    """The names of segext's ops that a call runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function(*arguments, **keywords)
    return {event.name for event in profile.events() if event.name.startswith("segext::")}


@pytest.mark.parametrize(
    ("function", "given", "op"),
    [
        (own.conv_transpose2d_add, (normal((2, 3, 12, 14), torch.float32),), "depthwise_conv_transpose2d"),
        (own.conv_transpose2d_argmax, (), "depthwise_conv_transpose2d_argmax"),
        (own.conv_transpose2d_cross_entropy, (TARGET,), "depthwise_conv_transpose2d_cross_entropy"),
    ],
)
def test_fusions(function, given, op):
    why = explain(function, SCORES, FILTERS, *given, **UPSAMPLING)
    assert why.startswith("segext: channels do not mix")
    assert "fused with crop and" in why
    assert launched(function, SCORES, FILTERS, *given, **UPSAMPLING) == {f"segext::{op}"}


@pytest.mark.parametrize(
    ("function", "given", "after"),
    [
        (own.conv_transpose2d_add, (normal((2, 21, 12, 14), torch.float32),), "crop and sum"),
        (own.conv_transpose2d_argmax, (), "crop and argmax"),
        (own.conv_transpose2d_cross_entropy, (TARGET,), "crop and cross_entropy"),
    ],
)
def test_compositions(function, given, after):
    convolution = explain(own.conv_transpose2d, SCORES, DENSE, stride=2)
    why = explain(function, SCORES, DENSE, *given, stride=2)
    assert why == f"conv_transpose2d, then {after}: the convolution is {convolution}"
    assert launched(function, SCORES, DENSE, *given, stride=2) == launched(
        own.conv_transpose2d, SCORES, DENSE, stride=2
    )


@pytest.mark.parametrize("function", [own.max_pool2d, torch.nn.functional.conv2d, "conv_transpose2d", None, []])
def test_other_functions(function):
    with pytest.raises(
        TypeError, match=r"^explain\(\): function should be one of segext\.functional's conv_transpose2d,"
    ):
        explain(function, SCORES, FILTERS)


def test_arguments_are_those_of_the_function():
    with pytest.raises(TypeError, match="missing a required argument: 'weight'"):
        explain(own.conv_transpose2d, SCORES)
    with pytest.raises(TypeError, match="unexpected keyword argument 'crop'"):
        explain(own.conv_transpose2d, SCORES, FILTERS, crop=1)
    with pytest.raises(TypeError, match=r"^conv_transpose2d\(\): argument 'weight' must be Tensor, not list$"):
        explain(own.conv_transpose2d, SCORES, [1])
    with pytest.raises(
        TypeError, match=r"^unpool_conv2d\(\): argument 'switches' must be segext\.Switches, not Tensor"
    ):
        explain(own.unpool_conv2d, SCORES, SCORES, DENSE)
