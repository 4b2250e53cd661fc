"""Every op knows which of the user's lines it came from."""

import inspect
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nets
import spikec
from spikec.ir.ops import Conv, Linear


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x):
        y = F.relu(self.lin(x))  # line: block
        y = y + x  # line: sum
        y += x  # line: inplace
        return y.relu()  # line: method


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()
        self.head = nn.Sequential(
            nn.Linear(4, 3),
            nn.ReLU(),
        )

    def forward(self, x):
        x = self.block(x)  # line: first
        x = self.block(x)  # line: second
        x = x.view(x.size(0), -1)  # line: view
        return self.head(x)  # line: head


def line(mark):
    source = inspect.getsource(inspect.getmodule(Net)).splitlines()
    return next(i for i, text in enumerate(source, start=1) if f"# line: {mark}" in text)


@pytest.fixture(scope="module")
def graph():
    return spikec.load(Net(), torch.zeros(2, 4))


def rows(graph):
    return [(name, *((s.path, s.kind, s.line) for s in graph[name].origin)) for name in graph]


def test_path_kind_and_line_of_every_op(graph):
    assert rows(graph) == [
        ("x",),
        ("block_lin", ("block.lin", "nn.Linear", line("block"))),
        ("block_relu", ("block", "F.relu", line("block"))),
        ("block_add", ("block", "+", line("sum"))),
        ("block_add_1", ("block", "+=", line("inplace"))),
        ("block_relu_1", ("block", "Tensor.relu", line("method"))),
        ("block_lin_1", ("block.lin", "nn.Linear", line("block"))),
        ("block_relu_2", ("block", "F.relu", line("block"))),
        ("block_add_2", ("block", "+", line("sum"))),
        ("block_add_3", ("block", "+=", line("inplace"))),
        ("block_relu_3", ("block", "Tensor.relu", line("method"))),
        ("view", ("", "Tensor.view", line("view"))),
        ("head_0", ("head.0", "nn.Linear", line("head"))),
        ("head_1", ("head.1", "nn.ReLU", line("head"))),
        ("output",),
    ]
    assert {s.file for s in graph.sources} == {__file__}


def test_a_module_called_twice_is_two_nodes(graph):
    first, second = (node for node in graph.match(Linear) if node.op.origin[0].path == "block.lin")
    assert first.op.origin[0].node != second.op.origin[0].node
    assert (first.op.weight == second.op.weight).all()


def test_every_call_of_the_trace_is_held_or_dropped(graph):
    calls = [n.name for n in torch.fx.symbolic_trace(Net()).graph.nodes if n.op.startswith("call")]
    assert len({source.node for source in graph.sources}) == len(calls)


def test_sequential_alone_has_paths_and_no_line_of_the_caller():
    graph = spikec.load(nets.build("cnn"), nets.batch("cnn"))
    assert [s.label for s in graph[graph.outputs[0]].origin] == []
    assert {s.file for s in graph.sources} == {""}
    assert [node.op.origin[0].path for node in graph.match(Conv)] == ["0", "4", "8"]


def test_dumps_hold_no_absolute_path(graph):
    assert not re.search(r"/\w+/", str(graph))


def test_a_graph_module_keeps_what_its_tracer_recorded():
    class Tracer(torch.fx.Tracer):
        record_stack_traces = True

    model = Net()
    graph = spikec.load(torch.fx.GraphModule(model, Tracer().trace(model)), torch.zeros(2, 4))
    assert ("block_relu", ("block", "F.relu", line("block"))) in rows(graph)


def test_names_do_not_depend_on_what_was_loaded_before():
    torch.manual_seed(0)
    model = Net()
    assert str(spikec.load(model)) == str(spikec.load(model))


def test_frames_outside_of_the_trace_are_not_the_users_layer():
    assert [source.line for source in spikec.load(nn.Sequential(nn.ReLU()), torch.zeros(1, 2)).sources] == [0]


def test_the_innermost_of_the_users_frames_counts_in_a_graph_module():
    model = torch.fx.symbolic_trace(nn.Sequential(nn.ReLU()))
    frames = [f'  File "{__file__}", line {number}, in forward\n    x = relu(x)\n' for number in (1, 3)]
    next(node for node in model.graph.nodes if node.op == "call_module").stack_trace = "".join(frames)
    assert [source.line for source in spikec.load(model, torch.zeros(1, 2)).sources] == [3]
