"""The pass pool-neurons: a pool that folds into nothing has neurons of its own."""

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import spikec
from build import Builder, source
from spikec import Context, run
from spikec.extend.loader import pass_named
from spikec.ir.ops import IF, Conv, Input, SumPool
from spikec.ir.stages import FINAL
from spikec.ir.verify import verify

T = 64


def net(padding=1, positive=True):
    """encoder -> 3x3 pool -> convolution that pads -> neurons -> linear."""
    b = Builder(2, 8, 8)
    b.graph.set_op("x", Input((2, 8, 8), "float64", rate=True, origin=source("x")))
    ones = np.ones((1, 1, 1))
    signal = b.add(IF(ones, v_init=ones / 2), b.x, name="encoder")
    if not positive:
        signal = b.conv(signal, 2, "signed", padding=(0, 0))
    signal = b.add(SumPool((3, 3), (2, 2), ((1, 1), (1, 1))), signal, name="pool")
    signal = b.conv(signal, 3, "conv", kernel=(3, 3), padding=(padding, padding))
    b.graph.set_op("conv", attrs.evolve(b.graph["conv"], in_scale=np.full(1, 1 / 9)))
    return b.done(b.add(IF(ones), signal, name="if"))


def test_neurons_fire_for_each_full_window_and_the_values_are_as_before():
    graph = net()
    after = graph.copy()
    context = Context(graph)
    assert pass_named("pool-neurons", limit=40).run(after, context) == 1
    verify(after, FINAL, graph.sources)
    assert isinstance(after["pool"], Conv)
    assert after["pool"].groups == 2
    assert after["pool_spikes"].v_threshold.ravel().tolist() == [9.0]
    assert "windows have neurons" in context.notes[0].reason
    x = torch.rand(4, 2, 8, 8, dtype=torch.float64)
    values = {}

    def tap(name, value, *_):
        if name in ("pool", "pool_value"):
            values[name] = values.get(name, 0) + value

    run(after, x, T, tap=tap)
    assert float((values["pool"] - values["pool_value"]).abs().max()) <= 4.5 + 1e-9


@pytest.mark.parametrize(
    ("padding", "positive", "limit"), [(0, True, 40), (1, True, 48), (1, False, 40)], ids=["fits", "small", "signed"]
)
def test_a_pool_stays_that_folds_or_is_unrolled_or_may_be_negative(padding, positive, limit):
    graph = net(padding, positive)
    after = graph.copy()
    limit = limit if padding else 10
    assert pass_named("pool-neurons", limit=limit).run(after, Context(graph)) == 0
    assert after.same_as(graph)


@pytest.mark.slow
def test_a_large_net_with_a_pool_whose_windows_overlap_runs():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(3, 2, 1), nn.Conv2d(8, 24, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4),
    ).eval()  # fmt: skip
    x = torch.rand(12, 1, 24, 24)
    with pytest.warns(spikec.SpikecWarning, match="hard reset in all layers"):
        found = spikec.Compiler("netx", calibration=x, timesteps=T).run(model)
    assert [layer.kind for layer in found.artifact.layers] == ["conv", "conv", "conv", "dense"]
    outputs = run(found.graph, x.double(), T).sum(0).numpy()
    assert np.array_equal(found.artifact.simulate(x).total, outputs)
    ann = model(x).detach()
    assert float((found.artifact.run(x) - ann).pow(2).mean().sqrt()) < 0.2 * float(ann.std())
