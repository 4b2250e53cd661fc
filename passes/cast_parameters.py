"""Parameters are rounded to the dtype that will be written."""

from typing import Any

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.errors import Hint, InvalidModelError, Option
from spikec.ir.graph import Graph
from spikec.ir.op import Op
from spikec.ir.stages import FINAL
from spikec.ir.types import Array, readonly


@attrs.frozen
class CastParameters(Pass):
    """Passes compute in float64; the model's own dtype is what a target stores, so the final graph has it too."""

    name = "cast-parameters"
    contract = "approximate"
    needs = (FINAL,)
    looks_back = False

    def run(self, graph: Graph, context: Context) -> int:
        """Round every array parameter; scales are types and stay exact.

        Raises:
            InvalidModelError: the dtype has no number as large as one of them.
        """
        dtype = np.dtype(graph.type(graph.inputs[0]).dtype)
        changes = 0
        for node in graph.match(Op):
            rounded: dict[str, Any] = {}
            for field in attrs.fields(type(node.op)):
                value = getattr(node.op, field.name)
                if field.metadata.get("array") and value is not None and value.dtype != dtype:
                    if not _fits(value, dtype):
                        raise _too_large(graph, node.name, field.name, value, context)
                    rounded[field.name] = readonly(value, dtype)
            if rounded:
                graph.set_op(node.name, attrs.evolve(node.op, **rounded))
                changes += 1
        return changes


def _fits(value: Array, dtype: np.dtype[Any]) -> bool:
    return dtype.kind != "f" or not value.size or bool(np.abs(value).max() <= np.finfo(dtype).max)


def _too_large(graph: Graph, name: str, field: str, value: Array, context: Context) -> InvalidModelError:
    """Thresholds from the weights alone grow with every layer, and deep networks pass what float32 holds."""
    dtype = graph.type(graph.inputs[0]).dtype
    hint = (
        ""
        if context.samples
        else Hint("thresholds from the weights alone are that large: pass ", Option("calibration"))
    )
    message = f"its {field} reaches {np.abs(value).max():.1e}, and {dtype} ends at {np.finfo(dtype).max:.1e}"
    return InvalidModelError(graph.problem(name, message, hint))
