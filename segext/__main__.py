"""The command line: ``segext train``, ``segext eval`` and ``segext predict``, or ``python -m segext``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

EXTRA = {"PIL", "lightning_utilities", "numpy", "scipy", "tensorboard", "torchmetrics", "tqdm"}  # of segext[train]


def parser() -> argparse.ArgumentParser:
    from . import __version__
    from .training.palette import PALETTES
    from .training.settings import LAYERS, LAYERS_HELP, add_options, described, natural, share

    top = argparse.ArgumentParser(prog="segext", description="Trains, evaluates and runs segmentation networks.")
    top.add_argument("--version", action="version", version=f"segext {__version__}", help="print the version and exit")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: str, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(function=function)
        added.add_argument("--device", help=described("cpu, cuda or cuda:N", "CUDA if available"))
        return added

    def option(added: argparse.ArgumentParser, name: str, default: Any, text: str, **more: Any) -> None:
        added.add_argument(name, default=default, help=described(text, default), **more)

    layout, workers = "folder laid out like CamVid or PASCAL VOC", "worker processes that read images"

    train = command("train", "train", "Trains a network on the splits train and val of a folder.")
    train.add_argument("data", type=Path, metavar="DATA", help=layout)
    train.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder for checkpoints and logs")
    train.add_argument("--resume", action="store_true", help="continue the run in --out with its settings")
    option(train, "--workers", 0, workers, type=natural)
    train.add_argument("--tensorboard", action="store_true", help="also write TensorBoard files to RUN/tensorboard")
    add_options(train.add_argument_group("settings, which a resumed run keeps"))

    for added in (
        evaluation := command("eval", "evaluation", "Scores a network on the images of a folder."),
        prediction := command("predict", "prediction", "Labels the pixels of images."),
    ):
        added.add_argument(
            "checkpoint", type=Path, metavar="CHECKPOINT", help="checkpoint, or folder of a run, whose best one is used"
        )
        option(added, "--layers", "segext", LAYERS_HELP, choices=LAYERS)
        option(added, "--tile", 1024, "largest side in pixels; larger images are cut into tiles", type=natural)
        option(added, "--overlap", 256, "pixels shared by neighbouring tiles", type=natural)
    evaluation.add_argument("data", type=Path, metavar="DATA", help=layout)
    option(evaluation, "--split", "val", "split to score")
    evaluation.add_argument("--json", type=Path, metavar="FILE", help="also write the scores to this file")
    option(evaluation, "--workers", 0, workers, type=natural)
    prediction.add_argument("images", type=Path, metavar="IMAGE", help="image, or folder of images")
    prediction.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for NAME.png and NAME_overlay.png"
    )
    option(prediction, "--palette", "voc", "colours of the labels", choices=PALETTES)
    option(prediction, "--opacity", 0.5, "opacity of the label colours in the overlay", type=share)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. For errors that the user can fix, prints one sentence to stderr and returns status 2."""
    options = parser().parse_args(arguments)
    from .training.errors import Failure

    try:
        commands = import_module(".training.commands", __package__)
        getattr(commands, options.function)(options)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in EXTRA:
            raise
        print(f"segext: {error.name} is missing: pip install 'segext[train]'", file=sys.stderr)
        return 2
    except Failure as error:
        print(f"segext: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        if error.filename is None:
            raise
        print(f"segext: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
