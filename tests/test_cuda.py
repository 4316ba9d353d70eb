"""What users rely on from CUDA: streams, graphs, no synchronisation, no hidden memory, the same bits on every run."""

import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as stock
from op_samples import ARGUMENTS, LARGE, WITHOUT_CUDA_KERNELS, large_samples
from samples import (
    FLOATS,
    FORMATS,
    Pool,
    assert_same,
    channels_last,
    contiguous,
    hard_values,
    name,
    normal,
)
from torch.utils import _pytree as pytree

import segext
import segext.functional as own
from benchmarks.gpu import cases
from segext import Switches, ops

ROOT = Path(__file__).resolve().parent.parent
SHAPE = LARGE.map
# Windows that tile the map, and windows that overlap.
POOLS = (Pool(2), Pool(3, 2, 1))
# Long enough, at 1 to 2 GHz, for the host to queue what comes next.
CYCLES = 100_000_000

OPS = tuple(op for op in ARGUMENTS if op not in WITHOUT_CUDA_KERNELS)
# Bytes that ops take while they run: for the last element by which int64 indices name each pixel, and for a weight in
# the order of its kernel, filled up to 16 channels and 64 outputs.
PIXELS = SHAPE[0] * SHAPE[1] * SHAPE[2] * SHAPE[3]
SCRATCH = {
    "max_unpool2d_indices": 4 * PIXELS,
    "max_unpool2d_indices_backward": 4 * PIXELS,
    "unpool_conv2d": 4 * 9 * 16 * 64,
}
# Sums that come in parts: how many tensors, of fewer bytes than the scores.
WITH_PARTS = {
    "depthwise_conv_transpose2d_backward": 2,
    "depthwise_conv_transpose2d_cross_entropy": 1,
    "depthwise_conv_transpose2d_cross_entropy_backward": 2,
}


def call_of(op, device, layout=contiguous, pool=POOLS[0], dtype=torch.float32):
    """A tensor, and the op as a function of it alone; all else that the op needs lies on `device` already."""
    input, *rest = ARGUMENTS[op](large_samples(layout, pool, dtype, device))

    def call(input):
        result = getattr(ops, op)(input, *rest)
        return rest[-1] if op.endswith("_out") else result

    return input, call


def tensors(result):
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def copies(result):
    return [tensor.clone() for tensor in tensors(result)]


def assert_all_same(actual, expected):
    for a, b in zip(tensors(actual), tensors(expected), strict=True):
        assert_same(a, b)


def train(pool, x):
    """Pools, pools a ReLU, unpools by switches: the results and the gradient of x."""
    pooled, switches = own.max_pool2d(x, *pool, return_indices=True)
    unpooled = own.max_unpool2d(pooled, switches)
    output = own.relu_max_pool2d(unpooled, *pool)
    (grad,) = torch.autograd.grad(output, x, torch.ones_like(output))
    return output.detach(), grad


def captured(function, *inputs):
    """A CUDA graph of the function, and the tensors that a replay fills."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function(*inputs)
    return graph, result


def test_every_op_has_its_call():
    """On the CPU too: each call here can be made, gives something, and none of the library's ops is left out."""
    schemas = re.findall(r'"(\w+)\(', (ROOT / "csrc" / "library.cpp").read_text())
    assert sorted(OPS) == sorted(set(schemas) - set(WITHOUT_CUDA_KERNELS))
    for op in OPS:
        for layout in FORMATS:
            for pool in POOLS:
                input, function = call_of(op, "cpu", layout, pool)
                expected = copies(function(input))
                assert any(tensor.count_nonzero() for tensor in expected)
                different = copies(function(torch.zeros_like(input)))
                assert any(not torch.equal(a, b) for a, b in zip(expected, different, strict=True)), op


@pytest.mark.parametrize("case", list(cases.all_cases()), ids=str)
def test_cpu_and_cuda_agree_to_the_bit(case, cuda):
    assert cases.differences(case, cuda) == []


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize(("scale", "kernel"), [(2, 4), (8, 16), (32, 64), (3, 5), (2, 7)])
def test_upsampling_is_stock_s_within_rounding(scale, kernel, layout, dtype, cuda):
    x, weight = layout(normal((2, 21, 9, 12), dtype)), normal((21, 1, kernel, kernel), dtype, seed=1)
    addend = layout(normal((2, 21, 9 * scale, 12 * scale), dtype, seed=2))
    on_cuda = [tensor.to(cuda) for tensor in (x, weight, addend)]
    assert segext.explain(own.conv_transpose2d, *on_cuda[:2], stride=scale, groups=21).startswith("segext")
    whole = stock.conv_transpose2d(x.double(), weight.double(), None, scale, groups=21)
    crop = whole[..., 1 : 1 + 8 * scale, 2 : 2 + 11 * scale]
    tolerance = {"rtol": 0, "atol": {8: 1e-12, 4: 1e-4, 2: 0.15}[x.element_size()]}
    fused = {"stride": scale, "groups": 21, "crop": (1, 2), "output_size": crop.shape[-2:]}
    for actual, expected in (
        (own.conv_transpose2d(*on_cuda[:2], stride=scale, groups=21), whole),
        (own.conv_transpose2d_add(*on_cuda, **fused), crop + addend[..., : crop.shape[-2], : crop.shape[-1]].double()),
    ):
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.cpu().double(), expected, **tolerance)
    labels, scores = own.conv_transpose2d_argmax(*on_cuda[:2], **fused, return_scores=True)
    chosen = crop.gather(1, labels.cpu().long()[:, None])[:, 0]
    torch.testing.assert_close(chosen, crop.amax(1), **tolerance)
    torch.testing.assert_close(scores.cpu().double(), chosen, **tolerance)


def test_upsampling_trains(cuda):
    x, weight, bias = (normal(shape, torch.float64) for shape in ((2, 5, 6, 7), (5, 1, 4, 4), (5,)))
    grads = []
    for function, device in ((stock.conv_transpose2d, "cpu"), (own.conv_transpose2d, cuda)):
        leaves = [tensor.to(device).requires_grad_() for tensor in (x, weight, bias)]
        output = function(*leaves, stride=2, padding=1, groups=5)
        grads.append([grad.cpu() for grad in torch.autograd.grad(output, leaves, output.detach().sin())])
    for expected, actual in zip(*grads, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("transposed", [True, False], ids=["transposed", "plain"])
@pytest.mark.parametrize("channels", [(32, 64), (21, 33), (128, 128)], ids=str)
def test_unpooling_and_convolution_is_stock_s_within_rounding(channels, transposed, layout, dtype, cuda):
    """In one, forward and backward, beside the two in sequence in float64."""
    inputs, outputs = channels
    values, switches = own.max_pool2d(layout(normal((2, inputs, 35, 46), dtype)), 2, return_indices=True)
    weight = normal((inputs, outputs, 3, 3) if transposed else (outputs, inputs, 3, 3), dtype, seed=1) / inputs**0.5
    bias = normal((outputs,), dtype, seed=2)
    fused, convolve = (
        (own.unpool_conv_transpose2d, stock.conv_transpose2d) if transposed else (own.unpool_conv2d, stock.conv2d)
    )
    exact = [x.detach().double().requires_grad_() for x in (values, weight, bias)]
    leaves = [x.detach().to(cuda).requires_grad_() for x in (values, weight, bias)]
    expected = convolve(own.max_unpool2d(exact[0], switches), *exact[1:], 1, 1)
    grad = layout(normal(expected.shape, dtype, seed=3))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        actual = fused(leaves[0], switches.to(cuda), *leaves[1:], padding=1)
        assert type(actual.grad_fn).__name__ == "_UnpoolConv2dBackward"
        results = actual, *torch.autograd.grad(actual, leaves, grad.to(cuda))
    for one, other in zip(results, (expected, *torch.autograd.grad(expected, exact, grad.double())), strict=True):
        assert one.dtype == dtype
        error = one.detach().cpu().double() - other.detach()
        assert error.norm() / other.detach().norm() <= {8: 1e-12, 4: 1e-5, 2: 1e-2}[dtype.itemsize]
        if one is actual:  # no single element is wrong
            assert error.abs().max() / other.detach().abs().max() <= {8: 1e-12, 4: 1e-5, 2: 1e-2}[dtype.itemsize]


def loss_call(device, dtype=torch.float32, layout=contiguous, scale=2, kernel=4):
    """Arguments of the loss of upsampled scores, targets that are ignored among them, and its options."""
    x, weight, bias = (
        normal(shape, dtype, seed=k) for k, shape in enumerate(((2, 21, 9, 12), (21, 1, kernel, kernel), (21,)))
    )
    generator = torch.Generator().manual_seed(3)
    target = torch.randint(0, 21, (2, 8 * scale, 11 * scale), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    class_weight = torch.rand(21, generator=generator).to(device, dtype)
    options = {"stride": scale, "groups": 21, "crop": (1, 2), "ignore_index": 255, "class_weight": class_weight}
    return (layout(x).to(device), weight.to(device), target.to(device), bias.to(device)), options


@pytest.mark.parametrize("dtype", FLOATS, ids=name)
@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize(("scale", "kernel"), [(2, 4), (8, 16), (32, 64), (3, 5), (2, 7)])
def test_the_loss_is_the_cpu_s_within_rounding(scale, kernel, layout, dtype, cuda):
    tolerance = {8: 1e-12, 4: 1e-5, 2: 2e-2}[dtype.itemsize]
    for options in ({}, {"reduction": "none", "label_smoothing": 0.1}):
        results = []
        for device in ("cpu", cuda):
            (x, weight, target, bias), rest = loss_call(device, dtype, layout, scale, kernel)
            leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
            loss = own.conv_transpose2d_cross_entropy(x, weight, target, bias, **rest, **options)
            grad = normal(loss.shape, loss.dtype, seed=5).to(device)
            results.append((loss.detach(), *torch.autograd.grad(loss, leaves, grad)))
        for expected, actual in zip(*results, strict=True):
            assert (actual.dtype, actual.stride()) == (expected.dtype, expected.stride())
            error = (actual.cpu().double() - expected.double()).norm() / expected.double().norm()
            assert error <= tolerance


def test_targets_out_of_range(cuda):
    """An error on the host; where that cannot look, ignored."""
    (x, weight, target, bias), options = loss_call(cuda)
    x.requires_grad_()

    def step():
        loss = own.conv_transpose2d_cross_entropy(x, weight, target, bias, **options)
        return loss.detach(), *torch.autograd.grad(loss, x)

    expected = step()
    ignored = target == 255
    for invalid in (21, -1, 2**40):
        target[ignored] = invalid
        with pytest.raises(IndexError, match=rf"^Target {invalid} is out of bounds\.$"):
            step()
        with own.set_index_check(False):
            assert_all_same(step(), expected)
            graph, result = captured(step)
        graph.replay()
        assert_all_same(result, expected)


@pytest.mark.parametrize("requires_grad", [True, False])
def test_memory_that_there_is_not(requires_grad, cuda):
    """Torch's error, by which training loops recognise it."""
    values, switches = own.max_pool2d(torch.ones(1, 1, 4, 4, device=cuda), 2, return_indices=True)
    values.requires_grad_(requires_grad)
    arguments = (switches.codes, (2**20, 2**20), (2, 2), (2, 2), (0, 0), (1, 1), False)
    message = r"^segext: cannot allocate .* on cuda:\d+: CUDA out of memory"
    for call in (ops.max_unpool2d, torch.ops.segext.max_unpool2d):
        with pytest.raises(torch.OutOfMemoryError, match=message):
            call(values, *arguments)


@pytest.mark.parametrize("invalid", [None, 21])
def test_the_check_of_targets_waits_while_the_loss_runs(invalid, cuda, monkeypatch):
    """Targets arrive late, on a side stream: the loss is queued before they do, and its end is not waited for."""
    (x, weight, target, bias), options = loss_call(cuda)
    arriving = target.clone()
    if invalid is not None:
        arriving[0, 3, 5] = invalid
    launch, before, after = ops.depthwise_conv_transpose2d_cross_entropy, torch.cuda.Event(), torch.cuda.Event()
    arrived_at_launch = []

    def late_launch(*arguments):
        results = launch(*arguments)
        arrived_at_launch.append(before.query())
        torch.cuda._sleep(CYCLES)
        after.record()
        return results

    def loss():
        return own.conv_transpose2d_cross_entropy(x, weight, target, bias, **options)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        loss()  # so that what is loaded and allocated once is there
        target.fill_(-1)
    monkeypatch.setattr(ops, "depthwise_conv_transpose2d_cross_entropy", late_launch)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(CYCLES)
        target.copy_(arriving)
        before.record()
        torch.cuda.set_sync_debug_mode("error")  # tells of every wait but that for an event
        try:
            if invalid is None:
                actual = loss()
            else:
                with pytest.raises(IndexError, match=rf"^Target {invalid} is out of bounds\.$"):
                    loss()
            arrived, done = before.query(), after.query()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert arrived_at_launch == [False]
    assert arrived
    assert not done
    stream.synchronize()
    if invalid is None:
        monkeypatch.undo()
        assert_same(actual, loss())


@pytest.mark.parametrize("invalid", [None, 21])
def test_the_check_of_targets_waits_behind_the_backward_pass(invalid, cuda, monkeypatch):
    """Targets arrive late: gradients are queued before they do, and the error is backward()'s."""
    (x, weight, target, bias), options = loss_call(cuda)
    x.requires_grad_()
    arriving = target.clone()
    if invalid is not None:
        arriving[0, 3, 5] = invalid
    launch, before = ops.depthwise_conv_transpose2d_cross_entropy_backward, torch.cuda.Event()
    arrived_at_launch = []

    def late_launch(*arguments):
        results = launch(*arguments)
        arrived_at_launch.append(before.query())
        return results

    def loss():
        return own.conv_transpose2d_cross_entropy(x, weight, target, bias, **options)

    loss().backward()  # so that what is loaded and allocated once is there
    target.fill_(-1)
    monkeypatch.setattr(ops, "depthwise_conv_transpose2d_cross_entropy_backward", late_launch)
    torch.cuda.synchronize()
    torch.cuda._sleep(CYCLES)
    target.copy_(arriving)
    before.record()
    value = loss()
    if invalid is None:
        value.backward()
    else:
        with pytest.raises(IndexError, match=rf"^Target {invalid} is out of bounds\.$"):
            value.backward()
    assert arrived_at_launch == [False]
    assert before.query()


def test_a_loss_may_die_during_a_capture(cuda):
    """With the check of its targets still waiting for a backward pass: to wait for it now would end the capture."""
    (x, weight, target, bias), options = loss_call(cuda)
    x.requires_grad_()

    def loss():
        return own.conv_transpose2d_cross_entropy(x, weight, target, bias, **options)

    value, expected = loss(), loss().detach()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = loss()
    graph.replay()
    assert_same(value.detach(), expected)


def test_a_graph_captures_the_loss(cuda):
    """Without the check of targets: a capture cannot wait for values."""
    (x, weight, target, bias), options = loss_call(cuda)
    graph, loss = captured(lambda: own.conv_transpose2d_cross_entropy(x, weight, target, bias, **options))
    target[0, 0, 0] = 21
    graph.replay()
    target[0, 0, 0] = 255
    assert_same(loss, own.conv_transpose2d_cross_entropy(x, weight, target, bias, **options))


@pytest.mark.parametrize("op", OPS)
def test_the_current_stream_is_used(op, cuda):
    """The input arrives on a side stream, late: work on any other would find zeros."""
    input, function = call_of(op, cuda)
    expected, arriving = copies(function(input)), input.clone()
    input.zero_()
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(CYCLES)
        input.copy_(arriving)
        actual = copies(function(input))
    stream.synchronize()
    assert_all_same(actual, expected)


@pytest.mark.parametrize("op", OPS)
def test_the_host_does_not_wait(op, cuda):
    input, function = call_of(op, cuda)
    function(input)
    torch.cuda.synchronize()
    slept = torch.cuda.Event()
    torch.cuda._sleep(CYCLES)
    slept.record()
    torch.cuda.set_sync_debug_mode("error")
    try:
        function(input)
        waited = slept.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not waited


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_training_does_not_wait(pool, cuda):
    x = normal(SHAPE).to(cuda).requires_grad_()
    train(pool, x)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        train(pool, x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_only_the_check_of_indices_waits(cuda):
    pooled, switches = own.max_pool2d(normal(SHAPE).to(cuda), 2, return_indices=True)
    indices = switches.indices()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            own.max_unpool2d(pooled, indices, 2)
        with own.set_index_check(False):
            unpooled = own.max_unpool2d(pooled, indices, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_same(unpooled, own.max_unpool2d(pooled, switches))


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("op", OPS)
def test_memory_is_taken_for_results_alone(op, layout, cuda):
    input, function = call_of(op, cuda, layout)
    given = {input.untyped_storage().data_ptr()}
    if op.endswith("_out"):
        given.add(function(input).untyped_storage().data_ptr())
    function(input)

    def taken():
        stats = torch.cuda.memory_stats()
        return stats["allocation.all.allocated"], stats["requested_bytes.all.allocated"]

    before = taken()
    results = [t for t in tensors(function(input)) if t.untyped_storage().data_ptr() not in given]
    count, nbytes = (after - earlier for after, earlier in zip(taken(), before, strict=True))
    nbytes -= sum(tensor.nbytes for tensor in results)
    if op in WITH_PARTS:
        assert count == len(results) + WITH_PARTS[op]
        assert nbytes < SHAPE[0] * SHAPE[1] * math.prod(LARGE.upsampled) * input.element_size()
    else:
        assert count == len(results) + (op in SCRATCH)
        assert nbytes == SCRATCH.get(op, 0)


def test_the_peak_of_pooling_and_its_backward(cuda):
    """Beyond input and gradients: the pooled map and a quarter of a byte an element."""
    x = normal((4, 64, 64, 64)).to(cuda).requires_grad_()
    grad = torch.ones(4, 64, 32, 32, device=cuda)
    torch.autograd.grad(own.max_pool2d(x, 2), x, grad)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    (grad_x,) = torch.autograd.grad(own.max_pool2d(x, 2), x, grad)
    peak = torch.cuda.memory_stats()["requested_bytes.all.peak"] - before
    assert peak == grad_x.nbytes + grad.nbytes + grad.numel() // 4


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_the_same_bits_on_every_run(op, pool, layout, cuda):
    input, function = call_of(op, cuda, layout, pool, torch.bfloat16)
    first = copies(function(input))
    for _ in range(5):
        assert_all_same(function(input), first)


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_determinism_can_be_required(pool, cuda, deterministic):
    x = hard_values(SHAPE, torch.float32).to(cuda).requires_grad_()
    assert_all_same(train(pool, x), train(pool, x))


@pytest.mark.parametrize("layout", FORMATS, ids=name)
@pytest.mark.parametrize("op", OPS)
def test_a_graph_replays_each_op(op, layout, cuda):
    input, function = call_of(op, cuda, layout)
    expected, arriving = copies(function(input)), input.clone()
    input.zero_()
    graph, result = captured(function, input)
    for tensor in tensors(result):
        tensor.fill_(1)
    input.copy_(arriving)
    graph.replay()
    assert_all_same(result, expected)


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_a_graph_replays_training(pool, cuda):
    x = normal(SHAPE).to(cuda).requires_grad_()
    graph, result = captured(lambda: train(pool, x))
    arriving = hard_values(SHAPE, torch.float32, seed=5).to(cuda)
    with torch.no_grad():
        x.copy_(arriving)
    graph.replay()
    assert_all_same(result, train(pool, arriving.requires_grad_()))


def test_a_graph_captures_unpooling_by_indices(cuda):
    """Without the check: a capture cannot wait for values, and an index out of range places nothing."""
    pooled, switches = own.max_pool2d(normal(SHAPE).to(cuda), 2, return_indices=True)
    indices = switches.indices()
    graph, unpooled = captured(own.max_unpool2d, pooled, indices, 2)
    indices[0, 0, 0, 0] = SHAPE[-1] * SHAPE[-2]
    graph.replay()
    expected = own.max_unpool2d(pooled, switches)
    expected[0, 0, :2, :2] = 0
    assert_same(unpooled, expected)


@pytest.mark.slow
@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_compiled(layout, cuda):
    x = layout(normal(SHAPE).to(cuda)).requires_grad_()

    def step(x):
        pooled, switches = own.max_pool2d(x, 2, return_indices=True)
        return own.relu_max_pool2d(own.max_unpool2d(pooled * 2, switches), 2)

    def trained(function):
        output = function(x)
        return output.detach(), *torch.autograd.grad(output, x, torch.ones_like(output))

    torch._dynamo.reset()
    assert_all_same(trained(torch.compile(step, fullgraph=True)), trained(step))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=name)
@pytest.mark.parametrize("autocast", [torch.float16, torch.bfloat16], ids=name)
def test_autocast_keeps_the_type(autocast, dtype, cuda):
    x = normal(SHAPE, dtype).to(cuda)
    with torch.autocast("cuda", dtype=autocast):
        pooled, switches = own.max_pool2d(x, 2, return_indices=True)
        rectified = own.relu_max_pool2d(x, 2)
        unpooled = own.max_unpool2d(pooled, switches)
    assert pooled.dtype == rectified.dtype == unpooled.dtype == dtype


def test_an_error_leaves_the_device_usable(cuda):
    """What is wrong is found on the host, before anything is launched."""
    x = normal(SHAPE).to(cuda)
    pooled, switches = own.max_pool2d(x, 2, return_indices=True)
    short = Switches(switches.codes[:, :-1], switches.shape, switches.input_size, *switches.window)
    with pytest.raises(RuntimeError, match="codes"):
        own.max_unpool2d(pooled, short)
    with pytest.raises(RuntimeError, match="shape"):
        own.max_unpool2d(pooled[:, :, 1:], switches)
    with pytest.raises(RuntimeError, match="device"):
        own.max_unpool2d(pooled, switches.to("cpu"))
    with pytest.raises(RuntimeError, match="out"):
        own.max_unpool2d(pooled, switches, out=torch.empty(1, 2, 3, 4, device=cuda))
    with pytest.raises(RuntimeError, match="too small"):
        own.max_pool2d(x, 64)
    torch.cuda.synchronize()
    assert_all_same(own.max_pool2d(x, 2), own.max_pool2d(x.cpu(), 2))


def test_codes_of_any_bytes_stay_inside(cuda):
    """Codes that name no pixel, or one of another window, touch nothing outside: the same zeros as on the CPU."""
    for pool in (Pool(3, 2, 1), Pool((5, 3), 2)):
        pooled, switches = own.max_pool2d(normal(SHAPE).to(cuda), *pool, return_indices=True)
        switches.codes.random_(generator=torch.Generator(cuda).manual_seed(0))
        unpooled = own.max_unpool2d(pooled, switches)
        assert_same(unpooled, own.max_unpool2d(pooled.cpu(), switches.to("cpu")))


def test_a_device_has_its_index(cuda):
    pooled, switches = own.max_pool2d(normal(SHAPE).to("cuda:0"), 2, return_indices=True)
    assert pooled.device == switches.device == torch.device("cuda:0")
    assert own.max_unpool2d(pooled, switches).device == torch.device("cuda:0")


@pytest.mark.parametrize("op", OPS)
def test_the_tensors_device_is_used_not_the_current_one(op, cuda):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs a second GPU")
    (first, on_first), (second, on_second) = (call_of(op, f"cuda:{index}") for index in range(2))
    results = tensors(on_second(second))
    assert torch.cuda.current_device() == 0
    assert {tensor.device.index for tensor in results} == {1}
    assert_all_same(results, on_first(first))


@pytest.mark.slow
@pytest.mark.xdist_group("memory")
@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_more_than_2_31_elements_by_indices_and_backward(layout, cuda):
    """What test_large_maps leaves out: the fused pool, the pool's backward, and unpooling by int64 indices."""
    free, _ = torch.cuda.mem_get_info()
    if free < 36 * 2**30:
        pytest.skip("needs 36 GiB of free memory")
    shape = (3, 4, 13380, 13380)
    memory_format = torch.channels_last if layout is channels_last else torch.contiguous_format
    x = torch.empty(shape, dtype=torch.float16, device=cuda, memory_format=memory_format).fill_(-1)
    assert x.numel() > 2**31
    places = [(0, 0, 1, 0), (1, 2, 6000, 6001), (2, 3, 13379, 13379)]
    for value, place in enumerate(places, 1):
        x[place] = value
    pooled, switches = own.relu_max_pool2d(x.requires_grad_(), 2, return_indices=True)
    (grad,) = torch.autograd.grad(pooled, x, torch.ones_like(pooled))
    assert grad.count_nonzero() == len(places)
    assert [grad[place].item() for place in places] == [1] * len(places)
    del grad, x
    unpooled = ops.max_unpool2d_indices(pooled.detach(), switches.indices(), shape[-2:], layout is channels_last)
    assert unpooled.count_nonzero() == len(places)
    assert [unpooled[place].item() for place in places] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.xdist_group("memory")
@pytest.mark.parametrize("layout", FORMATS, ids=name)
def test_more_than_2_31_elements_of_unpooling_and_convolution(layout, cuda):
    """In the pooled map and in the result."""
    free, _ = torch.cuda.mem_get_info()
    if free < 16 * 2**30:
        pytest.skip("needs 16 GiB of free memory")
    shape, outputs = (3, 64, 3400, 3400), 16
    memory_format = torch.channels_last if layout is channels_last else torch.contiguous_format
    x = torch.empty(shape, dtype=torch.bfloat16, device=cuda, memory_format=memory_format).zero_()
    places = [(0, 0, 1, 1), (1, 31, 1700, 1701), (2, 63, 3399, 3399)]
    for value, place in enumerate(places, 1):
        x[place] = value
    codes = torch.zeros(shape[0], x[0].numel() // 4, dtype=torch.uint8, device=cuda)
    weight = torch.ones(shape[1], outputs, 3, 3, dtype=torch.bfloat16, device=cuda)
    size = (2 * shape[2], 2 * shape[3])
    output = ops.unpool_conv2d(x, codes, weight, None, None, size, (1, 1), True, layout is channels_last)
    assert min(x.numel(), output.numel()) > 2**31
    assert output.count_nonzero() == len(places) * outputs * 9
    for value, (sample, _, row, column) in enumerate(places, 1):
        reached = output[sample, :, 2 * row - 1 : 2 * row + 2, 2 * column - 1 : 2 * column + 2]
        assert reached.eq(value).all()
