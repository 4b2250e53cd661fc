"""What a classifier ends in stays outside the spiking network."""

import attrs

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.ops import Head, Output
from spikec.ir.origin import merge
from spikec.ir.stages import ANN


@attrs.frozen
class DetachHead(Pass):
    """Softmax, sigmoid and their like in front of an output become the output's own ``heads``.

    The spiking network puts out what stands before them (its argmax is the same), and they are applied to its
    time-average. One that other layers use as well is left, and refused later.
    """

    name = "detach-head"
    needs = ANN

    def run(self, graph: Graph, context: Context) -> int:
        """Move the heads in front of every output into it, the last one first."""
        changes = 0
        for node in graph.match(Output):
            while isinstance(head := graph[graph.operands(node.name)[0]], Head):
                (name,) = graph.operands(node.name)
                output = graph.get(node.name, Output)
                if {user for user, _ in graph.users(name)} - set(graph.outputs):
                    context.note(name, f"{head.function} is used inside the network too")
                    break
                moved = attrs.evolve(output, heads=(head, *output.heads), origin=merge(output.origin, head.origin))
                graph.set_op(node.name, moved)
                graph.set_operands(node.name, graph.operands(name)[0])
                if not graph.users(name):
                    graph.remove(name)
                context.warn(
                    f"{head.function} is kept outside the network: the output is what stands before it; "
                    f"apply it to the average over time",
                    node.name,
                )
                changes += 1
        return changes
