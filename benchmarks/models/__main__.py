"""The command line: ``python -m benchmarks models [--data DIR] [--quick]``. Compares, prints, writes."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from segext.training.data import as_tensor
from segext.training.errors import UserError
from segext.training.palette import CAMVID_CLASSES
from segext.training.pictures import read_image

from .. import command
from ..progress import Progress
from ..results import environment
from . import figures, shapes
from .comparison import Data, compare
from .plan import FULL, QUICK, TITLES, Plan
from .results import Results, render

CAMVID_VOID = 11


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks models", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="CamVid, or laid out as it; made-up shapes without it")
    parser.add_argument("--ignore", type=int, default=CAMVID_VOID, help="value of unlabelled pixels (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="the smallest networks and a few steps: that it runs")
    parser.add_argument("--networks", nargs="+", choices=TITLES, default=list(TITLES), help="(all)")
    parser.add_argument("--steps", type=int, help="of training, for each network")
    parser.add_argument("--width", type=float, help="share of the published channels")
    parser.add_argument("--batch", type=int, help="crops a step")
    parser.add_argument("--threads", type=int, help="threads of torch and segext (torch's choice)")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmark-report/models"), metavar="DIR", help="%(default)s"
    )
    return parser.parse_args(argv)


def chosen(options: argparse.Namespace) -> Plan:
    plan = replace(QUICK if options.quick else FULL, networks=tuple(options.networks))
    given = {name: getattr(options, name) for name in ("steps", "width", "batch") if getattr(options, name)}
    plan = replace(plan, **given)
    return replace(plan, together=min(plan.together, plan.steps))


@contextmanager
def given(options: argparse.Namespace) -> Iterator[Data]:
    """The data that was asked for, or shapes."""
    if options.data is not None:
        data = Data.of(options.data, f"{options.data.name}", options.ignore)
        yield replace(data, classes=list(CAMVID_CLASSES)) if len(data.classes) == len(CAMVID_CLASSES) else data
        return
    with tempfile.TemporaryDirectory() as folder:
        counts = {"train": 8, "val": 3} if options.quick else {"train": 200, "val": 40}
        shapes.write(Path(folder), **counts)
        yield Data.of(Path(folder), "made-up shapes", 255)


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    return command.run(lambda progress: reported(options, progress), unusable=UserError)


def reported(options: argparse.Namespace, progress: Progress) -> tuple[str, str]:
    """Compares, draws and writes; the text of the report, and its folder."""
    plan = chosen(options)
    with given(options) as data:
        options.output.mkdir(parents=True, exist_ok=True)
        results = Results(environment(data.name), plan, data.classes, [])
        models = {}
        for row, model in compare(plan, data, progress):
            results.networks.append(row)
            models[row.network] = model
        progress.step("drawing")
        figures.comparison(results, data, models, options.output / "comparison.png")
        if "DeconvNet" in models:
            figures.decoder(models["DeconvNet"], middle(data), options.output / "decoder.png")
    results.write(options.output / "results.json")
    text = render(results)
    (options.output / "report.txt").write_text(text)
    return text, str(options.output)


def middle(data: Data) -> torch.Tensor:
    """The middle 224x224 pixels of the first validation image: the size for which DeconvNet was made."""
    image = as_tensor(read_image(data.val[0].image))
    top, left = ((side - 224) // 2 for side in image.shape[-2:])
    return image[:, top : top + 224, left : left + 224]


if __name__ == "__main__":
    sys.exit(main())
