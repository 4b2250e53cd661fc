"""Graphs in graphs, and cycles: how NIR writes recurrent layers."""

import copy
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import nir
import numpy as np

from spikec.ir.errors import InvalidModelError, Problem, UnsupportedOpError, shown

#: in how many others a graph may lie
_DEEPEST = 16

#: what a weight on the way back may be
_WEIGHTS = (nir.Affine, nir.Linear, nir.Conv1d, nir.Conv2d)
_HINT = "feed spikes back to neurons directly, or through one Affine, Linear or convolution of their own"


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


def delayed(nodes: Mapping[str, Any], producers: Mapping[str, Iterable[str]]) -> dict[tuple[str, str], tuple[int, ...]]:
    """Return the edges that give the spikes of the step before, with the shape of what they carry.

    Back edges of a depth-first walk from the inputs are late by one step. That step is taken in front of the weights on
    the way back, so that before step 0 these see silent neurons: their bias acts from step 0 on.

    Args:
        nodes: of NIR, by name.
        producers: of each node.

    Raises:
        UnsupportedOpError: another node is on the way back.
    """
    users: dict[str, list[str]] = {name: [] for name in nodes}
    for end, starts in producers.items():
        for start in starts:
            users[start].append(end)
    found: dict[tuple[str, str], tuple[int, ...]] = {}
    for start, end in _back_edges(nodes, users):
        node = nodes[start]
        if isinstance(node, _WEIGHTS) and users[start] == [end]:
            end, (start, *others) = start, producers[start]
            matrix = np.shape(node.weight)
            shape = matrix[1:] if len(matrix) == 2 else np.shape(getattr(nodes[start], "v_threshold", ()))
        else:
            others, shape = [], np.shape(getattr(node, "v_threshold", ()))
        if others or not shape or not hasattr(nodes[start], "v_threshold"):
            kind = f"nir.{type(node).__name__}"
            raise UnsupportedOpError(Problem("a recurrence that is not of neurons alone", start, kind, _HINT))
        found[start, end] = shape
    return found


def _back_edges(nodes: Mapping[str, Any], users: Mapping[str, Collection[str]]) -> list[tuple[str, str]]:
    """Return the edges into nodes from which the walk came, inputs first; without recursion, for long chains."""
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
