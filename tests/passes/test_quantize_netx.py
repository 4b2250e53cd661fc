"""The passes that make a spiking graph a netx graph: legalize-netx, reset-netx, quantize-netx."""

import attrs
import numpy as np
import pytest
import torch

import build
import nets
import spikec
from build import Builder, source
from spikec import Context, Normalization, UnsupportedOpError, run
from spikec.extend.loader import pass_named
from spikec.ir.ops import IF, Conv, Flatten, Input, Linear, Output, Reshape, Weighted
from spikec.ir.stages import FINAL
from spikec.ir.verify import verify


def net(*shape, seed=0):
    """encoder -> conv or linear -> neuron -> linear."""
    b = Builder(*shape, seed=seed)
    b.graph.set_op("x", Input(shape, "float64", rate=True, origin=source("x")))
    ones = np.ones((1,) * len(shape))
    spikes = b.add(IF(ones, v_init=ones / 2), b.x, name="encoder")
    if len(shape) > 1:
        hidden = b.conv(spikes, 4, "conv", padding=((1, 0), (0, 2)))
    else:
        hidden = b.linear(spikes, 6, "fc1")
    hidden = b.add(IF(ones, v_init=ones / 2), hidden, name="if")
    if len(shape) > 1:
        hidden = b.add(Flatten(), hidden, name="flatten")
    return b.done(b.linear(hidden, 3, "fc2"))


def context(graph, timesteps=16):
    x = torch.rand(8, *graph.type("x").shape, dtype=torch.float64)
    return Context(graph, timesteps=timesteps, calibration=build.samples(x))


def apply(graph, name, found=None, **options):
    after = graph.copy()
    found = found or context(graph)
    changes = pass_named(name, **options).run(after, found)
    assert (changes == 0) == after.same_as(graph)
    verify(after, FINAL, graph.sources)
    return after, found


def outputs(graph, x, steps=64):
    return run(graph, x, steps).mean(0).reshape(len(x), -1) * torch.tensor(graph.type("output").scale).reshape(1, -1)


def probe(graph):
    return torch.rand(4, *graph.type("x").shape, dtype=torch.float64)


# ------------------------------------------------------------------ legalize


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_unrolled_or_evenly_padded_it_computes_the_same(reset):
    graph = net(2, 6, 5)
    after, _ = apply(graph, "legalize-netx", reset=reset)
    x = probe(graph)
    torch.testing.assert_close(outputs(after, x), outputs(graph, x), rtol=1e-12, atol=1e-12)
    if reset == "soft":
        assert not after.match(Conv)
        assert isinstance(after["conv"], Linear)
    else:
        assert after["conv"].padding == ((1, 1), (2, 2))
        assert after["conv"].kernel == (4, 7)


def test_a_linear_over_the_last_axis_is_unrolled():
    b = Builder(3, 4)
    b.graph.set_op("x", Input((3, 4), "float64", rate=True, origin=source("x")))
    spikes = b.add(IF(np.ones((1, 1))), b.x, name="encoder")
    hidden = b.add(IF(np.ones((1, 1))), b.linear(spikes, 5, "fc1"), name="if")
    graph = b.done(b.linear(hidden, 2, "fc2"))
    after, _ = apply(graph, "legalize-netx")
    x = probe(graph)
    torch.testing.assert_close(run(after, x, 16), run(graph, x, 16), rtol=1e-12, atol=1e-12)
    assert after["fc1"].weight.shape == (15, 12)


def test_a_net_that_ends_in_a_neuron_gets_a_readout():
    b = Builder(3)
    b.graph.set_op("x", Input((3,), "float64", rate=True, origin=source("x")))
    spikes = b.add(IF(np.full((1,), 2.0)), b.x, name="encoder")
    b.done(spikes)
    after, _ = apply(b.graph, "legalize-netx")
    readout = after[after.operands("output")[0]]
    assert isinstance(readout, Linear)
    assert after.type("output").scale.item() == 2.0


def test_soft_reset_of_a_large_convolution_is_kept_for_our_loader_and_auto_turns_hard():
    graph = net(2, 6, 5)
    after, found = apply(graph, "legalize-netx", reset="soft", limit=20)
    assert isinstance(after["conv"], Conv)
    assert "our loader only" in found.notes[0].reason
    with pytest.warns(spikec.SpikecWarning, match="hard reset in all layers"):
        after, found = apply(graph, "legalize-netx", limit=20)
    assert after.match(Conv)
    assert "hard reset in all layers" in found.notes[0].reason


def test_auto_keeps_a_large_dense_layer_soft_and_warns_of_nothing():
    graph = net(5)
    after, found = apply(graph, "legalize-netx", limit=4)
    assert after.same_as(graph)
    assert not found.notes


def test_soft_reset_of_a_large_dense_layer_is_refused():
    with pytest.raises(UnsupportedOpError, match="neurons in a layer") as error:
        apply(net(5), "legalize-netx", reset="soft", limit=4)
    assert error.value.location == "if"
    assert error.value.hint == 'use reset="hard" or "auto"'


# --------------------------------------------------------------------- reset


def test_hard_reset_takes_the_whole_net_if_a_convolution_is_left():
    graph = net(2, 6, 5)
    with pytest.warns(spikec.SpikecWarning, match="hard reset to zero in 1 layer"):
        after, found = apply(graph, "reset-netx", context(graph, 32))
    assert after["encoder"] is graph["encoder"]
    assert after["if"].v_threshold.item() == 4.0
    assert after["if"].v_init.item() == 2.0
    assert not after["if"].v_reset.any()
    np.testing.assert_array_equal(after["fc2"].weight, 4 * graph["fc2"].weight)
    assert "hard reset" in found.notes[0].reason
    assert apply(net(5), "reset-netx")[0]["if"].v_reset is None


@pytest.mark.filterwarnings("ignore:hard reset to zero:spikec.SpikecWarning")
@pytest.mark.parametrize(("timesteps", "ratio"), [(4, 2), (16, 2), (48, 6), (64, 8), (500, 8), (None, 3)])
def test_the_threshold_s_ratio_follows_from_the_steps(timesteps, ratio):
    graph = net(5)
    after, _ = apply(graph, "reset-netx", context(graph, timesteps), reset="hard")
    assert after["if"].v_threshold.item() == ratio


@pytest.mark.filterwarnings("ignore:hard reset to zero:spikec.SpikecWarning")
@pytest.mark.parametrize(("timesteps", "ratio"), [(16, 1), (32, 2), (None, 2)])
def test_where_a_pulse_would_lie_on_padding_neurons_start_at_zero(timesteps, ratio):
    graph = net(2, 6, 5)
    op = graph["conv"]
    graph.set_op("conv", attrs.evolve(op, weight=op.weight[..., :2], padding=((1, 1), (1, 1))))
    graph.set_op("fc2", attrs.evolve(graph["fc2"], weight=np.ones((3, 4 * 6 * 6))))
    after, found = apply(graph, "reset-netx", context(graph, timesteps))
    assert after["if"].v_threshold.item() == ratio
    assert not after["if"].v_init.any()
    assert "v_init is 0" in found.notes[0].reason


# ------------------------------------------------------------------ quantize


@pytest.mark.parametrize("shape", [(5,), (2, 6, 5)])
def test_integers_stand_for_what_the_weights_did(shape):
    graph = net(*shape)
    after, _ = apply(graph, "quantize-netx")
    for node in after.match(Weighted):
        assert (node.op.weight % 2 == 0).all()
        assert np.abs(node.op.weight).max() <= 254
        assert (node.op.shift % 2 == 0).all()
    assert after["encoder"] is graph["encoder"]
    assert after["if"].v_threshold.item() % 4 == 0
    x = probe(graph)
    exact = outputs(graph, x)
    assert float((outputs(after, x) - exact).abs().max()) < 0.1 * float(exact.std())


def test_one_small_channel_does_not_cost_the_others_their_resolution():
    graph = net(5)
    x, op = probe(graph), graph["fc1"]
    shift = op.bias.copy()
    shift[3] = 1e-3 - float((x.numpy() @ op.weight[3]).max())
    graph.set_op("fc1", attrs.evolve(op, bias=shift))
    threshold = np.array([1.0, 1, 1, 1e-3, 1, 1])
    graph.set_op("if", attrs.evolve(graph["if"], v_threshold=threshold, v_init=threshold / 2))
    graph.set_op("fc2", graph["fc2"].scale_input(threshold))
    after, found = apply(graph, "quantize-netx")
    assert after["if"].v_threshold.item() > 50
    assert np.abs(after["fc1"].weight[[0, 1, 2, 4, 5]]).max() > 50
    assert "1 of 6 thresholds grown" in found.notes[-1].reason
    exact = outputs(graph, x)
    assert float((outputs(after, x) - exact).abs().max()) < 0.1 * float(exact.std())


def test_thresholds_of_a_conv_grow_through_flatten():
    graph = net(2, 6, 5)
    x, op = probe(graph), graph["conv"]
    shift = op.bias.copy()
    shift[3] += 1e-3 - float(op.eval(x)[:, 3].max())
    graph.set_op("conv", attrs.evolve(op, bias=shift))
    threshold = np.array([1.0, 1, 1, 1e-3]).reshape(4, 1, 1)
    graph.set_op("if", attrs.evolve(graph["if"], v_threshold=threshold, v_init=threshold / 2))
    wide = np.broadcast_to(threshold, graph.type("if").shape).reshape(-1)
    graph.set_op("fc2", graph["fc2"].scale_input(wide))
    after, found = apply(graph, "quantize-netx")
    assert "1 of 4 thresholds grown" in found.notes[-1].reason
    exact = outputs(graph, x)
    assert float((outputs(after, x) - exact).abs().max()) < 0.1 * float(exact.std())


def test_membranes_and_sums_stay_within_eighteen_bits():
    graph = net(5)
    after, found = apply(graph, "quantize-netx", context(graph, 2000))
    assert any("coarse" in note.reason for note in found.notes)
    seen = []
    x = 3 * probe(graph)

    def tap(name, value, state, operands):
        if name == "if":
            seen.append(float((state + operands[0]).abs().max()))

    run(after, x, 2000, tap=tap)
    assert max(seen) < 2**17


def test_without_timesteps_or_samples_it_says_what_it_assumed():
    graph = net(5)
    _, found = apply(graph, "quantize-netx", Context(graph))
    assert "timesteps is not given" in found.notes[0].reason


def refused(graph, found=None):
    with pytest.raises(UnsupportedOpError) as error:
        apply(graph, "quantize-netx", found)
    assert error.value.location
    return str(error.value)


def test_what_no_integers_can_hold_is_refused():
    graph = net(5)
    zero = graph.copy()
    zero.set_op("fc1", attrs.evolve(graph["fc1"], weight=np.zeros((6, 5))))
    assert "all its weights are zero" in refused(zero)
    assert "no integer scale is left" in refused(graph, context(graph, 10**7))
    uneven = graph.copy()
    uneven.set_op("if", attrs.evolve(graph["if"], v_init=np.linspace(0, 0.5, 6)))
    assert "one fraction" in refused(uneven)
    started = graph.copy()
    started.set_op("if", attrs.evolve(graph["if"], v_reset=np.full((), 0.1)))
    assert "to zero" in refused(started)
    conv = net(2, 6, 5)
    within = np.ones(conv.type("if").shape)
    within[0, 0, 0] = 2
    conv.set_op("if", attrs.evolve(conv["if"], v_threshold=within, v_init=within / 2))
    conv.set_op("fc2", conv["fc2"].scale_input(within.reshape(-1)))
    assert "within a channel" in refused(conv)


@pytest.mark.parametrize(("size", "way"), [(6, 'reset="soft"'), (24, 'the target "spikingjelly"')])
def test_uneven_thresholds_point_to_soft_reset_only_where_it_unrolls_the_layer(size, way):
    graph = net(2, size, size)
    within = np.ones(graph.type("if").shape)
    within[0, 0, 0] = 2
    graph.set_op("if", attrs.evolve(graph["if"], v_threshold=within, v_init=within / 2))
    graph.set_op("fc2", graph["fc2"].scale_input(within.reshape(-1)))
    assert refused(graph).endswith(f"give them one threshold a channel, or use {way}")


def test_all_problems_come_at_once():
    b = Builder(4)
    b.graph.set_op("x", Input((4,), "float64", rate=True, origin=source("x")))
    x = b.add(IF(np.ones(1), v_init=np.full(1, 0.5)), b.x, name="encoder")
    for i in range(2):
        x = b.add(Linear(np.zeros((4, 4))), x, name=f"fc{i}")
        x = b.add(IF(np.ones(1), v_init=np.full(1, 0.5)), x, name=f"if{i}")
    graph = b.done(b.linear(x, 2, "last"))
    assert refused(graph).count("all its weights are zero") == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp_batchnorm", "grouped"])
def test_per_channel_thresholds_keep_their_accuracy(name):
    x, model = nets.batch(name, 16), nets.build(name)
    wanted = model(x).detach().double()
    compiled = spikec.compile(model, "netx", calibration=x, timesteps=32)
    layered = spikec.compile(model, "netx", calibration=x, timesteps=32, normalization=Normalization(per_channel=False))
    for net_ in (compiled, layered):
        assert float((net_.run(x) - wanted).abs().max()) < 0.1 * float(wanted.std())


def test_ops_that_it_does_not_know_stay():
    graph = Builder(3).graph
    graph.set_op("x", Input((3,), "float64", rate=True, origin=source("x")))
    graph.add(Output(), graph.add(Reshape((3, 1)), "x"), name="output")
    for name in ("reset-netx", "quantize-netx"):
        apply(graph, name)
