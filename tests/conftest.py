"""What every test file shares: the devices to run on, hypothesis profiles, and the markers."""

import os

import hypothesis
import pytest
import torch

REQUIRE_CUDA = os.environ.get("SEGEXT_REQUIRE_CUDA") == "1"
NO_CUDA = "needs CUDA, which torch does not see here"

hypothesis.settings.register_profile("default", deadline=None, max_examples=100)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=5000)
hypothesis.settings.load_profile(os.environ.get("SEGEXT_HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "default"))


def pytest_generate_tests(metafunc):
    """Runs a test that takes `device` on the CPU and, where there is one or one is required, on the GPU."""
    if "device" in metafunc.fixturenames:
        devices = ["cpu", "cuda"] if torch.cuda.is_available() or REQUIRE_CUDA else ["cpu"]
        metafunc.parametrize("device", devices, indirect=True)


def pytest_collection_modifyitems(items):
    """Marks what runs on a GPU, so that `-m cuda` chooses it: tests of `cuda`, and those of `device` on the GPU."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if "cuda" in item.fixturenames or parameters.get("device") == "cuda":
            item.add_marker(pytest.mark.cuda)


@pytest.fixture
def device(request):
    return request.getfixturevalue("cuda") if request.param == "cuda" else torch.device(request.param)


@pytest.fixture
def cuda():
    """The GPU. Without one the test is skipped, or fails if SEGEXT_REQUIRE_CUDA=1."""
    if not torch.cuda.is_available():
        (pytest.fail if REQUIRE_CUDA else pytest.skip)(NO_CUDA)
    return torch.device("cuda")


@pytest.fixture
def deterministic():
    """Runs a test with deterministic algorithms required."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def one_thread():
    """Runs a module on one thread: of small maps, a second one waits for the first most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
