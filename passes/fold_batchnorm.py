"""Batch norms become part of a neighbour's weights, or affine ops of their own."""

import attrs

from spikec.extend.passbase import Context, Pass
from spikec.ir.affine import Affine, BlockedError
from spikec.ir.graph import Graph
from spikec.ir.op import Op
from spikec.ir.ops import BatchNorm, Weighted
from spikec.ir.ops.weighted import diagonal
from spikec.ir.origin import merge
from spikec.ir.stages import FOLDED, IMPORTED, RECEIVED, SPIKING, Stage
from spikec.ir.transport import Transport
from spikec.ir.types import on_axis


@attrs.frozen
class FoldBatchNorm(Pass):
    """With ``gain = weight / sqrt(var + eps)`` and ``shift = bias - mean gain``:

    - behind an affine op that nobody else uses: ``W' = gain W``, ``b' = gain b + shift``;
    - in front of affine ops only, where no zero padding would see the shift: ``W' = W gain``,
      ``b' = b + W shift``;
    - anywhere else it becomes a 1x1 depthwise convolution, or a diagonal matrix.

    Linear ops without weights, such as pools, concats and sums, may stand between the norm and the affine op if they
    let the map through (``Op.map_operands``, ``Op.map_result``). Jacob et al. 2018, eq. 14, for the first.
    """

    name = "fold-batchnorm"
    needs = (IMPORTED, RECEIVED)
    gives = FOLDED

    def reached(self, stage: Stage) -> Stage:
        """Real signals stay real; a model that came as a spiking one is a spiking graph now."""
        return SPIKING if stage is RECEIVED else FOLDED

    def run(self, graph: Graph, context: Context) -> int:
        """Fold every batch norm, producers first."""
        names = [node.name for node in graph.match(BatchNorm)]
        for name in names:
            op = graph.get(name, BatchNorm)  # now: an earlier norm may have become part of this one
            rank = len(graph.type(name).shape)
            norm = Affine(on_axis(op.gain, rank, 0), on_axis(op.shift, rank, 0))
            up, down = _Fold(graph), _Fold(graph)
            try:
                up.up(graph.operands(name)[0], norm)
                folded = up
            except BlockedError as above:
                try:
                    down.down(name, norm)
                    folded = down
                except BlockedError as below:
                    context.note(name, f"became an affine op of its own: {above}; {below}")
                    graph.set_op(name, diagonal(op.gain, op.shift, rank, origin=op.origin))
                    continue
            for each, new in folded.edits.items():
                graph.set_op(each, attrs.evolve(new, origin=merge(graph[each].origin, op.origin)))
            graph.bypass(name)
        return len(names)


class _Fold(Transport):
    """Moves norms into weights, and into norms behind them."""

    def into_result(self, name: str, op: Op, wanted: Affine) -> Op | None:
        """``gain (W x + b) + shift``."""
        return op.affine(*wanted.in_channels(op.axis)) if isinstance(op, Weighted) else None

    def into_operand(self, name: str, op: Op, lost: Affine) -> Op | None:
        """``W (gain x + shift) + b``."""
        if isinstance(op, BatchNorm):
            return op.behind(*lost.in_channels())
        return op.behind(*lost.in_channels(op.axis)) if isinstance(op, Weighted) else None
