"""Spiking neurons: the base of all, integrate-and-fire, and the leaky ones that SpikingJelly, snnTorch and NIR know.

The equations are the specification; the clock is of one step.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, get_args

import attrs
import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from spikec.ir.errors import InvalidModelError, TypeMismatchError
from spikec.ir.op import SPIKES_FIRST, Role, StatefulOp, array, is_recorded, tensor
from spikec.ir.types import Array, Rate, Type, brief, compress, fits, readonly, span

__all__ = ["IF", "LIF", "CubaLIF", "Leaky", "Neuron"]

#: the default of potentials
ZERO = readonly(np.zeros(()))


def _float64(value: Any) -> Array:
    return readonly(value, np.float64)


class _SurrogateSpike(torch.autograd.Function):
    """Is a step forwards; its gradient is that of ``atan(pi/2 a u)/pi + 1/2``, a = 2 (Fang et al. 2021)."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, threshold: Tensor, strict: bool) -> Tensor:
        """Return 1 where v reaches (strict: exceeds) the threshold, else 0."""
        ctx.save_for_backward(v, threshold)
        return _reaches(v, threshold, strict)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None]:
        """Return the gradient times ``a/2 / (1 + (pi/2 a u)^2)``, with u = v - threshold."""
        v, threshold = ctx.saved_tensors
        return gradients[0] / (1 + (math.pi * (v - threshold)) ** 2), None, None


def _reaches(v: Tensor, threshold: Tensor, strict: bool, out: Tensor | None = None) -> Tensor:
    """Return 1 where v reaches (strict: exceeds) the threshold, else 0; it is written once, and not as bool first.

    Into ``out``, where it is given, also while another thread records: whoever gives it reads it.
    """
    compare = torch.gt if strict else torch.ge
    if out is None and is_recorded():
        return compare(v, threshold).to(v.dtype)
    return compare(v, threshold, out=torch.empty_like(v) if out is None else out)


def _asks_gradient(*values: Tensor) -> bool:
    return torch.is_grad_enabled() and any(value.requires_grad for value in values)


@attrs.frozen(eq=False)
class Neuron(StatefulOp):
    """What passes know of every spiking neuron: when it fires, and what it does to its potential then.

    A subclass gives ``charge``, or ``step`` where a step does more than to charge and fire. The interpreter, the
    emitted torch module and diagnosis all run that; where autograd records, spikes have a surrogate gradient. Its
    equations must be homogeneous: current, potential and thresholds times a number give the same spikes. A current
    of scale s_in gives spikes of scale ``s_in * v_threshold``, or of ``out_scale`` where a model that was spiking
    from the start says what its spikes stand for.

    Attributes:
        v_threshold: positive, of the sample's rank, each axis 1 or full.
        v_reset: None for soft reset, or the value after a spike, shaped like v_threshold or a scalar.
        v_init: membrane potential before step 0, shaped like v_threshold, per neuron, or a scalar.
        strict: fire at v > v_threshold instead of v >= v_threshold.
        out_scale: of the spikes, of the sample's rank, each axis 1 or full; None for ``s_in * v_threshold``.
    """

    role = Role.NEURON
    elementwise = True
    #: what thresholds are above
    above: ClassVar[float] = 0
    #: the fields in the units of the potential, which scale with the current
    potentials: ClassVar[tuple[str, ...]] = ("v_threshold", "v_reset", "v_init")

    v_threshold: Array = array()
    v_reset: Array | None = array(default=None)
    v_init: Array = array(default=ZERO)
    strict: bool = False
    out_scale: Array | None = attrs.field(
        default=None, converter=attrs.converters.optional(_float64), kw_only=True, repr=brief
    )

    @property
    def subtracts(self) -> bool:
        """Whether a spike lowers the potential, and does not set it."""
        return self.v_reset is None

    def infer(self, *operands: Type) -> Type:
        """Turn Rate(s) into Rate(s * v_threshold), or Rate(out_scale)."""
        (x,) = operands
        if not isinstance(x.encoding, Rate):
            raise TypeMismatchError("a neuron integrates a rate-coded signal, this one is real", hint=SPIKES_FIRST)
        if not ((self.v_threshold > self.above) & (self.v_threshold < np.inf)).all():
            raise TypeMismatchError(f"v_threshold is {span(self.v_threshold)}", hint=f"give numbers above {self.above}")
        if self.v_threshold.ndim != len(x.shape):
            raise TypeMismatchError(
                f"v_threshold has rank {self.v_threshold.ndim}, the sample has shape {x.shape}",
                hint="give one axis for each of the sample's, of length 1 where it is shared",
            )
        for name, value in self.parameters().items():
            if isinstance(value, np.ndarray) and not fits(value[(None,) * (len(x.shape) - value.ndim)], x.shape):
                raise TypeMismatchError(f"{name} of shape {value.shape} for a sample of shape {x.shape}")
        return x.with_scale(x.scale * self.v_threshold if self.out_scale is None else self.out_scale)

    def initial(self, *xs: Tensor) -> Tensor:
        """Return ``v_init`` for every sample."""
        (x,) = xs
        return torch.zeros_like(x) + tensor(self.v_init, x)

    def charge(self, state: Tensor, *xs: Tensor) -> Tensor | None:
        """Return the potential that ``step`` compares with the threshold; None where a subclass does not say."""
        return None

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Charge, fire and reset; return (potential after the step, spikes)."""
        v = self.charge(state, *xs)
        if v is None:
            raise NotImplementedError(f"{type(self).__name__} gives neither charge nor step")
        return self.fire(v)

    def above_threshold(self, state: Tensor, *xs: Tensor) -> Tensor | None:
        """Return by how many thresholds each charged potential exceeds its threshold; None where that is not known."""
        v = self.charge(state, *xs)
        return None if v is None else v / tensor(self.v_threshold, v) - 1

    def spikes(self, v: Tensor) -> Tensor:
        """Return 1 where a potential reaches the threshold (exceeds it, if ``strict``), else 0."""
        threshold = tensor(self.v_threshold, v)
        # the same spikes without a Function: the interpreter does not pay for it, and TorchScript cannot save it
        if not _asks_gradient(v, threshold) or torch.jit.is_tracing():  # type: ignore[no-untyped-call, attr-defined]
            return _reaches(v, threshold, self.strict)
        spikes: Tensor = _SurrogateSpike.apply(v, threshold, self.strict)  # type: ignore[no-untyped-call]
        return spikes

    def reset(self, v: Tensor, spikes: Tensor) -> Tensor:
        """Return the potential after those that fired were reset."""
        if self.v_reset is None:  # in one pass: no rounding comes in between, as a spike is 0 or 1
            return torch.addcmul(v, spikes, tensor(self.v_threshold, v), value=-1)
        return torch.where(spikes.bool(), tensor(self.v_reset, v), v)

    def fire(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return (potential after the reset, spikes) for a charged potential."""
        spikes = self.spikes(v)
        return self.reset(v, spikes), spikes

    def scale_input(self, factor: Array) -> Self:
        """Return the neuron that does to x what this one does to ``factor * x`` (an array of the sample's rank)."""
        values = {name: getattr(self, name) for name in self.potentials}
        scaled: dict[str, Any] = {name: compress(v / factor) for name, v in values.items() if v is not None and v.any()}
        return attrs.evolve(self, **scaled)


@attrs.frozen(eq=False)
class IF(Neuron):
    """Integrate-and-fire, one step for each sample of the input current z::

        v(t) = v(t-1) + z(t)                    v(-1) = v_init
        s(t) = 1 if v(t) >= v_threshold else 0  (> if strict)
        v(t) = v(t) - v_threshold s(t)          soft reset (v_reset is None)
        v(t) = v_reset where s(t) = 1           hard reset

    With soft reset and a constant current the rate is ``clip(z / v_threshold, 0, 1)`` (Rueckauer et al.
    2017, eq. 4).
    """

    def charge(self, state: Tensor, *xs: Tensor) -> Tensor:
        """Return ``v(t-1) + z(t)``."""
        return state + xs[0]

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Charge, fire and reset; return (potential after the step, spikes)."""
        if not self._is_plain(state, *xs):
            return super().step(state, *xs)
        v = state + xs[0]
        return v, self._fire_over(v, torch.empty_like(v))

    def step_over(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Do as ``step``, with the potential in the current's memory."""
        if not self._is_plain(state, *xs):
            return super().step_over(state, *xs)
        v = xs[0].add_(state)
        return v, self._fire_over(v, torch.empty_like(v))

    def steps(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by all steps of [T, B, ...]; return (potential after the last one, spikes [T, B, ...])."""
        if not self._is_plain(state, *xs):
            return super().steps(state, *xs)
        (x,) = xs
        v, spikes = state + x[0], torch.empty_like(x)
        self._fire_over(v, spikes[0])
        for current, fired in zip(x[1:], spikes[1:], strict=True):
            self._fire_over(v.add_(current), fired)
        return v, spikes

    def _is_plain(self, state: Tensor, *xs: Tensor) -> bool:
        """Return whether :meth:`_fire_over` does what a step is, and nobody wants its gradient or its calls."""
        if type(self) is not IF or self.v_reset is not None or state.dtype != xs[0].dtype or is_recorded():
            return False
        return not _asks_gradient(state, *xs, tensor(self.v_threshold, state))

    def _fire_over(self, v: Tensor, spikes: Tensor) -> Tensor:
        """Write where a charged potential fires into ``spikes``, reset it in place, and return the spikes."""
        threshold = tensor(self.v_threshold, v)
        v.addcmul_(_reaches(v, threshold, self.strict, out=spikes), threshold, value=-1)
        return spikes


#: When a spike resets the potential. ``spike``: in its own step, as in NIR and SpikingJelly. ``next``: with the
#: update of the next step, before that is compared (snnTorch, ``reset_delay=True``). ``again``: in its own step,
#: but a potential still above the threshold is lowered by the next update once more, which is taken back if the
#: neuron then does not fire (snnTorch, ``reset_delay=False`` by subtraction). ``never``: not at all.
ResetAt = Literal["spike", "next", "again", "never"]


def _within(low: float, high: float, hint: str) -> Any:
    def check(op: Neuron, field: Any, value: Array) -> None:
        if not ((value >= low) & (value <= high)).all():
            raise InvalidModelError(f"{field.name} is {span(value)}", hint=hint)

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

    potentials = (*Neuron.potentials, "v_leak")

    v_leak: Array = array(default=ZERO, kw_only=True)
    reset_at: str = attrs.field(default="spike", kw_only=True, validator=_when)

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
        """Leak and integrate, fire, and reset when ``reset_at`` says; return (potential after the step, spikes)."""
        v = self.charge(state, *xs)
        spikes = self.spikes(v)
        if self.reset_at == "spike":
            v = self.reset(v, spikes)
        elif self.reset_at == "again":
            # who fires now is reset now, but who was reset late already is not, or gets it back if it is silent
            v = self.reset(v, spikes - self.spikes(self.membrane(state)))
        return v, spikes


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

    tau: Array = array(
        infinite=True, kw_only=True, validator=_within(1, np.inf, "a time constant is at least one step")
    )
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
        decay = tensor(self.decay, state)
        return decay * state[:, 0] + (1 - decay) * tensor(self.v_leak, state) + self.current(state, x)

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Advance current and potential by the equations above, and fire."""
        v, spikes = super().step(state, *xs)
        return torch.stack((v, self.current(state, xs[0])), 1), spikes
