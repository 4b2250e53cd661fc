"""Max-pools against torch, and through the whole pipeline."""

import random

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
    after = graph.copy()
    changes = pass_named("lower-maxpool").run(after, Context(graph))
    verify(after, IMPORTED, graph.sources)
    return after, changes


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
    after, changes = lowered(g)
    assert changes == (2 if relu == "behind" else 1)
    assert not after.match(MaxPool)
    check_exact(g, after, probe(g, None, 0))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_any_pool_equals_torch(seed, signed):
    """Kernels, strides, paddings and dilations are random, in 1 to 3 dimensions, signals of both signs or of one."""
    rng = random.Random(seed)
    axes = 1 + seed % 3
    while True:
        size, kernel, stride, dilation = (
            [rng.randint(1, high) for _ in range(axes)] for high in (12 if axes < 3 else 6, 9 if axes < 3 else 4, 4, 2)
        )
        padding, ceil = [rng.randint(0, k // 2) for k in kernel], rng.random() < 0.5
        b = build.Builder(2, *size)
        x = torch.randn(3, 2, *size, dtype=torch.float64)
        source = x if signed else x.relu()
        pool = getattr(F, f"max_pool{axes}d")
        try:
            wanted = pool(source, kernel, stride, padding, dilation, ceil)
        except RuntimeError:
            continue  # the windows are larger than the map
        if wanted.isfinite().all():
            break
    relu = b.x if signed else b.relu(b.x, "relu")
    g = b.done(b.add(MaxPool(kernel, stride, padding, dilation, ceil), relu, name="pool"))
    after, _ = lowered(g)
    assert not after.match(MaxPool)
    torch.testing.assert_close(run(after, x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "pool", "comparisons"),
    [
        ((2, 28, 28), MaxPool((28, 28), (28, 28), (0, 0), (1, 1)), 10),
        ((2, 27), MaxPool((27,), (1,), (0,), (1,)), 5),
        ((2, 16, 16), MaxPool((16, 16), (16, 16), (0, 0), (1, 1)), 8),
        ((2, 20, 20), MaxPool((13, 13), (1, 1), (6, 6), (1, 1)), 8),
        ((2, 8, 8), MaxPool((2, 2), (2, 2), (0, 0), (1, 1)), 2),
        ((2, 9, 9), MaxPool((3, 3), (2, 2), (1, 1), (1, 1)), 4),
    ],
)
def test_large_windows_take_few_comparisons_and_neurons(shape, pool, comparisons):
    b = build.Builder(*shape)
    after, _ = lowered(b.done(b.add(pool, b.relu(b.x, "relu"), name="pool")))
    comparing = [node.name for node in after.match(Relu) if node.op.compares]
    assert len(comparing) == comparisons
    neurons, cells = sum(np.prod(after.type(name).shape) for name in comparing), np.prod(shape)
    overlap = pool.stride < pool.kernel and after.type(comparing[-1]).shape[-1] > 1
    assert neurons < (1.5 * comparisons if overlap else 1.1) * cells


@pytest.mark.slow
@pytest.mark.parametrize("target", ["nir", "spikingjelly"])
@pytest.mark.parametrize("ceil", [False, True])
def test_signed_padded_pools_convert(target, ceil):
    torch.manual_seed(0)
    pool = nn.MaxPool2d(2, 2, ceil_mode=True) if ceil else nn.MaxPool2d(3, 1, 1)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LeakyReLU(0.3), pool, nn.Flatten(), nn.LazyLinear(3)).eval()
    x = torch.rand(32, 1, 7, 7) - 0.3
    net(x)
    c = Compiler(target, calibration=x).run(net)
    with torch.no_grad():
        wanted = net(x)
    error = float((outputs(c.graph, [x], 256)[0] * float(np.max(c.output_scale)) - wanted).abs().mean() / wanted.std())
    assert error < 0.03


def test_one_and_three_dimensions():
    for shape, pool in (
        ((3, 9), MaxPool((3,), (2,), (1,), (1,))),
        ((3, 4, 5, 4), MaxPool((2,) * 3, (2,) * 3, (0,) * 3, (1,) * 3)),
    ):
        b = build.Builder(*shape)
        g = b.done(b.add(pool, b.relu(b.x, "relu"), name="pool"))
        after, _ = lowered(g)
        assert not after.match(MaxPool)
        check_exact(g, after, probe(g, None, 0))


def test_a_pool_that_nothing_lowered_is_refused_with_what_to_do():
    g = net(MaxPool((3, 3), (2, 2), (1, 1), (1, 1)), "none")
    order = spikec.Pipeline.default("spikingjelly").without("lower-maxpool")
    with pytest.raises(UnsupportedOpError, match="maxpool has no spiking form") as caught:
        Compiler("spikingjelly", calibration=torch.rand(9, 2, 9, 8), pipeline=order).run(g)
    assert caught.value.location == "pool"
    assert "lower-maxpool" in caught.value.hint


@pytest.mark.slow
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


@pytest.mark.slow
def test_comparing_neurons_take_the_scale_of_what_they_compare():
    g = net(MaxPool((2, 2), (2, 2), (0, 0), (1, 1)))
    c = Compiler(build.GraphTarget(), calibration=torch.rand(50, 2, 9, 8)).run(g)
    calibrated = next(s.graph for s in c.stages if s.name == "normalize")
    source = calibrated["relu"].scale
    compared = [node.op.scale for node in calibrated.match(Relu) if node.op.compares]
    assert len(compared) == 2
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


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "padding"), [((1, 2), 0), ((3, 2), 0), ((4, 3), (1, 0))])
def test_nir_takes_a_pool_that_changes_the_parity_of_one_side(kernel, padding):
    torch.manual_seed(0)
    pool = nn.MaxPool2d(kernel, 1, padding)
    size = pool(torch.zeros(1, 2, 5, 8)).numel()
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), pool, nn.Flatten(), nn.Linear(size, 3)).eval()
    spikec.compile(model, "nir", calibration=torch.rand(8, 2, 5, 8), normalization="max")
