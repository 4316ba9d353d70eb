"""Export to ONNX: segext's ops as standard ONNX operators.

Each op used in inference has a form here: a function of the op's arguments that creates the nodes which replace it in
an exported graph. All follow one convention: the ``codes`` of an op are, in the graph, the second result of ONNX's
MaxPool, which its MaxUnpool takes: int64 indices into the whole map, (N, C, H, W), in NCHW order.
"""

from __future__ import annotations

import copy
import math
import operator
import os
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
import torch.fx.experimental._config
from torch import Tensor, nn
from torch.export.graph_signature import TensorArgument
from torch.utils import _pytree as pytree

from . import ops
from .arguments import window_of
from .geometry import pooled_extent
from .switches import Switches

__all__ = ["export"]


def export(
    model: nn.Module | torch.export.ExportedProgram,
    args: tuple[Any, ...] = (),
    f: str | os.PathLike | None = None,
    *,
    kwargs: dict[str, Any] | None = None,
    dynamic_shapes: dict[str, Any] | tuple[Any, ...] | list[Any] | None = None,
    **options,
) -> torch.onnx.ONNXProgram:
    """:func:`torch.onnx.export` for a network with segext layers, which become standard ONNX operators.

    Pools become MaxPool, unpoolings MaxUnpool, transposed convolutions ConvTranspose; fused ops become the operators
    that they consist of. Stock's unpooling becomes MaxUnpool too, where :func:`torch.onnx.export` emits ScatterND.
    Losses and backward passes have no ONNX form.

    Args:
        model: a module in evaluation mode, or the result of :func:`torch.export.export` for one.
        args, kwargs: example arguments, of which only the sizes matter. :class:`segext.Switches` among the results
            become int64 indices; among the arguments they are rejected.
        f: the file to write; if omitted, the program is only returned.
        dynamic_shapes: which sizes may vary, as in :func:`torch.onnx.export`.
        options: other arguments of :func:`torch.onnx.export`, except ``dynamo``.

    Returns:
        The :class:`torch.onnx.ONNXProgram`.

    Raises:
        ImportError: if onnxscript is not installed.
        RuntimeError: if the network takes switches as an argument, holds them, or calls a loss.
        TypeError: if ``dynamo`` is among the options.
    """
    if find_spec("onnxscript") is None:
        raise ImportError("segext.onnx.export needs onnxscript: pip install 'segext[onnx]'")
    if "dynamo" in options:
        raise TypeError("segext.onnx.export takes no dynamo: it always exports by torch.export, as dynamo=True does")
    if isinstance(model, nn.Module) and model.training:
        warnings.warn("segext.onnx.export: the model is in training mode; call model.eval() first", stacklevel=2)
    # As in torch.onnx.export, a size of 1 in the example stands for any size if it is dynamic.
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):
        program = model
        if isinstance(model, nn.Module):
            args = (args,) if isinstance(args, Tensor) else args
            sizes = pytree.tree_map_only(str, lambda _name: torch.export.Dim.DYNAMIC, dynamic_shapes)
            program = torch.export.export(model, args, kwargs, dynamic_shapes=sizes)
        program = _without_guards(_without_guards(program).run_decompositions(_FORMS))
        _check_operators(program)
        _pass_indices_on(program)
        _return_indices(program)
        return torch.onnx.export(program, f=f, dynamic_shapes=dynamic_shapes, dynamo=True, **options)


def _without_guards(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without checks of what its graph relies on, which ONNX has no form for. To trace it again with them
    would fix sizes that have their smallest value in the example, and fails for some strides of the example."""
    program = copy.copy(program)
    program._guards_code = []
    return program


def _check_operators(program: torch.export.ExportedProgram) -> None:
    for node in program.graph.nodes:
        if getattr(node.target, "namespace", None) == "segext":
            raise RuntimeError(
                "segext.onnx.export: losses and backward passes have no ONNX form, but the network calls "
                f"{node.target.name()}"
            )


def _pass_indices_on(program: torch.export.ExportedProgram) -> None:
    """Gives each MaxUnpool its pool's indices as they are, unless samples were selected: those stay renumbered."""
    graph, aten = program.graph, torch.ops.aten
    for node in graph.find_nodes(op="call_function", target=torch.ops.onnx_symbolic._symbolic.default):
        if node.args[1] == "MaxUnpool":
            indices = node.args[0][1]
            terms = indices.all_input_nodes  # indices into one plane, and where the planes start
            if indices.target is aten.add.Tensor and terms[0].target is aten.remainder.Tensor:
                codes, area = terms[0].args
                # Stock's indices may go into a map of another area than they are from.
                if area in terms[-1].args and _are_of_the_whole_map(codes):
                    node.replace_input_with(indices, codes)
    graph.eliminate_dead_code()


def _are_of_the_whole_map(codes: torch.fx.Node) -> bool:
    """Whether codes are all that a pool gave, with or without an axis for a batch of one."""
    while codes.target is torch.ops.aten.unsqueeze.default or (
        codes.target is torch.ops.aten.select.int and _constant(codes.args[0].meta["val"].shape[codes.args[1]]) == 1
    ):
        codes = codes.args[0]
    return codes.target in (operator.getitem, torch.ops.aten.add.Tensor)


def _return_indices(program: torch.export.ExportedProgram) -> None:
    """Replaces the Switches that a program of ONNX forms returns by their indices."""
    graph, output, signature = program.graph, program.graph.output_node(), program.module_call_graph[0].signature
    specs = program.graph_signature.output_specs
    first = len(specs) - signature.out_spec.num_leaves  # results come after the new values of buffers and arguments
    results, result_specs = (pytree.tree_unflatten(x[first:], signature.out_spec) for x in (output.args[0], specs))

    def indices(result, spec):
        if not isinstance(result, Switches):
            return result
        _check_codes(result.codes.meta["val"])
        area = graph.call_function(operator.mul, tuple(result.input_size))
        area = graph.call_function(torch.ops.aten.scalar_tensor.default, (area,), {"dtype": torch.int64})
        node = graph.call_function(torch.ops.aten.remainder.Tensor, (result.codes, area))
        spec.codes.arg = TensorArgument(node.name)
        return node

    with graph.inserting_before(output):
        results = pytree.tree_map(indices, results, result_specs, is_leaf=_is_switches)
    result_specs = pytree.tree_map(lambda s: s.codes if _is_switches(s) else s, result_specs, is_leaf=_is_switches)
    leaves, signature.out_spec = pytree.tree_flatten(results)
    output.args = ((*output.args[0][:first], *leaves),)
    specs[first:] = pytree.tree_leaves(result_specs)


def _is_switches(x: Any) -> bool:
    return isinstance(x, Switches)


_FORMS: dict[torch._ops.OpOverload, Callable] = {}


def _form_of(op: torch._ops.OpOverload) -> Callable[[Callable], Callable]:
    """Registers a function of an op's arguments as the op's form in exported graphs."""

    def register(function: Callable) -> Callable:
        _FORMS[op] = function
        return function

    return register


@_form_of(ops.overload("max_pool2d"))
def _max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, _format=False):
    if input.dim() == 3:
        batch = _max_pool2d(input[None], kernel_size, stride, padding, dilation, ceil_mode)
        return tuple(x[0] for x in batch)
    window = kernel_size, stride, padding, dilation = window_of(kernel_size, stride, padding, dilation)
    axes = zip(input.shape[-2:], *window, strict=True)
    shape = (*input.shape[:2], *(pooled_extent(*axis, ceil_mode) for axis in axes))
    attributes = {
        "kernel_shape": kernel_size,
        "strides": stride,
        "pads": (*padding, *padding),
        "dilations": dilation,
        "ceil_mode": int(ceil_mode),
    }
    return tuple(
        torch.onnx.ops.symbolic_multi_out(
            "MaxPool", (input,), attributes, dtypes=(input.dtype, torch.int64), shapes=(shape, shape)
        )
    )


@_form_of(ops.overload("relu_max_pool2d"))
def _relu_max_pool2d(input, *arguments):
    return _max_pool2d(input.relu(), *arguments)


@_form_of(ops.overload("max_unpool2d"))
def _max_unpool2d(input, codes, output_size, *_window_and_format):
    _check_codes(codes)
    if input.dim() == 3:
        return _max_unpool2d(input[None], codes[None], output_size)[0]
    area = _tensor(output_size[0] * output_size[1])
    return _unpool(input, _into_the_whole_map(codes % area, area), output_size)


def _unpool(input, indices, output_size):
    shape = (*input.shape[:2], *output_size)
    size = torch.stack([*map(_tensor, shape)])
    # Indices and size say it all. To runtimes a window tells the least size, below which pools that round up stay.
    lost = [_constant(have - extent) or 0 for have, extent in zip(input.shape[-2:], output_size, strict=True)]
    lost = [max(rows, 0) for rows in lost]
    # Such a window and padding take off just that; padding has to be less than the window.
    attributes = {"kernel_shape": [rows + 1 for rows in lost], "strides": (1, 1), "pads": (*lost, *lost)}
    return torch.onnx.ops.symbolic("MaxUnpool", (input, indices, size), attributes, dtype=input.dtype, shape=shape)


@_form_of(torch.ops.aten.max_unpool2d.default)
@_form_of(ops.overload("max_unpool2d_indices"))
def _max_unpool2d_indices(input, indices, output_size, _format=False):
    if input.dim() == 3:
        return _max_unpool2d_indices(input[None], indices[None], output_size)[0]
    area = _tensor(output_size[0] * output_size[1])
    return _unpool(input, _into_the_whole_map(indices, area), output_size)


@_form_of(ops.overload("switches_from_indices"))
def _switches_from_indices(indices, input_size, *_window_and_format):
    area = _tensor(input_size[0] * input_size[1])
    return _into_the_whole_map(indices, area), indices.new_zeros(())  # ONNX can't say how many are invalid


@_form_of(ops.overload("switches_to_indices"))
def _switches_to_indices(codes, _size, input_size, *_window_and_format):
    _check_codes(codes)
    return codes % _tensor(input_size[0] * input_size[1])


@_form_of(ops.overload("switches_repack"))
def _switches_repack(codes, *_size_and_format):
    return codes


@_form_of(ops.overload("depthwise_conv_transpose2d"))
def _depthwise_conv_transpose2d(
    input, weight, bias, addend, output_size, stride, origin, dilation, addend_origin, _format
):
    result = _conv_transpose2d(input, weight, bias, output_size, stride, origin, dilation, input.shape[1])
    return result if addend is None else result + _part(addend, addend_origin, output_size)


@_form_of(ops.overload("depthwise_conv_transpose2d_argmax"))
def _depthwise_conv_transpose2d_argmax(
    input, weight, bias, output_size, stride, origin, dilation, _format, return_scores
):
    scores = _conv_transpose2d(input, weight, bias, output_size, stride, origin, dilation, input.shape[1])
    return scores.argmax(1).to(torch.uint8), scores.amax(1) if return_scores else input.new_empty(0)


@_form_of(ops.overload("dense_conv_transpose2d"))
def _dense_conv_transpose2d(input, weight, bias, output_size, stride, padding, dilation, _format):
    return _conv_transpose2d(input, weight, bias, output_size, stride, padding, dilation, 1)


@_form_of(ops.overload("unpool_conv2d"))
def _unpool_conv2d(input, codes, weight, _packed_weight, bias, unpooled_size, padding, transposed, _format):
    unpooled = _max_unpool2d(input, codes, unpooled_size)
    return torch.ops.aten.convolution(unpooled, weight, bias, [1, 1], padding, [1, 1], transposed, [0, 0], 1)


def _conv_transpose2d(input, weight, bias, output_size, stride, origin, dilation, groups) -> Tensor:
    """The part of a transposed convolution's output, without padding, of ``output_size`` from ``origin`` on."""
    axes = zip(input.shape[-2:], weight.shape[-2:], stride, dilation, strict=True)
    whole = [(size - 1) * s + (kernel - 1) * d + 1 for size, kernel, s, d in axes]
    behind = [extent - start - size for extent, start, size in zip(whole, origin, output_size, strict=True)]
    # As padding and output_padding where these can say it: then nothing is made to be cut off.
    more = [_constant(start - rest) for start, rest in zip(origin, behind, strict=True)]
    limits = [*map(max, stride, dilation)]
    if all(m is not None and 0 <= m < limit for m, limit in zip(more, limits, strict=True)):
        return torch.ops.aten.convolution(input, weight, bias, stride, origin, dilation, True, more, groups)
    reach = [(_constant(-rest), limit - 1) for rest, limit in zip(behind, limits, strict=True)]
    more = [most if rows is None else max(rows, 0) for rows, most in reach]
    result = torch.ops.aten.convolution(input, weight, bias, stride, [0, 0], dilation, True, more, groups)
    return _part(result, origin, output_size)


def _check_codes(codes: Tensor) -> None:
    if codes.dtype != torch.int64:
        raise RuntimeError(
            "segext.onnx.export: the network takes Switches as an argument, or holds them; export it with the pool "
            "that makes them"
        )


def _into_the_whole_map(indices: Tensor, area: Tensor) -> Tensor:
    """What stock's indices, into one plane of ``area`` pixels, are in ONNX."""
    planes = torch.arange(math.prod(indices.shape[:-2]), device=indices.device).view(*indices.shape[:-2], 1, 1)
    return indices + planes * area


def _tensor(size: int | torch.SymInt) -> Tensor:
    """A possibly dynamic size as an operand."""
    return torch.scalar_tensor(size, dtype=torch.int64)


def _constant(size: int | torch.SymInt) -> int | None:
    """A size as an int, unless it is dynamic."""
    return size if isinstance(size, int) else size.node.maybe_as_int()


def _part(x: Tensor, origin: Sequence[int], size: Sequence[int]) -> Tensor:
    if None not in map(_constant, (*x.shape[-2:], *size)):
        return x[..., origin[0] : origin[0] + size[0], origin[1] : origin[1] + size[1]]
    # Not slices of tensors, whose size may be the same in a form that torch does not recognise as such.
    ends = torch.stack([_tensor(start + extent) for start, extent in zip(origin, size, strict=True)])
    bounds = torch.stack([*map(_tensor, origin)]), ends, torch.stack([*map(_tensor, (-2, -1))])
    return torch.onnx.ops.symbolic("Slice", (x, *bounds), dtype=x.dtype, shape=(*x.shape[:-2], *size))
