"""``segext train``: it learns, goes on exactly where it was interrupted, and both sets of layers learn alike."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pictures import CLASSES, camvid, voc

from segext import models
from segext.__main__ import main
from segext.training import checkpoint
from segext.training.logs import COLUMNS
from segext.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = ("--width", "0.0625", "--crop", "32", "32", "--batch", "2", "--device", "cpu")
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return camvid(tmp_path_factory.mktemp("data"))


def train(data, out, *options):
    return main(["train", str(data), "--out", str(out), *map(str, options)])


def rows(out):
    with (out / "log.csv").open() as file:
        return list(csv.DictReader(file))


def losses(out):
    return [float(row["loss"]) for row in rows(out) if row["loss"]]


def same(a, b):
    """Whether two checkpoints hold the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same_runs(a, b):
    for name in ("last.pt", "best.pt"):
        assert same(checkpoint.load(a / name), checkpoint.load(b / name)), name
    assert (a / "log.csv").read_bytes() == (b / "log.csv").read_bytes()


# ---- A whole run ---------------------------------------------------------------------------------------------------


def test_a_run_learns_and_leaves_its_files(data, tmp_path, capsys):
    options = ("--model", "segnet", "--width", 0.125, "--batch", 4, "--device", "cpu", "--optimizer", "adam")
    options += ("--lr", 0.01, "--class-weights", "median-frequency", "--steps", 60, "--every", 30, "--tensorboard")
    assert train(data, tmp_path, *options) == 0
    output = capsys.readouterr().out
    assert "step 30 of 60: pixel accuracy" in output
    assert "60 steps done, the best mIoU is" in output
    assert sum(losses(tmp_path)[-5:]) < 0.2 * sum(losses(tmp_path)[:5])
    logged = rows(tmp_path)
    assert tuple(logged[0]) == COLUMNS
    assert [int(row["step"]) for row in logged if row["loss"]] == list(range(1, 61))
    evaluated = {int(row["step"]): float(row["mean_iou"]) for row in logged if row["mean_iou"]}
    assert list(evaluated) == [30, 60]
    best = checkpoint.load(tmp_path / "best.pt")
    assert best["mean_iou"] == max(evaluated.values()) > 0.5
    assert best["arguments"] == {"num_classes": CLASSES, "width": 0.125}
    assert "run" not in best
    assert any((tmp_path / "tensorboard").iterdir())
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_biases_do_not_decay_and_learn_faster(optimizer, data, tmp_path):
    assert train(data, tmp_path, *SMALL, "--model", "fcn8s", "--steps", 1, "--optimizer", optimizer, "--lr", 0.125) == 0
    groups = checkpoint.load(tmp_path / "last.pt")["run"]["trainer"]["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [5e-4, 0]
    assert [group["lr"] for group in groups] == ([0.125, 0.25] if optimizer == "sgd" else [0.125, 0.125])
    learned = sum(len(group["params"]) for group in groups)
    assert learned == 39 - 3  # bilinear upsampling stays as it is
    assert len(groups[0]["params"]) == len(groups[1]["params"])


def test_schedules(data, tmp_path):
    for schedule, expected in (
        (("constant",), [0.1] * 4),
        (("step", "--drop", 2), [0.1, 0.1, 0.01, 0.01]),
        (("poly",), [0.1 * (1 - n / 4) ** 0.9 for n in range(4)]),
    ):
        out = tmp_path / schedule[0]
        options = (*SMALL, "--model", "segnet", "--steps", 4, "--lr", 0.1, "--schedule", *schedule)
        assert train(data, out, *options) == 0
        assert [float(row["lr"]) for row in rows(out) if row["lr"]] == pytest.approx(expected)


@pytest.mark.parametrize("weights", ["none", "median-frequency"])
def test_the_loss_is_of_labelled_pixels(weights, tmp_path):
    """A network whose score layers are zero finds all classes alike: ln 4 a pixel, whatever part is ignored."""
    data = voc(tmp_path / "data")
    assert train(data, tmp_path, *SMALL, "--model", "fcn32s", "--steps", 1, "--class-weights", weights) == 0
    (loss,) = losses(tmp_path)
    if weights == "none":
        assert loss == pytest.approx(torch.tensor(4.0).log().item(), rel=1e-6)
    else:
        assert loss != pytest.approx(torch.tensor(4.0).log().item(), rel=1e-2)


def test_mixed_precision(data, tmp_path):
    for precision in ("float32", "bfloat16"):
        out = tmp_path / precision
        assert train(data, out, *SMALL, "--model", "segnet", "--steps", 5, "--lr", 0.05, "--precision", precision) == 0
    exact, mixed = losses(tmp_path / "float32"), losses(tmp_path / "bfloat16")
    assert mixed != exact
    assert mixed == pytest.approx(exact, rel=0.2)
    weights = checkpoint.load(tmp_path / "bfloat16" / "last.pt")["model"].values()
    assert {value.dtype for value in weights} == {torch.float32, torch.int64}


def test_runs_from_the_weights_of_another(data, tmp_path, capsys):
    """FCN-16s from FCN-32s, as published: its new layers score zero, so that it starts where the other ended."""
    assert train(data, tmp_path / "32", *SMALL, "--model", "fcn32s", "--steps", 6, "--lr", 0.02) == 0
    capsys.readouterr()
    assert train(data, tmp_path / "16", *SMALL, "--model", "fcn16s", "--steps", 1, "--weights", tmp_path / "32") == 0
    assert str(tmp_path / "32" / "best.pt") in capsys.readouterr().out
    states = [checkpoint.load(tmp_path / n / "last.pt")["model"] for n in ("32", "16")]
    assert torch.allclose(states[0]["conv3_1.weight"], states[1]["conv3_1.weight"], atol=1e-2)
    assert losses(tmp_path / "16")[0] < 0.98 * losses(tmp_path / "32")[0]


def test_a_run_says_how_pixels_are_normalised(data, tmp_path, capsys):
    assert train(data, tmp_path, *SMALL, "--model", "segnet", "--steps", 1, "--normalization", "caffe") == 0
    assert "1 step done, " in capsys.readouterr().out
    last = checkpoint.load(tmp_path / "last.pt")
    assert last["normalization"] == last["run"]["settings"]["normalization"] == "caffe"
    assert checkpoint.load(tmp_path / "best.pt")["normalization"] == "caffe"


# ---- Interruptions -------------------------------------------------------------------------------------------------

CASES = {
    # Batch norm's statistics, momentum, a schedule; dropout and Adam's moments.
    "segnet": ("--model", "segnet", "--schedule", "poly", "--scale", 0.7, 1.4, "--class-weights", "median-frequency"),
    "fcn8s": ("--model", "fcn8s", "--optimizer", "adam"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("at", [2, 5])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(case, at, data, tmp_path, monkeypatch, capsys):
    """By a signal in the middle of an epoch, between evaluations."""
    options = (*SMALL, *CASES[case], "--steps", 8, "--every", 3)
    assert train(data, tmp_path / "whole", *options) == 0

    step = Trainer.train

    def interrupted(self, images, labels):
        if self.step == at - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, images, labels)

    monkeypatch.setattr(Trainer, "train", interrupted)
    assert train(data, tmp_path / "parts", *options) == 128 + signal.SIGTERM
    assert f"stopped after step {at} of 8" in capsys.readouterr().err
    assert checkpoint.load(tmp_path / "parts" / "last.pt")["step"] == at
    monkeypatch.undo()
    # Nor does it matter who reads the images, or that a row of a step that is lost was half written.
    with (tmp_path / "parts" / "log.csv").open("a") as file:
        file.write(f"{at + 1},0,0.1,")
    assert train(data, tmp_path / "parts", "--resume", "--device", "cpu", "--workers", 1) == 0
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")
    # What is finished stays as it is.
    assert train(data, tmp_path / "parts", "--resume", "--device", "cpu") == 0
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")


def test_a_run_with_settings_without_effect_is_resumed(data, tmp_path):
    """Those that a checkpoint records are no mistake of whoever resumes from it."""
    assert train(data, tmp_path, *SMALL, "--model", "segnet", "--steps", 1, "--optimizer", "adam") == 0
    last = checkpoint.load(tmp_path / "last.pt")
    last["run"]["settings"] |= {"momentum": 0.5, "drop": 3, "skip": ("conv1_1",), "epochs": 2, "steps": 2}
    last.pop("format")
    checkpoint.save(tmp_path / "last.pt", last)
    assert train(data, tmp_path, "--resume", "--device", "cpu") == 0
    assert len(losses(tmp_path)) == 2


DYING = """
import os, signal, sys
from segext.__main__ import main
from segext.training.trainer import Trainer

steps = Trainer.train


def dying(self, images, labels):
    if self.step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return steps(self, images, labels)


Trainer.train = dying
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_from_its_last_evaluation(data, tmp_path, capsys):
    options = [*SMALL, "--model", "segnet", "--steps", "200", "--every", "2"]
    out = tmp_path / "killed"
    command = [sys.executable, "-c", DYING, "train", str(data), "--out", str(out), *options]
    buffered = {name: value for name, value in ONE_THREAD.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, capture_output=True, text=True, env=buffered)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "step 6 of 200" in done.stdout
    assert train(data, out, *options) == 2
    assert "holds a run of segnet, at step 6: --resume goes on with it" in capsys.readouterr().err

    steps = Trainer.train

    def stopping(self, images, labels):
        if self.step == 19:
            os.kill(os.getpid(), signal.SIGTERM)
        return steps(self, images, labels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train", stopping)
        assert train(data, out, "--resume", "--device", "cpu") == 128 + signal.SIGTERM
        assert train(data, tmp_path / "whole", *options) == 128 + signal.SIGTERM
    assert_same_runs(tmp_path / "whole", out)


def test_a_loss_that_is_not_finite_ends_the_run(data, tmp_path, capsys):
    assert train(data, tmp_path, *SMALL, "--model", "fcn8s", "--steps", 30, "--lr", 1e6) == 1
    error = capsys.readouterr().err
    assert "is nan: start again with a lower --lr than 1000000.0" in error
    assert all(value.isfinite().all() for value in checkpoint.load(tmp_path / "last.pt")["model"].values())
    assert train(data, tmp_path, *SMALL, "--model", "fcn8s", "--steps", 1, "--lr", 0.01) == 0


def test_a_run_whose_first_step_failed_is_started_again(data, tmp_path, capsys):
    """In the same folder, as it was or with other options."""
    options = (*SMALL, "--model", "segnet", "--steps", 2)
    for _ in range(2):
        assert train(data, tmp_path, *options, "--argument", "in_channels=1") == 2
        assert "(N, 1, H, W)" in capsys.readouterr().err
    assert train(data, tmp_path, *options) == 0
    assert len(losses(tmp_path)) == 2


# ---- Two processes -------------------------------------------------------------------------------------------------


def torchrun(data, out, *options, program=("-m", "segext")):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program]
    command += ["train", str(data), "--out", str(out), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD, timeout=240)


def test_two_processes_learn_as_one(data, tmp_path):
    """The same batch in shares: without dropout, and with no batch norm, the same losses within rounding."""
    options = (*SMALL, "--batch", 4, "--model", "fcn8s", "--argument", "dropout=0.0", "--steps", 8, "--every", 4)
    options += ("--lr", 0.02, "--class-weights", "median-frequency")
    done = torchrun(data, tmp_path / "two", *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("8 steps done") == 1
    assert train(data, tmp_path / "one", *options) == 0
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    scores = [[row["mean_iou"] for row in rows(tmp_path / n) if row["mean_iou"]] for n in ("one", "two")]
    assert [float(value) for value in scores[1]] == pytest.approx([float(value) for value in scores[0]], abs=1e-2)
    one, two = (checkpoint.load(tmp_path / n / "last.pt")["model"] for n in ("one", "two"))
    assert all(torch.allclose(two[key], value, rtol=1e-3, atol=1e-5) for key, value in one.items())


# segext, which notes how many of the group's threads there are before and after it is destroyed.
NOTING = """
import os
import sys
from pathlib import Path

import torch.distributed as dist

from segext.__main__ import main


def threads():
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return str(names.count("pt_gloo_runloop"))


def destroy():
    before = threads()
    destroy_process_group()
    Path(__file__).with_suffix("." + os.environ["RANK"]).write_text(before + " " + threads())


destroy_process_group, dist.destroy_process_group = dist.destroy_process_group, destroy
sys.exit(main())
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
@pytest.mark.parametrize(("lr", "says"), [(0.01, "10 steps done"), (1e6, "is nan")])
def test_the_threads_of_the_group_end_with_it(lr, says, data, tmp_path):
    """Whether the run succeeds or fails: threads that are left can abort their process when it ends."""
    program = tmp_path / "noting.py"
    program.write_text(NOTING)
    options = (*SMALL, "--model", "fcn8s", "--steps", 10, "--lr", lr)
    done = torchrun(data, tmp_path / "run", *options, program=[str(program)])
    assert says in done.stdout + done.stderr
    for rank in ("0", "1"):
        before, after = map(int, program.with_suffix(f".{rank}").read_text().split())
        assert before > 0
        assert after == 0


# ---- Both sets of layers -------------------------------------------------------------------------------------------


def test_both_sets_of_layers_learn_alike(data, tmp_path):
    """The same losses over 50 steps, within rounding."""
    options = (*SMALL, "--model", "fcn8s", "--steps", 50, "--every", 50, "--lr", 0.01)
    found = []
    for layers in ("segext", "torch"):
        assert train(data, tmp_path / layers, *options, "--layers", layers) == 0
        found.append(losses(tmp_path / layers))
    assert len(found[0]) == 50
    assert found[0][-1] < found[0][0]
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize("model", ["segnet", "deconvnet"])
def test_both_sets_of_layers_learn_alike_in_float64(model):
    """The same losses over 50 steps, within rounding.

    Batch norm over a few pixels and maxima that nearly tie blow rounding up, a hundredfold in a few steps: in float32
    stock's own losses leave those of float64, and each other's in another memory format.
    """
    size, found = (224 if model == "deconvnet" else 32), []
    for layers in ("segext", "torch"):
        torch.manual_seed(0)
        network = models.MODELS[model](4, width=1 / 64, layers=layers).double()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        generator = torch.Generator().manual_seed(1)
        found.append([])
        for _ in range(50):
            images = torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64)
            labels = torch.randint(4, (2, size, size), generator=generator)
            loss = torch.nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found[-1].append(loss.item())
    assert found[0][-1] < found[0][0]
    assert found[0] == pytest.approx(found[1], rel=1e-4)
