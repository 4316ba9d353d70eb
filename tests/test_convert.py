"""``segext.convert``: the converted model returns what the model returned, and the report says what was done."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, SegNet, assert_same, image, types
from torch import nn

import segext
from segext.memory import Memory

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_gradients_and_state_are_the_same(name, training):
    model = NETWORKS[name]().train(training)
    before, kinds = copy.deepcopy(model), types(model)
    converted, report = segext.convert(model)
    assert types(model) == kinds, "the model itself must stay"
    assert report.changes
    assert isinstance(converted, type(model))
    assert [m.training for m in converted.modules()] == [training] * len(types(model))
    for mode in (training, not training):
        assert_same(before.train(mode), converted.train(mode), image())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["segnet", "functional", "vgg-inplace"])
def test_types_and_formats(name, dtype, memory_format):
    model = NETWORKS[name]().to(dtype).to(memory_format=memory_format).eval()
    converted, _ = segext.convert(model)
    assert_same(model, converted, image(dtype=dtype, memory_format=memory_format), grad=False)


@pytest.mark.parametrize("name", NETWORKS)
def test_converting_twice_changes_nothing(name):
    once, _ = segext.convert(NETWORKS[name]())
    twice, report = segext.convert(once)
    assert not report.swapped
    assert not report.fused
    assert [t.__name__ for t in types(once)] == [t.__name__ for t in types(twice)]
    assert_same(once, twice, image())


class OtherNames(nn.Module):
    """One function has two names."""

    def encode(self, x):
        return F.max_pool2d(F.relu(x - 1), 2)

    forward = encode


def test_a_method_with_two_names_is_rewritten_under_both():
    model = OtherNames()
    converted, report = segext.convert(model)
    assert len(report.fused) == 1
    assert type(converted).encode is type(converted).forward
    assert_same(model, pickle.loads(pickle.dumps(converted)), image())


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_and_pickles(name):
    model = NETWORKS[name]().eval()
    converted, _ = segext.convert(model)
    assert_same(model, copy.deepcopy(converted), image())
    assert_same(model, pickle.loads(pickle.dumps(converted)), image())
    file = io.BytesIO()
    torch.save(converted, file)
    file.seek(0)
    assert_same(model, torch.load(file, weights_only=False), image())


def test_classes_made_in_functions_are_freed():
    """With all that their methods hold; until then two models of one class become one class, as do their copies."""

    def make():
        offset = torch.ones(1)

        class Net(nn.Module):
            def forward(self, x):
                return F.max_pool2d(x + offset, 2)

            def unchanged(self, x):
                return x * offset

        (model, _), (other, _) = segext.convert(Net()), segext.convert(Net())
        assert type(model) is not Net
        assert type(model) is type(other) is type(copy.deepcopy(model))
        assert torch.equal(model(image()), Net()(image()))
        return [weakref.ref(held) for held in (Net, type(model), Net.forward, Net.unchanged, offset)]

    held = make()
    gc.collect()
    assert [ref() for ref in held] == [None] * len(held)


@pytest.mark.parametrize("name", ["segnet", "functional", "vgg-inplace", "enet"])
def test_compiles_as_one_graph(name):
    torch._dynamo.reset()
    model = NETWORKS[name]().eval()
    converted, _ = segext.convert(model)
    compiled = torch.compile(converted, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image()), model(image()))


# --- The call itself --------------------------------------------------------------------------------------------------


def test_report_is_a_table():
    _, report = segext.convert(SegNet())
    lines = str(report).splitlines()
    assert lines[0] == "segext.convert: 0 swapped, 4 fused, 0 left"
    assert " ".join(lines[3].split()) == "fused unpool + dec2.0 nn.MaxUnpool2d + nn.Conv2d -> segext.nn.UnpoolConv2d"
    assert str(segext.convert(nn.Linear(2, 2))[1]) == "segext.convert: 0 swapped, 0 fused, 0 left"


def test_weights_that_kernels_read_are_packed_if_asked():
    model = NETWORKS["segnet"]().eval()
    plain, report = segext.convert(model)
    packed, same = segext.convert(model, prepack=True)
    assert same == report
    layers = [layer for layer in packed.modules() if isinstance(layer, segext.nn.Prepackable)]
    fused = [change for change in report.fused if "Unpool" in change.after]
    assert len(layers) == len(fused) > 0
    assert all("packed_weight" in layer._buffers for layer in layers)
    assert any(layer.packed_weight is not None for layer in layers)
    assert list(packed.state_dict()) == list(model.state_dict())
    x = image()
    torch.testing.assert_close(packed(x), plain(x), rtol=0, atol=0)


def test_an_example_tells_the_bytes_saved():
    """Of convolution, ReLU and pool, stock keeps the rectified map and int64 indices; the pool alone keeps its own
    output and switches."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)).requires_grad_()
    x = image(2, 3, 16, 24)
    rectified, pooled = 2 * 8 * 16 * 24, 2 * 8 * 8 * 12
    for example in (x, (x,)):
        _, report = segext.convert(model, example=example)
        assert report.before == Memory(4 * rectified + 8 * pooled, 8 * pooled)
        assert report.after == Memory(4 * pooled + pooled // 4, pooled // 4)
    assert str(report).splitlines()[-2:] == [
        "  bytes kept for backward: 36,864 -> 6,528",
        "  bytes of switches: 12,288 -> 384",
    ]
    assert segext.convert(model)[1].before is None


@pytest.mark.parametrize("name", ["enet", "unet", "segnet"])
@pytest.mark.parametrize("inplace", [False, True])
def test_networks_in_published_style_keep_less(name, inplace):
    """And measuring leaves no trace: state dict, gradients and results are as without it."""
    model = NETWORKS[name]()
    before = copy.deepcopy(model)
    converted, report = segext.convert(model, inplace=inplace, example=image())
    assert report.after.kept < report.before.kept
    assert report.after.switches <= report.before.switches / 16
    assert all(parameter.grad is None for parameter in converted.parameters())
    torch.testing.assert_close(dict(converted.state_dict()), dict(before.state_dict()), rtol=0, atol=0)
    assert_same(before, converted, image())


@pytest.mark.parametrize("name", ["vgg", "segnet", "enet"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_mode_around_the_call_changes_nothing(mode, name):
    """Neither the report nor that the copy can be trained."""
    model = NETWORKS[name]()
    _, expected = segext.convert(model, example=image())
    with mode():
        converted, report = segext.convert(model, example=image(), prepack=True)
    assert report == expected
    assert_same(model, converted, image())


@pytest.mark.parametrize("inplace", [False, True])
def test_models_made_in_inference_mode(inplace):
    """A copy can be trained, as one of ``copy.deepcopy`` can be."""
    with torch.inference_mode():
        model, x = SegNet().eval(), image()
        expected = model(x)
    normal = copy.deepcopy(model)
    converted, report = segext.convert(model, example=x, inplace=inplace)
    assert report == segext.convert(normal, example=image())[1]
    with torch.inference_mode():
        torch.testing.assert_close(converted(x), expected, rtol=1e-3, atol=1e-3)
    if not inplace:
        assert_same(normal, converted, image())


def test_layers_of_segext_are_no_subclasses_to_be_left():
    assert not segext.convert(segext.models.deconvnet(2, width=1 / 64))[1].left


@pytest.mark.parametrize("model", [None, [nn.MaxPool2d(2)], nn.MaxPool2d])
def test_refuses_what_is_not_a_module(model):
    with pytest.raises(TypeError, match=f"must be a torch.nn.Module, but got {type(model).__name__}"):
        segext.convert(model)


def test_an_example_is_a_tensor_or_a_tuple_of_arguments():
    with pytest.raises(TypeError, match=r"^segext\.convert: example must be a tensor, or a tuple of .*, but got list$"):
        segext.convert(torch.nn.Conv2d(3, 3, 3), example=[image()])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("how", [{}, {"example": image()}, {"inplace": True, "example": image()}])
def test_a_model_that_cannot_be_copied_is_converted_in_place(how):
    """As those with ``nn.utils.weight_norm``, whose weights autograd made."""
    model = nn.Sequential(nn.utils.weight_norm(nn.ConvTranspose2d(3, 4, 2, 2)), nn.ReLU(), nn.MaxPool2d(2))
    expected = model(image())
    with pytest.raises(RuntimeError, match=r"^segext\.convert: the model cannot be copied; .* inplace=True .* Only "):
        segext.convert(model, **how)
    assert torch.equal(model(image()), expected)
    _, report = segext.convert(model, inplace=True)
    assert len(report.fused) == len(report.swapped) == 1
    torch.testing.assert_close(model(image()), expected)
