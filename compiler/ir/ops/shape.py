"""Ops that only move numbers about."""

from collections.abc import Sequence

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from spikec.ir.affine import BlockedError
from spikec.ir.op import Movement, Op
from spikec.ir.ops.weighted import Conv, depthwise, identity
from spikec.ir.spatial import Pairs, pad_list, pairs
from spikec.ir.types import Array, Type, compress, ints

__all__ = ["Concat", "Flatten", "Pad", "Permute", "Reshape", "Slice", "Upsample"]


@attrs.frozen(eq=False)
class Flatten(Movement):
    """Axes ``start`` to ``end`` of a sample become one (batch is not an axis of a sample)."""

    start: int = 0
    end: int = -1

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's flatten, past the batch; a sample of one number becomes a vector of one, as there."""
        if xs[0].ndim == 1:
            return xs[0].reshape(-1, 1)
        end = self.end + 1 if self.end >= 0 else self.end
        return xs[0].flatten(self.start + 1, end)

    def split(self, parts: Sequence[slice], operand: Type) -> Sequence[Op] | None:
        """A flatten of all axes lays whole channels one behind the other, so each part can be flattened alone."""
        return [self] * len(parts) if (self.start, self.end) == (0, -1) else None


@attrs.frozen(eq=False)
class Reshape(Movement):
    """Gives the sample another shape of as many elements, row-major; one size may be -1."""

    shape: tuple[int, ...] = attrs.field(converter=ints)

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's reshape, past the batch."""
        return xs[0].reshape(xs[0].shape[0], *self.shape)


@attrs.frozen(eq=False)
class Permute(Movement):
    """Puts the sample's axes in another order: axis i of the result is axis ``axes[i]`` of the operand."""

    axes: tuple[int, ...] = attrs.field(converter=ints)

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's permute, past the batch."""
        return xs[0].permute(0, *(axis + 1 for axis in self.axes))


@attrs.frozen(eq=False)
class Slice(Movement):
    """Cells ``start, start + step, ...`` below ``stop`` along one axis of the sample.

    Attributes:
        axis: of the sample; negative ones count from the end.
        start, stop: as in Python, negative ones count from the end; a stop of None is the end.
        step: positive.
    """

    axis: int
    start: int = 0
    stop: int | None = None
    step: int = attrs.field(default=1, validator=attrs.validators.gt(0))

    def eval(self, *xs: Tensor) -> Tensor:
        """Index along that axis."""
        axis = self.axis + 1 if self.axis >= 0 else self.axis + xs[0].ndim
        return xs[0][(slice(None),) * axis + (slice(self.start, self.stop, self.step),)]

    def permuted(self, axes: Sequence[int]) -> Self:
        """It works along the axis that becomes its own."""
        return attrs.evolve(self, axis=axes[self.axis % len(axes)])


@attrs.frozen(eq=False)
class Upsample(Movement):
    """Nearest-neighbour resizing of the spatial axes to ``size``: cell i of an axis is ``floor(i old / new)``."""

    size: tuple[int, ...] = attrs.field(converter=ints)

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Put the given sizes in the place of the spatial ones."""
        (x,) = operands
        return (x.shape[0], *self.size) if len(x.shape) == 1 + len(self.size) else self.tried_shape(x)

    def eval(self, *xs: Tensor) -> Tensor:
        """Pick cells axis by axis."""
        (x,) = xs
        for axis, new in enumerate(self.size, start=2):
            cells = torch.arange(new, device=x.device) * x.shape[axis] // new
            x = x.index_select(axis, cells)
        return x

    def as_convolution(self, operand: Type) -> Conv:
        """Give the kernel of ones, as large as the result, that repeats the only cell of a map.

        Raises:
            BlockedError: the map has several cells.
        """
        if any(size != 1 for size in operand.shape[1:]) or not 1 <= len(self.size) <= 3:
            raise BlockedError("picks among several cells")
        padding = tuple(size - 1 for size in self.size)
        return depthwise(np.ones(self.size), operand, origin=self.origin, padding=padding)


@attrs.frozen(eq=False)
class Pad(Movement):
    """Padding of the trailing axes.

    Attributes:
        padding: pairs (before, after), one a trailing axis; negative sizes crop.
        mode: ``constant`` (zeros), ``reflect``, ``replicate`` or ``circular``, as in torch.
    """

    padding: Pairs = attrs.field(converter=pairs)
    mode: str = attrs.field(
        default="constant", validator=attrs.validators.in_(("constant", "reflect", "replicate", "circular"))
    )

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's pad."""
        return F.pad(xs[0], pad_list(self.padding), mode=self.mode)

    @property
    def uneven(self) -> str:
        """Say that zeros which are padded stay zeros."""
        return "pads with zeros, which the shift would change" if self.mode == "constant" else super().uneven

    def permuted(self, axes: Sequence[int]) -> Self | None:
        """Each axis keeps its sizes; torch can pad with a map's own cells on trailing axes only, so others stay."""
        if self.mode != "constant":
            return None
        sizes = ((0, 0),) * (len(axes) - len(self.padding)) + self.padding
        return attrs.evolve(self, padding=[sizes[i] for i in np.argsort(axes)])

    def as_convolution(self, operand: Type) -> Conv:
        """Give a 1x1 convolution that leaves the numbers as they are, with this padding."""
        if self.mode != "constant" or any(size < 0 for pair in self.padding for size in pair):
            raise BlockedError("only zero padding folds into a convolution")
        axes = len(operand.shape) - 1
        if len(self.padding) > axes:
            raise BlockedError("it pads the channels")
        conv = identity(operand, origin=self.origin)
        assert isinstance(conv, Conv)
        return attrs.evolve(conv, padding=((0, 0),) * (axes - len(self.padding)) + self.padding)

    def move_gain(self, gains: Sequence[Array], shapes: Sequence[tuple[int, ...]]) -> Array:
        """Give cells padded with zeros the nearest cell's gain: zero is zero times anything."""
        if self.mode != "constant":
            return super().move_gain(gains, shapes)
        gain = np.broadcast_to(gains[0], shapes[0])
        for axis, (before, after) in enumerate(self.padding, start=gain.ndim - len(self.padding)):
            cells = np.clip(np.arange(-before, gain.shape[axis] + after), 0, gain.shape[axis] - 1)
            gain = gain.take(cells, axis)
        return compress(gain)


@attrs.frozen(eq=False)
class Concat(Movement):
    """Puts its operands side by side along one axis of the sample."""

    arity = None

    axis: int = 0

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Add up the sizes along the axis."""
        first = operands[0].shape
        if not -len(first) <= self.axis < len(first) or any(len(t.shape) != len(first) for t in operands):
            return self.tried_shape(*operands)
        axis = self.axis % len(first)
        others = {(*t.shape[:axis], *t.shape[axis + 1 :]) for t in operands}
        total = sum(t.shape[axis] for t in operands)
        return (*first[:axis], total, *first[axis + 1 :]) if len(others) == 1 else self.tried_shape(*operands)

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's cat, past the batch."""
        return torch.cat(xs, self.axis + 1 if self.axis >= 0 else self.axis)

    def permuted(self, axes: Sequence[int]) -> Self:
        """It works along the axis that becomes its own."""
        return attrs.evolve(self, axis=axes[self.axis % len(axes)])
