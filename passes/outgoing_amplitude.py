"""What a spike weighs, apart from the threshold that it was fired at."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np

from spikec.extend.passbase import Context, Contract, Pass
from spikec.extend.sweep import layers
from spikec.ir.errors import TypeMismatchError
from spikec.ir.graph import Graph
from spikec.ir.op import Op, Role
from spikec.ir.ops import Relu, Rescale, Weighted
from spikec.ir.stages import SPIKING, Stage
from spikec.ir.types import Array, channel_scale, on_axis


@attrs.frozen
class OutgoingAmplitude(Pass):
    """The weights behind a layer times ``g_c = <a_c, r_c> / <r_c, r_c>``, within ``limits``, layer after layer.

    a is the ANN's activation and r what the spikes of T steps stand for; g minimises the squared error over the samples
    and a channel's positions. It goes through pools and shapes into the next affine ops; where a spike goes elsewhere
    too (an identity skip), the layer is left alone. Neurons that compare are left alone.

    Attributes:
        limits: least and greatest g.
    """

    name: ClassVar[str] = "outgoing-amplitude"
    contract: ClassVar[Contract] = "tuned"
    needs: ClassVar[tuple[Stage, ...]] = (SPIKING,)

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
            rank = len(graph.type(layer.name).shape)
            edits = _behind(graph, layer.name, on_axis(gain, rank, axis))
            if edits is None:
                context.note(
                    layer.name, "its spikes reach more than affine ops, so they weigh what their threshold says"
                )
                continue
            for name, op in edits.items():
                graph.set_op(name, op)
            changes += len(edits)
        return changes


def _channel_axis(context: Context, name: str) -> int:
    assert context.ann is not None
    relu = context.ann[name]
    assert isinstance(relu, Relu)
    assert relu.scale is not None
    return max(range(relu.scale.ndim), key=lambda axis: relu.scale.shape[axis])  # type: ignore[union-attr]


def _behind(graph: Graph, name: str, gain: Array) -> dict[str, Op] | None:
    """The affine ops that take a signal, with weights that multiply it by a gain; None where something else does."""
    edits: dict[str, Op] = {}
    for user, _ in graph.users(name):
        op = graph[user]
        if isinstance(op, Weighted):
            signal = graph.type(graph.operands(user)[0])
            try:
                factor = channel_scale(signal.with_scale(gain), op.axis, op.kind)
            except TypeMismatchError:
                return None
            more: dict[str, Op] | None = {user: attrs.evolve(op.scale_input(factor), in_scale=op.in_scale)}
        elif len(graph.operands(user)) == 1 and op.role not in (Role.IO, Role.NEURON):
            more = _behind(graph, user, _through(graph, user, gain))
        else:
            more = None
        if more is None or edits.keys() & more.keys():
            return None
        edits |= more
    return edits


def _through(graph: Graph, name: str, gain: Array) -> Array:
    """The gain behind an op, which moves it as it moves a scale."""
    if isinstance(graph[name], Rescale):
        return gain
    operand = graph.type(graph.operands(name)[0])
    moved = graph[name].infer(operand.with_scale(operand.scale * gain))
    return np.asarray(moved.scale / graph.type(name).scale)
