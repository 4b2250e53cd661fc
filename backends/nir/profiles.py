"""Who reads NIR, and what each of them takes: one entry in :data:`PROFILES` a reader."""

from collections.abc import Callable

import attrs
import numpy as np

from spikec.ir.ops import LIF, CubaLIF, Leaky, Neuron

#: why a reader does not take a neuron, or ``""``
Limit = Callable[[Neuron], str]


@attrs.frozen
class Profile:
    """One reader, or what several have in common.

    Attributes:
        name: what users say.
        fires: ``">"`` or ``">="``, by which the reader compares potential and threshold.
        gain: ``"unit"``: an IF has r = 1, whatever dt is; ``"physical"``: r = 1/dt.
        averages: AvgPool2d stays; else it is a SumPool2d, with 1/k^2 in the next weights.
        limits: what a neuron must be for the reader to take it.
    """

    name: str
    fires: str = ">"
    gain: str = "unit"
    averages: bool = False
    limits: tuple[Limit, ...] = ()

    def problem(self, op: Neuron) -> str:
        """Return the first reason why the reader does not take a neuron, or ``""``."""
        return next((found for limit in self.limits if (found := limit(op))), "")


def _resets_with_its_spike(op: Neuron) -> str:
    if isinstance(op, Leaky) and op.reset_at != "spike":
        return f"a reset that comes at another time than with its spike (reset_at={op.reset_at!r})"
    return ""


def _uniform(op: Neuron) -> str:
    given = {name: value for name, value in op.parameters().items() if name != "out_scale"}  # which no file holds
    arrays = {name: value for name, value in given.items() if isinstance(value, np.ndarray)}
    several = [name for name, value in arrays.items() if (value != value.flat[0]).any()]
    return f"a {op.kind} whose {', '.join(several)} differs from neuron to neuron" if several else ""


def _leak_and_gain(op: Neuron) -> str:
    """Wants a LIF with v_leak = v_reset, r = 1 or tau/dt and tau > dt, a CubaLIF with v_leak = 0 and gains of 1."""
    if not isinstance(op, Leaky):
        return ""
    rest = np.zeros(()) if op.v_reset is None or isinstance(op, CubaLIF) else op.v_reset
    if not (op.v_leak == rest).all():
        return f"a {op.kind} that leaks to {op.v_leak.flat[0]:g}, where the reader's leaks to {rest.flat[0]:g}"
    if isinstance(op, (LIF, CubaLIF)) and op.gain is not None and not (op.gain == 1).all():
        return f"a {op.kind} with a gain of {op.gain.flat[0]:g}"
    if isinstance(op, LIF) and (op.tau == 1).any():
        return "a lif with a time constant of one step"
    if isinstance(op, CubaLIF) and ((op.decay == 1).any() or (op.decay_syn == 1).any()):
        return "a cubalif that does not leak"
    return ""


#: ``portable`` is what all readers have in common; the others are what one reader takes.
PROFILES = {
    profile.name: profile
    for profile in (
        Profile("portable"),
        Profile(
            "spikingjelly",
            fires=">=",
            gain="physical",
            averages=True,
            limits=(_resets_with_its_spike, _uniform, _leak_and_gain),
        ),
    )
}
