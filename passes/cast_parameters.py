"""Parameters are rounded to the dtype that will be written."""

from typing import Any

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.op import Op
from spikec.ir.stages import FINAL
from spikec.ir.types import readonly


@attrs.frozen
class CastParameters(Pass):
    """Passes compute in float64; the model's own dtype is what a target stores, so the final graph has it too."""

    name = "cast-parameters"
    contract = "approximate"
    needs = (FINAL,)
    looks_back = False

    def run(self, graph: Graph, context: Context) -> int:
        """Round every array parameter; scales are types and stay exact."""
        dtype = np.dtype(graph.type(graph.inputs[0]).dtype)
        changes = 0
        for node in graph.match(Op):
            rounded: dict[str, Any] = {}
            for field in attrs.fields(type(node.op)):
                value = getattr(node.op, field.name)
                if field.metadata.get("array") and value is not None and value.dtype != dtype:
                    rounded[field.name] = readonly(value, dtype)
            if rounded:
                graph.set_op(node.name, attrs.evolve(node.op, **rounded))
                changes += 1
        return changes
