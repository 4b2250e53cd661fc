"""Neurons as readers want them: each rule takes a node, with time constants in steps, and gives one in seconds.

The nodes come from :mod:`spikec.backends.nir.converters`. Rules read the metadata of a node and keep them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import nir
import numpy as np

from spikec.ir.ops.weighted import block_diagonal

#: called with (node, seconds a step)
Rule = Callable[[Any, float], Any]

#: time constants of what stands for a neuron that does not leak, in steps: it forgets 1e-7 of its potential a step,
#: which is what float32 resolves
_ENDLESS = 1e7

#: by how much such a neuron's threshold is lower, so that what it forgets and rounding do not cost a spike
_MARGIN = 1e-5

#: time constants in a step of what stands for a current without memory: e^-16 = 1.1e-7 of it is left
_FAST = 16.0


def in_seconds(node: Any, dt: float) -> Any:
    """Multiply all time constants and delays by dt."""
    for name in ("tau", "tau_syn", "tau_mem", "delay"):
        if hasattr(node, name):
            setattr(node, name, _times(getattr(node, name), dt))
    return node


def physical(node: Any, dt: float) -> Any:
    """Give an IF r = 1/dt, so that a current integrated over a step is the sample."""
    node = in_seconds(node, dt)
    if isinstance(node, (nir.I, nir.IF)):
        node.r = node.r / node.r.dtype.type(dt)
    return node


def plain(node: Any, dt: float) -> Any:
    """Do as :func:`physical`, and write an affine layer without a bias as a Linear, or as the Scale that it is."""
    if not isinstance(node, nir.Affine) or node.bias.any():
        return physical(node, dt)
    diagonal = np.diag(node.weight)
    if len(node.weight) == node.weight.shape[1] and np.array_equal(np.diag(diagonal), node.weight):
        return nir.Scale(scale=diagonal.copy())
    return nir.Linear(weight=node.weight)


def cuba(node: Any, dt: float) -> Any:
    """Write an IF or a LIF of unit gain as the CubaLIF that it is: ``tau_syn = dt`` makes its current the sample.

    An IF gets a tau_mem of 1e7 steps, as NIR's time constants are finite, and a threshold lower by 1e-5 of itself.
    """
    if not isinstance(node, (nir.IF, nir.LIF)):
        return in_seconds(node, dt)
    like = np.ones(node.v_threshold.shape)
    tau, threshold = (node.tau, node.v_threshold) if isinstance(node, nir.LIF) else _endless(node)
    made = nir.CubaLIF(
        tau_syn=_times(like, dt),
        tau_mem=_times(tau, dt),
        r=np.array(tau, dtype=np.float64),
        v_leak=getattr(node, "v_leak", np.zeros_like(node.v_threshold)),
        v_threshold=threshold,
        v_reset=node.v_reset,
        w_in=like,
    )
    return _with_metadata_of(node, made)


def exponential(node: Any, dt: float) -> Any:
    """Give a LIF the tau with ``exp(-dt/tau) = 1 - 1/(its steps)``, which is how sinabs lets potentials decay."""
    if isinstance(node, nir.LIF):
        node.tau = _steps_of(1 - 1 / node.tau)
        node.r = np.ones_like(node.tau)
    return in_seconds(node, dt)


def rockpool(node: Any, dt: float) -> Any:
    """Write every neuron as the CubaLIF that rockpool's rule makes it.

    Its rule is ``i = a (i + x)``, ``v = b v + i`` with ``a = exp(-dt/tau_syn)``, ``b = exp(-dt/tau_mem)`` and
    ``dt = tau_mem/(1 + r)``: the thresholds are a times those of unit gain.
    """
    if not isinstance(node, (nir.IF, nir.LIF, nir.CubaLIF)):
        return in_seconds(node, dt)
    like = np.ones(node.v_threshold.shape)
    if isinstance(node, nir.IF):
        tau, threshold = _endless(node)
    else:
        tau, threshold = node.tau if isinstance(node, nir.LIF) else node.tau_mem, node.v_threshold
    tau_mem = _steps_of(1 - 1 / tau)
    tau_syn = _steps_of(1 - 1 / node.tau_syn) if isinstance(node, nir.CubaLIF) else like / _FAST
    made = nir.CubaLIF(
        tau_syn=tau_syn * dt,
        tau_mem=tau_mem * dt,
        r=tau_mem - 1,
        v_leak=np.zeros_like(node.v_threshold),
        v_threshold=(threshold * np.exp(-1 / tau_syn)).astype(node.v_threshold.dtype),
        v_reset=node.v_reset,
        w_in=like,
    )
    return _with_metadata_of(node, made)


def _endless(node: Any) -> tuple[Any, Any]:
    """Return the time constants, in steps, and the thresholds of what stands for an IF."""
    return np.full(node.v_threshold.shape, _ENDLESS), node.v_threshold * node.v_threshold.dtype.type(1 - _MARGIN)


def dense_bytes(node: Any) -> int:
    """How many bytes more a node's weights take without groups."""
    return int(node.weight.nbytes) * (node.groups - 1) if hasattr(node, "groups") else 0


def dense(node: Any) -> Any:
    """Write a convolution's groups as the blocks of a diagonal: nir refuses files with groups, and so do readers."""
    if getattr(node, "groups", 1) == 1:
        return node
    fields = {field.name: getattr(node, field.name) for field in dataclasses.fields(node) if field.init}
    return type(node)(**fields | {"weight": block_diagonal(node.weight, node.groups), "groups": 1})


def typed(node: Any) -> Any:
    """Let a convolution with groups take all of its channels: nir counts those of one group."""
    if getattr(node, "groups", 1) > 1:
        node.input_type["input"][0] *= node.groups
    return node


def without_zero_v_reset(node: Any) -> Any:
    """Let a neuron be written without a v_reset of zeros, which nir before 1.0.6 does not know, and later ones add."""
    if getattr(node, "v_reset", None) is not None and not node.v_reset.any():
        node.to_dict = functools.partial(_to_dict_without_v_reset, node)
    return node


def _to_dict_without_v_reset(node: Any) -> dict[str, Any]:
    fields: dict[str, Any] = type(node).to_dict(node)
    del fields["v_reset"]
    return fields


def _with_metadata_of(node: Any, made: Any) -> Any:
    made.metadata.update(node.metadata)
    return made


def _steps_of(decay: Any) -> Any:
    """Return the time constants, in steps, of exponentials that decay by so much in a step."""
    return -1 / np.log(decay)


def _times(steps: Any, dt: float) -> Any:
    """Return ``steps * dt``, or the float beside it that gives ``steps`` again when a reader divides it by dt."""
    product = steps * dt
    for candidate in (np.nextafter(product, 0), np.nextafter(product, np.inf)):
        product = np.where((product / dt != steps) & (candidate / dt == steps), candidate, product)
    return product
