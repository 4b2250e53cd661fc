"""Layers that NIR has no node for become matrices over vectors, and say what they said."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spikec
from spikec import Compiler, UnsupportedOpError, VerificationError
from spikec.extend.loader import pass_named
from spikec.extend.passbase import Context
from spikec.ir.ops import Linear, Neuron
from spikec.passes import lower_shapes

T = 8


class Mixer(nn.Module):
    """As an MLP-Mixer (Tolstikhin et al. 2021): an MLP over patches, and one over channels, with skips."""

    def __init__(self):
        super().__init__()
        self.patches, self.over_patches = nn.Conv2d(1, 6, 2, 2), nn.Linear(9, 9)
        self.over_channels, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.patches(x)).flatten(2)
        x = x + F.relu(self.over_patches(x))
        x = x.transpose(1, 2)
        return self.head((x + F.relu(self.over_channels(x))).mean(1))


class Attention(nn.Module):
    """One layer of attention over four tokens."""

    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(16, 3)

    def forward(self, x):
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).flatten(1))


class Tokens(nn.Module):
    """Its output has two axes."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.second(F.relu(self.first(x)))


SHAPES = {Mixer: (1, 6, 6), Attention: (4, 4), Tokens: (3, 5)}


def compiled(make, **options):
    torch.manual_seed(0)
    model, x = make().eval().requires_grad_(False), torch.rand(30, *SHAPES[make])
    target = options.pop("target", "nir")
    given = {"normalization": "max", "verify": "each"} | ({"profile": "full"} if target == "nir" else {}) | options
    return Compiler(target, calibration=x, **given).run(model), model, x


@pytest.mark.slow
@pytest.mark.parametrize("make", SHAPES)
def test_the_file_says_what_the_module_does(make, tmp_path):
    run, model, x = compiled(make)
    spikec.save(run.artifact, tmp_path / "net.nir")
    modules, _, _ = compiled(make, target="spikingjelly", counters=False, verify="off")
    said = spikec.simulate(spikec.load(tmp_path / "net.nir"), x, T).answer
    wanted = spikec.simulate(modules, x, T).answer
    torch.testing.assert_close(said.reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-4)
    off = spikec.simulate(run, x, 512).answer.reshape(wanted.shape) - model(x)
    assert float(off.square().mean().sqrt() / model(x).std()) < 0.1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*has one threshold for all of its channels:spikec.SpikecWarning")
def test_neurons_that_start_apart_keep_their_places():
    run, _, _ = compiled(Mixer, normalization=None, timesteps=4)
    before, after = (
        next(each.graph for each in run.stages if each.name == n) for n in ("lower-v-init", "lower-shapes")
    )
    apart = [node for node in after.match(Neuron) if node.op.v_init.size > 1 == node.op.v_init.ndim]
    assert apart
    for node in apart:
        start, shape = before[node.name].v_init, before.type(node.name).shape
        assert np.array_equal(node.op.v_init, np.broadcast_to(start, shape).reshape(-1))


@pytest.mark.slow
def test_no_matrix_is_between_a_small_signal_and_the_ramps_of_a_larger_one():
    run, _, _ = compiled(Attention, verify="off")
    shapes = [node.op.weight.shape for node in run.graph.match(Linear)]
    ramps = max(rows for rows, _ in shapes)
    assert ramps > 500
    assert all(columns <= 32 for rows, columns in shapes if rows == ramps)  # and not all sums of pairs
    assert all(rows <= 32 for rows, columns in shapes if columns == ramps)


def test_too_many_weights_are_refused_by_the_layer_that_has_the_most(monkeypatch):
    run, _, _ = compiled(Mixer, target="spikingjelly", counters=False, verify="off")
    graph = run.stages[-1].graph.copy()
    whole, context = graph.copy(), Context(graph)
    assert pass_named("lower-shapes").run(whole, context)
    sizes = {node.name: node.op.weight.size for node in whole.match(Linear)}
    total = sum(sizes.values())
    assert total > 1000
    assert f"matrices over vectors: {total:,} weights" in context.notes[0].reason
    assert pass_named("lower-shapes", limit=total).run(graph.copy(), context)
    monkeypatch.setattr(lower_shapes._Vectors, "_matrix", None)  # none is made for a network that is refused
    with pytest.raises(UnsupportedOpError, match=f"this network has {total:,} weights") as caught:
        pass_named("lower-shapes", limit=total - 1).run(graph, context)
    assert "add (test_lower_shapes.py" in str(caught.value)  # what skips the MLPs is 54 numbers, of 54 and 54


@pytest.mark.slow
def test_a_wrong_matrix_is_found(monkeypatch):
    right = lower_shapes._Vectors._matrix
    monkeypatch.setattr(lower_shapes._Vectors, "_matrix", lambda *args: 1.01 * right(*args))
    with pytest.raises(VerificationError, match="lower-shapes"):
        compiled(Mixer)


def test_maps_and_vectors_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    run = Compiler("nir", profile="full", calibration=torch.rand(8, 1, 6, 6), verify="off").run(model)
    assert next(record.changes for record in run.stages if record.name == "lower-shapes") == 0
