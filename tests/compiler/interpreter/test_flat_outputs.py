"""Outputs that hardly vary over the probe, or are all rounding, are no reason to refuse, and hide nothing."""

import attrs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import build
import spikec
from spikec import Compiler, VerificationError
from spikec.interpreter.contract import check_exact
from spikec.interpreter.imported import check_import
from spikec.interpreter.probe import probe
from spikec.ir.ops import Linear

pytestmark = pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")  # of layers that are silent

X = torch.rand(20, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def flat(bias=0.0, gain=1.0):
    """A perceptron whose last layer has tiny weights or a large bias."""
    g = build.mlp()
    last = g.get("fc3", Linear)
    g.set_op("fc3", attrs.evolve(last, weight=gain * last.weight, bias=np.full(4, bias)))
    return g


@pytest.mark.slow
@pytest.mark.parametrize(("bias", "gain"), [(1.0, 1e-9), (1e9, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_a_flat_output_is_compared_on_a_probe_that_grows(bias, gain):
    g = flat(bias, gain)
    xs = probe(g, None, 0)
    assert check_exact(g, g.copy(), xs) == 0
    for name in ("fc1", "fc2", "fc3") if gain else ("fc3",):  # weights of zero hide what is before them for good
        for field, factor in (("weight", 1 + 1e-6), ("bias", 1.001)):
            wrong, op = g.copy(), g.get(name, Linear)
            value = getattr(op, field)
            if value is not None and value.any():
                wrong.set_op(name, attrs.evolve(op, **{field: factor * value}))
                with pytest.raises(VerificationError):
                    check_exact(g, wrong, xs)


class Net(nn.Module):
    """One output of every kind, and one that a function of (module, hidden map, input) makes."""

    def __init__(self, function, bias=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(144, 3), nn.BatchNorm2d(4)
        nn.init.constant_(self.conv.bias, bias)
        self.function = function

    def forward(self, x):
        y = F.relu(self.conv(x))
        return self.fc(y.flatten(1)), self.function(self, y, x)


DEAD = {
    "a dead layer at the end": (lambda net, y, x: F.relu(net.fc(y.flatten(1)) - 9), 0.0),
    "a dead layer inside": (lambda net, y, x: y.mean((2, 3)), -9.0),
    "a bias above all": (lambda net, y, x: y.mean((2, 3)) + 1e7, 0.0),
}
CANCEL = {
    "a map and itself": lambda net, y, x: net.conv(x) - net.conv(x),
    "the larger of a pool and itself": lambda net, y, x: torch.maximum(F.max_pool2d(y, 2), F.max_pool2d(y, 2)),
    "thirds": lambda net, y, x: y * (1 / 3) + y * (2 / 3) - y,
    "two means": lambda net, y, x: y.mean((2, 3)) - F.adaptive_avg_pool2d(y, 1).flatten(1),
    "a mean and a sum": lambda net, y, x: y.flatten(1).sum(1) / 3 - y.sum((2, 3)).sum(1) / 3,
    "a batch norm written out": lambda net, y, x: net.norm(y) - y / (1 + net.norm.eps) ** 0.5,
    "a layer written out": lambda net, y, x: net.fc(y.flatten(1)) - y.flatten(1) @ net.fc.weight.T - net.fc.bias,
    "a map that grew": lambda net, y, x: F.interpolate(y, None, 2, "bilinear").mean((2, 3)) - y.mean((2, 3)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", DEAD)
def test_dead_layers_compile(name):
    run = Compiler("spikingjelly", calibration=X, verify="each").run(Net(*DEAD[name]).eval())
    assert "1e+" not in str(run.report)


@pytest.mark.slow
@pytest.mark.parametrize("name", CANCEL)
def test_terms_that_cancel_compile(name):
    """What is left of them is rounding, another one behind every pass."""
    Compiler("spikingjelly", calibration=X, verify="each").run(Net(CANCEL[name]).eval())


@pytest.mark.slow
def test_an_untrained_deep_net_compiles():
    """Behind so many layers at their defaults there is little but the last bias."""
    torch.manual_seed(0)
    layers = [layer for _ in range(12) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())]
    model = nn.Sequential(nn.Conv2d(2, 4, 1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    Compiler("spikingjelly", calibration=X).run(model)


@pytest.mark.parametrize("gain", [1.0, 1.001])
def test_an_import_whose_terms_cancel(gain):
    """Either way of writing ``conv(x) - conv(x)`` rounds in its own way; a weight that is read wrongly still shows."""
    net = Net(CANCEL["a layer written out"]).eval()
    graph = spikec.load(net, X)
    (fc, *_) = [node for node in graph.match(Linear) if node.op.out_features == 3]
    graph.set_op(fc.name, attrs.evolve(fc.op, weight=np.float32(gain) * fc.op.weight))

    def other_way(xs):
        y = F.relu(net.conv(xs[0].float())).flatten(1)
        flipped = F.linear(y.flip(1), net.fc.weight.flip(1), net.fc.bias)
        return [z.detach() for z in (net.fc(y), flipped - y @ net.fc.weight.T - net.fc.bias)]

    if gain == 1:
        assert check_import(graph, other_way, [X]) > 0
    else:
        with pytest.raises(VerificationError, match="the imported graph differs"):
            check_import(graph, other_way, [X])
