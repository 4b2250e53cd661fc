"""Resizing that weighs neighbouring cells."""

import attrs
import torch.nn.functional as F
from torch import Tensor

from spikec.ir.op import Op, Role
from spikec.ir.types import ints

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
