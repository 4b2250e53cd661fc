"""Patterns for passes: chains of ops that nobody else looks into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spikec.ir.graph import Graph, Node
from spikec.ir.op import Op
from spikec.ir.ops import Add, Neuron, Rescale, Weighted


def chains(graph: Graph, *kinds: type[Op]) -> list[tuple[Node[Any], ...]]:
    """Every run of ops of these classes, producer first, in which each result but the last has one user."""
    found = []
    for last in graph.match(kinds[-1]):
        chain: list[Node[Any]] = [last]
        for kind in reversed(kinds[:-1]):
            operands = graph.operands(chain[0].name)
            if len(operands) != 1 or not isinstance(graph[operands[0]], kind) or len(graph.users(operands[0])) != 1:
                break
            chain.insert(0, Node(operands[0], graph[operands[0]]))
        else:
            found.append(tuple(chain))
    return found


def rewrite(graph: Graph, kinds: tuple[type[Op], ...], function: Callable[..., bool]) -> int:
    """Call ``function(*nodes)`` on every chain; returns how often it returned True, which says that it changed it.

    Chains that a change broke are looked for again, so of three ops in a row the third meets what became of two.
    """
    changes, broken = 0, True
    while broken:
        broken = False
        for chain in chains(graph, *kinds):
            if all(node.name in graph and graph[node.name] is node.op for node in chain):
                changes += bool(function(*chain))
            else:
                broken = True
    return changes


def makers(graph: Graph, name: str) -> tuple[str, ...]:
    """The neurons that say what a ReLU of that name says: the one of the name, or those whose sum has it; or none."""
    if name not in graph:
        return ()
    if isinstance(graph[name], Neuron):
        return (name,)
    operands = graph.operands(name) if isinstance(graph[name], Add) else ()
    return operands if all(isinstance(graph[each], Neuron) for each in operands) else ()


def bias_of(graph: Graph, *neurons: str) -> Node[Weighted] | None:
    """The affine op whose bias reaches these neurons and nothing else: alone, or as one operand of a sum."""
    name, reached = neurons[0], sorted(neurons)
    while True:
        operands = graph.operands(name)
        for operand in operands:
            op = graph[operand]
            if isinstance(op, Weighted) and sorted(user for user, _ in graph.users(operand)) == reached:
                return Node(operand, op)
        (name,) = operands[:1]
        if not isinstance(graph[name], (Add, Rescale)) or sorted(user for user, _ in graph.users(name)) != reached:
            return None
        reached = [name]
