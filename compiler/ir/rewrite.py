"""Patterns for passes: ops in a row, and what belongs to a neuron."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from spikec.ir.graph import Graph, Node
from spikec.ir.op import Op
from spikec.ir.ops import Add, Flatten, Neuron, Relu, Rescale, Reshape, Weighted

#: an op class, or several of which any will do
Kinds = type[Op] | tuple[type[Op], ...]
#: ops that give what they read in another shape
SHAPES = (Flatten, Reshape)


def chains(graph: Graph, *kinds: Kinds, shared: bool = False) -> list[tuple[Node[Any], ...]]:
    """Find every run of ops of these classes, producer first; through an op of several operands one for each that fits.

    Args:
        graph: is not changed.
        kinds: what the ops are, producer first.
        shared: whether a result inside a run may have other users too, which a rewrite must then leave as it is.
    """

    def grown(chain: tuple[Node[Any], ...], wanted: Sequence[Kinds]) -> Iterator[tuple[Node[Any], ...]]:
        if not wanted:
            yield chain
            return
        for operand in dict.fromkeys(graph.operands(chain[0].name)):
            op = graph[operand]
            if isinstance(op, wanted[-1]) and (shared or len(graph.users(operand)) == 1):
                yield from grown((Node(operand, op), *chain), wanted[:-1])

    last = [Node(name, op) for name, op in graph.items() if isinstance(op, kinds[-1])]
    return [chain for node in last for chain in grown((node,), kinds[:-1])]


def rewrite(graph: Graph, kinds: tuple[Kinds, ...], function: Callable[..., bool], *, shared: bool = False) -> int:
    """Call ``function(*nodes)`` on every chain; returns how often it returned True, which says that it changed it.

    Chains that a change broke are looked for again, so of three ops in a row the third meets what became of two.

    Args:
        graph: what to change.
        kinds: as for :func:`chains`; ``(Conv, (Relu, Clamp))`` is a Conv and behind it a Relu or a Clamp.
        function: is given a node for each of the kinds, and changes the graph or returns False.
        shared: as for :func:`chains`.
    """
    changes, broken = 0, True
    while broken:
        broken = False
        for chain in chains(graph, *kinds, shared=shared):
            if _stands(graph, chain):
                changes += bool(function(*chain))
            else:
                broken = True
    return changes


def _stands(graph: Graph, chain: Sequence[Node[Any]]) -> bool:
    """Whether a chain that was found before some changes is still there."""
    return all(node.name in graph and graph[node.name] is node.op for node in chain) and all(
        first.name in graph.operands(second.name) for first, second in itertools.pairwise(chain)
    )


def follow(graph: Graph, name: str, wanted: Kinds, through: Kinds) -> str | None:
    """Find the first node of some kinds behind this one, if everything on the way has one user and is of the others."""
    while len(graph.users(name)) == 1:
        ((name, _),) = graph.users(name)
        if isinstance(graph[name], wanted):
            return name
        if not isinstance(graph[name], through):
            return None
    return None


def before_shapes(graph: Graph, name: str) -> str:
    """Return the node that gives a node's only operand, whatever changes of shape are between them."""
    (source,) = graph.operands(name)
    while isinstance(graph[source], SHAPES):
        (source,) = graph.operands(source)
    return source


def is_behind(graph: Graph, name: str, kind: type[Op]) -> bool:
    """Whether an op of a class is in front of a node, however far."""
    return any(isinstance(graph[each], kind) for each in graph.before(name))


def neurons_of(graph: Graph, relu: str) -> tuple[str, ...]:
    """Find the neurons of a spiking graph that stand for a ReLU of the ANN.

    A neuron has its ReLU's name. Where several stand for one ReLU (``replicate-neurons``), the sum of them has it.
    Empty where there is neither.
    """
    if relu not in graph:
        return ()
    if isinstance(graph[relu], Neuron):
        return (relu,)
    operands = graph.operands(relu) if isinstance(graph[relu], Add) else ()
    return operands if all(isinstance(graph[each], Neuron) for each in operands) else ()


def neurons_by_relu(graph: Graph, ann: Graph) -> dict[str, tuple[str, ...]]:
    """Find the neurons that stand for each ReLU of the ANN, also those that a pass gave other names.

    Such a neuron still has the ReLU's origin and shape, and if several have, the same affine op in front of it. Where
    that does not tell them apart, there is none.
    """
    found = {node.name: neurons_of(graph, node.name) for node in ann.match(Relu)}

    def origin(of: Graph, name: str) -> object:
        return of[name].origin, of.type(name).shape

    def feeder(of: Graph, name: str) -> object:
        affine = (x for x in of.before(name) if isinstance(of[x], Weighted) and x in graph and x in ann)
        return origin(of, name), next(affine, None)

    for mark in (origin, feeder):
        known = {name for neurons in found.values() for name in neurons}
        lost = _by_mark(ann, mark, [name for name, neurons in found.items() if not neurons])
        free = _by_mark(graph, mark, [node.name for node in graph.match(Neuron) if node.name not in known])
        for key in lost.keys() & free.keys():
            if len(lost[key]) == len(free[key]) == 1:
                found[lost[key][0]] = (free[key][0],)
    return found


def _by_mark(graph: Graph, mark: Callable[[Graph, str], object], names: Sequence[str]) -> dict[object, list[str]]:
    groups: dict[object, list[str]] = {}
    for name in names:
        groups.setdefault(mark(graph, name), []).append(name)
    return groups


def bias_owner(graph: Graph, *neurons: str) -> Node[Weighted] | None:
    """Find the affine op whose bias reaches all of these neurons and nothing else.

    Between it and them there may be sums, to which it is one operand, and casts. None where there is no such op.
    """
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
