"""Where signals enter and leave."""

import attrs
from torch import Tensor

from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import Op, Role
from spikec.ir.ops.head import Head
from spikec.ir.types import Real, Type, ints, unit_rate


@attrs.frozen(eq=False)
class Input(Op):
    """An input of the model.

    Attributes:
        shape: of one sample, without batch and time.
        dtype: ``float32`` or ``float64``.
        rate: False in an ANN (real numbers); True in an SNN, where it is Rate(1): a constant current
            or any train of numbers whose time-average is the ANN's input.
    """

    kind = "input"
    role = Role.IO
    arity = 0

    shape: tuple[int, ...] = attrs.field(converter=ints)
    dtype: str = attrs.field(default="float32", validator=attrs.validators.in_(("float32", "float64")))
    rate: bool = False

    def infer(self, *operands: Type) -> Type:
        """The type that the fields declare."""
        return Type(self.shape, self.dtype, unit_rate(len(self.shape)) if self.rate else Real())

    def eval(self, *xs: Tensor) -> Tensor:
        """The value fed from outside, checked against the declared shape."""
        (x,) = xs
        if tuple(x.shape[1:]) != self.shape:
            raise TypeMismatchError(
                f"the input is [B, {', '.join(map(str, self.shape))}], got {list(x.shape)}",
                hint="give a batch first; an SNN also takes [T, B, ...] when timesteps is None",
            )
        return x


@attrs.frozen(eq=False)
class Output(Op):
    """An output of the model; the scale of its type turns its time-average into what stands before ``heads``.

    Attributes:
        heads: softmax and its like, in order, that the ANN applies last. They are not part of the spiking network:
            :meth:`finish` applies them to the time-average.
    """

    kind = "output"
    role = Role.IO

    heads: tuple[Head, ...] = ()

    def infer(self, *operands: Type) -> Type:
        """The operand's type."""
        return operands[0]

    def eval(self, *xs: Tensor) -> Tensor:
        """The operand."""
        return xs[0]

    def finish(self, average: Tensor) -> Tensor:
        """The model's result [B, ...] from the output's average over time, in ANN units."""
        for head in self.heads:
            average = head.eval(average)
        return average
