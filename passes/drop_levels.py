"""Activations that were trained with the levels of a spike count become the ramps that neurons compute."""

import attrs
import numpy as np

from spikec.extend.levels import Levels
from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.ops import BatchNorm, Floor, Relu
from spikec.ir.stages import ANN


@attrs.frozen
class DropLevels(Pass):
    """``floor(L clip(x, 0, 1) + 1/2)`` becomes ``L clip(x, 0, 1)``, as a ReLU that knows its levels.

    (Bu et al. 2022, eq. 9: quantization clip-floor-shift.) A neuron that starts at half its threshold fires
    ``floor(T x + 1/2)`` times in T steps of a constant current, so that L steps give the levels back. Its threshold is
    the bound that was trained.
    """

    name = "drop-levels"
    contract = "approximate"
    needs = ANN

    def run(self, graph: Graph, context: Context) -> int:
        """Take the floor from every such activation."""
        nodes = graph.match(Floor)
        for node in nodes:
            (operand,) = graph.operands(node.name)
            levels = Levels.of(graph, operand)
            assert levels is not None  # frontends read no other floor
            clip = Relu(levels.bound, levels=levels.count, origin=graph[levels.clip].origin)
            graph.set_op(levels.clip, clip)
            channels = graph.type(node.name).shape[0]
            zeros, ones = np.zeros(channels), np.ones(channels)
            graph.set_op(node.name, BatchNorm(ones, zeros - 0.5, zeros, ones, 0.0, origin=node.op.origin))
            context.note(node.name, f"{levels.count} levels up to {levels.bound:g}: as many time-steps give them back")
        return len(nodes)
