"""The error falls as 1/T, to T=1024, down to what thresholds clip; torch runs the ANN with clipped ReLUs to say it."""

import functools
import warnings

import attrs
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import nets
import spikec
from spikec.interpreter.interp import outputs_over_time
from spikec.interpreter.results import RunningMean
from spikec.ir.ops import Neuron, Weighted

#: with sixteen times the steps the error is this part of what it was, or less: a sixteenth, give or take its ripple
FEW, MANY, PART = 64, 1024, 1 / 8
MODES = {"max": "max", "99.9%": "99.9%", "channels": spikec.Normalization(), "default": None}
CASES = (
    *(("mlp", "spikingjelly", mode) for mode in MODES),
    ("mlp", "nir", "default"),
    ("conv1d", "spikingjelly", "99.9%"),
    ("trained", "spikingjelly", "max"),
    ("trained", "spikingjelly", "default"),
    ("trained", "nir", "default"),
)


@functools.cache
def trained():
    """A CNN that has learnt real digits, and digits that are new to it."""
    digits = load_digits()
    x, classes = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), torch.tensor(digits.target)
    torch.manual_seed(0)
    convolutions = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 2), nn.ReLU()
    net = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for rows in torch.randperm(1500).split(50):
        optimizer.zero_grad()
        F.cross_entropy(net(x[rows]), classes[rows]).backward()
        optimizer.step()
    return net.eval().requires_grad_(False).double(), x[1500:1516].double()


def network(name):
    """(a network of tests/nets.py with random weights, or the trained one; inputs)."""
    if name == "trained":
        return trained()
    return nets.build(name, dtype=torch.float64).requires_grad_(False), nets.batch(name, 16, dtype=torch.float64)


def compiled(name, target="spikingjelly", **options):
    net, x = network(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", spikec.SpikecWarning)
        return spikec.Compiler(target, calibration=x, verify="off", **options).run(net).graph


def clipped(name, graph):
    """What the ANN says whose ReLUs give at most what the neurons of a graph can say."""
    net, x = network(name)
    parts = dict(net.named_children())
    for i, part in parts.items():
        if isinstance(part, nn.ReLU):
            most = torch.tensor(graph.type(f"relu_{i}").scale)
            parts[i] = lambda z, most=most: z.clamp(min=torch.zeros(()), max=most)
    return functools.reduce(lambda value, part: part(value), parts.values(), x)


def holds(graph, x, wanted):
    """Require that what a graph says after T steps comes near to this as 1/T."""
    said, off = RunningMean(graph), {}
    for step, y in enumerate(outputs_over_time(graph, (x,), MANY), 1):
        said.add(y)
        if step in (FEW, MANY):
            off[step] = float((said.outputs()[0] - wanted).square().mean().sqrt() / wanted.std())
    assert off[MANY] <= PART * off[FEW], f"{off[FEW]:.3g} off after {FEW} steps, {off[MANY]:.3g} after {MANY}"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target", "mode"), CASES)
def test_the_error_falls_as_one_over_T_down_to_what_is_clipped(name, target, mode):
    graph = compiled(name, target, normalization=MODES[mode])
    (net, x), limit = network(name), clipped(name, graph)
    if mode == "max":  # clips nothing of what it has seen
        assert torch.allclose(limit, net(x), atol=1e-9)
    holds(graph, x, limit)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["spikingjelly", "nir"])
def test_the_error_falls_as_one_over_T_where_each_T_is_tuned_for(target):
    net, x = network("mlp")
    off = {}
    for steps in (16, 256):
        said = RunningMean(graph := compiled("mlp", target, timesteps=steps))
        for y in outputs_over_time(graph, (x,), steps):
            said.add(y)
        off[steps] = float((said.outputs()[0] - net(x)).square().mean().sqrt())
    assert off[256] <= PART * off[16]


@pytest.mark.parametrize("broken", ["threshold", "bias"])
def test_a_threshold_or_bias_that_is_off_is_seen(broken):
    graph = compiled("mlp", normalization="max")
    limit = clipped("mlp", graph)
    if broken == "threshold":
        node = graph.match(Neuron)[0]
        said = graph.type(node.name).scale  # without it the next layer's weights refuse to read other spikes
        graph.set_op(node.name, attrs.evolve(node.op, v_threshold=1.02 * node.op.v_threshold, out_scale=said))
    else:
        node = graph.match(Weighted)[1]
        graph.set_op(node.name, attrs.evolve(node.op, bias=node.op.bias + 0.02 * abs(node.op.bias).max()))
    with pytest.raises(AssertionError, match="off after 64 steps"):
        holds(graph, network("mlp")[1], limit)
