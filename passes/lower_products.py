"""Products of two signals become differences of squares, which are functions of single numbers."""

import math
from collections.abc import Mapping, Sequence

import attrs
import numpy as np
import torch

from spikec.extend.backend import NEURON_BUDGET
from spikec.extend.passbase import Context, Pass, rounds
from spikec.interpreter.interp import run
from spikec.ir.errors import CalibrationError, Hint, Option, UnsupportedOpError
from spikec.ir.graph import Graph, Node
from spikec.ir.op import Op
from spikec.ir.ops import AvgPool, Linear, MatMul, Multiply, ScalarFunction
from spikec.ir.stages import ANN
from spikec.ir.types import Array
from spikec.ir.writer import Writer

#: no signal's half range is below this share of its largest number
_FLOOR = 1e-3
#: ramps that a square is taken to need, before it is known how many it does
RAMPS = 8
#: calibration samples that are run at once
_BATCH = 32

#: the middle and half the range of a signal's numbers, each [C] over its axis 0
Range = tuple[Array, Array]


@attrs.frozen
class LowerProducts(Pass):
    """``x y`` with x and y first brought to one size, by the ranges [m - a, m + a] and [n - b, n + b] of each channel::

        x y = a b (((u + v)/2)^2 - ((u - v)/2)^2) + n x + m y - m n     with u = (x - m) / a, v = (y - n) / b

    (Babbage's quarter squares.) What is linear in it is exact, so a gate within [0, 1], or one that moves little, costs
    an error in proportion to how far it moves. A product of matrices of signals takes one square for each product of
    two numbers, and those of x and y alone, of which there are few::

        sum_k u_ik v_kj = (sum_k (u_ik + v_kj)^2 - sum_k u_ik^2 - sum_k v_kj^2) / 2

    The squares are left to ``lower-functions``; up to there nothing is lost.

    Attributes:
        neuron_budget: how many neurons a product of matrices may take; one that takes more is refused.
    """

    name = "lower-products"
    needs = ANN

    neuron_budget: int = attrs.field(default=NEURON_BUDGET, validator=rounds())

    def run(self, graph: Graph, context: Context) -> int:
        """Rewrite every product."""
        nodes = [node for node in graph.match(Op) if isinstance(node.op, (Multiply, MatMul))]
        problems = [problem for node in nodes if (problem := self._too_large(graph, node))]
        if problems:
            raise UnsupportedOpError(problems)
        for node in nodes:
            if isinstance(node.op, Multiply) and len(set(graph.operands(node.name))) == 1:
                graph.set_operands(node.name, graph.operands(node.name)[0])
                graph.set_op(node.name, ScalarFunction("square", origin=node.op.origin))
        products = [node for node in nodes if not isinstance(graph[node.name], ScalarFunction)]
        if not products:
            return len(nodes)
        ranges = _ranges(graph, products, context)
        for node in products:
            write = Writer(graph, node.name)
            squares = (_matmul if isinstance(node.op, MatMul) else _multiply)(write, ranges)
            context.note(node.name, f"the product of two signals is {squares:,} squares")
        return len(nodes)

    def _too_large(self, graph: Graph, node: Node[Op]) -> object:
        if not isinstance(node.op, MatMul):
            return None
        x = graph.type(graph.operands(node.name)[0]).shape
        count = math.prod(graph.type(node.name).shape) * x[-1]
        if RAMPS * count <= self.neuron_budget:
            return None
        message = (
            f"a product of two matrices of signals takes {count:,} squares, about {RAMPS * count:,} neurons, and "
            f"{self.neuron_budget:,} are allowed"
        )
        hint = Hint("allow as many: ", Option("neuron_budget", RAMPS * count))
        hint = Hint(hint, ", or only simulate it: ", Option("accumulate", True), ' for the target "spikingjelly"')
        return graph.problem(node.name, message, hint)


def _ranges(graph: Graph, nodes: Sequence[Node[Op]], context: Context) -> Mapping[str, Range]:
    """Find the middle and half the range of every operand on the calibration samples, channel by channel."""
    try:
        samples = context.samples
    except CalibrationError as error:
        samples, reason = (), error.problems[0].message
    else:
        reason = "no calibration data"
    if not samples:
        hint = Hint("pass ", Option("calibration"), ": a tensor, a DataLoader, or a Calibration of this model")
        message = f"{{}} becomes neurons by the values that it is given, and there is {reason}"
        raise CalibrationError([graph.problem(each.name, message.format(each.op.kind), hint) for each in nodes])
    names = {x for node in nodes for x in graph.operands(node.name)}
    ends: dict[str, tuple[Array, Array]] = {}

    def tap(name: str, value: torch.Tensor, *_: object) -> None:
        rows = value.detach().double().transpose(0, 1).flatten(1)
        found = rows.amin(1).cpu().numpy(), rows.amax(1).cpu().numpy()
        before = ends.get(name, found)
        ends[name] = np.minimum(before[0], found[0]), np.maximum(before[1], found[1])

    dtype = getattr(torch, graph.type(graph.inputs[0]).dtype)
    for start in range(0, len(samples[0]), _BATCH):
        run(graph, [x[start : start + _BATCH].to(dtype) for x in samples], tap=tap, nodes=names)
    ranges = {}
    for name, (low, high) in ends.items():
        largest = max(float(np.abs(low).max()), float(np.abs(high).max())) or 1.0
        ranges[name] = (low + high) / 2, np.maximum((high - low) / 2, _FLOOR * largest)
    return ranges


def _over_channels(vector: Array, rank: int, channels: int) -> Array:
    return np.broadcast_to(vector, (channels,)).reshape(-1, *(1,) * (rank - 1))


def _multiply(write: Writer, ranges: Mapping[str, Range]) -> int:
    """Write the product of two signals; return how many squares it takes."""
    shape = write.shape(write.name)
    (m, a), (n, b) = (
        [_over_channels(each, len(shape), shape[0]) for each in ranges[operand]] for operand in write.operands
    )
    full = []
    for x, part in zip(write.operands, ("left", "right"), strict=True):
        full.append(write.expanded(x, shape, part=part))
    x, y = full
    u = write.affine(x, 1 / (2 * a), -m / (2 * a), part="u")
    v = write.affine(y, 1 / (2 * b), -n / (2 * b), part="v")
    minus = write.affine(v, -1, part="minus")
    terms = [write.affine(x, n, -m * n, part="by_middle"), write.affine(y, m, part="of_middle")]
    for other, sign, part in ((v, 1, "sum"), (minus, -1, "difference")):
        square = write.add(ScalarFunction("square"), write.total(u, other, part=part), part=f"{part}_square")
        terms.append(write.affine(square, sign * a * b, part=f"{part}_part"))
    write.finish_as(write.total(*terms, part="product"))
    return 2 * math.prod(shape)


def _matmul(write: Writer, ranges: Mapping[str, Range]) -> int:
    """Write the product of two matrices of signals; return how many squares it takes."""
    shapes = [write.shape(x) for x in write.operands]
    result = write.shape(write.name)
    front, rank = result[:-2], len(result)
    (rows, inner), columns = shapes[0][-2:], shapes[1][-1]
    groups = math.prod(front)
    us, linear = [], []
    sizes = []
    for operand, shape, part in zip(write.operands, shapes, ("left", "right"), strict=True):
        middle, half = ranges[operand]
        if rank == 2:  # axis 0 is one of the matrix, and the parts are to have one range
            low, high = (middle - half).min(keepdims=True), (middle + half).max(keepdims=True)
            middle, half = (low + high) / 2, (high - low) / 2
        outer = math.prod(front[1:])
        per_group = [np.repeat(np.broadcast_to(each, (*front[:1],) or (1,)), outer) for each in (middle, half)]
        x = operand
        if shape[:-2] != front:
            x = write.expanded(x, (*front, *shape[-2:]), part=f"{part}_fronts")
        x = write.reshaped(x, (groups, *shape[-2:]), part=f"{part}_matrices")
        m, h = (each.reshape(-1, 1, 1) for each in per_group)
        sizes.append((m, h))
        us.append(write.affine(x, 1 / h, -m / h, part=f"{part}_u"))
    u, v = us
    (m, a), (n, b) = sizes
    left = write.expanded(
        write.reshaped(u, (groups, rows, inner, 1), part="left_cells"), (groups, rows, inner, columns), part="left_all"
    )
    right = write.expanded(
        write.reshaped(v, (groups, 1, inner, columns), part="right_cells"),
        (groups, rows, inner, columns),
        part="right_all",
    )
    square = write.add(ScalarFunction("square"), write.total(left, right, part="sums"), part="squares")
    window = (1, inner, 1)
    mean = write.add(AvgPool(window, window, (0, 0, 0)), square, part="mean")
    mean = write.reshaped(mean, (groups, rows, columns), part="sum")
    linear.append(write.affine(mean, inner * a * b / 2, part="sum_part"))
    # what one operand alone gives is the same in each column, or row
    of_u = [write.affine(write.add(ScalarFunction("square"), u, part="left_squares"), -a * b / 2, part="left_part")]
    of_u.append(write.affine(u, a * n, part="left_linear"))
    own = write.total(*of_u, part="left_own")
    linear.append(write.add(Linear(np.ones((columns, inner))), own, part="left_total"))
    of_v = [write.affine(write.add(ScalarFunction("square"), v, part="right_squares"), -a * b / 2, part="right_part")]
    of_v.append(write.affine(v, b * m, inner and m * n, part="right_linear"))
    own = write.permuted(write.total(*of_v, part="right_own"), (0, 2, 1), part="right_turned")
    total = write.add(Linear(np.ones((rows, inner))), own, part="right_total")
    linear.append(write.permuted(total, (0, 2, 1), part="right_back"))
    write.finish_as(write.reshaped(write.total(*linear, part="product"), result, part="whole"))
    return groups * inner * (rows * columns + rows + columns)
