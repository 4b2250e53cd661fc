"""Where signals enter and leave, and what a classifier ends in, which no spike can carry."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import attrs
import torch
from torch import Tensor
from typing_extensions import Self

from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import Op, Role
from spikec.ir.ops.functions import ScalarFunction, function_named
from spikec.ir.types import Real, Type, ints

__all__ = ["Head", "Input", "Output"]

#: functions of all numbers along an axis
_ALONG: dict[str, Callable[[Tensor, int], Tensor]] = {
    "softmax": torch.softmax,
    "log_softmax": torch.log_softmax,
    "softmin": lambda x, axis: torch.softmax(-x, axis),
}
#: functions of single numbers that networks end in, which :class:`ScalarFunction` has too
_SCALAR = ("sigmoid", "log_sigmoid", "tanh")


@attrs.frozen(eq=False)
class Head(Op):
    """``y = function(x)`` at the end of a network: softmax, log_softmax, softmin, sigmoid, log_sigmoid or tanh.

    A spiking network ends before it; ``detach-head`` moves it into the :class:`Output`, from where it is applied to
    the time-average in ANN units.

    Attributes:
        function: one of the names above.
        axis: of the sample, along which softmax and its like work.
    """

    role = Role.ACTIVATION
    hint: ClassVar[str] = "only at the end of a network it can be kept outside; inside, replace it by ReLU and retrain"

    function: str = attrs.field(validator=attrs.validators.in_((*_ALONG, *_SCALAR)))
    axis: int = 0

    def infer(self, *operands: Type) -> Type:
        """Return the operand's type, which must be real."""
        (x,) = operands
        if not isinstance(x.encoding, Real):
            raise TypeMismatchError(f"{self.function} of a rate-coded signal", hint="run detach-head before relu-to-if")
        if not -len(x.shape) <= self.axis < max(len(x.shape), 1):
            message = f"{self.function} along axis {self.axis} of a sample of shape {x.shape}"
            raise TypeMismatchError(message, hint=f"axes of a sample run from 0 to {max(len(x.shape), 1) - 1}")
        return x

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's function of that name."""
        if self.function in _ALONG:
            return _ALONG[self.function](xs[0], self.axis + 1 if self.axis >= 0 else self.axis)
        return function_named(self.function).compute(xs[0])

    @property
    def scalar(self) -> ScalarFunction | None:
        """The same as a function of single numbers, if it is one."""
        return ScalarFunction(self.function, origin=self.origin) if self.function in _SCALAR else None

    def permuted(self, axes: Sequence[int]) -> Self:
        """Return the function along the axis that its own has become."""
        return attrs.evolve(self, axis=axes[self.axis % len(axes)])

    def __str__(self) -> str:
        return self.function


@attrs.frozen(eq=False)
class Input(Op):
    """An input of the model.

    Attributes:
        shape: of one sample, without batch and time.
        dtype: ``float32`` or ``float64``.
        rate: False in an ANN (real numbers); True in an SNN, where it is Rate(1): a constant current
            or any train of numbers whose time-average is the ANN's input.
    """

    role = Role.IO
    arity = 0

    shape: tuple[int, ...] = attrs.field(converter=ints)
    dtype: str = attrs.field(default="float32", validator=attrs.validators.in_(("float32", "float64")))
    rate: bool = False

    def infer(self, *operands: Type) -> Type:
        """Return the type that the fields declare."""
        real = Type(self.shape, self.dtype)
        return real.with_scale(real.scale) if self.rate else real

    @property
    def timed(self) -> bool:
        """A rate is one over time."""
        return self.rate

    def eval(self, *xs: Tensor) -> Tensor:
        """Return the value fed from outside, once it is seen to have the declared shape."""
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

    role = Role.IO

    heads: tuple[Head, ...] = ()

    def infer(self, *operands: Type) -> Type:
        """Return the operand's type."""
        return operands[0]

    def eval(self, *xs: Tensor) -> Tensor:
        """Return the operand."""
        return xs[0]

    def finish(self, average: Tensor) -> Tensor:
        """Make the model's result [B, ...] of the output's average over time, in ANN units."""
        for head in self.heads:
            average = head.eval(average)
        return average
