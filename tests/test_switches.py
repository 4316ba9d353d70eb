"""Switches as a value: the picture they draw, their conversions, and how they travel through torch."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as stock
from samples import FORMATS, Pool, assert_same, channels_last, contiguous, hard_values, name, normal, random_codes
from torch.utils import _pytree as pytree

import segext.functional as own
from segext import Switches, reference

# The literature's example. Its maxima: 9 in row 0, column 1; 8 in row 1, column 3; 12 in row 2, column 0; 6 in row 3,
# column 2. So the codes are 1, 3, 0 and 2, and their byte, the first in the lowest bits, is 0b10_00_11_01.
EXAMPLE = torch.tensor([[3.0, 9, 5, 2], [6, 2, 1, 8], [12, 3, 2, 5], [9, 7, 6, 2]]).view(1, 1, 4, 4)
SHAPE = (3, 5, 7, 9)


@pytest.fixture(params=FORMATS, ids=name)
def layout(request):
    return request.param


@pytest.fixture
def switches(layout, device):
    """Of a batch of 3 whose samples end within a byte."""
    return own.max_pool2d(layout(normal(SHAPE).to(device)), (2, 3), (2, 1), (0, 1), return_indices=True)[1]


def fields(switches):
    """Everything that makes switches what they are."""
    return (
        switches.codes.tolist(),
        tuple(switches.shape),
        tuple(switches.input_size),
        switches.kernel_size,
        switches.stride,
        switches.padding,
        switches.dilation,
        switches.channels_last,
    )


def test_worked_example(device):
    pooled, switches = own.max_pool2d(EXAMPLE.to(device), 2, return_indices=True)
    assert pooled.tolist() == [[[[9, 8], [12, 6]]]]
    assert switches.codes.tolist() == [[0b10_00_11_01]]
    assert switches.indices().tolist() == [[[[1, 7], [8, 14]]]]
    assert switches.mask().tolist() == [[[[0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]]]]
    values = torch.tensor([[5.0, 9], [7, 12]], device=device).view(1, 1, 2, 2)
    unpooled = own.max_unpool2d(values, switches)
    assert unpooled.tolist() == [[[[0, 5, 0, 0], [0, 0, 0, 9], [7, 0, 0, 0], [0, 0, 12, 0]]]]


def test_attributes(switches, layout, device):
    assert switches.shape == torch.Size((3, 5, 3, 9))
    assert switches.size() == switches.shape
    assert switches.size(-1) == 9
    assert len(switches) == 3
    assert tuple(switches.input_size) == (7, 9)
    assert (switches.kernel_size, switches.stride) == ((2, 3), (2, 1))
    assert (switches.padding, switches.dilation) == ((0, 1), (1, 1))
    assert switches.channels_last == (layout is channels_last)
    assert switches.bits == 4
    assert switches.device.type == device.type
    assert (switches.codes.dtype, switches.codes.shape) == (torch.uint8, (3, 68))


@pytest.mark.parametrize(
    ("shape", "pool", "sample_bytes"),
    [
        ((2, 64, 224, 224), Pool(2), 64 * 112 * 112 // 4),
        ((1, 3, 7, 7), Pool(2), 7),  # 27 codes of 2 bits
        ((1, 3, 7, 7), Pool((1, 2)), 8),  # 63 codes of 1 bit
        ((1, 3, 7, 7), Pool(3, 2), 14),  # 27 codes of 4 bits
        ((2, 3, 20, 20), Pool(5), 48),
        ((1, 3, 20, 20), Pool(17, 1, 8), 3 * 20 * 20 * 2),
        ((3, 7, 7), Pool(2), 7),
    ],
)
def test_nbytes(shape, pool, sample_bytes, layout):
    """Exactly ceil(C * H * W * bits / 8) a sample, and nothing else is held."""
    _, switches = own.max_pool2d(layout(torch.zeros(shape)), *pool, return_indices=True)
    samples = shape[0] if len(shape) == 4 else 1
    assert switches.nbytes == samples * sample_bytes == switches.codes.untyped_storage().nbytes()


def test_what_only_tensors_have_is_pointed_out():
    _, switches = own.max_pool2d(torch.zeros(1, 2, 6, 8), 2, return_indices=True)
    with pytest.raises(AttributeError, match=r"'cpu', as indices have; see \.indices\(\)"):
        switches.cpu()
    with pytest.raises(AttributeError, match=r"have no attribute 'nonsense'$"):
        switches.nonsense  # noqa: B018


def test_repr(device):
    """Says what the switches are of, and draws a small map."""
    text = repr(own.max_pool2d(torch.zeros(1, 2, 6, 8, device=device), (2, 4), return_indices=True)[1])
    assert text.startswith("Switches(")
    for part in ("(1, 2, 3, 2)", "(6, 8)", "(2, 4)"):
        assert part in text
    picture = repr(own.max_pool2d(EXAMPLE.to(device), 2, return_indices=True)[1]).splitlines()[-4:]
    assert [row.replace(" ", "") for row in picture] == [".#..", "...#", "#...", "..#."]
    assert len(repr(own.max_pool2d(torch.zeros(1, 2, 99, 99), 2, return_indices=True)[1]).splitlines()) == 1
    assert "padding" not in text
    assert "dilation" not in text
    assert "device" not in text or device.type != "cpu"
    unbatched = own.max_pool2d(torch.zeros(1, 3, 4, device=device), 2, 3, 1, 2, return_indices=True)[1]
    head, *rows = repr(unbatched).splitlines()
    assert "stride=(3, 3), padding=(1, 1), dilation=(2, 2), 2 bits each, 1 byte" in head
    assert len(rows) == 3
    assert repr(unbatched.to("meta")).endswith(", device='meta')")


def test_indices_are_stock_s(layout, device):
    x = layout(hard_values(SHAPE, torch.float32))
    _, expected = stock.max_pool2d(x, 3, 2, 1, return_indices=True)
    _, switches = own.max_pool2d(layout(x.to(device)), 3, 2, 1, return_indices=True)
    assert_same(switches.indices(), expected, strides=True)


@pytest.mark.parametrize("pool", [Pool(2), Pool(3, 2, 1), Pool((2, 3), (3, 1), (1, 0), (2, 1)), Pool(5)], ids=str)
def test_from_indices(pool, layout, device):
    x = layout(normal((3, 5, 12, 13)).to(device))
    values, switches = own.max_pool2d(x, *pool, return_indices=True)
    again = Switches.from_indices(switches.indices(), (12, 13), *pool[:4])
    assert fields(again) == fields(switches)
    assert_same(own.max_unpool2d(values, again), own.max_unpool2d(values, switches), strides=True)


def test_what_stands_for_pairs(device):
    """Lists, and ints of other libraries."""
    x = EXAMPLE.to(device)
    _, switches = own.max_pool2d(x, [2, 3], [1, 2], return_indices=True)
    assert switches.window == ((2, 3), (1, 2), (0, 0), (1, 1))
    values, switches = own.max_pool2d(x, 2, return_indices=True)
    again = Switches.from_indices(switches.indices(), (4, 4), np.int64(2), [np.int64(2), 2])
    assert fields(again) == fields(switches)
    assert_same(own.max_unpool2d(values, switches.indices(), np.int64(2)), own.max_unpool2d(values, switches))


def test_from_indices_of_stock(layout, device):
    """A foreign encoder's indices are packed, and unpool as stock would."""
    x = layout(normal(SHAPE))
    values, indices = stock.max_pool2d(x, 2, return_indices=True)
    switches = Switches.from_indices(indices.to(device), x.shape[-2:], 2)
    expected = stock.max_unpool2d(values, indices, 2, output_size=x.shape)
    assert_same(own.max_unpool2d(values.to(device), switches), expected, strides=True)


def test_mask(switches, device):
    """1 where a switch points, in the full map."""
    mask = switches.mask()
    expected = torch.zeros(3, 5, 63, dtype=torch.uint8).scatter(-1, switches.indices().cpu().flatten(-2), 1)
    assert_same(mask, expected.view(3, 5, 7, 9))
    assert mask.device.type == device.type


@pytest.mark.parametrize("of", [slice(1, 3), slice(None, None, 2), slice(2, 2), slice(-1, None)], ids=str)
def test_slicing_the_batch(switches, of):
    part = switches[of]
    assert part.shape == (len(range(3)[of]), *switches.shape[1:])
    assert_same(part.indices(), switches.indices()[of])
    values = normal(switches.shape).to(switches.device)
    if switches.channels_last:
        values = channels_last(values)
    assert_same(own.max_unpool2d(values[of], part), own.max_unpool2d(values, switches)[of])


def test_to_memory_format(switches):
    other = torch.contiguous_format if switches.channels_last else torch.channels_last
    same = torch.channels_last if switches.channels_last else torch.contiguous_format
    repacked = switches.to_memory_format(other)
    assert repacked.channels_last != switches.channels_last
    taps = reference.unpack(switches.codes.cpu(), switches.shape, switches.bits, switches.channels_last)
    assert_same(repacked.codes, reference.pack(taps, switches.bits, repacked.channels_last))
    assert torch.equal(repacked.indices(), switches.indices())
    assert fields(repacked.to_memory_format(same)) == fields(switches)
    assert fields(switches.to_memory_format(same)) == fields(switches)


def test_there_are_two_memory_formats(switches):
    with pytest.raises(ValueError, match=r"memory_format should be .* but got torch\.preserve_format"):
        switches.to_memory_format(torch.preserve_format)


def test_repacking_keeps_any_code(layout, device):
    """Random bytes too, whatever they name."""
    pool = Pool((3, 5))
    codes = random_codes((2, 3, 5, 7), pool.bits).to(device)
    switches = Switches(codes, (2, 3, 5, 7), (15, 35), *pool.window, layout is channels_last)
    other = torch.contiguous_format if switches.channels_last else torch.channels_last
    taps = reference.unpack(codes.cpu(), switches.shape, pool.bits, switches.channels_last)
    assert_same(switches.to_memory_format(other).codes, reference.pack(taps, pool.bits, not switches.channels_last))


# Pools of 1 to 16 bits a code; channels and pixels one off a vector, a tile and a strip of them.
@pytest.mark.parametrize("pool", [Pool((1, 2)), Pool(2), Pool((2, 5)), Pool(16), Pool(17)], ids=str)
@pytest.mark.parametrize(
    ("channels", "size"),
    [(1, (1, 1)), (15, (3, 5)), (16, (4, 4)), (17, (1, 63)), (64, (5, 13)), (65, (8, 16)), (130, (1, 9))],
)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_repacking_of_any_shape(layout, channels, size, pool):
    taps = torch.randint(2**pool.bits, (3, channels, *size), generator=torch.Generator().manual_seed(0))
    last = layout is channels_last
    codes = reference.pack(taps, pool.bits, last)
    repacked = torch.ops.segext.switches_repack(codes, taps.shape, pool.window[0], last)
    assert_same(repacked, reference.pack(taps, pool.bits, not last))


def test_to_device(switches):
    assert fields(switches.to("cpu")) == fields(switches)
    assert switches.to("cpu").device.type == "cpu"
    moved = switches.to("meta")
    assert (moved.device.type, moved.shape) == ("meta", switches.shape)


def test_to_cuda(cuda):
    _, switches = own.max_pool2d(normal(SHAPE), 2, return_indices=True)
    assert fields(switches.to(cuda)) == fields(switches)
    assert switches.to(cuda).device.type == "cuda"


def test_stock_s_unpool_takes_switches(switches, layout, device):
    """Unchanged foreign code: the switches stand for their indices."""
    x = layout(normal((2, 3, 8, 10)).to(device))
    values, switches = own.max_pool2d(x, 2, return_indices=True)
    expected = own.max_unpool2d(values, switches)
    assert expected.stride() == x.stride()
    on_cpu = device.type == "cpu"  # on CUDA, stock's unpooling is always NCHW
    assert_same(stock.max_unpool2d(values, switches, 2), expected, strides=on_cpu)
    assert_same(torch.nn.MaxUnpool2d(2)(values, switches), expected, strides=on_cpu)
    assert torch.equal(torch.flatten(input=switches), switches.indices().flatten())
    assert torch.equal(torch.gather(x.flatten(-2), -1, torch.flatten(switches, -2)), values.flatten(-2))


def test_pytree(switches):
    """Sizes are leaves, and paths name the fields."""
    leaves, spec = pytree.tree_flatten(switches)
    assert any(leaf is switches.codes for leaf in leaves)
    assert {7, 9} <= {leaf for leaf in leaves if isinstance(leaf, int)}
    assert fields(pytree.tree_unflatten(leaves, spec)) == fields(switches)
    paths, _ = pytree.tree_flatten_with_path(switches)
    assert any("codes" in pytree.keystr(path) for path, _ in paths)
    doubled = pytree.tree_map_only(torch.Tensor, torch.clone, {"a": [switches]})["a"][0]
    assert fields(doubled) == fields(switches)
    assert doubled.codes.data_ptr() != switches.codes.data_ptr()


def saved_and_loaded(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def pickled(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("trip", [copy.copy, copy.deepcopy, pickled, saved_and_loaded], ids=lambda trip: trip.__name__)
def test_copies(trip, switches):
    assert fields(trip(switches)) == fields(switches)
    nested = trip({"level": [switches, torch.ones(2)]})
    assert fields(nested["level"][0]) == fields(switches)
    if trip is copy.deepcopy:
        assert trip(switches).codes.data_ptr() != switches.codes.data_ptr()


def test_they_equal_nothing_else(switches):
    assert switches == switches[:]
    assert switches != fields(switches)


def test_files_name_the_public_class(switches):
    """Not the module that happens to define it, which may change."""
    assert b"csegext\nSwitches" in pickle.dumps(switches, protocol=0)
    assert Switches.__module__ == "segext"


def test_iteration(switches):
    assert [fields(sample) for sample in switches] == [fields(switches[k]) for k in range(len(switches))]
    with pytest.raises(TypeError, match="have no batch"):
        iter(switches[0])


def test_hasattr_compiles():
    def pooled(x):
        y, switches = own.max_pool2d(x, 2, return_indices=True)
        return y + 1 if hasattr(switches, "cpu") else y

    x = normal((1, 2, 4, 4))
    assert_same(torch.compile(pooled, fullgraph=True, backend="eager")(x), pooled(x))


def test_unbatched(device):
    _, switches = own.max_pool2d(normal((5, 7, 9)).to(device), 2, return_indices=True)
    assert switches.shape == (5, 3, 4)
    assert switches.codes.shape == (15,)
    assert not switches.channels_last
    assert switches.indices().shape == (5, 3, 4)
    assert switches.mask().shape == (5, 7, 9)
    assert fields(Switches.from_indices(switches.indices(), (7, 9), 2)) == fields(switches)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda indices: indices.int(), RuntimeError, "indices.*(int64|Long).*(int32|Int)"),
        (lambda indices: indices[0, 0], RuntimeError, r"indices.*\[3, 4\]"),
        (lambda indices: indices + 100, RuntimeError, "indices"),
        (lambda indices: indices * 0 - 1, RuntimeError, "indices"),
        (lambda indices: indices.flip(-1), RuntimeError, "indices"),  # in the map, but in another window
    ],
)
def test_from_indices_refuses(change, error, message, device):
    _, indices = stock.max_pool2d(normal((1, 2, 6, 8)), 2, return_indices=True)
    with pytest.raises(error, match=message):
        Switches.from_indices(change(indices).to(device), (6, 8), 2)


def test_from_indices_refuses_other_types():
    _, indices = stock.max_pool2d(normal((1, 2, 6, 8)), 2, return_indices=True)
    with pytest.raises(TypeError, match="indices should be a Tensor, but got list"):
        Switches.from_indices(indices.tolist(), (6, 8), 2)
    for size in (6, (6,)):
        with pytest.raises(TypeError, match=r"input_size should be \(height, width\), but got .*6"):
            Switches.from_indices(indices, size, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": torch.zeros(2, 8, dtype=torch.uint8)}, "codes.*9"),  # truncated
        ({"codes": torch.zeros(1, 9, dtype=torch.uint8)}, "codes.*1"),  # of another batch
        ({"codes": torch.zeros(2, 9, dtype=torch.int32)}, "codes.*(int32|Int)"),
        ({"shape": (2, 3, 4)}, "codes|shape|size"),
        ({"shape": (2, 3)}, "shape|size"),
        ({"kernel_size": (3, 3)}, "codes.*18"),
    ],
)
def test_switches_that_do_not_fit_together_are_refused(changes, message, device):
    """When they are made or, at the latest, when they are used."""
    good = {
        "codes": torch.zeros(2, 9, dtype=torch.uint8),
        "shape": (2, 3, 3, 4),
        "input_size": (6, 8),
        "kernel_size": (2, 2),
        "stride": (2, 2),
        "padding": (0, 0),
        "dilation": (1, 1),
        "channels_last": False,
    }
    arguments = {**good, **changes}
    arguments["codes"] = arguments["codes"].to(device)
    assert Switches(**good).indices().shape == (2, 3, 3, 4)
    with pytest.raises((RuntimeError, ValueError), match=message):
        Switches(**arguments).indices()


def test_codes_in_place(device):
    """`codes` are the switches' own memory: changing them changes what they name."""
    _, switches = own.max_pool2d(EXAMPLE.to(device), 2, return_indices=True)
    switches.codes.zero_()
    assert switches.indices().flatten().tolist() == [0, 2, 8, 10]


@pytest.mark.parametrize("kind", [contiguous, channels_last], ids=name)
def test_empty_batch(kind, device):
    values, switches = own.max_pool2d(kind(torch.zeros(0, 3, 6, 8, device=device)), 2, return_indices=True)
    assert (len(switches), switches.nbytes) == (0, 0)
    assert switches.indices().shape == (0, 3, 3, 4)
    assert own.max_unpool2d(values, switches).shape == (0, 3, 6, 8)


def test_only_the_batch_is_indexed():
    _, switches = own.max_pool2d(torch.randn(2, 3, 4, 6), 2, return_indices=True)
    for samples in ((slice(None), slice(3)), (slice(None), torch.arange(2)), (0, 0), None):
        with pytest.raises(TypeError, match="batch"):
            switches[samples]
    with pytest.raises(TypeError, match="have no batch"):
        switches[0][0]


def test_codes_have_one_dtype():
    _, switches = own.max_pool2d(torch.randn(2, 3, 4, 6), 2, return_indices=True)
    with pytest.raises(TypeError, match="device"):
        switches.to(torch.int32)


def test_without_values():
    """Tensors that are only shapes: nothing is read of them."""
    with torch._subclasses.FakeTensorMode():
        output, switches = own.max_pool2d(torch.empty(2, 3, 8, 8), 2, return_indices=True)
        again = Switches.from_indices(switches.indices(), (8, 8), 2)
        assert again.codes.shape == switches.codes.shape
        assert own.max_unpool2d(output, again.indices(), 2).shape == (2, 3, 8, 8)
        assert "Switches(shape=(2, 3, 4, 4)" in repr(again)
