"""The affine ops with weights, and the scales that were folded into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from spikec.ir.affine import BlockedError
from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import SPIKES_FIRST, Op, Role, array, tensor
from spikec.ir.origin import Origin
from spikec.ir.spatial import Pairs, for_axes, pad_list, pairs, window_counts
from spikec.ir.types import (
    Array,
    Rate,
    Real,
    Type,
    as_scale,
    brief,
    channel_scale,
    ints,
    on_axis,
    same_scales,
    sealed,
    span,
)

__all__ = ["Conv", "ConvTranspose", "Linear", "Weighted"]

_ONE = sealed(np.ones(1))


def _vector(value: Any) -> Array:
    return _ONE if value is _ONE else as_scale(np.reshape(value, -1))


@attrs.frozen(eq=False)
class Weighted(Op):
    """An affine op. Where ``y = W x + b`` in ANN units, it computes ``y/s_out = (W s_in/s_out) (x/s_in) + b/s_out``.

    The record holds the folded weights together with ``in_scale`` (s_in) and ``out_scale`` (s_out), so that
    the type rule can refuse an operand whose rate has another scale than the weights were folded for.

    Attributes:
        weight: output features first.
        bias: one value an output feature, or None.
        in_scale, out_scale: vectors over the input and output features, or of length 1.
    """

    role = Role.LINEAR
    fresh = True
    #: the axis of a sample that holds the features
    axis: ClassVar[int]

    weight: Array = array()
    bias: Array | None = array(default=None)
    in_scale: Array = attrs.field(default=_ONE, converter=_vector, kw_only=True, repr=brief)
    out_scale: Array = attrs.field(default=_ONE, converter=_vector, kw_only=True, repr=brief)

    @property
    def in_features(self) -> int:
        """The length of the operand's feature axis."""
        return int(self.weight.shape[1])

    @property
    def out_features(self) -> int:
        """The length of the result's feature axis."""
        return int(self.weight.shape[0])

    @property
    def shift(self) -> Array:
        """The bias, zeros where there is none; float64."""
        return np.zeros(self.out_features) if self.bias is None else np.asarray(self.bias, dtype=np.float64)

    def infer(self, *operands: Type) -> Type:
        """Keep Real, and turn Rate(in_scale) into Rate(out_scale)."""
        (x,) = operands
        rank = len(x.shape)
        if rank and x.shape[self.axis] != self.in_features:
            raise TypeMismatchError(
                f"weight takes {self.in_features} features, operand has {x.shape[self.axis]} (shape {x.shape})"
            )
        shape = self.shape_of(x)
        if isinstance(x.encoding, Real):
            if self.in_scale.size + self.out_scale.size > 2 or self.in_scale[0] != 1 or self.out_scale[0] != 1:
                message = "the weights are folded for a rate-coded operand, and it is real"
                raise TypeMismatchError(message, hint=SPIKES_FIRST)
            return Type(shape, x.dtype, x.encoding)
        scale = channel_scale(x, self.axis, self.kind)
        if not same_scales(scale, self.in_scale):
            raise TypeMismatchError(
                f"the weights are folded for an operand of scale {span(self.in_scale)}, it has {span(scale)}",
                hint="put a Rescale before it, or fold the scale into the weights with scale_input",
            )
        return Type(shape, x.dtype, Rate(on_axis(self.out_scale, len(shape), self.axis % len(shape))))

    @property
    def _is_plain(self) -> bool:
        """Whether weight and bias are numbers, at least one and as many as torch takes."""
        arrays = (self.weight,) if self.bias is None else (self.weight, self.bias)
        has_one_a_feature = self.bias is None or self.bias.shape == (self.out_features,)
        return has_one_a_feature and self.weight.size > 0 and all(x.dtype.kind in "biuf" for x in arrays)

    def scale_input(self, factor: Array) -> Self:
        """Return the op that does to x what this one does to ``factor * x`` (a vector over the input features)."""
        factor = np.asarray(factor, dtype=np.float64).reshape(-1)
        weight = sealed(self.weight * self._per_input(factor))
        return attrs.evolve(self, weight=weight, in_scale=self.in_scale * factor)

    def scale_output(self, factor: Array) -> Self:
        """Return the op that gives ``factor * y`` where this one gives y (a vector over the output features)."""
        factor = np.asarray(factor, dtype=np.float64).reshape(-1)
        return attrs.evolve(self.affine(factor, np.zeros(1)), out_scale=self.out_scale / factor)

    def affine(self, gain: Array, shift: Array) -> Self:
        """Return the op that gives ``gain * y + shift`` as the ANN's new value; the scales stay."""
        gain = np.broadcast_to(np.asarray(gain, dtype=np.float64).reshape(-1), (self.out_features,))
        weight = sealed(self.weight * gain.reshape(-1, *[1] * (self.weight.ndim - 1)))
        bias = None if self.bias is None and not shift.any() else self.shift * gain + shift
        return attrs.evolve(self, weight=weight, bias=bias)

    def behind(self, gain: Array, shift: Array) -> Self:
        """Return the op that does to x what this one does to ``gain x + shift``, as the ANN's value; the scales stay.

        Args:
            gain, shift: vectors over the input features, or of length 1.

        Raises:
            BlockedError: the shift would not be the same in every place.
        """
        scaled = attrs.evolve(self.scale_input(gain), in_scale=self.in_scale)
        if not shift.any():
            return scaled
        if not self.spreads_shift:
            raise BlockedError(self.uneven)
        added = self.weight.astype(np.float64) * self._per_input(np.broadcast_to(shift, (self.in_features,)))
        return scaled.affine(np.ones(1), added.reshape(self.out_features, -1).sum(1))

    @property
    def spreads_shift(self) -> bool:
        """Whether a shift of the operand shifts every place of the result alike."""
        return True

    def split(self, parts: Sequence[slice], operand: Type) -> Sequence[Self] | None:
        """Split ``W x`` into ``W_0 x_0 + W_1 x_1 + ...``: here the results' sum is this op's; the first keeps the bias.

        None unless the operand's axis 0 holds the features, and every output feature sees all of them.
        """
        if self.axis % len(operand.shape) or self.weight.shape[1] != self.in_features:
            return None
        scales = [self.in_scale[rows] if self.in_scale.size > 1 else self.in_scale for rows in parts]
        weights = [self.weight[:, rows] for rows in parts]
        first, *others = (attrs.evolve(self, weight=w, in_scale=s) for w, s in zip(weights, scales, strict=True))
        return [first, *(attrs.evolve(each, bias=None) for each in others)]

    def _per_input(self, factor: Array) -> Array:
        """Shape a vector over the input features to multiply the weight."""
        raise NotImplementedError


@attrs.frozen(eq=False)
class Linear(Weighted):
    """``y = W x + b`` over the last axis; weight [O, I]."""

    axis: ClassVar[int] = -1

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's linear."""
        (x,) = xs
        bias = None if self.bias is None else tensor(self.bias, x)
        return F.linear(x, tensor(self.weight, x), bias)

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Put the output features in the place of the input features."""
        (x,) = operands
        if x.shape and self.weight.ndim == 2 and self._is_plain:
            return *x.shape[:-1], self.out_features
        return self.tried_shape(x)

    def permuted(self, axes: Sequence[int]) -> Weighted | None:
        """Return the same matrix over the channels, where the permutation brings those to the end."""
        if axes[-1] != 0 or not 2 <= len(axes) <= 4:
            return None
        scales: dict[str, Any] = {"in_scale": self.in_scale, "out_scale": self.out_scale, "origin": self.origin}
        return pointwise(self.weight, self.bias, len(axes), **scales)

    def _per_input(self, factor: Array) -> Array:
        return factor[None, :]


def elementwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Run a convolution whose kernels are one cell and see one channel: [B, C, ...] to [B, O, ...].

    torch's own takes 5 us for each channel of one cell, which is 1,000 times as long, and twice as long on large maps.

    Args:
        x: [B, C, ...].
        weight: [O, 1, 1, ...], the rows of one channel of x behind each other.
        bias: [O], or None.
    """
    gain = weight.reshape(x.shape[1], -1, *weight.shape[2:])
    x = x.unsqueeze(2)
    y = x * gain if bias is None else torch.addcmul(bias.reshape(gain.shape), x, gain)
    return y.flatten(1, 2)


def _everywhere(size: int) -> Any:
    return attrs.Factory(lambda op: (size,) * len(op.kernel), takes_self=True)


@attrs.frozen(eq=False)
class _Spatial(Weighted):
    """An affine op with a kernel in 1 to 3 dimensions.

    Attributes:
        stride, dilation: one number a spatial axis; 1 if not given.
        padding: pairs (before, after), one a spatial axis; 0 if not given.
        groups: number of groups of input and output channels.
    """

    axis: ClassVar[int] = 0

    stride: tuple[int, ...] = attrs.field(converter=ints, default=_everywhere(1), kw_only=True)
    padding: Pairs = attrs.field(converter=pairs, default=_everywhere(0), kw_only=True)
    dilation: tuple[int, ...] = attrs.field(converter=ints, default=_everywhere(1), kw_only=True)
    groups: int = attrs.field(default=1, kw_only=True)

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel's spatial size."""
        return tuple(self.weight.shape[2:])

    @property
    def in_features(self) -> int:
        """The number of input channels."""
        return int(self.weight.shape[1]) * self.groups

    @property
    def spreads_shift(self) -> bool:
        """True of a :class:`Conv` without padding: else the border, or a stride, would show."""
        return isinstance(self, Conv) and not any(map(any, self.padding))

    def infer(self, *operands: Type) -> Type:
        """Do as every affine op, for an operand of one channel axis and the spatial axes."""
        if len(operands[0].shape) != self.weight.ndim - 1:
            raise TypeMismatchError(
                f"a {self.weight.ndim - 2}d convolution takes samples of rank {self.weight.ndim - 1}, "
                f"operand has shape {operands[0].shape}"
            )
        return super().infer(*operands)

    def _per_input(self, factor: Array) -> Array:
        """Shape a vector over the input channels to multiply a weight [O, I/groups, *kernel]."""
        factor = np.broadcast_to(factor, (self.in_features,)).reshape(self.groups, 1, -1)
        rows = np.broadcast_to(factor, (self.groups, self.out_features // self.groups, factor.shape[2]))
        return rows.reshape(self.out_features, -1, *[1] * (self.weight.ndim - 2))


@attrs.frozen(eq=False)
class Conv(_Spatial):
    """Cross-correlation in 1 to 3 dimensions with zero padding; weight [O, I/groups, *kernel]."""

    @property
    def uneven(self) -> str:
        """Say that zeros which are padded stay zeros."""
        return "pads with zeros, which the shift would change"

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Count the windows."""
        (x,) = operands
        counts = window_counts(x.shape[1:], self.kernel, self.stride, self.padding, self.dilation)
        if counts and self.groups > 0 and self.out_features % self.groups == 0 and self._is_plain:
            return self.out_features, *counts
        return self.tried_shape(x)

    @property
    def is_elementwise(self) -> bool:
        """Whether each number of the result is one number of the operand, times a weight, and a bias."""
        return (
            self.weight.shape[1:] == (1,) * (self.weight.ndim - 1)
            and self.stride == (1,) * len(self.kernel)
            and not any(map(any, self.padding))
        )

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's convolution, or :func:`elementwise`."""
        (x,) = xs
        if self.is_elementwise:
            return elementwise(x, tensor(self.weight, x), None if self.bias is None else tensor(self.bias, x))
        padding: Any = tuple(before for before, _ in self.padding)
        if any(before != after for before, after in self.padding):
            x, padding = F.pad(x, pad_list(self.padding)), 0
        bias = None if self.bias is None else tensor(self.bias, x)
        conv = for_axes("conv", len(self.kernel))
        return conv(x, tensor(self.weight, x), bias, self.stride, padding, self.dilation, self.groups)

    def inner_tap(self, operand: tuple[int, ...], result: tuple[int, ...]) -> tuple[int, ...] | None:
        """The cell of the kernel nearest to its middle that never lies on padding; None where there is none.

        Args:
            operand, result: shapes of a sample.
        """
        found = []
        axes = zip(operand[1:], result[1:], self.kernel, self.stride, self.dilation, self.padding, strict=True)
        for size, windows, k, s, d, (pad, _) in axes:
            last = size - 1 + pad - (windows - 1) * s
            inside = [j for j in range(k) if pad <= j * d <= last]
            if not inside:
                return None
            found.append(inside[len(inside) // 2])
        return tuple(found)


@attrs.frozen(eq=False)
class ConvTranspose(_Spatial):
    """Transposed convolution in 1 to 3 dimensions: the adjoint of :class:`Conv`, as torch's ``conv_transpose``.

    The weight is [O, I/groups, *kernel], output channels first as in every affine op; torch and ONNX hold it as
    [I, O/groups, *kernel]. The padding is what is cut off the result; negative padding is added to it. torch's
    output_padding is part of it: after = padding - output_padding.
    """

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Count the cells: torch's formula, the output padding being part of the padding."""
        (x,) = operands
        axes = [x.shape[1:], self.kernel, self.stride, self.dilation, self.padding]
        in_groups = self.groups > 0 and self.out_features % self.groups == 0
        if in_groups and self._is_plain and len({len(axis) for axis in axes}) == 1:
            wholes = [(n - 1) * s + d * (k - 1) + 1 for n, k, s, d, _ in zip(*axes, strict=True)]
            cuts = list(zip(wholes, self.padding, strict=True))
            if min(whole - max(a, 0) - max(b, 0) for whole, (a, b) in cuts) > 0:
                return self.out_features, *(whole - a - b for whole, (a, b) in cuts)
        return self.tried_shape(x)

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's transposed convolution, cut its result to size and add the bias."""
        (x,) = xs
        weight = tensor(self.weight, x)
        grouped = weight.reshape(self.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
        transposed = for_axes("conv_transpose", len(self.kernel))
        whole = transposed(x, grouped, None, self.stride, 0, 0, self.groups, self.dilation)
        cut = F.pad(whole, [-size for size in pad_list(self.padding)])
        return cut if self.bias is None else cut + tensor(self.bias, x).reshape(-1, *[1] * len(self.kernel))


def block_diagonal(weight: Array, groups: int) -> Array:
    """Write a weight [O, I/groups, ...] for one group: [O, I, ...] with the groups' blocks on its diagonal."""
    if groups == 1:
        return weight
    outputs, columns, *kernel = weight.shape
    blocks = np.zeros((groups, outputs // groups, groups, columns, *kernel), weight.dtype)
    for group, block in enumerate(np.split(weight, groups)):
        blocks[group, :, group] = block
    return blocks.reshape(outputs, groups * columns, *kernel)


def spread_kernel(weight: Array, dilation: Sequence[int]) -> Array:
    """Write a dilated weight [O, I, *kernel] without dilation: with zeros between the kernel's cells."""
    if set(dilation) == {1}:
        return weight
    sizes = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    spread = np.zeros((*weight.shape[:2], *sizes), weight.dtype)
    cells: tuple[Any, ...] = (slice(None), slice(None), *(slice(None, None, d) for d in dilation))
    spread[cells] = weight
    return spread


def pointwise(weight: Array, bias: Array | None, rank: int, groups: int = 1, **scales: Any) -> Weighted:
    """Make ``W x + b`` over the channels alone: a 1x1 convolution, or a matrix for samples that are vectors.

    Args:
        weight: [O, I/groups].
        bias: [O], or None.
        rank: of the sample: (C,) is 1, (C, H, W) is 3.
        groups: as a convolution's.
        scales: ``in_scale``, ``out_scale`` and ``origin`` of the op.
    """
    if rank == 1:
        return Linear(block_diagonal(weight, groups), bias, **scales)
    return Conv(weight.reshape(*weight.shape, *(1,) * (rank - 1)), bias, groups=groups, **scales)


def diagonal(gain: Array, shift: Array | None, rank: int, **scales: Any) -> Weighted:
    """Make ``gain * x + shift`` per channel, both [C], as :func:`pointwise` with a group a channel."""
    return pointwise(np.asarray(gain)[:, None], shift, rank, len(gain), **scales)


def depthwise(kernel: Array, operand: Type, *, gain: float = 1.0, origin: Origin = (), **windows: Any) -> Conv:
    """Make the convolution that has one kernel [*kernel] for every channel of such an operand.

    Args:
        kernel: [*kernel].
        operand: its type; the result's scale is the operand's over ``gain``.
        gain: by how much the result is larger than what it stands for.
        origin: of the op.
        windows: ``stride``, ``padding`` and ``dilation``.
    """
    scale = channel_scale(operand, 0, "a depthwise convolution")
    weight = np.repeat(kernel[None, None], operand.shape[0], 0)
    return Conv(weight, groups=len(weight), in_scale=scale, out_scale=scale / gain, origin=origin, **windows)


def identity(signal: Type, bias: Array | None = None, origin: Origin = ()) -> Weighted:
    """Make ``x + bias`` per channel an affine op, in the units that such a signal has."""
    scale = channel_scale(signal, 0, "an identity")
    ones = np.ones(signal.shape[0])
    return diagonal(ones, bias, len(signal.shape), in_scale=scale, out_scale=scale, origin=origin)
