"""Several ops that together are a function of one number, such as ``x sigmoid(x)``, become one op."""

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.op import Op, Role
from spikec.ir.ops import (
    Add,
    BatchNorm,
    Clamp,
    ComposedFunction,
    Curve,
    Head,
    LeakyRelu,
    Maximum,
    Minimum,
    Relu,
    ScalarFunction,
)
from spikec.ir.ops.functions import Steps
from spikec.ir.origin import merge
from spikec.ir.stages import ANN

#: activations that are exact sums of ReLUs, and so gain nothing
_STRAIGHT = (Relu, Clamp, LeakyRelu, Maximum, Minimum)
#: most ops that are looked through
_MOST = 64


@attrs.frozen
class JoinFunctions(Pass):
    """A product of functions of one signal, or a function of a function of it, becomes one function::

        x sigmoid(x), 0.5 x (1 + erf(x / sqrt 2)), x clamp(x + 3, 0, 6) / 6, log(1 + exp(x))

    Exporters write SiLU, GELU and Hardswish so. As one function it takes one set of ramps, where a product of signals
    takes two squares besides.
    """

    name = "join-functions"
    needs = ANN

    def run(self, graph: Graph, context: Context) -> int:
        """Look at every activation that is not straight, the last one first, for it may hold those before."""
        changes = 0
        for name in reversed(list(graph)):
            if name in graph and _is_curved(graph[name]) and (found := _cone(graph, name)) is not None:
                _join(graph, name, *found)
                changes += 1
        return changes


def _is_curved(op: Op) -> bool:
    """Whether it is an activation of single numbers that no ReLUs stand for."""
    return op.role is Role.ACTIVATION and _alone(op) is not None and not isinstance(op, _STRAIGHT)


def _alone(op: Op) -> Op | None:
    """Return the op as one of single numbers, whatever their place; None where it is none."""
    if isinstance(op, Head):
        return op.scalar
    if isinstance(op, BatchNorm):
        gain, shift = np.unique(op.gain), np.unique(op.shift)
        return ScalarFunction("line", (gain[0], shift[0])) if gain.size == shift.size == 1 else None
    if isinstance(op, LeakyRelu):
        return attrs.evolve(op, slope=op.slope.reshape(())) if op.slope.size == 1 else None
    known = isinstance(op, (Add, Curve, *_STRAIGHT)) or (op.elementwise and op.role is Role.ACTIVATION)
    return op if known and not any(isinstance(x, np.ndarray) for x in op.parameters().values()) else None


def _cone(graph: Graph, root: str) -> tuple[str, list[str]] | None:
    """Return the nearest signal of which a node is a curved function by several ops, and these, in order."""
    place = {name: i for i, name in enumerate(graph)}
    inside: list[str] = []
    frontier = {root}
    while len(inside) < _MOST:
        last = max(frontier, key=place.__getitem__)
        if _alone(graph[last]) is None or graph.type(last).shape != graph.type(root).shape:
            return None
        inside.append(last)
        frontier = (frontier - {last}) | set(graph.operands(last))
        curved = [graph[name] for name in inside if _is_curved(graph[name])]
        if len(frontier) == 1 and (len(curved) > 1 or len(graph.operands(root)) > 1):
            (source,) = frontier
            return (source, inside[::-1]) if graph.type(source).shape == graph.type(root).shape else None
    return None


def _join(graph: Graph, root: str, source: str, inside: Sequence[str]) -> None:
    """Write one op in the place of the root, under another name as it takes another signal; remove what is not used."""
    places = {source: 0} | {name: i for i, name in enumerate(inside, start=1)}
    steps: list[tuple[Any, tuple[int, ...]]] = []
    for name in inside:
        op = _alone(graph[name])
        assert op is not None
        steps.append((attrs.evolve(op, origin=()), tuple(places[x] for x in graph.operands(name))))
    origin = merge(*(graph[name].origin for name in reversed(inside)))
    joined = ComposedFunction(Steps(tuple(steps)), origin=origin)
    graph.replace_uses(root, graph.add(joined, source, name=f"{root}_joined"))
    graph.remove_dead(root)
