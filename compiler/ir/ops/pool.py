"""Pooling: averages and sums over windows, which are linear, and the maximum, which is not."""

import functools
import itertools
import math
from typing import Any, ClassVar

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spikec.ir.affine import BlockedError
from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import Op, Role, is_recorded
from spikec.ir.ops.weighted import Conv, depthwise
from spikec.ir.spatial import Pairs, for_axes, pad_list, pairs, window_counts
from spikec.ir.types import Array, Rate, Real, Type, channel_scale, ints, on_axis

__all__ = ["AdaptiveAvgPool", "AvgPool", "MaxPool", "SumPool"]

#: cells of a window up to which slices are faster than torch's pool, which goes from cell to cell
TINY = 4


@attrs.frozen(eq=False)
class _Pool(Op):
    role = Role.LINEAR
    channelwise = True
    fresh = True

    @property
    def gain(self) -> float:
        """The factor by which the result is larger than the ANN's average over the same windows."""
        return 1.0

    def infer(self, *operands: Type) -> Type:
        """Divide the scale of each channel by ``gain``, and refuse one that varies within a channel."""
        (x,) = operands
        shape = self.shape_of(x)
        if isinstance(x.encoding, Real):
            return attrs.evolve(x, shape=shape)
        scale: Array = channel_scale(x, 0, self.kind) / self.gain
        return Type(shape, x.dtype, Rate(on_axis(scale, len(shape), 0)))


@attrs.frozen(eq=False)
class AvgPool(_Pool):
    """Average over windows.

    Attributes:
        kernel, stride: one number a spatial axis.
        padding: zeros on either side, one number a spatial axis.
        ceil_mode: windows may end outside of the map.
        count_include_pad: the divisor is the kernel's size also where the window covers padding.
    """

    kernel: tuple[int, ...] = attrs.field(converter=ints)
    stride: tuple[int, ...] = attrs.field(converter=ints)
    padding: tuple[int, ...] = attrs.field(converter=ints)
    ceil_mode: bool = False
    count_include_pad: bool = True

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Count the windows."""
        (x,) = operands
        padding = pairs(self.padding)
        counts = window_counts(x.shape[1:], self.kernel, self.stride, padding, (1,) * len(self.kernel))
        if counts and not self.ceil_mode and not any(2 * p > k for p, k in zip(self.padding, self.kernel, strict=True)):
            return x.shape[0], *counts
        return self.tried_shape(x)

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's average pool; where windows are tiny, add up slices in its order, which takes half its time."""
        (x,) = xs
        pool = for_axes("avg_pool", len(self.kernel))
        if any(self.padding) or self.ceil_mode or not 1 < math.prod(self.kernel) <= TINY or is_recorded():
            return pool(x, self.kernel, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        ends = [size - k + 1 for size, k in zip(x.shape[2:], self.kernel, strict=True)]
        axes = [
            [slice(i, end + i, step) for i in range(k)]
            for end, k, step in zip(ends, self.kernel, self.stride, strict=True)
        ]
        first, second, *others = (x[(slice(None),) * 2 + cell] for cell in itertools.product(*axes))
        return functools.reduce(Tensor.add_, others, first + second).div_(math.prod(self.kernel))

    @property
    def uneven(self) -> str:
        """Say that zeros of the padding which are counted stay zeros."""
        zeros = any(self.padding) and self.count_include_pad
        return "averages zeros of its padding, which the shift would change" if zeros else super().uneven

    def irregular(self, operand: Type) -> str:
        """Say why windows over such an operand are not all alike; an empty string where they are."""
        if any(self.padding) and not self.count_include_pad:
            return "without count_include_pad its windows have different divisors"
        result = self.shape_of(operand)
        axes = zip(operand.shape[1:], self.padding, self.kernel, self.stride, result[1:], strict=True)
        if any((size + 2 * pad - k) // s + 1 != out for size, pad, k, s, out in axes):
            return "ceil_mode makes windows of different sizes"
        return ""

    def as_convolution(self, operand: Type) -> Conv:
        """Give a kernel of equal weights, if all windows are alike."""
        if why := self.irregular(operand):
            raise BlockedError(why)
        kernel = np.full(self.kernel, 1 / math.prod(self.kernel))
        return depthwise(kernel, operand, stride=self.stride, padding=self.padding, origin=self.origin)


@attrs.frozen(eq=False)
class AdaptiveAvgPool(_Pool):
    """Average over windows chosen so that the result has the given spatial size; None keeps an axis."""

    size: tuple[int | None, ...]

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Put the given sizes in the place of the spatial ones."""
        (x,) = operands
        if len(x.shape) == 1 + len(self.size) and 1 <= len(self.size) <= 3:
            sizes = [old if new is None else new for old, new in zip(x.shape[1:], self.size, strict=True)]
            if min((*x.shape, *sizes)) > 0:
                return x.shape[0], *sizes
        return self.tried_shape(x)

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's adaptive average pool."""
        (x,) = xs
        sizes = [x.shape[i + 2] if size is None else size for i, size in enumerate(self.size)]
        return for_axes("adaptive_avg_pool", len(sizes))(x, sizes)


@attrs.frozen(eq=False)
class SumPool(_Pool):
    """Sum over windows of a rate-coded signal, zero padding.

    It stands for the ANN's average: its result has the operand's scale divided by the kernel's size, so
    that time-average times scale is the average. A real signal has no scale to hold that, and is refused.
    """

    fresh = False  # the sum over a window of one cell is a view

    kernel: tuple[int, ...] = attrs.field(converter=ints)
    stride: tuple[int, ...] = attrs.field(converter=ints)
    padding: Pairs = attrs.field(converter=pairs)

    @property
    def gain(self) -> float:
        """The number of cells in a window."""
        return float(math.prod(self.kernel))

    def infer(self, *operands: Type) -> Type:
        """Turn Rate(s) into Rate(s / kernel size)."""
        if isinstance(operands[0].encoding, Real):
            raise TypeMismatchError("sum-pool of a real signal", hint="an ANN graph has AvgPool")
        sizes = zip(self.kernel, operands[0].shape[1:], self.padding, strict=False)
        if any(size > cells + sum(pads) for size, cells, pads in sizes):  # eval would sum up that many slices
            raise TypeMismatchError(f"windows of {self.kernel} are larger than samples of shape {operands[0].shape}")
        return super().infer(*operands)

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Count the windows."""
        (x,) = operands
        counts = window_counts(x.shape[1:], self.kernel, self.stride, self.padding, (1,) * len(self.kernel))
        return (x.shape[0], *counts) if counts else self.tried_shape(x)

    def eval(self, *xs: Tensor) -> Tensor:
        """Sum slices along one axis after the other: exact for spikes, and in calls that every exporter keeps."""
        x = F.pad(xs[0], pad_list(self.padding)) if any(map(any, self.padding)) else xs[0]
        for axis, (size, step) in enumerate(zip(self.kernel, self.stride, strict=True), start=2):
            cells = [(slice(None),) * axis + (slice(i, i + 1 - size or None, step),) for i in range(size)]
            x = functools.reduce(torch.add, (x[each] for each in cells))
        return x

    def as_convolution(self, operand: Type) -> Conv:
        """Give a kernel of ones."""
        ones, origin = np.ones(self.kernel), self.origin
        return depthwise(ones, operand, gain=self.gain, origin=origin, stride=self.stride, padding=self.padding)


@attrs.frozen(eq=False)
class MaxPool(Op):
    """Maximum over windows; padding stands for minus infinity.

    Attributes:
        kernel, stride, dilation: one number a spatial axis.
        padding: pairs (before, after), one a spatial axis.
        ceil_mode: windows may start inside the map and end outside of it.
        counts: in a spiking graph it becomes a :class:`spikec.ir.ops.CountingMaxPool`.
    """

    role = Role.ACTIVATION
    fresh = True
    hint: ClassVar[str] = "let the pass lower-maxpool run, which writes it in ReLUs and sums"

    kernel: tuple[int, ...] = attrs.field(converter=ints)
    stride: tuple[int, ...] = attrs.field(converter=ints)
    padding: Pairs = attrs.field(converter=pairs)
    dilation: tuple[int, ...] = attrs.field(converter=ints)
    ceil_mode: bool = False
    counts: bool = False

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Count the windows."""
        (x,) = operands
        counts = window_counts(x.shape[1:], self.kernel, self.stride, self.padding, self.dilation)
        return (x.shape[0], *counts) if counts and not self.ceil_mode else self.tried_shape(x)

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's max-pool."""
        (x,) = xs
        padding: Any = tuple(before for before, _ in self.padding)
        if any(a != b or 2 * a > size for (a, b), size in zip(self.padding, self.kernel, strict=True)):
            x, padding = F.pad(x, pad_list(self.padding), value=float("-inf")), 0
        pool = for_axes("max_pool", len(self.kernel))
        return pool(x, self.kernel, self.stride, padding, self.dilation, self.ceil_mode)
