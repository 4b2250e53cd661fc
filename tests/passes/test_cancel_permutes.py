"""cancel-permutes: each rule alone, with numbers before and after, and what must stay."""

import numpy as np
import pytest
import torch

import spikec
from build import Builder
from spikec.extend.loader import pass_named
from spikec.extend.passbase import Context
from spikec.interpreter.contract import check_exact
from spikec.interpreter.probe import probe
from spikec.ir.errors import VerificationError
from spikec.ir.ops import (
    IF,
    Add,
    Clamp,
    Concat,
    Flatten,
    Head,
    LeakyRelu,
    Linear,
    Maximum,
    Pad,
    Permute,
    Relu,
    Reshape,
    Slice,
    Standardize,
)
from spikec.ir.stages import IMPORTED
from spikec.ir.verify import verify

LAST, FIRST = (1, 2, 0), (2, 0, 1)


def cancelled(graph):
    """The graph behind the pass, held to the one before it, and the number of changes."""
    after = graph.copy()
    changes = pass_named("cancel-permutes").run(after, Context(graph))
    verify(after, IMPORTED, graph.sources)
    check_exact(graph, after, probe(graph, None, 0))
    again = after.copy()
    assert pass_named("cancel-permutes").run(again, Context(graph)) == 0
    return after, changes


def kinds(graph):
    return [graph[name].kind for name in graph]


def test_two_that_undo_each_other_vanish():
    b = Builder(3, 4, 5)
    x = b.add(Permute(FIRST), b.add(Permute(LAST), b.x, name="there"), name="back")
    after, changes = cancelled(b.done(b.relu(x, "relu")))
    assert (kinds(after), changes) == (["input", "relu", "output"], 1)
    assert {source.node: why for source, why in after.imported.dropped.items()} == dict.fromkeys(
        ("there", "back"), "cancels with another transposition"
    )


def test_two_that_do_not_become_one_of_both_origins():
    b = Builder(3, 4, 5)
    x = b.add(Permute(LAST), b.add(Permute(LAST), b.x, name="one"), name="two")
    after, _ = cancelled(b.done(b.relu(x, "relu")))
    (node,) = after.match(Permute)
    assert node.op.axes == FIRST
    assert {source.node for source in node.op.origin} == {"one", "two"}


@pytest.mark.parametrize(
    "op",
    [
        Relu(),
        Clamp(-0.1, 0.2),
        LeakyRelu(np.linspace(-1, 1, 3)),
        LeakyRelu(np.linspace(-1, 1, 3).reshape(1, 1, 3)),
        Pad(((1, 2), (0, 0))),
        Pad(((1, 0), (-1, 2), (0, 1))),
        Slice(0, 1),
        Slice(-1, 0, 2),
        Head("softmax", -1),
        Head("softmax", 1),
    ],
)
def test_one_sinks_through_what_works_in_place(op):
    b = Builder(3, 4, 5)
    x = b.add(op, b.add(Permute(LAST), b.x, name="there"), name="op")
    after, _ = cancelled(b.done(b.add(Permute(FIRST), x, name="back")))
    assert kinds(after) == ["input", op.kind, "output"]


@pytest.mark.parametrize("op", [Add(), Maximum(), Concat(0), Concat(-1)])
def test_one_sinks_through_operands_of_one_order(op):
    b = Builder(3, 4, 5)
    left = b.add(Permute(LAST), b.conv(b.x, 3, "conv"), name="left")
    right = b.add(Permute(LAST), b.x, name="right")
    after, _ = cancelled(b.done(b.add(op, left, right, name="op")))
    assert kinds(after) == ["input", "conv", op.kind, "permute", "output"]


def test_operands_of_two_orders_stay():
    b = Builder(4, 4, 4)
    operands = [b.add(Permute(axes), b.x, name=f"p{i}") for i, axes in enumerate((LAST, FIRST))]
    graph = b.done(b.add(Add(), *operands, name="add"))
    after, changes = cancelled(graph)
    assert changes == 0
    assert after.same_as(graph)


def test_padding_by_the_maps_own_cells_stays_in_front():
    b = Builder(3, 4, 5)
    x = b.add(Pad(((1, 1), (1, 1)), "reflect"), b.add(Permute(LAST), b.x, name="there"), name="pad")
    after, _ = cancelled(b.done(x))
    assert kinds(after) == ["input", "permute", "pad", "output"]


def test_what_others_use_stays_for_them():
    b = Builder(3, 4, 5)
    there = b.add(Permute(LAST), b.x, name="there")
    back = b.add(Permute(FIRST), b.relu(there, "relu"), name="back")
    after, _ = cancelled(b.done(back, there))
    assert kinds(after) == ["input", "permute", "relu", "output", "output"]


@pytest.mark.parametrize(("shape", "axes"), [((3, 1, 1), LAST), ((1, 4, 5), LAST), ((3, 1, 5), (1, 0, 2))])
def test_axes_of_one_are_reshaped(shape, axes):
    b = Builder(*shape)
    after, _ = cancelled(b.done(b.relu(b.add(Permute(axes), b.x, name="there"), "relu")))
    assert [node.op.kind for node in after.match(Reshape)] == ["reshape"]
    assert not after.match(Permute)


def test_reshapes_in_a_row_are_one_or_none():
    b = Builder(3, 4)
    x = b.add(Reshape((12, 1)), b.add(Reshape((2, 6)), b.x, name="one"), name="two")
    after, _ = cancelled(b.done(b.add(Reshape((3, 4)), b.relu(x, "relu"), name="three")))
    assert [node.op.shape for node in after.match(Reshape)] == [(12, 1), (3, 4)]
    b = Builder(3, 4)
    x = b.add(Reshape((3, 4)), b.add(Flatten(), b.x, name="one"), name="two")
    assert kinds(cancelled(b.done(b.relu(x, "relu")))[0]) == ["input", "relu", "output"]


def test_a_matrix_behind_takes_the_order_into_its_columns():
    b = Builder(3, 4, 5)
    flat = b.add(Flatten(), b.add(Permute(LAST), b.relu(b.x, "relu"), name="there"), name="flat")
    graph = b.done(b.linear(flat, 6, "fc"))
    after, _ = cancelled(graph)
    assert kinds(after) == ["input", "relu", "flatten", "linear", "output"]
    assert {source.node for source in after["fc"].origin} == {"fc", "there"}
    assert not np.array_equal(after["fc"].weight, graph["fc"].weight)


def test_a_flatten_that_others_use_keeps_its_order():
    b = Builder(3, 4, 5)
    flat = b.add(Flatten(), b.add(Permute(LAST), b.x, name="there"), name="flat")
    after, changes = cancelled(b.done(b.linear(flat, 6, "fc"), flat))
    assert changes == 0
    assert len(after.match(Permute)) == 1


def test_a_wrong_order_of_columns_is_seen():
    b = Builder(3, 4, 5)
    flat = b.add(Flatten(), b.add(Permute(LAST), b.x, name="there"), name="flat")
    graph = b.done(b.linear(flat, 6, "fc"))
    wrong = graph.copy()
    wrong.set_operands("flat", "x")
    with pytest.raises(VerificationError, match="changed the output"):
        check_exact(graph, wrong, probe(graph, None, 0))


@pytest.mark.slow
def test_a_channels_last_torch_model_has_no_permute_left():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 3)
            self.fc = torch.nn.Linear(4 * 4 * 5, 3)

        def forward(self, x):
            x = self.conv(x).permute(0, 2, 3, 1).relu()
            return self.fc(x.flatten(1))

    compilation = spikec.Compiler("nir", profile="full", calibration=torch.rand(16, 3, 6, 7), verify="each").run(
        Net().eval()
    )
    assert not compilation.graph.match(Permute)
    assert len(compilation.graph.match(Linear)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("target", ["spikingjelly", "nir", "netx"])
def test_a_model_may_give_one_number_a_sample(target):
    """Neurons and layers of every target have an axis for channels, so the reshape to none moves to the output."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.hidden, self.value = torch.nn.Linear(6, 8), torch.nn.Linear(8, 1)

        def forward(self, x):
            return self.value(self.hidden(x).relu()).squeeze(-1).add(1).relu()

    x, net = torch.rand(16, 6), Net().eval()
    found = spikec.Compiler(target, calibration=x, timesteps=32, verify="each").run(net)
    assert all(found.graph.type(name).shape == () for name in found.graph.outputs)
    neurons = [found.graph.type(node.name).shape for node in found.graph.match(IF)]
    assert neurons[-2:] == [(8,), (1,)]
    answer = spikec.run(found.graph, x, 32).mean(0) * float(found.output_scale)
    wanted = net(x).detach()
    assert answer.shape == wanted.shape
    assert float((answer - wanted).abs().max()) < 0.1 * float(wanted.max())


@pytest.mark.parametrize("cells", [1, 3])
def test_layers_over_the_channels_of_a_map_stay_convolutions_also_where_it_is_one_cell(cells):
    b = Builder(4, cells, cells)
    there = b.add(Permute(LAST), b.x, name="there")
    wide = b.add(Linear(np.random.default_rng(0).normal(size=(6, 4)), np.arange(6.0)), there, name="wide")
    normed = b.add(Standardize((2,)), b.relu(wide, "relu"), name="norm")
    after, _ = cancelled(b.done(b.add(Permute(FIRST), normed, name="back")))
    assert kinds(after) == ["input", "conv", "relu", "standardize", "output"]
    assert after.type(after.outputs[0]).shape == (6, cells, cells)


def test_a_permute_of_a_map_of_one_cell_that_nothing_cancels_is_a_reshape():
    b = Builder(4, 1, 1)
    after, _ = cancelled(b.done(b.relu(b.add(Permute(LAST), b.x, name="there"), "relu")))
    assert kinds(after) == ["input", "relu", "reshape", "output"]
