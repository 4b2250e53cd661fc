"""Neurons that fire at the threshold become neurons that fire above a threshold one float lower, or back."""

from typing import Literal

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.ops import Neuron
from spikec.ir.stages import FINAL


@attrs.frozen
class StrictThreshold(Pass):
    """``v >= theta`` becomes ``v > nextafter(theta, 0)`` in the graph's dtype; ``v > theta``, where the target
    compares by ``>=``, becomes ``v >= nextafter(theta, infinity)``.

    The two fire for the same v of that dtype. A soft reset then leaves one float more, and in wider arithmetic
    a v between the two floats fires where it did not: the pass is measured and not held to ``exact``.

    Attributes:
        fires: how the target compares, ``">"`` or ``">="``.
    """

    name = "strict-threshold"
    contract = "approximate"
    needs = (FINAL,)
    looks_back = False

    fires: Literal[">", ">="] = ">"

    def run(self, graph: Graph, context: Context) -> int:
        """Move every threshold by one float."""
        dtype = np.dtype(graph.type(graph.inputs[0]).dtype)
        strict = self.fires == ">"
        nodes = [node for node in graph.match(Neuron) if node.op.strict != strict]
        for node in nodes:
            moved = np.nextafter(node.op.v_threshold.astype(dtype), dtype.type(-np.inf if strict else np.inf))
            graph.set_op(node.name, attrs.evolve(node.op, v_threshold=moved, strict=strict))
        if nodes:
            where, other = ("lower", ">=") if strict else ("higher", ">")
            context.note(
                "",
                f"thresholds of {len(nodes)} layer(s) are one {dtype} {where}: readers fire at {self.fires}, "
                f"not {other}",
            )
        return len(nodes)
