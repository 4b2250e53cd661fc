"""The neuron that Loihi has, with the spikes of its layer as a part of its input."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import array, tensor
from spikec.ir.ops.neuron import ZERO, Neuron
from spikec.ir.types import Array, Type

__all__ = ["LoihiNeuron"]

#: Loihi keeps currents and potentials in units of 1/64 of a weight
GRAIN = 1 / 64


@attrs.frozen(eq=False)
class LoihiNeuron(Neuron):
    """Loihi's neuron: current and potential decay, and a spike clears the potential (Davies et al. 2018)::

        i(t) = q(decay_syn i(t-1)) + z(t) + weight_rec s(t-1) - feedback s(t-1)     i(-1) = s(-1) = 0
        v(t) = q(decay v(t-1)) + i(t) + bias                                        v(-1) = v_init
        s(t) = 1 if v(t) >= v_threshold else 0                                      (> if strict)
        v(t) = v_reset where s(t) = 1

    q rounds towards zero to whole grains, the chip's fixed point, and does nothing where ``grain`` is 0. The
    chip's v_reset is 0, and its v_init too, unless a pulse at step 0 charges neurons whose current does not decay.
    With ``decay = 0`` the potential is the current, which no spike clears: there ``feedback`` is a reset by
    subtraction. The state is [B, 3, ...]: v, i and s.

    Attributes:
        decay_syn, decay: what is kept in a step, within [0, 1], shaped like v_threshold or scalars.
        feedback: what a spike takes from its neuron's own current a step later, shaped like them.
        bias: shaped like them.
        weight_rec: [N, N], from the spikes of a step to the currents of the next, in the flattened sample; or None.
        grain: a number.
    """

    potentials = (*Neuron.potentials, "feedback", "bias", "grain")

    v_reset: Array | None = array(default=ZERO)
    decay_syn: Array = array(kw_only=True)
    decay: Array = array(kw_only=True)
    feedback: Array = array(default=ZERO, kw_only=True)
    bias: Array = array(default=ZERO, kw_only=True)
    weight_rec: Array | None = array(default=None, kw_only=True)
    grain: Array = array(default=ZERO, kw_only=True)

    @property
    def subtracts(self) -> bool:
        """Whether a spike lowers the current that is the potential."""
        return bool(self.feedback.any())

    def infer(self, *operands: Type) -> Type:
        """Do as every neuron does; the recurrent weights are a square over the sample."""
        size = int(np.prod(operands[0].shape))
        if self.weight_rec is not None and self.weight_rec.shape != (size, size):
            raise TypeMismatchError(f"weight_rec of shape {self.weight_rec.shape} for {size} neurons")
        result: Type = super(LoihiNeuron, attrs.evolve(self, weight_rec=None)).infer(*operands)
        return result

    def initial(self, *xs: Tensor) -> Tensor:
        """Return ``v_init``, no current and no spikes."""
        v = super().initial(*xs)
        return torch.stack((v, torch.zeros_like(v), torch.zeros_like(v)), 1)

    def current(self, state: Tensor, x: Tensor) -> Tensor:
        """Return i(t)."""
        spikes = state[:, 2]
        current = self._kept(self.decay_syn, state[:, 1]) + x - tensor(self.feedback, x) * spikes
        if self.weight_rec is None:
            return current
        return current + (spikes.flatten(1) @ tensor(self.weight_rec, x).T).reshape(x.shape)

    def charge(self, state: Tensor, *xs: Tensor) -> Tensor:
        """Return v(t) before it fires."""
        return self._charged(state, self.current(state, xs[0]))

    def _charged(self, state: Tensor, current: Tensor) -> Tensor:
        return self._kept(self.decay, state[:, 0]) + current + tensor(self.bias, current)

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Advance current and potential by the equations above, and fire."""
        current = self.current(state, xs[0])
        v, spikes = self.fire(self._charged(state, current))
        return torch.stack((v, current, spikes), 1), spikes

    def _kept(self, decay: Array, value: Tensor) -> Tensor:
        kept = tensor(decay, value) * value
        if not self.grain.any():
            return kept
        grain = tensor(self.grain, value)
        return torch.trunc(kept / grain) * grain

    def scale_input(self, factor: Array) -> Self:
        """Return the neuron that does to x what this one does to ``factor * x`` (an array of the sample's rank)."""
        scaled = super().scale_input(factor)
        if self.weight_rec is None:
            return scaled
        rows: Any = np.broadcast_to(factor, np.broadcast_shapes(factor.shape, self.v_threshold.shape)).reshape(-1, 1)
        return attrs.evolve(scaled, weight_rec=self.weight_rec / rows)
