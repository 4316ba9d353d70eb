"""The class Switches: the packed positions of a pool's maxima and the geometry of that pool."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from . import ops
from .arguments import IntPair, prefers_channels_last, window_of
from .geometry import code_bits

# The largest map that repr draws.
_PICTURE_ROWS, _PICTURE_COLUMNS = 16, 32


class Switches:
    """The positions of a max-pool's maxima, in 2 bits each for a 2x2 window instead of an int64.

    Replaces stock PyTorch's int64 ``indices`` from ``max_pool2d(..., return_indices=True)``. Unlike them, it knows the
    pool's window and input size, so that unpooling needs no ``output_size``. A stock function that is passed switches
    receives those indices. Indexing selects samples of a batch.

    Args:
        codes: packed switches, uint8 of shape (N, ceil(C * H * W * bits / 8)) for a pooled map of (N, C, H, W), or one
            row without N for (C, H, W). Any bytes are safe: a code that refers to no pixel places nothing and gathers
            zero.
        shape: shape of the pooled map, (N, C, H, W) or (C, H, W).
        input_size: height and width of the map that was pooled.
        kernel_size, stride, padding, dilation: the window, each (vertical, horizontal) in pixels.
        channels_last: whether the codes are in the order of a channels_last map.
    """

    __slots__ = ("channels_last", "codes", "dilation", "input_size", "kernel_size", "padding", "shape", "stride")

    def __init__(
        self,
        codes: Tensor,
        shape: Sequence[int],
        input_size: Sequence[int],
        kernel_size: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        channels_last: bool = False,
    ) -> None:
        self.codes = codes
        self.shape = shape
        self.input_size = input_size
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.channels_last = channels_last

    @classmethod
    def from_indices(
        cls,
        indices: Tensor,
        input_size: Sequence[int],
        kernel_size: IntPair,
        stride: IntPair | None = None,
        padding: IntPair = 0,
        dilation: IntPair = 1,
    ) -> Switches:
        """Switches from stock's ``indices`` of shape (N, C, H, W) or (C, H, W).

        ``input_size`` is the size of the pool's input, of which the last two values are used. The window is the pool's.

        Raises:
            RuntimeError: if an index is not a tap of its element's window, or the arguments do not define a window.
            TypeError: for indices that are no tensor, or an ``input_size`` that is not a sequence of two or more ints.
        """
        window = window_of(kernel_size, stride, padding, dilation)
        if not isinstance(indices, Tensor):
            raise TypeError(f"Switches.from_indices: indices should be a Tensor, but got {type(indices).__name__}")
        if not isinstance(input_size, Sequence) or len(input_size) < 2:
            raise TypeError(f"Switches.from_indices: input_size should be (height, width), but got {input_size!r}")
        input_size = tuple(input_size[-2:])
        channels_last = prefers_channels_last(indices)
        codes, invalid = ops.switches_from_indices(indices, input_size, *window, channels_last)
        count = int(invalid) if ops.has_values(invalid) else 0
        if count:
            raise RuntimeError(
                f"Switches.from_indices: {count} of {indices.numel()} indices are not taps of their windows "
                f"(input_size={input_size}, kernel_size={window[0]}, stride={window[1]}, padding={window[2]}, "
                f"dilation={window[3]})"
            )
        return cls(codes, tuple(indices.shape), input_size, *window, channels_last)

    @property
    def window(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Kernel size, stride, padding and dilation."""
        return self.kernel_size, self.stride, self.padding, self.dilation

    @property
    def bits(self) -> int:
        """Bits of one code."""
        return code_bits(self.kernel_size[0] * self.kernel_size[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the packed codes, ceil(C * H * W * bits / 8) per sample."""
        return self.codes.numel()

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self.codes.device

    @overload
    def size(self) -> tuple[int, ...]: ...
    @overload
    def size(self, dim: int) -> int: ...
    def size(self, dim: int | None = None) -> tuple[int, ...] | int:
        """Shape of the pooled map, or its size along ``dim``, like ``Tensor.size``."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Number of dimensions of the pooled map: 4, or 3 without a batch."""
        return len(self.shape)

    def indices(self) -> Tensor:
        """Stock's indices: int64 of the pooled shape, row * width + column in the input map.

        A code that refers to no pixel (from a window wholly in the padding, or from arbitrary bytes) gives -1.
        """
        if self.device.type not in ops.DEVICES:
            return self.to("cpu").indices().to(self.device)
        return ops.switches_to_indices(self.codes, self.shape, self.input_size, *self.window, self.channels_last)

    def mask(self) -> Tensor:
        """The input map with 1 where a maximum was and 0 elsewhere: uint8 of shape (N, C, H, W) or (C, H, W)."""
        memory_format = torch.channels_last if self.channels_last and self.dim() == 4 else torch.contiguous_format
        ones = torch.empty(tuple(self.shape), dtype=torch.bfloat16, device=self.device, memory_format=memory_format)
        placed = ops.max_unpool2d(ones.fill_(1), self.codes, self.input_size, *self.window, self.channels_last)
        return placed.to(torch.uint8)

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Switches:
        """The same switches on ``device``: these themselves if they are there.

        Raises:
            TypeError: for anything but a device; codes have no other dtype.
        """
        if not isinstance(device, (torch.device, str, int)):
            raise TypeError(f"Switches.to: device should be a torch.device, str or int, but got {device!r}")
        if torch.device(device) == self.device:
            return self  # without a conversion that exported graphs would hold
        return self._with_codes(self.codes.to(device, non_blocking=non_blocking))

    def to_memory_format(self, memory_format: torch.memory_format) -> Switches:
        """The same switches with codes in the order of ``torch.contiguous_format`` or ``torch.channels_last`` maps.

        Raises:
            ValueError: for any other memory format.
        """
        if memory_format not in (torch.contiguous_format, torch.channels_last):
            raise ValueError(f"memory_format should be contiguous_format or channels_last, but got {memory_format}")
        if self.channels_last == (memory_format is torch.channels_last):
            return self
        codes = ops.switches_repack(self.codes, self.shape, self.kernel_size, self.channels_last)
        return Switches(codes, self.shape, self.input_size, *self.window, not self.channels_last)

    def _with_codes(self, codes: Tensor, shape: Sequence[int] | None = None) -> Switches:
        return Switches(codes, shape or self.shape, self.input_size, *self.window, self.channels_last)

    def __len__(self) -> int:
        self._check_batched()
        return self.shape[0]

    def __getitem__(self, samples: int | slice | Tensor) -> Switches:
        """The switches of one sample (unbatched), or of the samples that a slice, mask or index tensor selects."""
        self._check_batched()
        if isinstance(samples, tuple):
            raise TypeError(f"Switches can be indexed along the batch only, but got {samples!r}")
        shape = tuple(self.shape[1:])
        codes = self.codes[samples]
        if codes.dim() == 1:  # an unbatched map is contiguous
            one = self._with_codes(codes[None], (1, *shape)).to_memory_format(torch.contiguous_format)
            return Switches(one.codes[0], shape, self.input_size, *self.window)
        if codes.dim() != 2:
            raise TypeError(f"Switches can be indexed along the batch only, but got {samples!r}")
        return self._with_codes(codes, (codes.shape[0], *shape))

    def __iter__(self) -> Iterator[Switches]:
        return (self[sample] for sample in range(len(self)))

    def _check_batched(self) -> None:
        if self.dim() != 4:
            raise TypeError(f"Switches of an unbatched map of shape {tuple(self.shape)} have no batch")

    if not TYPE_CHECKING:  # type checkers say it themselves

        def __getattr__(self, name: str):
            """Only for what there is not: code written for indices is told what to call."""
            hint = ", as indices have; see .indices(), .codes and .to(device)" if hasattr(Tensor, name) else ""
            raise AttributeError(f"Switches are no tensor and have no attribute {name!r}{hint}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Switches):
            return NotImplemented
        return (
            tuple(self.shape) == tuple(other.shape)
            and tuple(self.input_size) == tuple(other.input_size)
            and self.window == other.window
            and self.channels_last == other.channels_last
            and torch.equal(self.codes, other.codes)
        )

    __hash__ = None

    def __reduce__(self):
        state = (tuple(self.shape), tuple(self.input_size), *self.window, self.channels_last)
        return Switches, (self.codes, *state)

    def __repr__(self) -> str:
        k, s, p, d = self.window
        text = f"Switches(shape={tuple(self.shape)}, input_size={tuple(self.input_size)}, kernel_size={k}, stride={s}"
        text += f", padding={p}" if any(p) else ""
        text += f", dilation={d}" if d != (1, 1) else ""
        text += f", {self.bits} bits each, {self.nbytes} byte{'s' * (self.nbytes != 1)}"
        text += f", device='{self.device}'" if self.device.type != "cpu" else ""
        return text + ")" + self._picture()

    def _picture(self) -> str:
        """The first channel's mask, if it is small and its values can be read."""
        height, width = self.input_size
        has_data = ops.has_values(self.codes) and self.device.type in ops.DEVICES and self.nbytes > 0
        if not has_data or height > _PICTURE_ROWS or width > _PICTURE_COLUMNS:
            return ""
        first = (self[0] if self.dim() == 4 else self).mask()[0]
        return "".join("\n  " + " ".join(".#"[pixel] for pixel in row) for row in first.tolist())

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        """Replaces switches by their indices wherever a torch function takes a tensor."""

        def indices(value: Any) -> Any:
            return value.indices() if isinstance(value, Switches) else value

        args, kwargs = pytree.tree_map(indices, (args, kwargs or {}), is_leaf=lambda v: isinstance(v, Switches))
        return func(*args, **kwargs)


# Sizes are leaves: kept as context, they would be constants to torch.export.
def _flatten(switches: Switches):
    leaves = (switches.codes, tuple(switches.shape), tuple(switches.input_size))
    return leaves, (*switches.window, switches.channels_last)


def _flatten_with_keys(switches: Switches):
    leaves, context = _flatten(switches)
    keys = map(pytree.GetAttrKey, ("codes", "shape", "input_size"))
    return list(zip(keys, leaves, strict=True)), context


def _unflatten(leaves, context) -> Switches:
    return Switches(*leaves, *context)


pytree.register_pytree_node(
    Switches,
    _flatten,
    _unflatten,
    serialized_type_name="segext.Switches",
    flatten_with_keys_fn=_flatten_with_keys,
    to_dumpable_context=lambda context: [*map(list, context[:4]), context[4]],
    from_dumpable_context=lambda dumped: (*map(tuple, dumped[:4]), dumped[4]),
)
Switches.__module__ = "segext"  # the name that saved files have
torch.serialization.add_safe_globals([Switches])
