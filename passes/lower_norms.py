"""Norms, and softmax inside a network, in terms of means, products and functions of single numbers."""

import math
from collections.abc import Sequence

import attrs
import numpy as np
import torch

from spikec.extend.operands import on_samples
from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph, Node
from spikec.ir.ops import Clamp, Head, Mask, MaxPool, Multiply, Relu, ScalarFunction, Standardize
from spikec.ir.ops.weighted import pointwise
from spikec.ir.stages import ANN
from spikec.ir.types import Array
from spikec.ir.writer import MOST_AXES, Writer

#: a bound of a mean square up to here is added to it, which moves nothing that is not as small
_TINY = 1e-12
#: what cells that a mask leaves out count as, when the largest is looked for
_OUT = -4.0
#: at most so many levels stand for the largest numbers along an axis
_MOST_LEVELS = 64


@attrs.frozen
class LowerNorms(Pass):
    """What divides by a statistic of the sample is a product with one number for each group of cells, or a difference::

        standardize(x)  = d rsqrt(mean(d^2) + eps)      with d = x - mean(x)
        log_softmax(x)  = d - log(sum(exp(d)))          with d = x - c, for any c: max(x), or a step more
        softmax(x)      = exp(log_softmax(x))

    So exp gives numbers in [0, 1], and log takes numbers in [1, n]: ramps suit both, where a quotient of two signals
    would range over as many decades as exp(x) does. Where no pool counts spikes, each x is held against levels from the
    least to the largest maximum on the calibration samples and a quarter beyond, at most 64 and at least 1 apart; c is
    the lowest one and a step more for each that any x exceeds, in part for the last of them. That is two layers of
    neurons, most of which fire always or never; in a tournament the errors of each round go into the next. Where a
    maximum lies beyond all levels, neurons clip exp(d), and shares need not sum to 1. Of a softmax with a mask, cells
    that are left out count as a number that is seldom the largest, which changes nothing where it is, and are
    multiplied by 0 behind exp.

    Attributes:
        counters: whether the target has max-pools that count spikes, which are nearer to the maximum.
    """

    name = "lower-norms"
    needs = ANN

    counters: bool = False

    def run(self, graph: Graph, context: Context) -> int:
        """Rewrite every norm, and every softmax that is left inside the network."""
        norms = graph.match(Standardize)
        for norm in norms:
            _standardize(Writer(graph, norm.name), norm.op)
        heads = [node for node in graph.match(Head) if node.op.along]
        levels = _levels(graph, [head for head in heads if not (self.counters and head.op.axis)], context)
        for head in heads:
            _softmax(graph, head, levels.get(head.name))
        return len(norms) + len(heads)


def _standardize(write: Writer, op: Standardize) -> None:
    (x,) = write.operands
    shape = write.shape(x)
    if op.centred:
        mean = write.expanded(write.mean(x, op.axes, op.groups, part="mean"), shape, part="means")
        x = write.total(x, write.affine(mean, -1, part="minus"), part="centred")
    squares = write.add(ScalarFunction("square"), x, part="squares")
    power = write.mean(squares, op.axes, op.groups, part="power")
    gain = op.count(shape) if op.total else 1.0
    bounded = op.least > _TINY
    power = write.affine(power, gain, 0.0 if bounded else op.eps + op.least, part="scaled")
    if bounded:
        power = write.add(Clamp(op.least, None), power, part="bounded")
        power = write.affine(power, 1.0, op.eps, part="shifted")
    root = write.add(ScalarFunction("rsqrt"), power, part="inverse")
    if op.groups > 1:
        root = write.expanded(root, (shape[0], *write.shape(root)[1:]), part="inverses")
    write.finish(Multiply(), x, root)


def _levels(graph: Graph, heads: Sequence[Node[Head]], context: Context) -> dict[str, Array]:
    """Return levels from the least to the largest maximum that each softmax takes on the calibration samples."""
    names = {f"{head.name}_largest": head for head in heads}
    tops: dict[str, list[float]] = {name: [] for name in names}

    def look(operand: str, value: torch.Tensor) -> None:
        for name, head in names.items():
            if graph.operands(head.name) == (operand,):
                x = (-value if head.op.function == "softmin" else value).nan_to_num(neginf=_OUT)
                largest = x.amax(head.op.axis % (x.ndim - 1) + 1)
                tops[name] += [float(largest.min()), float(largest.max())]

    def ranges() -> dict[str, Array]:
        on_samples(graph, heads, context, look)
        return {name: np.array([min(found), max(found)]) for name, found in tops.items()}

    found = context.calibration.kept(names, ranges)
    return {head.name: _between(found[name][0], found[name][-1]) for name, head in names.items()}


def _between(low: float, high: float) -> Array:
    """Return levels at multiples of 1, 2, 4, ... for this range and a quarter more on both sides.

    A level beyond what the data shows is of neurons that always or never fire on it.
    """
    low, high = low - (high - low) / 4, high + (high - low) / 4
    step = 2.0 ** max(0, math.ceil(math.log2(max(high - low, 1.0) / _MOST_LEVELS)))
    first = math.floor(low / step)
    return step * np.arange(first, max(math.ceil(high / step), first + 2))


def _softmax(graph: Graph, head: Node[Head], levels: Array | None) -> None:
    (x,) = graph.operands(head.name)
    keep, masked = None, ""
    if isinstance(mask := graph[x], Mask):
        keep, masked = mask.keep, x
        (x,) = graph.operands(x)
    write = Writer(graph, head.name, *([masked] if masked else []))
    shape = write.shape(x)
    axis = head.op.axis % len(shape)
    if head.op.function == "softmin":
        x = write.affine(x, -1, part="minus")
    if keep is not None:
        x = write.affine(x, keep != 0, np.where(keep != 0, 0.0, _OUT), part="kept")
    bound = _along_last(write, x, axis, levels)
    x = write.total(x, write.affine(write.expanded(bound, shape, part="bounds"), -1, part="bound_minus"), part="below")
    powers = write.add(ScalarFunction("exp"), x, part="exp")
    if keep is not None:
        powers = write.affine(powers, keep != 0, part="left")
    total = write.affine(write.mean(powers, (axis,), part="mean"), shape[axis], part="sum")
    log = write.add(ScalarFunction("log"), total, part="log")
    less = write.affine(write.expanded(log, shape, part="logs"), -1, part="less")
    x = write.total(x, less, part="logarithm")
    if head.op.function != "log_softmax":
        x = write.add(ScalarFunction("exp"), x, part="share")
        x = x if keep is None else write.affine(x, keep != 0, part="share_left")
    write.finish_as(x)
    if masked:
        graph.remove_dead(masked)


def _along_last(write: Writer, x: str, axis: int, levels: Array | None) -> str:
    """Add a bound of the numbers along an axis, which is of length 1 then; of many axes, as a matrix of rows."""
    shape = write.shape(x)
    if len(shape) <= MOST_AXES:
        return _bound(write, x, axis, levels)
    others = [i for i in range(len(shape)) if i != axis]
    turned = write.permuted(x, [*others, axis], part="bound_order")
    rows = write.reshaped(turned, (math.prod(shape) // shape[axis], shape[axis]), part="bound_rows")
    found = _bound(write, rows, 1, levels)
    return write.reshaped(found, [1 if i == axis else size for i, size in enumerate(shape)], part="bound_back")


def _bound(write: Writer, x: str, axis: int, levels: Array | None) -> str:
    """Add the largest number along an axis, or up to a step between levels more."""
    shape = write.shape(x)
    rank, channels, length = len(shape), shape[0], shape[axis]
    if levels is None:
        kernel = [length if i == axis else 1 for i in range(1, rank)]
        return write.add(MaxPool(kernel, kernel, [(0, 0)] * (rank - 1), [1] * (rank - 1)), x, part="largest")
    step, count = float(levels[1] - levels[0]), len(levels)
    gains, shifts = np.full((channels * count, 1), 1 / step), np.tile(-levels / step, channels)
    x = write.add(pointwise(gains, shifts, rank, channels), x, part="over")
    x = write.add(Relu(1.0), x, part="reached")
    if axis:
        x, groups = write.affine(write.mean(x, (axis,), part="share"), length, part="reaching"), channels
    else:
        x, groups = write.mixed(x, np.tile(np.eye(count), channels), part="reaching"), 1
    x = write.add(Relu(1.0), x, part="any")
    total = pointwise(np.full((groups, count), step), np.full(groups, levels[0]), rank, groups)
    return write.add(total, x, part="bound")
