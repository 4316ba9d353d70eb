"""The command line: ``python -m benchmarks peers``. ONNX Runtime's operators beside segext and stock, on the CPU.

Needs the packages of the extra ``segext[onnx]``. Every model holds one operator of a fixed opset and reads NCHW in
float32, which is what its kernels take. Input and output are torch's own memory, used again and again: nothing is
copied for the peer, and it pays for no fresh pages. Its threads do not spin, which would slow down whoever is next.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as stock
from torch import Tensor

import segext
import segext.functional as own

from . import command, contest
from .contest import Case, Row
from .decoding import dense_op
from .errors import Unusable
from .harness import CheckFailed
from .networks import DECONVNET, Pool
from .progress import Progress
from .results import environment
from .tables import spread, table

FORMAT = 1  # of the JSON file
OPSET, IR = 17, 9
POOLS = DECONVNET.pools[::2]  # the peer refuses to unpool to sizes that ceil_mode has rounded up
# (channels, outputs, kernel, stride, padding, groups, side): FCN's upsampling, per channel and then dense, as in
# published weights; U-Net's.
DECONVOLUTIONS = (
    (21, 21, 4, 2, 1, 21, 128),
    (21, 21, 16, 8, 4, 21, 64),
    (21, 21, 16, 8, 4, 1, 64),
    (128, 64, 2, 2, 0, 1, 64),
)


def versions() -> dict[str, str]:
    """The peer's packages.

    Raises:
        Unusable: where they are missing.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise Unusable(f"no peer to compare with: {error} (pip install 'segext[onnx]')") from error
    return {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}


def operator(name: str, inputs: dict[str, Tensor], outputs: dict[str, Tensor], **attributes) -> Callable[[], None]:
    """A call of one ONNX operator that reads ``inputs`` and writes ``outputs`` where they are."""
    import onnxruntime
    from onnx import TensorProto, helper

    types = {torch.float32: TensorProto.FLOAT, torch.int64: TensorProto.INT64}

    def described(tensors: dict[str, Tensor]) -> list:
        return [helper.make_tensor_value_info(name, types[x.dtype], x.shape) for name, x in tensors.items()]

    node = helper.make_node(name, list(inputs), list(outputs), **attributes)
    graph = helper.make_graph([node], name, described(inputs), described(outputs))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for tensors, bind in ((inputs, binding.bind_input), (outputs, binding.bind_output)):
        for name, x in tensors.items():
            bind(name, "cpu", 0, types[x.dtype], tuple(x.shape), x.data_ptr())

    def call() -> None:
        session.run_with_iobinding(binding)

    call.tensors = inputs, outputs  # keeps them alive: the session holds only their addresses
    return call


def pool(map: Tensor, window: tuple) -> tuple[Callable[[], Tensor], Tensor]:
    """MaxPool with indices, and what these become: the peer counts them from the first sample's first plane on."""
    kernel, stride, padding, _, ceil_mode = window
    values, indices = stock.max_pool2d(map, *window, return_indices=True)
    values, indices = torch.empty_like(values), torch.empty_like(indices)
    attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
    run = operator("MaxPool", {"x": map}, {"y": values, "i": indices}, ceil_mode=int(ceil_mode), **attributes)

    def call() -> Tensor:
        run()
        return values

    return call, indices


def unpool(values: Tensor, indices: Tensor, size: Sequence[int], kernel: int, stride: int) -> Callable[[], Tensor]:
    """MaxUnpool of the peer's own indices."""
    out = torch.empty(size)
    given = {"x": values, "i": indices, "shape": torch.tensor(size)}
    run = operator("MaxUnpool", given, {"y": out}, kernel_shape=[kernel] * 2, strides=[stride] * 2)

    def call() -> Tensor:
        run()
        return out

    return call


def deconvolution(x: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> Callable[[], Tensor]:
    out = torch.empty_like(stock.conv_transpose2d(x, weight, None, stride, padding, groups=groups))
    attributes = {"kernel_shape": list(weight.shape[2:]), "strides": [stride] * 2, "pads": [padding] * 4}
    run = operator("ConvTranspose", {"x": x, "w": weight}, {"y": out}, group=groups, **attributes)

    def call() -> Tensor:
        run()
        return out

    return call


def cases(pools: Sequence[Pool] = POOLS, deconvolutions: Sequence[tuple[int, ...]] = DECONVOLUTIONS) -> Iterator[Case]:
    for each in pools:
        yield from _pooling(each)
    for shape in deconvolutions:
        yield _deconvolution(*shape)


def _pooling(pool_: Pool) -> Iterator[Case]:
    """The pool with what it remembers, and the unpooling of both."""
    window, generator = pool_.window, torch.Generator().manual_seed(0)
    map = torch.randn(1, pool_.channels, pool_.height, pool_.width, generator=generator)
    values, indices = stock.max_pool2d(map, *window, return_indices=True)
    # In the format of the map they unpool, as a pool returns them: in the other, each call would first repack them.
    nchw, channels_last = (
        own.max_pool2d(map.contiguous(memory_format=memory_format), *window, return_indices=True)[1]
        for memory_format in contest.FORMATS.values()
    )
    call, of_peer = pool(map, window)
    call()
    planes = torch.arange(pool_.channels).view(1, -1, 1, 1) * (pool_.height * pool_.width)
    if not torch.equal(of_peer - planes, indices):
        raise CheckFailed(f"pool {pool_}: the peer's indices differ from stock's")
    yield Case(
        "pool with indices",
        str(pool_),
        map,
        lambda x: own.max_pool2d(x, *window, return_indices=True)[0],
        {"stock": lambda x: stock.max_pool2d(x, *window, return_indices=True)[0]},
        lambda x: "segext",
        nchw.nbytes,
        peer=call,
    )
    kernel, stride, padding, *_ = window
    yield Case(
        "unpool",
        str(pool_),
        values,
        lambda x: own.max_unpool2d(x, nchw if x.is_contiguous() else channels_last),
        {"stock": lambda x: stock.max_unpool2d(x, indices, kernel, stride, padding, map.shape)},
        lambda x: "segext",
        nchw.nbytes,
        peer=unpool(values, of_peer, map.shape, kernel, stride),
    )


def _deconvolution(channels: int, outputs: int, kernel: int, stride: int, padding: int, groups: int, side: int) -> Case:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, channels, side, side, generator=generator)
    weight = torch.randn(channels, outputs // groups, kernel, kernel, generator=generator) / (channels * kernel) ** 0.5
    window = None, stride, padding, 0, groups
    return Case(
        dense_op(kernel, stride) + " by channel" * (groups > 1),
        f"{channels} to {outputs}@{side}x{side}",
        x,
        lambda x: own.conv_transpose2d(x, weight, *window),
        {"stock": lambda x: stock.conv_transpose2d(x, weight, *window)},
        lambda x: segext.explain(own.conv_transpose2d, x, weight, *window),
        peer=deconvolution(x, weight, stride, padding, groups),
    )


def render(facts: dict, rows: Sequence[Row]) -> str:
    commit = f", commit {facts['commit']}" if facts["commit"] else ""
    head = "\n".join(
        [
            f"segext {facts['segext']} ({facts['instruction set']}{commit}), torch {facts['torch']}, "
            f"onnxruntime {facts['onnxruntime']} (CPU, opset {OPSET}, NCHW)",
            f"{facts['processor']}, {facts['cores']} cores, {facts['threads']} threads",
        ]
    )
    lines = [
        [
            row.op,
            row.map,
            row.format,
            f"{row.times[f'segext {row.format}'].median / 1e3:,.0f}",
            f"{row.times['peer NCHW'].median / 1e3:,.0f}",
            spread(row.to_peer),
            spread(row.to_best),
            row.best,
            "onnxruntime wins" if row.to_peer.median < 1 else "stock wins" if row.stock_wins else "",
        ]
        for row in rows
    ]
    columns = ["op", "map", "format", "us", "peer us", "vs onnxruntime", "vs best stock", "best stock", ""]
    return f"{head}\n\n" + table(
        "Beside ONNX Runtime, batch 1, float32",
        columns,
        lines,
        "vs onnxruntime: speedup over its operator, which reads NCHW and always writes into the same buffer.",
        "vs best stock: over stock's faster format. Medians and quartiles; all run in turn.",
        left=3,
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks peers",
        description=__doc__.split(". ", 1)[1].split("\n")[0],
        epilog="Exit status: 0; 1 where a result is wrong; 2 without the extra segext[onnx].",
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="about how long to take (%(default).0f)")
    parser.add_argument("--threads", type=int, help="threads of all (torch's choice)")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmark-report/peers"), metavar="DIR", help="%(default)s"
    )
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)

    def reported(progress: Progress) -> tuple[str, str]:
        facts = {**environment("noise"), **versions()}
        progress.step("building the peer's models")
        rows = list(contest.run(list(cases()), options.seconds, progress))
        options.output.mkdir(parents=True, exist_ok=True)
        text = render(facts, rows) + "\n"
        (options.output / "report.txt").write_text(text)
        content = {"format": FORMAT, "environment": facts, "peers": [asdict(row) for row in rows]}
        (options.output / "results.json").write_text(json.dumps(content, indent=1) + "\n")
        return text, str(options.output)

    return command.run(reported)


if __name__ == "__main__":
    sys.exit(main())
