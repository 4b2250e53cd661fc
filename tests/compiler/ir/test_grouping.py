"""Large graphs in parts. That two parts feed each other is looked for with networkx."""

import xml.etree.ElementTree as ET

import attrs
import networkx
import numpy as np
import pytest

from spikec.ir.drawing import lay_out
from spikec.ir.graph import Graph
from spikec.ir.grouping import parts
from spikec.ir.ops import Add, Input, Linear, Output, Relu
from spikec.ir.origin import Source

SVG = "{http://www.w3.org/2000/svg}"
EYE = np.eye(2)


def blocks(count, name="stage{}.{}", each=4):
    """Residual blocks of five ops in modules, ``each`` blocks in one of the outer ones."""
    graph = Graph("blocks")
    last = graph.add(Input((2,)), name="x")
    for index in range(count):
        start, path = last, name.format(index // each, index % each)
        for layer in ("one", "two"):
            last = graph.add(Linear(EYE, origin=(Source(f"l{index}{layer}", f"{path}.{layer}"),)), last)
            last = graph.add(Relu(origin=(Source(f"r{index}{layer}", f"{path}.{layer}"),)), last)
        last = graph.add(Add(origin=(Source(f"a{index}", path),)), last, start)
    graph.add(Output(), last)
    return graph


def nodes_of(graph):
    return [(name, graph[name], graph.operands(name)) for name in graph]


def quotient(graph, found):
    part_of = {name: index for index, part in enumerate(found) for name in part.members}
    joined = networkx.DiGraph()
    for name in graph:
        edges = ((part_of[operand], part_of[name]) for operand in graph.operands(name))
        joined.add_edges_from(edge for edge in edges if edge[0] != edge[1])
    return joined


@pytest.mark.parametrize(("graph", "title"), [(blocks(480), "stage3"), (blocks(900, "layers.{}{}", 10), "layers.123")])
def test_parts_are_modules_and_feed_only_later_ones(graph, title):
    found = parts(nodes_of(graph))
    assert len(found) <= 240
    assert [name for part in found for name in part.members] == list(graph)
    assert networkx.is_directed_acyclic_graph(quotient(graph, found))
    assert any(part.title == title or part.title.startswith(f"{title} to ") for part in found), found[:3]


@pytest.mark.slow
def test_without_modules_neighbours_are_put_together():
    graph = blocks(2000)
    bare = [(name, attrs.evolve(op, origin=()), operands) for name, op, operands in nodes_of(graph)]
    found = parts(bare)
    assert len(found) <= 240
    assert max(len(part.members) for part in found) == -(-len(graph) // 240)
    assert found[0].title.startswith("%x to %")


@pytest.mark.slow
def test_five_hundred_ops_are_drawn_one_by_one():
    graph = blocks(100)
    drawing = lay_out(nodes_of(graph), graph.type)
    assert len(drawing.boxes) == 502
    assert drawing.note == ""


@pytest.mark.slow
def test_a_graph_with_ten_thousand_ops_is_drawn_in_parts_and_says_so():
    graph = blocks(2000)
    drawn = ET.fromstring(graph.draw())
    boxes = [each for each in drawn.iter(f"{SVG}g") if each.get("data-node")]
    assert len(boxes) <= 240
    members = [name for box in boxes for name in (box.get("data-members") or box.get("data-node")).split()]
    assert members == list(graph)
    assert drawn.get("data-note") == f"10002 ops drawn as {len(boxes)} parts, by the modules that they come from"
    assert drawn.get("data-note") in [each.text for each in drawn.iter(f"{SVG}text")]


@pytest.mark.slow
def test_many_long_edges_run_beside_the_boxes_which_stay_close():
    graph = Graph("dense")
    before = [graph.add(Input((2,)), name="x")]
    for _ in range(45):
        total = before[-1]
        for each in before[-13:-1]:
            total = graph.add(Add(), total, each)
        before.append(total)
    graph.add(Output(), before[-1])
    drawing = lay_out(nodes_of(graph), graph.type)
    assert "longest edges run at the right" in drawing.note
    joined = {(operand, name) for name in graph for operand in graph.operands(name)}
    assert {each[:2] for each in drawing.edges} == joined
    assert drawing.width < 5000
