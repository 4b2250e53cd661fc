"""Leaky and recurrent neurons for netx: the integers against the graph, and the graph against the model."""

import attrs
import numpy as np
import pytest
import torch

import spikec
from leaky_nets import KINDS, ON_MAPS, RECURRENT, STEPS, arr, dense_net, map_net, residual_net
from spikec import SpikecWarning, UnsupportedOpError
from spikec.backends.netx import LayerNeurons, NetxNetwork
from spikec.backends.netx import plan as planning
from spikec.backends.netx.backend import Netx
from spikec.ir.ops import IF, LIF, Add, CubaLIF, Delay, Input, Linear, LoihiNeuron, Neuron, Output

NETS = [
    *(("dense", kind) for kind in KINDS),
    *(("recurrent", kind) for kind in RECURRENT),
    *(("map", kind) for kind in ON_MAPS),
]
RESIDUAL = (
    "lif with gain, leak and reset",
    "lif unlike",
    "lif soft",
    "lif never reset",
    "cuba",
    "cuba with leak and reset",
)


def made(form, kind, seed=0):
    return map_net(kind, seed) if form == "map" else dense_net(kind, form == "recurrent", seed)


def inputs(graph, count=12, seed=3):
    return torch.rand(count, *graph.type("x").shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def compiled(graph, x, **options):
    options = {"timesteps": STEPS, "verify": "off", **options}
    return spikec.Compiler("netx", calibration=x, **options).run(graph)


def spikes_of(graph, x, names, timesteps=STEPS):
    """Spikes [T, B, ...] of the interpreter by neuron, and its outputs' sum."""
    seen = {}

    def tap(name, value, *_):
        if name in names:
            seen.setdefault(name, []).append(value.numpy().astype(bool))

    total = spikec.run(graph, x, timesteps, tap=tap).sum(0).numpy()
    return {name: np.stack(steps) for name, steps in seen.items()}, total


@pytest.mark.slow
@pytest.mark.parametrize(("form", "kind"), NETS, ids=str)
def test_integers_are_the_final_graph_spike_for_spike(form, kind, tmp_path):
    graph = made(form, kind)
    x = inputs(graph)
    found = compiled(graph, x)
    trace = found.artifact.simulate(x)
    spikes, total = spikes_of(found.graph, x, trace.spikes)
    assert len(spikes) == 2
    for name, seen in trace.spikes.items():
        assert 0.01 < seen.mean() < 0.99
        assert np.array_equal(spikes[name].reshape(seen.shape), seen)
    assert np.array_equal(total, trace.total)
    assert trace.overflows == 0
    found.artifact.save(tmp_path / "x.net")
    assert np.array_equal(NetxNetwork.load(tmp_path / "x.net").simulate(x).total, trace.total)


@pytest.mark.parametrize(("form", "kind"), NETS, ids=str)
def test_but_for_rounding_the_final_graph_is_the_model(form, kind):
    """A neuron in the units of its layer is the model's own: its integers are put back to reals."""
    graph = made(form, kind)
    lowered = graph.copy()
    context = spikec.Context(graph, timesteps=STEPS)
    spikec.pass_named("loihi-neurons").run(lowered, context)
    x = (inputs(graph) < 0.5).double()
    names = [node.name for node in graph.match(Neuron)]
    ours, total = spikes_of(lowered, x, names)
    theirs, wanted = spikes_of(graph, x, names)
    assert any(isinstance(lowered[name], LoihiNeuron) for name in names) or kind.startswith("if")
    for name in names:
        assert 0.01 < theirs[name].mean() < 0.99
        assert np.array_equal(ours[name], theirs[name])
    np.testing.assert_allclose(total, wanted, rtol=1e-9, atol=1e-9)


def one_layer(neuron):
    """A net of one layer with these neurons."""
    graph = dense_net("lif")
    graph.set_op("n0", neuron)
    return graph


def test_a_model_s_hard_reset_keeps_its_convolutions_and_thresholds():
    graph = map_net("lif")
    layers = compiled(graph, inputs(graph)).artifact.layers
    assert [layer.kind for layer in layers] == ["conv", "conv", "dense"]
    assert layers[0].voltage_decay == round(4096 / 4.3)
    ratio = np.abs(layers[0].weight).max() / (layers[0].threshold + 1)
    gain = np.abs(graph["conv0"].weight).max() / 4.3
    assert abs(ratio / gain - 1) < 0.01


ONE, ZERO = np.ones(1), np.zeros(())


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        (CubaLIF(ONE, decay_syn=arr(0.5), decay=arr(0.8), out_scale=ONE), "a cubalif is reset by subtraction"),
        (LIF(ONE, ZERO, tau=arr(3.0), reset_at="next", out_scale=ONE), "a step late"),
        (LIF(ONE, tau=arr(3.0), reset_at="again", out_scale=ONE), "lowered once more"),
    ],
)
def test_another_reset_than_the_model_s_is_said_aloud(neuron, message):
    graph = one_layer(neuron)
    with pytest.warns(SpikecWarning, match=message):
        compiled(graph, inputs(graph))


@pytest.mark.slow
def test_a_leaky_neuron_behind_a_convolution_becomes_hard_aloud_where_it_is_not_unrolled():
    graph = map_net("lif soft")
    x = inputs(graph)
    with pytest.warns(SpikecWarning, match="is reset by subtraction, and to zero"):
        hard = compiled(graph, x, reset="hard")
    assert [layer.kind for layer in hard.artifact.layers] == ["conv", "conv", "dense"]
    assert [layer.kind for layer in compiled(graph, x).artifact.layers] == ["dense_rec", "dense_rec", "dense"]
    pipeline = spikec.Pipeline.default("netx").replace("legalize-netx", "legalize-netx{limit=9}")
    pipeline = pipeline.without("init-potential", "choose")
    with pytest.warns(SpikecWarning, match="behind a convolution"), pytest.warns(SpikecWarning, match="more than 9"):
        large = compiled(graph, x, pipeline=pipeline.from_stage(spikec.ir.stages.SPIKING))
    assert [layer.kind for layer in large.artifact.layers] == ["conv", "conv", "dense"]
    np.testing.assert_array_equal(large.artifact.run(x), hard.artifact.run(x))


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        (CubaLIF(ONE, ZERO, arr(0.2), decay_syn=arr(0.5), decay=arr(0.8), out_scale=ONE), "what charged it would stay"),
        (LIF(ONE, ZERO, arr(-0.2), tau=arr(3.0), out_scale=ONE), "starts below the potential that it is reset to"),
        (LIF(ONE, ZERO, arr(1.0), tau=arr(3.0), out_scale=ONE), "at or above its threshold"),
        (LIF(ONE, ZERO, arr(0.5), tau=np.linspace(2, 4, 12), out_scale=ONE), "left of v_init after a step"),
        (CubaLIF(ONE, decay_syn=arr(0.5), decay=arr(0.8), reset_at="never", out_scale=ONE), "never reset"),
        (LIF(ONE, arr(1.5), arr(1.5), tau=arr(3.0), out_scale=ONE), "at or above its threshold"),
        (LIF(ONE, ZERO, tau=arr(3.0), gain=arr(-1.0), out_scale=ONE), "gain is not positive"),
    ],
)
def test_what_the_chip_s_neuron_cannot_is_refused_where_it_stands(neuron, message):
    graph = one_layer(neuron)
    with pytest.raises(UnsupportedOpError, match=message) as error:
        compiled(graph, inputs(graph))
    assert "%n0" in str(error.value)


def test_a_constant_current_and_a_recurrent_layer_do_not_go_into_one_file():
    graph = dense_net("cuba with leak and reset", recurrent=True)
    with pytest.raises(UnsupportedOpError, match="v_leak is not where the neuron is reset to"):
        compiled(graph, inputs(graph))


def test_a_cycle_through_two_layers_is_refused():
    graph = dense_net("lif", recurrent=True)
    (back,) = (name for name, _ in graph.users("before0"))
    graph.set_op("before1", attrs.evolve(graph["before1"], type=graph["before0"].type))
    graph.set_operands("before1", "n0")
    (other,) = (name for name, _ in graph.users("before1"))
    graph.set_op(other, attrs.evolve(graph[other], weight=np.ones((9, 12))))
    with pytest.raises(UnsupportedOpError, match="netx has no delay"):
        compiled(graph, inputs(graph))
    assert back in graph


def test_decays_that_differ_within_a_channel_are_refused_on_a_map():
    graph = map_net("lif")
    graph.set_op("n0", attrs.evolve(graph["n0"], tau=np.linspace(2, 9, 7).reshape(1, 7, 1)))
    with pytest.raises(UnsupportedOpError, match="differ within a channel"):
        compiled(graph, inputs(graph))


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("dense", {"bias": np.ones(1)}, "constant currents are not even integers"),
        ("dense", {"bias": np.full(1, 4096.0)}, "constant currents are not even integers"),
        ("dense", {"weight_rec": 3 * np.eye(12)}, "recurrent weights are not even integers"),
        ("dense", {"grain": np.zeros(())}, "not those of the chip yet"),
        ("dense", {"strict": False}, "not those of the chip yet"),
        ("dense", {"v_reset": np.ones(())}, "reset to 0, and start there"),
        ("dense", {"v_init": np.ones(()), "decay_syn": np.full((), 0.5)}, "start there where their current decays"),
        ("dense", {"v_init": np.linspace(0, 9, 12)}, "one v_init"),
        ("map", {"feedback": np.full((), 2.0)}, "cannot feed spikes back to a convolution"),
        ("map", {"decay": np.linspace(0.5, 0.75, 7).reshape(1, 7, 1)}, "differ within a channel"),
    ],
)
def test_numbers_that_the_chip_has_not_are_refused_by_the_neuron(form, change, message):
    graph = compiled(made(form, "lif"), inputs(made(form, "lif"))).graph.copy()
    neuron = graph.match(LoihiNeuron)[0]
    graph.set_op(neuron.name, attrs.evolve(neuron.op, **change))
    problems = Netx().check(graph)
    assert message in problems[0].message
    assert neuron.name in repr(problems[0])


def test_a_converter_s_neurons_that_leak_and_are_not_cleared_are_refused(monkeypatch):
    real = planning.part_for

    def part_for(*args):
        part = real(*args)
        return attrs.evolve(part, strict=False) if isinstance(part, LayerNeurons) else part

    graph = made("dense", "lif")
    final = compiled(graph, inputs(graph)).graph
    assert not Netx().check(final)
    monkeypatch.setattr(planning, "part_for", part_for)
    assert "a neuron that leaks fires above its threshold in netx" in Netx().check(final)[0].message


def test_a_constant_current_that_no_layer_could_have_as_bias_is_refused():
    graph = dense_net("lif soft")
    more = graph.add(Linear(np.ones((12, 8))), "x", name="more")
    total = graph.add(Add(), graph.operands("n0")[0], more, name="total")
    graph.set_operands("n0", total)
    graph.set_op("n0", attrs.evolve(graph["n0"], tau=arr(3.0), v_leak=arr(0.2)))
    with pytest.raises(UnsupportedOpError, match="has a constant current, and no layer of its own") as error:
        compiled(graph, inputs(graph))
    assert "%n0" in str(error.value)


def test_a_layer_of_integrate_and_fire_neurons_is_as_before():
    graph = one_layer(IF(ONE, ZERO, out_scale=ONE))
    assert isinstance(compiled(graph, inputs(graph)).graph["n0"], IF)


# ------------------------------------------------------------ inputs that change over time


def events(graph, steps=STEPS, count=6):
    shape = (steps, count, *graph.type("x").shape)
    return (torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.4).double()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "kind"), [("dense", "lif"), ("recurrent", "cuba"), ("map", "lif soft"), ("map", "lif")]
)
def test_events_are_run_as_they_are(form, kind, tmp_path):
    graph = made(form, kind)
    x = events(graph)
    found = compiled(graph, x.mean(0), input="spikes")
    net = found.artifact
    assert net.encoder is None
    assert "no encoder is put in front" in str(found.report)
    trace = net.simulate(x)
    spikes, total = spikes_of(found.graph, x, trace.spikes, None)
    for name, seen in trace.spikes.items():
        assert np.array_equal(spikes[name].reshape(seen.shape), seen)
    assert np.array_equal(total, trace.total)
    net.save(tmp_path / "x.net")
    assert np.array_equal(NetxNetwork.load(tmp_path / "x.net").run(x.reshape(STEPS, 6, *net.fed_shape)), net.run(x))
    in_time = spikec.run(net, x)
    assert in_time.shape == (STEPS, 6, 4)
    np.testing.assert_allclose(in_time.numpy().mean(0) * net.output_scale, net.run(x).numpy(), rtol=1e-12)
    theirs = (spikec.run(graph, x).mean(0)).numpy()
    assert np.abs(net.run(x).numpy() - theirs).mean() < 0.2 * theirs.std()  # of eight bits


@pytest.mark.slow
def test_events_are_spikes_and_nothing_else():
    graph = made("dense", "lif")
    x = events(graph)
    for data, message in ((-x[0], r"samples lie in \[-1, "), (3 * x[0], "3]")):
        with pytest.raises(spikec.CalibrationError, match=message):
            compiled(graph, data, input="spikes")
    net = compiled(graph, x.mean(0), input="spikes").artifact
    with pytest.raises(spikec.InvalidModelError, match="neither 0 nor 1"):
        net.run(2 * x)
    with pytest.raises(spikec.InvalidModelError, match=r"the input \[T, B, ...\] has 40 steps"):
        net.run(x, 39)
    with pytest.raises(spikec.CompileError, match="input"):
        compiled(graph, x.mean(0), input="events")


@pytest.mark.slow
def test_numbers_that_change_over_time_are_encoded_step_by_step():
    graph = made("dense", "lif")
    x = torch.rand(STEPS, 5, 8, dtype=torch.float64) - 0.3
    found = compiled(graph, x.flatten(0, 1))
    trace = found.artifact.simulate(x)
    spikes, total = spikes_of(found.graph, x, trace.spikes, None)
    for name, seen in trace.spikes.items():
        assert seen.any()
        assert np.array_equal(spikes[name], seen)
    assert np.array_equal(total, trace.total)
    constant = x[0]
    same = found.artifact.run(constant)
    assert torch.equal(found.artifact.run(constant.expand(STEPS, *constant.shape)), same)
    assert torch.equal(found.artifact.run(constant.expand(STEPS, *constant.shape), STEPS), same)


@pytest.mark.slow
def test_accuracy_of_events_is_that_of_every_form_of_the_network():
    graph = made("dense", "if hard")
    x, steps = events(graph), STEPS
    net = compiled(graph, x.mean(0), input="spikes").artifact
    module = spikec.compile(graph, "spikingjelly", verify="off")
    labels = spikec.run(graph, x).sum(0).argmax(1)
    curves = [spikec.evaluate(each, [(x, labels)], steps, time_axis=0) for each in (graph, module, net)]
    assert curves[0][-1] == 1
    assert np.array_equal(curves[0], curves[1])
    assert curves[2][-1] > 0.8
    assert np.array_equal(spikec.evaluate(net, [(x.movedim(0, 1), labels)], steps, time_axis=1), curves[2])
    with pytest.raises(spikec.CalibrationError, match="has not 40 steps on axis 1"):
        spikec.evaluate(net, [(x, labels)], steps, time_axis=1)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_potential_at_the_threshold_fires_as_in_the_model(strict, parts):
    """Spikes of weight 1, or two of 1/2, meet a threshold of 1; what else there is stays far from it."""
    graph = spikec.Graph("ties")
    x = graph.add(Input((4,), "float64", rate=True), name="x")
    weight = np.array([[1 / parts, 1 / parts, 0.13, 0.4], [0.9, 0.25, 1.3, 0.77]])
    x = graph.add(Linear(weight), x, name="fc")
    x = graph.add(LIF(ONE, ZERO, tau=arr(2.0), gain=np.ones(()), strict=strict, out_scale=ONE), x, name="n")
    graph.add(Output(), graph.add(Linear(np.eye(2)), x, name="read"), name="y")
    spikes = torch.zeros(9, 1, 4, dtype=torch.float64)
    spikes[::3, :, :parts] = 1
    net = compiled(graph, spikes.mean(0), input="spikes", timesteps=9).artifact
    fired = net.simulate(spikes).spikes["n"]
    assert np.array_equal(fired[:, 0, 0], spikec.run(graph, spikes)[:, 0, 0].numpy() > 0)
    assert fired[0, 0, 0] != strict


def test_an_output_that_begins_late_does_not_saturate():
    """Sparse events reach the last layer after many steps, and then it grows fast."""
    graph = dense_net("lif")
    graph.set_op("n0", attrs.evolve(graph["n0"], v_threshold=np.full(1, 3.0)))
    graph.set_op("fc2", attrs.evolve(graph["fc2"], weight=100 + graph["fc2"].weight))
    rng = torch.Generator().manual_seed(0)
    x = (torch.rand(64, 6, 8, generator=rng) < 0.5).double()
    x[:20] = 0
    net = compiled(graph, x.mean(0), input="spikes", timesteps=64).artifact
    trace = net.simulate(x)
    assert trace.spikes["n1"].any()
    assert trace.overflows == 0


def test_neurons_that_no_layer_feeds_get_one():
    """A neuron behind another, or behind the input; each layer of a file has weights."""
    graph = spikec.Graph("bare")
    x = graph.add(Input((6,), "float64", rate=True), name="x")
    x = graph.add(LIF(ONE * 1.5, ZERO, tau=arr(3.0), gain=np.ones(()), out_scale=ONE), x, name="first")
    x = graph.add(LIF(ONE * 1.2, ZERO, tau=arr(9.0), gain=np.ones(()), out_scale=ONE), x, name="second")
    graph.add(Output(), graph.add(Linear(np.eye(6)), x, name="read"), name="y")
    x = events(graph)
    net = compiled(graph, x.mean(0), input="spikes").artifact
    theirs, _ = spikes_of(graph, x, ("first", "second"), None)
    for name, seen in net.simulate(x).spikes.items():
        assert 0.02 < seen.mean() < 0.98
        assert np.array_equal(seen, theirs[name])


def test_a_channel_that_cannot_get_through_a_convolution_is_refused():
    """The currents of CubaLIF remember a bias, so it comes by channels, and here padding is at every cell."""
    graph = map_net("cuba")
    weight = np.random.default_rng(0).normal(0.3, 0.5, (4, 2, 2, 2))
    graph.set_op("conv0", attrs.evolve(graph["conv0"], weight=weight, padding=((1, 1), (1, 1))))
    graph.set_op("fc", attrs.evolve(graph["fc"], weight=np.ones((4, graph.type("flatten").shape[0]))))
    with pytest.raises(UnsupportedOpError, match="no cell of its kernel lies on the map") as error:
        compiled(graph, inputs(graph))
    assert "%conv0" in str(error.value)
    assert "less padding" in error.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("kind", RESIDUAL)
def test_spikes_that_skip_a_layer_of_leaky_neurons_are_relayed_in_it(kind):
    graph = residual_net(kind)
    x = events(graph)
    found = compiled(graph, x.mean(0), input="spikes")
    chain = next(stage.graph for stage in found.stages if stage.name == "linearize-netx")
    assert len(chain.match(Neuron)) == 4
    theirs, wanted = spikes_of(graph, x, ("n2",), None)
    ours, total = spikes_of(chain, x, ("n2",), None)
    assert 0.02 < theirs["n2"].mean() < 0.98
    assert np.array_equal(ours["n2"], theirs["n2"])
    np.testing.assert_allclose(total, wanted, rtol=1e-9, atol=1e-9)
    trace = found.artifact.simulate(x)
    spikes, total = spikes_of(found.graph, x, trace.spikes, None)
    for name, seen in trace.spikes.items():
        assert np.array_equal(spikes[name].reshape(seen.shape), seen)
    assert np.array_equal(total, trace.total)
    (layer,) = (name for name in trace.spikes if name.endswith("_layer"))
    relayed = trace.spikes[layer].reshape(STEPS, 6, 8, 6, 5)[:, :, 4:]
    assert np.array_equal(relayed, trace.spikes["n0"].reshape(relayed.shape)), "the relays repeat what they are fed"


@pytest.mark.slow
def test_a_recurrent_layer_may_be_fed_by_several():
    graph = dense_net("lif", recurrent=True)
    rng = np.random.default_rng(5)
    more = graph.add(Linear(rng.normal(0.2, 0.5, (12, 8)), rng.normal(0, 0.1, 12)), "x", name="more")
    (total,) = graph.operands("n0")
    graph.set_operands(total, *graph.operands(total), more)
    x = events(graph)
    found = compiled(graph, x.mean(0), input="spikes")
    assert [layer.kind for layer in found.artifact.layers] == ["dense_rec", "dense_rec", "dense"]
    theirs, _ = spikes_of(graph, x, ("n0",), None)
    lowered = next(stage.graph for stage in found.stages if stage.name == "loihi-neurons")
    assert not lowered.match(Delay)
    assert np.array_equal(spikes_of(lowered, x, ("n0",), None)[0]["n0"], theirs["n0"])
    trace = found.artifact.simulate(x)
    assert np.array_equal(spikes_of(found.graph, x, ("n0",), None)[0]["n0"], trace.spikes["n0"])
