"""Linear ops with memory: a register, which alone may close a cycle, delays, filters, currents and max-pooling."""

from typing import Any, ClassVar

import attrs
import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import SPIKES_FIRST, Role, StatefulOp, array, tensor
from spikec.ir.ops.pool import MaxPool
from spikec.ir.types import Array, Rate, Type, channel_scale, fits, on_axis

__all__ = ["CountingMaxPool", "Delay", "DelayLine", "Integrator", "Stream"]


@attrs.frozen(eq=False)
class Delay(StatefulOp):
    """``y(t) = x(t-1)``, ``y(0) = first``.

    Attributes:
        type: of the operand and the result, declared so that a cycle can be typed.
        first: of the sample's shape, or None for zeros.
    """

    role = Role.LINEAR
    register = True

    type: Type
    first: Array | None = array(default=None)

    def infer(self, *operands: Type) -> Type:
        """Return the declared type; an operand, once it is known, must have it."""
        for x in operands:
            if (x.shape, x.encoding) != (self.type.shape, self.type.encoding):
                raise TypeMismatchError(f"the delay is declared {self.type}, its operand is {x}")
        return self.type

    def initial(self, *xs: Tensor) -> Tensor:
        """Return ``first``, or zeros, for every sample of a batch of the declared type."""
        zeros = xs[0].new_zeros((len(xs[0]), *self.type.shape))
        return zeros if self.first is None else zeros + tensor(self.first, zeros)

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the operand as the state, and return the state so far."""
        return xs[0], state


@attrs.frozen(eq=False)
class DelayLine(StatefulOp):
    """``y(t) = x(t - late)``, 0 before: each number late by steps of its own. The state is [B, D, ...], newest first.

    Attributes:
        late: whole numbers from 0 on, of the sample's rank, each axis 1 or full.
    """

    role = Role.LINEAR
    elementwise = True

    late: Array = array()

    def infer(self, *operands: Type) -> Type:
        """Return the operand's type."""
        (x,) = operands
        if not fits(self.late, x.shape):
            raise TypeMismatchError(f"late of shape {self.late.shape} for a sample of shape {x.shape}")
        return x

    def initial(self, *xs: Tensor) -> Tensor:
        """Return zeros for as many steps as the longest delay has."""
        (x,) = xs
        return x.new_zeros((len(x), int(self.late.max()), *x.shape[1:]))

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Take the operand in, the oldest out, and return of each number the one that is due."""
        known = torch.cat((xs[0][:, None], state), 1)
        due = tensor(self.late, xs[0]).long().expand_as(known[:, :1])
        return known[:, :-1], known.gather(1, due)[:, 0]

    def divided(self, factor: Array) -> Self:
        """Return the op itself: what it gives is in the units of what it takes."""
        return self


@attrs.frozen(eq=False)
class Integrator(StatefulOp):
    """A filter of one or two time constants, which does not fire::

        i(t) = decay_syn i(t-1) + gain x(t)                             i(-1) = 0
        y(t) = decay y(t-1) + (1 - decay) v_leak + i(t)                 y(-1) = v_init

    NIR's LI has ``decay = 1 - dt/tau`` and ``gain = r dt/tau``, its I ``decay = 1`` and ``gain = r dt``, both
    ``decay_syn = 0``; its CubaLI has the decays and the gain of a :class:`CubaLIF`. The state is [B, 2, ...]: y and i.

    Attributes:
        decay, decay_syn: within [0, 1], of the sample's rank, each axis 1 or full, or scalars.
        gain: shaped like them.
        v_leak, v_init: in the operand's units, shaped like them.
    """

    role = Role.LINEAR
    elementwise = True

    decay: Array = array()
    decay_syn: Array = array(default=np.zeros(()))
    gain: Array = array(default=np.ones(()))
    v_leak: Array = array(default=np.zeros(()))
    v_init: Array = array(default=np.zeros(()))

    def infer(self, *operands: Type) -> Type:
        """Return the operand's type."""
        (x,) = operands
        for name, value in self.parameters().items():
            if value.ndim and not fits(value, x.shape):
                raise TypeMismatchError(f"{name} of shape {value.shape} for a sample of shape {x.shape}")
        if not isinstance(x.encoding, Rate):
            raise TypeMismatchError("a filter over time of a real signal", hint=SPIKES_FIRST)
        return x

    def initial(self, *xs: Tensor) -> Tensor:
        """Return ``v_init`` and no current."""
        zeros = torch.zeros_like(xs[0])
        return torch.stack((zeros + tensor(self.v_init, zeros), zeros), 1)

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by the equations above, and return y."""
        (x,) = xs
        decay = tensor(self.decay, x)
        current = tensor(self.decay_syn, x) * state[:, 1] + tensor(self.gain, x) * x
        value = decay * state[:, 0] + (1 - decay) * tensor(self.v_leak, x) + current
        return torch.stack((value, current), 1), value

    def divided(self, factor: Array) -> Self:
        """Return the op with its potentials divided by the factor."""
        potentials: dict[str, Any] = {name: getattr(self, name) / factor for name in ("v_leak", "v_init")}
        return attrs.evolve(self, **{name: value for name, value in potentials.items() if value.any()})


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
    hint: ClassVar[str] = "compile the ANN for this target, or compile it for spikingjelly with counters=False before"

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
