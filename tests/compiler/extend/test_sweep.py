"""The layer-sequential run gives the spikes that the interpreter gives, and every neuron keeps its books."""

import attrs
import numpy as np
import pytest
import torch

import build
import nets
from spikec import CompileError, Compiler, Graph, Normalization, Pipeline, Role, run
from spikec.extend.passbase import Context
from spikec.extend.sweep import Sweep, layers
from spikec.interpreter.results import agreement, as_tuple
from spikec.ir.ops import IF, Delay, Input, Neuron, Output

T = 12


def spiking(name):
    """(spiking graph with casts, the ANN before it, samples) of a zoo net, in float32."""
    x = nets.batch(name, 20)
    run_ = Compiler("spikingjelly", calibration=[x], normalization=Normalization(), verify="off").run(nets.build(name))
    stages = {record.name: record.graph for record in run_.stages}
    return stages["init-potential"], stages["normalize"], x if isinstance(x, tuple) else (x,)


@pytest.mark.parametrize("name", ["mlp", "resnet", "maxpool", "concat", "two_inputs"])
def test_counts_are_those_of_the_interpreter(name):
    graph, _, xs = spiking(name)
    expected = {}

    def tap(node, value, *_):
        if isinstance(graph[node], Neuron):
            expected.setdefault(node, []).append(value.sum(0))

    run(graph, xs, T, tap=tap)
    sweep, seen = Sweep(graph, xs, T), []
    for node in sweep:
        assert torch.equal(sweep.counts(node), torch.stack(expected[node]))
        seen.append(node)
    assert seen == list(expected)


def test_a_change_at_a_layer_counts_from_there_on():
    graph, _, xs = spiking("mlp")
    first, second = (node.name for node in graph.match(IF))
    untouched = Sweep(graph.copy(), xs, T)
    before = {node: untouched.counts(node) for node in untouched}
    sweep, after = Sweep(graph, xs, T), {}
    for node in sweep:
        if node == first:
            assert torch.equal(sweep.counts(node), before[node])
            graph.set_op(node, attrs.evolve(graph[node], v_threshold=3 * graph[node].v_threshold))
        after[node] = sweep.counts(node)
    assert after[first].sum() < before[first].sum()
    assert not torch.equal(after[second], before[second])
    fresh = Sweep(graph, xs, T)
    assert all(torch.equal(fresh.counts(node), after[node]) for node in fresh)


def test_a_recurrent_graph_has_no_layers():
    g = Graph("loop")
    x = g.add(Input((2,), "float32", rate=True), name="x")
    g.add(Output(), g.add(Delay(g.type(x)), x, name="d"), name="y")
    with pytest.raises(CompileError, match="recurrent"):
        Sweep(g, (torch.rand(3, 2),), T)


@pytest.mark.slow
def test_lacks_is_the_relu_minus_the_rate():
    graph, ann, xs = spiking("resnet")
    activations, spikes = {}, {}
    run(ann, xs, tap=lambda n, v, *_: activations.__setitem__(n, v.mean(0).numpy()))
    run(graph, xs, T, tap=lambda n, v, *_: spikes.setdefault(n, []).append(v.mean(0).numpy()))
    context = Context(ann, timesteps=T, ann=ann, calibration=build.samples(*xs))
    found = {layer.name: layer.shortfall() for layer in layers(graph, context)}
    assert len(found) == len(graph.match(IF))
    for name, lacks in found.items():
        wanted = activations[name] - np.stack(spikes[name]) * graph.type(name).scale
        np.testing.assert_allclose(lacks, wanted, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"streams": True}])
def test_every_neuron_keeps_its_books(options):
    """rate = mean input - (v(T) - v(0)) / T, for every neuron of a net that is converted by default."""
    x = nets.batch("resnet", 30)
    graph = Compiler("spikingjelly", calibration=[x], timesteps=T, **options).run(nets.build("resnet")).graph
    currents, spikes, states = {}, {}, {}

    def tap(name, value, state, operands):
        if graph[name].role is Role.NEURON:
            currents[name] = currents.get(name, 0) + operands[0].double()
            spikes[name] = spikes.get(name, 0) + value.double()
            states.setdefault(name, [state.double()])
            states[name][1:] = [graph[name].step(state, *operands)[0].double()]

    run(graph, x, T, tap=tap)
    assert len(spikes) == len(graph.match(IF))
    for name, count in spikes.items():
        threshold = torch.tensor(np.array(graph[name].v_threshold))
        first, last = states[name]
        books = (currents[name] - (last - first)) / T / threshold
        torch.testing.assert_close(count / T, books, rtol=0, atol=1e-5)
        assert not torch.allclose(count / T, currents[name] / T / threshold, rtol=0, atol=1e-5)


def test_pipelines_tune_only_what_the_user_left_open():
    def names(**options):
        return [each.name for each in Pipeline.default("spikingjelly", **options)]

    assert "choose" in names()
    assert "correct-bias" not in names()
    chosen = names(normalization=Normalization(), timesteps=8)
    assert "correct-bias" in chosen
    assert "choose" not in chosen
    assert not {"choose", "correct-bias"} & set(names(normalization=Normalization()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "two_inputs", "two_outputs"])
def test_a_sweep_puts_out_what_the_interpreter_does(name):
    graph, ann, xs = spiking(name)
    sweep = Sweep(graph, xs, T)
    assert list(sweep)
    wanted = run(graph, xs, T)
    for found, right in zip(sweep.outputs(), as_tuple(wanted), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-6)
    context = Context(ann, timesteps=T, ann=ann, calibration=build.samples(*xs))
    context.ran_over_time(graph, sweep.outputs())
    assert context.agreement(graph) == pytest.approx(agreement(graph, ann, xs, T), rel=1e-5)
