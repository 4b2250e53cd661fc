"""Linear pooling."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import attrs
import torch.nn.functional as F
from torch import Tensor

from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import Op, Role
from spikec.ir.ops.weighted import Pairs, pad_list, pairs
from spikec.ir.types import Array, Rate, Real, Type, channel_scale, ints, on_axis


@attrs.frozen(eq=False)
class _Pool(Op):
    role: ClassVar[Role] = Role.LINEAR

    @property
    def gain(self) -> float:
        """What the result is too large by, compared with the average of the ANN."""
        return 1.0

    def infer(self, *operands: Type) -> Type:
        """A channel keeps its scale, divided by ``gain``; a scale that varies within a channel is refused."""
        (x,) = operands
        shape = self.shape_of(x)
        if isinstance(x.encoding, Real):
            return attrs.evolve(x, shape=shape)
        scale: Array = channel_scale(x, 0, self.kind) / self.gain
        return Type(shape, x.dtype, Rate(on_axis(scale, len(shape), 0)))


_AVG_POOL: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@attrs.frozen(eq=False)
class AvgPool(_Pool):
    """Average over windows.

    Attributes:
        kernel, stride: one number a spatial axis.
        padding: zeros on either side, one number a spatial axis.
        ceil_mode: windows may end outside of the map.
        count_include_pad: the divisor is the kernel's size also where the window covers padding.
    """

    kind: ClassVar[str] = "avgpool"

    kernel: tuple[int, ...] = attrs.field(converter=ints)
    stride: tuple[int, ...] = attrs.field(converter=ints)
    padding: tuple[int, ...] = attrs.field(converter=ints)
    ceil_mode: bool = False
    count_include_pad: bool = True

    def eval(self, *xs: Tensor) -> Tensor:
        """torch's average pool."""
        result: Tensor = _AVG_POOL[len(self.kernel)](
            xs[0], self.kernel, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )
        return result


_ADAPTIVE: dict[int, Any] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


@attrs.frozen(eq=False)
class AdaptiveAvgPool(_Pool):
    """Average over windows chosen so that the result has the given spatial size; None keeps an axis."""

    kind: ClassVar[str] = "adaptiveavgpool"

    size: tuple[int | None, ...]

    def eval(self, *xs: Tensor) -> Tensor:
        """torch's adaptive average pool."""
        (x,) = xs
        result: Tensor = _ADAPTIVE[len(self.size)](
            x, [x.shape[i + 2] if size is None else size for i, size in enumerate(self.size)]
        )
        return result


@attrs.frozen(eq=False)
class SumPool(_Pool):
    """Sum over windows of a rate-coded signal, zero padding.

    It stands for the ANN's average: its result has the operand's scale divided by the kernel's size, so
    that time-average times scale is the average. A real signal has no scale to hold that, and is refused.
    """

    kind: ClassVar[str] = "sumpool"

    kernel: tuple[int, ...] = attrs.field(converter=ints)
    stride: tuple[int, ...] = attrs.field(converter=ints)
    padding: Pairs = attrs.field(converter=pairs)

    @property
    def gain(self) -> float:
        """The kernel's size."""
        return float(math.prod(self.kernel))

    def infer(self, *operands: Type) -> Type:
        """Rate(s) becomes Rate(s / kernel size)."""
        if isinstance(operands[0].encoding, Real):
            raise TypeMismatchError("sum-pool of a real signal", hint="an ANN graph has AvgPool")
        return super().infer(*operands)

    def eval(self, *xs: Tensor) -> Tensor:
        """torch's average pool with a divisor of 1: exact sums."""
        x = F.pad(xs[0], pad_list(self.padding))
        if len(self.kernel) == 1:
            flat: Tensor = F.avg_pool2d(x.unsqueeze(-2), (1, *self.kernel), (1, *self.stride), divisor_override=1)
            return flat.squeeze(-2)
        pool: Any = F.avg_pool2d if len(self.kernel) == 2 else F.avg_pool3d
        result: Tensor = pool(x, self.kernel, self.stride, divisor_override=1)
        return result
