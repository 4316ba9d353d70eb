"""The command line: ``python -m benchmarks model path.py:build --input 1x3x512x512``. Benchmarks a network of yours."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import segext

from .. import command
from ..errors import Unusable, brief
from ..pooling import FORMATS
from ..progress import Progress
from ..results import environment
from . import checking, comparing, loading
from .comparing import SEGEXT, STOCK
from .results import Results, render
from .running import INFERENCE, TRAINING, Subject


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks model",
        description="Runs a network as it is and converted by segext.convert: equal first, then time and memory.",
        epilog="Exit status: 0; 1 where the converted network gives something else; 2 where nothing could be run.",
    )
    parser.add_argument(
        "network",
        metavar="path.py:build",
        help="a function without arguments that returns the network, or package.module:build. If the file also has a "
        "function `loss`, a training step minimises loss(output, *inputs)",
    )
    parser.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="NxCxHxW",
        help="size of the input, normal noise; with commas between several arguments; repeated, one run after another",
    )
    parser.add_argument("--dtype", choices=loading.DTYPES, default="float32", help="(%(default)s)")
    tasks = parser.add_mutually_exclusive_group()
    tasks.add_argument("--train", dest="tasks", action="store_const", const=(TRAINING,), help="only training steps")
    tasks.add_argument("--eval", dest="tasks", action="store_const", const=(INFERENCE,), help="only inference")
    parser.set_defaults(tasks=(INFERENCE, TRAINING))
    parser.add_argument("--format", choices=FORMATS, help="memory format (both)")
    parser.add_argument("--compile", action="store_true", help="also under torch.compile")
    parser.add_argument("--seconds", type=float, default=20.0, help="about how long to time an input (%(default).0f)")
    parser.add_argument("--threads", type=int, help="threads of torch and segext (torch's choice)")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmark-report/model"), metavar="DIR", help="%(default)s"
    )
    return parser.parse_args(argv)


def run(options: argparse.Namespace, progress: Progress) -> Results:
    if options.threads:
        torch.set_num_threads(options.threads)
    dtype, formats = getattr(torch, options.dtype), [options.format] if options.format else list(FORMATS)
    network = loading.network(options.network)
    given = {text: loading.inputs(text, dtype) for text in options.input}
    progress.step(f"building {network.target}")
    results = Results(environment(", ".join(given)), network.target, "")
    for text, inputs in given.items():
        progress.step(f"{text}: does the converted network give the same?")
        model = network.model().to(dtype).train(TRAINING in options.tasks)
        stock = Subject(model, inputs, network.loss)
        for task in options.tasks:
            _try(stock, task, f"{network.target} does not run on {text} in {options.dtype}, {task}")
        try:
            converted, report = segext.convert(model, example=inputs)
        except Exception as error:
            raise Unusable(f"segext.convert fails on {network.target}: {brief(error)}") from error
        if not report.swapped and not report.fused:
            raise Unusable(f"segext.convert finds nothing to change in {network.target}: {len(report.left)} calls left")
        results.converted = results.converted or f"{report}\n  of one call on {text}"
        subjects = {STOCK: stock, SEGEXT: Subject(converted, inputs, network.loss)}
        results.checks += checking.check(*subjects.values(), dtype, formats, options.tasks, results.notes)
        results.rows += comparing.rows(
            subjects,
            text,
            dtype,
            formats,
            options.tasks,
            options.seconds,
            progress,
            compile=options.compile,
            notes=results.notes,
        )
    return results


def _try(subject: Subject, task: str, what: str) -> None:
    try:
        subject.results(task)
    except Unusable:
        raise
    except Exception as error:
        raise Unusable(f"{what}: {brief(error)}") from error


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)

    def reported(progress: Progress) -> tuple[str, str]:
        results = run(options, progress)
        options.output.mkdir(parents=True, exist_ok=True)
        results.write(options.output / "results.json")
        text = render(results)
        (options.output / "report.txt").write_text(text)
        return text, str(options.output)

    return command.run(reported)


if __name__ == "__main__":
    sys.exit(main())
