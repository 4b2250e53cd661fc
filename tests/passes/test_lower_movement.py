"""Movements of spikes as convolutions: exact by the compiler's own contract, and what is left is what should be."""

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import build
import spikec
from spikec import VerificationError
from spikec.ir.op import Movement
from spikec.ir.ops import Concat, Conv, Linear, Slice

X = torch.rand(40, 4, 6, 5)


class Moved(nn.Module):
    """A movement between two convolutions with neurons."""

    def __init__(self, move, channels=4, vectors=False):
        super().__init__()
        torch.manual_seed(0)
        self.move = move
        self.one = nn.Sequential(nn.Flatten(), nn.Linear(120, 4)) if vectors else nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU()
        self.two = nn.Linear(channels, 3) if vectors else nn.Conv2d(channels, 3, 1)

    def forward(self, x):
        return self.two(self.move(self.relu(self.one(x)))).flatten(1)


def shuffle(x):
    return x.reshape(-1, 2, 2, *x.shape[2:]).transpose(1, 2).reshape(x.shape)


def lowered(move, channels=4, vectors=False, **options):
    target = build.GraphTarget(before=("lower-movement",))
    model = Moved(move, channels, vectors).eval()
    run = spikec.Compiler(target, calibration=X, normalization="99%", verify="each", **options).run(model)
    (stage,) = (stage for stage in run.stages if stage.name == "lower-movement")
    assert stage.check.startswith("exact: ") == (stage.changes > 0)
    return run.graph, stage.changes


def moves(graph):
    return [node for node in graph.match(Movement) if not isinstance(node.op, Concat) and node.op.kind != "flatten"]


@pytest.mark.parametrize(
    ("move", "channels"),
    [
        (shuffle, 4),
        (lambda x: x[:, 1:3], 2),
        (lambda x: x[:, ::2], 2),
        (lambda x: x.chunk(2, 1)[1], 2),
    ],
)
def test_a_pick_of_channels_folds_into_the_next_weights(move, channels):
    graph, changes = lowered(move, channels)
    assert changes == 2
    assert moves(graph) == []
    assert len(graph.match(Conv)) == 2


def test_a_pick_of_a_vector_folds_into_the_next_matrix():
    graph, _ = lowered(lambda x: x[:, 1:3], 2, vectors=True)
    assert moves(graph) == []
    assert [node.op.weight.shape for node in graph.match(Linear)] == [(4, 120), (3, 4)]


@pytest.mark.parametrize(
    "move",
    [
        lambda x: x[:, :, 1:],
        lambda x: x[:, :, 2:5],
        lambda x: x[..., :-1],
        lambda x: x[:, :, ::2],
        lambda x: x[:, :, 1::3],
        lambda x: x[..., 4:],
        lambda x: x[:, :, 1:-1, 1:-1],
    ],
)
def test_a_crop_is_a_depthwise_convolution(move):
    graph, _ = lowered(move)
    assert moves(graph) == []
    crops = [node.op for node in graph.match(Conv) if node.op.groups == 4]
    assert crops
    assert all(np.count_nonzero(op.weight) == 4 for op in crops)


def test_what_is_no_pick_stays():
    graph, changes = lowered(lambda x: x.transpose(2, 3))
    assert changes == 0
    assert len(moves(graph)) == 1


@pytest.mark.slow
def test_a_pick_that_a_sum_reads_too_stays_an_op_of_its_own():
    graph, changes = lowered(lambda x: shuffle(x) + x)
    assert changes == 1
    assert moves(graph) == []
    assert len(graph.match(Conv)) == 3


def test_slices_that_are_joined_again_keep_their_picks():
    graph, _ = lowered(lambda x: x.roll(1, 1))
    assert moves(graph) == []
    assert len(graph.match(Conv)) == 4


@attrs.frozen
class Wrong(spikec.Pass):
    """Says that it is exact, and takes the wrong half of the channels."""

    name = "wrong"
    needs = (spikec.ir.stages.SPIKING,)

    def run(self, graph, context):
        for node in graph.match(Slice):
            graph.set_op(node.name, attrs.evolve(node.op, start=0, stop=2))
        return 1


@pytest.mark.slow
def test_a_wrong_pick_is_noticed():
    target = build.GraphTarget(before=(Wrong(), "lower-movement"))
    with pytest.raises(VerificationError, match="exact pass changed"):
        spikec.compile(Moved(lambda x: x[:, 1:3], 2).eval(), target, calibration=X, verify="each")
