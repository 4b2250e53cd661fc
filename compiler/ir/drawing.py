"""The drawing of a graph, top down: grandalf lays it out, templates write it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from spikec.ir.files import replacing
from spikec.ir.grouping import parts
from spikec.ir.op import Op, Role
from spikec.ir.origin import label
from spikec.ir.printer import type_text
from spikec.ir.templates import render

#: of a character, a line of text and a box's border, in pixels of an 11 pixel monospaced font
_CHARACTER, _LINE, _BORDER = 6.7, 14, 8
#: longer texts are cut in a box; its tooltip has the whole
_LONGEST = 34
#: rounds in which crossings of edges are removed (Sugiyama et al. 1981)
_ROUNDS = 3
#: a graph with more ops is drawn in parts
_MOST = 600
#: points that long edges may run through, in all and for each box: with more the boxes are driven far apart
_POINTS, _POINTS_EACH = 100, 2


@attrs.define
class Box:
    """A node, or a part of a large graph, as it is drawn: up to three lines of text around a centre, in pixels.

    Attributes:
        name: of the node, or of the first one.
        lines: what stands in it.
        about: what a reader that sees no picture says of it.
        role: of its op, which gives the colour; ``part`` for several nodes.
        members: the nodes that it stands for.
    """

    name: str
    lines: tuple[str, ...]
    about: str
    role: str
    w: float
    h: float
    members: tuple[str, ...]
    xy: tuple[float, float] = (0.0, 0.0)

    @property
    def left(self) -> float:
        """The x of its left side."""
        return self.xy[0] - self.w / 2

    @property
    def top(self) -> float:
        """The y of its upper side."""
        return self.xy[1] - self.h / 2


@attrs.define
class _Line:
    """Takes an edge's points from grandalf."""

    points: list[tuple[float, float]] = attrs.field(factory=list)

    def setpath(self, points: list[tuple[float, float]]) -> None:
        self.points = points


@attrs.frozen
class Drawing:
    """Boxes, and for each edge the names of its ends and its path in SVG's terms; in pixels from 0.

    ``note`` says how the drawing differs from one box an op.
    """

    boxes: tuple[Box, ...]
    edges: tuple[tuple[str, str, str], ...]
    width: float
    height: float
    note: str


def lay_out(nodes: Sequence[tuple[str, Op, Sequence[str]]], type_of: Callable[[str], Any]) -> Drawing:
    """Place nodes, given with their operands in topological order but for the edges that lead back to a register.

    Graphs of more than 600 ops are drawn in at most 240 parts. The longest edges run beside the boxes where
    there are many, which would drive the boxes far apart.
    """
    from grandalf.graphs import Edge, Vertex  # only who draws waits for it
    from grandalf.graphs import Graph as Layered

    boxes = _boxes(nodes, type_of)
    holder = {member: box.name for box in boxes.values() for member in box.members}
    ends = list(
        dict.fromkeys(
            (holder[operand], holder[name])
            for name, _, operands in nodes
            for operand in operands
            if holder[operand] != holder[name] or operand == name
        )
    )
    place = {name: index for index, name in enumerate(boxes)}
    beside = _beside(ends, place)
    vertices = {name: Vertex(name) for name in boxes}
    for name, vertex in vertices.items():
        vertex.view = boxes[name]
    edges = {each: Edge(vertices[each[0]], vertices[each[1]]) for each in ends if each not in beside}
    for edge in edges.values():
        edge.view = _Line()
    back = {edge for (start, end), edge in edges.items() if place[start] >= place[end]}
    right = 0.0
    for component in Layered(list(vertices.values()), list(edges.values())).C:
        right = _place(component, back, right)
    note = _note(len(nodes), len(boxes), len(beside))
    top = min(box.top for box in boxes.values()) - (2 if note else 1) * _LINE
    for box in boxes.values():
        box.xy = (box.xy[0], box.xy[1] - top)
    lines = []
    for start, end in ends:
        if (start, end) in beside:
            path, side = _arc(boxes[start], boxes[end])
            right = max(right, side)
        else:
            path = _path(boxes[start], boxes[end], edges[start, end].view.points, top)
        lines.append((start, end, path))
    width, height = max(right, len(note) * _CHARACTER), max(b.top + b.h for b in boxes.values()) + _LINE
    return Drawing(tuple(boxes.values()), tuple(lines), width, height, note)


def _boxes(nodes: Sequence[tuple[str, Op, Sequence[str]]], type_of: Callable[[str], Any]) -> dict[str, Box]:
    """Return a box for each node, or for each part of a graph with many, by its name or that of its first node."""
    ops = {name: op for name, op, _ in nodes}
    if len(nodes) <= _MOST:
        return {name: _box(name, op, type_text(type_of, name)) for name, op in ops.items()}
    found = {}
    for part in parts(nodes):
        name, last = part.members[0], part.members[-1]
        result = type_text(type_of, last)
        if len(part.members) == 1:
            found[name] = _box(name, ops[name], result)
        else:
            texts = (part.title, f"{len(part.members)} ops", result)
            about = f"{len(part.members)} ops of {part.title}, %{name} to %{last}, {result}"
            found[name] = _boxed(name, "part", texts, about, part.members)
    return found


def _box(name: str, op: Op, result: str) -> Box:
    source = label(op.origin)
    role = "weighted" if op.role is Role.LINEAR and op.parameters() else op.role.value
    about = f"{op.kind} {name}, {result}{f', from {source}' if source else ''}"
    return _boxed(name, role, (op.kind if op.kind == name else f"{op.kind}  %{name}", source, result), about, (name,))


def _boxed(name: str, role: str, texts: Sequence[str], about: str, members: tuple[str, ...]) -> Box:
    lines = tuple(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…" for text in texts if text)
    width = max(map(len, lines)) * _CHARACTER + 2 * _BORDER
    return Box(name, lines, about, role, width, len(lines) * _LINE + 2 * _BORDER, members)


def _beside(ends: Sequence[tuple[str, str]], place: dict[str, int]) -> set[tuple[str, str]]:
    """Return the longest edges, those that are too many to be laid out; what they join stays joined by others."""
    rank = dict.fromkeys(place, 0)
    forward = [(start, end) for start, end in ends if place[start] < place[end]]
    for start, end in sorted(forward, key=lambda each: place[each[1]]):
        rank[end] = max(rank[end], rank[start] + 1)
    spans = sorted(forward, key=lambda each: rank[each[1]] - rank[each[0]])
    most = _POINTS + _POINTS_EACH * len(place)
    points = itertools.accumulate(rank[end] - rank[start] - 1 for start, end in spans)
    return {each for each, total in zip(spans, points, strict=True) if total > most}


def _note(ops: int, boxes: int, beside: int) -> str:
    """Say what is not one box an op, or an edge from box to box."""
    said = [f"{ops} ops drawn as {boxes} parts, by the modules that they come from"] if boxes < ops else []
    said += [f"the {beside} longest edges run at the right of the boxes"] if beside else []
    return "; ".join(said)


def _place(component: Any, back: set[Any], left: float) -> float:
    """Lay out what is connected, right of what is there; return its right side."""
    from grandalf.layouts import SugiyamaLayout

    layout = SugiyamaLayout(component)
    layout.xspace, layout.yspace = 24, 26
    layout.dw, layout.dh = 1, 1  # the points that long edges run through, which would take a box's room
    layout.init_all(inverted_edges=[edge for edge in component.E() if edge in back])
    layout.draw(_ROUNDS)
    views = [vertex.view for vertex in component.V()]
    bent = [point for edge in component.E() for point in edge.view.points[1:-1]]
    move = left + _LINE - min([view.xy[0] - view.w / 2 for view in views] + [x for x, _ in bent])
    for view in views:
        view.xy = (view.xy[0] + move, view.xy[1])
    for edge in component.E():
        edge.view.points = [(x + move, y) for x, y in edge.view.points]
    right: float = max([view.xy[0] + view.w / 2 for view in views] + [x + move for x, _ in bent])
    return right + _LINE


def _path(start: Box, end: Box, points: Sequence[tuple[float, float]], top: float) -> str:
    """Write an edge as curves that leave a box downwards and enter the next from above."""
    if start.top > end.top or start is end:  # back to a register: along the left side
        side = min(start.left, end.left) - _LINE
        y0, y1 = start.xy[1], end.xy[1]
        return f"M{start.left:.0f} {y0:.0f}C{side:.0f} {y0:.0f} {side:.0f} {y1:.0f} {end.left:.0f} {y1:.0f}"
    bent = [(x, y - top) for x, y in points[1:-1]]
    through = [(start.xy[0], start.top + start.h), *sorted(bent, key=lambda point: point[1]), (end.xy[0], end.top)]
    path = f"M{through[0][0]:.0f} {through[0][1]:.0f}"
    for (x0, y0), (x1, y1) in itertools.pairwise(through):
        middle = (y0 + y1) / 2
        path += f"C{x0:.0f} {middle:.0f} {x1:.0f} {middle:.0f} {x1:.0f} {y1:.0f}"
    return path


def _arc(start: Box, end: Box) -> tuple[str, float]:
    """Write an edge at the right of the boxes, further out the longer it is; also return how far out."""
    y0, y1 = start.xy[1], end.xy[1]
    x0, x1 = start.left + start.w, end.left + end.w
    side = max(x0, x1) + 2 * _LINE + min((y1 - y0) / 20, 20 * _LINE)
    return f"M{x0:.0f} {y0:.0f}C{side:.0f} {y0:.0f} {side:.0f} {y1:.0f} {x1:.0f} {y1:.0f}", side


def draw(
    name: str,
    nodes: Sequence[tuple[str, Op, Sequence[str]]],
    type_of: Callable[[str], Any],
    path: str | os.PathLike[str] | None = None,
    *,
    alone: bool = True,
) -> str:
    """Draw a graph as SVG; ``alone`` as a file of its own, which brings its colours. See :meth:`Graph.draw`."""
    drawn = render("graph.svg.j2", title=name, drawing=lay_out(nodes, type_of), alone=alone)
    if path is not None:
        with replacing(path) as part:
            part.write_text(drawn)
    return drawn
