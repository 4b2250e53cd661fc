"""The neuron of Loihi as a module that trains: current-based LIF in the integers that slayer and the chip compute.

Weights, currents and potentials are multiples of ``1 / scale``, decays of 1/4096, as in lava-dl's
``slayer.neuron.cuba.Neuron``; spikes and gradients are the same. Nothing here needs lava-dl.
"""

from typing import Any

import torch
from torch import Tensor, nn

from spikec.backends.netx.sim import UNITY
from spikec.extend.backend import StepModule
from spikec.ir.errors import InvalidModelError

#: a current or a potential of 1 is ``scale`` times this many units
_SHIFT = 6
#: slayer's surrogate gradient: how wide and how high it is for tau_grad = scale_grad = 1 and a threshold of 1
_WIDTH, _HEIGHT = 100.0, 0.1


class _Rounded(torch.autograd.Function):
    """Rounding half to even, whose gradient is that of the identity (straight-through)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def quantize_8bit(x: Tensor, scale: int = 64, descale: bool = False) -> Tensor:
    """Round to what a synapse of Loihi can hold: even integers from -256 to 254, in units of ``1 / scale``.

    The gradient is straight-through: that of the identity within the range, and 0 beyond it.

    Args:
        x: weights of any shape.
        scale: how many units are 1.0.
        descale: return the integers instead.
    """
    return _even(x, -256, 254, scale, descale)


def quantize_bias(x: Tensor, scale: int = 64, descale: bool = False) -> Tensor:
    """Round to what a bias of Loihi can hold, 13 bits: even integers from -4096 to 4094; see :func:`quantize_8bit`."""
    return _even(x, -4096, 4094, scale, descale)


def _even(x: Tensor, low: int, high: int, scale: int, descale: bool) -> Tensor:
    rounded: Tensor = _Rounded.apply(x * (scale / 2))  # type: ignore[no-untyped-call]
    units = 2 * rounded.clamp(low // 2, high // 2)
    return units if descale else units / scale


class _Integrator(torch.autograd.Function):
    """A leaky integrator over T steps, ``y[t] = trunc(y[t-1] (4096 - decay) / 4096) + x[t]``, reset where it spikes.

    Takes x [T, ...], the decay in units of 1/4096, the state before the first step, how many units are 1.0, and the
    threshold (None for no reset); gives y [T, ...] before reset and the state after the last step. Reset has no part
    in the gradient, as in slayer.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, decay: Tensor, state: Tensor, units: int, threshold: float | None
    ) -> tuple[Tensor, Tensor]:
        kept = UNITY - decay.to(torch.int64)
        now = (state * units).to(torch.int64)
        before, after = [], []
        for current in (x * units).to(torch.int64):
            before.append(now)
            scaled = now * kept
            now = (scaled.abs() >> 12) * scaled.sign() + current
            after.append(now)
            if threshold is not None:
                now = now * (now < threshold * units)
        ctx.save_for_backward(decay, torch.stack(before).to(x.dtype) / units)
        return torch.stack(after).to(x.dtype) / units, now.to(x.dtype) / units

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        outputs, last = gradients
        decay, before = ctx.saved_tensors
        kept = 1 - decay / UNITY
        flowing = last
        steps = []
        for gradient in outputs.flip(0):
            flowing = gradient + flowing
            steps.append(flowing)
            flowing = kept * flowing
        through = torch.stack(steps[::-1])
        lost = -(through * before).sum().reshape(decay.shape) / UNITY
        return through, lost, flowing, None, None


class _Spike(torch.autograd.Function):
    """The step function, with slayer's surrogate gradient: a peak at the threshold that decays exponentially."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, threshold: float, width: float, height: float) -> Tensor:
        ctx.save_for_backward(v)
        ctx.facts = threshold, width, height
        return (v >= threshold).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        threshold, width, height = ctx.facts
        (v,) = ctx.saved_tensors
        return height / 2 / width * (-(v - threshold).abs() / width).exp() * gradients[0], None, None, None


class CubaLIFNode(StepModule):
    """Current-based LIF with hard reset to 0, integer for integer that of slayer and netx.

    ``i[t] = (1 - current_decay) i[t-1] + x[t]``, ``v[t] = (1 - voltage_decay) v[t-1] + i[t] + bias``, a spike where v
    exceeds v_threshold; a spike sets v to 0. An IF neuron has decays 1 and 0, a LIF neuron with
    ``decay_input=False`` 1 and 1/tau.

    Attributes:
        v_threshold: rounded down to a multiple of ``1 / scale``, as slayer does.
        current_decay, voltage_decay: the decays as parameters, in units of 1/4096; they are rounded when they are
            used. They train where ``requires_grad`` is given, by the derivative of the equations above, which is not
            what slayer computes (its gradient has the other sign).
        scale: how many units of the chip's weights are 1.0.
        tau_grad, scale_grad: width and height of the surrogate gradient (Shrestha & Orchard, SLAYER, NeurIPS 2018, as
            lava-dl has it): ``scale_grad / 20 / w exp(-|v - v_threshold| / w)``, ``w = 100 tau_grad v_threshold``.
        step_mode: ``"s"`` for calls with [B, ...], ``"m"`` for calls with [T, B, ...]. The state goes on from call to
            call until :meth:`reset`.

    Raises:
        InvalidModelError: a threshold is not positive, a decay is not in [0, 1], or v_reset is not 0.
    """

    current_decay: nn.Parameter
    voltage_decay: nn.Parameter

    def __init__(
        self,
        current_decay: float,
        voltage_decay: float,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        scale: int = 64,
        requires_grad: bool = False,
        tau_grad: float = 1.0,
        scale_grad: float = 1.0,
        step_mode: str = "s",
    ) -> None:
        super().__init__()
        if v_reset != 0:
            raise InvalidModelError(
                f"lava's neurons are reset to 0, and v_reset is {v_reset}",
                hint="give v_reset=0., or compile the model for the target netx, which knows of soft reset",
            )
        for name, value in (("current_decay", current_decay), ("voltage_decay", voltage_decay)):
            if not 0 <= value <= 1:
                hint = "give what part is lost in a step, from 0 to 1: 1/tau for a tau in steps"
                raise InvalidModelError(f"{name} is {value}", hint=hint)
            self.register_parameter(name, nn.Parameter(torch.tensor([UNITY * float(value)]), requires_grad))
        self.scale = int(scale)
        self.v_threshold = int(v_threshold * self.scale) / self.scale
        if not self.v_threshold > 0:
            raise InvalidModelError(
                f"v_threshold is {v_threshold}, and a weight of 1.0 is {self.scale} units",
                hint="give a threshold of at least one unit",
            )
        self.requires_grad = requires_grad
        self.tau_grad, self.scale_grad = tau_grad, scale_grad
        self.step_mode = step_mode
        self.current_state: Tensor | None = None
        self.voltage_state: Tensor | None = None

    def reset(self) -> None:
        """Forget current and potential: call it before each new batch."""
        self.current_state = self.voltage_state = None

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the spikes of weighted input.

        Args:
            x: [B, ...] in step mode "s", [T, B, ...] in "m".
            bias: added to the potential at every step; broadcasts over a sample.
        """
        v = self.potential(x if self.step_mode == "m" else x[None], bias)
        width = _WIDTH * self.tau_grad * self.v_threshold
        spikes: Tensor = _Spike.apply(v, self._firing, width, _HEIGHT * self.scale_grad)  # type: ignore[no-untyped-call]
        return spikes if self.step_mode == "m" else spikes[0]

    def potential(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the potentials [T, B, ...] before reset, of weighted input [T, B, ...]."""
        units = self.scale << _SHIFT
        start = x.new_zeros(x.shape[1:])
        current_decay, voltage_decay = (
            _Rounded.apply(decay.clamp(0, UNITY))  # type: ignore[no-untyped-call]
            for decay in (self.current_decay, self.voltage_decay)
        )
        i = start if self.current_state is None else self.current_state
        v = start if self.voltage_state is None else self.voltage_state
        current, self.current_state = _Integrator.apply(x, current_decay, i, units, None)  # type: ignore[no-untyped-call]
        if bias is not None:
            current = current + bias
        potential: Tensor
        potential, self.voltage_state = _Integrator.apply(current, voltage_decay, v, units, self._firing)  # type: ignore[no-untyped-call]
        return potential

    @property
    def _firing(self) -> float:
        """A little above the threshold, because Loihi fires above it and slayer compares with ``>=``."""
        return self.v_threshold + 0.01 / (self.scale << _SHIFT)

    @property
    def slayer_params(self) -> dict[str, Any]:
        """The arguments of ``slayer.neuron.cuba.Neuron`` and of slayer's blocks that make this neuron."""
        return {
            "threshold": self.v_threshold,
            "current_decay": self.current_decay.item() / UNITY,
            "voltage_decay": self.voltage_decay.item() / UNITY,
            "scale": self.scale,
            "tau_grad": self.tau_grad,
            "scale_grad": self.scale_grad,
            "requires_grad": self.requires_grad,
        }

    def extra_repr(self) -> str:
        """Show what the constructor was given."""
        given = {key: self.slayer_params[key] for key in ("current_decay", "voltage_decay")}
        decays = ", ".join(f"{key}={value:g}" for key, value in given.items())
        return f"{decays}, v_threshold={self.v_threshold:g}, scale={self.scale}, step_mode={self.step_mode}"
