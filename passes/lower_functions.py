"""Smooth functions become sums of clipped ramps, each of which one integrate-and-fire neuron computes."""

import math
from collections.abc import Sequence

import attrs
import numpy as np

from spikec.calibration.ramps import Ramps, fitted
from spikec.extend.passbase import Context, Pass, number
from spikec.ir.errors import CalibrationError, InvalidModelError, UnsupportedOpError
from spikec.ir.graph import Graph, Node
from spikec.ir.ops import Curve, Head, Relu
from spikec.ir.ops.weighted import pointwise
from spikec.ir.stages import ANN
from spikec.ir.types import Array, span


@attrs.frozen
class LowerFunctions(Pass):
    """``f(x)`` becomes an affine op, a ReLU with cap 1, and an affine op::

        f(x) = offset + sum over k of height_k relu(gain_k x + shift_k, 1)

    The ramps are fitted to the values that x has on the calibration data, by least squares: as few as are within the
    tolerance, the same ones for all numbers of a signal. Where f is flat beyond these values, or its domain ends, so is
    the sum; elsewhere the outer ramp is twice as long as the range, and normalize cuts it to what it sees.

    Attributes:
        tolerance: allowed root mean square of the error on the calibration data, over the standard deviation of f(x);
            that is no more than its root mean square, and what f(x) is on average costs no neuron.
    """

    name = "lower-functions"
    contract = "approximate"
    needs = ANN

    tolerance: float = attrs.field(default=0.01, validator=number(1e-6, 1.0))

    def run(self, graph: Graph, context: Context) -> int:
        """Replace every function of single numbers, those of heads that are used within the network too."""
        heads = [Node(node.name, op) for node in graph.match(Head) if (op := node.op.scalar) is not None]
        nodes: list[Node[Curve]] = [*graph.match(Curve), *heads]
        if not nodes:
            return 0
        operands = {node.name: graph.operands(node.name)[0] for node in nodes}
        try:
            values = context.values(graph, set(operands.values()))
        except CalibrationError as error:
            raise _without_data(graph, nodes, error) from None
        for node in nodes:
            ramps = self._ramps(graph, node, values[operands[node.name]])
            context.note(node.name, _replace(graph, node, ramps))
        return len(nodes)

    def _ramps(self, graph: Graph, node: Node[Curve], values: Array) -> Ramps:
        """Fit ramps to one function.

        Raises:
            InvalidModelError: it is not finite on the values.
        """
        low, high = float(values[0]), float(values[-1])
        op = node.op
        finite = np.isfinite(op.on_arrays(np.linspace(low, high, 3))).all()
        if not finite or (op.pole is not None and low <= op.pole <= high):
            message = f"{op} of values in {span(values)} is not finite on the calibration data"
            hint = "keep its operand within its domain, by a clamp or by adding an eps"
            raise InvalidModelError(graph.problem(node.name, message, hint))
        sides = zip(op.asymptotes(), op.domain, strict=True)
        left, right = (math.isinf(end) and (line is None or line[0] != 0) for line, end in sides)
        return fitted(op.on_arrays, values, self.tolerance, (left, right))


def _replace(graph: Graph, node: Node[Curve], ramps: Ramps) -> str:
    """Write the ramps in a node's place; return what they cost and how near they are."""
    (x,), shape = graph.operands(node.name), graph.type(node.name).shape
    rank, count, origin = len(shape), len(ramps.gain), node.op.origin
    if not 1 <= rank <= 4:
        message = f"{node.op} of samples of shape {shape} has no spiking form"
        raise UnsupportedOpError(graph.problem(node.name, message, "use samples with 1 to 4 axes"))
    channels = shape[0]
    offset = np.full(channels, ramps.offset)
    if count:
        gains, shifts = np.tile(ramps.gain, channels)[:, None], np.tile(ramps.shift, channels)
        spread = pointwise(gains, shifts, rank, channels, origin=origin)
        x = graph.add(spread, x, name=f"{node.name}_spread")
        x = graph.add(Relu(1.0, origin=origin), x, name=f"{node.name}_ramps")
        bias = offset if ramps.offset else None
        total = pointwise(np.tile(ramps.height, (channels, 1)), bias, rank, channels, origin=origin)
    else:
        total = pointwise(np.zeros((channels, 1)), offset, rank, channels, origin=origin)
    graph.set_op(node.name, total)
    graph.set_operands(node.name, x)
    neurons = math.prod(shape) * count
    return (
        f"{node.op} is {count} ramps over [{ramps.low:.3g}, {ramps.high:.3g}], "
        f"{100 * ramps.error:.2g} % of its spread off: {neurons:,} neurons"
    )


def _without_data(graph: Graph, nodes: Sequence[Node[Curve]], error: CalibrationError) -> CalibrationError:
    """Say of every function that it needs calibration data; the first hint says what to give."""
    hint = error.problems[0].hint
    return CalibrationError(
        [
            graph.problem(
                node.name, f"{node.op} becomes neurons by the values that it is given, and there is {reason}", hint
            )
            for node in nodes
            for reason in (error.problems[0].message,)
        ]
    )
