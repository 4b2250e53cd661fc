"""Who reads NIR, and what each of them takes: one entry in :data:`PROFILES` a reader.

What the readers do was measured with the versions that ``reader`` names.
"""

from collections.abc import Callable
from typing import Literal

import attrs
import numpy as np

from spikec.backends.nir import nodes
from spikec.ir.op import Op
from spikec.ir.ops import (
    IF,
    LIF,
    AvgPool,
    Conv,
    CubaLIF,
    Delay,
    DelayLine,
    Flatten,
    Integrator,
    Leaky,
    Linear,
    MultiSpike,
    Neuron,
    SumPool,
    Threshold,
)

#: why a reader does not take an op, or ``""``
Limit = Callable[[Op], str]

#: bytes that a file's convolutions may take more because they are written without groups, where groups are possible
DENSE = 1 << 30

#: what every reader but rockpool has
_SIMPLE: tuple[type[Op], ...] = (Linear, Conv, SumPool, IF, LIF)
_COMMON = (*_SIMPLE, CubaLIF, AvgPool, Flatten)
#: all that NIR has
_ALL = (*_COMMON, MultiSpike, Integrator, Threshold, DelayLine)


@attrs.frozen
class Profile:
    """One reader, or what several have in common.

    Attributes:
        name: what users say.
        reader: the software and its version; empty for what several have in common.
        loads: the code that loads a file there; ``{dt}`` stands for the seconds of a step.
        mends: the code behind it that makes neurons subtract; empty where there is none, or no need.
        fires: ``">"`` or ``">="``, by which the reader compares potential and threshold.
        resets: ``"soft"`` or ``"hard"``, as its neurons do by themselves; ``"stated"`` if the file says it.
        several: its neurons fire several times in a step where the potential is several thresholds.
        floors: the potential of its IF stays above -v_threshold.
        dt: seconds a step, where the reader knows no others.
        gain: what its leaky neurons multiply their input with, and :class:`~spikec.passes.fit_neurons.FitNeurons`
            makes it: ``"any"``, ``"one"``, or ``"leak"``, which is 1/tau.
        zero: its neurons reset to 0 and to no other potential.
        node: how it wants neurons.
        v_reset: whether a v_reset of zeros is written.
        averages: AvgPool2d stays; else it is a SumPool2d, with 1/k^2 in the next weights.
        layers: of which ops it takes, of those that NIR has.
        sums: ``"any"`` if it sums right in every graph; ``"walk"`` if it runs a graph depth first, and layers whose
            turn has not come count for nothing, ``"some"`` if some of the readers do; ``"none"`` if it runs chains.
        dilates: it runs dilated convolutions; else their kernels have zeros between their cells.
        groups: convolutions with groups stay, where they would take more than :data:`DENSE` bytes without; else their
            weights are block-diagonal.
        feedback: a reset by subtraction is written in nodes of its own.
        recurrent: it runs layers that are fed back.
        ports: it takes several inputs and outputs.
        limits: what an op must be for the reader to take it.
    """

    name: str
    reader: str = ""
    loads: str = ""
    mends: tuple[str, ...] = ()
    fires: str = ">"
    resets: Literal["soft", "hard", "stated"] = "hard"
    several: bool = False
    floors: bool = False
    dt: float | None = None
    gain: Literal["any", "one", "leak"] = "any"
    zero: bool = False
    node: nodes.Rule = nodes.in_seconds
    v_reset: bool = False
    averages: bool = False
    layers: tuple[type[Op], ...] = _COMMON
    sums: Literal["any", "walk", "some", "none"] = "any"
    dilates: bool = True
    groups: bool = False
    feedback: bool = False
    recurrent: bool = True
    ports: bool = False
    limits: tuple[Limit, ...] = ()

    @property
    def physical(self) -> bool:
        """Whether an IF has r = 1/dt, and not r = 1 whatever dt is."""
        return self.node in (nodes.physical, nodes.plain)

    @property
    def decays(self) -> bool:
        """Whether what leaks does it exponentially there, and not by Euler's rule."""
        return self.node in (nodes.exponential, nodes.rockpool)

    def takes(self, kind: type[Op]) -> bool:
        """Return whether the reader has ops of a kind at all."""
        return kind in self.layers or kind not in _ALL

    def problem(self, op: Op) -> str:
        """Return the first reason why the reader does not take an op, or ``""``."""
        if isinstance(op, Delay) and not self.recurrent:
            return "a recurrent layer"
        if not self.takes(type(op)):
            return f"a {op.kind}"
        return next((found for limit in self.limits if (found := limit(op))), "")

    def code(self, dt: float) -> str:
        """Return the reader's code for a file with steps of so many seconds."""
        return "\n".join((self.loads.format(dt=float(dt)), *self.mends))


def _resets_with_its_spike(op: Op) -> str:
    if isinstance(op, Leaky) and op.reset_at != "spike":
        return f"a reset that comes at another time than with its spike (reset_at={op.reset_at!r})"
    return ""


def _uniform(op: Op) -> str:
    if not isinstance(op, Neuron):
        return ""
    given = {name: value for name, value in op.parameters().items() if name != "out_scale"}  # which no file holds
    arrays = {name: value for name, value in given.items() if isinstance(value, np.ndarray)}
    several = [name for name, value in arrays.items() if (value != value.flat[0]).any()]
    return f"a {op.kind} whose {', '.join(several)} differs from neuron to neuron" if several else ""


def _leaks_to_its_reset(op: Op) -> str:
    if not isinstance(op, Leaky):
        return ""
    rest = np.zeros(()) if op.v_reset is None or isinstance(op, CubaLIF) else op.v_reset
    if (op.v_leak == rest).all():
        return ""
    return f"a {op.kind} that leaks to {op.v_leak.flat[0]:g}, where the reader's leaks to {rest.flat[0]:g}"


def _leaks_to_zero(op: Op) -> str:
    if isinstance(op, Leaky) and op.v_leak.any():
        return f"a {op.kind} that leaks to another potential than its reset's, where the reader's leaks to 0"
    return ""


def _gain(op: Op) -> str:
    if isinstance(op, (LIF, CubaLIF)) and op.gain is not None and not (op.gain == 1).all():
        return f"a {op.kind} with a gain of {op.gain.flat[0]:g}"
    return ""


def _gain_of_one(op: Op) -> str:
    return f"a {op.kind} whose gain is its leak" if isinstance(op, LIF) and op.gain is None else _gain(op)


def _leaks(op: Op) -> str:
    """Wants time constants that are finite, and longer than a step."""
    if isinstance(op, LIF) and (op.tau == 1).any():
        return "a lif with a time constant of one step"
    if isinstance(op, CubaLIF) and ((op.decay == 1).any() or (op.decay_syn == 1).any()):
        return "a cubalif that does not leak"
    return ""


def _remembers(op: Op) -> str:
    if isinstance(op, CubaLIF) and not (op.decay.all() and op.decay_syn.all()):
        return "a cubalif that forgets all in a step"
    return ""


def _resets_to_zero(op: Op) -> str:
    if isinstance(op, Neuron) and op.v_reset is not None and op.v_reset.any():
        return f"a {op.kind} that resets to {op.v_reset.flat[0]:g}, where the reader's resets to 0"
    return ""


def _gain_is_leak(op: Op) -> str:
    if isinstance(op, LIF) and op.gain is not None and not np.isinf(op.tau).all():
        return "a lif whose gain is not its leak"
    return ""


def _still_synapse(op: Op) -> str:
    return "a cubalif that leaks to a potential" if isinstance(op, CubaLIF) and op.v_leak.any() else ""


def _two_axes(op: Op) -> str:
    return "a convolution over one axis" if isinstance(op, Conv) and len(op.kernel) < 2 else ""


def _dense_kernel(op: Op) -> str:
    return "a dilated convolution" if isinstance(op, Conv) and set(op.dilation) != {1} else ""


_SUBTRACTS = (
    "for m in net.modules():",
    "    if isinstance(m, neuron.BaseNode): m.v_reset = None",
)
_CUBA = (_resets_with_its_spike, _uniform, _leaks_to_zero, _gain_of_one, _leaks, _resets_to_zero)

#: ``portable`` is what the readers of IF have in common, ``full`` all that NIR has; the others are what one takes
PROFILES = {
    profile.name: profile
    for profile in (
        Profile("portable", sums="some", ports=True),
        Profile(
            "portable-cuba",
            gain="one",
            zero=True,
            node=nodes.cuba,
            sums="some",
            limits=_CUBA,
        ),
        Profile(
            "spikingjelly",
            reader="SpikingJelly 2.0.0",
            loads='net = import_from_nir("model.nir", dt={dt!r})',
            mends=_SUBTRACTS,
            fires=">=",
            node=nodes.physical,
            averages=True,
            limits=(_resets_with_its_spike, _uniform, _leaks_to_its_reset, _gain, _leaks),
        ),
        Profile(
            "snntorch",
            reader="snnTorch 1.0.0",
            loads='net = import_from_nir(nir.read("model.nir"))',
            dt=1e-4,
            gain="one",
            zero=True,
            node=nodes.cuba,
            averages=True,
            recurrent=False,
            limits=_CUBA,
        ),
        Profile(
            "sinabs",
            reader="sinabs 3.1.3",
            loads='net = sinabs.from_nir(nir.read("model.nir"), batch_size=B)',
            fires=">=",
            resets="soft",
            several=True,
            floors=True,
            dt=1.0,
            gain="one",
            zero=True,
            node=nodes.exponential,
            sums="walk",
            recurrent=False,
            layers=(*_SIMPLE, MultiSpike, Flatten),
            limits=(_resets_with_its_spike, _leaks_to_zero, _gain_of_one, _leaks, _two_axes),
        ),
        Profile(
            "norse",
            reader="norse 1.1.0",
            loads='net = norse.torch.from_nir(nir.read("model.nir"), dt={dt!r})',
            gain="leak",
            zero=True,
            sums="walk",
            layers=(*_SIMPLE, CubaLIF, Flatten),
            limits=(_resets_with_its_spike, _resets_to_zero, _gain_is_leak, _still_synapse, _two_axes),
        ),
        Profile(
            "rockpool",
            reader="rockpool 3.1.0",
            loads='net = from_nir(nir.read("model.nir"))',
            fires=">=",
            resets="soft",
            several=True,
            gain="one",
            zero=True,
            node=nodes.rockpool,
            sums="walk",
            recurrent=False,
            layers=(Linear, IF, LIF, CubaLIF, MultiSpike),
            limits=(_resets_with_its_spike, _leaks_to_zero, _gain_of_one, _leaks, _remembers),
        ),
        Profile(
            "snn-mlir",
            reader="snn-mlir 1.0.0",
            loads="snn-mlir convert model.nir",
            gain="one",
            zero=True,
            averages=True,
            layers=(*_COMMON, Integrator),
            dilates=False,
            sums="none",
            limits=(*_CUBA, _dense_kernel),
        ),
        Profile(
            "full",
            layers=_ALL,
            resets="stated",
            v_reset=True,
            averages=True,
            groups=True,
            feedback=True,
            ports=True,
            node=nodes.plain,
        ),
    )
}
