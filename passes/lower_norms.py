"""Norms, and softmax inside a network, in terms of means, products and functions of single numbers."""

import attrs

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph, Node
from spikec.ir.ops import Clamp, Head, Mask, Multiply, ScalarFunction, Standardize
from spikec.ir.stages import ANN
from spikec.ir.writer import Writer

#: a bound of a mean square up to here is added to it, which moves nothing that is not as small
_TINY = 1e-12


@attrs.frozen
class LowerNorms(Pass):
    """What divides by a statistic of the sample is a product with one number for each group of cells::

        standardize(x)  = d rsqrt(mean(d^2) + eps)      with d = x - mean(x)
        softmax(x)      = e reciprocal(sum(e))          with e = exp(x - mean(x))
        log_softmax(x)  = d - log(sum(exp(d)))

    The mean that is taken off in front of exp changes nothing, but the numbers are small then. In front of a softmax
    with a mask nothing is taken off, and cells that are left out are multiplied by 0 behind exp.
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
    if keep is None:
        mean = write.expanded(write.mean(x, (axis,), part="mean"), shape, part="means")
        x = write.total(x, write.affine(mean, -1, part="minus"), part="centred")
    else:
        x = write.affine(x, keep != 0, part="kept")
    powers = write.add(ScalarFunction("exp"), x, part="exp")
    if keep is not None:
        powers = write.affine(powers, keep != 0, part="left")
    total = write.affine(write.mean(powers, (axis,), part="mean"), shape[axis], part="sum")
    if head.op.function == "log_softmax":
        log = write.add(ScalarFunction("log"), total, part="log")
        less = write.affine(write.expanded(log, shape, part="logs"), -1, part="less")
        write.finish_as(write.total(x, less, part="result"))
    else:
        write.finish(Multiply(), powers, write.add(ScalarFunction("reciprocal"), total, part="share"))
    if masked:
        graph.remove_dead(masked)
