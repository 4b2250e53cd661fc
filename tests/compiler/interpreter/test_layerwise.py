"""Layers that wait for a window of T steps, beside neurons that are run step by step in numpy."""

import numpy as np
import pytest
import torch

import nets
import spikec
from spikec.ir.ops import IF, Delay, Input, Neuron, Output

T = 12


@pytest.fixture(scope="module")
def compilation():
    x = nets.batch("mlp", 60, dtype=torch.float64)
    return spikec.Compiler("spikingjelly", calibration=x, normalization="max").run(
        nets.build("mlp", dtype=torch.float64)
    )


def fired(neuron, charge, steps):
    """The spikes of neurons that were charged in a window and fire in the next one, at most one at each step."""
    potential, total = charge + neuron.v_init, np.zeros_like(charge)
    for _ in range(steps):
        spikes = potential >= neuron.v_threshold
        potential = potential - spikes * neuron.v_threshold
        total += spikes
    return total


@pytest.mark.slow
def test_each_layer_fires_in_the_window_after_it_was_charged(compilation):
    x, graph = nets.batch("mlp", 30, dtype=torch.float64), compilation.graph
    signal = None
    for name in graph:
        op = graph[name]
        if isinstance(op, Neuron):
            signal = fired(op, signal * T, T) / T
        elif graph.operands(name):
            signal = op.eval(torch.as_tensor(signal)).numpy()
        else:
            signal = x.numpy()
    found = spikec.simulate(graph, x, T, schedule="layers")
    np.testing.assert_allclose(found.answer.numpy(), signal * compilation.output_scale, atol=1e-12)
    depth = len(graph.match(Neuron))
    assert depth > 1
    assert (found.windows, found.steps.tolist(), found.saved) == (depth, [depth * T] * 30, 0)
    assert found.means.shape == (1, 30, *found.answer.shape[1:])
    assert f"{depth} windows" in repr(found)
    module = spikec.simulate(compilation.artifact, x, T, schedule="layers")
    torch.testing.assert_close(module.answer, found.answer, rtol=0, atol=1e-12)


def test_it_is_the_bound_that_diagnose_states(compilation):
    x = nets.batch("mlp", 30, dtype=torch.float64)
    said = spikec.simulate(compilation.graph, x, T, schedule="layers").answer
    wanted = spikec.run(compilation.stages[0].graph, x)
    error = float(((said - wanted).square().mean() / (wanted - wanted.mean(0)).square().mean()).sqrt())
    assert error == pytest.approx(spikec.diagnose(compilation, x, timesteps=T).rungs[1].error, rel=1e-6)


def test_what_cannot_wait_is_refused(compilation):
    x = nets.batch("mlp", 4, dtype=torch.float64)
    with pytest.raises(spikec.CompileError, match="schedule is 'layer'"):
        spikec.simulate(compilation.graph, x, T, schedule="layer")
    with pytest.raises(spikec.CompileError, match="answer once"):
        spikec.simulate(compilation.graph, x, T, patience=2, schedule="layers")
    with pytest.raises(spikec.CompileError, match="from step to step"):
        spikec.simulate(compilation.graph, x.expand(T, *x.shape), schedule="layers")
    with pytest.raises(spikec.CompileError, match="a Linear"):
        spikec.simulate(torch.nn.Linear(2, 2), x, T, schedule="layers")


def test_a_recurrent_network_is_refused_by_its_register():
    graph = spikec.Graph("loop")
    x = graph.add(Input((3,), rate=True), name="x")
    graph.add(Output(), graph.add(IF(np.ones(1)), graph.add(Delay(graph.type(x)), x, name="late"), name="n"), name="y")
    with pytest.raises(spikec.CompileError, match="no layer can wait") as refused:
        spikec.simulate(graph, torch.rand(2, 3), T, schedule="layers")
    assert "late" in str(refused.value)
