"""The neuron of sinabs and rockpool, which spikes several times a step, and NIR's, which has no memory."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.ir.errors import InvalidModelError
from spikec.ir.op import array, tensor
from spikec.ir.ops.neuron import ZERO, Neuron
from spikec.ir.types import Array

__all__ = ["MultiSpike", "Threshold"]


@attrs.frozen(eq=False)
class MultiSpike(Neuron):
    """A leaky neuron that spikes as often in a step as its threshold goes into its potential::

        i(t) = decay_syn i(t-1) + gain z(t)                             i(-1) = 0
        v(t) = decay v(t-1) + (1 - decay) v_leak + i(t)                 v(-1) = v_init
        s(t) = floor(v(t) / v_threshold), at least 0                    (ceil(v(t) / v_threshold) - 1 if strict)
        v(t) = max(v(t) - v_threshold s(t), v_floor)

    With ``decay = 1`` and ``decay_syn = 0`` it is the IAF of sinabs 3.1.3, whose floor is -v_threshold; with
    ``decay = exp(-1/tau)`` and no floor its LIF; with both decays the LIFTorch of rockpool 3.1.0. The state is
    [B, 2, ...]: v and i.

    Attributes:
        decay, decay_syn: within [0, 1], shaped like v_threshold or scalars.
        gain: shaped like them.
        v_leak: in the units of the potential, shaped like them.
        v_floor: below 0, shaped like them; None for no floor.
    """

    potentials = (*Neuron.potentials, "v_leak", "v_floor")

    decay: Array = array(default=np.ones(()), kw_only=True)
    decay_syn: Array = array(default=ZERO, kw_only=True)
    gain: Array = array(default=np.ones(()), kw_only=True)
    v_leak: Array = array(default=ZERO, kw_only=True)
    v_floor: Array | None = array(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Refuse a hard reset: what is left of a potential after several spikes is its remainder."""
        if self.v_reset is not None:
            hint = "leave v_reset out: several spikes in a step are subtracted"
            raise InvalidModelError("a neuron with several spikes a step resets by subtraction", hint=hint)

    def initial(self, *xs: Tensor) -> Tensor:
        """Return ``v_init`` and no current."""
        v = super().initial(*xs)
        return torch.stack((v, torch.zeros_like(v)), 1)

    def current(self, state: Tensor, x: Tensor) -> Tensor:
        """Return i(t)."""
        return tensor(self.decay_syn, x) * state[:, 1] + tensor(self.gain, x) * x

    def charge(self, state: Tensor, *xs: Tensor) -> Tensor:
        """Return v(t) before it fires."""
        return self._charged(state, self.current(state, xs[0]))

    def _charged(self, state: Tensor, current: Tensor) -> Tensor:
        decay = tensor(self.decay, current)
        return decay * state[:, 0] + (1 - decay) * tensor(self.v_leak, current) + current

    def spikes(self, v: Tensor) -> Tensor:
        """Return how often the threshold goes into each potential; the gradient is 1/v_threshold where it fires."""
        ratio = v / tensor(self.v_threshold, v)
        count = (torch.ceil(ratio) - 1 if self.strict else torch.floor(ratio)).clamp(min=0)
        passed = ratio * (count > 0)
        return count.detach() + (passed - passed.detach())

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Advance current and potential by the equations above, and fire."""
        current = self.current(state, xs[0])
        v, spikes = self.fire(self._charged(state, current))
        if self.v_floor is not None:
            floor = tensor(self.v_floor, v)
            v = torch.relu(v - floor) + floor  # as sinabs writes the maximum: it rounds every potential, also above it
        return torch.stack((v, current), 1), spikes


@attrs.frozen(eq=False)
class Threshold(Neuron):
    """Fires where its input is above a threshold, and keeps nothing::

        s(t) = 1 if z(t) >= v_threshold else 0                          (> if strict)

    It is NIR's Threshold. The threshold may be any number; ``v_init`` and ``v_reset`` have no effect.
    """

    above: ClassVar[float] = -np.inf

    def charge(self, state: Tensor, *xs: Tensor) -> Tensor:
        """Return the input."""
        return xs[0]

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state as it is, and the spikes."""
        return state, self.spikes(xs[0])
