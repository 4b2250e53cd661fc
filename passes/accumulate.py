"""What multiplies signals or divides by statistics of them is carried without neurons, for simulation only."""

import attrs

from spikec.extend.passbase import Context, Pass
from spikec.ir.errors import Hint, Option
from spikec.ir.graph import Graph
from spikec.ir.op import Op
from spikec.ir.ops import Carried, Head, Mask, MatMul, Multiply, Standardize
from spikec.ir.origin import merge
from spikec.ir.stages import ANN


@attrs.frozen
class Accumulate(Pass):
    """Products of two signals, norms, and softmax inside the network become ops that are carried.

    In the spiking network each gives the running difference of what it would give for the means of its operands, see
    :class:`spikec.ir.ops.RunningDifference`. A mask becomes part of the softmax behind it.

    """

    name = "accumulate"
    needs = ANN

    def run(self, graph: Graph, context: Context) -> int:
        """Wrap each such op."""
        nodes = [node for node in graph.match(Op) if _is_carried(node.op)]
        for node in nodes:
            ops: tuple[Op, ...] = (node.op,)
            operands = graph.operands(node.name)
            first = operands[0]
            if isinstance(mask := graph[first], Mask):
                ops, operands = (mask, node.op), graph.operands(first)
            graph.set_operands(node.name, *operands)
            origin = node.op.origin if len(ops) == 1 else merge(node.op.origin, ops[0].origin)
            bare: list[Op] = [attrs.evolve(op, origin=()) for op in ops]
            graph.set_op(node.name, Carried(bare, origin=origin))
            if len(ops) > 1:
                graph.remove_dead(first)
        if nodes:
            context.warn(
                Hint(
                    f"{len(nodes)} products, norms and softmax are carried as running differences, which are no "
                    "spikes: the network is for simulation only, because of ",
                    Option("accumulate", True),
                )
            )
        return len(nodes)


def _is_carried(op: Op) -> bool:
    return isinstance(op, (Multiply, MatMul, Standardize)) or (isinstance(op, Head) and op.along)
