"""The ops as the dispatcher's citizens: registration, opcheck, compile, export, autocast, inference mode, threads."""

import io
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from op_samples import ARGUMENTS, WITHOUT_CUDA_KERNELS, operands, small_samples
from samples import FLOATS, FORMATS, assert_same, contiguous, name, normal, tie_free
from torch._subclasses import FakeTensorMode
from torch.utils import _pytree as pytree

import segext
import segext.functional as own
from segext import nn

ops = torch.ops.segext
SECOND_DERIVATIVES_BY_STOCK = ("depthwise_conv_transpose2d_cross_entropy_backward",)


def test_every_op_is_registered_and_tested():
    registered = {
        full.partition("::")[2] for full in torch._C._dispatch_get_all_op_names() if full.startswith("segext::")
    }
    assert registered == set(ARGUMENTS)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("op", ARGUMENTS)
def test_opcheck(op, layout, device):
    arguments = ARGUMENTS[op](small_samples(layout, device=device))
    if device.type == "cuda" and op in WITHOUT_CUDA_KERNELS:
        with pytest.raises(NotImplementedError, match="CUDA"):
            getattr(ops, op)(*arguments)
        return
    utils = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    # In torch 2.11, stock's second derivative of a convolution knows no symbolic sizes.
    knows_no_symbols = op in SECOND_DERIVATIVES_BY_STOCK and torch.__version__.startswith("2.11.")
    torch.library.opcheck(getattr(ops, op).default, arguments, test_utils=utils[: 3 if knows_no_symbols else 4])


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("op", ARGUMENTS)
def test_fake_strides_are_real_strides(op, dtype, device):
    """Shape, type and strides that compile and export see are those of the real result, in both formats."""
    if device.type == "cuda" and op in WITHOUT_CUDA_KERNELS:
        return  # test_opcheck sees them refuse
    for layout in FORMATS:
        arguments = ARGUMENTS[op](small_samples(layout, dtype, device))
        real = pytree.tree_leaves(getattr(ops, op)(*arguments))
        with FakeTensorMode() as mode:
            fakes = pytree.tree_map_only(torch.Tensor, mode.from_tensor, arguments)
            fake = pytree.tree_leaves(getattr(ops, op)(*fakes))
        for one, other in zip(real, fake, strict=True):
            if one is not None:
                assert (other.shape, other.dtype, other.stride()) == (one.shape, one.dtype, one.stride())


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("op", ARGUMENTS)
def test_operands_of_any_strides(op, layout, device):
    """Only what is written to, and what an op has packed, must be dense."""
    if device.type == "cuda" and op in WITHOUT_CUDA_KERNELS:
        return  # test_opcheck sees them refuse
    call = getattr(ops, op)
    arguments, tensors = operands(op, layout, device)
    expected = pytree.tree_leaves(call(*arguments))
    for place, of, value in tensors:
        arguments[place] = torch.stack((value, value), -1)[..., 0]
        if of in ("out", "packed_weight"):
            with pytest.raises(RuntimeError, match=of):
                call(*arguments)
        else:
            for actual, same in zip(pytree.tree_leaves(call(*arguments)), expected, strict=True):
                assert same is None or assert_same(actual, same) is None
        arguments[place] = value


OTHER_TYPES = {torch.float32: torch.float64, torch.int64: torch.int32, torch.uint8: torch.int8}


@pytest.mark.parametrize("op", ARGUMENTS)
def test_operands_that_do_not_belong_together(op):
    """Kernels would read past them, or what lies on another device. The dispatcher would choose the fake kernel."""
    arguments, tensors = operands(op, contiguous)
    for number, (place, of, value) in enumerate(tensors if len(tensors) > 1 else ()):
        elsewhere = ((value.to("meta"), "same device, but got"),)
        unlike = (
            (value.to(OTHER_TYPES[value.dtype]), of),
            (value[..., None], of),
            (value[1:], f"{of}|codes"),  # of another batch than the codes, of a map that comes before them
        )
        for change, message in elsewhere + unlike if number else elsewhere:  # others have to be like the first one
            arguments[place] = change
            with pytest.raises(RuntimeError, match=message):
                getattr(ops, op).default._op_dk(torch._C.DispatchKey.CPU, *arguments)
        arguments[place] = value


class Pools(torch.nn.Module):
    """Two levels of pooling, unpooled again; switches cross from encoder to decoder."""

    def __init__(self):
        super().__init__()
        self.outer = nn.ReLUMaxPool2d(2, return_indices=True)
        self.inner = nn.MaxPool2d(3, 2, 1, return_indices=True)
        self.unpool_inner = nn.MaxUnpool2d(3, 2, 1)
        self.unpool_outer = nn.MaxUnpool2d(2)

    def forward(self, x):
        x, outer = self.outer(x * 2)
        x, inner = self.inner(x)
        return self.unpool_outer(self.unpool_inner(x, inner) + 1, outer), outer


def results(model, x):
    """Output, codes and input gradient of a model like Pools."""
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    output, switches = model(leaf)
    output.pow(2).sum().backward()
    return output, switches.codes, leaf.grad


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend, layout, device):
    torch._dynamo.reset()
    model, x = Pools(), layout(tie_free((2, 3, 13, 18), torch.float32).to(device))
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for actual, expected in zip(results(compiled, x), results(model, x), strict=True):
        assert_same(actual, expected, strides=True)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_compile_with_dynamic_shapes(layout, device):
    """One graph serves every size."""
    torch._dynamo.reset()
    model = Pools()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    shapes = ((2, 3, 13, 18), (3, 5, 16, 21), (4, 6, 30, 31))
    for number, shape in enumerate(shapes):
        x = layout(tie_free(shape, torch.float32).to(device))
        with torch.compiler.set_stance("fail_on_recompile" if number else "default"):
            actual = results(compiled, x)
        for one, other in zip(actual, results(model, x), strict=True):
            assert_same(one, other)


def test_compile_with_windows_that_vary(device):
    """After two calls with different ints, a compiler passes symbols in their place."""
    x = tie_free((2, 3, 13, 18), torch.float32).to(device)

    def pooled(x, size, dilation):
        return own.relu_max_pool2d(x, size, size - 1, size // 2, dilation, return_indices=True)

    torch._dynamo.reset()
    compiled = torch.compile(pooled, fullgraph=True, backend="aot_eager")
    for window in ((2, 1), (3, 2), (4, 3), (3, 2)):
        (actual, switches), (expected, eager_switches) = compiled(x, *window), pooled(x, *window)
        assert_same(actual, expected)
        assert switches == eager_switches


def test_compile_of_unpooling_by_indices(device):
    torch._dynamo.reset()

    def there_and_back(x):
        values, switches = own.max_pool2d(x, 2, return_indices=True)
        return own.max_unpool2d(values, switches.indices(), 2, output_size=x.shape)

    x = tie_free((2, 3, 7, 9), torch.float32).to(device)
    compiled = torch.compile(there_and_back, fullgraph=True, backend="aot_eager")
    assert_same(compiled(x), there_and_back(x))


def test_compile_takes_and_gives_switches(device):
    """Switches as an argument and a result of compiled functions."""
    torch._dynamo.reset()
    x = tie_free((2, 3, 8, 9), torch.float32).to(device)
    encode = torch.compile(lambda x: own.max_pool2d(x, 2, return_indices=True), fullgraph=True, backend="aot_eager")
    decode = torch.compile(lambda x, switches: own.max_unpool2d(x, switches), fullgraph=True, backend="aot_eager")
    values, switches = encode(x)
    assert isinstance(switches, segext.Switches)
    assert_same(decode(values, switches), own.max_unpool2d(*own.max_pool2d(x, 2, return_indices=True)))


def test_compile_of_unpooling_into_a_tensor(device):
    torch._dynamo.reset()
    values, switches = own.max_pool2d(tie_free((2, 3, 8, 9), torch.float32).to(device), 2, return_indices=True)
    unpool = torch.compile(
        lambda x, out: own.max_unpool2d(x, switches, out=out), fullgraph=True, backend="aot_eager", dynamic=False
    )
    for layout in FORMATS:
        out = layout(torch.full((2, 3, 8, 9), torch.nan, device=device))
        assert unpool(values, out) is out
        assert_same(out, own.max_unpool2d(values, switches))


class Encoder(torch.nn.Module):
    """One pool; gives switches away."""

    def forward(self, x):
        return own.max_pool2d(x, 2, return_indices=True)


class Decoder(torch.nn.Module):
    """One unpool; takes switches."""

    def forward(self, x, switches):
        return own.max_unpool2d(x, switches)


def reloaded(program):
    """An exported program after a trip through a file."""
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("strict", [False, True])
def test_export(strict, layout, device):
    x = layout(tie_free((2, 3, 13, 18), torch.float32).to(device))
    program = torch.export.export(Pools(), (x,), strict=strict)
    expected, switches = Pools()(x)
    for run in (program.module(), reloaded(program).module()):
        output, exported_switches = run(x)
        assert_same(output, expected)
        assert isinstance(exported_switches, segext.Switches)
        assert_same(exported_switches.indices(), switches.indices())


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_dynamic_shapes(strict, device):
    """Batch, height and width vary."""
    batch, height, width = (
        torch.export.Dim(of, min=least) for of, least in (("batch", 1), ("height", 8), ("width", 8))
    )
    x = tie_free((2, 3, 13, 18), torch.float32).to(device)
    program = torch.export.export(Pools(), (x,), dynamic_shapes=({0: batch, 2: height, 3: width},), strict=strict)
    for run in (program.module(), reloaded(program).module()):
        for shape in ((2, 3, 13, 18), (1, 3, 8, 31), (5, 3, 40, 41)):
            x = tie_free(shape, torch.float32).to(device)
            (output, switches), (expected, eager_switches) = run(x), Pools()(x)
            assert_same(output, expected)
            assert switches.input_size == eager_switches.input_size
            assert_same(switches.indices(), eager_switches.indices())


class Upsampling(torch.nn.Module):
    """Calls that check the size of their result: unpooling with a convolution, transposed convolutions, fusions."""

    def __init__(self, device):
        super().__init__()
        self.register_buffer("mixing", normal((3, 3, 3, 3)).to(device))
        self.register_buffer("each", normal((3, 1, 4, 4)).to(device))

    def forward(self, x):
        values, switches = own.max_pool2d(x, 2, return_indices=True)
        each = {"stride": 2, "groups": 3}
        return (
            own.unpool_conv2d(values, switches, self.mixing),
            own.conv_transpose2d(x, self.each, padding=5, **each),
            own.conv_transpose2d_add(x, self.each, x, crop=13, addend_crop=1, **each),
            own.conv_transpose2d_argmax(x, self.each, crop=13, **each),
        )


@pytest.mark.parametrize("strict", [False, True])
def test_exports_take_maps_upright_and_across(strict, device):
    """A program does not depend on which of height and width is the larger in its example."""
    axes = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    x = normal((2, 3, 12, 18)).to(device)
    program = torch.export.export(Upsampling(device), (x,), dynamic_shapes=(axes,), strict=strict)
    x = normal((2, 3, 20, 10)).to(device)
    run = program.run_decompositions().module()
    for actual, expected in zip(run(x), Upsampling(device)(x), strict=True):
        torch.testing.assert_close(actual, expected)


class PoolOfRows(torch.nn.Module):
    """A pool whose window has as many rows and columns as the map has rows."""

    def forward(self, x):
        return own.max_pool2d(x, x.shape[-2], return_indices=True)


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_a_window_of_the_input_s_size(strict, device):
    x = tie_free((2, 3, 5, 18), torch.float32).to(device)
    sizes = ({2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
    program = reloaded(torch.export.export(PoolOfRows(), (x,), dynamic_shapes=sizes, strict=strict))
    x = tie_free((2, 3, 5, 23), torch.float32).to(device)
    (output, switches), (expected, eager_switches) = program.module()(x), PoolOfRows()(x)
    assert_same(output, expected)
    assert switches == eager_switches


def test_an_exported_pool_has_a_stride(device):
    """In AOTInductor's packages, an empty list of ints is None, which the op refuses."""
    program = torch.export.export(Encoder(), (tie_free((2, 3, 8, 9), torch.float32).to(device),))
    (pool,) = program.graph.find_nodes(op="call_function", target=ops.max_pool2d.default)
    _input, kernel_size, stride, *_ = pool.args
    assert list(stride) == list(kernel_size) == [2, 2]


def test_export_of_encoder_and_decoder(device):
    """Switches are the result of one program and the argument of another."""
    x = tie_free((2, 3, 8, 9), torch.float32).to(device)
    encoder = reloaded(torch.export.export(Encoder(), (x,)))
    values, switches = encoder.module()(x)
    decoder = reloaded(torch.export.export(Decoder(), (values, switches)))
    assert_same(decoder.module()(values, switches), Decoder()(*Encoder()(x)))


@pytest.mark.filterwarnings("ignore:.torch.jit")  # deprecated, not gone
@pytest.mark.parametrize("grad", [True, False])
def test_trace_by_torch_jit(grad, device):
    """What torch.jit.trace makes can be saved, takes other sizes, and has gradients."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)).to(device)
    converted, report = segext.convert(network)
    assert report.fused
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(converted, tie_free((1, 3, 8, 10), torch.float32).to(device))
    assert "segext::relu_max_pool2d" in str(traced.inlined_graph)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    for run in (traced, torch.jit.load(file)):
        x = tie_free((3, 3, 13, 18), torch.float32).to(device).requires_grad_()
        actual, expected = run(x), network(x)
        torch.testing.assert_close(actual, expected)
        assert_same(*(torch.autograd.grad(y.square().sum(), x)[0] for y in (actual, expected)))


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
def test_autocast_keeps_the_type(dtype, device):
    """Stock's unpool goes to float32 under autocast on a CPU."""
    x = tie_free((2, 3, 7, 9), dtype).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        values, switches = own.max_pool2d(x, 2, return_indices=True)
        for result in (values, own.relu_max_pool2d(x, 2), own.max_unpool2d(values, switches)):
            assert result.dtype == dtype
        assert own.max_unpool2d(values, switches.indices(), 2, output_size=(7, 9)).dtype == dtype


def test_inference_mode(device):
    x = tie_free((2, 3, 7, 9), torch.float32).to(device)
    expected, _ = Pools()(x)
    with torch.inference_mode():
        output, switches = Pools()(x.clone())
        assert output.is_inference()
        assert switches.codes.is_inference()
        assert_same(output, expected)
    values = normal(switches.shape).to(device).requires_grad_()
    with pytest.raises(RuntimeError, match=r"[Ii]nference"):
        own.max_unpool2d(values, switches).sum().backward()
    assert own.max_unpool2d(values.detach(), switches).shape == x.shape


def test_meta_tensors():
    """Shapes without data."""
    values, switches = own.max_pool2d(torch.empty(2, 3, 7, 9, device="meta"), 2, return_indices=True)
    assert (values.shape, values.device.type) == ((2, 3, 3, 4), "meta")
    assert (switches.codes.shape, switches.device.type) == ((2, 9), "meta")
    assert own.max_unpool2d(values, switches).shape == (2, 3, 7, 9)
    scores, weight = torch.empty(2, 3, 5, 6, device="meta"), torch.empty(3, 1, 4, 4, device="meta")
    assert own.conv_transpose2d(scores, weight, stride=2, groups=3).shape == (2, 3, 12, 14)
    assert own.conv_transpose2d_argmax(scores, weight, stride=2, groups=3).shape == (2, 12, 14)


def test_threads_at_once(device):
    """Python threads in the same ops, forward and backward, do not meet."""
    model = Pools()
    inputs = [normal((2, 7, 45, 51), seed=seed).to(device) for seed in range(4)]
    expected = [results(model, x) for x in inputs]
    with ThreadPoolExecutor(4) as threads:
        for actual, serial in zip(threads.map(lambda x: results(model, x), inputs * 8), expected * 8, strict=True):
            for one, other in zip(actual, serial, strict=True):
                assert_same(one, other)


def test_functional_call(device):
    x = tie_free((2, 3, 7, 9), torch.float32).to(device)
    output, _ = torch.func.functional_call(Pools(), {}, (x,))
    assert_same(output, Pools()(x)[0])


def test_tensor_subclasses_and_modes_are_seen(device):
    """A dispatch mode sees segext's ops, as profilers and memory trackers need."""
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            seen.append(function.name())
            return function(*arguments, **(keywords or {}))

    with Watch():
        own.max_unpool2d(*own.max_pool2d(tie_free((1, 2, 4, 4), torch.float32).to(device), 2, return_indices=True))
    assert {"segext::max_pool2d", "segext::max_unpool2d"} <= set(seen)
