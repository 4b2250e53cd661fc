import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from torch import nn

import build
import spikec
from spikec.ir.drawing import lay_out
from spikec.ir.graph import Graph
from spikec.ir.ops import Add, Delay, Input, Linear, Output
from spikec.ir.origin import Source

SVG = "{http://www.w3.org/2000/svg}"


def placed(graph):
    return lay_out([(name, graph[name], graph.operands(name)) for name in graph], graph.type)


def nodes_of(svg):
    return [each.get("data-node") for each in ET.fromstring(svg).iter(f"{SVG}g")]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        x = torch.relu(self.one(x))
        return self.three(torch.relu(self.two(x) + x)) + x


def test_every_op_is_a_box_below_its_operands_and_no_two_overlap():
    graph = spikec.load(Residual(), torch.rand(1, 4))
    drawing = placed(graph)
    boxes = {box.name: box for box in drawing.boxes}
    assert boxes.keys() == set(graph)
    for name in graph:
        for operand in graph.operands(name):
            assert boxes[operand].top + boxes[operand].h < boxes[name].top
    some = list(drawing.boxes)
    for i, one in enumerate(some):
        for other in some[i + 1 :]:
            apart = one.left + one.w <= other.left or other.left + other.w <= one.left
            assert apart or one.top + one.h <= other.top or other.top + other.h <= one.top
    assert all(
        box.left >= 0 and box.left + box.w <= drawing.width and box.top + box.h <= drawing.height for box in some
    )


def test_every_edge_is_drawn_once_between_the_boxes_that_it_joins():
    graph = spikec.load(Residual(), torch.rand(1, 4))
    wanted = {(operand, name) for name in graph for operand in graph.operands(name)}
    drawing = placed(graph)
    boxes = {box.name: box for box in drawing.boxes}
    assert sorted((a, b) for a, b, _ in drawing.edges) == sorted(wanted)
    for start, end, path in drawing.edges:
        numbers = [float(each) for each in re.findall(r"-?\d+", path)]
        assert numbers[:2] == pytest.approx([boxes[start].xy[0], boxes[start].top + boxes[start].h], abs=1)
        assert numbers[-2:] == pytest.approx([boxes[end].xy[0], boxes[end].top], abs=1)


def test_a_graph_draws_itself_into_a_file_that_a_browser_reads(tmp_path):
    graph = spikec.load(Residual(), torch.rand(1, 4))
    text = graph.draw(tmp_path / "net.svg")
    assert (tmp_path / "net.svg").read_text() == text == graph._repr_html_()
    assert nodes_of(text) == list(graph)
    assert "three" in text
    assert "real&lt;4&gt;" in text
    assert "prefers-color-scheme: dark" in text
    assert "<style>" not in graph.draw(alone=False)


def test_names_of_the_users_are_escaped():
    graph = Graph("<script>alert(1)</script>")
    x = graph.add(Input((2,), origin=(Source("x", "<b>&"),)), name="x")
    graph.add(Output(), x, name="y")
    text = graph.draw()
    assert "<script>" not in text
    assert [each.text for each in ET.fromstring(text).iter(f"{SVG}text")] == ["input  %x", "<b>&", "real<2>"] + [
        "output  %y",
        "real<2>",
    ]


def test_what_uses_an_operand_twice_and_what_is_apart_is_drawn():
    graph = Graph()
    x = graph.add(Input((2,)), name="x")
    graph.add(Output(), graph.add(Add(), x, x, name="twice"))
    y = graph.add(Input((2,)), name="y")
    graph.add(Output(), graph.add(Linear(np.eye(2)), y))
    drawing = placed(graph)
    assert len(drawing.boxes) == 6
    assert [each[:2] for each in drawing.edges].count(("x", "twice")) == 1


def test_a_graph_with_a_cycle_or_without_types_is_drawn_as_it_is():
    graph = build.mlp()
    weighted = graph.match(Linear)
    graph.set_operand(weighted[0].name, 0, weighted[1].name)
    assert sorted(nodes_of(graph.draw())) == sorted(graph.names())


def test_a_cycle_through_a_register_is_drawn_with_its_way_back():
    graph = Graph()
    x = graph.add(Input((3,)), name="x")
    memory = graph.add(Delay(graph.type(x)), x, name="memory")
    total = graph.add(Add(), x, memory, name="total")
    graph.add(Output(), total)
    graph.set_operand(memory, 0, total)
    drawing = placed(graph)
    boxes = {box.name: box for box in drawing.boxes}
    assert {each[:2] for each in drawing.edges} >= {("memory", "total"), ("total", "memory")}
    assert boxes["memory"].top < boxes["total"].top


def test_reprs_are_one_line_that_says_what_it_is():
    graph = spikec.load(Residual(), torch.rand(1, 4))
    assert repr(graph) == "<spikec.Graph Residual: 9 ops, 0 of them neurons; %x: real<4> -> %output: real<4>>"
