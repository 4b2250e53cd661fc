"""What a simulation may carry without neurons: running differences, of functions and of averages. No spikes in it."""

import math
from collections.abc import Sequence

import attrs
import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from spikec.ir.affine import THROUGH, Affine, BlockedError
from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import Op, Role, StatefulOp
from spikec.ir.types import SCALE_RTOL, Array, Rate, Real, Type

__all__ = ["Carried", "RecentMean", "RunningDifference"]

_HINT = "put the pass fold-rescale before, or a neuron"


def _in_a_row(ops: Sequence[Op]) -> tuple[Op, ...]:
    return tuple(ops)


def _real(x: Type) -> Type:
    return attrs.evolve(x, encoding=Real())


@attrs.frozen(eq=False)
class Carried(Op):
    """What the ops give one after the other, the first of the operands; no neuron will stand for them.

    In a spiking graph it becomes a :class:`RunningDifference`.

    Attributes:
        ops: the first takes all operands, each other one what the one before it gives.
    """

    role = Role.ACTIVATION
    arity = None

    ops: tuple[Op, ...] = attrs.field(converter=_in_a_row)

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Return the shape that the last op gives."""
        for op in self.ops:
            operands = (op.infer(*map(_real, operands)),)
        return operands[0].shape

    def eval(self, *xs: Tensor) -> Tensor:
        """Run the ops."""
        for op in self.ops:
            xs = (op.eval(*xs),)
        return xs[0]


def _flat(x: Tensor) -> Tensor:
    """[B, numbers of a sample], of which there may be one without an axis, and samples none."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


@attrs.frozen(eq=False)
class RunningDifference(StatefulOp):
    """Gives what t times the function of its operands' means rises by::

        n_i(t) = n_i(t-1) + x_i(t)                  n_i(0) = 0
        y(t)   = t f(n(t) / t) - (t-1) f(n(t-1) / (t-1))

    Its mean up to step t is f of the operands' means up to t, whatever f is: exact in the limit of many steps. What it
    gives are numbers, and no spikes; it is for simulation only.

    Attributes:
        carries: f.
    """

    role = Role.LINEAR
    arity = None

    carries: Carried

    def infer(self, *operands: Type) -> Type:
        """Return the type of a rate in ANN units, for operands that are."""
        rates = all(isinstance(x.encoding, Rate) for x in operands)
        if not rates or any(not np.allclose(x.scale, 1, rtol=SCALE_RTOL, atol=0) for x in operands):
            raise TypeMismatchError("a running difference of a signal that is not in ANN units", hint=_HINT)
        shape = self.carries.shape_of(*operands)
        return Type(shape, operands[0].dtype, Rate(np.ones((1,) * len(shape))))

    def initial(self, *xs: Tensor) -> Tensor:
        """Return [B, 1 + ...]: t, the sums of the operands, and t f(n / t), all of them 0."""
        shapes = [tuple(x.shape[1:]) for x in xs]
        result = self.carries.shape_of(*map(Type, shapes))
        return xs[0].new_zeros((len(xs[0]), 1 + sum(map(math.prod, (*shapes, result)))))

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Add the operands to their sums, and return what t f(n / t) rises by."""
        flat = [_flat(x) for x in xs]
        sizes = [x.shape[1] for x in flat]
        time, *sums, last = torch.split(state, [1, *sizes, state.shape[1] - 1 - sum(sizes)], 1)
        time, sums = time + 1, [n + x for n, x in zip(sums, flat, strict=True)]
        means = ((n / time).reshape(x.shape) for n, x in zip(sums, xs, strict=True))
        total = self.carries.eval(*means)
        whole = _flat(total) * time
        return torch.cat([time, *sums, whole], 1), (whole - last).reshape(total.shape)

    def map_result(self, maps: Sequence[Affine], operands: Sequence[Type]) -> Affine:
        """Refuse every map: the function is in ANN units."""
        raise BlockedError(THROUGH)

    def map_operands(self, wanted: Affine, operands: Sequence[Type]) -> list[Affine]:
        """Refuse every map: the function is in ANN units."""
        raise BlockedError(THROUGH)


@attrs.frozen(eq=False)
class RecentMean(StatefulOp):
    """Gives what t times an average of its operand rises by, in which later steps count more::

        m(t) = m(t-1) + (power + 1) / (t + power) (x(t) - m(t-1))         m(0) = 0
        y(t) = t m(t) - (t-1) m(t-1)

    Its mean up to step t is m(t), the average of x with weights that grow like ``t^power`` (polynomial-decay averaging,
    Shamir and Zhang 2013): what the first steps say before a deep network has settled is forgotten. It needs no T, a
    constant stays as it is, and power 0 is the plain mean. It is no neuron, and stands at the end of a network.

    Attributes:
        power: 0 or more.
    """

    role = Role.LINEAR
    elementwise = True

    power: float = attrs.field(default=0.0, validator=attrs.validators.ge(0))

    def infer(self, *operands: Type) -> Type:
        """Return the operand's type."""
        return operands[0]

    def initial(self, *xs: Tensor) -> Tensor:
        """Return [B, 1 + numbers of a sample]: t and m, all of them 0."""
        return xs[0].new_zeros((len(xs[0]), 1 + _flat(xs[0]).shape[1]))

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Move the average towards the operand, and return what t times it rises by."""
        time, mean = state[:, :1] + 1, state[:, 1:]
        moved = (self.power + 1) / (time + self.power) * (_flat(xs[0]) - mean)
        return torch.cat([time, mean + moved], 1), (mean + time * moved).reshape(xs[0].shape)

    def divided(self, factor: Array) -> Self:
        """Return the op itself: what it gives is in the units of what it takes."""
        return self
