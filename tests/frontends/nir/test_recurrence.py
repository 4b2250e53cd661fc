"""Cycles and graphs in graphs: NIR's recurrent layers, against the equations in numpy."""

import nir
import numpy as np
import pytest
import torch

import spikec
from nir_numpy import evaluate
from spikec import UnsupportedOpError
from spikec.ir.ops import Delay, Linear

DT, T, B, N = 1e-3, 30, 4, 9


def full(value, size=N):
    return np.full(size, float(value))


def cuba():
    return nir.CubaLIF(
        tau_syn=full(4 * DT), tau_mem=full(8 * DT), r=full(8), v_leak=full(0), v_threshold=full(1), w_in=full(4),
        v_reset=full(0),
    )  # fmt: skip


def lif():
    return nir.LIF(tau=full(8 * DT), r=full(8), v_leak=full(0), v_threshold=full(1), v_reset=full(0))


def integrate_and_fire():
    return nir.IF(r=full(1), v_threshold=full(1), v_reset=full(0))


RNG = np.random.default_rng(0)
FED, BACK, READ = RNG.normal(0.3, 0.5, (N, 6)), RNG.normal(0, 0.5, (N, N)), RNG.normal(0, 0.5, (3, N))
SHIFT = RNG.normal(0, 0.1, N)
X = (RNG.random((T, B, 6)) < 0.4).astype(float)


def affine(weight, bias=None):
    return nir.Affine(weight=weight, bias=np.zeros(len(weight)) if bias is None else bias)


def recurrent(neuron, form, back=None):
    """As snnTorch and others write a layer: its cycle in the graph itself, or in a graph of its own."""
    back = affine(BACK, SHIFT) if back is None else back
    cycle = [("lif", "w_rec"), ("w_rec", "lif")]
    nodes = {
        "input": nir.Input(np.array([6])),
        "fc": affine(FED),
        "out": affine(READ),
        "output": nir.Output(np.array([3])),
    }
    if form == "flat":
        nodes |= {"lif": neuron, "w_rec": back}
        edges = [("input", "fc"), ("fc", "lif"), *cycle, ("lif", "out"), ("out", "output")]
    else:
        parts = {"input": nir.Input(np.array([N])), "lif": neuron, "w_rec": back, "output": nir.Output(np.array([N]))}
        inner = [("input", "lif"), *cycle, ("lif", "output")]
        nodes["rec"] = nir.NIRGraph(parts, inner, metadata={"reset": "value"}, type_check=False)
        edges = [("input", "fc"), ("fc", "rec"), ("rec", "out"), ("out", "output")]
    return nir.NIRGraph(nodes, edges, metadata={"dt": DT, "reset": "value"}, type_check=False)


def by_hand(kind):
    i, v, s, outputs = np.zeros((B, N)), np.zeros((B, N)), np.zeros((B, N)), []
    for x in X:
        z = x @ FED.T + s @ BACK.T + SHIFT  # before step 0 no neuron has fired, and the bias is there
        if kind is cuba:
            i = i + (4 * z - i) / 4
            v = v + (8 * i - v) / 8
        else:
            v = v + (8 * z - v) / 8 if kind is lif else v + z
        s = (v > 1).astype(float)
        v = np.where(s > 0, 0, v)
        outputs.append(s @ READ.T)
    return np.array(outputs)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["flat", "nested"])
@pytest.mark.parametrize("kind", [cuba, lif, integrate_and_fire])
def test_a_recurrent_layer_is_read_run_emitted_and_written_back(kind, form, tmp_path):
    nir.write(tmp_path / "x.nir", recurrent(kind(), form))
    graph, x = spikec.load(tmp_path / "x.nir"), torch.tensor(X)
    wanted = by_hand(kind)
    assert (wanted != 0).mean() > 0.02
    np.testing.assert_allclose(spikec.run(graph, x).numpy(), wanted, rtol=0, atol=1e-12)
    module = spikec.compile(tmp_path / "x.nir", "spikingjelly")
    module.step_mode = "m"
    np.testing.assert_allclose(module(x).detach().numpy(), wanted, rtol=0, atol=1e-12)
    written = spikec.compile(tmp_path / "x.nir", "nir", dt=DT)
    spikec.save(written, tmp_path / "again.nir")
    again = spikec.load(tmp_path / "again.nir")
    assert sum(bool(node.op.shift.any()) for node in again.match(Linear)) == 1, "weights on the way back have no bias"
    np.testing.assert_allclose(spikec.run(again, x).numpy(), wanted, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["flat", "nested"])
def test_a_recurrent_layer_goes_to_netx(form):
    net = spikec.compile(
        recurrent(cuba(), form), "netx", calibration=torch.tensor(X.mean(0)), timesteps=T, input="spikes"
    )
    assert [layer.kind for layer in net.layers] == ["dense_rec", "dense"]
    ours, wanted = net.run(X), by_hand(cuba).mean(0)
    assert np.abs(ours - wanted).mean() < 0.1 * wanted.std()


def test_neurons_may_feed_themselves_directly():
    graph = recurrent(integrate_and_fire(), "flat", nir.Linear(weight=np.eye(N)))
    del graph.nodes["w_rec"]
    graph.edges = [("lif", "lif") if edge == ("lif", "w_rec") else edge for edge in graph.edges if edge[0] != "w_rec"]
    other = recurrent(integrate_and_fire(), "flat", nir.Linear(weight=np.eye(N)))
    x = torch.tensor(X)
    assert torch.equal(spikec.run(spikec.load(graph), x), spikec.run(spikec.load(other), x))


def test_a_cycle_through_two_layers_is_late_once():
    nodes = {
        "input": nir.Input(np.array([6])), "fc": affine(FED), "a": integrate_and_fire(), "ab": affine(BACK),
        "b": integrate_and_fire(), "ba": affine(BACK.T), "output": nir.Output(np.array([N])),
    }  # fmt: skip
    edges = [("input", "fc"), ("fc", "a"), ("a", "ab"), ("ab", "b"), ("b", "ba"), ("ba", "a"), ("b", "output")]
    graph = spikec.load(nir.NIRGraph(nodes, edges, metadata={"reset": "value"}, type_check=False))
    assert [graph.operands(node.name) for node in graph.match(Delay)] == [("b",)]
    va, vb, b, outputs = np.zeros((B, N)), np.zeros((B, N)), np.zeros((B, N)), []
    for x in X:
        va = va + x @ FED.T + b @ BACK
        a = (va > 1).astype(float)
        va = np.where(a > 0, 0, va)
        vb = vb + a @ BACK.T
        b = (vb > 1).astype(float)
        vb = np.where(b > 0, 0, vb)
        outputs.append(b)
    assert 0.02 < np.mean(outputs) < 0.98
    assert np.array_equal(spikec.run(graph, torch.tensor(X)).numpy(), np.array(outputs))


def equal_to_numpy(graph, x=X, soft=False, dt=DT, **options):
    found = spikec.run(spikec.load(graph, **options), torch.tensor(x))
    wanted = evaluate(graph, x, soft=soft, dt=dt)
    (output,) = [wanted[name] for name, node in graph.nodes.items() if isinstance(node, nir.Output)]
    assert output.std() > 0.05
    np.testing.assert_allclose(found.numpy(), output, rtol=0, atol=1e-9)


@pytest.mark.parametrize("form", ["flat", "nested"])
@pytest.mark.parametrize("kind", [cuba, lif])
def test_the_oracle_agrees_with_the_layer_written_out(kind, form):
    output = evaluate(recurrent(kind(), form), X, soft=False, dt=DT)["output"]
    np.testing.assert_allclose(output, by_hand(kind), rtol=0, atol=1e-12)


def test_two_weights_on_the_way_back():
    graph = recurrent(lif(), "flat")
    graph.nodes["more"] = affine(BACK.T, SHIFT)
    graph.edges = [("w_rec", "more") if edge == ("w_rec", "lif") else edge for edge in graph.edges]
    graph.edges.append(("more", "lif"))
    equal_to_numpy(graph)


def test_weights_on_the_way_back_that_others_read_too():
    graph = recurrent(lif(), "flat")
    graph.edges = [("w_rec", "out") if edge == ("lif", "out") else edge for edge in graph.edges]
    equal_to_numpy(graph)


def test_a_filter_on_the_way_back():
    graph = recurrent(lif(), "flat")
    graph.nodes["slow"] = nir.LI(tau=full(3 * DT), r=full(1), v_leak=full(0))
    graph.edges = [("w_rec", "slow") if edge == ("w_rec", "lif") else edge for edge in graph.edges]
    graph.edges.append(("slow", "lif"))
    equal_to_numpy(graph)


def test_soft_reset_written_as_nodes():
    """I -> Threshold, whose spikes come back by a Scale: an IF with soft reset, without a word of metadata."""
    nodes = {
        "input": nir.Input(np.array([6])), "fc": affine(FED), "v": nir.I(r=full(1)), "fire": nir.Threshold(full(1)),
        "back": nir.Scale(full(-1)), "output": nir.Output(np.array([N])),
    }  # fmt: skip
    edges = [("input", "fc"), ("fc", "v"), ("v", "fire"), ("fire", "back"), ("back", "v"), ("fire", "output")]
    graph = nir.NIRGraph(nodes, edges, metadata={}, type_check=False)
    neurons = {"input": nodes["input"], "fc": nodes["fc"], "n": integrate_and_fire(), "output": nodes["output"]}
    chain = [("input", "fc"), ("fc", "n"), ("n", "output")]
    soft = spikec.load(nir.NIRGraph(neurons, chain, type_check=False), reset="subtract")
    found = spikec.run(spikec.load(graph), torch.tensor(X))
    assert torch.equal(found, spikec.run(soft, torch.tensor(X)))
    equal_to_numpy(graph, dt=None)
    module = spikec.compile(graph, "spikingjelly")
    module.step_mode = "m"
    assert torch.equal(module(torch.tensor(X)).detach(), found)


def test_a_bias_on_the_way_back_acts_when_the_reader_lets_it():
    """At step 0 it acts in snn-mlir, as in NIR's rule, and not in SpikingJelly and norse, which feed zeros."""
    graph = recurrent(integrate_and_fire(), "flat")
    x = torch.zeros(2, 1, 6, dtype=torch.float64)
    graph.nodes["w_rec"] = affine(0 * BACK, full(1.5))
    graph.metadata = {}
    fired = {name: spikec.run(graph, x, reader=name, dt=1.0)[:, 0] for name in ("snn-mlir", "spikingjelly", "norse")}
    assert torch.allclose(fired["snn-mlir"][0], torch.tensor(READ.sum(1)))
    for name in ("spikingjelly", "norse"):
        assert not fired[name][0].any()
        assert torch.equal(fired[name][1], fired["snn-mlir"][0])


def test_a_graph_with_two_inputs_in_a_graph_is_refused():
    graph = recurrent(lif(), "nested")
    graph.nodes["rec"].nodes["second"] = nir.Input(np.array([N]))
    with pytest.raises(UnsupportedOpError, match="other ends") as error:
        spikec.load(graph)
    assert error.value.location == "rec"


@pytest.mark.slow
def test_what_is_wrong_inside_is_said_of_files_too(tmp_path):
    graph = recurrent(lif(), "nested")
    graph.nodes["rec"].nodes["lif"].tau = full(-1)
    nir.write(tmp_path / "x.nir", graph)
    with pytest.raises(spikec.InvalidModelError, match="tau"):
        spikec.load(tmp_path / "x.nir")


def test_odd_graphs_in_graphs_are_refused(tmp_path):
    graph = recurrent(lif(), "nested")
    graph.nodes["rec"].edges.append("lif")
    with pytest.raises(spikec.InvalidModelError, match="is no pair of names"):
        spikec.load(graph)
    graph = recurrent(lif(), "nested")
    graph.nodes["rec"].nodes["rec"] = graph
    with pytest.raises(spikec.InvalidModelError, match="more than 16 others"):
        spikec.load(graph)


@pytest.mark.slow
def test_deep_files_are_refused(tmp_path):
    ports = {"input": nir.Input(np.array([3])), "output": nir.Output(np.array([3]))}
    inner = nir.NIRGraph(ports, [("input", "output")])
    for _ in range(18):
        inner = nir.NIRGraph({**ports, "g": inner}, [("input", "g"), ("g", "output")], type_check=False)
    nir.write(tmp_path / "x.nir", inner)
    with pytest.raises(spikec.InvalidModelError, match="deep in each other"):
        spikec.load(tmp_path / "x.nir")
