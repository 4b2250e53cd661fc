"""Neurons start part of the way to their threshold."""

import attrs

from spikec.extend.passbase import Context, Pass, number
from spikec.ir.graph import Graph
from spikec.ir.ops import Neuron
from spikec.ir.stages import SPIKING


@attrs.frozen
class InitPotential(Pass):
    """``v_init = fraction * v_threshold``; 1/2 rounds the spike count instead of flooring it (Bu et al. 2022).

    Attributes:
        fraction: of the threshold.
    """

    name = "init-potential"
    contract = "rate"
    needs = (SPIKING,)

    fraction: float = attrs.field(default=0.5, validator=number(0, 1))

    def run(self, graph: Graph, context: Context) -> int:
        """Set v_init on every neuron."""
        if self.fraction == 0:
            return 0
        nodes = graph.match(Neuron)
        for node in nodes:
            graph.set_op(node.name, attrs.evolve(node.op, v_init=self.fraction * node.op.v_threshold))
        return len(nodes)
