"""Resizing that weighs neighbouring cells."""

import math
from typing import Any

import attrs
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spikec.ir.affine import BlockedError
from spikec.ir.op import Op, Role
from spikec.ir.ops.weighted import Conv, depthwise
from spikec.ir.types import Array, Type, ints

__all__ = ["Interpolate"]

#: torch's names of the modes, by the number of spatial axes
_MODES = {"linear": {1: "linear", 2: "bilinear", 3: "trilinear"}, "cubic": {2: "bicubic"}}


@attrs.frozen(eq=False)
class Interpolate(Op):
    """Resizing of the spatial axes to ``size``: along each axis, cell i is a weighted mean of cells around one place.

    The place is ``(i + 1/2) step - 1/2`` of the operand's cells, with ``step = old / new``. Two cells are weighted
    linearly by their distance from it, or four by Keys' cubic kernel with a = -3/4; beyond the border lies the cell at
    the border.

    Attributes:
        size: of the result's spatial axes.
        mode: ``linear`` or ``cubic``, which torch has for two axes only.
        align_corners: the place is ``i (old - 1) / (new - 1)``, so that the first and the last cells stay.
        factors: new sizes by old ones, which give the step as ``1 / factor``; None for those of the sizes.
        antialias: where it makes the map smaller, the kernel is as much wider.
    """

    kind = "interpolate"
    role = Role.LINEAR
    channelwise = True

    size: tuple[int, ...] = attrs.field(converter=ints)
    mode: str = attrs.field(default="linear", validator=attrs.validators.in_(_MODES))
    align_corners: bool = False
    factors: tuple[float, ...] | None = attrs.field(default=None, converter=attrs.converters.optional(tuple))
    antialias: bool = False

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Put the given sizes, or those that the factors give, in the place of the spatial ones."""
        (x,) = operands
        sizes = self.size
        if self.factors is not None:
            sizes = tuple(math.floor(old * factor) for old, factor in zip(x.shape[1:], self.factors, strict=False))
        is_plain = len(self.size) in _MODES[self.mode] and not self.antialias
        if is_plain and len(x.shape) == 1 + len(self.size) == 1 + len(sizes) and min((*x.shape, *sizes)) > 0:
            return x.shape[0], *sizes
        return self.tried_shape(x)

    def eval(self, *xs: Tensor) -> Tensor:
        """torch's interpolation."""
        return F.interpolate(
            xs[0],
            None if self.factors else self.size,
            self.factors,
            _MODES[self.mode][len(self.size)],
            self.align_corners,
            antialias=self.antialias,
        )

    def as_convolution(self, operand: Type) -> Conv:
        """Give the product of one kernel an axis, if each cell of the result weighs its neighbours in the same way."""
        kernel, strides = np.ones(()), list[int]()
        for axis, new in enumerate(self.size):
            rows = self._rows(operand, axis)
            first = np.array([np.flatnonzero(row)[0] for row in rows])
            stride = int(first[1] - first[0]) if new > 1 else len(rows[0])
            length = max(rows.shape[1] - (new - 1) * stride, 1)
            line = rows[0, :length]
            alike = [np.pad(line, (i * stride, rows.shape[1]))[: rows.shape[1]] for i in range(new)]
            if stride < 1 or not np.allclose(rows, alike, rtol=0, atol=1e-12):
                raise BlockedError("its cells weigh their neighbours in different ways")
            kernel, strides = np.multiply.outer(kernel, line), [*strides, stride]
        return depthwise(kernel, operand, stride=strides, padding=((0, 0),) * len(strides), origin=self.origin)

    def _rows(self, operand: Type, axis: int) -> Array:
        """[new, old]: how each cell of the result along an axis weighs the operand's."""
        old, new, axes = operand.shape[axis + 1], self.size[axis], range(len(self.size))
        factors: Any = None if self.factors is None else [self.factors[i] if i == axis else 1.0 for i in axes]
        size = [new if i == axis else 1 for i in axes]
        alone = Interpolate(size, self.mode, self.align_corners, factors, self.antialias)
        units = torch.eye(old, dtype=torch.float64).reshape(old, 1, *(old if i == axis else 1 for i in axes))
        rows: Array = alone.eval(units).reshape(old, new).numpy().T
        return rows
