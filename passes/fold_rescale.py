"""Every cast between scales disappears into weights, thresholds or the output's scale."""

import attrs
import numpy as np

from spikec.calibration.casts import Casts, Thresholds
from spikec.extend.passbase import Context, Pass
from spikec.ir.affine import Affine, BlockedError
from spikec.ir.errors import UnsupportedOpError
from spikec.ir.graph import Graph
from spikec.ir.op import Op
from spikec.ir.ops import Linear, Rescale
from spikec.ir.ops.weighted import diagonal
from spikec.ir.stages import FINAL, SPIKING
from spikec.ir.types import channel_scale


@attrs.frozen
class FoldRescale(Pass):
    """Move each Rescale to where it costs nothing.

    In this order: up into the affine ops that make the signal; down into the affine ops that take it, into
    neurons (``v_threshold / factor``) and outputs (the output's scale), through whatever lets the factor through
    (``Op.map_operands``, ``Op.map_result``); and if neither goes, it becomes a 1x1 depthwise convolution, or a
    diagonal matrix over the last axis. For an affine op between scales ``W' = W s_in / s_out``, ``b' = b / s_out``
    (Rueckauer et al. 2017, sec. 2.2.1).

    Attributes:
        thresholds: what the target's neurons take: ``any`` shape, or one ``uniform`` value a layer.
    """

    name = "fold-rescale"
    needs = (SPIKING,)
    gives = FINAL
    looks_back = False

    thresholds: Thresholds = "any"

    def run(self, graph: Graph, context: Context) -> int:
        """Fold every Rescale, producers first."""
        names = [node.name for node in graph.match(Rescale)]
        for name in names:
            self._fold(graph, name, context)
        return len(names)

    def _fold(self, graph: Graph, name: str, context: Context) -> None:
        op = graph.get(name, Rescale)  # now: an earlier cast may have become part of this one
        (source,) = graph.operands(name)
        cast = Affine.scaling(op.factor)
        if bool((op.factor == 1).all()):
            graph.bypass(name)
            return
        try:
            casts = Casts(graph, thresholds=self.thresholds)
            casts.up(source, cast)
        except BlockedError as why:
            reasons = [str(why)]
        else:
            casts.write()
            graph.bypass(name)
            return
        for user, slot in graph.users(name):  # each on its own: some may take it where others do not
            try:
                casts = Casts(graph, thresholds=self.thresholds)
                casts.into(user, slot, cast)
            except BlockedError as why:
                reasons.append(str(why))
            else:
                casts.write()
                graph.set_operand(user, slot, source)
        if graph.users(name):
            context.note(name, f"became an affine op of its own: {'; '.join(reasons)}")
            graph.set_op(name, _as_affine(graph, name, op))
        else:
            graph.remove(name)


def _as_affine(graph: Graph, name: str, op: Rescale) -> Op:
    operand, cast = graph.type(graph.operands(name)[0]), Affine.scaling(op.factor)
    for axis in (0, -1):
        try:
            factor, _ = cast.in_channels(axis)
        except BlockedError:
            continue
        gain = np.broadcast_to(factor, operand.shape[axis : axis + 1 or None])
        scale = channel_scale(operand, axis, "rescale")
        if axis == 0:
            return diagonal(gain, None, len(operand.shape), in_scale=scale, out_scale=scale / gain)
        return Linear(np.diag(gain), in_scale=scale, out_scale=scale / gain)
    message = "a scale that varies within a channel cannot be folded into any neighbour"
    raise UnsupportedOpError(graph.problem(name, message, "use Normalization(per_channel=False)"))
