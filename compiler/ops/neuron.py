"""Spiking neurons; the equations are the specification."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from spikec.errors import TypeMismatchError
from spikec.op import Role, StatefulOp, array, tensor
from spikec.types import Array, Rate, Type, compress

_ZERO = np.zeros(())
_ZERO.flags.writeable = False


@attrs.frozen(eq=False)
class Neuron(StatefulOp):
    """What passes know of every spiking neuron: when it fires, and what it does to its potential then.

    A subclass gives ``step``. Its equations must be homogeneous: current, potential and thresholds times a
    number give the same spikes. A current of scale s_in gives spikes of scale ``s_in * v_threshold``.

    Attributes:
        v_threshold: positive, of the sample's rank, each axis 1 or full.
        v_reset: None for soft reset, or the value after a spike, shaped like v_threshold or a scalar.
        v_init: membrane potential before step 0, shaped like v_threshold, per neuron, or a scalar.
        strict: fire at v > v_threshold instead of v >= v_threshold.
    """

    role: ClassVar[Role] = Role.NEURON

    v_threshold: Array = array()
    v_reset: Array | None = array(default=None)
    v_init: Array = array(default=_ZERO)
    strict: bool = False

    def infer(self, *operands: Type) -> Type:
        """Rate(s) becomes Rate(s * v_threshold)."""
        (x,) = operands
        if not isinstance(x.encoding, Rate):
            raise TypeMismatchError("a neuron integrates a rate-coded signal, this one is real")
        if self.v_threshold.ndim != len(x.shape):
            raise TypeMismatchError(
                f"v_threshold has rank {self.v_threshold.ndim}, the sample has shape {x.shape}",
                hint="give one axis for each of the sample's, of length 1 where it is shared",
            )
        for name in ("v_threshold", "v_init", "v_reset"):
            value = getattr(self, name)
            if value is not None and not _broadcasts(value.shape, x.shape):
                raise TypeMismatchError(f"{name} of shape {value.shape} for a sample of shape {x.shape}")
        return x.with_scale(x.scale * self.v_threshold)

    def initial(self, *xs: Tensor) -> Tensor:
        """``v_init`` for every sample."""
        (x,) = xs
        return torch.zeros_like(x) + tensor(self.v_init, x)

    def fire(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """(potential after the reset, spikes) for a potential before them."""
        threshold = tensor(self.v_threshold, v)
        fired = v > threshold if self.strict else v >= threshold
        spikes = fired.to(v.dtype)
        if self.v_reset is None:
            return v - threshold * spikes, spikes
        return torch.where(fired, tensor(self.v_reset, v), v), spikes

    def scale_input(self, factor: Array) -> Self:
        """The neuron that does to x what this one does to ``factor * x`` (an array of the sample's rank)."""
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

    kind: ClassVar[str] = "if"

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """The equations above."""
        return self.fire(state + xs[0])


def _broadcasts(shape: tuple[int, ...], onto: tuple[int, ...]) -> bool:
    """True where an array of one shape broadcasts to exactly the other."""
    return len(shape) <= len(onto) and all(
        size in (1, full) for size, full in zip(reversed(shape), reversed(onto), strict=False)
    )
