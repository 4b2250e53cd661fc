"""Other thresholds, if they bring the net nearer to the ANN."""

from collections.abc import Sequence

import attrs

from spikec.calibration import scales
from spikec.calibration.normalization import Normalization
from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.ops import Neuron, Rescale
from spikec.ir.rewrite import neurons_by_relu
from spikec.ir.stages import SPIKING
from spikec.ir.types import Array


@attrs.frozen
class TuneThresholds(Pass):
    """Choose every scale again, by another statistic of the same calibration data."""

    name = "tune-thresholds"
    contract = "tuned"
    needs = (SPIKING,)

    normalization: Normalization = Normalization(method="mmse")

    def run(self, graph: Graph, context: Context) -> int:
        """Set the casts in front of and behind every neuron."""
        if context.ann is None or context.calibration.gathered is None:
            return 0
        neurons = neurons_by_relu(graph, context.ann)
        # several for each say after T steps what one says after so many times T
        steps = {name: context.steps * max(1, len(each)) for name, each in neurons.items()}
        known, changes = context.calibration.gathered, 0
        for name, scale in scales.from_statistics(self.normalization, context.ann, known, steps, context.warn).items():
            if not neurons[name]:
                context.note(name, "no neuron stands for it, so no threshold is tuned")
            elif _set(graph, neurons[name], scale):
                changes += 1
            else:
                context.note(name, "its casts have moved, its threshold stays")
        return changes


def _set(graph: Graph, neurons: Sequence[str], scale: Array) -> bool:
    """Set the casts around the neurons that stand for a ReLU; False where they are no longer there."""
    before, after = graph.operands(neurons[0])[0], neurons[0]
    if len(neurons) > 1:  # their sum, and what makes their mean of it
        after = _only_user(graph, _only_user(graph, after))
    after = _only_user(graph, after)
    if after == before or not (isinstance(graph[before], Rescale) and isinstance(graph[after], Rescale)):
        return False
    graph.set_op(before, Rescale(1 / scale))
    graph.set_op(after, Rescale(scale))
    if len(neurons) > 1:
        for name in neurons:
            op = graph.get(name, Neuron)
            share = graph.type(before).scale * op.v_threshold / len(neurons)
            graph.set_op(name, attrs.evolve(op, out_scale=share))
    return True


def _only_user(graph: Graph, name: str) -> str:
    """The node that alone takes what a node gives; the node itself where others do too."""
    users = graph.users(name)
    return users[0][0] if len(users) == 1 else name
