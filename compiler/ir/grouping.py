"""Parts of a graph that has too many ops to be drawn one by one: by the user's modules, as coarse as need be."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import attrs

from spikec.ir.op import Op

#: parts of a graph at most; where the modules of a level are fewer than a twentieth, those below them are bundled
_MOST = 240


@attrs.frozen
class Part:
    """Consecutive nodes of a graph, under the name of the modules that they come from."""

    title: str
    members: tuple[str, ...]


def parts(nodes: Sequence[tuple[str, Op, Sequence[str]]]) -> list[Part]:
    """Divide nodes in topological order into at most 240 runs, so that no two parts feed each other.

    A part is a run of nodes of one module, of the deepest level that has few enough runs. Where the modules of that
    level say too little, for instance if a single list holds all layers, it is some runs of the level below.
    """
    paths = _paths(nodes)
    finest = [Part(f"%{name}", (name,)) for name, _, _ in nodes]
    for depth in range(max(map(len, paths), default=0), -1, -1):
        runs = _runs(nodes, paths, depth)
        if len(runs) <= _MOST:
            return runs if len(runs) * 20 >= _MOST else _bundled(finest)
        finest = runs
    return _bundled(finest)


def _paths(nodes: Sequence[tuple[str, Op, Sequence[str]]]) -> list[tuple[str, ...]]:
    """Return the modules of each node from the outermost on; what has no origin belongs to the node before it."""
    found: list[tuple[str, ...]] = []
    for _, op, _ in nodes:
        path = op.origin[0].path if op.origin else None
        last = found[-1] if found else ()
        found.append(last if path is None else tuple(filter(None, re.split("[./]", path))))
    return found


def _runs(nodes: Sequence[tuple[str, Op, Sequence[str]]], paths: Sequence[tuple[str, ...]], depth: int) -> list[Part]:
    """Return the runs of nodes that have the same modules down to a depth."""
    both = zip(nodes, paths, strict=True)
    found = []
    for modules, run in itertools.groupby(both, key=lambda each: each[1][:depth]):
        members = tuple(name for (name, _, _), _ in run)
        found.append(Part(".".join(modules) or f"%{members[0]}", members))
    return found


def _bundled(runs: Sequence[Part]) -> list[Part]:
    """Put neighbouring runs together, as many in each part as need be."""
    size = -(-len(runs) // _MOST)
    found = []
    for start in range(0, len(runs), size):
        some = runs[start : start + size]
        title = some[0].title if len(some) == 1 else f"{some[0].title} to {some[-1].title}"
        found.append(Part(title, tuple(name for each in some for name in each.members)))
    return found
