"""A register: the only op through which a cycle may pass."""

import attrs
from torch import Tensor

from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import Role, StatefulOp
from spikec.ir.types import Type


@attrs.frozen(eq=False)
class Delay(StatefulOp):
    """``y(t) = x(t-1)``, ``y(0) = 0``.

    Attributes:
        type: of the operand and the result, declared so that a cycle can be typed.
    """

    kind = "delay"
    role = Role.LINEAR
    register = True

    type: Type

    def infer(self, *operands: Type) -> Type:
        """Return the declared type; an operand, once it is known, must have it."""
        for x in operands:
            if (x.shape, x.encoding) != (self.type.shape, self.type.encoding):
                raise TypeMismatchError(f"the delay is declared {self.type}, its operand is {x}")
        return self.type

    def initial(self, *xs: Tensor) -> Tensor:
        """Return zeros, shaped like a batch of the declared type."""
        (like,) = xs
        return like.new_zeros((like.shape[0], *self.type.shape))

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the operand as the state, and return the state so far."""
        return xs[0], state
