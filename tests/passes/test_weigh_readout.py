"""Averages in which later steps count more: their weights, when they are chosen, and that exports do without."""

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import nets
import spikec
from spikec.extend.loader import pass_named
from spikec.ir.ops import Neuron, RecentMean
from spikec.ir.stages import SPIKING

T = 16


@pytest.mark.parametrize("power", [0, 1, 3, 0.5])
def test_the_mean_so_far_has_the_published_weights(power):
    """Shamir and Zhang 2013, eq. 5: the average moves by (power + 1) / (t + power); written out as weights here."""
    x = torch.randn(T, 3, 2, 4, dtype=torch.float64)
    op = RecentMean(power)
    said = op.steps(op.initial(x[0]), x)[1].cumsum(0) / torch.arange(1, T + 1)[:, None, None, None]
    for t in range(1, T + 1):
        weights = np.array([(power + 1) / (s + power) for s in range(1, t + 1)])
        for s in range(t - 1):
            weights[s] *= np.prod([1 - (power + 1) / (later + power) for later in range(s + 2, t + 1)])
        assert weights.sum() == pytest.approx(1)
        wanted = np.tensordot(weights, x[:t].numpy(), 1)
        np.testing.assert_allclose(said[t - 1].numpy(), wanted, rtol=1e-9, atol=1e-12)
    if power == 1:  # the weights of steps 1, 2, ... T
        rising = torch.arange(1, T + 1, dtype=torch.float64)
        torch.testing.assert_close(said[-1], torch.tensordot(rising / rising.sum(), x, 1))


def test_a_constant_stays_and_power_0_changes_nothing():
    x = torch.randn(1, 5, 3, dtype=torch.float64).expand(T, -1, -1)
    torch.testing.assert_close(RecentMean(4.0).steps(RecentMean(4.0).initial(x[0]), x)[1], x)
    moving = torch.randn(T, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(RecentMean().steps(RecentMean().initial(moving[0]), moving)[1], moving)


@pytest.mark.parametrize("shape", [(5,), (0, 3), (5, 2, 3)])
def test_samples_of_any_shape(shape):
    x = torch.randn(T, *shape, dtype=torch.float64)
    state, said = RecentMean(1.0).initial(x[0]), []
    for step in x:
        state, out = RecentMean(1.0).step(state, step)
        said.append(out)
    rising = torch.arange(1, T + 1, dtype=torch.float64)
    torch.testing.assert_close(torch.stack(said).mean(0), torch.tensordot(rising / rising.sum(), x, 1))


@attrs.frozen
class Late(spikec.Pass):
    """Neurons start far below their threshold, so that the first steps say nothing."""

    name = "late"
    contract = "approximate"
    needs = (SPIKING,)

    def run(self, graph, context):
        for node in graph.match(Neuron):
            graph.set_op(node.name, attrs.evolve(node.op, v_init=-2 * node.op.v_threshold))
        return len(graph.match(Neuron))


def late(x, model, *more, target="spikingjelly"):
    pipeline = spikec.Pipeline.default(target, normalization="max").insert_after("init-potential", Late())
    for each in more:
        pipeline = pipeline.insert_after("late", each)
    return spikec.Compiler(target, calibration=x, timesteps=T, pipeline=pipeline).run(model)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 6)).eval()


@pytest.mark.slow
def test_a_net_that_takes_steps_to_settle_is_read_late(model):
    x, unseen = torch.rand(80, 20), torch.rand(80, 20)
    with torch.no_grad():
        wanted = model(unseen)
    off = {}
    for name, passes in (("plain", ()), ("weighed", ("weigh-readout",))):
        c = late(x, model, *passes)
        weighed = c.graph.match(RecentMean)
        assert [node.op.power > 0 for node in weighed] == [True] * len(passes)
        with torch.no_grad():
            steps = torch.stack([c.artifact(unseen) for _ in range(T)])
        torch.testing.assert_close(steps, spikec.run(c.graph, unseen, T), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(spikec.simulate(c.artifact, unseen, T).answer, steps.mean(0), rtol=1e-4, atol=1e-5)
        off[name] = float((steps.mean(0) - wanted).square().mean())
    assert off["weighed"] < 0.8 * off["plain"]


def test_the_plain_mean_stays_where_it_is_the_nearest(model):
    x = torch.rand(80, 20)
    pipeline = spikec.Pipeline.default("spikingjelly", normalization="max").insert_after(
        "init-potential", pass_named("weigh-readout", powers=(40.0,))
    )
    c = spikec.Compiler("spikingjelly", calibration=x, timesteps=T, pipeline=pipeline).run(model)
    assert not c.graph.match(RecentMean)
    assert "weigh-readout" in [each.name for each in spikec.Pipeline.default("spikingjelly", timesteps=T)]


@pytest.mark.slow
@pytest.mark.parametrize(("gain", "weighed"), [(0.0, True), (0.99, False)])
def test_a_small_gain_leaves_the_plain_mean(gain, weighed, model):
    """Later steps are nearer in this net, but do not take 99 % of the error away."""
    found = late(torch.rand(80, 20), model, pass_named("weigh-readout", gain=gain)).graph
    assert bool(found.match(RecentMean)) == weighed


@pytest.mark.slow
def test_it_is_for_simulation_and_the_exports_say_so(model, tmp_path):
    x = torch.rand(80, 20)
    c = late(x, model, "weigh-readout")
    spikec.save(c.artifact, tmp_path / "net.pt")
    read = spikec.load(tmp_path / "net.pt")
    (power,) = [node.op.power for node in read.match(RecentMean)]
    assert power == c.graph.match(RecentMean)[0].op.power
    exported = spikec.Compiler("nir", timesteps=T).run(read)
    assert not exported.graph.match(RecentMean)
    assert any(f"t^{power:g}" in note.reason for note in exported.report.notes if note.by == "plain-readout")


def test_powers_and_their_errors():
    with pytest.raises(spikec.CompileError, match="powers"):
        pass_named("weigh-readout", powers=(-1.0,))
    assert str(pass_named("weigh-readout", powers=(2.0,))) == "weigh-readout{powers=(2.0,)}"
    assert spikec.Pipeline.parse("weigh-readout{powers=(2.0,)}").passes[0].powers == (2.0,)


@pytest.mark.slow
def test_nets_of_the_default_are_no_worse_on_other_data():
    x, model = nets.batch("cnn", 60), nets.build("cnn")
    unseen = nets.batch("cnn", 140)[60:]
    with torch.no_grad():
        wanted = model(unseen)
    off = []
    for without in ((), ("weigh-readout",)):
        pipeline = spikec.Pipeline.default("spikingjelly", timesteps=8).without(*without)
        c = spikec.Compiler("spikingjelly", calibration=x, timesteps=8, pipeline=pipeline).run(model)
        off.append(float((spikec.simulate(c.artifact, unseen, 8).answer - wanted).square().mean()))
    assert off[0] <= 1.02 * off[1]
