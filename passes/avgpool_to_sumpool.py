"""Average pools of spikes become sums, their 1/k^2 a cast that folds into the next weights."""

from typing import ClassVar

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.ops import AvgPool, Rescale, SumPool
from spikec.ir.stages import SPIKING, Stage


@attrs.frozen
class AvgPoolToSumPool(Pass):
    """``avgpool`` becomes ``sumpool -> rescale(1 / kernel size)`` where every window has one divisor.

    Attributes:
        keep: numbers of spatial axes over which the target can average; such pools stay.
    """

    name: ClassVar[str] = "avgpool-to-sumpool"
    needs: ClassVar[tuple[Stage, ...]] = (SPIKING,)

    keep: tuple[int, ...] = ()

    def run(self, graph: Graph, context: Context) -> int:
        """Rewrite pools with even windows; the others stay linear ops."""
        changes = 0
        for node in graph.match(AvgPool):
            op = node.op
            if len(op.kernel) in self.keep:
                continue
            shape = graph.type(graph.operands(node.name)[0]).shape
            padded = [size + 2 * pad for size, pad in zip(shape[1:], op.padding, strict=True)]
            ragged = any((size - k) % s for size, k, s in zip(padded, op.kernel, op.stride, strict=True))
            if op.ceil_mode and ragged:
                context.note(node.name, "ceil_mode makes windows of different sizes; it stays an average")
                continue
            if any(op.padding) and not op.count_include_pad:
                context.note(
                    node.name, "without count_include_pad windows have different divisors; it stays an average"
                )
                continue
            total = SumPool(op.kernel, op.stride, op.padding, origin=op.origin)
            graph.set_op(node.name, total)
            graph.insert_after(node.name, Rescale(np.full((1,) * len(shape), 1 / total.gain)), new=f"{node.name}_out")
            changes += 1
        return changes
