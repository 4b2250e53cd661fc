"""The base of all spiking neurons, and integrate-and-fire; the equations are the specification."""

import math
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import Role, StatefulOp, array, tensor
from spikec.ir.types import Array, Rate, Type, compress, readonly

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


def _reaches(v: Tensor, threshold: Tensor, strict: bool) -> Tensor:
    return (v > threshold if strict else v >= threshold).to(v.dtype)


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

    v_threshold: Array = array()
    v_reset: Array | None = array(default=None)
    v_init: Array = array(default=ZERO)
    strict: bool = False
    out_scale: Array | None = attrs.field(default=None, converter=attrs.converters.optional(_float64), kw_only=True)

    def infer(self, *operands: Type) -> Type:
        """Turn Rate(s) into Rate(s * v_threshold), or Rate(out_scale)."""
        (x,) = operands
        if not isinstance(x.encoding, Rate):
            raise TypeMismatchError("a neuron integrates a rate-coded signal, this one is real")
        if self.v_threshold.ndim != len(x.shape):
            raise TypeMismatchError(
                f"v_threshold has rank {self.v_threshold.ndim}, the sample has shape {x.shape}",
                hint="give one axis for each of the sample's, of length 1 where it is shared",
            )
        for name, value in self.parameters().items():
            if isinstance(value, np.ndarray) and not _broadcasts(value.shape, x.shape):
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

    def spikes(self, v: Tensor) -> Tensor:
        """Return 1 where a potential reaches the threshold (exceeds it, if ``strict``), else 0."""
        threshold = tensor(self.v_threshold, v)
        if not torch.is_grad_enabled():  # the interpreter: the same spikes, without the price of a Function
            return _reaches(v, threshold, self.strict)
        spikes: Tensor = _SurrogateSpike.apply(v, threshold, self.strict)  # type: ignore[no-untyped-call]
        return spikes

    def reset(self, v: Tensor, spikes: Tensor) -> Tensor:
        """Return the potential after those that fired were reset."""
        if self.v_reset is None:
            return v - tensor(self.v_threshold, v) * spikes
        return torch.where(spikes.bool(), tensor(self.v_reset, v), v)

    def fire(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return (potential after the reset, spikes) for a charged potential."""
        spikes = self.spikes(v)
        return self.reset(v, spikes), spikes

    def scale_input(self, factor: Array) -> Self:
        """Return the neuron that does to x what this one does to ``factor * x`` (an array of the sample's rank)."""
        return attrs.evolve(
            self,
            v_threshold=compress(self.v_threshold / factor),
            v_reset=None if self.v_reset is None else compress(self.v_reset / factor),
            v_init=compress(self.v_init / factor) if self.v_init.any() else self.v_init,
        )


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

    kind = "if"

    def charge(self, state: Tensor, *xs: Tensor) -> Tensor:
        """Return ``v(t-1) + z(t)``."""
        return state + xs[0]


def _broadcasts(shape: tuple[int, ...], onto: tuple[int, ...]) -> bool:
    """True where an array of one shape broadcasts to exactly the other."""
    return len(shape) <= len(onto) and all(
        size in (1, full) for size, full in zip(reversed(shape), reversed(onto), strict=False)
    )
