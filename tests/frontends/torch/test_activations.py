"""Piecewise linear activations, maxima over axes, and heads, in every spelling, against torch."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spikec
from spikec.ir.errors import CompileError, UnsupportedOpError
from spikec.ir.ops import Clamp, Head, LeakyRelu, Maximum, MaxPool, Minimum, Relu

SHAPE = (2, 6, 8)


class Net(nn.Module):
    def __init__(self, call):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.call = call
        self.register_buffer("level", torch.tensor([-0.3, 0.2, 0.0, 0.4])[:, None, None])
        self.slope = nn.Parameter(torch.tensor([0.1, -0.5, 1.5, 0.0]))
        self.eval()

    def forward(self, x):
        return self.call(self, self.conv(x))


PIECEWISE = {
    "F.leaky_relu": (lambda net, y: F.leaky_relu(y), LeakyRelu),
    "F.leaky_relu slope": (lambda net, y: F.leaky_relu(y, 0.3, inplace=True), LeakyRelu),
    "F.leaky_relu_": (lambda net, y: F.leaky_relu_(y, negative_slope=-0.2), LeakyRelu),
    "F.prelu": (lambda net, y: F.prelu(y, net.slope), LeakyRelu),
    "torch.prelu": (lambda net, y: torch.prelu(y, weight=net.slope), LeakyRelu),
    "Tensor.prelu": (lambda net, y: y.prelu(net.slope[:1]), LeakyRelu),
    "prelu of vectors": (lambda net, y: F.prelu(y.mean([2, 3]), net.slope), LeakyRelu),
    "F.rrelu": (lambda net, y: F.rrelu(y), LeakyRelu),
    "torch.rrelu": (lambda net, y: torch.rrelu(y, 0.1, 0.5, False), LeakyRelu),
    "abs": (lambda net, y: abs(y), LeakyRelu),
    "torch.abs": (lambda net, y: torch.abs(y), LeakyRelu),
    "torch.absolute": (lambda net, y: torch.absolute(y), LeakyRelu),
    "Tensor.abs_": (lambda net, y: y.abs_(), LeakyRelu),
    "F.hardsigmoid": (lambda net, y: F.hardsigmoid(8 * y), Clamp),
    "F.threshold": (lambda net, y: F.threshold(y, 0, 0), Relu),
    "torch.threshold": (lambda net, y: torch.threshold(y, 0.1, 0.1), Clamp),
    "clamp_max": (lambda net, y: torch.clamp_max(y.clamp_max(0.3), max=0.2), Clamp),
    "clamp_max_": (lambda net, y: y.clamp_max_(0.1), Clamp),
    "clamp tensor": (lambda net, y: y.clamp(net.level), Relu),
    "clamp tensors": (lambda net, y: torch.clamp(y, min=net.level, max=net.level + 0.1), Relu),
    "clamp cells": (lambda net, y: y.clamp(net.level.expand(4, 6, 8) * torch.arange(8)), Relu),
    "clamp one number in a tensor": (lambda net, y: y.clamp(min=net.level.max()), Clamp),
    "clamp by a signal": (lambda net, y: y.clamp(min=y.mean([2, 3], keepdim=True)), Maximum),
    "clamp by signals": (lambda net, y: y.clamp(min=-y.relu(), max=y.flip(3)), Minimum),
    "torch.maximum": (lambda net, y: torch.maximum(y, y.flip(2)), Maximum),
    "torch.max": (lambda net, y: torch.max(y, y.flip(2)), Maximum),
    "torch.max other=": (lambda net, y: torch.max(y, other=y.flip(2)), Maximum),
    "Tensor.max": (lambda net, y: y.max(y.flip(2)), Maximum),
    "torch.fmax": (lambda net, y: torch.fmax(y, y.flip(2)), Maximum),
    "torch.maximum number": (lambda net, y: torch.maximum(y, torch.tensor(0.1)), Clamp),
    "torch.maximum constant": (lambda net, y: torch.maximum(net.level, y), Relu),
    "torch.maximum broadcast": (lambda net, y: torch.maximum(y, y[:, :1]), Maximum),
    "torch.minimum": (lambda net, y: torch.minimum(y, y.flip(2)), Minimum),
    "torch.min": (lambda net, y: torch.min(y, y.flip(2)), Minimum),
    "Tensor.minimum": (lambda net, y: y.minimum(y.flip(2)), Minimum),
    "torch.fmin": (lambda net, y: torch.fmin(y, torch.tensor(0.1)), Clamp),
    "Tensor.min constant": (lambda net, y: y.min(net.level), Relu),
}
OVER_AXES = {
    "amax": lambda net, y: y.amax((2, 3)),
    "torch.amax keepdim": lambda net, y: torch.amax(y, dim=(2, 3), keepdim=True),
    "amax of one axis": lambda net, y: y.amax(-1),
    "amax of channels": lambda net, y: y.amax(1),
    "amax of channels and rows": lambda net, y: y.amax((1, 2), keepdim=True),
    "amax of a vector": lambda net, y: y.flatten(1).amax(1, keepdim=True),
    "amin": lambda net, y: y.amin(dim=2),
    "max values": lambda net, y: y.max(2).values,
    "max item": lambda net, y: torch.max(y, 3, keepdim=True)[0],
    "max unpacked": lambda net, y: unpacked(y),
    "max axis=": lambda net, y: torch.max(y, axis=2, keepdims=True)[0],
    "min values": lambda net, y: y.min(dim=-1).values,
    "maxout": lambda net, y: y.view(y.size(0), 2, 2, 6, 8).max(2)[0],
}
HEADS = {
    "F.softmax": (lambda net, y: F.softmax(y, 1), "softmax"),
    "torch.softmax": (lambda net, y: torch.softmax(y, dim=-1), "softmax"),
    "Tensor.softmax": (lambda net, y: y.softmax(2, dtype=y.dtype), "softmax"),
    "softmax of vectors": (lambda net, y: y.mean([2, 3]).softmax(-1), "softmax"),
    "F.log_softmax": (lambda net, y: F.log_softmax(y, dim=1), "log_softmax"),
    "torch.log_softmax": (lambda net, y: torch.log_softmax(y, 1), "log_softmax"),
    "Tensor.log_softmax": (lambda net, y: y.log_softmax(1), "log_softmax"),
    "F.softmin": (lambda net, y: F.softmin(y, dim=1), "softmin"),
    "torch.sigmoid": (lambda net, y: torch.sigmoid(y), "sigmoid"),
    "F.sigmoid": (lambda net, y: F.sigmoid(y), "sigmoid"),
    "Tensor.sigmoid_": (lambda net, y: y.sigmoid_(), "sigmoid"),
    "F.logsigmoid": (lambda net, y: F.logsigmoid(y), "log_sigmoid"),
    "torch.tanh": (lambda net, y: torch.tanh(y), "tanh"),
    "F.tanh": (lambda net, y: F.tanh(y), "tanh"),
    "Tensor.tanh": (lambda net, y: y.tanh(), "tanh"),
}
LAYERS = {
    "LeakyReLU": (lambda: nn.LeakyReLU(0.2, inplace=True), LeakyRelu),
    "PReLU": (nn.PReLU, LeakyRelu),
    "PReLU of channels": (lambda: nn.PReLU(2, init=0.7), LeakyRelu),
    "RReLU": (nn.RReLU, LeakyRelu),
    "ReLU6": (nn.ReLU6, Clamp),
    "Hardtanh": (lambda: nn.Hardtanh(-0.4, 0.9), Clamp),
    "Hardsigmoid": (nn.Hardsigmoid, Clamp),
    "Threshold": (lambda: nn.Threshold(0.2, 0.2), Clamp),
    "Softmax": (lambda: nn.Softmax(dim=1), Head),
    "Softmax2d": (nn.Softmax2d, Head),
    "LogSoftmax": (lambda: nn.LogSoftmax(-1), Head),
    "Softmin": (lambda: nn.Softmin(1), Head),
    "Sigmoid": (nn.Sigmoid, Head),
    "LogSigmoid": (nn.LogSigmoid, Head),
    "Tanh": (nn.Tanh, Head),
}


def unpacked(y):
    values, _ = torch.max(y, 2)
    return values


@pytest.mark.slow
@pytest.mark.parametrize("name", PIECEWISE)
def test_piecewise(agrees, name):
    call, op = PIECEWISE[name]
    assert agrees(Net(call), SHAPE).match(op)


@pytest.mark.parametrize("name", OVER_AXES)
def test_over_axes(agrees, name):
    assert agrees(Net(OVER_AXES[name]), SHAPE).match(MaxPool)


@pytest.mark.parametrize("name", HEADS)
def test_head(agrees, name):
    call, function = HEADS[name]
    (node,) = agrees(Net(call), SHAPE).match(Head)
    assert node.op.function == function


@pytest.mark.parametrize("name", LAYERS)
def test_layer(agrees, name):
    make, op = LAYERS[name]
    assert agrees(nn.Sequential(make()).eval(), SHAPE).match(op)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda net, y: F.threshold(y, 0.5, 0.0), "jumps at 0.5"),
        (lambda net, y: y.clamp(1, 0.5), "it is constant"),
        (lambda net, y: y.clamp("a"), "a bound that is a str"),
        (lambda net, y: F.prelu(y, y[:, 0, 0]), "the slope is computed"),
        (lambda net, y: F.leaky_relu(y, float("nan")), "NaN"),
        (lambda net, y: y.amax(), "mixes the samples of a batch"),
        (lambda net, y: y.max()[0], "mixes the samples of a batch"),
        (lambda net, y: y.amax(0), "along the batch axis"),
        (lambda net, y: y + y.max(2, keepdim=True)[1], "places of a maximum"),
        (lambda net, y: y + y.min(2, keepdim=True).indices, "places of a maximum"),
        (lambda net, y: y.softmax(0), "along the batch axis"),
        (lambda net, y: y.softmax(1, dtype=torch.float16), "cast of a float32 signal"),
        (lambda net, y: F.softmax(y), "without an axis"),
    ],
)
def test_refusals(call, match):
    with pytest.raises(UnsupportedOpError, match=match) as error:
        spikec.load(Net(call), torch.zeros(2, *SHAPE))
    assert "test_activations.py" in error.value.location


def test_indices_are_none_in_the_output_and_it_is_said():
    graph = spikec.load(Net(lambda net, y: tuple(y.max(2))), torch.zeros(2, *SHAPE))
    assert graph.imported.structure == (0, None)
    (note,) = graph.imported.notes
    assert "the places of a maximum have no spiking form" in note


@pytest.mark.parametrize("model", [nn.RReLU(), Net(lambda net, y: F.rrelu(y, training=True))])
def test_random_slopes_are_refused(model):
    with pytest.raises(CompileError, match=r"draws its slopes in training mode"):
        spikec.load(model, torch.zeros(2, *SHAPE))
