"""Max-pools against torch, and through the whole pipeline."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import build
import spikec
from spikec import Compiler, UnsupportedOpError, run
from spikec.extend.loader import pass_named
from spikec.extend.passbase import Context
from spikec.interpreter.contract import check_exact
from spikec.interpreter.probe import probe
from spikec.interpreter.results import outputs
from spikec.ir.ops import MaxPool, Relu
from spikec.ir.stages import IMPORTED
from spikec.ir.verify import verify


def net(pool, relu="before"):
    b = build.Builder(2, 9, 8)
    x = b.conv(b.x, 3, "conv1")
    if relu == "before":
        x = b.relu(x, "relu")
    x = b.add(pool, x, name="pool")
    if relu == "behind":
        x = b.relu(x, "relu", 2.0)
    return b.done(b.conv(x, 2, "conv2", (1, 1), (0, 0)))


def lowered(graph):
    after, context = graph.copy(), Context(graph)
    changes = pass_named("lower-maxpool").run(after, context)
    verify(after, IMPORTED, graph.sources)
    return after, changes, context


@pytest.mark.parametrize("relu", ["before", "behind", "none"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "ceil"),
    [
        ((2, 2), (2, 2), (0, 0), (1, 1), False),
        ((3, 2), (2, 3), (1, 1), (1, 1), False),
        ((3, 3), (2, 2), (1, 0), (1, 2), False),
        ((3, 3), (2, 2), (0, 0), (1, 1), True),
        ((2, 3), (2, 3), (1, 1), (1, 1), True),
        ((1, 1), (2, 2), (0, 0), (1, 1), False),
    ],
)
def test_lowered_pools_equal_torch(relu, kernel, stride, padding, dilation, ceil):
    g = net(MaxPool(kernel, stride, padding, dilation, ceil), relu)
    module = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil)
    x = torch.randn(4, 2, 9, 8, dtype=torch.float64)
    seen = {}
    run(g, x, tap=lambda name, value, *_: seen.__setitem__(name, value))
    torch.testing.assert_close(seen["pool"], module(seen[g.operands("pool")[0]]), rtol=0, atol=0)
    after, changes, context = lowered(g)
    beyond = any(padding) or ceil
    if relu == "none" and beyond and after.match(MaxPool):
        assert "may be negative" in context.notes[0].reason
    else:
        assert changes == (2 if relu == "behind" else 1)
        assert not after.match(MaxPool)
        check_exact(g, after, probe(g, None, 0))


def test_one_and_three_dimensions():
    for shape, pool in (
        ((3, 9), MaxPool((3,), (2,), (1,), (1,))),
        ((3, 4, 5, 4), MaxPool((2,) * 3, (2,) * 3, (0,) * 3, (1,) * 3)),
    ):
        b = build.Builder(*shape)
        g = b.done(b.add(pool, b.relu(b.x, "relu"), name="pool"))
        after, _, _ = lowered(g)
        assert not after.match(MaxPool)
        check_exact(g, after, probe(g, None, 0))


def test_a_signed_padded_pool_is_refused_with_what_to_do():
    g = net(MaxPool((3, 3), (2, 2), (1, 1), (1, 1)), "none")
    with pytest.raises(UnsupportedOpError, match="maxpool has no spiking form") as caught:
        Compiler(build.GraphTarget(), calibration=torch.rand(9, 2, 9, 8)).run(g)
    assert caught.value.location == "pool"
    assert "behind a ReLU" in caught.value.hint


@pytest.mark.parametrize("thresholds", ["any", "uniform"])
def test_the_spiking_net_converges(thresholds):
    torch.manual_seed(0)
    g = net(MaxPool((2, 2), (2, 2), (0, 0), (1, 1)))
    x = torch.rand(100, 2, 9, 8, dtype=torch.float64)
    c = Compiler(build.GraphTarget(thresholds), calibration=x, normalization="max", verify="each").run(g)
    ann = run(g, x)
    errors = []
    for steps in (16, 64, 256):
        snn = run(c.graph, x, steps).mean(0) * torch.tensor(c.output_scale)
        errors.append(float((snn - ann).abs().mean() / ann.std()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02
    assert {e.source.node: e.fate for e in c.ledger}["pool"] == "lowered"


def test_comparing_neurons_take_the_scale_of_what_they_compare():
    g = net(MaxPool((2, 2), (2, 2), (0, 0), (1, 1)))
    c = Compiler(build.GraphTarget(), calibration=torch.rand(50, 2, 9, 8)).run(g)
    calibrated = next(s.graph for s in c.stages if s.name == "normalize")
    source = calibrated["relu"].scale
    compared = [node.op.scale for node in calibrated.match(Relu) if node.op.compares]
    assert len(compared) == 3
    assert all(np.array_equal(scale, source) for scale in compared)


class Pooled(nn.Module):
    """A max-pool behind what becomes of a ReLU."""

    def __init__(self, between):
        super().__init__()
        self.conv, self.linear, self.between = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 9, 3), between

    def forward(self, x):
        return self.linear(F.max_pool2d(self.between(self.conv(x)), 2).flatten(1))


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["max", spikec.Normalization(method="model")])
@pytest.mark.parametrize(
    "between",
    [
        lambda x: F.relu(x) * 5,
        lambda x: F.relu(x) * -2 + 1,
        lambda x: F.relu(x) + F.relu(x),
        lambda x: x + F.relu(x - 0.2) * 3,
        lambda x: torch.cat([F.relu(x)[:, :2] * 5, F.relu(x)[:, 2:]], 1),
    ],
)
@pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")
def test_a_comparison_is_as_wide_as_what_it_compares(between, normalization):
    """Thresholds at the maximum clip nothing, so only 1/T is left, whatever stands between the ReLU and the pool."""
    torch.manual_seed(0)
    net, x = Pooled(between).eval(), torch.rand(16, 1, 6, 6)
    run = spikec.Compiler(build.GraphTarget(), calibration=x, normalization=normalization).run(net)
    with torch.no_grad():
        wanted = net(x)
    early, late = (float((outputs(run.graph, [x], t)[0] - wanted).abs().max()) for t in (64, 1024))
    assert late < 0.1 * float(wanted.std())
    assert late < 0.2 * early
