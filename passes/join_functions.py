"""Several ops that together are a function of one number, such as ``x sigmoid(x)``, become one op."""

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import torch

from spikec.extend.passbase import Context, Pass
from spikec.ir.choice import Choice, line_of
from spikec.ir.errors import UnsupportedOpError
from spikec.ir.graph import Graph
from spikec.ir.op import Op, Role
from spikec.ir.ops import (
    Add,
    BatchNorm,
    Clamp,
    Compare,
    ComposedFunction,
    Curve,
    Head,
    LeakyRelu,
    Maximum,
    Minimum,
    Relu,
    ScalarFunction,
    Where,
)
from spikec.ir.ops.functions import Steps
from spikec.ir.origin import merge
from spikec.ir.stages import ANN

#: activations that are exact sums of ReLUs, and so gain nothing
_STRAIGHT = (Relu, Clamp, LeakyRelu, Maximum, Minimum)
#: a jump of less than this, as a share of the value, is none to ramps: torch's softplus has one
_STEADY = 1e-3
#: most ops that are looked through
_MOST = 64


@attrs.frozen
class JoinFunctions(Pass):
    """A product of functions of one signal, or a function of a function of it, becomes one function::

        x sigmoid(x), 0.5 x (1 + erf(x / sqrt 2)), x clamp(x + 3, 0, 6) / 6, log(1 + exp(x))

    Exporters write SiLU, GELU and Hardswish so. As one function it takes one set of ramps, where a product of signals
    takes two squares besides. What a comparison chooses between is one too, if it does not jump::

        where(x > 0, x, a x), x (x > 0)                     a leaky ReLU and a ReLU
        where(x > c, g x + s, h x + t)                      f(c) + g relu(x - c) - h relu(c - x)
        where(x > 20, x, log(1 + exp(x)))                   a curve
    """

    name = "join-functions"
    needs = ANN

    def run(self, graph: Graph, context: Context) -> int:
        """Look at every activation that is not straight, the last one first, for it may hold those before."""
        changes = 0
        for name in reversed(list(graph)):
            if name in graph and (choice := Choice.of(graph, name)) is not None:
                choice.write(graph)
                changes += 1
            elif name in graph and _is_curved(graph[name]) and (found := _cone(graph, name)) is not None:
                changes += _join(graph, name, *found)
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


def _bounds(graph: Graph, source: str, inside: Sequence[str]) -> list[float] | None:
    """Return at which numbers of the source the comparisons change; None where one does not by a line of it."""
    bounds: list[float] = []
    for name in inside:
        if isinstance(op := graph[name], Compare):
            (compared,) = graph.operands(name)
            line = line_of(graph, compared, source, [])
            if line is None or not line.gain.all():
                return None
            bounds += np.unique((op.bound - line.shift) / line.gain).tolist()
    return bounds


def _expect_steady(graph: Graph, root: str, joined: ComposedFunction, bound: float) -> None:
    """Refuse a function that is another one above a bound, and does not go on there from where it was below."""
    around = np.nextafter(bound, [-np.inf, np.inf])
    with torch.no_grad():
        below, above = joined.eval(torch.tensor(around)).tolist()
    if abs(above - below) > _STEADY * max(1.0, abs(above), abs(below)):
        jump = f"from {round(below, 6):g} to {round(above, 6):g}"
        message = f"it jumps at {bound:g} {jump}, and a rate changes steadily with its input"
        raise UnsupportedOpError(graph.problem(root, message, Where.hint))


def _join(graph: Graph, root: str, source: str, inside: Sequence[str]) -> bool:
    """Write one op in the place of the root, under another name as it takes another signal; remove what is not used.

    Returns whether it did: not where a comparison does not change at a known number.
    """
    if (bounds := _bounds(graph, source, inside)) is None:
        return False
    places = {source: 0} | {name: i for i, name in enumerate(inside, start=1)}
    steps: list[tuple[Any, tuple[int, ...]]] = []
    for name in inside:
        op = _alone(graph[name])
        assert op is not None
        steps.append((attrs.evolve(op, origin=()), tuple(places[x] for x in graph.operands(name))))
    origin = merge(*(graph[name].origin for name in reversed(inside)))
    joined = ComposedFunction(Steps(tuple(steps)), origin=origin)
    for bound in bounds:
        _expect_steady(graph, root, joined, bound)
    graph.replace_uses(root, graph.add(joined, source, name=f"{root}_joined"))
    graph.remove_dead(root)
    return True
