"""chain-sums, carry-skips and fit-neurons: what they do to a graph, and that it stays the same function."""

import itertools

import numpy as np
import pytest
import torch

import spikec
from spikec.extend.loader import pass_named
from spikec.ir.ops import IF, LIF, Add, Conv, CubaLIF, Delay, Input, Linear, Output, SumPool
from spikec.ir.stages import FINAL
from spikec.ir.types import Rate, Type
from spikec.ir.verify import verify
from spikec.passes import chain_sums

RNG = np.random.default_rng(0)
T = 12
ONE = np.ones((1, 1, 1))


def conv(out, inputs, kernel, stride=1, padding=0, **options):
    weight = RNG.normal(size=(out, inputs, kernel, kernel))
    return Conv(weight, RNG.normal(size=out), stride=(stride,) * 2, padding=(padding,) * 2, **options)


class Net:
    """A graph on its way."""

    def __init__(self, *shape):
        self.graph = spikec.Graph("hand")
        self.x = self.graph.add(Input(shape, "float64", rate=True), name="x")

    def add(self, op, *operands, name=""):
        return self.graph.add(op, *operands, name=name)

    def done(self, last):
        self.graph.add(Output(), last, name="output")
        return self.graph


def same(before, name, *, spikes=True, **options):
    """The graph after a pass, which gives the same in its outputs and every neuron."""
    after = before.copy()
    context = spikec.Context(before)
    changes = pass_named(name, **options).run(after, context)
    verify(after, FINAL, before.sources)
    x = torch.rand(T, 3, *before.type("x").shape, dtype=torch.float64)
    found = [{}, {}]
    for graph, kept in zip((before, after), found, strict=True):
        y = spikec.run(graph, x, tap=lambda key, value, *_, kept=kept: kept.setdefault(key, []).append(value))
        kept["y"] = y
    assert torch.allclose(found[0]["y"], found[1]["y"].reshape(found[0]["y"].shape), rtol=0, atol=1e-9)
    for node in before.match(IF) if spikes else ():
        ours, theirs = (torch.stack(each[node.name]) for each in found)
        # channels behind a layer's own are what it carries
        theirs = theirs[:, :, : ours.shape[2]] if theirs.ndim == ours.ndim else theirs
        assert torch.equal(ours, theirs.reshape(ours.shape)), node.name
        assert ours.any()
    return after, changes, context.notes


def skips(graph):
    """Sums of which two operands do not follow each other."""
    found = []
    for node in graph.match(Add):
        ways = [{each, *graph.before(each)} for each in graph.operands(node.name)]
        found += [node.name for a, b in itertools.combinations(ways, 2) if not (a <= b or b <= a)]
    return found


SHAPES = pytest.mark.parametrize(
    ("size", "stride", "kernel", "padding", "groups"),
    [
        (8, 1, 3, 1, 1),
        (8, 2, 3, 1, 1),
        (7, 2, 3, 1, 1),
        (9, 3, 5, 2, 1),
        (8, 2, 4, 1, 1),
        (8, 2, 3, 1, 4),
        (7, 2, 1, 0, 1),
    ],
)


def residual(size, stride, kernel, padding, groups, inner=None):
    net = Net(3, size, size)
    u = net.add(IF(ONE), net.add(conv(4, 3, 3, padding=1), net.x, name="stem"), name="u")
    main = net.add(conv(4, 4 // groups, kernel, stride, padding, groups=groups), u, name="main")
    main = net.add(conv(5, 4, 3, padding=1), net.add(inner or IF(ONE), main, name="inner"), name="second")
    skip = net.add(conv(5, 4, 1, stride), u, name="skip")
    y = net.add(IF(ONE), net.add(Add(), main, skip, name="sum"), name="joined")
    return net.done(net.add(conv(2, 5, 1), y, name="last"))


@SHAPES
def test_a_projection_moves_into_the_main_branch(size, stride, kernel, padding, groups):
    graph = residual(size, stride, kernel, padding, groups)
    assert skips(graph) == ["sum"]
    after, changes, notes = same(graph, "chain-sums")
    assert changes == 1
    assert not notes
    assert not skips(after)
    assert after["skip_wide"].out_features == 5 + 4 * stride**2
    assert same(after, "chain-sums")[1] == 0


def test_vectors_pools_and_real_inputs_too():
    net = Net(6)
    u, v = net.x, net.add(Linear(RNG.normal(size=(5, 6)), RNG.normal(size=5)), net.x, name="a")
    main = net.add(Linear(RNG.normal(size=(4, 5)), None), net.add(IF(np.ones(1)), v, name="n"), name="b")
    skip = net.add(Linear(RNG.normal(size=(4, 6)), None), u, name="skip")
    graph = net.done(net.add(IF(np.ones(1)), net.add(Add(), main, skip, name="sum"), name="out"))
    assert not skips(same(graph, "chain-sums")[0])
    net = Net(3, 6, 6)
    pooled = net.add(SumPool((3, 3), (1, 1), (1, 1)), net.x, name="pool")
    main = net.add(conv(2, 3, 3, padding=1), net.add(IF(9 * ONE), pooled, name="n"), name="b")
    skip = net.add(conv(2, 3, 1), net.x, name="skip")
    graph = net.done(net.add(IF(ONE), net.add(Add(), skip, main, name="sum"), name="out"))
    after, changes, _ = same(graph, "chain-sums")
    assert changes == 1
    assert after.operands("pool") == ("x_again",)
    assert not skips(after)


def test_skips_without_layers_stay():
    net = Net(4, 6, 6)
    u = net.add(IF(ONE), net.add(conv(4, 4, 3, padding=1), net.x, name="stem"), name="u")
    main = net.add(conv(4, 4, 3, padding=1), u, name="main")
    graph = net.done(net.add(IF(ONE), net.add(Add(), main, u, name="sum"), name="out"))
    after, changes, notes = same(graph, "chain-sums")
    assert (changes, notes) == (0, [])
    assert after.same_as(graph)


def test_what_cannot_be_moved_is_noted():
    """Both branches have neurons: neither is a layer that could stand at the head of the other."""
    net = Net(4)
    sides = []
    for side in "ab":
        h = net.add(Linear(RNG.normal(size=(5, 4)), None), net.x, name=side)
        sides.append(net.add(Linear(RNG.normal(size=(3, 5)), None), net.add(IF(np.ones(1)), h), name=f"{side}2"))
    graph = net.done(net.add(IF(np.ones(1)), net.add(Add(), *sides, name="sum"), name="out"))
    after, changes, (note,) = same(graph, "chain-sums")
    assert changes == 0
    assert note.node == "sum"
    assert "%a2 and %b2" in note.reason
    assert skips(after) == ["sum"]


# ------------------------------------------------------------------ carry-skips


def is_chain(graph):
    return not graph.match(Add) and all(len(graph.users(name)) == 1 for name in graph if name not in graph.outputs)


@SHAPES
@pytest.mark.parametrize("reset", [None, np.zeros(())], ids=["soft", "hard"])
def test_neurons_carry_what_skips_them(size, stride, kernel, padding, groups, reset):
    graph = residual(size, stride, kernel, padding, groups, IF(ONE, reset, v_init=ONE / 2))
    after, changes, notes = same(graph, "carry-skips")
    assert (changes, notes) == (1, [])
    assert is_chain(after)
    assert after.type("inner").shape[0] == 4 + 4 * stride**2


def test_a_skip_without_a_layer_is_carried_and_vectors_too():
    net = Net(4, 6, 6)
    u = net.add(IF(ONE), net.add(conv(4, 4, 3, padding=1), net.x, name="stem"), name="u")
    for i in range(2):
        main = net.add(IF(ONE), net.add(conv(5, 4, 3, padding=1), u, name=f"a{i}"), name=f"n{i}")
        main = net.add(conv(4, 5, 3, padding=1), main, name=f"b{i}")
        u = net.add(IF(ONE), net.add(Add(), *((u, main) if i else (main, u)), name=f"sum{i}"), name=f"u{i}")
    after, changes, _ = same(net.done(u), "carry-skips")
    assert changes == 2
    assert is_chain(after)
    net = Net(6)
    u = net.add(IF(np.ones(1)), net.add(Linear(RNG.normal(size=(5, 6)), np.ones(5)), net.x), name="u")
    main = net.add(IF(np.ones(1)), net.add(Linear(RNG.normal(size=(7, 5)), np.ones(7)), u), name="n")
    main = net.add(Linear(RNG.normal(size=(3, 7)), None), main)
    skip = net.add(Linear(RNG.normal(size=(3, 5)), np.ones(3)), u)
    after, changes, _ = same(net.done(net.add(IF(np.ones(1)), net.add(Add(), main, skip))), "carry-skips")
    assert changes == 1
    assert is_chain(after)


@pytest.mark.parametrize("inner", [LIF(ONE, tau=np.asarray(3.0)), IF(np.arange(1.0, 5)[:, None, None], out_scale=ONE)])
def test_what_neurons_cannot_carry_is_noted(inner):
    """Neurons that leak give no spike again, and a threshold for each channel is none that a reader of chains takes."""
    graph = residual(8, 1, 3, 1, 1, inner)
    after, changes, (note,) = same(graph, "carry-skips")
    assert (changes, note.node) == (0, "sum")
    assert after.same_as(graph)


# ------------------------------------------------------------------ fit-neurons


def leaky(op):
    net = Net(4)
    return net.done(net.add(op, net.add(Linear(RNG.normal(size=(4, 4)) * 2, None), net.x, name="fc"), name="n"))


TAU = np.linspace(2.0, 5, 4)
NEURONS = [
    LIF(np.ones(1), tau=np.asarray(3.0)),
    LIF(np.ones(1), tau=TAU, gain=np.asarray(0.7)),
    LIF(np.ones(1), np.asarray(-0.5), tau=TAU, v_leak=np.asarray(-0.5), v_init=np.asarray(-0.5)),
    CubaLIF(np.ones(1), np.asarray(0.25), decay=np.asarray(0.75), decay_syn=np.asarray(0.5), gain=np.asarray(0.5)),
    IF(np.linspace(0.5, 2, 4), np.asarray(0.25)),
]


@pytest.mark.parametrize("gain", ["any", "one", "leak"])
@pytest.mark.parametrize("number", range(len(NEURONS)))
def test_the_spikes_stay_in_other_units(number, gain):
    op = NEURONS[number]
    graph = leaky(op)
    after, _, _ = same(graph, "fit-neurons", spikes=False, gain=gain, zero=True)
    fitted = after["n"]
    assert op.v_reset is None or not fitted.v_reset.any()
    if isinstance(op, LIF) and gain != "any":
        assert (fitted.gain is None) == (gain == "leak")
        assert fitted.gain is None or (fitted.gain == 1).all()
    if isinstance(op, CubaLIF) and gain == "one":
        assert (fitted.gain == 1).all()
    assert after.type("n") == graph.type("n")
    assert same(after, "fit-neurons", spikes=False, gain=gain, zero=True)[1] == 0


def test_a_reset_above_the_threshold_stays():
    graph = leaky(IF(np.ones(1), np.asarray(1.5)))
    assert same(graph, "fit-neurons", spikes=False, zero=True)[1] == 0


def test_what_is_upstream_is_so_around_a_loop_too():
    net = Net(3)
    late = net.add(Delay(Type((3,), "float64", Rate(np.ones(1)))), name="late")
    first, back = (net.add(Linear(RNG.normal(size=(3, 3))), x, name=name) for x, name in ((net.x, "a"), (late, "b")))
    spikes = net.add(IF(np.ones(1)), net.add(Add(), first, back, name="total"), name="if")
    net.graph.set_operands("late", spikes)
    graph = net.done(net.add(Linear(RNG.normal(size=(2, 3))), spikes, name="fc"))
    upstream = chain_sums._Upstream(graph)
    for name in graph:
        assert {each for each in graph if upstream.has(name, each)} == set(graph.before(name))
    assert upstream.has("b", "total")
