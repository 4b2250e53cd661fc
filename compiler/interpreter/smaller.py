"""The types of a graph on smaller maps, on which layers that do the same at each cell are compared at less cost."""

from collections.abc import Container

import attrs

from spikec.ir.graph import Graph
from spikec.ir.op import Op, StatefulOp
from spikec.ir.ops import AvgPool, Conv, ConvTranspose, Input, MaxPool, SumPool
from spikec.ir.types import Type

#: by how much each side of a map is divided
DIVISOR = 4


def smaller_types(graph: Graph, starts: Container[str]) -> dict[str, Type]:
    """Infer the types of nodes if maps had a quarter of their sides at inputs and at nodes where a graph is cut.

    Left out is what does not work on smaller maps, by its type rule, and what has windows that are larger than such
    a map, so that not all of its weights would show; so is all behind them, up to the next cut.

    Args:
        graph: its types are known.
        starts: the nodes at which it is cut.

    Returns:
        The types by the names of nodes.
    """
    found: dict[str, Type] = {}
    for name in graph:
        op = graph[name]
        if isinstance(op, Input) or name in starts:
            found[name] = _smaller(graph.type(name))
        elif not isinstance(op, StatefulOp) and all(x in found for x in graph.operands(name)):
            inferred = inferred_smaller(op, [found[x] for x in graph.operands(name)])
            if inferred is not None:
                found[name] = inferred
    return found


def inferred_smaller(op: Op, operands: list[Type]) -> Type | None:
    """Apply an op's type rule to smaller operands; None where it refuses them, or a window is larger than they are."""
    if isinstance(op, (Conv, ConvTranspose, AvgPool, SumPool, MaxPool)):
        dilation = (1,) * len(op.kernel) if isinstance(op, (AvgPool, SumPool)) else op.dilation
        extents = ((k - 1) * d + 1 for k, d in zip(op.kernel, dilation, strict=True))
        if any(side < extent for side, extent in zip(operands[0].shape[1:], extents, strict=False)):
            return None
    try:
        return op.infer(*operands)
    except Exception:  # whatever a rule raises: the op is compared on maps of their own size then
        return None


def _smaller(signal: Type) -> Type:
    first, *sides = signal.shape
    return attrs.evolve(signal, shape=(first, *(-(-side // DIVISOR) for side in sides)))
