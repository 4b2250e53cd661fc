"""How a change of scale becomes part of the ops around it, which says where a scale can be carried."""

from collections.abc import Sequence
from typing import Literal

import attrs

from spikec.ir.affine import Affine, BlockedError
from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import Op
from spikec.ir.ops import Input, Neuron, Output, Relu, Rescale, Weighted
from spikec.ir.transport import Transport
from spikec.ir.types import Type

Thresholds = Literal["any", "uniform"]


@attrs.frozen(eq=False)
class Casts(Transport):
    """Moves casts into weights, thresholds and other casts. At an output its type takes the factor up.

    In a graph without neurons, a ReLU takes what its neuron will take.

    Attributes:
        thresholds: what the target's neurons take: ``any`` shape, or one ``uniform`` value a layer.
    """

    thresholds: Thresholds = attrs.field(default="any", kw_only=True)

    def into_result(self, name: str, op: Op, wanted: Affine) -> Op | None:
        """``factor (W x + b)``."""
        if isinstance(op, (Neuron, Relu, Input)):
            raise BlockedError("has no weights")
        if isinstance(op, Rescale):
            return attrs.evolve(op, factor=op.factor * wanted.gain)
        return op.scale_output(wanted.in_channels(op.axis)[0]) if isinstance(op, Weighted) else None

    def into_operand(self, name: str, op: Op, lost: Affine) -> Op | None:
        """``W (factor x) + b``; a neuron with all that its potential is compared with divided by the factor."""
        if isinstance(op, (Output, Relu)):
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
