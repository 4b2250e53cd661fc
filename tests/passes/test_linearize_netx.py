"""The pass linearize-netx: graphs with branches become chains that spike as before."""

import attrs
import numpy as np
import pytest
import torch

import branched_nets
import build
import nets
import spikec
from build import Builder, source
from spikec import Context, UnsupportedOpError, run
from spikec.extend.loader import pass_named
from spikec.ir.ops import IF, Add, Conv, Flatten, Input, Linear, Neuron
from spikec.ir.stages import FINAL
from spikec.ir.verify import verify

T = 32
#: those that are compiled in well under a second
QUICK = ("dense", "long_skip", "scales", "unrolled")


def zoo():
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in branched_nets.ZOO]


def compiled(name, reset):
    model, x = branched_nets.build(name, low=-0.5 if name == "from_input" else 0.0)
    whole = spikec.Normalization(per_channel=name == "residual")
    found = spikec.Compiler("netx", calibration=x, timesteps=T, reset=reset, normalization=whole).run(model)
    return found, x, model(x).detach()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")
@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize("name", zoo())
def test_a_chain_computes_what_the_graph_did_and_is_integers_spike_for_spike(name, reset):
    found, x, ann = compiled(name, reset)
    stages = [stage.name for stage in found.stages]
    place = stages.index("linearize-netx")
    before, after = found.stages[place - 1].graph, found.stages[place].graph
    assert any(len(before.operands(each)) > 1 or len(before.users(each)) > 1 for each in before)
    assert all(len(after.users(each)) <= 1 for each in after)
    wanted = run(before, x.double(), T)
    torch.testing.assert_close(run(after, x.double(), T), wanted, rtol=0, atol=1e-12 * float(wanted.abs().max()))
    spikes = {}

    def tap(each, value, *_):
        if isinstance(found.graph[each], Neuron):
            spikes.setdefault(each, []).append(value.numpy().astype(bool))

    total = run(found.graph, x.double(), T, tap=tap).sum(0).numpy()
    trace = found.artifact.simulate(x)
    assert np.array_equal(trace.total.reshape(total.shape), total)
    assert trace.overflows == 0
    for each, seen in trace.spikes.items():
        assert np.array_equal(np.stack(spikes[each]).reshape(seen.shape), seen)
    error = float((found.artifact.run(x) - ann).pow(2).mean().sqrt()) / float(ann.std())
    assert error < (0.15 if reset == "soft" else 0.7)


def graph_of(*shape):
    """A spiking graph: the host's encoder, and nothing behind it."""
    b = Builder(*shape)
    b.graph.set_op("x", Input(shape, "float64", rate=True, origin=source("x")))
    ones = np.ones((1,) * len(shape))
    return b, b.add(IF(ones, v_init=ones / 2), b.x, name="encoder"), ones


def linearized(graph, **options):
    x = torch.rand(6, *graph.type("x").shape, dtype=torch.float64)
    context = Context(graph, timesteps=T, calibration=build.samples(x))
    after = graph.copy()
    pass_named("linearize-netx", **options).run(after, context)
    verify(after, FINAL, graph.sources)
    torch.testing.assert_close(run(after, x, T), run(graph, x, T), rtol=1e-12, atol=1e-12)
    return after, context


def test_a_chain_stays_as_it_is():
    b, encoder, ones = graph_of(2, 6, 5)
    hidden = b.add(IF(ones), b.conv(encoder, 3, "conv", padding=(0, 0)), name="if")
    graph = b.done(hidden)
    after = graph.copy()
    assert pass_named("linearize-netx").run(after, Context(graph)) == 0
    assert after.same_as(graph)


@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize(("strict", "start"), [(False, 0.0), (False, 0.75), (True, 0.5)])
def test_a_relay_gives_one_spike_for_one_whatever_the_neurons_of_its_layer_do(reset, strict, start):
    b, encoder, ones = graph_of(5)
    neuron = {"v_init": ones * start, "strict": strict, "v_reset": None if reset == "soft" else np.zeros(())}
    hidden = b.add(IF(ones, **neuron), b.linear(encoder, 5, "fc1"), name="if")
    graph = b.done(b.linear(b.add(Add(), hidden, encoder, name="sum"), 3, "fc2"))
    after, context = linearized(graph)
    assert after.type("if_layer").shape == (10,)
    assert "5 channels are relays" in context.notes[0].reason
    x = torch.rand(4, 5, dtype=torch.float64)
    seen = {}
    run(after, x, T, tap=lambda name, value, *_: seen.setdefault(name, []).append(value))
    assert torch.equal(torch.stack(seen["if_layer"])[..., 5:], torch.stack(seen["encoder"]))


def test_neurons_that_differ_share_no_layer():
    b, encoder, ones = graph_of(5)
    one = b.add(IF(ones, v_init=ones / 4), b.linear(encoder, 4, "fc1"), name="one")
    other = b.add(IF(ones, v_init=ones / 2), b.linear(encoder, 4, "fc2"), name="other")
    graph = b.done(b.linear(b.add(Add(), one, other, name="sum"), 3, "fc3"))
    after, _ = linearized(graph)
    assert [after.type(node.name).shape for node in after.match(IF)] == [(5,), (9,), (8,)]


@pytest.mark.slow
def test_a_skip_past_a_stride_takes_only_the_cells_that_are_read():
    """A 1x1 convolution of stride 2 reads a quarter of the map, and one channel of relays carries it."""
    model, x = branched_nets.build("residual")
    found = spikec.compile(model, "netx", calibration=x, timesteps=T, reset="hard", normalization="max")
    assert [each.shape[0] - each.relays for each in found.layers] == [4, 8, 4, 10, 6, 3]


@pytest.mark.slow
def test_several_neurons_for_each_relu_stand_in_several_layers():
    torch.manual_seed(0)
    model, x = nets.build("mlp"), nets.batch("mlp", 16)
    ways = spikec.Pipeline.default("netx", timesteps=T, normalization="max")
    several = ways.insert_after("encode-input", pass_named("replicate-neurons", copies=2))
    errors = {}
    for name, pipeline in (("one", ways), ("two", several)):
        net = spikec.compile(model, "netx", calibration=x, timesteps=T, pipeline=pipeline, reset="soft")
        errors[name] = float((net.run(x) - model(x).detach()).pow(2).mean())
    assert len(net.layers) == 5
    assert errors["two"] < errors["one"]


def test_weights_of_zero_are_a_layer_too():
    b, encoder, ones = graph_of(2, 6, 6)
    b.conv(encoder, 2, "dead", padding=(1, 2))
    b.graph.set_op("dead", attrs.evolve(b.graph["dead"], weight=np.zeros_like(b.graph["dead"].weight)))
    dead = b.add(IF(ones), "dead", name="if")
    linearized(b.done(b.add(Add(), dead, encoder, name="sum")))


def test_a_large_map_is_not_relayed_past_a_vector():
    b, encoder, ones = graph_of(2, 6, 6)
    flat = b.add(Flatten(), encoder, name="flat")
    hidden = b.add(IF(ones[0, 0]), b.linear(flat, 4, "fc1"), name="one")
    hidden = b.add(IF(ones[0, 0]), b.linear(hidden, 72, "fc2"), name="two")
    graph = b.done(b.linear(b.add(Add(), hidden, flat, name="sum"), 3, "fc3"))
    linearized(graph, limit=72)
    with pytest.raises(UnsupportedOpError, match="72 neurons would relay a map"):
        pass_named("linearize-netx", limit=71).run(graph.copy(), Context(graph))


def test_neurons_that_nothing_like_them_repeats_let_no_signal_pass():
    b, encoder, ones = graph_of(5)
    unlike = IF(ones, v_init=np.array([0.1, 0.2, 0.3, 0.4]))  # relays have one start for all
    hidden = b.add(unlike, b.linear(encoder, 4, "fc1"), name="one")
    late = b.add(IF(ones), b.linear(hidden, 5, "fc2"), name="two")
    graph = b.done(b.linear(b.add(Add(), late, encoder, name="sum"), 3, "fc3"))
    with pytest.raises(UnsupportedOpError, match="no neuron of that kind repeats them") as error:
        pass_named("linearize-netx", limit=2).run(graph.copy(), Context(graph))
    assert "one" in error.value.location


def test_signals_read_at_two_strides_are_refused():
    b, encoder, ones = graph_of(2, 8, 8)
    near = b.conv(encoder, 2, "near", kernel=(1, 1), padding=(0, 0), stride=(2, 2))
    first = b.add(IF(ones), b.conv(encoder, 2, "conv1"), name="one")
    far = b.conv(first, 2, "far", kernel=(5, 5), padding=(0, 0))
    both = b.add(IF(ones), b.add(Add(), near, far, name="both"), name="two")
    graph = b.done(both)
    with pytest.raises(UnsupportedOpError, match="it reads signals at strides of"):
        pass_named("linearize-netx", limit=2).run(graph.copy(), Context(graph))


def test_what_has_no_place_in_a_chain_is_refused_at_its_layer():
    b, encoder, ones = graph_of(2, 8, 8)
    first = b.add(IF(ones), b.conv(encoder, 2, "conv1"), name="one")
    second = b.add(IF(ones), b.conv(first, 2, "conv2"), name="two")
    padded = b.conv(b.conv(b.add(Add(), first, first, name="sum"), 2, "inner"), 2, "outer")
    graph = b.done(b.add(Add(), padded, second, name="both"))
    assert isinstance(graph["outer"], Conv)
    with pytest.raises(UnsupportedOpError, match="pads with zeros") as error:
        pass_named("linearize-netx", limit=40).run(graph.copy(), Context(graph))
    assert "outer" in error.value.location
    assert 'target "spikingjelly"' in error.value.hint
    after, _ = linearized(graph)
    assert all(isinstance(node.op, Linear) for node in after.match(Linear)[-1:])
