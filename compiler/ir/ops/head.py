"""What a classifier ends in, and no spike can carry: it is applied to what the network puts out in the end."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import attrs
import torch
from torch import Tensor
from typing_extensions import Self

from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import Op, Role
from spikec.ir.types import Real, Type

_FUNCTIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "softmax": torch.softmax,
    "log_softmax": torch.log_softmax,
    "softmin": lambda x, axis: torch.softmax(-x, axis),
    "sigmoid": lambda x, axis: torch.sigmoid(x),
    "log_sigmoid": lambda x, axis: torch.nn.functional.logsigmoid(x),
    "tanh": lambda x, axis: torch.tanh(x),
}


@attrs.frozen(eq=False)
class Head(Op):
    """``y = function(x)`` at the end of a network: softmax, log_softmax, softmin, sigmoid, log_sigmoid or tanh.

    A spiking network ends before it; ``detach-head`` moves it into the :class:`Output`, from where it is applied to
    the time-average in ANN units.

    Attributes:
        function: one of the names above.
        axis: of the sample, along which softmax and its like work.
    """

    kind = "head"
    role = Role.ACTIVATION
    hint: ClassVar[str] = "only at the end of a network it can be kept outside; inside, replace it by ReLU and retrain"

    function: str = attrs.field(validator=attrs.validators.in_(tuple(_FUNCTIONS)))
    axis: int = 0

    def infer(self, *operands: Type) -> Type:
        """The operand's type, which must be real."""
        (x,) = operands
        if not isinstance(x.encoding, Real):
            raise TypeMismatchError(f"{self.function} of a rate-coded signal", hint="run detach-head before relu-to-if")
        if not -len(x.shape) <= self.axis < max(len(x.shape), 1):
            raise TypeMismatchError(f"{self.function} along axis {self.axis} of a sample of shape {x.shape}")
        return x

    def eval(self, *xs: Tensor) -> Tensor:
        """torch's function of that name."""
        return _FUNCTIONS[self.function](xs[0], self.axis + 1 if self.axis >= 0 else self.axis)

    def permuted(self, axes: Sequence[int]) -> Self:
        """The same along the axis where its own was."""
        return attrs.evolve(self, axis=axes[self.axis % len(axes)])

    def __str__(self) -> str:
        return self.function
