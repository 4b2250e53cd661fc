"""Every piecewise linear activation becomes sums of one spelling, the clipped ReLU."""

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.affine import Affine, BlockedError
from spikec.ir.errors import UnsupportedOpError
from spikec.ir.graph import Graph, Node
from spikec.ir.op import Op
from spikec.ir.ops import Add, Clamp, LeakyRelu, Maximum, Minimum, Relu
from spikec.ir.ops.weighted import diagonal
from spikec.ir.origin import merge
from spikec.ir.rewrite import rewrite
from spikec.ir.stages import ANN


@attrs.frozen
class CanonicalizeActivations(Pass):
    """Clamps, leaky ReLUs, maxima and minima in terms of ``relu(x, cap) = min(max(x, 0), cap)``::

        clamp(x, 0, k)    = relu(x, k)
        clamp(x, -j, k)   = relu(x, k) - relu(-x, j)
        clamp(x, l, h)    = l + relu(x - l, h - l)       if both bounds have one sign
        clamp(x, -, h)    = h - relu(h - x)              and relu(x, h) behind a ReLU
        leakyrelu(x, a)   = relu(x) - a relu(-x)         and relu(x) where a is 0
        max(a, b)         = b + relu(a - b)
        min(a, b)         = a - relu(a - b)

    Two ReLUs in a row become one.
    """

    name = "canonicalize-activations"
    needs = ANN

    def run(self, graph: Graph, context: Context) -> int:
        """Rewrite all activations of each kind, then join pairs of ReLUs."""
        changes = 0
        for kind, lower in _LOWERED.items():
            for node in graph.match(kind):
                lower(_Writer(graph, node))
                changes += 1

        def join(first: Node[Any], second: Node[Any]) -> bool:
            caps = [op.cap for op in (first.op, second.op) if op.cap is not None]
            origin = merge(first.op.origin, second.op.origin)
            joined = Relu(min(caps, default=None), levels=first.op.levels or second.op.levels, origin=origin)
            graph.set_op(second.name, joined)
            graph.bypass(first.name)
            return True

        return changes + rewrite(graph, (Relu, Relu), join)


class _Writer:
    """Writes several ops in the place of one node. Each is named after it; the last takes its name and its users."""

    def __init__(self, graph: Graph, node: Node[Any]) -> None:
        self.graph, self.name, self.op = graph, node.name, node.op
        self.operands = graph.operands(node.name)
        self.rank = len(graph.type(node.name).shape)

    def affine(self, x: str, gain: Any, shift: float, part: str) -> str:
        """Add ``gain x + shift``; the gain is a number, or one for each channel."""
        return self.add(self._diagonal(gain, shift), x, part=part)

    def relu(self, x: str, cap: float | None, part: str) -> str:
        """Add ``min(max(x, 0), cap)``."""
        return self.add(Relu(cap), x, part=part)

    def add(self, op: Op, *operands: str, part: str) -> str:
        """Add an op that has the node's origin; ``part`` is the end of its name."""
        return self.graph.add(attrs.evolve(op, origin=self.op.origin), *operands, name=f"{self.name}_{part}")

    def finish(self, op: Op, *operands: str) -> None:
        """Put the op that gives the node's result in its place."""
        self.graph.set_op(self.name, attrs.evolve(op, origin=self.op.origin))
        self.graph.set_operands(self.name, *operands)

    def finish_affine(self, x: str, gain: float, shift: float) -> None:
        """Let the node's result be ``gain x + shift``."""
        self.finish(self._diagonal(gain, shift), x)

    def _diagonal(self, gain: Any, shift: float) -> Op:
        shape = self.graph.type(self.name).shape
        if not 1 <= self.rank <= 4:
            message = f"{self.op.kind} of samples of shape {shape} has no spiking form"
            raise UnsupportedOpError(self.graph.problem(self.name, message, "use samples with 1 to 4 axes"))
        gains = np.asarray(gain, np.float64)
        if gains.ndim > 1:
            try:
                gains, _ = Affine.scaling(gains.reshape((1,) * (self.rank - gains.ndim) + gains.shape)).in_channels()
            except BlockedError:
                message = f"the parameter of {self.op.kind} differs within a channel"
                problem = self.graph.problem(self.name, message, "use one number, or one a channel")
                raise UnsupportedOpError(problem) from None
        return diagonal(np.broadcast_to(gains, shape[:1]), np.full(shape[0], shift) if shift else None, self.rank)


def _clamp(write: _Writer) -> None:
    low, high = write.op.low, write.op.high
    (x,) = write.operands
    if low is not None and high is not None and low >= high:
        problem = write.graph.problem(write.name, f"clamp({low:g}, {high:g}) is constant", "give min below max")
        raise UnsupportedOpError(problem)
    if low == 0 or (low is None and isinstance(write.graph[x], Relu) and high > 0):
        write.finish(Relu(high), x)
    elif low is None:
        above = write.relu(write.affine(x, -1, high, "below"), None, "excess")
        write.finish_affine(above, -1, high)
    elif high is not None and low < 0 < high:
        positive = write.relu(x, high, "positive")
        negative = write.relu(write.affine(x, -1, 0, "minus"), -low, "negative")
        write.finish(Add(), positive, write.affine(negative, -1, 0, "negated"))
    else:
        cap = None if high is None else high - low
        write.finish_affine(write.relu(write.affine(x, 1, -low, "above"), cap, "excess"), 1, low)


def _leaky(write: _Writer) -> None:
    (x,) = write.operands
    if not np.any(write.op.slope):
        write.finish(Relu(), x)
        return
    positive = write.relu(x, None, "positive")
    negative = write.relu(write.affine(x, -1, 0, "minus"), None, "negative")
    write.finish(Add(), positive, write.affine(negative, -write.op.slope, 0, "sloped"))


def _excess(write: _Writer) -> str:
    """Add ``relu(a - b)`` for the node's operands a and b."""
    a, b = write.operands
    return write.relu(write.add(Add(), a, write.affine(b, -1, 0, "minus"), part="difference"), None, "excess")


def _maximum(write: _Writer) -> None:
    write.finish(Add(), write.operands[1], _excess(write))


def _minimum(write: _Writer) -> None:
    write.finish(Add(), write.operands[0], write.affine(_excess(write), -1, 0, "negated"))


_LOWERED: dict[type[Op], Callable[[_Writer], None]] = {
    Clamp: _clamp,
    LeakyRelu: _leaky,
    Maximum: _maximum,
    Minimum: _minimum,
}
