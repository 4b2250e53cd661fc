import numpy as np
import pytest
import torch
from torch import nn

import spikec

WEIGHT = torch.tensor([[0.9, -0.2], [0.3, 0.4], [-1.0, -1.0]])


class Net(nn.Module):
    """One ReLU, called twice."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head, self.relu = nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(4, 2), nn.ReLU()
        with torch.no_grad():
            self.one.weight.copy_(WEIGHT)
            self.one.bias.zero_()

    def forward(self, x):
        return self.head(self.relu(self.two(self.relu(self.one(x)))))


@pytest.fixture(scope="module")
def compilation():
    torch.manual_seed(0)
    return spikec.Compiler("spikingjelly", calibration=torch.rand(16, 2), normalization="max").run(Net().eval())


@pytest.fixture(scope="module")
def recording(compilation):
    return spikec.record(compilation, torch.tensor([[1.0, 0.5], [0.2, 0.9]]), 12)


def test_spikes_and_potentials_are_those_of_the_equation(compilation, recording):
    first = next(iter(recording.layers.values()))
    x = np.array([[1.0, 0.5], [0.2, 0.9]])
    current = x @ WEIGHT.numpy().T / first.scale.reshape(-1)
    v, spikes, potentials = np.full_like(current, 0.5), [], []
    for _ in range(12):
        v = v + current
        potentials.append(v)
        spikes.append((v >= 1).astype(float))
        v = v - spikes[-1]
    np.testing.assert_array_equal(first.spikes, spikes)
    np.testing.assert_allclose(first.potentials, potentials, atol=1e-5)
    np.testing.assert_allclose(first.rates, np.mean(spikes, 0))
    assert np.array(spikes).sum() > 5


def test_the_outputs_are_those_of_the_module(compilation, recording):
    module = compilation.artifact
    module.reset()
    x = torch.tensor([[1.0, 0.5], [0.2, 0.9]])
    with torch.no_grad():
        expected = torch.stack([module(x) for _ in range(12)])
    np.testing.assert_allclose(recording.outputs[0], expected, atol=1e-5)


def test_layers_of_one_name_are_told_apart(recording):
    assert list(recording.layers) == ["relu %relu", "relu %relu_1"]
    assert repr(recording) == "<spikec.Recording Net: 2 layers, 12 steps, 2 samples>"
    assert repr(recording["relu %relu"]).startswith("<spikec layer relu %relu: 12 x 2 x 3, rate 0.")
    with pytest.raises(spikec.CompileError, match="no layer 'relu' was recorded") as refused:
        recording["relu"]
    assert "relu %relu_1" in refused.value.hint


@pytest.mark.slow
def test_a_raster_has_a_dot_for_each_spike(recording, tmp_path):
    figure = recording.raster("relu %relu", sample=1, path=tmp_path / "raster.svg")
    times, neurons = figure.axes[0].lines[0].get_data()
    drawn = np.zeros((12, 3))
    drawn[times, neurons] = 1
    np.testing.assert_array_equal(drawn, recording["relu %relu"].spikes[:, 1])
    assert "<svg" in (tmp_path / "raster.svg").read_text()


def test_pictures_go_into_axes_of_the_users_own(recording):
    from matplotlib.figure import Figure

    mine = Figure()
    axes = mine.subplots(1, 2)
    assert recording.raster("relu %relu", ax=axes[0]) is mine
    assert recording.membrane("relu %relu", [2], ax=axes[1]) is mine
    drawn = axes[1].lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, recording["relu %relu"].potentials[:, 0, 2])


def counted(axes):
    return sum(patch.get_height() for patch in axes.patches)


@pytest.mark.slow
def test_histograms_count_every_neuron(recording):
    from matplotlib.figure import Figure

    assert [counted(each) for each in recording.rates().axes] == [2 * 3, 2 * 4]
    mine = Figure()
    assert recording.rates("relu %relu_1", ax=mine.subplots()) is mine
    assert counted(mine.axes[0]) == 2 * 4
    with pytest.raises(spikec.CompileError, match="one layer") as refused:
        recording.rates(ax=mine.axes[0])
    assert "relu %relu_1" in refused.value.hint


def test_what_cannot_be_recorded_or_drawn_is_refused(compilation, recording):
    with pytest.raises(spikec.InvalidModelError, match="no neurons to record"):
        spikec.record(compilation.stages[0].graph, torch.rand(1, 2), 4)
    with pytest.raises(spikec.CompileError, match="sample"):
        recording.raster("relu %relu", sample=2)
    with pytest.raises(spikec.CompileError, match="neurons"):
        recording.membrane("relu %relu", [3])
