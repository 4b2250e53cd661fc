"""Neurons that fire at the threshold become neurons that fire above a threshold one float lower."""

from typing import ClassVar

import attrs
import numpy as np

from spikec.graph import Graph
from spikec.ops import Neuron
from spikec.passbase import Context, Contract, Pass
from spikec.stages import FINAL, Stage


@attrs.frozen
class StrictThreshold(Pass):
    """``v >= theta`` becomes ``v > nextafter(theta, 0)`` in the graph's dtype.

    The two fire for the same v of that dtype. A soft reset then leaves one float more, and in wider arithmetic
    a v between the two floats fires where it did not: the pass is measured and not held to ``exact``.
    """

    name: ClassVar[str] = "strict-threshold"
    contract: ClassVar[Contract] = "approximate"
    needs: ClassVar[tuple[Stage, ...]] = (FINAL,)

    def run(self, graph: Graph, context: Context) -> int:
        """Lower every threshold by one float."""
        dtype = np.dtype(graph.type(graph.inputs[0]).dtype)
        nodes = [node for node in graph.match(Neuron) if not node.op.strict]
        for node in nodes:
            lower = np.nextafter(node.op.v_threshold.astype(dtype), dtype.type(0))
            graph.set_op(node.name, attrs.evolve(node.op, v_threshold=lower, strict=True))
        if nodes:
            context.note("", f"thresholds of {len(nodes)} layer(s) are one {dtype} lower: readers fire at >, not >=")
        return len(nodes)
