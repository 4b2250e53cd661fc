"""The drawing of a graph, top down: grandalf lays it out, templates write it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from spikec.ir.files import replacing
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


@attrs.define
class Box:
    """A node as it is drawn: up to three lines of text around a centre, in pixels.

    Attributes:
        name: of the node.
        kind: of its op.
        lines: what stands in it.
        about: what a reader that sees no picture says of it.
        role: of its op, which gives the colour.
    """

    name: str
    kind: str
    lines: tuple[str, ...]
    about: str
    role: str
    w: float
    h: float
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
    """Boxes, and for each edge the names of its ends and its path in SVG's terms; in pixels from 0."""

    boxes: tuple[Box, ...]
    edges: tuple[tuple[str, str, str], ...]
    width: float
    height: float


def lay_out(nodes: Sequence[tuple[str, Op, Sequence[str]]], type_of: Callable[[str], Any]) -> Drawing:
    """Place nodes, given with their operands in topological order but for the edges that lead back to a register."""
    from grandalf.graphs import Edge, Vertex  # only who draws waits for it
    from grandalf.graphs import Graph as Layered

    boxes = {name: _box(name, op, type_text(type_of, name)) for name, op, _ in nodes}
    vertices = {name: Vertex(name) for name in boxes}
    for name, vertex in vertices.items():
        vertex.view = boxes[name]
    place = {name: index for index, name in enumerate(boxes)}
    edges, back = [], set()
    for name, _, operands in nodes:
        for operand in dict.fromkeys(operands):
            edge = Edge(vertices[operand], vertices[name])
            edge.view = _Line()
            edges.append(edge)
            if place[operand] >= place[name]:
                back.add(edge)
    ends = [(edge, edge.v[0].data, edge.v[1].data) for edge in edges]
    right = 0.0
    for component in Layered(list(vertices.values()), edges).C:
        right = _place(component, back, right)
    top = min(box.top for box in boxes.values()) - _LINE
    for box in boxes.values():
        box.xy = (box.xy[0], box.xy[1] - top)
    lines = tuple((a, b, _path(boxes[a], boxes[b], edge.view.points, top)) for edge, a, b in ends)
    return Drawing(tuple(boxes.values()), lines, right, max(b.top + b.h for b in boxes.values()) + _LINE)


def _box(name: str, op: Op, result: str) -> Box:
    source = label(op.origin)
    texts = (op.kind if op.kind == name else f"{op.kind}  %{name}", source, result)
    lines = tuple(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…" for text in texts if text)
    width = max(map(len, lines)) * _CHARACTER + 2 * _BORDER
    role = "weighted" if op.role is Role.LINEAR and op.parameters() else op.role.value
    about = f"{op.kind} {name}, {result}{f', from {source}' if source else ''}"
    return Box(name, op.kind, lines, about, role, width, len(lines) * _LINE + 2 * _BORDER)


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
