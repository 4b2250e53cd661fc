"""Leaky neurons, as SpikingJelly, snnTorch and NIR know them, on a clock of one step."""

from __future__ import annotations

from typing import Any, Literal, get_args

import attrs
import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from spikec.ir.errors import InvalidModelError
from spikec.ir.op import array, tensor
from spikec.ir.ops.neuron import ZERO, Neuron
from spikec.ir.types import Array, compress

#: When a spike resets the potential. ``spike``: in its own step, as in NIR and SpikingJelly. ``next``: with the
#: update of the next step, before that is compared (snnTorch, ``reset_delay=True``). ``again``: in its own step,
#: but a potential still above the threshold is lowered by the next update once more, which is taken back if the
#: neuron then does not fire (snnTorch, ``reset_delay=False`` by subtraction). ``never``: not at all.
ResetAt = Literal["spike", "next", "again", "never"]


def _within(low: float, high: float, hint: str) -> Any:
    def check(op: Neuron, field: Any, value: Array) -> None:
        if not ((value >= low) & (value <= high)).all():
            raise InvalidModelError(f"{field.name} is {value.min():.6g}..{value.max():.6g}", hint=hint)

    return check


def _when(op: Leaky, field: Any, value: str) -> None:
    if value not in get_args(ResetAt) or (value == "again" and op.v_reset is not None):
        raise InvalidModelError(f"reset_at is {value!r}", hint=f"known: {', '.join(get_args(ResetAt))}")


@attrs.frozen(eq=False)
class Leaky(Neuron):
    """A neuron whose potential decays; what LIF and CubaLIF share.

    Attributes:
        v_leak: the potential that the membrane decays to, shaped like v_threshold or a scalar.
        reset_at: when a spike resets the potential, see :data:`ResetAt`.
    """

    v_leak: Array = array(default=ZERO, kw_only=True)
    reset_at: str = attrs.field(default="spike", kw_only=True, validator=_when)

    def scale_input(self, factor: Array) -> Self:
        """As for every neuron; the leak potential is in the units of the threshold, too."""
        scaled = super().scale_input(factor)
        return attrs.evolve(scaled, v_leak=compress(self.v_leak / factor)) if self.v_leak.any() else scaled

    def membrane(self, state: Tensor) -> Tensor:
        """Return the potential [B, ...] that a state holds."""
        return state

    def charged(self, state: Tensor, x: Tensor) -> Tensor:
        """Return the potential with this step's leak and input, before any reset of this step."""
        raise NotImplementedError

    def charge(self, state: Tensor, *xs: Tensor) -> Tensor:
        """Return the charged potential, behind a reset that comes late."""
        charged = self.charged(state, xs[0])
        late = self.reset_at in ("next", "again")
        return self.reset(charged, self.spikes(self.membrane(state))) if late else charged

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Leak and integrate, fire, and reset when ``reset_at`` says."""
        return self.discharge(state, self.charged(state, xs[0]))

    def discharge(self, before: Tensor, charged: Tensor) -> tuple[Tensor, Tensor]:
        """Return (potential after the step, spikes), from the potential after the step before and the charged one."""
        if self.reset_at == "spike":
            return self.fire(charged)
        if self.reset_at == "never":
            return charged, self.spikes(charged)
        late = self.spikes(before)
        charged = self.reset(charged, late)
        spikes = self.spikes(charged)
        # "again": who fires now is reset now, but who was reset late already is not, or gets it back if it is silent
        return (charged if self.reset_at == "next" else self.reset(charged, spikes - late)), spikes


@attrs.frozen(eq=False)
class LIF(Leaky):
    """Leaky integrate-and-fire. NIR's ``tau dv/dt = (v_leak - v) + r z``, by Euler's rule, with tau in steps::

        v(t) = v(t-1) + (z(t) - (v(t-1) - v_leak)) / tau                gain is None: r = 1
        v(t) = v(t-1) - (v(t-1) - v_leak) / tau + gain z(t)             r = gain tau
        s(t) = 1 if v(t) >= v_threshold else 0                          (> if strict)
        v(t) = v(t) - v_threshold s(t)                                  soft reset (v_reset is None)
        v(t) = v_reset where s(t) = 1                                   hard reset

    SpikingJelly's LIFNode is the first with ``decay_input``, the second with gain 1 without it; its v_leak is
    its v_reset, 0 for soft reset. snnTorch's Leaky is the second with ``1 - 1/tau = beta``. With tau infinite it
    is an IF.

    Attributes:
        tau: at least 1, shaped like v_threshold or a scalar.
        gain: shaped like tau, or None.
    """

    kind = "lif"

    tau: Array = array(kw_only=True, validator=_within(1, np.inf, "a time constant is at least one step"))
    gain: Array | None = array(default=None, kw_only=True)

    def charged(self, state: Tensor, x: Tensor) -> Tensor:
        """Return v(t) of the first two equations above, before it fires."""
        above, tau = state - tensor(self.v_leak, state), tensor(self.tau, state)
        if self.gain is None:
            return state + (x - above) / tau
        return state - above / tau + tensor(self.gain, state) * x


@attrs.frozen(eq=False)
class CubaLIF(Leaky):
    """Current-based LIF. NIR's ``tau_syn di/dt = w_in z - i`` and ``tau_mem dv/dt = (v_leak - v) + r i``, by
    Euler's rule, the second with the new current::

        i(t) = decay_syn i(t-1) + gain z(t)                             i(-1) = 0
        v(t) = decay v(t-1) + (1 - decay) v_leak + i(t)
        s(t) = 1 if v(t) >= v_threshold else 0                          (> if strict)
        v(t) = v(t) - v_threshold s(t)                                  soft reset (v_reset is None)
        v(t) = v_reset where s(t) = 1                                   hard reset

    with ``decay_syn = 1 - dt/tau_syn``, ``decay = 1 - dt/tau_mem`` and ``gain = w_in dt/tau_syn r dt/tau_mem``, as
    only the product of the two gains has an effect. SpikingJelly's CUBALIFNode has c_decay, v_decay and gain 1,
    snnTorch's Synaptic alpha, beta and gain 1. The state is [B, 2, ...]: v and i.

    Attributes:
        decay_syn, decay: within [0, 1], shaped like v_threshold or scalars.
        gain: shaped like them.
    """

    kind = "cubalif"

    decay_syn: Array = array(kw_only=True, validator=_within(0, 1, "a decay is within 0 and 1"))
    decay: Array = array(kw_only=True, validator=_within(0, 1, "a decay is within 0 and 1"))
    gain: Array = array(default=np.ones(()), kw_only=True)

    def initial(self, *xs: Tensor) -> Tensor:
        """Return ``v_init`` and no current."""
        v = super().initial(*xs)
        return torch.stack((v, torch.zeros_like(v)), 1)

    def membrane(self, state: Tensor) -> Tensor:
        """Return the potential [B, ...] that a state holds."""
        return state[:, 0]

    def current(self, state: Tensor, x: Tensor) -> Tensor:
        """Return i(t)."""
        return tensor(self.decay_syn, x) * state[:, 1] + tensor(self.gain, x) * x

    def charged(self, state: Tensor, x: Tensor) -> Tensor:
        """Return v(t) before it fires."""
        return self._decayed(state) + self.current(state, x)

    def _decayed(self, state: Tensor) -> Tensor:
        decay = tensor(self.decay, state)
        return decay * state[:, 0] + (1 - decay) * tensor(self.v_leak, state)

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Advance current and potential by the equations above, and fire."""
        current = self.current(state, xs[0])
        v, spikes = self.discharge(state[:, 0], self._decayed(state) + current)
        return torch.stack((v, current), 1), spikes
