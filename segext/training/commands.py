"""The commands ``segext train``, ``segext eval`` and ``segext predict``, given their parsed arguments."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import checkpoint, drawing, report
from .census import census
from .data import Segmentation, as_tensor
from .errors import UserError, counted
from .evaluation import Predictor, evaluate
from .folders import class_names, find, images_in
from .normalization import NORMALIZATIONS
from .palette import PALETTES
from .pictures import read_image
from .preparation import prepare
from .processes import Process, choose_device, joined
from .settings import Settings, agree
from .tiles import Tiling
from .writing import writing


def train(options: argparse.Namespace) -> None:
    """Starts or resumes the run in ``options.out``."""
    with joined(options.device) as process:
        _train(options, process)


def _train(options: argparse.Namespace, process: Process) -> None:
    out, state = options.out, None
    if options.resume:
        state = _state_of(out)
        settings = Settings.of({}, state["run"]["settings"])
        agree(settings, vars(options), str(out))
    else:
        settings = Settings.of(vars(options))
        _refuse_to_overwrite(out)
    run = prepare(
        settings,
        options.data,
        out,
        process,
        state=state,
        workers=options.workers,
        tensorboard=options.tensorboard,
    )
    if process.first:
        print(run.origin)
    try:
        run.run()
    finally:
        if run.log:
            run.log.close()
    if process.first:
        print(f"{counted(run.steps, 'step')} done, the best mIoU is {run.best:.1%}: {out / checkpoint.BEST}")


def _state_of(out: Path) -> dict[str, Any]:
    path = out / checkpoint.LAST
    if not path.is_file():
        raise UserError(f"there is no run to resume in {out}: it holds no {checkpoint.LAST}")
    state = checkpoint.load(path)
    if "run" not in state:
        raise UserError(f"{path} holds weights, but not the state of a run: --weights starts a new run from it")
    return state


def _refuse_to_overwrite(out: Path) -> None:
    """Refuses unless the old run is at step 0: it has nothing to lose, and may be left over from a mistake."""
    path = out / checkpoint.LAST
    if path.is_file() and (run := checkpoint.load(path))["step"]:
        holds = f"{out} holds a run of {run['architecture']}, at step {run['step']}"
        raise UserError(f"{holds}: --resume goes on with it, another --out starts a new one")


def evaluation(options: argparse.Namespace) -> None:
    """Prints the scores of a checkpoint on a split, and writes them as JSON if requested."""
    content, predictor = _predictor(options)
    classes, ignore = content["arguments"]["num_classes"], content["ignore"]
    pairs = find(options.data, options.split)
    names = class_names(options.data, classes)
    census(pairs, ignore, classes, show=True)
    process = Process(choose_device(options.device))
    found = evaluate(
        predictor, Segmentation(pairs), classes, ignore, process=process, workers=options.workers, boundaries=True
    )
    print(report.table(found, names))
    if options.json:
        with writing(options.json):
            options.json.write_text(json.dumps(report.plain(found, names), indent=1) + "\n")


def prediction(options: argparse.Namespace) -> None:
    """Writes a label map and an overlay for an image, or for each image in a folder."""
    source, out = options.images, options.out
    images = images_in(source) if source.is_dir() else [source]
    if not images:
        raise UserError(f"there are no images in {source}")
    targets = _targets(images, out)
    _, predictor = _predictor(options)
    out.mkdir(parents=True, exist_ok=True)
    palette = PALETTES[options.palette]
    for path, (labels_path, overlay_path) in tqdm(zip(images, targets, strict=True), total=len(images), disable=None):
        image = read_image(path)
        labels = drawing.label_image(predictor(as_tensor(image), path), palette)
        for picture, target in ((labels, labels_path), (drawing.overlay(image, labels, options.opacity), overlay_path)):
            with writing(target):
                picture.save(target)


def _targets(images: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """The paths of the label map and the overlay for each image.

    Raises:
        UserError: if a file would replace an image, or a file of another image.
    """
    targets = [(out / f"{path.stem}.png", out / f"{path.stem}_overlay.png") for path in images]
    taken = {path.resolve(): path for path in images}
    for path, pair in zip(images, targets, strict=True):
        for target in pair:
            if other := taken.get(target.resolve()):
                own = f"--out {out} is the images' own folder: " if out.resolve() == path.parent.resolve() else ""
                raise UserError(f"{own}{target}, of {path}, would be written over {other} or what is made of it")
            taken[target.resolve()] = path
    return targets


def _predictor(options: argparse.Namespace) -> tuple[dict[str, Any], Predictor]:
    """The requested checkpoint, and a predictor that uses it."""
    path = checkpoint.find(options.checkpoint)
    content = checkpoint.load(path)
    device = choose_device(options.device)
    model = checkpoint.build(content, path, options.layers).to(device)
    try:
        tiling = Tiling(options.tile, options.overlap)
    except ValueError as error:
        raise UserError(str(error)) from None
    return content, Predictor(model, NORMALIZATIONS[content["normalization"]], device, tiling)
