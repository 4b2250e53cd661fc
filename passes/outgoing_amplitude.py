"""What a spike weighs, apart from the threshold that it was fired at."""

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.extend.sweep import layers
from spikec.ir.affine import Affine, BlockedError
from spikec.ir.graph import Graph
from spikec.ir.op import Op
from spikec.ir.ops import Relu, Weighted
from spikec.ir.stages import SPIKING
from spikec.ir.transport import Transport
from spikec.ir.types import on_axis


@attrs.frozen
class OutgoingAmplitude(Pass):
    """The weights behind a layer times ``g_c = <a_c, r_c> / <r_c, r_c>``, within ``limits``, layer after layer.

    a is the ANN's activation and r what the spikes of T steps stand for; g minimises the squared error over the samples
    and a channel's positions. It goes through pools and shapes into the next affine ops; where a spike goes elsewhere
    too (an identity skip), the layer is left alone. Neurons that compare are left alone.

    Attributes:
        limits: least and greatest g.
    """

    name = "outgoing-amplitude"
    contract = "tuned"
    needs = (SPIKING,)

    limits: tuple[float, float] = (0.7, 1.4)

    def run(self, graph: Graph, context: Context) -> int:
        """Scale the weights behind every layer."""
        changes = 0
        for layer in layers(graph, context):
            axis = _channel_axis(context, layer.name)
            wanted, found = (np.moveaxis(x, axis + 1, 0) for x in (layer.activations(), layer.values()))
            power = (found * found).reshape(len(found), -1).sum(1)
            gain = (wanted * found).reshape(len(found), -1).sum(1) / np.where(power > 0, power, 1)
            gain = np.clip(np.where(power > 0, gain, 1), *self.limits)
            rank = len(graph.type(layer.signal).shape)
            weights = _Weights(graph)
            try:
                weights.down(layer.signal, Affine.scaling(on_axis(gain, rank, axis)))
            except BlockedError:
                context.note(
                    layer.name, "its spikes reach more than affine ops, so they weigh what their threshold says"
                )
                continue
            weights.write()
            changes += len(weights.edits)
        return changes


class _Weights(Transport):
    """Moves a gain into the affine ops behind a layer."""

    def into_operand(self, name: str, op: Op, lost: Affine) -> Op | None:
        """``W (gain x) + b``, where a sum with other signals is not passed."""
        if len(self.graph.operands(name)) > 1:
            raise BlockedError("takes other signals too")
        return op.behind(*lost.in_channels(op.axis)) if isinstance(op, Weighted) else None


def _channel_axis(context: Context, name: str) -> int:
    assert context.ann is not None
    relu = context.ann.get(name, Relu)
    assert relu.scale is not None
    return max(range(relu.scale.ndim), key=lambda axis: relu.scale.shape[axis])  # type: ignore[union-attr]
