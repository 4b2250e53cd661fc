"""Linear ops with memory: a register, which alone may close a cycle, streamed currents and max-pooling of spikes."""

import attrs
import torch
from torch import Tensor
from typing_extensions import Self

from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import SPIKES_FIRST, Role, StatefulOp, array, tensor
from spikec.ir.ops.pool import MaxPool
from spikec.ir.types import Array, Rate, Type, channel_scale, fits, on_axis

__all__ = ["CountingMaxPool", "Delay", "Stream"]


@attrs.frozen(eq=False)
class Delay(StatefulOp):
    """``y(t) = x(t-1)``, ``y(0) = 0``.

    Attributes:
        type: of the operand and the result, declared so that a cycle can be typed.
    """

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
        return xs[0].new_zeros((len(xs[0]), *self.type.shape))

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the operand as the state, and return the state so far."""
        return xs[0], state


@attrs.frozen(eq=False)
class Stream(StatefulOp):
    """``y(t) = x(t) + currents[min(t, T - 1)]``: a bias for each step, the last one held.

    The currents are in the operand's units; their time-average is part of what the signal stands for.

    Attributes:
        currents: [T, ...], behind T of the sample's rank, each axis 1 or full.
    """

    role = Role.LINEAR

    currents: Array = array()

    def infer(self, *operands: Type) -> Type:
        """Return the operand's type."""
        (x,) = operands
        if not isinstance(x.encoding, Rate):
            raise TypeMismatchError(
                "currents are streamed into a rate-coded signal, this one is real", hint=SPIKES_FIRST
            )
        if not fits(self.currents[0], x.shape):
            raise TypeMismatchError(f"currents of shape {self.currents.shape} for a sample of shape {x.shape}")
        return x

    def initial(self, *xs: Tensor) -> Tensor:
        """Return the number of the step, 0, once for each sample: [B]."""
        return xs[0].new_zeros(len(xs[0]))

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the number of the next step, and the operand plus this step's current."""
        now = state[:1].clamp(max=len(self.currents) - 1).long()  # a tensor, as exporters know no number in a state
        return state + 1, xs[0] + tensor(self.currents, xs[0])[now]

    def divided(self, factor: Array) -> Self:
        """Return the op with its currents divided by the factor."""
        return attrs.evolve(self, currents=self.currents / factor)


@attrs.frozen(eq=False)
class CountingMaxPool(StatefulOp):
    """Gives what the largest count in each window rises by::

        n(t) = n(t-1) + x(t)                n(-1) = 0
        y(t) = max n(t) - max n(t-1)        over the window

    The rate of the result is the largest of the window's rates at every t ("lateral inhibition pooling", Li and Zeng
    2022, eq. 14), where a maximum of the spikes themselves would not converge to it. Of a neuron's spikes it gives
    spikes.

    Attributes:
        pool: the windows.
    """

    role = Role.LINEAR
    channelwise = True

    pool: MaxPool

    def infer(self, *operands: Type) -> Type:
        """Keep the scale of each channel, and refuse one that varies within a channel."""
        (x,) = operands
        if not isinstance(x.encoding, Rate):
            raise TypeMismatchError("a counting max-pool of a real signal", hint="an ANN graph has MaxPool")
        shape = self.pool.shape_of(x)
        return Type(shape, x.dtype, Rate(on_axis(channel_scale(x, 0, self.kind), len(shape), 0)))

    def initial(self, *xs: Tensor) -> Tensor:
        """Return counts of 0."""
        return torch.zeros_like(xs[0])

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Add to the counts, and return what the largest in each window rises by."""
        counts = state + xs[0]
        return counts, self.pool.eval(counts) - self.pool.eval(state)

    def divided(self, factor: Array) -> Self:
        """Return the op itself: what it gives is in the units of what it takes."""
        return self
