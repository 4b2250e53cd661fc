"""The equations by which tools run the nodes of a NIR file, said in NIR's own terms.

A :data:`Rule` takes a node as the file has it, and gives the node that by NIR's equations does what the tool does with
it. What NIR has no field for stands in its metadata, as this package writes them: ``v_init``, ``reset``, ``reset_at``,
and ``spikes="multi"`` with ``v_floor``. Docstrings state a tool's step for an input x.
"""

from collections.abc import Callable, Mapping
from typing import Any

import nir
import numpy as np

from spikec.ir.errors import Hint, Option, UnsupportedOpError
from spikec.ir.types import Array

#: called with (node, seconds a step); raises UnsupportedOpError with the tool's own reason
Rule = Callable[[Any, float], Any]

# ------------------------------------------------------------------ what nodes are made of


def _changed(node: Any, metadata: Mapping[str, Any], **fields: Any) -> Any:
    """Return a node of the same kind, with other fields, and with these metadata for its own."""
    return with_fields(type(node), {**vars(node), **fields, "metadata": dict(metadata)})


def with_fields(kind: Any, fields: Mapping[str, Any]) -> Any:
    """Make a node of nir's, unchecked: its own constructor wants all parameters in one shape."""
    made = kind.__new__(kind)
    vars(made).update(fields)
    return made


def _hard(v_init: Any = 0.0) -> dict[str, Any]:
    return {"reset": "value", "v_init": v_init}


def _several(v_floor: Any = None) -> dict[str, Any]:
    floor = {} if v_floor is None else {"v_floor": v_floor}
    return {"reset": "subtract", "v_init": 0.0, "spikes": "multi", **floor}


def _refuse(tool: str, what: str, hint: str | Hint = "") -> UnsupportedOpError:
    return UnsupportedOpError(f"{tool} refuses {what}", hint=hint)


def _uniform(tool: str, node: Any, *fields: str) -> None:
    kind = type(node).__name__
    for field in fields:
        if np.unique(getattr(node, field)).size > 1:
            raise _refuse(tool, f"{kind} whose {field} differs from neuron to neuron", "give all one number")


def _is(value: Any, wanted: Any, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
    return bool(np.allclose(value, wanted, rtol=rtol, atol=atol))


def _zeros(node: Any) -> Array:
    return np.zeros_like(np.asarray(node.v_threshold))


# ------------------------------------------------------------------ exponential decay


def exponential(node: Any, dt: float) -> Any:
    """Read a leaky node that decays by exp(-dt/tau) a step: metadata say ``integrator="exponential"``.

    LI and LIF: v = exp(-dt/tau) v + x. CubaLI and CubaLIF: i = (i + x) exp(-dt/tau_syn), v = exp(-dt/tau_mem) v + i +
    v_leak. Their gains stand in no field: r and w_in are what the tool wants that the file is for.
    """
    if hasattr(node, "tau_syn"):
        fields = _decaying_current(node, dt)
    elif hasattr(node, "tau"):
        fields = _decaying(node, dt)
    else:
        return node
    seconds = {name: fields[name] * dt for name in ("tau", "tau_syn", "tau_mem") if name in fields}
    return _changed(node, node.metadata, **(fields | seconds))


def _decaying(node: Any, dt: float) -> dict[str, Any]:
    """Return tau and r, in steps, of what decays by exp(-dt/tau) a step and adds its input as it is."""
    steps = -1 / np.expm1(-dt / np.asarray(node.tau, dtype=np.float64))
    return {"tau": steps, "r": steps, "v_leak": np.zeros(())}


def _decaying_current(node: Any, dt: float) -> dict[str, Any]:
    """Return the same of a current, which its input decays with, and of a potential that adds the current."""
    syn, mem = (np.exp(-dt / np.asarray(tau, dtype=np.float64)) for tau in (node.tau_syn, node.tau_mem))
    steps_syn, steps_mem = 1 / (1 - syn), 1 / (1 - mem)
    leak = np.asarray(node.v_leak) * steps_mem
    return {"tau_syn": steps_syn, "tau_mem": steps_mem, "w_in": syn * steps_syn, "r": steps_mem, "v_leak": leak}


# ------------------------------------------------------------------ SpikingJelly

_SJ = "SpikingJelly"


def _sj_is(value: Any, wanted: Any) -> bool:
    return _is(value, wanted, 1e-6, 1e-12)


def sj_if(node: Any, dt: float) -> Any:
    """v += x, where r = 1/dt; >=, hard to v_reset, which is also where it starts."""
    _uniform(_SJ, node, "r", "v_threshold", "v_reset")
    if not _sj_is(node.r, 1 / dt):
        implied = 1 / float(np.ravel(node.r)[0]) if np.all(node.r) else dt
        raise _refuse(_SJ, f"IF with r != 1/dt (dt = {dt:g})", Hint("load it with ", Option("dt", implied)))
    return _changed(node, _hard(node.v_reset), r=np.ones(()))


def sj_lif(node: Any, dt: float) -> Any:
    """v += (x - (v - v_reset)) dt/tau for r = 1, v += x - (v - v_reset) dt/tau for r = tau/dt."""
    _uniform(_SJ, node, "tau", "r", "v_threshold", "v_reset", "v_leak")
    steps = np.asarray(node.tau, dtype=np.float64) / dt
    if not (steps > 1).all():
        raise _refuse(_SJ, f"LIF with tau <= dt (dt = {dt:g})", Hint("give a smaller ", Option("dt")))
    if not (_sj_is(node.r, 1) or _sj_is(node.r, steps)):
        raise _refuse(_SJ, "LIF with r other than 1 and tau/dt", "give r = 1, or r = tau/dt")
    if not _sj_is(node.v_leak, node.v_reset):
        raise _refuse(_SJ, "LIF with v_leak != v_reset", "give them one value")
    r = np.ones(()) if _sj_is(node.r, 1) else steps
    return _changed(node, _hard(node.v_reset), r=r, v_leak=node.v_reset)


def sj_cuba(node: Any, dt: float) -> Any:
    """i = (1 - dt/tau_syn) i + x, v = (1 - dt/tau_mem) v + i."""
    _uniform(_SJ, node, "tau_syn", "tau_mem", "r", "w_in", "v_threshold", "v_reset", "v_leak")
    if (np.asarray(node.tau_syn) < dt).any() or (np.asarray(node.tau_mem) < dt).any():
        raise _refuse(
            _SJ, f"CubaLIF with a time constant below dt (dt = {dt:g})", Hint("give a smaller ", Option("dt"))
        )
    for gain, tau in (("r", "tau_mem"), ("w_in", "tau_syn")):
        if not _sj_is(getattr(node, gain), np.asarray(getattr(node, tau), dtype=np.float64) / dt):
            raise _refuse(_SJ, f"CubaLIF with {gain} != {tau}/dt (dt = {dt:g})", f"give {gain} = {tau}/dt")
    if not _sj_is(node.v_leak, 0):
        raise _refuse(_SJ, "CubaLIF with v_leak != 0", "give v_leak = 0")
    return _changed(node, _hard(node.v_reset), **_unit_gains(node, dt))


def _unit_gains(node: Any, dt: float) -> dict[str, Any]:
    """Return r and w_in of a CubaLIF that make both of its gains 1 to the last bit."""
    return {
        "r": np.asarray(node.tau_mem, dtype=np.float64) / dt,
        "w_in": np.asarray(node.tau_syn, dtype=np.float64) / dt,
        "v_leak": np.zeros(()),
    }


def ungrouped(tool: str) -> Rule:
    """Refuse a convolution with groups."""

    def rule(node: Any, dt: float) -> Any:
        if int(node.groups) != 1:
            raise _refuse(tool, f"{type(node).__name__} with groups", "write it as one with block-diagonal weights")
        return node

    return rule


# ------------------------------------------------------------------ snnTorch

_SNN = "snnTorch"


def snn_if(node: Any, dt: float) -> Any:
    """v = 0.9 v + x, by subtraction; a potential that stays above its threshold is lowered once more."""
    _uniform(_SNN, node, "r", "v_threshold")
    if not (np.asarray(node.r) == 1).all():
        raise _refuse(_SNN, "IF with r != 1", "give r = 1")
    steps = np.asarray(10.0)
    again = {"reset": "subtract", "reset_at": "again", "v_init": 0.0}
    fields = {"v_threshold": node.v_threshold, "v_reset": _zeros(node), "v_leak": np.zeros(())}
    return with_fields(nir.LIF, {**fields, "tau": steps * dt, "r": steps, "metadata": again})


def snn_lif(node: Any, dt: float) -> Any:
    """v = (1 - dt/tau) v + x, with the threshold divided by the smallest r dt/tau; hard to 0."""
    _no_leak(_SNN, node)
    _uniform(_SNN, node, "v_threshold")
    steps = np.asarray(node.tau, dtype=np.float64) / dt
    gain = np.asarray(node.r) / steps
    threshold = node.v_threshold if _is(gain, 1) else np.asarray(node.v_threshold) / np.min(gain)
    return _changed(node, _hard(), r=steps, v_threshold=threshold, v_reset=_zeros(node), v_leak=np.zeros(()))


def snn_cuba(node: Any, dt: float) -> Any:
    """i = (1 - dt/tau_syn) i + x, v = (1 - dt/tau_mem) v + i, with the threshold divided by w_in dt/tau_syn."""
    _no_leak(_SNN, node)
    if not _is(node.r, np.asarray(node.tau_mem) / dt):
        raise _refuse(_SNN, f"CubaLIF with r != tau_mem/dt (dt = {dt:g})", "give r = tau_mem/dt")
    gain = np.asarray(node.w_in) * dt / np.asarray(node.tau_syn)
    threshold = node.v_threshold if _is(gain, 1) else np.asarray(node.v_threshold) / gain
    changed = _changed(node, _hard(), v_threshold=threshold, v_reset=_zeros(node), **_unit_gains(node, dt))
    _uniform(_SNN, changed, "v_threshold")
    return changed


def _no_leak(tool: str, node: Any) -> None:
    if not _is(node.v_leak, 0):
        raise _refuse(tool, f"{type(node).__name__} with v_leak != 0", "give v_leak = 0")


def batch_is_an_axis(tool: str) -> Rule:
    """Read a Flatten whose axes count the batch, as torch's do."""

    def rule(node: Any, dt: float) -> Any:
        start, end = int(node.start_dim), int(node.end_dim)
        if start == 0:
            what = f"a Flatten from axis 0 on for more than one sample: {tool}'s takes the batch for that axis"
            raise UnsupportedOpError(what, hint="count its axes from the end: start_dim = -3 where there are three")
        sample = {"start_dim": start, "end_dim": end}
        return _changed(node, node.metadata, **{name: axis - (axis > 0) for name, axis in sample.items()})

    return rule


def not_depthwise(tool: str) -> Rule:
    """Refuse a convolution whose groups do not divide the weights of a row, by which the tool makes its layer."""

    def rule(node: Any, dt: float) -> Any:
        if node.weight.shape[1] % int(node.groups):
            raise _refuse(tool, f"{type(node).__name__} with more groups than weights a row", "write it without groups")
        return node

    return rule


def unpadded(node: Any, dt: float) -> Any:
    """Read a pool whose padding the tool leaves out."""
    return _changed(node, node.metadata, padding=np.zeros(2, dtype=int))


# ------------------------------------------------------------------ sinabs


def sinabs_if(node: Any, dt: float) -> Any:
    """v += x whatever r is; floor(v / v_threshold) spikes, subtracted; never below -v_threshold."""
    return _changed(node, _several(-np.asarray(node.v_threshold)), r=np.ones(()), v_reset=_zeros(node))


def sinabs_lif(node: Any, dt: float) -> Any:
    """v = exp(-1/tau) v + x, with tau for steps, whatever r is; several spikes, subtracted."""
    _no_leak("sinabs", node)
    return _changed(node, _several(), v_reset=_zeros(node), **_decaying(node, 1.0))


def sinabs_li(node: Any, dt: float) -> Any:
    """v = exp(-1/tau) v + x, with tau for steps."""
    _no_leak("sinabs", node)
    if not (np.asarray(node.r) == 1).all():
        raise _refuse("sinabs", "LI with r != 1", "give r = 1")
    return _changed(node, {}, **_decaying(node, 1.0))


# ------------------------------------------------------------------ norse


def norse_if(node: Any, dt: float) -> Any:
    """v += x whatever r is; hard to 0."""
    return _changed(node, _hard(), r=np.ones(()), v_reset=_zeros(node))


def norse_lif(node: Any, dt: float) -> Any:
    """v += dt/tau (x + v_leak - v) whatever r is, from v_leak on; hard to 0."""
    return _changed(node, _hard(node.v_leak), r=np.ones(()), v_reset=_zeros(node))


def norse_cuba(node: Any, dt: float) -> Any:
    """i += dt/tau_syn (v_leak - i + w_in x), v += dt/tau_mem (v_leak - v + r i), both from v_leak on; hard to 0.

    The current is v_leak above that of a CubaLIF, so that its potential leaks to v_leak (1 + r).
    """
    leak = np.asarray(node.v_leak) * (1 + np.asarray(node.r))
    return _changed(node, _hard(node.v_leak), v_leak=leak, v_reset=_zeros(node))


# ------------------------------------------------------------------ rockpool


def rockpool_cuba(node: Any, dt: float) -> Any:
    """i = (i + x) exp(-dt/tau_syn), v = exp(-dt/tau_mem) v + i + v_leak, dt = min tau_mem/(1 + r), whatever w_in is."""
    dt = float(np.min(np.asarray(node.tau_mem, dtype=np.float64) / (1 + np.asarray(node.r))))
    return _changed(node, _several(), v_reset=_zeros(node), **_decaying_current(node, dt))


# ------------------------------------------------------------------ snn-mlir

_MLIR = "snn-mlir"


def mlir_if(node: Any, dt: float) -> Any:
    """v += x; hard to 0."""
    _mlir_neuron(node, "r", "v_threshold", "v_reset")
    if not _is(node.r, 1):
        raise _refuse(_MLIR, f"{type(node).__name__} with r != 1", "give r = 1")
    return _changed(node, _hard(), r=np.ones(()))


def mlir_lif(node: Any, dt: float) -> Any:
    """v = (1 - 1/r) v + x: dt is taken to be tau/r; hard to 0."""
    _mlir_neuron(node, "tau", "r", "v_threshold", "v_reset")
    return _changed(node, _hard(), tau=np.asarray(node.r, dtype=np.float64), v_leak=np.zeros(()))


def mlir_cuba(node: Any, dt: float) -> Any:
    """i = (1 - dt/tau_syn) i + x, v = (1 - dt/tau_mem) v + i, where dt = tau_mem/r = tau_syn/w_in; hard to 0."""
    _mlir_neuron(node, "tau_syn", "tau_mem", "r", "v_threshold")
    dt = float(np.ravel(node.tau_mem)[0]) / float(np.ravel(node.r)[0])
    if not _is(np.asarray(node.w_in) * dt / np.asarray(node.tau_syn), 1):
        raise _refuse(_MLIR, f"{type(node).__name__} with w_in != tau_syn/dt, dt = tau_mem/r", "give w_in = tau_syn/dt")
    steps = {name: np.asarray(getattr(node, name), dtype=np.float64) / dt for name in ("tau_syn", "tau_mem")}
    return _changed(node, _hard(), **steps, r=steps["tau_mem"], w_in=steps["tau_syn"], v_leak=np.zeros(()))


def _mlir_neuron(node: Any, *fields: str) -> None:
    _uniform(_MLIR, node, *(name for name in fields if hasattr(node, name)))
    if hasattr(node, "v_leak"):
        _no_leak(_MLIR, node)
    if hasattr(node, "v_reset") and not _is(node.v_reset, 0):
        raise _refuse(_MLIR, f"{type(node).__name__} with v_reset != 0", "give v_reset = 0")


def mlir_conv(node: Any, dt: float) -> Any:
    """Refuse a convolution with groups, dilation or padding in words."""
    if (np.asarray(node.dilation) != 1).any():
        raise _refuse(_MLIR, f"{type(node).__name__} with dilation", "write it with a larger kernel, zeros between")
    if isinstance(node.padding, (str, bytes)):
        raise _refuse(_MLIR, f"{type(node).__name__} with padding in words", "state the padding in numbers")
    return ungrouped(_MLIR)(node, dt)
