"""What is fused with a transposed convolution: crops, the sum with a skip, the label map. As reference and stock."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as stock
from samples import FLOATS, FORMATS, name, normal
from upsampling_samples import assert_near, inputs

import segext.functional as own
from segext import nn, reference


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("addend_layout", FORMATS, ids=name)
@pytest.mark.parametrize("groups", [6, 1])
def test_add(groups, addend_layout, layout, dtype):
    """FCN's skip connection; where channels mix, by its parts."""
    x = normal((2, 6, 7, 9), dtype)
    weight, bias = normal((6, 6 // groups, 4, 4), dtype, seed=1), normal((6,), dtype, seed=2)
    addend = addend_layout(normal((2, 6, 30, 40), dtype, seed=3))
    for size in ((11, 13), None):
        actual = own.conv_transpose2d_add(
            layout(x), weight, addend, bias, 2, groups=groups, crop=(1, 2), addend_crop=(5, 9), output_size=size
        )
        expected = reference.conv_transpose2d_add(
            *(t.double() for t in (x, weight, addend, bias)), 2, 0, 0, groups,
            crop=(1, 2), addend_crop=(5, 9), output_size=size or (15, 18),
        )  # fmt: skip
        assert_near(actual, expected, dtype, scale=2)


@pytest.mark.parametrize("shape", [(1, 8, 10), (1, 6, 8, 10), (2, 1, 8, 10)], ids=name)
def test_addends_that_broadcast(shape):
    x, weight, addend = normal((2, 6, 3, 4)), normal((6, 1, 4, 4)), normal(shape)
    actual = own.conv_transpose2d_add(x, weight, addend, stride=2, groups=6)
    torch.testing.assert_close(actual, stock.conv_transpose2d(x, weight, None, 2, groups=6) + addend)


def test_addends_that_do_not_fit():
    x, weight = normal((2, 6, 3, 4)), normal((6, 1, 4, 4))
    with pytest.raises(RuntimeError, match="size"):
        own.conv_transpose2d_add(x, weight, normal((2, 5, 8, 10)), stride=2, groups=6)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("classes", [1, 2, 21, 40])
@pytest.mark.parametrize(("scale", "crop", "size"), [(8, (31, 31), (41, 29)), (2, (0, 0), None), (3, (2, 5), (7, 1))])
def test_argmax(scale, crop, size, classes, layout, dtype):
    x, weight, bias = inputs(classes, 1, (9, 9), (2 * scale,), dtype)
    labels, scores = own.conv_transpose2d_argmax(
        layout(x), weight, bias, scale, groups=classes, crop=crop, output_size=size, return_scores=True
    )
    size = size or (10 * scale - crop[0], 10 * scale - crop[1])
    arguments = (x.double(), weight.double(), bias.double(), scale, 0, 0, classes)
    _, expected = reference.conv_transpose2d_argmax(*arguments, crop=crop, output_size=size)
    whole = reference.conv_transpose2d(*arguments)
    chosen = whole[..., crop[0] : crop[0] + size[0], crop[1] : crop[1] + size[1]].gather(1, labels.long()[:, None])[
        :, 0
    ]
    assert labels.dtype == torch.uint8
    assert scores.dtype == dtype
    assert_near(
        chosen, expected, torch.float64 if dtype is torch.float64 else torch.float32
    )  # the best, but for rounding
    assert_near(scores, expected, dtype)
    assert torch.equal(
        own.conv_transpose2d_argmax(layout(x), weight, bias, scale, groups=classes, crop=crop, output_size=size), labels
    )


def test_argmax_of_ties_and_nan():
    """The lowest class of several, the first NaN before every number: as torch.argmax."""
    x = torch.zeros(1, 4, 1, 8)
    x[0, :, 0, 1] = torch.tensor([1.0, 3, 3, 2])
    x[0, 2:, 0, 2] = float("nan")
    x[0, :, 0, 3] = -1
    x[0, :, 0, 4] = float("-inf")
    x[0, 3, 0, 5] = float("inf")
    weight = torch.ones(4, 1, 1, 1)
    labels = own.conv_transpose2d_argmax(x, weight, groups=4)
    assert torch.equal(labels.long(), x.argmax(1))
    assert labels.flatten().tolist() == [0, 1, 2, 0, 0, 3, 0, 0]


@pytest.mark.parametrize("classes", [256, 257])
def test_argmax_of_many_classes(classes):
    x, weight, _ = inputs(classes, 1, (2, 3), (2,), torch.float32, bias=False)
    x[0, -1, 0, 0], weight[-1] = 1e4, 1.0
    labels = own.conv_transpose2d_argmax(x, weight, stride=2, groups=classes)
    assert labels.dtype == (torch.uint8 if classes == 256 else torch.int64)
    assert labels[0, 0, 0] == classes - 1
    assert torch.equal(labels.long(), stock.conv_transpose2d(x, weight, None, 2, groups=classes).argmax(1))


def test_unbatched():
    x, weight, bias = inputs(5, 1, (3, 4), (4,))
    addend = normal((5, 8, 10), torch.float64)
    arguments = (bias, 2, 0, 0, 5)
    assert torch.equal(own.conv_transpose2d(x[0], weight, *arguments), own.conv_transpose2d(x, weight, *arguments)[0])
    assert torch.equal(
        own.conv_transpose2d_argmax(x[0], weight, *arguments), own.conv_transpose2d_argmax(x, weight, *arguments)[0]
    )
    actual = own.conv_transpose2d_add(x[0], weight, addend, *arguments)
    assert torch.equal(actual, own.conv_transpose2d_add(x[:1], weight, addend[None], *arguments)[0])
    one_wide = own.conv_transpose2d_argmax(x[0], weight, *arguments, output_size=(1, 1), return_scores=True)
    assert [tuple(result.shape) for result in one_wide] == [(1, 1), (1, 1)]


@pytest.mark.parametrize("groups", [5, 1])
@pytest.mark.parametrize(
    ("crop", "size"), [((-1, 0), None), ((0, 0), (9, 10)), ((3, 3), (6, 7)), ((0, 0), (0, 4)), ((8, 0), None)]
)
def test_crops_that_do_not_fit(crop, size, groups):
    x, weight, addend = normal((2, 5, 3, 4)), normal((5, 5 // groups, 4, 4)), normal((2, 5, 8, 10))
    with pytest.raises(ValueError, match=r"of a map of 8x10; see crop and output_size$"):
        own.conv_transpose2d_argmax(x, weight, stride=2, groups=groups, crop=crop, output_size=size)
    with pytest.raises(ValueError, match="crop"):
        own.conv_transpose2d_add(x, weight, addend, stride=2, groups=groups, crop=crop, output_size=size)
    with pytest.raises(ValueError, match=r"of a map of 8x10; see addend_crop and output_size$"):
        own.conv_transpose2d_add(x, weight, addend, stride=2, groups=groups, addend_crop=crop, output_size=size)


def fusions(groups=5):
    """Each as a function of where it crops to what, and the arguments that say so."""
    x, weight, addend = normal((2, 5, 3, 4)), normal((5, 5 // groups, 4, 4)), normal((2, 5, 8, 10))
    target = torch.zeros(2, 4, 4, dtype=torch.int64)
    window = {"stride": 2, "groups": groups}
    return (
        (partial(own.conv_transpose2d_add, x, weight, addend, **window), ("crop", "addend_crop", "output_size")),
        (partial(own.conv_transpose2d_argmax, x, weight, **window), ("crop", "output_size")),
        (partial(own.conv_transpose2d_cross_entropy, x, weight, target, **window), ("crop",)),
    )


@pytest.mark.parametrize("groups", [5, 1])
@pytest.mark.parametrize(
    "value", [2, np.int64(2), torch.tensor(2), (2, np.int32(2)), [2, 2], torch.Size((2, 2))], ids=str
)
def test_crops_and_sizes_are_an_int_or_two(value, groups):
    for call, names in fusions(groups):
        for argument in names:
            assert torch.equal(call(**{argument: value}), call(**{argument: (2, 2)}))


@pytest.mark.parametrize("groups", [5, 1])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (1.0, TypeError),
        ((1.0, 0), TypeError),
        ("12", TypeError),
        ({1: 2, 2: 1}, TypeError),
        (torch.tensor([1, 2]), TypeError),
        ((), ValueError),
        ((1,), ValueError),
        ((1, 1, 1), ValueError),
    ],
    ids=str,
)
def test_crops_and_sizes_of_another_kind_are_named(value, error, groups):
    for call, names in fusions(groups):
        for argument in names:
            with pytest.raises(error, match=f"^{argument} should be an int or a tuple of two ints, but got"):
                call(**{argument: value})


def test_modules_crop_by_an_int():
    x, addend, target = normal((2, 5, 3, 4)), normal((2, 5, 8, 10)), torch.zeros(2, 4, 6, dtype=torch.int64)
    for kind, names, tensors, size, pair in (
        (nn.ConvTranspose2dAdd, ("crop", "addend_crop"), (x, addend), (4,), ((4, 4),)),
        (nn.ConvTranspose2dArgmax, ("crop",), (x,), (4,), ((4, 4),)),
        (nn.ConvTranspose2dCrossEntropy, ("crop",), (x, target), (), ()),
    ):
        by_int, by_pair = (kind(5, 5, 4, 2, groups=5, **dict.fromkeys(names, crop)) for crop in (2, (2, 2)))
        by_pair.load_state_dict(by_int.state_dict())
        assert torch.equal(by_int(*tensors, *size), by_pair(*tensors, *pair))


@pytest.mark.parametrize("groups", [5, 1])
def test_addends_that_are_no_map(groups):
    x, weight = normal((2, 5, 3, 4)), normal((5, 5 // groups, 4, 4))
    for addend in (3.0, None, [[1.0]]):
        with pytest.raises(TypeError, match="argument 'addend' must be Tensor, not "):
            own.conv_transpose2d_add(x, weight, addend, stride=2, groups=groups)
    with pytest.raises(ValueError, match=r"addend should be a map, .* but got .*\(3,\)"):
        own.conv_transpose2d_add(x, weight, normal((3,)), stride=2, groups=groups)


@pytest.mark.parametrize("strict", [False, True])
def test_compiles_and_exports_crops_and_sizes_that_vary(strict):
    class Head(torch.nn.Module):
        def forward(self, x, weight, addend):
            height, width = x.shape[-2:]
            crops = {"crop": (height // 2, 1), "addend_crop": width // 2}
            size = addend.shape[-2] - 6, addend.shape[-1] - 6
            added = own.conv_transpose2d_add(x, weight, addend, stride=2, groups=5, **crops, output_size=size)
            return added, own.conv_transpose2d_argmax(x, weight, stride=2, groups=5, output_size=height)

    def arguments(height, width):
        return normal((2, 5, height, width)), normal((5, 1, 4, 4)), normal((2, 5, 2 * height, 2 * width))

    torch._dynamo.reset()
    compiled = torch.compile(Head(), fullgraph=True, dynamic=True, backend="aot_eager")
    height, width = torch.export.Dim("height", min=6, max=12), torch.export.Dim("width", min=6, max=10)
    shapes = {2: height, 3: width}, None, {2: 2 * height, 3: 2 * width}
    exported = torch.export.export(Head(), arguments(8, 9), dynamic_shapes=shapes, strict=strict).module()
    for size in ((8, 9), (12, 7)):
        given = arguments(*size)
        for run in (compiled, exported):
            for actual, expected in zip(run(*given), Head()(*given), strict=True):
                torch.testing.assert_close(actual, expected)
