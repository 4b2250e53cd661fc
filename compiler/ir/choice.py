"""What a network chooses by a comparison: ``where(x > c, a, b)``, and ``x (x > c)``, of which b is 0."""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import attrs
import numpy as np

from spikec.ir.graph import Graph
from spikec.ir.op import Op
from spikec.ir.ops import Add, BatchNorm, Compare, LeakyRelu, Multiply, Relu, Where
from spikec.ir.origin import Origin, merge
from spikec.ir.types import Array, on_axis, sealed

#: two sums closer than this, as a share of what is added, are one: a bound is written in float64, a weight in float32
_MEETING = 1e-6
#: no shift, in any channel
_NONE: Array = sealed(np.zeros(1))


class Line(NamedTuple):
    """``gain x + shift``: vectors over the channels of x, or of length 1."""

    gain: Array
    shift: Array

    def at(self, x: Array | float) -> Array:
        """Return the values at one number, or at one for each channel."""
        return np.asarray(self.gain * x + self.shift)

    def size_at(self, x: float) -> Array:
        """Return the sizes of what is added up there, of which rounding is a share."""
        return np.asarray(np.abs(self.gain * x) + np.abs(self.shift))


@attrs.frozen(eq=False)
class Choice:
    """A node that gives one line of x above a bound and another one below, which meet there.

    Attributes:
        name: of the node.
        x: what is compared.
        bound: where the lines meet, in each channel.
        above, below: the lines.
        origin: of the node and of all that it is made of.
    """

    name: str
    x: str
    bound: Array
    above: Line
    below: Line
    origin: Origin

    @classmethod
    def of(cls, graph: Graph, name: str) -> Choice | None:
        """Read one from the graph; None where there is none, or where its lines do not meet."""
        if not isinstance(graph[name], (Multiply, Where)):
            return None
        operands = list(graph.operands(name))
        at = next((i for i, each in enumerate(operands) if isinstance(graph[each], Compare)), None)
        if at is None or (isinstance(graph[name], Where) and at > 0):
            return None
        condition, *branches = operands.pop(at), *operands
        compare = graph.get(condition, Compare)
        (x,) = graph.operands(condition)
        inside: list[str] = [name, condition]
        lines = [line_of(graph, each, x, inside) for each in branches]
        if len(lines) == 1:
            lines.append(Line(_NONE, _NONE))
        one, other = lines if compare.above else lines[::-1]
        if one is None or other is None or not graph.type(x).shape:
            return None
        slopes, steps = one.gain - other.gain, other.shift - one.shift
        apart = np.abs(one.at(compare.bound) - other.at(compare.bound))
        meets = apart <= _MEETING * (one.size_at(compare.bound) + other.size_at(compare.bound))
        if not (meets & ((slopes != 0) | (steps == 0))).all():
            return None
        # where the lines meet to the last digit, which is the bound but for the rounding of constants
        bound = np.divide(steps, slopes, out=np.full(meets.shape, compare.bound), where=slopes != 0)
        return cls(name, x, bound, one, other, merge(*(graph[each].origin for each in inside)))

    def write(self, graph: Graph) -> None:
        """Put what it is in terms of ReLUs in its place: a ReLU, a leaky one, or two about the bound."""
        operands = graph.operands(self.name)
        level = self.below.at(self.bound)
        if not self.bound.any() and not level.any() and (self.above.gain == 1).all():
            slope = on_axis(self.below.gain, len(graph.type(self.x).shape), 0)
            graph.set_op(self.name, LeakyRelu(slope, origin=self.origin) if slope.any() else Relu(origin=self.origin))
            graph.set_operands(self.name, self.x)
        else:
            self._write_sum(graph, level)
        for each in operands:
            graph.remove_dead(each)

    def _write_sum(self, graph: Graph, level: Array) -> None:
        """``f(c) + g relu(x - c) - h relu(c - x)``, for gains g above and h below."""
        parts = []
        for sign, gain, side in ((1, self.above.gain, "above"), (-1, self.below.gain, "below")):
            if gain.any():
                offset = self._affine(graph, np.full(1, sign), -sign * self.bound)
                excess = graph.add(offset, self.x, name=f"{self.name}_{side}_bound")
                relu = graph.add(Relu(origin=self.origin), excess, name=f"{self.name}_{side}")
                parts.append(graph.add(self._affine(graph, sign * gain), relu, name=f"{self.name}_{side}_scaled"))
        total = graph.add(Add(origin=self.origin), *parts, name=f"{self.name}_sum") if parts else self.x
        graph.set_op(self.name, self._affine(graph, np.full(1, len(parts) > 0), level))
        graph.set_operands(self.name, total)

    def _affine(self, graph: Graph, gain: Array, shift: Array = _NONE) -> Op:
        channels = graph.type(self.x).shape[:1]
        zeros, ones = np.zeros(channels), np.ones(channels)
        return BatchNorm(gain * ones, shift * ones, zeros, ones, 0.0, origin=self.origin)


def line_of(graph: Graph, name: str, x: str, inside: list[str]) -> Line | None:
    """Return which line of x a node is, and add to ``inside`` the nodes that it is made of; None where it is none."""
    if name == x:
        return Line(np.ones(1), _NONE)
    op, operands = graph[name], graph.operands(name)
    if not isinstance(op, (Add, BatchNorm)):
        return None
    inside.append(name)
    lines = [line_of(graph, each, x, inside) for each in operands]
    found = [line for line in lines if line is not None]
    if len(found) < len(lines):
        return None
    gain, shift = (reduce(np.add, column) for column in zip(*found, strict=True))
    return Line(op.gain * gain, op.gain * shift + op.shift) if isinstance(op, BatchNorm) else Line(gain, shift)
