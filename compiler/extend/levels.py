"""Activations that were trained with as many levels as a neuron has spikes to give."""

import attrs
import numpy as np

from spikec.ir.graph import Graph
from spikec.ir.ops import BatchNorm, Clamp, Relu

#: how far rounding may move what is a whole number
_NEARLY = 1e-4


@attrs.frozen
class Levels:
    """A signal that is ``1/2 + count clip(x / bound, 0, 1)``, so that its floor has ``count + 1`` values.

    Attributes:
        clip: the name of the op that is ``clip(x, 0, bound)``.
        bound, count: see above.
    """

    clip: str
    bound: float
    count: int

    @classmethod
    def of(cls, graph: Graph, signal: str) -> "Levels | None":
        """Look for one behind a signal; None where it is none."""
        gain, shift, name = 1.0, 0.0, signal
        while isinstance(norm := graph[name], BatchNorm):
            gains, shifts = np.unique(norm.gain), np.unique(norm.shift)
            if gains.size > 1 or shifts.size > 1:
                return None
            gain, shift = gain * float(gains[0]), shift + gain * float(shifts[0])
            (name,) = graph.operands(name)
        op = graph[name]
        low, bound = (op.low, op.high) if isinstance(op, Clamp) else (0.0, op.cap) if isinstance(op, Relu) else (1, 0)
        if low != 0 or bound is None:
            return None
        count = round(gain * bound)
        exact = abs(gain * bound - count) <= _NEARLY and abs(shift - 0.5) <= _NEARLY
        return cls(name, bound, count) if exact and count >= 1 else None
