"""Networks for readers that reset to zero, run by equations that stand here."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

import nets
import spikec
from nir_numpy import at_threshold, run_chain, subtracted, to_zero
from spikec.ir.ops import IF

T = 32


@functools.cache
def model():
    return nets.randomize(nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 5)))


@functools.cache
def data():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(96, 12, generator=generator), torch.rand(200, 12, generator=generator)


@functools.cache
def compiled(**options):
    given = {"profile": "spikingjelly", "calibration": data()[0], "timesteps": T, **options}
    return spikec.Compiler("nir", **given).run(model())


def error(compilation, reset=True):
    """Of samples that nobody tuned on, relative to the spread of the ANN's outputs."""
    x = data()[1]
    wanted = model()(x).detach().numpy()
    left = to_zero if reset else subtracted
    found = run_chain(compilation.artifact, x.numpy().astype(float), T, at_threshold, left)[-1]
    return float(np.abs(found - wanted).mean() / wanted.std())


@pytest.fixture(scope="module")
def soft():
    with pytest.warns(spikec.SpikecWarning, match="resets the potential to v_reset"):
        return compiled()


@pytest.mark.slow
@pytest.mark.parametrize("neurons", [1, 3])
def test_the_file_resets_to_zero_and_is_the_graph(neurons):
    found = compiled(reset="hard", neurons=neurons)
    assert all(node.op.v_reset is not None and not node.op.v_reset.any() for node in found.graph.match(IF))
    x = data()[1][:20].double()
    ours = spikec.run(found.graph, x, T).mean(0).numpy()
    assert np.abs(ours - run_chain(found.artifact, x.numpy(), T, at_threshold, to_zero)[-1]).max() < 1e-9
    assert len(found.graph.match(IF)) == 2
    assert found.graph.type(found.graph.match(IF)[0].name).shape == (40 * neurons,)


@pytest.mark.slow
def test_it_loses_less_than_a_reset_to_zero_of_what_was_tuned_to_subtract(soft):
    before, after = error(soft), error(compiled(reset="hard"))
    assert error(soft, reset=False) < after < before / 2.5


@pytest.mark.slow
def test_more_neurons_lose_less():
    errors = [error(compiled(reset="hard", neurons=neurons)) for neurons in (1, 2, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.75 * errors[0]


@pytest.mark.slow
def test_a_ramp_is_nearer_with_more_neurons():
    # a constant current and T = 64: .115 for one threshold that no one tunes
    x = torch.linspace(0, 1, 257)[1:, None]
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.fill_(1)
            layer.bias.fill_(0)
    rms = []
    for neurons in (1, 4):
        made = spikec.compile(
            net, "nir", profile="spikingjelly", calibration=x, timesteps=64, reset="hard", neurons=neurons
        )
        y = run_chain(made, x.numpy().astype(float), 64, at_threshold, to_zero)[-1]
        rms.append(float(np.sqrt(np.square(y - x.numpy()).mean())))
    assert rms[0] < 0.05
    assert rms[1] < 0.02


@pytest.mark.slow
def test_max_pools_count_whole_spikes():
    """Of spikes a and b a pool has made ``B(t) + max(0, max_{s <= t} A(s) - B(s))`` by step t, A and B their counts."""
    torch.manual_seed(0)
    net = nets.randomize(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 4)).eval()
    )
    x, fresh = torch.rand(48, 1, 8, 8), torch.rand(64, 1, 8, 8)
    made = spikec.Compiler("nir", profile="spikingjelly", calibration=x, timesteps=64, reset="hard").run(net)
    spikes = {node.name: [] for node in made.graph.match(IF)}
    spikec.run(
        made.graph, fresh, 64, tap=lambda name, value, *_: spikes.get(name, []).append(value.numpy().astype(int))
    )
    relu, across, down = (np.stack(each) for each in spikes.values())
    pooled = relu
    for axis, excess in ((4, across), (3, down)):
        a, b = (pooled.take(range(start, pooled.shape[axis], 2), axis) for start in (0, 1))
        ahead = np.maximum.accumulate(np.maximum(a.cumsum(0) - b.cumsum(0), 0), 0)
        assert np.array_equal(excess, np.diff(ahead, axis=0, prepend=0))
        assert excess.any()
        pooled = b + excess
    assert pooled.max() == 1
    largest = relu.sum(0).reshape(64, 4, 3, 2, 3, 2).max((3, 5))
    assert (pooled.sum(0) >= largest).all()
    assert (pooled.sum(0) == largest).mean() > 0.5
    wanted = net(fresh).detach()
    found = spikec.run(made.graph, fresh, 64).mean(0)
    assert (found - wanted).abs().mean() < 0.1 * wanted.std()


@pytest.mark.slow
def test_a_sum_of_skips_is_tuned_too():
    net, x = nets.build("resnet"), nets.batch("resnet")
    made = spikec.Compiler("nir", profile="spikingjelly", calibration=x, timesteps=T, reset="hard").run(net)
    with torch.no_grad():
        wanted = net(x)
    error = (spikec.run(made.graph, x, T).mean(0) - wanted).abs().mean() / wanted.std()
    assert error < 0.25
    assert all(node.op.v_reset is not None for node in made.graph.match(IF))


def test_without_steps_it_is_refused():
    with pytest.raises(spikec.CompileError, match="timesteps is not given") as refused:
        spikec.compile(model(), "nir", calibration=data()[0], reset="hard")
    assert "timesteps=64" in refused.value.hint


@pytest.mark.slow
def test_without_samples_thresholds_are_all_that_changes():
    with pytest.warns(spikec.SpikecWarning, match="no calibration data"):
        found = spikec.Compiler("nir", example_input=data()[0][:1], timesteps=T, reset="hard").run(model())
    assert all(node.op.v_reset is not None for node in found.graph.match(IF))
    x = data()[1][:20]
    assert torch.isfinite(spikec.run(found.graph, x, T)).all()


@pytest.mark.slow
def test_a_network_that_spikes_already_keeps_what_is_hard_and_the_rest_is_made_so():
    soft = spikec.Compiler("nir", calibration=data()[0], timesteps=T).run(model()).graph
    found = spikec.Compiler("nir", timesteps=T, reset="hard").run(soft).graph
    assert all(node.op.v_reset is not None for node in found.match(IF))
    again = spikec.Compiler("nir", timesteps=T, reset="hard").run(found)
    assert next(record.changes for record in again.stages if record.name == "hard-reset") == 0


def test_options_are_checked():
    for wrong in ({"ratios": ()}, {"ratios": (0.0,)}, {"neurons": 0}):
        with pytest.raises(spikec.CompileError):
            spikec.pass_named("hard-reset", **wrong)
