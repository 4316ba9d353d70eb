"""``segext.convert``: layers and forwards that are left as they are, and the reasons that the report gives."""

import inspect
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from networks import (
    Branching,
    ByMode,
    ByType,
    DataDependent,
    DownByDevice,
    ENet,
    Pooling,
    assert_same,
    described,
    image,
    reason,
    types,
)
from torch import nn

import segext

pytestmark = pytest.mark.usefixtures("one_thread")


class MyPool(nn.MaxPool2d):
    pass


def test_subclasses_are_left():
    converted, report = segext.convert(nn.Sequential(nn.ReLU(), MyPool(2)))
    assert types(converted)[1:] == [nn.ReLU, MyPool]
    assert described(report, "left") == {("1", "MyPool", "")}
    assert reason(report, "1") == "a subclass may do something else"


class Indices(nn.Module):
    """A pool whose indices meet ``use``."""

    def __init__(self, use, unpool=(2, 2)):
        super().__init__()
        self.conv, self.use = nn.Conv2d(3, 4, 3, padding=1), use
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(*unpool)

    def forward(self, x):
        x, indices = self.pool(self.conv(x))
        return self.use(self, x, indices)


class FunctionalIndices(Indices):
    def forward(self, x):
        x, indices = F.max_pool2d(self.conv(x), 2, return_indices=True)
        return self.use(self, x, indices)


def returned(m, x, i):
    return x, i


def returned_in_a_dict(m, x, i):
    return [{"x": x, "indices": i}["indices"], x]


def arithmetic(m, x, i):
    return m.unpool(x, i + 0)


def converted_to_long(m, x, i):
    return m.unpool(x, i), i.long()


def gathered(m, x, i):
    return x.flatten(2).gather(2, i.flatten(2) % 4)


def indexed(m, x, i):
    return m.unpool(x[:1], i[:1])


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("use", [returned, returned_in_a_dict, arithmetic, converted_to_long, gathered, indexed])
def test_indices_used_elsewhere(use, functional):
    model = (FunctionalIndices if functional else Indices)(use)
    converted, report = segext.convert(model)
    name = "forward:" if functional else "pool"
    expected = "its indices are returned" if use in (returned, returned_in_a_dict) else "its indices are used by"
    assert next(c for c in report.left if name in c.name).reason.startswith(expected)
    assert type(converted.pool) is nn.MaxPool2d
    assert_same(model, converted, image())


def plain(m, x, i):
    return m.unpool(x, i, output_size=(16, 24))


def test_windows_that_differ_are_left():
    model = Indices(plain, unpool=(3, 2, 1))
    converted, report = segext.convert(model)
    assert reason(report, "pool") == "its indices go to an unpooling of other windows"
    assert_same(model, converted, image())


def test_windows_that_overlap_are_left():
    model = Indices(plain, unpool=(3, 2, 1))
    model.pool = nn.MaxPool2d(3, 2, 1, return_indices=True)
    converted, report = segext.convert(model)
    assert reason(report, "pool").startswith("windows overlap")
    assert reason(report, "unpool") == "its indices come from no pool that is swapped"
    assert_same(model, converted, image())


def test_indices_through_blocks():
    _, report = segext.convert(ENet())
    names = {"initial_pool", "down1.main_max1", "down2.main_max1", "up4.main_unpool1", "up5.main_unpool1"}
    assert {c.name for c in report.swapped if "Pool" in c.after or "pool" in c.after} == names
    assert not report.left


def test_untraceable_forwards_still_have_their_layers_swapped():
    _, report = segext.convert(DataDependent())
    assert {c.name.split(":")[0] for c in report.swapped} == {"pool", "unpool", "forward"}
    assert {c.name for c in report.fused} == {"features.1 + features.2"}
    assert "control flow" in reason(report, "(model)")
    _, report = segext.convert(ENet(DownByDevice))
    assert {c.name for c in report.swapped if "Pool" in c.after} == {"initial_pool"}
    assert "torch.fx cannot trace its forward: symbolically traced" in reason(report, "down1.main_max1")
    assert "down1" not in {c.name for c in report.left}, "it has no ReLU"
    model = ENet(DownByDevice)
    model.down1.out_activation = nn.ReLU()
    _, report = segext.convert(model)
    assert "control flow" in reason(report, "down1", "ReLUs that it may call stay: torch.fx cannot trace its forward: ")
    assert "down2" not in {c.name for c in report.left}


class CountsReLUs(ByType):
    """Here the ReLU's output goes to the pool only, but what happens to its input depends on its type."""

    def forward(self, x):
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                x, indices = layer(x)
            else:
                x = layer(x * 2 if isinstance(layer, nn.ReLU) else x)
        return self.unpool(x, indices)


class StrictAboutPools(ByType):
    """A pool of another class would be skipped."""

    def forward(self, x):
        for layer in self.features:
            x = (layer(x)[0] if type(layer) is nn.MaxPool2d else x * 2) if "Pool" in type(layer).__name__ else layer(x)
        return x


@pytest.mark.parametrize("kind", [ByType, CountsReLUs, StrictAboutPools])
def test_layers_whose_type_a_forward_reads_keep_it(kind):
    model = kind()
    converted, report = segext.convert(model)
    assert types(converted) == types(model)
    branch = f"{Path(inspect.getfile(kind)).name}:{kind.forward.__code__.co_firstlineno + 2}"
    expected = f"may call it (its forward branches at {branch})"
    assert expected in reason(report, "features.2") or kind is StrictAboutPools
    assert_same(model, converted, image())


@pytest.mark.parametrize(
    "kind", ["optional argument", "context", "keeps", "own tensor", "random", "mode", "type of a tensor"]
)
def test_forwards_that_a_trace_would_misrepresent_run_as_written(kind):
    model = Branching(kind)
    converted, report = segext.convert(model)
    assert {c.name.split(":")[0] for c in report.swapped} == {"pool", "forward"}
    assert not report.fused
    assert reason(report, "(model)").startswith("ReLUs that it may call stay: its forward")
    assert model.seen == converted.seen == []
    assert_same(model, converted, image())


class Conditions(Pooling):
    def __init__(self):
        super().__init__()
        self.layer, self.doubled = None, False

    def forward(self, x):
        x = self.relu(self.conv(x))
        x = x if self.layer is None else self.layer(x)  # which never changes
        y = [self.pool(part) for part in (x, x) if self.doubled]
        return y or self.pool(x)

    def pool(self, x):
        return F.max_pool2d(x, 2)


class InAFunction(Conditions):
    def forward(self, x):
        return doubled(self.pool(self.relu(self.conv(x))), self.doubled)


def doubled(x, is_doubled):
    return x * 2 if is_doubled else x


@pytest.mark.parametrize(
    ("kind", "place", "line"),
    [(Conditions, Conditions.forward, 3), (InAFunction, doubled, 0)],
    ids=["method", "function"],
)
def test_the_report_says_where_a_forward_branches(kind, place, line):
    _, report = segext.convert(kind())
    where = f"test_convert_left.py:{place.__code__.co_firstlineno + line}"
    assert reason(report, "relu") == f"not fused: the model may call it (its forward branches at {where})"


class AddsInPlace(nn.Module):
    def forward(self, x):
        y = F.max_pool2d(x, 2)
        z = y
        z += 1
        return y, z


def test_augmented_assignment_stays_in_place():
    model = AddsInPlace()
    converted, report = segext.convert(model)
    assert len(report.swapped) == 1
    assert_same(model, converted, image())


def test_a_forward_that_differs_by_mode():
    model = ByMode()
    converted, report = segext.convert(model)
    assert not report.fused
    assert {c.name.split(":")[0] for c in report.swapped} == {"pool", "forward"}
    assert any("training" in c.reason for c in report.left)
    for training in (True, False):
        assert_same(model.train(training), converted.train(training), image())


def test_calls_under_checkpointing_stay_there():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))

        def forward(self, x):
            return F.max_pool2d(torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=False), 2)

    model = Net()
    converted, report = segext.convert(model)
    assert len(report.fused) == len(report.swapped) == 1
    assert_same(model, converted, image())


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("compile", [torch.jit.script, lambda block: torch.jit.trace(block, image(2, 4, 16, 24))])
def test_scripts_are_left(compile, inside):
    block = compile(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)))
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), block, nn.ReLU(), nn.MaxPool2d(2)) if inside else block
    converted, report = segext.convert(model)
    assert len(report.fused) == inside
    x = image() if inside else image(2, 4, 16, 24)
    assert torch.equal(converted(x), model(x))


def test_instance_forwards_are_left():
    pool = nn.MaxPool2d(2)
    pool.forward = lambda x: x
    model = nn.Sequential(pool)
    model.forward = pool
    _, report = segext.convert(model, inplace=True)
    assert not report.swapped
    assert reason(report, "0") == "its forward was replaced on the instance"
