"""Soft reset behind convolutions that are too large to be unrolled, which lava has by our loader only."""

import functools

import attrs
import h5py
import numpy as np
import pytest
import torch
from torch import nn

import nets
import spikec
from spikec import UnsupportedOpError, run
from spikec.backends.netx import NetxNetwork
from spikec.backends.netx.file import stock
from spikec.backends.netx.sim import IntegerLayer, run_layer
from spikec.ir.errors import InvalidModelError
from spikec.ir.ops import IF

T = 32


@functools.cache
def compiled(reset):
    """A network whose first layer has 2,304 neurons; inputs, and the ANN's answers."""
    torch.manual_seed(0)
    model = nets.randomize(
        nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(864, 5), nn.ReLU(), nn.Linear(5, 4),
        )
    )  # fmt: skip
    x = torch.rand(8, 1, 26, 26)
    options = {"calibration": x, "timesteps": T, "reset": reset, "normalization": "max"}
    return spikec.Compiler("netx", **options).run(model), x, model(x).detach()


@pytest.mark.slow
def test_integers_are_the_graph_spike_for_spike_and_near_the_ann():
    found, x, ann = compiled("soft")
    net = found.artifact
    assert [layer.kind for layer in net.layers] == ["conv", "conv", "dense_rec", "dense"]
    assert net.reset == "soft"
    assert "our loader only" in str(found.report)
    spikes = {}

    def tap(name, value, *_):
        if isinstance(found.graph[name], IF):
            spikes.setdefault(name, []).append(value.numpy().astype(bool))

    total = run(found.graph, x.double(), T, tap=tap).sum(0).numpy()
    trace = net.simulate(x)
    for name, seen in trace.spikes.items():
        assert seen.any()
        assert np.array_equal(np.stack(spikes[name]).reshape(seen.shape), seen)
    assert np.array_equal(trace.steps.sum(0), total)
    errors = {
        reset: float((compiled(reset)[0].artifact.run(x) - ann).pow(2).mean().sqrt() / ann.std())
        for reset in ("soft", "hard")
    }
    assert errors["soft"] < 0.1
    assert errors["soft"] < errors["hard"] / 2


@pytest.mark.slow
def test_the_file_is_hard_to_stock_netx_and_says_what_the_loader_makes_of_it(tmp_path):
    found, x, _ = compiled("soft")
    found.artifact.save(tmp_path / "x.net")
    with h5py.File(tmp_path / "x.net") as file:
        layer = file["layer/1"]
        threshold = -layer["softReset/weight"][()]
        assert "weight_rec" not in layer
        assert (threshold == threshold[0]).all()
        assert [layer[f"neuron/{key}"][()] for key in ("iDecay", "vDecay", "vThMant")] == [4096, 0, threshold[0] - 1]
        assert layer["softReset/iDecay"][()].max() == 0
        assert layer["softReset/vThMant"][()] == threshold[0] // 2 - 1  # neurons start half way
    again = NetxNetwork.load(tmp_path / "x.net")
    assert torch.equal(again.run(x), found.artifact.run(x))
    graph = again.to_graph()
    assert np.array_equal(run(graph, x.double(), T).sum(0).numpy(), found.artifact.simulate(x).steps.sum(0))
    hard = attrs.evolve(again, layers=tuple(map(stock, again.layers)))
    assert not torch.equal(hard.run(x), again.run(x))


def layer(**options):
    soft = {"current_decay": 0, "voltage_decay": 4096, "threshold": 49}
    made = {"kind": "conv", "name": "c", "shape": (2, 4, 3), "weight": 2 * np.ones((2, 1, 1, 1)) * [[[[20]]], [[[30]]]]}
    return IntegerLayer(**made, **soft, weight_rec=-100 * np.eye(2), **options)


def test_a_neuron_of_a_map_loses_its_threshold_a_step_after_its_spike():
    on = np.random.default_rng(0).random((40, 2, 1, 4, 3)) < 0.5
    found = run_layer(layer(), on).spikes
    assert found.any()
    potential = np.zeros((2, 2, 4, 3))
    for t in range(len(on)):
        potential = potential + 2 * np.array([20, 30]).reshape(2, 1, 1) * on[t]
        fired = potential > 49
        assert np.array_equal(found[t], fired)
        potential = potential - 100 * fired


def test_a_convolution_with_recurrent_weights_that_netx_does_not_read_is_refused(tmp_path):
    found, _, _ = compiled("hard")
    found.artifact.save(tmp_path / "x.net")
    with h5py.File(tmp_path / "x.net", "a") as file:
        channels = len(file["layer/1/weight"])
        file["layer/1/weight_rec"] = np.zeros((channels, channels))
    with pytest.raises(InvalidModelError, match="a convolution with a weight_rec"):
        NetxNetwork.load(tmp_path / "x.net")


@pytest.mark.slow
def test_blocks_of_lava_dl_have_no_such_neurons():
    _, x, _ = compiled("soft")
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2304, 3)).eval()
    with pytest.raises(UnsupportedOpError, match="no block of a convolution with soft reset") as error:
        spikec.compile(model, "lava", calibration=x, timesteps=T, reset="soft")
    assert 'target "netx"' in error.value.hint
