"""Sums, casts between scales, and ops that do nothing."""

from functools import reduce
from operator import add

import attrs
from torch import Tensor

from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import Op, Role, array, tensor
from spikec.ir.types import Array, Rate, Type


@attrs.frozen(eq=False)
class Add(Op):
    """The sum of its operands, which all have one shape and one scale."""

    kind = "add"
    elementwise = True
    role = Role.LINEAR
    arity = None

    def infer(self, *operands: Type) -> Type:
        """The operands' common type."""
        first, *others = operands
        for other in others:
            if other.shape != first.shape:
                raise TypeMismatchError(
                    f"sum of shapes {first.shape} and {other.shape}", hint="broadcasting sums are not supported"
                )
            if other.encoding != first.encoding:
                raise TypeMismatchError(
                    f"sum of signals in different units: {first.encoding} and {other.encoding}",
                    hint="rescale one of them first",
                )
        return first

    def eval(self, *xs: Tensor) -> Tensor:
        """Adds from left to right."""
        return reduce(add, xs)


@attrs.frozen(eq=False)
class Identity(Op):
    """Does nothing: dropout in evaluation mode, ``nn.Identity``, ``contiguous``."""

    kind = "identity"
    elementwise = True
    role = Role.IDENTITY

    def infer(self, *operands: Type) -> Type:
        """The operand's type."""
        return operands[0]

    def eval(self, *xs: Tensor) -> Tensor:
        """The operand."""
        return xs[0]


@attrs.frozen(eq=False)
class Rescale(Op):
    """A cast between scales: multiplies by ``factor`` and stands for the same ANN value.

    Attributes:
        factor: positive, of the sample's rank, each axis 1 or full.
    """

    kind = "rescale"
    elementwise = True
    role = Role.CAST

    factor: Array = array()

    def infer(self, *operands: Type) -> Type:
        """Rate(s) becomes Rate(s / factor)."""
        (x,) = operands
        if not isinstance(x.encoding, Rate):
            raise TypeMismatchError("rescale of a real signal")
        if self.factor.ndim != len(x.shape):
            raise TypeMismatchError(f"a factor of rank {self.factor.ndim} for a sample of shape {x.shape}")
        return x.with_scale(x.scale / self.factor)

    def eval(self, *xs: Tensor) -> Tensor:
        """``factor * x``."""
        return xs[0] * tensor(self.factor, xs[0])
