"""Pooling and unpooling as cases: segext's call, stock's calls, the check of both, and the bytes that must move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as stock
from torch import Tensor

import segext.functional as own
from segext import Switches, ops, reference

from .compiling import compiled
from .harness import Call, CheckFailed
from .networks import Pool

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
aten = torch.ops.aten


@dataclass(frozen=True)
class Subject:
    """A pool, the map it reads in one type and memory format, and what its ops need besides."""

    pool: Pool
    before_relu: Tensor
    map: Tensor
    pooled: Tensor
    indices: Tensor  # stock's
    switches: Switches
    grad_map: Tensor  # noise, in the format of the map
    grad_pooled: Tensor

    @classmethod
    def of(cls, pool: Pool, before_relu: Tensor, dtype: torch.dtype, format: str) -> Subject:
        before_relu = before_relu.to(dtype).contiguous(memory_format=FORMATS[format])
        map = stock.relu(before_relu)
        pooled, indices = stock.max_pool2d(map, *pool.window, return_indices=True)
        _, switches = own.max_pool2d(map, *pool.window, return_indices=True)
        return cls(pool, before_relu, map, pooled, indices, switches, _noise(map), _noise(pooled))

    @property
    def size(self) -> torch.Size:
        return self.map.shape[-2:]

    @property
    def bytes_moved(self) -> int:
        """What every op here must at least read and write: the full map, the pooled map and the codes."""
        return self.map.nbytes + self.pooled.nbytes + self.switches.nbytes


@dataclass(frozen=True)
class Calls:
    """What competes on one subject: segext, stock, and what makes stock's compiled call (None: not compiled)."""

    segext: Call
    stock: Call
    compile: Callable[[], Call] | None = None


@dataclass(frozen=True)
class Op:
    """One row of the tables. ``check`` raises CheckFailed; ``trains`` says that the calls run backwards."""

    name: str
    calls: Callable[[Subject], Calls]
    check: Callable[[Subject], None]
    trains: bool = False


# ---- Checks --------------------------------------------------------------------------------------------------------


def same(actual: Tensor, expected: Tensor, what: str, *, exact: bool = True) -> None:
    """Raises CheckFailed unless both agree, to the bit or, not ``exact``, to rounding."""
    rounding = {"rtol": 0.0, "atol": 0.0}
    if not exact:
        rounding = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}}.get(actual.dtype, {"rtol": 2e-2, "atol": 5e-2})
    try:
        torch.testing.assert_close(actual, expected, **rounding, equal_nan=True)
    except AssertionError as error:
        raise CheckFailed(f"{what}: {' '.join(str(error).split())}") from None


def _part(x: Tensor) -> Tensor:
    """Some channels of the last sample: what the slow reference is asked to confirm."""
    channels = sorted({0, x.shape[1] // 2, x.shape[1] - 1})
    return x[-1:, channels]


def _taps(s: Subject) -> Tensor:
    return reference.max_pool2d(_part(s.map), *s.pool.window)[1]


def _check_pool(s: Subject, own_pool: Callable, by_reference: Callable, input: Tensor, with_stock: Callable) -> None:
    output, switches = own_pool(input, *s.pool.window, return_indices=True)
    values, indices = with_stock(input)
    same(output, values, "maxima differ from stock's")
    same(switches.indices(), indices, "switches differ from stock's indices")
    if output.stride() != values.stride():
        raise CheckFailed(f"strides {output.stride()} differ from stock's {values.stride()}")
    values, taps = by_reference(_part(input), *s.pool.window)
    same(_part(output), values, "maxima differ from the reference's")
    indices = reference.tap_indices(taps, s.size, *s.pool.window[:-1])
    same(_part(switches.indices()), indices, "switches differ from the reference's")


def _check_pool_backward(grad: Tensor, s: Subject) -> None:
    window = s.pool.window
    expected = reference.max_pool2d_backward(_part(s.grad_pooled), _taps(s), s.size, *window[:-1])
    # On CUDA, the reference's order of summation is undefined.
    exact = not (s.pool.overlaps and grad.is_cuda)
    same(_part(grad), expected, "gradients differ from the reference's", exact=exact)
    expected = aten.max_pool2d_with_indices_backward(s.grad_pooled, s.map, *_aten_window(s.pool), s.indices)
    same(grad, expected, "gradients differ from stock's", exact=not s.pool.overlaps)


def _check_unpool(unpooled: Tensor, s: Subject) -> None:
    expected = reference.max_unpool2d(_part(s.pooled), _taps(s), s.size, *s.pool.window[:-1])
    same(_part(unpooled), expected, "the unpooled map differs from the reference's")
    same(unpooled, _stock_unpool(s)(s.pooled, s.indices), "the unpooled map differs from stock's")


def _check_unpool_backward(grad: Tensor, s: Subject) -> None:
    expected = reference.max_unpool2d_backward(_part(s.grad_map), _taps(s), *s.pool.window[:-1])
    same(_part(grad), expected, "gradients differ from the reference's")
    if not s.pool.overlaps:  # where windows share a pixel, stock gives its gradient to every duplicate
        expected = _gradient(_stock_unpool(s), s.pooled, s.grad_map, s.indices)()
        same(grad, expected[0], "gradients differ from stock's")


# ---- Calls ---------------------------------------------------------------------------------------------------------


def _noise(like: Tensor) -> Tensor:
    generator = torch.Generator(like.device).manual_seed(1)
    return torch.empty_like(like, dtype=torch.float32).normal_(generator=generator).to(like.dtype)


def _aten_window(pool: Pool) -> tuple:
    kernel, stride, padding, dilation, ceil_mode = pool.window
    return *([value, value] for value in (kernel, stride, padding, dilation)), ceil_mode


def _gradient(function: Callable, input: Tensor, grad: Tensor, *more) -> Call:
    """The backward of ``function(input, *more)`` alone, as autograd runs it."""
    with torch.enable_grad():
        leaf = input.detach().requires_grad_()
        output = function(leaf, *more)
    return partial(torch.autograd.grad, output, leaf, grad, retain_graph=True)


def _stock_pool(s: Subject) -> Callable:
    window = s.pool.window

    def pool(x: Tensor) -> tuple[Tensor, Tensor]:
        return stock.max_pool2d(x, *window, return_indices=True)

    return pool


def _stock_relu_pool(s: Subject) -> Callable:
    window = s.pool.window

    def relu_pool(x: Tensor) -> tuple[Tensor, Tensor]:
        return stock.max_pool2d(stock.relu(x), *window, return_indices=True)

    return relu_pool


def _stock_pool_only(s: Subject) -> Callable:
    window = s.pool.window

    def pool(x: Tensor) -> Tensor:
        return stock.max_pool2d(x, *window)

    return pool


def _stock_unpool(s: Subject) -> Callable:
    kernel, stride, padding, *_ = s.pool.window
    size = list(s.size)

    def unpool(x: Tensor, indices: Tensor) -> Tensor:
        return stock.max_unpool2d(x, indices, kernel, stride, padding, size)

    return unpool


def _pool(s: Subject) -> Calls:
    return Calls(
        partial(own.max_pool2d, s.map, *s.pool.window, return_indices=True),
        partial(_stock_pool(s), s.map),
        lambda: partial(compiled(_stock_pool(s)), s.map),
    )


def _relu_pool(s: Subject) -> Calls:
    return Calls(
        partial(own.relu_max_pool2d, s.before_relu, *s.pool.window, return_indices=True),
        partial(_stock_relu_pool(s), s.before_relu),
        lambda: partial(compiled(_stock_relu_pool(s)), s.before_relu),
    )


def _pool_backward(s: Subject) -> Calls:
    def own_pool(x: Tensor) -> Tensor:
        return own.max_pool2d(x, *s.pool.window)

    return Calls(
        _gradient(own_pool, s.map, s.grad_pooled),
        _gradient(_stock_pool_only(s), s.map, s.grad_pooled),
        lambda: _gradient(compiled(_stock_pool_only(s)), s.map, s.grad_pooled),
    )


def _unpool(s: Subject) -> Calls:
    return Calls(
        partial(own.max_unpool2d, s.pooled, s.switches),
        partial(_stock_unpool(s), s.pooled, s.indices),
        lambda: partial(compiled(_stock_unpool(s)), s.pooled, s.indices),
    )


def _unpool_backward(s: Subject) -> Calls:
    return Calls(
        _gradient(own.max_unpool2d, s.pooled, s.grad_map, s.switches),
        _gradient(_stock_unpool(s), s.pooled, s.grad_map, s.indices),
        lambda: _gradient(compiled(_stock_unpool(s)), s.pooled, s.grad_map, s.indices),
    )


def _pool_backward_out(s: Subject) -> Calls:
    out = torch.empty_like(s.map)
    window = _aten_window(s.pool)
    return Calls(
        partial(_own_pool_backward_into, out, s),
        partial(
            aten.max_pool2d_with_indices_backward.grad_input,
            s.grad_pooled,
            s.map,
            *window,
            s.indices,
            grad_input=torch.empty_like(s.map),
        ),
    )


def _own_pool_backward_into(out: Tensor, s: Subject) -> Tensor:
    switches = s.switches
    ops.max_pool2d_backward_out(
        s.grad_pooled, switches.codes, None, switches.input_size, *switches.window, switches.channels_last, out
    )
    return out


def _unpool_out(s: Subject) -> Calls:
    return Calls(
        partial(own.max_unpool2d, s.pooled, s.switches, out=torch.empty_like(s.map)),
        partial(aten.max_unpool2d.out, s.pooled, s.indices, list(s.size), out=torch.empty_like(s.map)),
    )


POOL = Op(
    "pool",
    _pool,
    lambda s: _check_pool(s, own.max_pool2d, reference.max_pool2d, s.map, _stock_pool(s)),
)
RELU_POOL = Op(
    "relu+pool",
    _relu_pool,
    lambda s: _check_pool(s, own.relu_max_pool2d, reference.relu_max_pool2d, s.before_relu, _stock_relu_pool(s)),
)
POOL_BACKWARD = Op(
    "pool backward",
    _pool_backward,
    lambda s: _check_pool_backward(_pool_backward(s).segext()[0], s),
    trains=True,
)
UNPOOL = Op("unpool", _unpool, lambda s: _check_unpool(_unpool(s).segext(), s))
UNPOOL_BACKWARD = Op(
    "unpool backward",
    _unpool_backward,
    lambda s: _check_unpool_backward(_unpool_backward(s).segext()[0], s),
    trains=True,
)
POOL_BACKWARD_OUT = Op(
    "pool backward out=",
    _pool_backward_out,
    lambda s: _check_pool_backward(_own_pool_backward_into(torch.full_like(s.map, torch.nan), s), s),
)
UNPOOL_OUT = Op(
    "unpool out=",
    _unpool_out,
    lambda s: _check_unpool(own.max_unpool2d(s.pooled, s.switches, out=torch.full_like(s.map, torch.nan)), s),
)

FRESH = (POOL, RELU_POOL, POOL_BACKWARD, UNPOOL, UNPOOL_BACKWARD)
INTO = (POOL_BACKWARD_OUT, UNPOOL_OUT)
