"""Non-linear ops of the ANN; none of them may reach a spiking graph."""

from typing import Any, ClassVar

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import Op, Role, array, tensor
from spikec.ir.ops.weighted import Pairs, pad_list, pairs
from spikec.ir.types import Array, Type, ints


@attrs.frozen(eq=False)
class _Activation(Op):
    role = Role.ACTIVATION


@attrs.frozen(eq=False)
class Relu(_Activation):
    """``y = min(max(x, 0), cap)``.

    Attributes:
        cap: upper bound, or None for a plain ReLU.
        scale: once calibrated, the value that a neuron firing at every step stands for: positive, of the
            sample's rank, each axis 1 or full. It does not change the meaning.
        compares: its operand is the difference of two signals of one scale, and that scale is its own too.
    """

    kind = "relu"
    elementwise = True

    cap: float | None = None
    scale: Array | None = array(default=None)
    compares: bool = False

    def eval(self, *xs: Tensor) -> Tensor:
        """torch's clamp."""
        return xs[0].clamp(min=0, max=self.cap)

    def eval_over(self, x: Tensor) -> Tensor:
        """torch's clamp, in place."""
        return x.clamp_(min=0, max=self.cap)


@attrs.frozen(eq=False)
class Clamp(_Activation):
    """``y = min(max(x, low), high)``; a bound of None is absent."""

    kind = "clamp"
    elementwise = True

    low: float | None
    high: float | None

    def eval(self, *xs: Tensor) -> Tensor:
        """torch's clamp."""
        return xs[0].clamp(min=self.low, max=self.high)


@attrs.frozen(eq=False)
class LeakyRelu(_Activation):
    """``y = max(x, 0) + slope min(x, 0)``: LeakyReLU and PReLU (He et al. 2015, eq. 1); slope -1 is ``abs``.

    Attributes:
        slope: any finite numbers, of the sample's rank, each axis 1 or full.
    """

    kind = "leakyrelu"
    elementwise = True

    slope: Array = array()

    def eval(self, *xs: Tensor) -> Tensor:
        """The equation above."""
        return xs[0].clamp(min=0) + tensor(self.slope, xs[0]) * xs[0].clamp(max=0)


@attrs.frozen(eq=False)
class _Pairwise(_Activation):
    arity = 2
    elementwise = True

    def infer(self, *operands: Type) -> Type:
        """The common type; shapes must be the same."""
        if any(x != operands[0] for x in operands):
            shapes = " and ".join(str(x.shape) for x in operands)
            raise TypeMismatchError(f"{self.kind} of shapes {shapes}", hint="broadcasting is not supported here")
        return super().infer(*operands)


@attrs.frozen(eq=False)
class Maximum(_Pairwise):
    """``y = max(a, b)``, element by element, of two signals of one shape."""

    kind = "maximum"

    def eval(self, *xs: Tensor) -> Tensor:
        """torch's maximum."""
        return torch.maximum(*xs)


@attrs.frozen(eq=False)
class Minimum(_Pairwise):
    """``y = min(a, b)``, element by element, of two signals of one shape."""

    kind = "minimum"

    def eval(self, *xs: Tensor) -> Tensor:
        """torch's minimum."""
        return torch.minimum(*xs)


_MAX_POOL: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@attrs.frozen(eq=False)
class MaxPool(_Activation):
    """Maximum over windows; padding stands for minus infinity.

    Attributes:
        kernel, stride, dilation: one number a spatial axis.
        padding: pairs (before, after), one a spatial axis.
        ceil_mode: windows may start inside the map and end outside of it.
        counts: in a spiking graph it becomes a :class:`spikec.ir.ops.CountingMaxPool`.
    """

    kind = "maxpool"
    hint: ClassVar[str] = "put the max-pool behind a ReLU, or use an average pool"

    kernel: tuple[int, ...] = attrs.field(converter=ints)
    stride: tuple[int, ...] = attrs.field(converter=ints)
    padding: Pairs = attrs.field(converter=pairs)
    dilation: tuple[int, ...] = attrs.field(converter=ints)
    ceil_mode: bool = False
    counts: bool = False

    def eval(self, *xs: Tensor) -> Tensor:
        """torch's max-pool."""
        (x,) = xs
        padding: Any = tuple(before for before, _ in self.padding)
        if any(a != b or 2 * a > size for (a, b), size in zip(self.padding, self.kernel, strict=True)):
            x, padding = F.pad(x, pad_list(self.padding), value=float("-inf")), 0
        result: Tensor = _MAX_POOL[len(self.kernel)](
            x, self.kernel, self.stride, padding, self.dilation, self.ceil_mode
        )
        return result
