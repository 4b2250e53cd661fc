"""Arithmetic with constants, and sums of signals, against torch."""

import operator

import pytest
import torch
from torch import nn

import spikec
from spikec.ir.errors import TypeMismatchError, UnsupportedOpError
from spikec.ir.ops import Add, BatchNorm, Conv, Identity

SHAPE = (2, 6, 8)


class Net(nn.Module):
    def __init__(self, call):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, (3, 1))
        self.call = call
        self.register_buffer("mean", torch.randn(4, 1, 1))
        self.register_buffer("one", torch.tensor(2.5))
        self.register_buffer("image", torch.randn(4, 8))
        self.std = nn.Parameter(0.5 + torch.rand(1, 4, 1, 1))

    def forward(self, x):
        return self.call(self, self.conv(x))


def in_place(net, y):
    same = y
    y *= net.mean
    y -= 1
    y /= net.one
    y += net.std
    return same + y


def in_place_methods(net, y):
    y.mul_(2).sub_(net.mean).div_(net.std).add_(1, alpha=3).neg_()
    return y


AFFINE = {
    "normalize": (lambda net, y: (y - net.mean) / net.std, 2),
    "number": (lambda net, y: y * 2, 1),
    "number first": (lambda net, y: -1.5 * y, 1),
    "from one": (lambda net, y: 1 - y, 1),
    "buffer first": (lambda net, y: net.mean - y, 1),
    "plus parameter": (lambda net, y: net.std + y, 1),
    "0-d buffer": (lambda net, y: y / net.one, 1),
    "parameter as a number": (lambda net, y: y * float(net.std.sum()), 1),
    "minus": (lambda net, y: -y, 1),
    "computed": (lambda net, y: y * (net.mean.flatten() + 2 * net.one).view(-1, 1, 1), 1),
    "one channel value for all": (lambda net, y: y * net.image[:1, :1], 1),
    "constant image": (lambda net, y: y + torch.full((6, 1), 0.5).mean(), 1),
    "integer": (lambda net, y: y * torch.tensor([[[2]], [[0]], [[-1]], [[3]]]), 1),
    "torch.add alpha": (lambda net, y: torch.add(y, net.mean, alpha=2), 1),
    "torch.sub alpha": (lambda net, y: torch.sub(net.mean, y, alpha=0.5), 1),
    "torch.rsub": (lambda net, y: torch.rsub(y, 2, alpha=3), 1),
    "functions": (lambda net, y: torch.neg(torch.div(torch.mul(y, net.mean), 3)), 3),
    "methods": (lambda net, y: y.mul(net.mean).div(2).sub(1).add(net.std).neg(), 5),
    "long names": (lambda net, y: y.multiply(2).divide(net.std).true_divide(3).subtract(1).negative(), 5),
    "in place": (in_place, 4),
    "in place methods": (in_place_methods, 5),
    "sequence": (lambda net, y: y.flatten(2) * net.mean[:, 0] - 1, 2),
    "volume": (lambda net, y: y.view(y.size(0), 4, 2, 2, 8) * net.std[..., None], 1),
}


@pytest.mark.parametrize("name", AFFINE)
def test_affine_per_channel(agrees, name):
    call, count = AFFINE[name]
    graph = agrees(Net(call), SHAPE)
    assert len(graph.match(Conv)) == 1
    assert len(graph.match(BatchNorm)) == count


@pytest.mark.slow
def test_constants_fold_into_the_layer_before(agrees):
    model, x = Net(AFFINE["normalize"][0]), torch.randn(6, *SHAPE)
    final = spikec.Compiler("spikingjelly", calibration=x).run(nn.Sequential(model, nn.ReLU(), nn.AvgPool2d(2)).eval())
    assert not final.graph.match(BatchNorm)
    assert len(final.graph.match(Conv)) == 1


def test_a_vector_is_scaled_too(agrees):
    graph = agrees(Net(lambda net, y: 2 - y.mean([2, 3]) * net.mean.flatten()), SHAPE)
    assert len(graph.match(BatchNorm)) == 2


@pytest.mark.parametrize("call", [lambda net, y: y * 1, lambda net, y: 0 + y / 1.0, lambda net, y: y - torch.zeros(1)])
def test_neutral_constants_do_nothing(agrees, call):
    graph = agrees(Net(call), SHAPE)
    assert {graph[name].kind for name in graph} == {"input", "conv", "identity", "output"}
    assert graph.match(Identity)


SUMS = {
    "-": lambda net, y: y - y.relu(),
    "-=": lambda net, y: operator.isub(y.relu(), y),
    "torch.sub alpha": lambda net, y: torch.sub(y.relu(), y, alpha=2),
    "add alpha": lambda net, y: y.add(y.relu(), alpha=-0.5),
    "sub alpha 1": lambda net, y: y.relu().sub(y, alpha=-1),
    "of vectors": lambda net, y: y.flatten(1).relu() - y.flatten(1),
}


@pytest.mark.parametrize("name", SUMS)
def test_differences_of_signals(agrees, name):
    assert len(agrees(Net(SUMS[name]), SHAPE).match(Add)) == 1


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda net, y: y - torch.ones(2, 4, 1, 1), "changes the shape"),
        (lambda net, y: y.mean([2, 3], keepdim=True) * torch.ones(6, 8), "changes the shape"),
        (lambda net, y: y + torch.zeros(y.size(0) * 2, 1, 1, 1)[::2], "size that depends on the batch"),
        (lambda net, y: y / 0, "NaN or infinite"),
        (lambda net, y: y * float("nan"), "NaN or infinite"),
        (lambda net, y: torch.div(y, 2, rounding_mode="floor"), "rounding_mode='floor'"),
        (lambda net, y: y * 1j, "arithmetic with a complex"),
        (lambda net, y: torch.add(y, y, alpha=1j), "alpha is not a number"),
    ],
)
def test_what_is_not_affine_is_refused(call, match):
    with pytest.raises(UnsupportedOpError, match=match) as error:
        spikec.load(Net(call), torch.zeros(2, *SHAPE))
    assert "test_arith.py" in error.value.location


WITHIN = {
    "cells": lambda net, y: y * net.image[:, :1, None] * net.image[:, None],
    "columns": lambda net, y: y + torch.arange(8.0),
    "rows": lambda net, y: y * torch.linspace(0.5, 1.5, y.size(2))[:, None],
}


@pytest.mark.parametrize("name", WITHIN)
def test_constants_that_differ_within_a_channel(agrees, name):
    agrees(Net(WITHIN[name]), SHAPE)


BROADCAST = {
    "over space": lambda net, y: y - y.mean([2, 3], keepdim=True),
    "over channels": lambda net, y: y[:, :1] + y,
    "both": lambda net, y: y[:, :1] + y[:, :, :1],
    "of vectors": lambda net, y: y.flatten(1) - y.flatten(1)[:, 3:4],
}


@pytest.mark.parametrize("name", BROADCAST)
def test_signals_broadcast_over_the_axes_of_a_sample(agrees, name):
    agrees(Net(BROADCAST[name]), SHAPE)


@pytest.mark.parametrize("call", [lambda net, y: y - y.mean([2, 3]), lambda net, y: y + y[:, :3]])
def test_what_does_not_broadcast(call):
    with pytest.raises(TypeMismatchError, match="sum of shapes"):
        spikec.load(Net(call), torch.zeros(2, *SHAPE))


class Split(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x.view(-1, 2, 3, 2, 2, 4))


@pytest.mark.parametrize(
    "call",
    [
        lambda y: y.sum(1),
        lambda y: y.mean(1, keepdim=True),
        lambda y: y.mean((2, 3)),
        lambda y: y.sum((-1, -2), keepdim=True),
        lambda y: y.mean((1, 2, 5)),
        lambda y: y.sum((1, 2, 3, 4, 5), keepdim=True),
    ],
)
def test_sums_over_axes_of_samples_with_five_axes(agrees, call):
    agrees(Split(call), (6, 4, 4))


def test_sums_over_axes_that_lie_between_too_many_others_are_refused():
    with pytest.raises(TypeMismatchError, match="takes samples of rank 1 or 2 or 3 or 4"):
        spikec.load(Split(lambda y: y.sum((1, 3, 5))), torch.zeros(2, 6, 4, 4))
