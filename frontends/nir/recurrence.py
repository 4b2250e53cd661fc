"""Graphs in graphs, and cycles: how NIR writes recurrent layers."""

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import nir
import numpy as np

from spikec.ir.errors import InvalidModelError, Problem, UnsupportedOpError, shown
from spikec.ir.graph import Graph
from spikec.ir.types import Array

#: in how many others a graph may lie
_DEEPEST = 16

#: what a weight on the way back may be
_WEIGHTS = (nir.Affine, nir.Linear, nir.Conv1d, nir.Conv2d)


def pairs(graph: Any) -> list[tuple[str, str]]:
    """Return the edges of a graph.

    Raises:
        InvalidModelError: one is no pair.
    """
    for edge in graph.edges:
        if not isinstance(edge, (tuple, list)) or len(edge) != 2:
            raise InvalidModelError(f"the edge {shown(edge)} is no pair of names")
    return [(start, end) for start, end in graph.edges]


def inlined(graph: Any, depth: int = 0) -> Any:
    """Return a NIR graph without graphs in it: ``outer.inner`` for node ``inner`` of the graph that is node ``outer``.

    What a graph's metadata say of all its neurons is passed on to them. A graph is in ``depth`` others.
    """
    if not any(isinstance(node, nir.NIRGraph) for node in graph.nodes.values()):
        return graph
    if depth > _DEEPEST:
        raise InvalidModelError(f"graphs lie in more than {_DEEPEST} others", hint="write the graph without such depth")
    nodes: dict[str, Any] = {}
    edges = list[tuple[str, str]]()
    entries: dict[str, list[str]] = {}
    exits: dict[str, list[str]] = {}
    for name, node in graph.nodes.items():
        if not isinstance(node, nir.NIRGraph):
            nodes[name], entries[name], exits[name] = node, [name], [name]
            continue
        inner = inlined(node, depth + 1)
        ports = {port for port, each in inner.nodes.items() if isinstance(each, (nir.Input, nir.Output))}
        if len(ports) != 2 or any(set(edge) == ports for edge in pairs(inner)):
            hint = "give it one Input and one Output, with nodes between them"
            raise UnsupportedOpError(Problem("a graph in a graph has other ends", name, "nir.NIRGraph", hint))
        for key, each in inner.nodes.items():
            if key not in ports:
                nodes[f"{name}.{key}"] = _with_metadata(each, node.metadata)
        edges += [(f"{name}.{a}", f"{name}.{b}") for a, b in pairs(inner) if not ports.intersection((a, b))]
        entries[name] = [f"{name}.{b}" for a, b in pairs(inner) if a in ports]
        exits[name] = [f"{name}.{a}" for a, b in pairs(inner) if b in ports]
    for start, end in pairs(graph):
        edges += [(a, b) for a in exits.get(start, [start]) for b in entries.get(end, [end])]
    return nir.NIRGraph(nodes, edges, metadata=graph.metadata, type_check=False)


def _with_metadata(node: Any, common: Mapping[str, Any]) -> Any:
    known = {key: common[key] for key in ("reset", "v_init") if key in common}
    if not (known and hasattr(node, "v_threshold")):
        return node
    changed = copy.copy(node)
    changed.metadata = {**known, **node.metadata}
    return changed


def delayed(
    nodes: Mapping[str, Any],
    producers: Mapping[str, Iterable[str]],
    back: Iterable[tuple[str, str]],
    bias_first: bool,
) -> set[tuple[str, str]]:
    """Return the edges that give what their source gave a step before.

    These are the :func:`back_edges`. Where one comes from weights that read one neuron
    and nothing else reads, the step is taken in front of the weights, so that the weights see silent neurons before
    step 0: their bias acts from step 0 on. Where it does not act then, that holds of weights without a bias alone.

    Args:
        nodes: of NIR, by name.
        producers: of each node.
        back: the back edges.
        bias_first: whether a bias on the way back acts at step 0.
    """
    found: set[tuple[str, str]] = set()
    users = Counter(start for starts in producers.values() for start in starts)
    for start, end in back:
        node, behind = nodes[start], list(producers[start])
        moves = isinstance(node, _WEIGHTS) and users[start] == 1 and len(behind) == 1
        silent = bias_first or not np.any(getattr(node, "bias", None))
        if moves and silent and _fires(nodes[behind[0]]):
            found.add((behind[0], start))
        else:
            found.add((start, end))
    return found


def _fires(node: Any) -> bool:
    return hasattr(node, "v_threshold") or isinstance(node, nir.Threshold)


def silent(graph: Graph, name: str) -> Array:
    """Return what a node gives, for one sample, where all inputs are 0 and nothing with a state gives anything."""
    op, signal = graph[name], graph.type(name)
    if op.timed:
        return np.zeros(signal.shape)
    return op.on_arrays(*(silent(graph, operand) for operand in graph.operands(name)))


def back_edges(nodes: Mapping[str, Any], producers: Mapping[str, Iterable[str]]) -> list[tuple[str, str]]:
    """Return the edges of a depth-first walk, inputs first, into nodes from which it came; it goes long chains too."""
    users: dict[str, list[str]] = {name: [] for name in nodes}
    for end, starts in producers.items():
        for start in starts:
            users[start].append(end)
    found: list[tuple[str, str]] = []
    done: set[str] = set()
    for root in sorted(nodes, key=lambda name: not isinstance(nodes[name], nir.Input)):
        path: dict[str, Any] = {} if root in done else {root: iter(users[root])}
        while path:
            name = next(reversed(path))
            user = next(path[name], None)
            if user is None:
                done.add(name)
                del path[name]
            elif user in path:
                found.append((name, user))
            elif user not in done:
                path[user] = iter(users[user])
    return found
