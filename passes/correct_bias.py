"""Biases that make each channel's mean rate that of the ANN."""

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass, number, rounds
from spikec.extend.sweep import Layer, layers
from spikec.ir.graph import Graph, Node
from spikec.ir.ops import Weighted
from spikec.ir.rewrite import bias_owner
from spikec.ir.stages import SNN
from spikec.ir.types import Array, channel_scale


@attrs.frozen
class CorrectBias(Pass):
    """``b_c += step (mean a_c - mean r_c)``, layer after layer, those before it corrected already.

    a is the ANN's activation and r what the spikes of T steps stand for, averaged over the samples and a channel's
    positions (Li et al. 2021, sec. 4.1: "light" bias correction). Neurons that compare are left alone.

    Attributes:
        rounds: how often each layer is measured and corrected.
        step: share of the difference that is corrected at once.
    """

    name = "correct-bias"
    contract = "tuned"
    needs = SNN

    rounds: int = attrs.field(default=3, validator=rounds())
    step: float = attrs.field(default=0.7, validator=number(0))

    def run(self, graph: Graph, context: Context) -> int:
        """Correct every layer that has a bias of its own."""
        changes = 0
        for layer in layers(graph, context):
            for _ in range(self.rounds):
                owners = _owners(graph, layer)
                if not owners:
                    context.note(layer.name, "no affine op in front of it is its own, so no bias can be corrected")
                    break
                missing = layer.missing() / context.steps
                for owner in owners:
                    graph.set_op(owner.name, self._corrected(graph, owner, missing))
                changes += 1
        return changes

    def _corrected(self, graph: Graph, owner: Node[Weighted], missing: Array) -> Weighted:
        op, signal = owner.op, graph.type(owner.name)
        axis = op.axis % len(signal.shape)
        channels = np.moveaxis(missing, axis, 0).reshape(signal.shape[axis], -1).mean(1)
        return attrs.evolve(op, bias=op.shift + self.step * channels / channel_scale(signal, axis, op.kind))


def _owners(graph: Graph, layer: Layer) -> list[Node[Weighted]]:
    """The affine ops whose biases to correct: one that feeds all neurons of a layer, or one for each; else none."""
    shared = bias_owner(graph, *layer.neurons)
    if shared is not None:
        return [shared]
    found = [owner for name in layer.neurons if (owner := bias_owner(graph, name)) is not None]
    return found if len(found) == len(layer.neurons) else []
