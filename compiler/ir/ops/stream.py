"""Currents that come from outside, another one at each step."""

import attrs
from torch import Tensor
from typing_extensions import Self

from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import Role, StatefulOp, array, tensor
from spikec.ir.types import Array, Rate, Type


@attrs.frozen(eq=False)
class Stream(StatefulOp):
    """``y(t) = x(t) + currents[min(t, T - 1)]``: a bias for each step, the last one held.

    The currents are in the operand's units; their time-average is part of what the signal stands for.

    Attributes:
        currents: [T, ...], behind T of the sample's rank, each axis 1 or full.
    """

    kind = "stream"
    role = Role.LINEAR

    currents: Array = array()

    def infer(self, *operands: Type) -> Type:
        """Return the operand's type."""
        (x,) = operands
        if not isinstance(x.encoding, Rate):
            raise TypeMismatchError("currents are streamed into a rate-coded signal, this one is real")
        sizes = self.currents.shape[1:]
        if len(sizes) != len(x.shape) or any(a not in (1, b) for a, b in zip(sizes, x.shape, strict=True)):
            raise TypeMismatchError(f"currents of shape {self.currents.shape} for a sample of shape {x.shape}")
        return x

    def initial(self, *xs: Tensor) -> Tensor:
        """Return the number of the step, 0, once for each sample: [B]."""
        return xs[0].new_zeros(len(xs[0]))

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number of the next step, and the operand plus this step's current."""
        now = min(int(state[0]), len(self.currents) - 1)
        return state + 1, xs[0] + tensor(self.currents, xs[0])[now]

    def divided(self, factor: Array) -> Self:
        """Return the op with its currents divided by the factor."""
        return attrs.evolve(self, currents=self.currents / factor)
