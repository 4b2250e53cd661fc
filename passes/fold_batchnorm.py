"""Batch norms become part of a neighbour's weights, or affine ops of their own."""

from typing import ClassVar

import attrs
import numpy as np

from spikec.graph import Graph, Node
from spikec.ops import BatchNorm, Conv, Linear, Weighted
from spikec.ops.weighted import diagonal
from spikec.origin import merge
from spikec.passbase import Context, Pass
from spikec.stages import FOLDED, IMPORTED, RECEIVED, SPIKING, Stage
from spikec.types import Array


@attrs.frozen
class FoldBatchNorm(Pass):
    """With ``gain = weight / sqrt(var + eps)`` and ``shift = bias - mean gain``:

    - behind an affine op that nobody else uses: ``W' = gain W``, ``b' = gain b + shift``;
    - in front of affine ops only, where no zero padding would see the shift: ``W' = W gain``,
      ``b' = b + W shift``;
    - anywhere else it becomes a 1x1 depthwise convolution, or a diagonal matrix.

    Jacob et al. 2018, eq. 14, for the first.
    """

    name: ClassVar[str] = "fold-batchnorm"
    needs: ClassVar[tuple[Stage, ...]] = (IMPORTED, RECEIVED)
    gives: ClassVar[Stage | None] = FOLDED

    def reached(self, stage: Stage) -> Stage:
        """Real signals stay real; a model that came as a spiking one is a spiking graph now."""
        return SPIKING if stage is RECEIVED else FOLDED

    def run(self, graph: Graph, context: Context) -> int:
        """Fold every batch norm."""
        nodes = graph.match(BatchNorm)
        for node in nodes:
            blocked = _fold_up(graph, node)
            if blocked:
                blocked = f"{blocked}; {why}" if (why := _fold_down(graph, node)) else ""
            if blocked:
                context.note(node.name, f"became an affine op of its own: {blocked}")
                rank = len(graph.type(node.name).shape)
                graph.set_op(node.name, diagonal(node.op.gain, node.op.shift, rank, origin=node.op.origin))
        return len(nodes)


def _fold_up(graph: Graph, node: Node[BatchNorm]) -> str:
    """Fold into the producer; returns why not."""
    (source,) = graph.operands(node.name)
    op = graph[source]
    if not _over_channels(graph, source, op):
        return f"%{source} ({op.kind}) is no affine op over the same channels"
    if len(graph.users(source)) > 1:
        return f"%{source} has {len(graph.users(source))} users"
    assert isinstance(op, Weighted)
    folded = op.affine(node.op.gain, node.op.shift)
    graph.set_op(source, attrs.evolve(folded, origin=merge(op.origin, node.op.origin)))
    graph.bypass(node.name)
    return ""


def _fold_down(graph: Graph, node: Node[BatchNorm]) -> str:
    """Fold into every user; returns why not."""
    users = [user for user, _ in graph.users(node.name)]
    for user in users:
        op = graph[user]
        if not _over_channels(graph, node.name, op):
            return f"its user %{user} ({op.kind}) is no affine op over the same channels"
        if isinstance(op, Conv) and any(map(any, op.padding)) and node.op.shift.any():
            return f"its user %{user} pads with zeros, which the shift would change"
    for user in users:
        op = graph[user]
        assert isinstance(op, Weighted)
        scaled = op.scale_input(node.op.gain)
        shifted = scaled.affine(np.ones(1), _through(op, node.op.shift))
        origin = merge(op.origin, node.op.origin)
        graph.set_op(user, attrs.evolve(shifted, in_scale=op.in_scale, origin=origin))
    graph.bypass(node.name)
    return ""


def _over_channels(graph: Graph, signal: str, op: object) -> bool:
    """True for an affine op whose features lie along axis 0 of that signal, its operand or its result."""
    return isinstance(op, Conv) or (isinstance(op, Linear) and len(graph.type(signal).shape) == 1)


def _through(op: Weighted, shift: Array) -> Array:
    """What a constant per input feature adds to each output feature."""
    weight = op.weight.astype(np.float64)
    per_tap = weight.reshape(*weight.shape[:2], -1).sum(2)
    if not isinstance(op, Conv):
        return np.asarray(per_tap @ shift)
    groups = per_tap.reshape(op.groups, -1, per_tap.shape[1])
    return np.asarray(np.einsum("goi,gi->go", groups, shift.reshape(op.groups, -1)).reshape(-1))
