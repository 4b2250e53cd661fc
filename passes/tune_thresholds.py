"""Other thresholds, if they bring the net nearer to the ANN."""

import attrs

from spikec.calibration import scales
from spikec.calibration.normalization import Normalization
from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.ops import Rescale
from spikec.ir.rewrite import neurons_by_relu
from spikec.ir.stages import SPIKING


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
        steps, warn = context.steps, context.warn
        found = scales.from_statistics(self.normalization, context.ann, context.calibration.gathered, steps, warn)
        neurons = neurons_by_relu(graph, context.ann)
        changes = 0
        for name, scale in found.items():
            if len(neurons[name]) != 1:
                several = "it has several neurons for each, its threshold stays: tune it before they are made"
                context.note(name, several if neurons[name] else "no neuron stands for it, so no threshold is tuned")
                continue
            (neuron,) = neurons[name]
            (before,), users = graph.operands(neuron), graph.users(neuron)
            after = users[0][0] if len(users) == 1 else before
            if after != before and isinstance(graph[before], Rescale) and isinstance(graph[after], Rescale):
                graph.set_op(before, Rescale(1 / scale))
                graph.set_op(after, Rescale(scale))
                changes += 1
            else:
                context.note(name, "its casts have moved, its threshold stays")
        return changes
