"""A bias for each step that makes each channel's rate that of the ANN at every step."""

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass, number, rounds
from spikec.extend.sweep import layers
from spikec.ir.graph import Graph
from spikec.ir.ops import Stream
from spikec.ir.stages import SPIKING
from spikec.ir.types import Array


@attrs.frozen
class StreamBias(Pass):
    """``b_c(t) += step (mean a_c - mean s_c(t))``, layer after layer, for a target that can stream currents.

    a is the ANN's activation and s(t) what the spikes of step t stand for, averaged over the samples and a channel's
    positions (forward temporal bias correction, Wu et al. 2024, algorithm 1). Neurons that compare are left alone.

    Attributes:
        rounds: how often each layer is measured and corrected.
        step: share of the difference that is corrected at once.
    """

    name = "stream-bias"
    contract = "tuned"
    needs = (SPIKING,)

    rounds: int = attrs.field(default=2, validator=rounds())
    step: float = attrs.field(default=0.5, validator=number(0))

    def run(self, graph: Graph, context: Context) -> int:
        """Put a stream in front of every layer."""
        changes = 0
        for layer in layers(graph, context):
            (current,) = graph.operands(layer.neurons[0])
            signal = graph.type(current)
            currents = np.zeros((context.steps, *(1 for _ in signal.shape)))
            stream = graph.add(Stream(currents), current, name=f"{layer.name}_stream")
            for name in layer.neurons:
                graph.set_operand(name, 0, stream)
            for _ in range(self.rounds):
                currents = currents + self.step * _by_channel(layer.shortfall()) / signal.scale
                graph.set_op(stream, Stream(currents))
            changes += 1
        return changes


def _by_channel(values: Array) -> Array:
    """Average values [T, C, ...] over each channel's positions: [T, C, 1, ...]."""
    return np.asarray(values.mean(axis=tuple(range(2, values.ndim)), keepdims=True))
