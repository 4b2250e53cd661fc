"""Soft reset in nodes that NIR has: an integrator, a threshold behind it, and a scale from there back."""

from typing import Any

import nir
import numpy as np

#: what the nodes behind an integrator are called: its name and these
FIRES, RESETS = "_fires", "_resets"


def with_feedback(
    nodes: dict[str, Any], edges: list[tuple[str, str]], dt: float
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Write every IF and LIF that resets by subtraction as I or LI -> Threshold -> Scale -> I or LI.

    An edge back is late by a step, so that the threshold comes off the potential that the spike left, before the next
    comparison: the spikes are those of a reset in the spike's own step. A LIF's potential leaks in between, and so does
    what is taken off. An IF that starts at v_init starts at 0, and its threshold is as much lower.

    Args:
        nodes: of the graph, in seconds, with metadata that say how they reset; the others stay.
        edges: between them.
        dt: seconds a step.
    """
    soft = [name for name, node in nodes.items() if type(node) in (nir.IF, nir.LIF) and _subtracts(node)]
    made: dict[str, Any] = {}
    wired = [(f"{start}{FIRES}" if start in soft else start, end) for start, end in edges]
    for name, node in nodes.items():
        if name not in soft:
            made[name] = node
            continue
        if isinstance(node, nir.LIF):
            gain, decay = node.r * dt / node.tau, 1 - dt / node.tau
            made[name] = nir.LI(tau=node.tau, r=node.r, v_leak=node.v_leak)
            back = -node.v_threshold * decay / gain
        else:
            made[name] = nir.I(r=node.r)
            back = -node.v_threshold / _whole(node.r, dt)
        start = node.metadata.get("v_init", np.zeros((), node.v_threshold.dtype))
        if isinstance(node, nir.LIF) and np.any(start):
            made[name].metadata["v_init"], start = start, np.zeros_like(start)
        made[f"{name}{FIRES}"] = nir.Threshold(threshold=node.v_threshold - start)
        made[f"{name}{RESETS}"] = nir.Scale(scale=np.asarray(back, dtype=node.v_threshold.dtype))
        wired += [(name, name + FIRES), (name + FIRES, name + RESETS), (name + RESETS, name)]
    return made, wired


def _subtracts(node: Any) -> bool:
    known = node.metadata
    return known.get("reset") == "subtract" and "reset_at" not in known and "spikes" not in known


def _whole(r: Any, dt: float) -> Any:
    """Return the gain r dt, as 1 where it is that but for rounding."""
    gain = np.asarray(r, dtype=np.float64) * dt
    return np.where(np.isclose(gain, 1, rtol=1e-6, atol=0), 1.0, gain)
