"""``segext.convert`` beside what else runs: random state, garbage collection, other threads, profilers, debuggers."""

import contextlib
import cProfile
import gc
import pstats
import sys
import threading

import pytest
import torch
from networks import VGG, Branching, ByMode, Pooling, block, reason
from torch import nn

import segext

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_random_state_is_untouched():
    model = Branching("random")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    segext.convert(model)
    assert torch.equal(torch.rand(3), expected)


def test_what_runs_beside_a_forward_is_no_part_of_it():
    """Callbacks of the garbage collector, which may run at any time."""

    def on_collection(phase, _info):
        return "started" if phase == "start" else "stopped"

    threshold = gc.get_threshold()
    gc.callbacks.append(on_collection)
    gc.set_threshold(1)
    try:
        _, report = segext.convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(on_collection)
    assert len(report.fused) == 1
    assert gc.isenabled()


def test_tensors_that_a_forward_changes_keep_their_values():
    class Counting(Pooling):
        def __init__(self):
            super().__init__()
            self.steps = torch.zeros(1)

        def forward(self, x):
            self.steps += 1
            return super().forward(x)

    model = Counting()
    converted, _ = segext.convert(model, inplace=True)
    assert converted.steps == 0


def test_conversions_and_other_models_in_other_threads():
    model = nn.Sequential(*(block() for _ in range(5)))
    _, expected = segext.convert(model)
    serving, x, errors, reports, stop = block().eval(), torch.randn(1, 4, 8, 8), [], [], threading.Event()

    def serve():
        while not stop.is_set():
            try:
                serving(x)
            except Exception as error:
                errors.append(error)
                return

    def convert():
        for _ in range(5):
            reports.append(segext.convert(model)[1])

    server = threading.Thread(target=serve)
    converters = [threading.Thread(target=convert) for _ in range(3)]
    server.start()
    for thread in converters:
        thread.start()
    for thread in converters:
        thread.join()
    stop.set()
    server.join()
    assert errors == []
    assert reports == [expected] * 15
    serving(x)


# --- Profilers and debuggers ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def cprofile(names):
    with cProfile.Profile() as profiler:
        yield
    names.update(name for _, _, name in pstats.Stats(profiler).stats)


@contextlib.contextmanager
def torch_profiler(names):
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, with_stack=True) as profiler:
        yield
    names.update(event.name.split(": ")[-1] for event in profiler.events())


@contextlib.contextmanager
def profile_function(names):
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, _: names.add(frame.f_code.co_name))
    yield
    sys.setprofile(before)


@contextlib.contextmanager
def debugger(names):
    before = sys.gettrace()
    sys.settrace(lambda frame, event, _: names.add(frame.f_code.co_name))
    yield
    sys.settrace(before)


def runs_afterwards():
    """For hooks to see."""


@pytest.mark.parametrize("hook", [cprofile, torch_profiler, profile_function, debugger])
def test_profilers_and_debuggers_see_all_that_runs(hook):
    model, names = VGG(), set()
    _, expected = segext.convert(model)
    with hook(names):
        _, report = segext.convert(model)
        runs_afterwards()
    assert report == expected
    assert {"convert", "forward", "runs_afterwards"} <= names


@pytest.mark.parametrize("profiler", [cprofile, torch_profiler, profile_function])
def test_a_profiler_and_a_debugger_at_once(profiler):
    model, profiled, traced = VGG(), set(), set()
    _, expected = segext.convert(model)
    with debugger(traced), profiler(profiled):
        _, report = segext.convert(model)
        runs_afterwards()
    assert report == expected
    assert "runs_afterwards" in profiled & traced


def test_a_profiler_and_a_debugger_that_cannot_rest(monkeypatch):
    """What C code put in place of both: layers are swapped all the same."""
    monkeypatch.setattr(sys, "getprofile", object)
    monkeypatch.setattr(sys, "gettrace", object)
    converted, report = segext.convert(nn.Sequential(ByMode()))
    assert type(converted[0].pool) is segext.nn.MaxPool2d
    assert not report.fused
    assert "its forward cannot be watched beside a profiler and a debugger" in reason(report, "0")
