"""Initial potentials that make each neuron's mean rate that of the ANN."""

import attrs

from spikec.extend.passbase import Context, Pass, number, rounds
from spikec.extend.sweep import layers
from spikec.ir.graph import Graph
from spikec.ir.ops import Neuron
from spikec.ir.stages import SPIKING


@attrs.frozen
class CalibratePotential(Pass):
    """``v_init_i += step T (mean a_i - mean r_i)`` for each neuron, layer after layer.

    a is the ANN's activation and r what the spikes of T steps stand for, averaged over the samples (Li et al. 2021,
    sec. 4.3: potential calibration). Neurons that compare are left alone.

    Attributes:
        rounds: how often each layer is measured and set.
        step: share of the difference that is made up for at once.
    """

    name = "calibrate-potential"
    contract = "tuned"
    needs = (SPIKING,)

    rounds: int = attrs.field(default=1, validator=rounds())
    step: float = attrs.field(default=1.0, validator=number(0))

    def run(self, graph: Graph, context: Context) -> int:
        """Set the potentials of every layer."""
        changes = 0
        for layer in layers(graph, context):
            for _ in range(self.rounds):
                missing = self.step * layer.missing()
                for name in layer.neurons:
                    op, (current,) = graph.get(name, Neuron), graph.operands(name)
                    graph.set_op(name, attrs.evolve(op, v_init=op.v_init + missing / graph.type(current).scale))
                changes += 1
        return changes
