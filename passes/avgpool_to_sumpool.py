"""Average pools of spikes become sums, their 1/k^2 a cast that folds into the next weights."""

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.ops import AvgPool, Rescale, SumPool
from spikec.ir.stages import SPIKING


@attrs.frozen
class AvgPoolToSumPool(Pass):
    """``avgpool`` becomes ``sumpool -> rescale(1 / kernel size)`` where every window has one divisor.

    Attributes:
        keep: numbers of spatial axes over which the target can average; such pools stay.
    """

    name = "avgpool-to-sumpool"
    needs = (SPIKING,)
    looks_back = False

    keep: tuple[int, ...] = ()

    def run(self, graph: Graph, context: Context) -> int:
        """Rewrite pools with even windows; the others stay linear ops."""
        changes = 0
        for node in graph.match(AvgPool):
            op = node.op
            if len(op.kernel) in self.keep:
                continue
            operand = graph.type(graph.operands(node.name)[0])
            if why := op.irregular(operand):
                context.note(node.name, f"{why}; it stays an average")
                continue
            total = SumPool(op.kernel, op.stride, op.padding, origin=op.origin)
            mean = Rescale(np.full((1,) * len(operand.shape), 1 / total.gain))
            graph.set_op(node.name, total)
            graph.insert_after(node.name, mean, new=f"{node.name}_out")
            changes += 1
        return changes
