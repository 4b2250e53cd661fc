"""Leaky neurons as torch modules, with the equations of :mod:`spikec.ir.ops.leaky` and a surrogate gradient."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from torch import Tensor

from spikec.backends.spikingjelly.converters import converter
from spikec.backends.spikingjelly.modules import IFNode, span
from spikec.ir.ops import LIF, CubaLIF, Leaky
from spikec.ir.ops.leaky import fire_and_reset
from spikec.ir.types import Type


class LeakyNode(IFNode):
    """What leaky neurons share.

    Attributes:
        v_leak: buffer, the potential that the membrane decays to.
        reset_at: when a spike resets the potential, see :data:`spikec.ir.ops.leaky.ResetAt`.
    """

    v_leak: Tensor

    def __init__(self, v_threshold: Tensor, *, v_leak: Tensor, reset_at: str, **options: Any) -> None:
        super().__init__(v_threshold, **options)
        self.register_buffer("v_leak", v_leak)
        self.reset_at = reset_at

    def fired(self, before: Tensor, charged: Tensor) -> tuple[Tensor, Tensor]:
        """(potential after the step, spikes)."""
        return fire_and_reset(self.reset_at, before, charged, self.spikes, self.after)

    def extra_repr(self) -> str:
        """Thresholds, reset, leak and step mode."""
        shown = [super().extra_repr(), f"v_leak={span(self.v_leak)}"]
        return ", ".join(shown + [f"reset_at={self.reset_at!r}"] * (self.reset_at != "spike"))


class LIFNode(LeakyNode):
    """Leaky integrate-and-fire, see :class:`spikec.ir.ops.LIF`.

    Attributes:
        tau: buffer, the time constant in steps.
        gain: buffer that multiplies the input, or None where the input decays as the membrane does.
    """

    tau: Tensor
    gain: Tensor | None

    def __init__(self, v_threshold: Tensor, *, tau: Tensor, gain: Tensor | None = None, **options: Any) -> None:
        super().__init__(v_threshold, **options)
        self.register_buffer("tau", tau)
        self.register_buffer("gain", gain)

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Leak and integrate, fire, reset."""
        above = state - self.v_leak
        if self.gain is None:
            return self.fired(state, state + (xs[0] - above) / self.tau)
        return self.fired(state, state - above / self.tau + self.gain * xs[0])

    def extra_repr(self) -> str:
        """Adds the time constant."""
        return f"{super().extra_repr()}, tau={span(self.tau)}"


class CubaLIFNode(LeakyNode):
    """Current-based LIF, see :class:`spikec.ir.ops.CubaLIF`; ``v`` holds the potential and the current, [B, 2, ...].

    Attributes:
        decay_syn, decay: buffers, what a step leaves of current and potential.
        gain: buffer, multiplies the input.
    """

    decay_syn: Tensor
    decay: Tensor
    gain: Tensor

    def __init__(self, v_threshold: Tensor, *, decay_syn: Tensor, decay: Tensor, gain: Tensor, **options: Any) -> None:
        super().__init__(v_threshold, **options)
        self.register_buffer("decay_syn", decay_syn)
        self.register_buffer("decay", decay)
        self.register_buffer("gain", gain)

    def initial(self, *xs: Tensor) -> Tensor:
        """``v_init`` and no current."""
        v = super().initial(*xs)
        return torch.stack((v, torch.zeros_like(v)), 1)

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Current, leak and integrate, fire, reset."""
        current = self.decay_syn * state[:, 1] + self.gain * xs[0]
        v = self.decay * state[:, 0] + (1 - self.decay) * self.v_leak + current
        v, spikes = self.fired(state[:, 0], v)
        return torch.stack((v, current), 1), spikes

    def extra_repr(self) -> str:
        """Adds the decays."""
        return f"{super().extra_repr()}, decay_syn={span(self.decay_syn)}, decay={span(self.decay)}"


@converter(LIF)
def _lif(op: LIF, result: Type) -> LIFNode:
    return LIFNode(**_fields(op, result))


@converter(CubaLIF)
def _cuba(op: CubaLIF, result: Type) -> CubaLIFNode:
    return CubaLIFNode(**_fields(op, result))


def _fields(op: Leaky, result: Type) -> dict[str, Any]:
    """Its parameters by name, arrays as tensors; what the spikes stand for is in the types."""
    dtype = getattr(torch, result.dtype)
    arrays = {field.name for field in attrs.fields(type(op)) if field.metadata.get("array")}
    given = {name: value for name, value in op.parameters().items() if name != "out_scale"}
    return {
        name: torch.tensor(value, dtype=dtype) if name in arrays and value is not None else value
        for name, value in given.items()
    }
