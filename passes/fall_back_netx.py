"""The network that stock netx reads in a file whose convolutions have soft reset."""

import attrs

from spikec.extend.passbase import Context, Pass
from spikec.ir.errors import UnsupportedOpError
from spikec.ir.graph import Graph, Node
from spikec.ir.ops import Conv, Neuron
from spikec.ir.rewrite import before_shapes
from spikec.ir.stages import FINAL


@attrs.frozen
class FallBackNetx(Pass):
    """Where convolutions have soft reset, which only our loader gives them, make the same network without it beside.

    The passes run on a copy, which the target writes into the same file: stock netx reads that, and our loader this.
    The graph itself stays. A spiking model has no such copy, for there is no ANN to tune it to.

    Attributes:
        passes: what makes the copy, from here on.
    """

    name = "fall-back-netx"
    needs = (FINAL,)

    passes: tuple[Pass, ...] = ()

    def run(self, graph: Graph, context: Context) -> int:
        """Put the copy beside the graph; note why there is none."""
        if context.ann is None or not any(_is_soft_map(graph, node) for node in graph.match(Neuron)[1:]):
            return 0
        made = graph.copy()
        try:
            for each in self.passes:
                each.run(made, context)
        except UnsupportedOpError as error:
            context.note("", f"stock netx resets this network to zero as it stands: {error.problems[0].message}")
            return 0
        context.beside[self.name] = made
        return 0


def _is_soft_map(graph: Graph, node: Node[Neuron]) -> bool:
    return node.op.v_reset is None and isinstance(graph[before_shapes(graph, node.name)], Conv)
