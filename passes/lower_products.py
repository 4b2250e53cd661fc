"""Products of two signals become differences of squares, which are functions of single numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs
import numpy as np
import torch

from spikec.calibration.calibration import MOMENTS
from spikec.extend.backend import NEURON_BUDGET
from spikec.extend.operands import on_samples
from spikec.extend.passbase import Context, Pass
from spikec.ir.errors import CalibrationError, Hint, Option, Problem, UnsupportedOpError
from spikec.ir.graph import Graph, Node
from spikec.ir.op import Op
from spikec.ir.ops import AvgPool, Linear, MatMul, Multiply, ScalarFunction
from spikec.ir.stages import ANN
from spikec.ir.types import Array
from spikec.ir.writer import Writer

#: no deviation is below this share of the signal's largest root mean square
_FLOOR = 1e-3
#: ramps that a square is taken to need, before it is known how many it does
RAMPS = 16
_SIDES = ("left", "right")

#: the mean and the deviation of a signal's numbers, each [C] over its axis 0
Moments = tuple[Array, Array]


@attrs.frozen
class LowerProducts(Pass):
    """``x y`` with x and y first brought to one size, by the mean m, n and the deviation a, b of each channel::

        x y = a b (((u + v)/2)^2 - ((u - v)/2)^2) + n x + m y - m n     with u = (x - m) / a, v = (y - n) / b

    (Babbage's quarter squares.) What is linear in it is exact, so a gate within [0, 1], or one that moves little, costs
    an error in proportion to how far it moves. A product of matrices of signals takes one square for each product of
    two numbers, and those of x and y alone, of which there are few::

        sum_k u_ik v_kj = (sum_k (u_ik + v_kj)^2 - sum_k u_ik^2 - sum_k v_kj^2) / 2

    The squares are left to ``lower-functions``; up to there nothing is lost but digits, where a number is many times as
    large as the deviation.

    Attributes:
        neuron_budget: how many neurons a product of matrices may take; one that takes more is refused. 0 for a target
            that has not the shapes that its squares take.
    """

    name = "lower-products"
    contract = "approximate"
    needs = ANN

    neuron_budget: int = attrs.field(default=NEURON_BUDGET, validator=attrs.validators.ge(0))

    def run(self, graph: Graph, context: Context) -> int:
        """Rewrite every product."""
        nodes = [Node(name, op) for name in graph if isinstance(op := graph[name], (Multiply, MatMul))]
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
        moments = _moments(graph, products, context)
        for node in products:
            write = Writer(graph, node.name)
            own = [moments[node.name, slot] for slot in range(2)]
            squares = (_matmul if isinstance(node.op, MatMul) else _multiply)(write, own)
            context.note(node.name, f"the product of two signals is {squares:,} squares")
        return len(nodes)

    def _too_large(self, graph: Graph, node: Node[Op]) -> Problem | None:
        if not isinstance(node.op, MatMul):
            return None
        x = graph.type(graph.operands(node.name)[0]).shape
        count = math.prod(graph.type(node.name).shape) * x[-1]
        if RAMPS * count <= self.neuron_budget:
            return None
        taken = f"a product of two matrices of signals takes {count:,} squares, about {RAMPS * count:,} neurons"
        more = Hint("allow as many: ", Option("neuron_budget", RAMPS * count))
        accumulate = Hint("simulate it without neurons: ", Option("accumulate", True))
        if self.neuron_budget:
            message = f"{taken}, and {self.neuron_budget:,} are allowed"
            hint = Hint(more, ", or ", accumulate, ', both of the target "spikingjelly"')
        else:
            message = f"{taken}, in shapes that the target has not"
            if RAMPS * count > NEURON_BUDGET:
                there = Hint('use the target "spikingjelly" (', more, ")")
            else:
                there = Hint("use ", Option("profile", "full"), ' of the target "nir", or the target "spikingjelly"')
            hint = Hint(there, ", or ", accumulate, " there")
        return graph.problem(node.name, message, hint)


def _moments(graph: Graph, nodes: Sequence[Node[Op]], context: Context) -> Mapping[tuple[str, int], Moments]:
    """Find the mean and the deviation of every operand on the calibration samples, channel by channel.

    They are saved with statistics, for which the network must become the same again.

    Raises:
        CalibrationError: there are none; it names every product.
    """
    sums: dict[str, tuple[int, Array, Array]] = {}

    def look(name: str, value: torch.Tensor) -> None:
        rows = value.double().transpose(0, 1).flatten(1)
        count, total, power = sums.get(name, (0, 0, 0))
        total, power = total + rows.sum(1).cpu().numpy(), power + rows.square().sum(1).cpu().numpy()
        sums[name] = count + rows.shape[1], total, power

    def moments() -> dict[str, Array]:
        on_samples(graph, nodes, context, look)
        return {
            name + MOMENTS: np.stack(_guarded(total / count, power / count))
            for name, (count, total, power) in sums.items()
        }

    slots = [(node.name, slot, x) for node in nodes for slot, x in enumerate(graph.operands(node.name))]
    found = context.calibration.kept({x + MOMENTS for *_, x in slots}, moments)
    for name, _, x in slots:
        if found[x + MOMENTS].shape != (2, graph.type(x).shape[0]):
            hint = "give the calibration of a Compilation of this model"
            raise CalibrationError(graph.problem(name, "the calibration given is of another model", hint))
    return {(name, slot): (found[x + MOMENTS][0], found[x + MOMENTS][1]) for name, slot, x in slots}


def _guarded(mean: Array, power: Array) -> Moments:
    """Return mean and deviation, no deviation below a share of the largest root mean square."""
    least = _FLOOR * (float(np.sqrt(power.max())) or 1.0)
    return mean, np.maximum(np.sqrt(np.maximum(power - mean**2, 0)), least)


def _multiply(write: Writer, moments: Sequence[Moments]) -> int:
    """Write the product of two signals; return how many squares it takes."""
    shape = write.shape(write.name)
    (m, a), (n, b) = ([_along_channels(each, shape) for each in pair] for pair in moments)
    x, y = (write.expanded(each, shape, part=part) for each, part in zip(write.operands, _SIDES, strict=True))
    u = write.affine(x, 1 / (2 * a), -m / (2 * a), part="left_unit")
    v = write.affine(y, 1 / (2 * b), -n / (2 * b), part="right_unit")
    minus = write.affine(v, -1, part="right_minus")
    terms = [write.affine(x, n, -m * n, part="left_part"), write.affine(y, m, part="right_part")]
    for other, sign, part in ((v, 1, "sum"), (minus, -1, "difference")):
        square = write.add(ScalarFunction("square"), write.total(u, other, part=part), part=f"{part}_square")
        terms.append(write.affine(square, sign * a * b, part=f"{part}_part"))
    write.finish_as(write.total(*terms, part="product"))
    return 2 * math.prod(shape)


def _along_channels(vector: Array, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(vector, shape[:1]).reshape(-1, *(1,) * (len(shape) - 1))


@attrs.frozen
class _Matrices:
    """One operand of a product of matrices, all axes in front of them being one.

    Attributes:
        unit: the signal less its mean, over its deviation: [groups, rows, columns].
        mean, size: [groups, 1, 1].
    """

    unit: str
    mean: Array
    size: Array

    @classmethod
    def of(cls, write: Writer, operand: str, front: tuple[int, ...], found: Moments, part: str) -> _Matrices:
        """Write it for axes in front of the matrices that have this shape."""
        shape, (mean, size) = write.shape(operand), found
        if not front:  # axis 0 is one of the matrix, whose cells are to have one size
            power, mean = (size**2 + mean**2).mean(keepdims=True), mean.mean(keepdims=True)
            size = np.sqrt(power - mean**2)
        groups = math.prod(front)
        own = (np.repeat(np.broadcast_to(x, front[:1] or (1,)), math.prod(front[1:])) for x in (mean, size))
        m, a = (np.reshape(each, (groups, 1, 1)) for each in own)
        x = write.expanded(operand, (*front, *shape[-2:]), part=f"{part}_all")
        x = write.reshaped(x, (groups, *shape[-2:]), part=f"{part}_matrices")
        return cls(write.affine(x, 1 / a, -m / a, part=f"{part}_unit"), m, a)

    def alone(self, write: Writer, other: _Matrices, constant: Array | float, part: str) -> str:
        """Write what it adds to each of the products of two numbers by itself: ``a n u - a b u^2 / 2``."""
        square = write.add(ScalarFunction("square"), self.unit, part=f"{part}_squares")
        parts = write.affine(square, -self.size * other.size / 2, part=f"{part}_square_part")
        linear = write.affine(self.unit, self.size * other.mean, constant, part=f"{part}_part")
        return write.total(parts, linear, part=f"{part}_alone")


def _matmul(write: Writer, moments: Sequence[Moments]) -> int:
    """Write the product of two matrices of signals; return how many squares it takes."""
    result = write.shape(write.name)
    x, y = (
        _Matrices.of(write, operand, result[:-2], found, part)
        for operand, found, part in zip(write.operands, moments, _SIDES, strict=True)
    )
    groups, rows, inner = write.shape(x.unit)
    columns = write.shape(y.unit)[-1]
    cells = (groups, rows, inner, columns)
    u = write.expanded(write.reshaped(x.unit, (*cells[:3], 1), part="left_cells"), cells, part="left_pairs")
    v = write.reshaped(y.unit, (groups, 1, inner, columns), part="right_cells")
    v = write.expanded(v, cells, part="right_pairs")
    square = write.add(ScalarFunction("square"), write.total(u, v, part="sums"), part="squares")
    mean = write.add(AvgPool((1, inner, 1), (1, inner, 1), (0, 0, 0)), square, part="mean")
    pairs = write.reshaped(mean, (groups, rows, columns), part="pairs")
    pairs = write.affine(pairs, inner * x.size * y.size / 2, part="pairs_part")
    # what one operand adds alone is the same in each column, or in each row
    left = write.add(Linear(np.ones((columns, inner))), x.alone(write, y, 0.0, "left"), part="left_sums")
    turned = write.permuted(y.alone(write, x, x.mean * y.mean, "right"), (0, 2, 1), part="right_turned")
    right = write.permuted(
        write.add(Linear(np.ones((rows, inner))), turned, part="right_sums"), (0, 2, 1), part="right_back"
    )
    write.finish_as(write.reshaped(write.total(pairs, left, right, part="product"), result, part="whole"))
    return groups * inner * (rows * columns + rows + columns)
