"""segext's layers as modules: drop-in replacements for ``torch.nn``, with ``Switches`` in place of int64 indices."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from . import functional as F
from .arguments import IntPair
from .switches import Switches
from .unpool_conv2d import reads_packed

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "ConvTranspose2d",
    "ConvTranspose2dAdd",
    "ConvTranspose2dArgmax",
    "ConvTranspose2dCrossEntropy",
    "MaxPool2d",
    "MaxUnpool2d",
    "Prepackable",
    "ReLUMaxPool2d",
    "UnpoolConv2d",
    "UnpoolConvTranspose2d",
]


class MaxPool2d(nn.MaxPool2d):
    """:class:`torch.nn.MaxPool2d` that keeps packed switches rather than its input for the backward pass.

    With ``return_indices=True`` the second result is a :class:`segext.Switches`. See
    :func:`segext.functional.max_pool2d` for shapes and errors.
    """

    _pool = staticmethod(F.max_pool2d)

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Switches]:
        return self._pool(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )


class ReLUMaxPool2d(MaxPool2d):
    """:class:`torch.nn.ReLU` followed by :class:`MaxPool2d`, in one pass that does not store the ReLU's output.

    See :func:`segext.functional.relu_max_pool2d`.
    """

    _pool = staticmethod(F.relu_max_pool2d)


class MaxUnpool2d(nn.MaxUnpool2d):
    """:class:`torch.nn.MaxUnpool2d` that accepts :class:`segext.Switches` or stock PyTorch's int64 indices.

    Switches know the pool's window and input size, so ``output_size`` (also for odd sizes) and ``kernel_size`` may be
    omitted. See :func:`segext.functional.max_unpool2d` for shapes and errors.
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int] | None = None,
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__(0 if kernel_size is None else kernel_size, stride, padding)
        if kernel_size is None:
            self.kernel_size, self.stride = None, stride

    def forward(self, input: Tensor, indices: Switches | Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return F.max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class ConvTranspose2d(nn.ConvTranspose2d):
    """:class:`torch.nn.ConvTranspose2d`: same arguments, parameters and state dict.

    See :func:`segext.functional.conv_transpose2d` for shapes, errors and which kernels run.
    """

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        if self.padding_mode != "zeros":
            return super().forward(input, output_size)  # which rejects it
        output_padding = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, 2, self.dilation
        )
        return F.conv_transpose2d(
            input, self.weight, self.bias, self.stride, self.padding, output_padding, self.groups, self.dilation
        )


class _Fused(nn.ConvTranspose2d):
    """A transposed convolution fused with the operation after it.

    Parameters and state dict are those of :class:`torch.nn.ConvTranspose2d`. The options of the second operation are
    keyword arguments and appear in the representation.
    """

    def __init__(self, *arguments, options: dict) -> None:
        super().__init__(*arguments)
        if self.padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}')
        self._options = tuple(options)
        for name, value in options.items():
            setattr(self, name, value)

    def _call(self, function, input: Tensor, *tensors: Tensor, **keywords):
        window = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        keywords |= {name: getattr(self, name) for name in self._options}
        return function(input, self.weight, *tensors, self.bias, *window, **keywords)

    def extra_repr(self) -> str:
        return ", ".join([super().extra_repr(), *(f"{name}={getattr(self, name)!r}" for name in self._options)])


class ConvTranspose2dAdd(_Fused):
    """:class:`torch.nn.ConvTranspose2d` and FCN's skip connection: crop, then add another map.

    Args:
        crop, addend_crop: one int or (top, left): where the kept part begins, in the transposed convolution's output
            and in the added map.

    Other arguments are those of :class:`torch.nn.ConvTranspose2d`.
    See :func:`segext.functional.conv_transpose2d_add`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair = 0,
        output_padding: IntPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntPair = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        crop: IntPair = (0, 0),
        addend_crop: IntPair = (0, 0),
    ) -> None:
        geometry = kernel_size, stride, padding, output_padding
        rest = groups, bias, dilation, padding_mode, device, dtype
        super().__init__(
            in_channels, out_channels, *geometry, *rest, options={"crop": crop, "addend_crop": addend_crop}
        )

    def forward(self, input: Tensor, addend: Tensor, output_size: IntPair | None = None) -> Tensor:
        """``output_size``: one int or (height, width) of the result; by default all that both maps cover."""
        return self._call(F.conv_transpose2d_add, input, addend, output_size=output_size)


class ConvTranspose2dArgmax(_Fused):
    """:class:`torch.nn.ConvTranspose2d`, crop and argmax over the channels: a label map without stored scores.

    Args:
        crop: one int or (top, left): where the labelled part of the transposed convolution's output begins.
        return_scores: return (labels, largest score of each pixel) rather than only the labels.

    Other arguments are those of :class:`torch.nn.ConvTranspose2d`.
    See :func:`segext.functional.conv_transpose2d_argmax`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair = 0,
        output_padding: IntPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntPair = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        crop: IntPair = (0, 0),
        return_scores: bool = False,
    ) -> None:
        geometry = kernel_size, stride, padding, output_padding
        rest = groups, bias, dilation, padding_mode, device, dtype
        super().__init__(
            in_channels, out_channels, *geometry, *rest, options={"crop": crop, "return_scores": return_scores}
        )

    def forward(self, input: Tensor, output_size: IntPair | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """``output_size``: one int or (height, width) of the labelled part; by default all from ``crop`` on."""
        return self._call(F.conv_transpose2d_argmax, input, output_size=output_size)


class ConvTranspose2dCrossEntropy(_Fused):
    """:class:`torch.nn.ConvTranspose2d`, crop and :class:`torch.nn.CrossEntropyLoss`, without stored scores.

    Args:
        crop: one int or (top, left): where the part of the transposed convolution's output that is compared with the
            target begins.
        class_weight, ignore_index, reduction, label_smoothing: as in :class:`torch.nn.CrossEntropyLoss`, which calls
            the first ``weight``. It is a buffer, which moves with the layer but is not part of the state dict.

    Other arguments are those of :class:`torch.nn.ConvTranspose2d`.
    See :func:`segext.functional.conv_transpose2d_cross_entropy`.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair = 0,
        output_padding: IntPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntPair = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        crop: IntPair = (0, 0),
        class_weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        options = {
            "crop": crop,
            "ignore_index": ignore_index,
            "reduction": reduction,
            "label_smoothing": label_smoothing,
        }
        geometry = kernel_size, stride, padding, output_padding
        rest = groups, bias, dilation, padding_mode, device, dtype
        super().__init__(in_channels, out_channels, *geometry, *rest, options=options)
        self.register_buffer("class_weight", class_weight, persistent=False)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self._call(F.conv_transpose2d_cross_entropy, input, target, class_weight=self.class_weight)


class Prepackable(nn.Module):
    """Common base of :class:`UnpoolConv2d` and :class:`UnpoolConvTranspose2d`, whose weights can be packed once.

    Not meant to be subclassed elsewhere.
    """

    _pack: Callable[[Tensor], Tensor]

    def prepack(self) -> Self:
        """Pack the weight now rather than in every call, for inference.

        Calls read the packed weight as long as the layer has the same, unchanged weight. After any change to it, and
        from the first call on that may train it (because it requires a gradient and ``torch.no_grad`` is not active),
        calls pack it themselves again until the next ``prepack()``. Loading a state dict and moving or casting the
        layer repack it. **Changes that PyTorch does not track go unnoticed**: writes through ``weight.data``, through
        NumPy or by collectives of ``torch.distributed``, and writes to a weight created in inference mode. Graphs made
        from the layer by ``torch.compile`` and ``torch.export`` read the packed weight if the weight requires no
        gradient, and do not notice later in-place changes.

        The packed weight is not part of the state dict. It is float32, or float64 for float64, with output channels
        padded to a multiple of 16. Nothing is packed where it would not be read, such as on CUDA, or if a
        parametrization recomputes the weight in each call.

        Returns:
            The layer.
        """
        weight = self._parameters.get("weight")
        window = self.kernel_size, self.stride, self.padding, self.dilation, self.groups
        is_read = weight is not None and self.padding_mode == "zeros" and reads_packed(weight, *window)
        self.register_buffer("packed_weight", self._pack(weight) if is_read else None, persistent=False)
        self._packed_of = _Version(weight) if is_read else None
        return self

    def _packed(self) -> Tensor | None:
        """The packed weight to pass to a call with the weight."""
        packed = getattr(self, "packed_weight", None)
        return packed if packed is not None and self._packed_of.is_still(self._parameters.get("weight")) else None

    def _repack(self) -> None:
        if "packed_weight" in self._buffers:
            self.prepack()

    def _apply(self, *arguments, **keywords) -> Prepackable:
        super()._apply(*arguments, **keywords)
        self._repack()
        return self

    def _load_from_state_dict(self, *arguments, **keywords) -> None:
        super()._load_from_state_dict(*arguments, **keywords)
        self._repack()


class _Version:
    """A tensor's state at one time. Survives copying and pickling together with the tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.state = self._state()

    def is_still(self, tensor: Tensor | None) -> bool:
        """Whether ``tensor`` is the same one, has not changed since and will not be trained by this call."""
        if torch.compiler.is_compiling():
            # Graphs have no access to versions, and exporters replace a module's tensors by stand-ins.
            # The flag itself: in torch 2.11, is_exporting() is True under torch.compile too.
            same = tensor is not None if torch.compiler._is_exporting_flag else tensor is self.tensor
            return same and not tensor.requires_grad
        if tensor is not self.tensor:
            return False
        # The step of a fused optimizer does not change the version.
        if (tensor.requires_grad and torch.is_grad_enabled()) or not self._is_unchanged():
            self.state = None
        return self.state is not None

    def _state(self) -> tuple[int | None, int]:
        """What changes with the tensor's values: its version and, after ``tensor.data = ...``, its storage."""
        version = None if self.tensor.is_inference() else self.tensor._version
        return version, self.tensor.untyped_storage()._cdata

    def _is_unchanged(self) -> bool:
        return self.state == self._state()

    def __deepcopy__(self, memo: dict) -> _Version:
        return _restored(copy.deepcopy(self.tensor, memo), self._is_unchanged())

    def __reduce__(self) -> tuple:
        return _restored, (self.tensor, self._is_unchanged())


def _restored(tensor: Tensor, is_unchanged: bool) -> _Version:
    version = _Version(tensor)
    version.state = version.state if is_unchanged else None
    return version


class UnpoolConvTranspose2d(Prepackable, nn.ConvTranspose2d):
    """:class:`MaxUnpool2d`, then :class:`torch.nn.ConvTranspose2d`, without keeping the unpooled map for backward.

    Arguments, parameters and state dict are the transposed convolution's. See
    :func:`segext.functional.unpool_conv_transpose2d` for shapes, errors and which kernels run.

    Raises:
        ValueError: for a ``padding_mode`` other than zeros, like stock.
    """

    _pack = staticmethod(F.prepack_unpool_conv_transpose2d)

    def forward(self, input: Tensor, switches: Switches, output_size: Sequence[int] | None = None) -> Tensor:
        """``input``: the pooled map, (N, C, H, W) or (C, H, W). ``output_size``: by default the pool's input size."""
        window = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        keywords = {"output_size": output_size, "packed_weight": self._packed()}
        return F.unpool_conv_transpose2d(input, switches, self.weight, self.bias, *window, **keywords)


class UnpoolConv2d(Prepackable, nn.Conv2d):
    """:class:`MaxUnpool2d`, then :class:`torch.nn.Conv2d`, without keeping the unpooled map for backward.

    Arguments, parameters and state dict are the convolution's. See :func:`segext.functional.unpool_conv2d`. With a
    ``padding_mode`` other than zeros the two run one after the other, and the map is kept.
    """

    _pack = staticmethod(F.prepack_unpool_conv2d)

    def forward(self, input: Tensor, switches: Switches, output_size: Sequence[int] | None = None) -> Tensor:
        """``input``: the pooled map, (N, C, H, W) or (C, H, W). ``output_size``: by default the pool's input size."""
        if self.padding_mode != "zeros":
            return super().forward(F.max_unpool2d(input, switches, output_size=output_size))
        window = self.stride, self.padding, self.dilation, self.groups
        keywords = {"output_size": output_size, "packed_weight": self._packed()}
        return F.unpool_conv2d(input, switches, self.weight, self.bias, *window, **keywords)
