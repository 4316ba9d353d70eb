"""Export to ONNX: what ONNX Runtime computes is what eager PyTorch does, by operators of the ONNX standard alone."""

import sys
from collections import Counter

import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from narrow_models import image, narrow, size_for
from samples import POOLS, Pool, assert_same, normal
from torch import nn

import segext
import segext.functional as own
import segext.onnx
from segext.models.base import label_map

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.usefixtures("one_thread"),
]

VARIES = {0: "batch", 2: "height", 3: "width"}


class Exported:
    """A network in ONNX, run by ONNX Runtime on one thread."""

    def __init__(self, model, *args, **options):
        model = model.eval() if isinstance(model, nn.Module) else model
        self.program = segext.onnx.export(model, args, verbose=False, **options)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.program.model_proto.SerializeToString(), settings)

    def __call__(self, *inputs):
        names = (argument.name for argument in self.session.get_inputs())
        results = self.session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        return [torch.from_numpy(result) for result in results]

    def operators(self):
        """Names of the operators, all of which must be the standard's."""
        model = self.program.model_proto
        assert not model.functions
        assert {node.domain for node in model.graph.node} == {""}
        return [node.op_type for node in model.graph.node]


def agree(actual, expected, *, tolerance=1e-5):
    """The same up to rounding, which is measured against the whole map."""
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * expected.abs().max().item())


def labels_agree(actual, expected, scores):
    """The same labels, but where the two best scores are the same up to rounding."""
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    assert len(expected.unique()) > 1
    best = scores.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 1e-4 * scores.abs().max()
    wrong = actual != expected
    assert not (wrong & clear).any()
    assert wrong.float().mean() < 0.01


def test_every_op_has_a_form_but_those_of_training_and_out():
    ops = {name.removeprefix("segext::") for name in torch._C._dispatch_get_all_op_names() if "segext::" in name}
    forms = {op.name().removeprefix("segext::") for op in segext.onnx._FORMS}
    without = {op for op in ops if "backward" in op or "cross_entropy" in op or op.endswith("_out")}
    assert ops - forms == {*without, "extremes", "unpool_conv2d_pack"}


# ---- Pools and unpooling ---------------------------------------------------------------------------------------------


class ThereAndBack(nn.Module):
    """What each pool gives; its map unpooled, by switches and by indices; and the indices."""

    def __init__(self, pools, functions=(own.max_pool2d,)):
        super().__init__()
        self.pools = pools
        self.functions = functions

    def forward(self, x):
        results = []
        for pool in self.pools:
            for function in self.functions:
                values, switches = function(x, *pool, return_indices=True)
                indices = switches.indices()
                by_indices = torch.ops.segext.max_unpool2d_indices(values, indices, x.shape[-2:], False)
                results += [values, own.max_unpool2d(values + 9, switches), by_indices, indices]
        return results


def with_ties(*shape, seed=0):
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()


def test_pools_and_unpooling():
    """Equal to the bit for every window, ties included; of elements that name one pixel the last stays."""
    x = with_ties(2, 3, 20, 23)
    for actual, expected in zip(Exported(ThereAndBack(POOLS), x)(x), ThereAndBack(POOLS)(x), strict=True):
        assert_same(actual, expected)


@pytest.fixture(scope="module")
def pools_of_any_size():
    pools = Pool(2, ceil_mode=True), Pool(3, 2, 1), Pool(2, 3, 1, 3, ceil_mode=True)
    model = ThereAndBack(pools, (own.max_pool2d, own.relu_max_pool2d))
    return model, Exported(model, with_ties(1, 3, 20, 23), dynamic_shapes=(VARIES,))


@given(st.integers(1, 3), st.integers(5, 31), st.integers(5, 31), st.integers(0, 2**16))
def test_sizes_that_vary(pools_of_any_size, batch, height, width, seed):
    model, exported = pools_of_any_size
    x = with_ties(batch, 3, height, width, seed=seed)
    for actual, expected in zip(exported(x), model(x), strict=True):
        assert_same(actual, expected)


def test_pools_become_one_node_each_way():
    """The indices of MaxPool go to MaxUnpool as they are."""
    model = Exported(Autoencoder(Pool(3, 2, 1)), with_ties(1, 2, 7, 9))
    assert sorted(model.operators()) == ["MaxPool", "MaxUnpool"]


class Autoencoder(nn.Module):
    """A pool and the unpooling that mirrors it."""

    def __init__(self, pool):
        super().__init__()
        self.pool = pool

    def forward(self, x):
        return own.max_unpool2d(*own.max_pool2d(x, *self.pool, return_indices=True))


@pytest.mark.parametrize("varies", [False, True])
def test_pools_larger_than_their_input(varies):
    """Padding may leave more elements than there were pixels."""
    model = ThereAndBack([Pool(2, 1, 1), Pool((1, 4), 1, (0, 2))])
    exported = Exported(model, with_ties(2, 3, 6, 7), **({"dynamic_shapes": (VARIES,)} if varies else {}))
    x = with_ties(1, 3, 5, 9) if varies else with_ties(2, 3, 6, 7)
    for actual, expected in zip(exported(x), model(x), strict=True):
        assert_same(actual, expected)


def test_one_map_without_a_batch():
    x = with_ties(3, 7, 9)
    for actual, expected in zip(Exported(ThereAndBack(POOLS[:2]), x)(x), ThereAndBack(POOLS[:2])(x), strict=True):
        assert_same(actual, expected)


SELECTIONS = {
    "first": lambda x: x[:1],
    "rest": lambda x: x[1:],
    "last": lambda x: x[-1],
    "every other": lambda x: x[::2],
    "reordered": lambda x: x[torch.tensor([2, 0])],
}


class Selecting(nn.Module):
    """Samples of a pool's map, unpooled by their switches, which are returned as well; and the whole map."""

    def __init__(self, select):
        super().__init__()
        self.select = select

    def forward(self, x):
        values, switches = own.max_pool2d(x, 3, 2, 1, return_indices=True)
        some, its_switches = self.select(values), self.select(switches)
        return own.max_unpool2d(some, its_switches), its_switches.indices(), own.max_unpool2d(values, switches)


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("varies", [False, True])
def test_switches_of_selected_samples(name, varies):
    model = Selecting(SELECTIONS[name])
    exported = Exported(model, with_ties(3, 2, 7, 9), **({"dynamic_shapes": (VARIES,)} if varies else {}))
    x = with_ties(5, 2, 8, 13) if varies else with_ties(3, 2, 7, 9)
    for actual, expected in zip(exported(x), model(x), strict=True):
        assert_same(actual, expected)


def test_only_selected_switches_take_further_nodes():
    exported = Exported(Selecting(lambda x: x[1:]), with_ties(3, 2, 7, 9))
    counts = Counter(exported.operators())
    assert (counts["MaxPool"], counts["MaxUnpool"], counts["Add"]) == (1, 2, 1)


class ElsewhereByIndices(nn.Module):
    """A map unpooled by indices into one that is larger than the pool's."""

    def forward(self, x):
        values, switches = own.max_pool2d(x, 2, return_indices=True)
        return nn.functional.max_unpool2d(values, switches.indices(), 2, output_size=(9, 9))


def test_indices_into_a_map_of_another_size():
    x = with_ties(2, 3, 8, 8)
    assert_same(Exported(ElsewhereByIndices(), x)(x)[0], ElsewhereByIndices()(x))


class Moving(nn.Module):
    """Switches moved to the device of the map that they unpool, as code for several devices does."""

    def forward(self, x):
        values, switches = own.max_pool2d(x, 2, return_indices=True)
        switches = switches.to(values.device)
        return own.max_unpool2d(values, switches), switches


def test_switches_moved_to_their_own_device():
    x = with_ties(2, 3, 8, 9)
    unpooled, indices = Exported(Moving(), x)(x)
    expected, switches = Moving()(x)
    assert_same(unpooled, expected)
    assert_same(indices, switches.indices())


class FromIndices(nn.Module):
    """Stock's indices as switches, which unpool a map and are returned."""

    def forward(self, x, indices):
        height, width = x.shape[-2:]
        switches = segext.Switches.from_indices(indices, (2 * height, 2 * width), 2)
        return own.max_unpool2d(x, switches), switches


@pytest.mark.parametrize("batch", [(), (2,)])
def test_switches_from_indices(batch):
    arguments = nn.functional.max_pool2d(with_ties(*batch, 3, 8, 10), 2, return_indices=True)
    axes = {len(batch) + 1: torch.export.Dim.DYNAMIC, len(batch) + 2: torch.export.Dim.DYNAMIC}
    exported = Exported(FromIndices(), *arguments, dynamic_shapes=(axes, axes))
    values, indices = nn.functional.max_pool2d(with_ties(*batch, 3, 12, 6), 2, return_indices=True)
    unpooled, returned = exported(values, indices)
    assert_same(unpooled, FromIndices()(values, indices)[0])
    assert_same(returned, indices)


class TwoFormats(nn.Module):
    """Switches of a channels_last map that unpool one in NCHW."""

    def forward(self, x):
        values, switches = own.max_pool2d(x.contiguous(memory_format=torch.channels_last), 2, return_indices=True)
        return own.max_unpool2d(values.contiguous(), switches), switches.indices()


def test_memory_formats():
    x = with_ties(2, 3, 6, 9)
    for actual, expected in zip(Exported(TwoFormats(), x)(x), TwoFormats()(x), strict=True):
        assert_same(actual, expected)


EXAMPLES = {
    "a slice": with_ties(2, 4, 12, 13).contiguous(memory_format=torch.channels_last)[:, :3, 1:-1, 1:-1],
    "one window": with_ties(2, 3, 8, 3),
}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("from_program", [False, True])
def test_of_an_example_only_sizes_matter_that_do_not_vary(name, from_program):
    model, x = Autoencoder(Pool(3, 1)), EXAMPLES[name]
    axes = dict.fromkeys(VARIES, torch.export.Dim.DYNAMIC)
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):
        program = torch.export.export(model, (x,), dynamic_shapes=(axes,)) if from_program else None
    exported = Exported(program) if from_program else Exported(model, x, dynamic_shapes=(VARIES,))
    for x in (EXAMPLES[name].contiguous(), with_ties(1, 3, 7, 9)):
        assert_same(exported(x)[0], model(x))


class Encoder(nn.Module):
    """Switches among the results, beside maps and inside a list, one of them twice."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)  # the new value precedes the results in an exported program
        values, switches = own.relu_max_pool2d(x, 3, 2, 1, return_indices=True)
        return [switches, values], own.max_unpool2d(values, switches), switches, own.max_pool2d(x, 2, 3)


def with_indices(results):
    """The results of :class:`Encoder` as ONNX has them."""
    (switches, values), *rest = results
    return [x.indices() if isinstance(x, segext.Switches) else x for x in (switches, values, *rest)]


@pytest.mark.parametrize("shape", [(2, 3, 8, 9), (3, 8, 9)])
@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.parametrize("from_program", [False, True])
def test_switches_that_a_network_returns_become_indices(shape, varies, from_program):
    model, x = Encoder().eval(), with_ties(*shape)
    axes = dict.fromkeys([dim for dim in range(len(shape)) if shape[dim] != 3], torch.export.Dim.DYNAMIC)
    sizes = {"dynamic_shapes": (axes,)} if varies else {}
    exported = Exported(torch.export.export(model, (x,), **sizes)) if from_program else Exported(model, x, **sizes)
    other = with_ties(*(size if size == 3 else size + 3 * varies for size in shape))
    for actual, expected in zip(exported(other), with_indices(model(other)), strict=True):
        assert_same(actual, expected)


def test_a_pool_s_indices_take_two_nodes():
    x = with_ties(1, 3, 8, 9)
    exported = Exported(segext.nn.MaxPool2d(2, return_indices=True), x, output_names=["values", "indices"])
    assert exported.operators() == ["MaxPool", "Mod"]
    assert [output.name for output in exported.session.get_outputs()] == ["values", "indices"]


# ---- Transposed convolutions and fusions -----------------------------------------------------------------------------


class Upsampling(nn.Module):
    """Transposed convolutions, by segext's kernels and by stock's, and their fusions."""

    def __init__(self):
        super().__init__()
        sizes = {"each": (6, 1, 4, 4), "twice": (6, 2, 5, 3), "wide": (6, 1, 16, 16), "all": (6, 5, 3, 3)}
        for name, size in sizes.items():
            self.register_buffer(name, normal(size))
        self.register_buffer("bias", normal((12,)))

    def forward(self, x, skip):
        one_pixel = x[..., :1, :1]
        return [
            own.conv_transpose2d(x, self.wide, None, 8, 4, 0, 6),
            own.conv_transpose2d(x, self.twice, self.bias, 4, (0, 1), (3, 2), 6),
            own.conv_transpose2d(x, self.all, self.bias[:5], 2, 1, 1),
            own.conv_transpose2d(x, self.all, None, (3, 2), 0, (2, 1), 1, 2),
            own.conv_transpose2d(one_pixel, self.all, self.bias[:5], 2, 1),
            own.conv_transpose2d(x, self.twice, self.bias[:4], 2, 1, 1, 2),
            own.conv_transpose2d_add(x, self.each, skip, self.bias[:6], 2, groups=6, crop=(1, 0), addend_crop=(2, 3)),
            own.conv_transpose2d_add(x, self.all, skip[:, :5], None, 2, 1),
        ]


class Labelling(nn.Module):
    """Label maps of upsampled scores, and their largest scores; and the scores that are nowhere stored."""

    def __init__(self):
        super().__init__()
        self.register_buffer("each", normal((6, 1, 16, 16)))
        self.register_buffer("twice", normal((6, 2, 5, 3)))

    def forward(self, x):
        height, width = x.shape[-2:]
        part = {"crop": (4, 3), "output_size": (8 * height, 8 * width)}
        scores = own.conv_transpose2d(x, self.each, stride=8, groups=6)[..., 4 : 8 * height + 4, 3 : 8 * width + 3]
        past_the_taps = {"stride": 4, "output_padding": 2, "groups": 6}
        two_groups = {"stride": 2, "groups": 2}
        more = [own.conv_transpose2d(x, self.twice, **past_the_taps)[..., 1:, 1:]]
        more += [own.conv_transpose2d(x, self.twice, **two_groups)]
        labels = own.conv_transpose2d_argmax(x, self.each, stride=8, groups=6, **part, return_scores=True)
        labels += (own.conv_transpose2d_argmax(x, self.twice, crop=(1, 1), **past_the_taps),)
        labels += (own.conv_transpose2d_argmax(x, self.twice, **two_groups),)
        return *labels, scores, *more


def test_transposed_convolutions():
    model = Upsampling()
    varies = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    exported = Exported(model, normal((2, 6, 17, 18)), normal((2, 6, 40, 44)), dynamic_shapes=(varies, varies))
    assert exported.operators().count("ConvTranspose") == 7
    for shape, skip_shape in (((2, 6, 17, 18), (2, 6, 40, 44)), ((1, 6, 20, 23), (1, 6, 60, 52))):
        x, skip = normal(shape), normal(skip_shape)
        for actual, expected in zip(exported(x, skip), model(x, skip), strict=True):
            agree(actual, expected)


def test_labels_of_upsampled_scores():
    model = Labelling()
    exported = Exported(model, normal((2, 6, 17, 18)), dynamic_shapes=(VARIES,))
    assert "ArgMax" in exported.operators()
    for shape in ((2, 6, 17, 18), (1, 6, 5, 9)):
        x = normal(shape)
        labels, best, past, grouped, *_ = exported(x)
        expected, expected_best, expected_past, expected_grouped, *scores = model(x)
        agree(best, expected_best)
        for one, other, of in zip(
            (labels, past, grouped), (expected, expected_past, expected_grouped), scores, strict=True
        ):
            labels_agree(one, other, of)


class Skip(nn.Module):
    """A sum of all that an upsampled map and another both cover, whose sizes vary and take part in further sums."""

    def __init__(self, output_padding):
        super().__init__()
        self.register_buffer("each", normal((3, 1, 4, 4)))
        self.output_padding = output_padding

    def forward(self, x, skip):
        total = own.conv_transpose2d_add(
            x, self.each, skip, None, 2, (1, 0), self.output_padding, 3, crop=(2, 1), addend_crop=(1, 0)
        )
        return total + own.conv_transpose2d_add(x, self.each, total, stride=2, groups=3, output_size=total.shape[-2:])


@pytest.mark.parametrize("output_padding", [0, 1])
def test_sums_of_maps_whose_sizes_vary(output_padding):
    model, varies = Skip(output_padding), {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    exported = Exported(model, normal((2, 3, 17, 18)), normal((2, 3, 40, 44)), dynamic_shapes=(varies, varies))
    for size, skip_size in (((17, 18), (40, 44)), ((12, 20), (23, 23)), ((9, 10), (60, 52))):
        x, skip = normal((2, 3, *size)), normal((2, 3, *skip_size))
        agree(exported(x, skip)[0], model(x, skip))


def test_a_transposed_convolution_is_one_node():
    """Padding and output_padding say what is kept: nothing is made to be cut off."""
    layer = segext.nn.ConvTranspose2d(3, 5, 3, stride=2, padding=1, output_padding=1)
    assert Exported(layer, normal((1, 3, 9, 9))).operators() == ["ConvTranspose"]


# ---- Networks --------------------------------------------------------------------------------------------------------


class LittleSegNet(nn.Module):
    """A network of stock layers as people write them."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.relu = nn.BatchNorm2d(8), nn.ReLU()
        self.pool = nn.MaxPool2d(2, 2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2, 2)
        self.third, self.score = nn.ConvTranspose2d(8, 8, 3, padding=1), nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, image):
        outer = self.relu(self.norm(self.first(image)))
        x, outer_indices = self.pool(outer)
        inner = self.relu(self.second(x))
        x, inner_indices = self.pool(inner)
        x = self.relu(self.third(self.unpool(x, inner_indices, output_size=inner.size())))
        return self.score(self.unpool(x, outer_indices, output_size=outer.size()))


@pytest.mark.parametrize("way", ["converted", "prepacked", "stock"])
def test_a_network_of_stock_layers(way):
    torch.manual_seed(0)
    stock = LittleSegNet().eval()
    model = stock if way == "stock" else segext.convert(stock, prepack=way == "prepacked")[0]
    exported = Exported(model, image(18, 27), dynamic_shapes=(VARIES,))
    assert exported.session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    kinds = exported.operators()
    assert (kinds.count("MaxUnpool"), kinds.count("ConvTranspose")) == (2, 1)
    assert not any("packed" in weight.name for weight in exported.program.model_proto.graph.initializer)
    for x in (image(18, 27), image(41, 30, samples=3), image(8, 9, samples=1)):
        agree(exported(x)[0], stock(x))


class Both(nn.Module):
    """A network's label map and its scores."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network.predict(x), self.network(x)


def networks_agree(exported, model, x):
    labels, scores = exported(x)
    expected_labels, expected = model(x)
    agree(scores, expected, tolerance=1e-4)
    labels_agree(labels, expected_labels, expected)


@pytest.mark.parametrize("name", ["deconvnet", "segnet", "fcn8s"])
def test_networks(name):
    model, x = Both(narrow(name)).eval(), image(*size_for(name))
    exported = Exported(model, x)
    counts = Counter(exported.operators())
    assert (counts["MaxPool"], counts["MaxUnpool"]) == (5, 0 if name == "fcn8s" else 5)
    assert counts["ConvTranspose"] > 0 or name == "segnet"
    networks_agree(exported, model, x)


class Scores(nn.Module):
    """A network's scores, and the label map made of them."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        scores = self.network(x)
        return label_map(scores), scores


@pytest.mark.parametrize("name", ["deconvnet", "segnet", "fcn8s"])
def test_networks_for_images_of_any_size(name):
    model, (height, width) = Scores(narrow(name)).eval(), size_for(name)
    example = image(height + 30, width + 33, samples=1)  # of which fc6 does not cover the whole map
    exported = Exported(model, example, dynamic_shapes=(VARIES,))
    networks_agree(exported, model, image(height, width))


# ---- What a caller is told -------------------------------------------------------------------------------------------


class Decoder(nn.Module):
    """A use of switches whose pool is elsewhere."""

    def __init__(self, use, held=None):
        super().__init__()
        self.use = use
        self.held = held

    def forward(self, x, switches=None):
        return self.use(x, self.held if switches is None else switches)


@pytest.mark.parametrize(
    "use", [own.max_unpool2d, lambda _x, switches: switches.indices(), lambda _x, switches: switches]
)
def test_switches_from_elsewhere_are_turned_away(use):
    values, switches = own.max_pool2d(normal((1, 2, 6, 6)), 2, return_indices=True)
    for model, arguments in ((Decoder(use), (values, switches)), (Decoder(use, switches), (values,))):
        with pytest.raises(RuntimeError, match="takes Switches as an argument, or holds them"):
            segext.onnx.export(model.eval(), arguments, verbose=False)


class Loss(nn.Module):
    """A network that ends in its loss."""

    def forward(self, x, weight, target):
        return own.conv_transpose2d_cross_entropy(x, weight, target, stride=2, groups=3)


def test_losses_are_turned_away():
    arguments = normal((1, 3, 4, 4)), normal((3, 1, 4, 4)), torch.zeros(1, 10, 10, dtype=torch.int64)
    with pytest.raises(RuntimeError, match=r"losses .*have no ONNX form, but .*cross_entropy$"):
        segext.onnx.export(Loss().eval(), arguments, verbose=False)


def test_dynamo_is_no_choice():
    with pytest.raises(TypeError, match="takes no dynamo"):
        segext.onnx.export(TwoFormats().eval(), (normal((1, 2, 6, 6)),), dynamo=True)


def test_without_onnxscript_it_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install 'segext\[onnx\]'"):
        segext.onnx.export(TwoFormats(), (normal((1, 2, 6, 6)),))


def test_a_model_in_training_mode_is_told_of():
    with pytest.warns(UserWarning, match="training mode"):
        segext.onnx.export(TwoFormats().train(), normal((1, 2, 6, 6)), verbose=False)


def test_a_file_is_written(tmp_path):
    """And an exported program is taken as it is."""
    x = with_ties(2, 3, 6, 9)
    program = torch.export.export(TwoFormats(), (x,))
    segext.onnx.export(program, f=tmp_path / "net.onnx", input_names=["image"], verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    assert_same(torch.from_numpy(session.run(None, {"image": x.numpy()})[0]), TwoFormats()(x)[0])
