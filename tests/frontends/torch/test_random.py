"""Random small models put together from what the converters take: the graph is the model."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import spikec
from spikec.extend.loader import pass_named
from spikec.extend.passbase import Context
from spikec.interpreter.contract import check_exact
from spikec.interpreter.probe import probe
from spikec.ir.stages import IMPORTED
from spikec.ir.verify import verify

#: name: (layers that it needs for [C, H, W], its call); every one keeps samples [C, H, W] with C, H and W of at least 2
STEPS = {
    "conv": (lambda c, h, w: nn.Conv2d(c, c + 2, 3, padding=1), lambda layer, y: layer(y)),
    "grouped conv": (lambda c, h, w: nn.Conv2d(c, 2 * c, (2, 1), padding=(1, 0), groups=c), lambda layer, y: layer(y)),
    "transposed conv": (lambda c, h, w: nn.ConvTranspose2d(c, 3, 3, 2, 1), lambda layer, y: layer(y)),
    "batchnorm": (lambda c, h, w: nn.BatchNorm2d(c), lambda layer, y: layer(y)),
    "relu": (None, lambda _, y: y.relu()),
    "relu in place": (lambda c, h, w: nn.ReLU(inplace=True), lambda layer, y: layer(y) + y),
    "leaky relu": (lambda c, h, w: nn.PReLU(c), lambda layer, y: layer(y)),
    "clamp": (None, lambda _, y: y.clamp(-0.7, 0.9)),
    "maximum": (None, lambda _, y: torch.maximum(y, y.flip(2))),
    "affine": (None, lambda _, y: (y - 0.3) * 1.5),
    "in place": (None, lambda _, y: y.mul_(0.5).add_(y)),
    "average pool": (None, lambda _, y: F.avg_pool2d(y, 3, 1, 1)),
    "max-pool": (None, lambda _, y: F.max_pool2d(y, 2, 1, 1)),
    "upsample": (None, lambda _, y: F.interpolate(y, size=(y.shape[2] + 1, y.shape[3] + 2))),
    "skip": (lambda c, h, w: nn.Conv2d(c, c, 1), lambda layer, y: y + layer(y)),
    "mean away": (None, lambda _, y: y - y.mean((2, 3), keepdim=True)),
    "sum of rows": (None, lambda _, y: y + y.sum(2, keepdim=True)),
    "transpose": (None, lambda _, y: y.transpose(1, 3)),
    "permute": (None, lambda _, y: y.permute(0, 2, 3, 1)),
    "chunk": (None, lambda _, y: torch.cat(y.chunk(2, 1)[::-1], 1)),
    "split and relu one": (None, lambda _, y: torch.cat([y[:, 1:], F.relu(y[:, :1], inplace=True)], 1)),
    "slices": (None, lambda _, y: torch.cat([y[:, ::2], y[:, 1::2], y[:, :1]], 1)),
    "crop": (None, lambda _, y: F.pad(y[:, :, 1:, :-1], (1, 0, 0, 1))),
    "roll": (None, lambda _, y: torch.roll(y, 1, 3)),
    "stack": (None, lambda _, y: torch.stack([y, y.relu()], 1).flatten(1, 2)),
    "shuffle": (None, lambda _, y: y.unsqueeze(2).expand(-1, -1, 2, -1, -1).transpose(1, 2).flatten(1, 2)),
    "matrix": (lambda c, h, w: nn.Linear(w, 3), lambda layer, y: layer(y)),
    "list of channels": (None, lambda _, y: y[:, [1, 0, 1]]),
}


class Net(nn.Module):
    def __init__(self, names, shape):
        super().__init__()
        self.names = names
        self.layers = nn.ModuleList()
        x = torch.randn(2, *shape)
        for name in names:
            make, call = STEPS[name]
            self.layers.append(make(*x.shape[1:]) if make else nn.Identity())
            with torch.no_grad():
                x = call(self.layers[-1].train(), x.clone())
        self.eval()

    def forward(self, x):
        x = x * 1.1
        for name, layer in zip(self.names, self.layers, strict=True):
            x = STEPS[name][1](layer, x)
        return x


def compared(model, shape):
    """Largest difference between graph and model, as a share of the model's spread."""
    x = torch.randn(5, *shape, dtype=torch.float64)
    graph = spikec.load(model, x.clone())
    verify(graph, IMPORTED, graph.sources)
    with torch.no_grad():
        wanted = model(x.clone())
    found = spikec.run(graph, x)
    assert found.shape == wanted.shape
    return graph, float((found - wanted).abs().max() / (wanted - wanted.mean(0)).abs().max())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=6), st.integers(0, 999))
def test_a_random_model_is_read_as_it_is(names, seed):
    torch.manual_seed(seed)
    shape = (2, 4, 5)
    graph, difference = compared(Net(names, shape).double(), shape)
    assert difference <= 1e-9
    for name in ("eliminate-identity", "canonicalize-activations", "lower-adaptive-pool", "fold-batchnorm"):
        before = graph.copy()
        if pass_named(name).run(graph, Context(before)):
            check_exact(before, graph, probe(before, None, 0))


@pytest.mark.parametrize("name", STEPS)
def test_each_step_alone(name):
    torch.manual_seed(1)
    assert compared(Net([name], (2, 4, 5)).double(), (2, 4, 5))[1] <= 1e-9


def test_a_wrong_slope_is_noticed():
    torch.manual_seed(1)
    net = Net(["leaky relu"], (2, 4, 5)).double()
    graph = spikec.load(net, torch.zeros(1, 2, 4, 5, dtype=torch.float64))
    with torch.no_grad():
        net.layers[0].weight.add_(1e-7)
        x = torch.randn(5, 2, 4, 5, dtype=torch.float64)
        assert float((spikec.run(graph, x) - net(x)).abs().max()) > 1e-9 * float(net(x).std())
