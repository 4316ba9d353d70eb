"""FlopCounterMode counts of segext's ops what it counts of the stock ops they stand for."""

import pytest
import torch
import torch.nn.functional as stock
from samples import normal
from torch.utils.flop_counter import FlopCounterMode

import segext
import segext.flops  # registers what is counted
import segext.functional as own


def count(function, *tensors):
    """Of a call and, where a tensor requires a gradient, its backward."""
    with FlopCounterMode(display=False) as counter:
        result = function(*tensors)
        if result.requires_grad:
            result.sum().backward()
    assert counter.get_total_flops() > 0
    return counter.get_total_flops()


@pytest.mark.parametrize("trained", [(), (0,), (1,), (0, 1)], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("padding", [0, 1])
def test_unpooling_and_convolution(padding, transposed, trained):
    values, switches = own.max_pool2d(normal((2, 6, 9, 13)), 2, return_indices=True)
    weight = normal((6, 5, 3, 3) if transposed else (5, 6, 3, 3), seed=1)
    fused = own.unpool_conv_transpose2d if transposed else own.unpool_conv2d
    convolve = stock.conv_transpose2d if transposed else stock.conv2d
    tensors = [x.requires_grad_(k in trained) for k, x in enumerate((values, weight))]
    expected = count(lambda x, w: convolve(own.max_unpool2d(x, switches), w, padding=padding), *tensors)
    assert count(lambda x, w: fused(x, switches, w, padding=padding), *tensors) == expected


@pytest.mark.parametrize("trained", [(), (0,), (1,), (0, 1)], ids=str)
def test_dense_transposed_convolution(trained):
    tensors = [x.requires_grad_(k in trained) for k, x in enumerate((normal((2, 3, 9, 13)), normal((3, 17, 4, 4))))]
    assert segext.explain(own.conv_transpose2d, *tensors, stride=2).startswith("segext")
    assert count(lambda x, w: own.conv_transpose2d(x, w, stride=2), *tensors) == count(
        lambda x, w: stock.conv_transpose2d(x, w, stride=2), *tensors
    )


def test_upsampling_and_its_fusions():
    x, weight = normal((2, 5, 9, 13)).requires_grad_(), normal((5, 1, 4, 4))
    window = {"stride": 2, "groups": 5}
    target = torch.randint(0, 5, (2, 20, 28), generator=torch.Generator().manual_seed(0))

    def upsample(x):
        return stock.conv_transpose2d(x, weight, **window)

    forward = count(upsample, x.detach())
    assert count(lambda x: own.conv_transpose2d(x, weight, **window), x.detach()) == forward
    assert count(lambda x: own.conv_transpose2d_argmax(x, weight, **window), x.detach()) == forward
    expected = count(lambda x: stock.cross_entropy(upsample(x), target), x)
    assert expected == count(upsample, x) == 2 * forward
    assert count(lambda x: own.conv_transpose2d(x, weight, **window), x) == expected
    assert count(lambda x: own.conv_transpose2d_cross_entropy(x, weight, target, **window), x) == expected
    # Of the weight's gradient stock counts each product once for each channel.
    assert count(lambda x: own.conv_transpose2d(x, weight.requires_grad_(), **window), x) == 3 * forward


@pytest.mark.parametrize("name", ["deconvnet", "segnet"])
def test_networks(name):
    counts = {}
    for layers in ("torch", "segext"):
        model = getattr(segext.models, name)(5, width=1 / 16, layers=layers)
        counts[layers] = count(model, normal((2, 3, 224, 224)))
    assert counts["segext"] == counts["torch"]
