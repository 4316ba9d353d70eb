"""The benchmarks themselves: what they count, how they reckon, that they stop at a wrong result, and that they run."""

import dataclasses
import gc
import json
import time

import pytest
import torch

pytest.importorskip("matplotlib")

import segext
from benchmarks import (
    calls,
    contest,
    decoding,
    harness,
    inputs,
    limits,
    memory,
    networks,
    pooling,
    scaling,
    stream,
    targets,
    throughput,
    upsampling,
)
from benchmarks.__main__ import main
from benchmarks.harness import CheckFailed, Pace, Summary
from benchmarks.pooling import Subject
from benchmarks.progress import Progress
from benchmarks.results import Results

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """Every measurement collects garbage first: not among the objects of all modules and tests, which takes longest."""
    gc.freeze()
    yield
    gc.unfreeze()


# ---- Reckoning -----------------------------------------------------------------------------------------------------


def test_median_and_quartiles():
    assert Summary.of([5.0, 1.0, 4.0, 2.0, 3.0]) == Summary(3.0, 2.0, 4.0, 5)
    assert Summary.of([1.0, 2.0, 3.0, 10.0]) == Summary(2.5, 1.75, 4.75, 4)
    assert Summary.of([7.0]) == Summary(7.0, 7.0, 7.0, 1)


def test_ratio_is_taken_of_neighbours():
    """A machine that slows down threefold halfway changes no ratio."""
    ours = [1.0, 1.0, 3.0, 3.0, 3.0]
    stock = [2.0, 2.0, 6.0, 6.0, 6.0]
    assert harness.ratio(stock, ours) == Summary(2.0, 2.0, 2.0, 5)


def fake_clock(costs):
    """A clock by which entry `name` costs costs[name] ns; calls record their names."""
    log = []

    def clock(call, calls):
        log.append((call(), calls))
        return costs[log[-1][0]]

    return clock, log


def test_measure_interleaves_and_repeats_short_calls():
    clock, log = fake_clock({"short": 2_000, "long": 10_000_000})
    contest = {name: (lambda name=name: name) for name in ("short", "long")}
    samples = harness.measure(contest, 1e-9, clock=clock, fewest=4, most=9)
    assert samples == {"short": [2_000] * 4, "long": [10_000_000] * 4}
    measured = log[4:]  # after two calls each to warm up
    assert all({measured[n][0], measured[n + 1][0]} == {"short", "long"} for n in range(0, 8, 2))
    assert {calls for name, calls in measured if name == "short"} == {100}
    assert {calls for name, calls in measured if name == "long"} == {1}


def test_measure_makes_fewer_calls_of_what_turns_out_slow():
    costs = {"a": 1_000}
    clock, log = fake_clock(costs)

    def slow():
        costs["a"] = 10_000_000
        return "a"

    harness.measure({"a": slow}, 1e-9, clock=lambda call, calls: min(clock(call, calls), 1e7), fewest=3, most=3)
    assert [calls for _, calls in log][-1] == 1


def test_measure_makes_do_with_fewer_repetitions_when_late():
    clock, _ = fake_clock({"a": 1_000})
    assert len(harness.measure({"a": lambda: "a"}, 0.0, clock=clock)["a"]) == harness.FEWEST_WHEN_LATE


def test_measure_stops_at_most():
    clock, _ = fake_clock({"a": 1_000})
    assert len(harness.measure({"a": lambda: "a"}, 60.0, clock=clock, fewest=1, most=6)["a"]) == 6


def test_pace_hands_on_what_is_left():
    now = [0.0]
    pace = Pace(10.0, 4, now=lambda: now[0])
    assert pace.allot() == pytest.approx(2.5)
    now[0] = 1.0  # took less
    assert pace.allot(2) == pytest.approx(6.0)
    now[0] = 11.0  # late
    assert pace.allot() == 0.0


# ---- Counting ------------------------------------------------------------------------------------------------------


def test_switch_bytes_of_deconvnet():
    row = memory.switch_bytes(networks.DECONVNET)
    assert (row.int64, row.int32, row.uint8, row.packed) == (12_242_944, 6_121_472, 1_530_368, 382_592)
    assert row.exact


@pytest.mark.parametrize(
    ("network", "sizes"),
    [
        (networks.SEGNET, [(360, 480), (180, 240), (90, 120), (45, 60), (23, 30)]),
        (networks.FCN8S, [(698, 698), (349, 349), (175, 175), (88, 88), (44, 44)]),
    ],
    ids=["SegNet", "FCN-8s"],
)
def test_sizes_of_networks(network, sizes):
    assert [(pool.height, pool.width) for pool in network.pools] == sizes


def test_saved_rows_agree_with_arithmetic():
    row = memory.saved_row(networks.Network("small", (networks.Pool("pool", 4, 16, 16),)))
    assert row.stock == 4 * 256 * 4 + 4 * 64 * 8
    assert row.pool == 4 * 256 * 4 + 4 * 64 // 4
    assert row.relu_pool == row.switches_and_output == 4 * 64 * 4 + 4 * 64 // 4


def test_peak_bytes_are_what_is_held_at_once():
    """A product of two sums: three maps, of which none is the result."""
    x = torch.ones(4_000_000)

    def dot():
        return ((x + 1) * (x + 2)).sum()

    dot()
    assert memory.peak_bytes(dot) == pytest.approx(3 * x.nbytes, rel=0.1)
    assert memory.peak_bytes(lambda: x + 1) < 0.1 * x.nbytes


# ---- Inputs and checks -----------------------------------------------------------------------------------------------


def test_feature_maps_are_those_of_the_pools_and_always_the_same():
    images = inputs.load(None)
    maps = inputs.feature_maps(images, networks.DECONVNET, 2)
    assert [tuple(map.shape) for map in maps] == [(2, p.channels, p.height, p.width) for p in networks.DECONVNET.pools]
    assert all(map.isfinite().all() and map.std() > 0.01 for map in maps)
    assert not torch.equal(maps[0][0], maps[0][1])
    assert torch.equal(maps[-1], inputs.feature_maps(images, networks.DECONVNET, 2)[-1])


def test_images_of_a_folder(tmp_path):
    from matplotlib.image import imsave

    imsave(tmp_path / "a.png", torch.rand(40, 30, 3).numpy())
    imsave(tmp_path / "b.png", torch.rand(20, 50, 3).numpy())
    images = inputs.load(tmp_path)
    assert [tuple(image.shape) for image in images] == [(3, 40, 30), (3, 20, 50)]
    assert inputs.batch(images, 5, 24, 32).shape == (5, 3, 24, 32)


def test_a_folder_without_images_is_an_error(tmp_path, capsys):
    assert main(["ops", "--quick", "--images", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "no image" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("op", [*pooling.FRESH, *pooling.INTO], ids=lambda op: op.name)
def test_checks_tell_right_from_wrong(op):
    """On a map of random values each op passes; with the switches of another map, or another ReLU, it does not."""
    pool = networks.Pool("pool", 5, 9, 14, ceil_mode=True)
    map = torch.randn(2, 5, 9, 14, generator=torch.Generator().manual_seed(0))
    good, other = (Subject.of(pool, x, torch.float32, "channels_last") for x in (map, map.flip(-1)))
    op.check(good)
    fields = {name: getattr(good, name) for name in Subject.__dataclass_fields__}
    if op in (pooling.POOL, pooling.RELU_POOL):
        with pytest.raises(CheckFailed, match="reference"):
            pooling._check_pool(good, *pool_that_lies(op, good))
    elif op is pooling.POOL_BACKWARD:
        with pytest.raises(CheckFailed, match="gradients differ"):
            pooling._check_pool_backward(good.grad_map, good)
    else:
        with pytest.raises(CheckFailed, match="differ"):
            op.check(Subject(**{**fields, "switches": other.switches}))


def pool_that_lies(op, subject):
    """The arguments of _check_pool with a reference that takes minima."""
    own, by_reference = pooling.own.max_pool2d, pooling.reference.max_pool2d
    stock, input = pooling._stock_pool(subject), subject.map
    if op is pooling.RELU_POOL:
        own, stock, input = pooling.own.relu_max_pool2d, pooling._stock_relu_pool(subject), subject.before_relu
    return own, lambda x, *window: by_reference(-x, *window), input, stock


def test_a_wrong_result_stops_the_run(monkeypatch, tmp_path, capsys):
    def wrong(subject):
        raise CheckFailed("maxima differ from stock's")

    broken = pooling.Op("pool", pooling.POOL.calls, wrong)
    monkeypatch.setattr(throughput, "FRESH", (broken,))
    for before in (calls, contest, limits, scaling, stream):
        monkeypatch.setattr(before, "run", lambda *arguments, **more: [])
    assert main(["ops", "--quick", "--seconds", "0", "--output", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "Wrong result" in message
    assert "pool, DeconvNet 224x224 pool1, batch 1, float32 NCHW: maxima differ" in message
    assert not (tmp_path / "out").exists()


def test_stock_that_is_miscompiled_is_left_out_with_a_note(monkeypatch):
    """Inductor has given wrong gradients; that is no fault of segext's, and no reason to end."""

    def miscompiled(function):
        return function if function is pool.segext else lambda *arguments: tuple(2 * x for x in function(*arguments))

    (pool,) = [op for op in calls.OPS if op.name == "pool"]
    monkeypatch.setattr(calls, "OPS", (pool,))
    monkeypatch.setattr(calls, "compiled", miscompiled)
    monkeypatch.setattr(harness, "measure", lambda contest, seconds: {name: [1.0] for name in contest})
    notes = []
    rows = list(calls.run(600, Progress(), compile=True, notes=notes))
    assert len(notes) == 4
    assert notes[0] == f"stock's pool on {calls.SMALL}, compiled, gives another result than eager: left out"
    assert {row.compiled for row in rows} == {False}

    monkeypatch.setattr(pooling, "compiled", miscompiled)
    subject = Subject.of(networks.DECONVNET.pools[0], torch.randn(1, 2, 8, 8), torch.float32, "NCHW")
    notes = []
    assert not throughput._compile(pooling.POOL, {"NCHW": subject}, time.monotonic() + 60, notes)
    assert notes == ["stock's pool float32 NCHW, compiled, gives another result than eager: left out"]


# ---- The run -------------------------------------------------------------------------------------------------------


def test_full_plan_covers_what_the_targets_name():
    works = throughput.plan(quick=False)
    (key,) = {(work.batch, work.pool.channels, work.pool.height, work.pool.width) for work in works if work.key}
    assert key == (4, 64, 224, 224)
    assert {work.dtype for work in works if work.key} == {"float32", "bfloat16"}
    timed = {op.name for work in works for op in work.ops}
    named = {op for op, *_ in (*targets.STOCK, *targets.COMPILED)} | set(targets.COPIED)
    assert named <= timed


def test_quick_run(tmp_path, capsys):
    assert main(["--quick", "--seconds", "0", "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for title in (
        "grace_hopper.jpg; options: --seconds 0 --quick",
        "Every op on (1, 64, 224, 224)",
        "Upsampling of class scores",
        "What a call costs",
        "Bytes of all switches",
        "Targets:",
    ):
        assert title in text
    assert (tmp_path / "report.txt").read_text() in text
    for name in ("report.png", "memory.png", "scaling.png", "roofline.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG)
    page = (tmp_path / "report.html").read_text()
    assert "Made by <code>python -m benchmarks ops --seconds 0 --quick</code>" in page
    content = json.loads((tmp_path / "results.json").read_text())
    assert {"processor", "cores", "threads", "torch", "segext", "instruction set", "commit"} <= set(
        content["environment"]
    )
    rows = content["throughput"]
    assert {row["format"] for row in rows} == {"NCHW", "channels_last"}
    for row in rows:
        ours = row["times"][f"segext {row['format']}"]
        assert ours["samples"] >= harness.FEWEST_WHEN_LATE
        assert ours["low"] <= ours["median"] <= ours["high"]
        pooled = row["bytes_moved"] / (row["batch"] * row["channels"] * row["height"] * row["width"])
        size = {"float32": 4, "bfloat16": 2}[row["dtype"]]
        assert pooled == pytest.approx(size * 1.25 + 1 / 16, rel=0.05)
    assert content["targets"]
    upsampled = content["upsampling"]
    assert {row["op"] for row in upsampled} >= {
        upsampling.UPSAMPLING[8],
        upsampling.ADD,
        upsampling.ARGMAX,
        upsampling.LOSS[8],
    }
    for row in upsampled:
        if "loss" in row["op"]:
            assert 0 < row["peaks"][f"segext {row['format']}"] < row["peaks"]["stock NCHW"] / 20
    decoded = {row["op"]: row for row in content["decoding"]}
    assert set(decoded) == {decoding.UNPOOLING, decoding.UNPOOLING_TRAINS, decoding.dense_op(16, 8)}
    assert {(row["axis"], row["value"]) for row in content["scaling"]} == {
        *(("image", side) for side in (32, 36, 64, 68)),
        *(("batch", batch) for batch in (1, 2)),
    }
    assert {row["op"]: row["sizes"] for row in content["stream"]} == {op.name: 20 for op in stream.operations()}
    assert {row["what"]: row["most"] >= row["rate"]["median"] > 0 for row in content["limits"]} == {
        "memory": True,
        "float32": True,
    }
    assert {row["network"] for row in content["footprint"]} == {"FCN-8s", "DeconvNet"}
    assert {row["best"] for row in upsampled if "argmax" in row["op"]} <= {
        f"{way} {format}" for way in ("stock", "stock dense") for format in ("NCHW", "channels_last")
    }


CASES = [case for suite in (upsampling, decoding) for case in suite.cases(("float32",), quick=True)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.op)
def test_a_wrong_result_ends_the_run(case):
    """Whichever of its results it is."""

    def wrong(x):
        right = case.segext(x)
        return right.flip(-1) if isinstance(right, torch.Tensor) else (*right[:-1], right[-1].flip(-1))

    broken = dataclasses.replace(case, segext=wrong)
    with pytest.raises(CheckFailed, match=case.op.split(",")[0]), torch.enable_grad():
        list(contest.rows(broken, 0.0))


@pytest.mark.parametrize("op", stream.operations(), ids=lambda op: op.name)
def test_a_wrong_result_ends_a_stream(op):
    broken = dataclasses.replace(op, segext=lambda x: op.segext(x).flip(-1))
    with pytest.raises(CheckFailed, match=op.name.split(",")[0]):
        stream.row(broken, [(8, 9)], [(7, 8)])


class Quiet:
    """Progress that is not shown."""

    def step(self, what):
        pass


def test_every_stream_has_sizes_of_its_own(monkeypatch):
    given = []
    monkeypatch.setattr(stream, "row", lambda op, sizes, others: given.append([*sizes, *others]))
    list(stream.run(Quiet(), quick=False))
    assert len(given) == len(stream.operations())
    assert all(len(set(sizes)) == stream.SIZES + 5 for sizes in given)
    warm = set(given[0][-5:])
    assert all(not set(a) & set(b) - warm for k, a in enumerate(given) for b in given[:k])


def test_the_first_time_is_told_from_the_second(monkeypatch):
    seen, now = set(), [0]
    monkeypatch.setattr(stream.time, "perf_counter_ns", lambda: now[0])

    def prepares(x):
        now[0] += 10 if x.shape in seen else 50
        seen.add(x.shape)
        return x

    def needs_none(x):
        now[0] += 20
        return x

    found = stream.row(stream.Op("any", 1, prepares, needs_none), [(3, 4), (4, 3), (4, 4)], [(2, 2)])
    assert (found.segext.low, found.segext.high) == (5, 5)
    assert (found.stock.low, found.stock.high) == (1, 1)
    assert found.to_stock.median == 20 / 50


def test_switches_alone(tmp_path, capsys):
    assert main(["switches", "--quick", "--output", str(tmp_path)]) == 0
    assert "12,242,944" in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text())["throughput"] == []


@pytest.mark.parametrize("module", [upsampling, decoding], ids=["upsampling", "decoding"])
def test_reports_ask_whose_kernels_run(module, monkeypatch):
    cases = module.cases(("float32",), quick=True)
    assert cases
    monkeypatch.setattr(segext, "explain", lambda function, *_, **__: function.__name__)
    for case in cases:
        assert case.kernels(case.input).startswith(("conv_transpose2d", "unpool_conv_transpose2d")), case.op


def test_verdicts_of_fusions():
    """Speed against the fastest stock variant, and memory against the leanest."""
    three = Summary(3.0, 3.0, 3.0, 5)
    peaks = {"segext NCHW": 10, "stock NCHW": 300, "stock channels_last": 190, "segext channels_last": 1}
    op = upsampling.LOSS[8]
    ways = {"times": {}, "to_stock": three, "to_best": three, "best": "stock NCHW", "to_write": None, "to_copy": None}
    row = contest.Row(op, "map", "float32", "NCHW", 1, **ways, kernels="segext", peaks=peaks)
    found = {verdict.what: verdict for verdict in targets.verdicts(Results({}, upsampling=[row]))}
    assert found[f"{op} float32, vs best stock"].met
    less = found[f"{op}, less memory"]
    assert (less.met, less.measured) == (False, "19.00x")
    assert len(found) == 2


def test_verdicts():
    """The worst row counts, odd sizes have some slack, and what was not measured is no target."""
    one = Summary(1.0, 1.0, 1.0, 5)

    def row(suite, format, to_stock, to_copy):
        values = {"op": "unpool", "suite": suite, "network": "n", "pool": "p", "batch": 4, "channels": 64}
        values |= {"height": 2, "width": 2, "window": "2x2/2", "dtype": "float32", "format": format}
        values |= {"bytes_moved": 1, "times": {}, "to_best": one, "best": "stock NCHW", "to_compiled": None}
        return throughput.Row(**values, to_stock=Summary(to_stock, 0.0, 9.0, 5), to_copy=Summary(to_copy, 0.0, 9.0, 5))

    rows = [row("key", "NCHW", 3.0, 1.3), row("key", "channels_last", 2.0, 1.3), row("odd", "NCHW", 1.7, 2.0)]
    found = {verdict.what: verdict for verdict in targets.verdicts(Results({}, throughput=rows))}
    speed = found["unpool float32, vs stock, (4, 64, 224, 224)"]
    assert (speed.met, speed.measured, speed.met_by, speed.count) == (False, "2.00x", 1, 2)
    assert "channels_last" in speed.where
    assert found["unpool float32, vs stock, odd sizes"].met
    assert found["unpool, in copies of its bytes, (4, 64, 224, 224)"].met
    assert found["unpool, in copies of its bytes, odd sizes"].met
    assert len(found) == 4
