"""The command line: ``segext train``, ``segext eval`` and ``segext predict``, or ``python -m segext``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

EXTRA = {"PIL", "lightning_utilities", "numpy", "scipy", "tensorboard", "torchmetrics", "tqdm"}  # of segext[train]


def parser() -> argparse.ArgumentParser:
    from . import __version__
    from .training.palette import PALETTES
    from .training.settings import add_options, natural, share

    top = argparse.ArgumentParser(prog="segext", description="Trains, evaluates and runs segmentation networks.")
    top.add_argument("--version", action="version", version=f"segext {__version__}", help="print the version and exit")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: str, help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(function=function)
        added.add_argument("--device", help="cpu, cuda or cuda:N; CUDA where it is there, if not given")
        return added

    train = command("train", "train", "Trains a network on the splits train and val of a folder.")
    train.add_argument("data", type=Path, metavar="DATA", help="laid out as CamVid or PASCAL VOC")
    train.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder for checkpoints and logs")
    train.add_argument("--resume", action="store_true", help="go on with the run in --out, with its settings")
    train.add_argument("--workers", type=natural, default=0, help="processes that read images (%(default)s)")
    train.add_argument("--tensorboard", action="store_true", help="log to RUN/tensorboard too")
    add_options(train.add_argument_group("settings, which a resumed run keeps"))

    for added in (
        evaluation := command("eval", "evaluation", "Scores a network on the images of a folder."),
        prediction := command("predict", "prediction", "Labels the pixels of images."),
    ):
        added.add_argument(
            "checkpoint", type=Path, metavar="CHECKPOINT", help="a file, or the folder of a run: its best"
        )
        added.add_argument("--layers", choices=("segext", "torch"), default="segext", help="(%(default)s)")
        added.add_argument("--tile", type=natural, default=1024, help="larger images are cut to tiles (%(default)s)")
        added.add_argument("--overlap", type=natural, default=256, help="of neighbouring tiles (%(default)s)")
    evaluation.add_argument("data", type=Path, metavar="DATA", help="laid out as CamVid or PASCAL VOC")
    evaluation.add_argument("--split", default="val", help="(%(default)s)")
    evaluation.add_argument("--json", type=Path, metavar="FILE", help="write the scores to it too")
    evaluation.add_argument("--workers", type=natural, default=0, help="processes that read images (%(default)s)")
    prediction.add_argument("images", type=Path, metavar="IMAGE", help="an image, or a folder of images")
    prediction.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets NAME.png and NAME_overlay.png")
    prediction.add_argument("--palette", choices=PALETTES, default="voc", help="colours (%(default)s)")
    prediction.add_argument("--opacity", type=share, default=0.5, help="of the overlay's colours (%(default)s)")
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
