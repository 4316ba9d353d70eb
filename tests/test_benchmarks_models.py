"""The comparison of networks: what it counts and concludes, that it stops at a wrong result, and that it runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.harness import CheckFailed, Summary
from benchmarks.models import comparison, cost, figures, shapes, training
from benchmarks.models.comparison import CostRow, Data, NetworkRow
from benchmarks.models.plan import QUICK, RECOMPUTING, SEGEXT, STOCK, STOCK_NCHW, ways
from benchmarks.models.results import Results, render

PNG = b"\x89PNG\r\n\x1a\n"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def data(tmp_path):
    shapes.write(tmp_path / "shapes", train=3, val=2)
    return Data.of(tmp_path / "shapes", "shapes", 255)


def test_shapes_are_always_the_same_and_of_every_class(data, tmp_path):
    shapes.write(tmp_path / "again", train=3, val=2)
    again = Data.of(tmp_path / "again", "shapes", 255)
    assert data.classes == list(shapes.CLASSES)
    for a, b in zip([*data.train, *data.val], [*again.train, *again.val], strict=True):
        assert a.image.read_bytes() == b.image.read_bytes()
        assert a.label.read_bytes() == b.label.read_bytes()
    assert len({pair.image.read_bytes() for pair in (*data.train, *data.val)}) == 5


def test_switches_of_a_sixteenth_of_deconvnet():
    model = training.built(QUICK.settings("deconvnet", 5, 255), SEGEXT)
    assert cost.switches(model, torch.rand(1, 3, 224, 224)) == (12_242_944 // 16, 382_592 // 16)


def test_time_is_compared_with_the_better_format_of_stock():
    times = {SEGEXT: [2.0, 4.0, 2.0], STOCK: [8.0, 16.0, 8.0], STOCK_NCHW: [6.0, 12.0, 6.0]}
    assert cost.to_stock(times, SEGEXT).median == 3.0
    assert cost.to_stock(times, STOCK).median == 0.75


def test_ways_take_turns_and_the_first_goes_on_alone(data):
    plan = replace(QUICK, crop=64, steps=4, together=3)
    models, losses, times = training.train(plan, plan.settings("segnet", 5, 255), data.train)
    assert list(models) == [SEGEXT, STOCK, STOCK_NCHW, RECOMPUTING]
    assert {way: len(values) for way, values in losses.items()} == {SEGEXT: 4, STOCK: 3, STOCK_NCHW: 3, RECOMPUTING: 3}
    assert {len(values) for values in times.values()} == {2}
    assert len(set(losses[SEGEXT])) == 4
    for model in models.values():
        model.load_state_dict(models[SEGEXT].state_dict())
    images, labels = comparison.crops(plan, data)
    assert set(comparison.check_alike(models, images)) == {SEGEXT, STOCK_NCHW, RECOMPUTING}
    assert set(comparison.agreement(models, [images[:1]]).values()) == {1.0}
    assert cost.kept(models[RECOMPUTING], images, labels, 255) < cost.kept(models[SEGEXT], images, labels, 255)
    assert cost.kept(models[SEGEXT], images, labels, 255) < cost.kept(models[STOCK], images, labels, 255)


def test_losses_over_50_steps_are_stocks_within_rounding(data):
    """Training magnifies rounding until losses differ in the second digit, so the measure is what it makes of stock's
    own: in the other memory format, stock differs from itself as much as segext does from it."""
    plan = replace(QUICK, crop=64, batch=4, steps=50, together=50, lr_normalised=0.003)
    settings = replace(plan.settings("segnet", 5, 255), optimizer="sgd", schedule="constant")
    _, losses, _ = training.train(plan, settings, data.train)
    stock = losses[STOCK]
    assert len(stock) == 50
    assert stock[-1] < stock[0]
    assert losses[SEGEXT] != stock
    assert losses[SEGEXT][0] == pytest.approx(stock[0], rel=1e-6)
    rounding = comparison.mean_difference(stock, losses[STOCK_NCHW])
    assert comparison.mean_difference(stock, losses[SEGEXT]) <= 3 * rounding < 0.1


def test_stock_may_differ_from_itself():
    """Between its memory formats, where maxima tie; segext may not differ from it in the same one."""
    models = {way: torch.nn.Conv2d(3, 2, 1) for way in (SEGEXT, STOCK, STOCK_NCHW)}
    models[SEGEXT].load_state_dict(models[STOCK].state_dict())
    images = torch.randn(1, 3, 4, 4)
    differences = comparison.check_alike(models, images)
    assert differences[SEGEXT] == 0 < differences[STOCK_NCHW]
    with pytest.raises(CheckFailed, match="scores by segext differ from stock's"):
        comparison.check_alike({**models, SEGEXT: models[STOCK_NCHW]}, images)


def test_a_wrong_result_stops_the_run(data, monkeypatch, tmp_path, capsys):
    train = training.train

    def wrong(*arguments):
        models, *rest = train(*arguments)
        models[STOCK].load_state_dict = lambda state: None  # keeps what it learned itself
        return models, *rest

    monkeypatch.setattr(comparison, "train", wrong)
    folder = data.train[0].image.parents[2]
    options = ["--quick", "--steps", "2", "--networks", "segnet", "--data", str(folder), "--ignore", "255"]
    assert main(["models", *options, "--output", str(tmp_path / "out")]) == 1
    assert "SegNet: scores by segext differ from stock's by" in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()


def test_data_that_is_missing(tmp_path, capsys):
    assert main(["models", "--quick", "--data", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def row(network, mean_iou, boundary_f1, differ=0.0, rounding=0.0):
    one = Summary(2e6, 2e6, 2e6, 1)
    costs = [CostRow(way, one, one, one, one, 10**6, 1, 2, 3) for way in ways(network.lower().replace("-", ""))]
    scores = {"pixel_accuracy": 0.5, "class_accuracy": 0.4, "mean_iou": mean_iou, "boundary_f1": boundary_f1}
    beside = {SEGEXT: differ, STOCK_NCHW: rounding}
    more = {"ious": [], "boundary_f1s": [], "losses": {SEGEXT: [1.0]}, "costs": costs}
    more |= {"losses_differ": beside, "scores_differ": beside, "labels_agree": beside}
    return NetworkRow(network=network, parameters=7, **scores, **more)


def test_findings():
    rows = [row("FCN-32s", 0.2, 0.3), row("FCN-16s", 0.3, 0.2), row("FCN-8s", 0.4, 0.5, differ=2e-3, rounding=1e-3)]
    rows += [row("DeconvNet", 0.5, 0.31), row("SegNet", 0.5, 0.29, differ=2e-3, rounding=1e-5)]
    environment = dict.fromkeys(("segext", "instruction set", "commit", "torch", "processor", "cores"), "")
    results = Results(environment | {"threads": 1, "images": "none"}, QUICK, [], rows)
    found = {finding["what"].split(", over")[0]: finding["holds"] for finding in results.findings()}
    assert found == {
        "FCN-32s < FCN-16s < FCN-8s by mIoU": True,
        "FCN-32s < FCN-16s < FCN-8s by boundary F1": False,
        "DeconvNet finer at boundaries than FCN-32s": True,
        "SegNet finer at boundaries than FCN-32s": False,
        "FCN-32s: losses differ from stock's as stock's own formats do": True,
        "FCN-16s: losses differ from stock's as stock's own formats do": True,
        "FCN-8s: losses differ from stock's as stock's own formats do": True,
        "DeconvNet: losses differ from stock's as stock's own formats do": True,
        "SegNet: losses differ from stock's as stock's own formats do": False,
    }
    assert render(results).count("NOT as expected") == 3


def test_the_decoders_maps_grow_stage_by_stage(tmp_path):
    model = training.built(QUICK.settings("deconvnet", 5, 255), SEGEXT)
    image = torch.randint(256, (3, 224, 224), dtype=torch.uint8)
    with figures.recorded(model) as maps:
        model.predict(comparison.NORMALIZE(image[None]))
    assert [[map.shape[-1] for map in maps[stage]] for stage in figures.STAGES] == [
        [n, n] for n in (14, 28, 56, 112, 224)
    ]
    for unpooled, convolved in maps.values():
        assert (unpooled == 0).float().mean() >= 0.75
        assert (convolved >= 0).all()
    figures.decoder(model, image, tmp_path / "decoder.png")
    assert (tmp_path / "decoder.png").read_bytes().startswith(PNG)


def test_colours():
    """White for what is ignored."""
    found = figures.colours(np.array([[0, 3, 11]]), Data("", [], [], [], 11))
    assert found.tolist() == [[[128, 128, 128], [128, 64, 128], [255, 255, 255]]]


def test_ignored_pixels_count_nowhere(data):
    """Neither in training nor in what is counted, whatever their value."""
    for pair in data.train:
        with Image.open(pair.label) as label:
            pixels = np.array(label)
        pixels[:, ::3] = 77
        Image.fromarray(pixels).save(pair.label)
    data = Data.of(data.train[0].image.parents[2], "shapes", 77)
    plan = replace(QUICK, crop=64, steps=1, together=1)
    assert len(data.classes) == 5
    models, losses, _ = training.train(plan, plan.settings("fcn8s", 5, 77), data.train)
    assert losses[SEGEXT] == pytest.approx([np.log(5)], rel=1e-6)  # its score layers are zero
    images, labels = comparison.crops(plan, data)
    assert (labels == 77).any()
    assert cost.kept(models[SEGEXT], images, labels, 77) > 0


def test_quick_run(tmp_path, capsys):
    """On made-up shapes, as all of it, but for the other networks."""
    assert main(["models", "--quick", "--networks", "deconvnet", "--steps", "2", "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for title in ("What they learned", "Beside stock's layers", "What they cost", "What should come out"):
        assert title in text
    assert (tmp_path / "report.txt").read_text() in text
    for name in ("comparison.png", "decoder.png"):
        assert (tmp_path / name).read_bytes().startswith(PNG)
    content = json.loads((tmp_path / "results.json").read_text())
    (found,) = content["networks"]
    assert found["network"] == "DeconvNet"
    assert 0 <= found["mean_iou"] <= 1
    assert [len(values) for values in found["losses"].values()] == [2, 2, 2, 2]
    costs = {cost["way"]: cost for cost in found["costs"]}
    assert list(costs) == [SEGEXT, STOCK, STOCK_NCHW, RECOMPUTING]
    assert costs[RECOMPUTING]["kept"] < costs[SEGEXT]["kept"] < 0.8 * costs[STOCK]["kept"]
    assert costs[STOCK]["switches"] == 32 * costs[SEGEXT]["switches"]
    for found in costs.values():
        assert found["kept"] < found["peak_step"] < 20 * found["kept"]
        assert found["image"]["low"] <= found["image"]["median"] <= found["image"]["high"]


def test_scores_that_differ_are_no_rounding():
    torch.manual_seed(0)
    settings = QUICK.settings("segnet", 5, 255)
    models = {way: training.built(settings, way) for way in (SEGEXT, STOCK)}
    image = torch.rand(1, 3, 32, 32)
    assert comparison.check_alike(models, image)[SEGEXT] <= 1e-5
    with torch.no_grad():
        models[SEGEXT].conv1_1_D.weight *= 1.001
    with pytest.raises(CheckFailed, match=r"differ from stock's by 1.0e-03"):
        comparison.check_alike(models, image)
