"""Norms, and softmax inside a network, in terms of means, products and functions of single numbers."""

import math
from collections.abc import Sequence

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph, Node
from spikec.ir.ops import Clamp, Head, Mask, MaxPool, Multiply, Relu, ScalarFunction, Standardize
from spikec.ir.stages import ANN
from spikec.ir.writer import MOST_AXES, Writer

#: a bound of a mean square up to here is added to it, which moves nothing that is not as small
_TINY = 1e-12
#: what cells that a mask leaves out count as, when the largest is looked for
_OUT = -4.0


@attrs.frozen
class LowerNorms(Pass):
    """What divides by a statistic of the sample is a product with one number for each group of cells, or a difference::

        standardize(x)  = d rsqrt(mean(d^2) + eps)      with d = x - mean(x)
        log_softmax(x)  = d - log(sum(exp(d)))          with d = x - max(x)
        softmax(x)      = exp(log_softmax(x))

    So exp gives numbers in [0, 1], and log takes numbers in [1, n]: ramps suit both, where a quotient of two signals
    would range over as many decades as exp(x) does. Of a softmax with a mask, cells that are left out count as a number
    that is seldom the largest, which changes nothing where it is, and are multiplied by 0 behind exp.
    """

    name = "lower-norms"
    needs = ANN

    def run(self, graph: Graph, context: Context) -> int:
        """Rewrite every norm, and every softmax that is left inside the network."""
        norms = graph.match(Standardize)
        for norm in norms:
            _standardize(Writer(graph, norm.name), norm.op)
        heads = [node for node in graph.match(Head) if node.op.along]
        for head in heads:
            _softmax(graph, head)
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


def _softmax(graph: Graph, head: Node[Head]) -> None:
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
    peak = write.expanded(_largest(write, x, axis), shape, part="largest_all")
    x = write.total(x, write.affine(peak, -1, part="largest_minus"), part="below")
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


def _largest(write: Writer, x: str, axis: int) -> str:
    """Add the largest number along an axis, which is of length 1 then."""
    shape = write.shape(x)
    if axis and len(shape) <= MOST_AXES:
        kernel = [shape[axis] if i == axis else 1 for i in range(1, len(shape))]
        return write.add(_pool(kernel), x, part="largest")
    others = [i for i in range(len(shape)) if i != axis]
    if axis:
        turned = write.permuted(x, [*others, axis], part="largest_order")
        rows = write.reshaped(turned, (math.prod(shape) // shape[axis], shape[axis]), part="largest_rows")
        found = write.add(_pool([shape[axis]]), rows, part="largest")
        return write.reshaped(found, [1 if i == axis else size for i, size in enumerate(shape)], part="largest_back")
    while (count := write.shape(x)[0]) > 1:  # a 1x1 convolution picks channels
        every, half = np.eye(count), (count + 1) // 2
        first, second = every[:half], every[count - half :]
        excess = write.mixed(x, first - second, part="largest_difference")
        excess = write.add(Relu(compares=True), excess, part="largest_excess")
        x = write.total(write.mixed(x, second, part="largest_half"), excess, part="largest")
    return x


def _pool(kernel: Sequence[int]) -> MaxPool:
    return MaxPool(kernel, kernel, [(0, 0)] * len(kernel), [1] * len(kernel))
