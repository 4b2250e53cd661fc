"""Every shape becomes a number."""

import attrs

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.ops import Flatten, Reshape
from spikec.ir.stages import ANN, RECEIVED


@attrs.frozen
class InferTypes(Pass):
    """Infer all types; a reshape's -1 becomes a size, and a reshape of everything into one axis a flatten.

    A reshape or flatten that changes nothing disappears.
    """

    name = "infer-types"
    needs = (*ANN, RECEIVED)

    def run(self, graph: Graph, context: Context) -> int:
        """Rewrite the ops whose result depends on the operand's shape."""
        changes = 0
        for node in [*graph.match(Reshape), *graph.match(Flatten)]:
            before, after = graph.type(graph.operands(node.name)[0]).shape, graph.type(node.name).shape
            op = node.op
            if before == after:
                graph.bypass(node.name, "does not change the shape")
            elif isinstance(op, Reshape) and len(after) == 1:
                graph.set_op(node.name, Flatten(origin=op.origin))
            elif isinstance(op, Reshape) and op.shape != after:
                graph.set_op(node.name, attrs.evolve(op, shape=after))
            else:
                continue
            changes += 1
        return changes
