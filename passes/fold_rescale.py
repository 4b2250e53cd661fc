"""Every cast between scales disappears into weights, thresholds or the output's scale."""

from collections.abc import Sequence
from typing import Literal

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.affine import Affine, BlockedError
from spikec.ir.errors import TypeMismatchError, UnsupportedOpError
from spikec.ir.graph import Graph
from spikec.ir.op import Op
from spikec.ir.ops import Input, Neuron, Output, Rescale, Weighted
from spikec.ir.ops.weighted import diagonal
from spikec.ir.stages import FINAL, SPIKING
from spikec.ir.transport import Transport
from spikec.ir.types import Type, channel_scale

Thresholds = Literal["any", "uniform"]


@attrs.frozen
class FoldRescale(Pass):
    """Move each Rescale to where it costs nothing.

    In this order: up into the affine ops that make the signal; down into the affine ops that take it, into
    neurons (``v_threshold / factor``) and outputs (the output's scale), through whatever lets the factor through
    (``Op.map_operands``, ``Op.map_result``); and if neither goes, it becomes a 1x1 depthwise convolution or a diagonal
    matrix. For an affine op between scales ``W' = W s_in / s_out``, ``b' = b / s_out`` (Rueckauer et al. 2017, sec.
    2.2.1).

    Attributes:
        thresholds: what the target's neurons take: ``any`` shape, or one ``uniform`` value a layer.
    """

    name = "fold-rescale"
    needs = (SPIKING,)
    gives = FINAL

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
            casts = _Casts(graph, thresholds=self.thresholds)
            casts.up(source, cast)
        except BlockedError as why:
            reasons = [str(why)]
        else:
            casts.write()
            graph.bypass(name)
            return
        for user, slot in graph.users(name):  # each on its own: some may take it where others do not
            try:
                casts = _Casts(graph, thresholds=self.thresholds)
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


@attrs.frozen(eq=False)
class _Casts(Transport):
    """Moves casts into weights, thresholds and other casts. At an output its type takes the factor up."""

    thresholds: Thresholds = attrs.field(kw_only=True)

    def into_result(self, name: str, op: Op, wanted: Affine) -> Op | None:
        """``factor (W x + b)``."""
        if isinstance(op, (Neuron, Input)):
            raise BlockedError("has no weights")
        if isinstance(op, Rescale):
            return attrs.evolve(op, factor=op.factor * wanted.gain)
        return op.scale_output(wanted.in_channels(op.axis)[0]) if isinstance(op, Weighted) else None

    def into_operand(self, name: str, op: Op, lost: Affine) -> Op | None:
        """``W (factor x) + b``; a neuron with all that its potential is compared with divided by the factor."""
        if isinstance(op, Output):
            return op
        if isinstance(op, Rescale):
            return attrs.evolve(op, factor=op.factor * lost.gain)
        if isinstance(op, Neuron):
            scaled = op.scale_input(lost.gain)
            if self.thresholds == "uniform" and scaled.v_threshold.size > 1:
                raise BlockedError("would have different thresholds, the target takes one")
            return scaled
        return op.scale_input(lost.in_channels(op.axis)[0]) if isinstance(op, Weighted) else None

    def check(self, name: str, op: Op, maps: Sequence[Affine], result: Affine) -> None:
        """A factor changes types: the op's type rule must make of the operands' what its meaning does.

        It is asked for scales divided by the factors, whether those come or go: what passes one passes its inverse.
        """
        operands = [self.graph.type(operand) for operand in self.graph.operands(name)]
        before = self.graph.type(name)
        try:
            after = op.infer(*(_divided(t, m) for t, m in zip(operands, maps, strict=True)))
        except TypeMismatchError as error:
            raise BlockedError(f"does not let the factor through: {error.problems[0].message}") from None
        if after.encoding != _divided(before, result).encoding:
            raise BlockedError("does not let the factor through")


def _divided(signal: Type, cast: Affine) -> Type:
    return signal.with_scale(signal.scale / cast.gain)


def _as_affine(graph: Graph, name: str, op: Rescale) -> Op:
    operand = graph.type(graph.operands(name)[0])
    try:
        factor, _ = Affine.scaling(op.factor).in_channels()
    except BlockedError:
        message = "a scale that varies within a channel cannot be folded into any neighbour"
        raise UnsupportedOpError(graph.problem(name, message, "use Normalization(per_channel=False)")) from None
    gain = np.broadcast_to(factor, operand.shape[:1])
    scale = channel_scale(operand, 0, "rescale")
    return diagonal(gain, None, len(operand.shape), in_scale=scale, out_scale=scale / gain)
