"""Signals stacked in front of the batch, of which functions make signals again."""

import pytest
import torch
from torch import nn

import spikec
from spikec import UnsupportedOpError
from spikec.ir.ops import Add


class Net(nn.Module):
    def __init__(self, body):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv2d(2, 3, 3, padding=1) for _ in range(3))
        self.body = body

    def forward(self, x):
        return self.body(torch.stack([layer(x) for layer in self.layers]))


SHAPE = (2, 5, 4)


@pytest.mark.parametrize(
    "body",
    [
        lambda s: s.sum(0),
        lambda s: torch.sum(s, dim=0),
        lambda s: s.mean(dim=(0,)),
        lambda s: s.mean(-5),
        lambda s: s.amax(0) - s.amin(0),
        lambda s: s.max(0).values + torch.min(s, 0)[0],
        lambda s: s[0] - s[-1],
        lambda s: s[1, :, 1:],
        lambda s: s[:2].sum(0),
        lambda s: sum(s.unbind()),
        lambda s: sum(each for each in s) * len(s),
        lambda s: s.select(0, 1) + s.select(0, 2),
    ],
)
def test_what_is_made_of_them(agrees, body):
    agrees(Net(body), SHAPE)


def test_a_sum_adds_the_signals():
    graph = spikec.load(Net(lambda s: s.sum(0)), torch.rand(2, *SHAPE))
    assert len(graph.match(Add)) == 2
    assert len(graph) == 1 + 3 + 2 + 1


@pytest.mark.parametrize(
    "body",
    [
        torch.relu,
        lambda s: s.sum(1),
        lambda s: s.sum(0, keepdim=True),
        lambda s: s.flatten(0, 1),
        lambda s: s,
        lambda s: s[torch.tensor([0, 1])].sum(0),
        lambda s: s.sum((0, 1)),
        lambda s: s[0].relu_() + s.sum(0),
    ],
)
def test_what_has_no_place_in_a_graph_says_what_works(body):
    with pytest.raises(UnsupportedOpError) as error:
        spikec.load(Net(body), torch.rand(2, *SHAPE))
    assert "torch.stack(xs, 1)" in error.value.hint or "torch.cat" in error.value.hint


def test_shapes_that_differ_are_not_stacked():
    class Uneven(nn.Module):
        def forward(self, x):
            return torch.stack([torch.relu(x), x[:, :1]]).sum(0)

    with pytest.raises(spikec.CompileError):
        spikec.load(Uneven(), torch.rand(2, *SHAPE))
