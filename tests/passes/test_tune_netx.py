"""Tuning against the integers of netx: what hard reset loses, on samples that nobody tuned on."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

import nets
import spikec
from spikec.backends.netx.backend import Netx
from spikec.ir.ops import Neuron, Weighted
from spikec.passes import tune_netx
from spikec.passes.tune_netx import TuneNetx

T = 32
SHAPE = (2, 8, 6)


@functools.cache
def model():
    layers = (nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 2), nn.ReLU())
    return nets.randomize(nn.Sequential(*layers, nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 3)))


@functools.cache
def data():
    torch.manual_seed(0)
    return torch.rand(64, *SHAPE), torch.rand(100, *SHAPE)


def compiled(change=lambda pipeline: pipeline, reset="hard"):
    target = Netx(reset=reset)
    pipeline = change(spikec.Pipeline.default(target, timesteps=T))
    return spikec.Compiler(target, calibration=data()[0], timesteps=T, pipeline=pipeline).run(model())


@functools.cache
def untuned():
    return compiled(lambda pipeline: pipeline.without("tune-netx"))


def error(compilation):
    """The mean error on samples that the compiler has not seen, and the agreement with the ANN."""
    x = data()[1]
    wanted, found = model()(x).detach(), compilation.artifact.run(x, T)
    return float((wanted - found).abs().mean()), float((wanted.argmax(1) == found.argmax(1)).double().mean())


def integers(compilation):
    arrays = [node.op.weight for node in compilation.graph.match(Weighted)]
    return arrays, [node.op.v_threshold.item() for node in compilation.graph.match(Neuron)[1:]]


@pytest.mark.slow
def test_hard_reset_loses_less_on_other_samples():
    before, after = error(untuned()), error(compiled())
    assert after[0] < 0.6 * before[0]
    assert after[1] >= before[1]


@pytest.mark.slow
def test_weights_stay_and_the_file_is_the_graph_spike_for_spike():
    tuned = compiled()
    (weights, thresholds), (others, before) = integers(tuned), integers(untuned())
    assert all(np.array_equal(a, b) for a, b in zip(weights, others, strict=True))
    assert thresholds != before
    assert all(threshold % 2 == 0 for threshold in thresholds)
    x = data()[1][:5]
    trace = tuned.artifact.simulate(x, T)
    seen = {name: [] for name in trace.spikes}
    out = spikec.run(tuned.graph, x.double(), T, tap=lambda name, value, *_: seen.get(name, []).append(value.numpy()))
    assert all(np.array_equal(np.stack(seen[name]), found) for name, found in trace.spikes.items())
    assert np.array_equal(out.numpy(), trace.steps)


@pytest.mark.slow
def test_what_is_worse_on_samples_not_tuned_on_is_left_out(monkeypatch):
    monkeypatch.setattr(tune_netx, "_bias", lambda values: np.where(np.arange(len(values)) % 2, 4000.0, -4000.0))
    monkeypatch.setattr(tune_netx, "_has_room", lambda *_: True)
    found = compiled()
    assert integers(found)[1] == integers(untuned())[1]
    assert "on samples not tuned on; left out" in str(found.report)


@pytest.mark.slow
def test_what_would_overflow_is_left_out(monkeypatch):
    monkeypatch.setattr(tune_netx, "_MARGIN", 1e9)
    found = compiled()
    assert integers(found)[1] == integers(untuned())[1]
    assert "would grow too far" in str(found.report)


@pytest.mark.slow
def test_an_output_that_would_overflow_gets_smaller_integers(monkeypatch):
    """What is won back in front of an output makes it larger, and must not be given up for that."""
    usual, real, most = compiled(), tune_netx.growth, []

    def growth(graph, names, encoder, context, **options):
        found = real(graph, names, encoder, context, **options)
        (name,) = graph.outputs
        most.append(np.max(found[name]) * context.steps * 1.25 / tune_netx.STATE)
        return {**found, name: found[name] * 2 / most[-1]}  # twice of what there is room for

    monkeypatch.setattr(tune_netx, "growth", growth)
    small = compiled()
    assert most
    (*before, last), (*others, smaller) = integers(usual)[0], integers(small)[0]
    assert all(np.array_equal(a, b) for a, b in zip(before, others, strict=True))
    assert np.array_equal(smaller, 2 * np.round(last / 4))
    assert integers(small)[1] == integers(usual)[1] != integers(untuned())[1]
    assert error(small)[0] < 1.1 * error(usual)[0]


@pytest.mark.slow
def test_soft_reset_loses_nothing_and_is_left_alone():
    found = compiled(reset="soft")
    assert found.stages[-1].name == "tune-netx"
    assert found.stages[-1].changes == 0


def test_it_is_in_the_order_where_nothing_was_chosen_and_t_is_known():
    def names(**options):
        return [each.name for each in spikec.Pipeline.default("netx", **options)]

    assert names(timesteps=8)[-1] == "tune-netx"
    assert names()[-1] == "quantize-netx"
    assert names(timesteps=8, normalization="max")[-1] == "quantize-netx"


@pytest.mark.parametrize("options", [{"gains": ()}, {"ratios": (0.5, 2.0)}, {"gains": (0.0,)}])
def test_candidates_that_are_none_are_refused(options):
    with pytest.raises((spikec.CompileError, ValueError), match="above 0"):
        TuneNetx(**options)
