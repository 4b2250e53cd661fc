"""legalize-nir, lower-v-init and strict-threshold: the same function in the forms that NIR has."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import spikec
from spikec.backends.nir.backend import Nir
from spikec.extend.loader import pass_named
from spikec.ir.ops import IF, Add, Conv, Flatten, Input, Linear, Output, Pad, Reshape, SumPool
from spikec.ir.origin import Source
from spikec.ir.stages import FINAL
from spikec.ir.verify import verify

RNG = np.random.default_rng(0)
IMAGE = (2, 8, 6)


def source(name):
    return (Source(name, name, "test"),)


def hand(*ops, shape=IMAGE):
    graph = spikec.Graph("hand")
    x = graph.add(Input(shape, "float64", rate=True), name="x")
    for op in ops:
        x = graph.add(op, x)
    graph.add(Output(), x, name="output")
    return graph


def conv(out, inputs, kernel, **options):
    axes = len(kernel)
    fields = {"stride": (1,) * axes, "padding": (0,) * axes, "dilation": (1,) * axes, **options}
    return Conv(RNG.normal(size=(out, inputs, *kernel)), RNG.normal(size=out), **fields)


def run(name, graph, timesteps=None, **options):
    """(graph after the pass, changes, notes); verified."""
    after, context = graph.copy(), spikec.Context(graph, timesteps)
    changes = pass_named(name, **options).run(after, context)
    verify(after, FINAL, graph.sources)
    assert (changes == 0) == after.same_as(graph)
    return after, changes, context.notes


def legal(graph):
    after, _, _ = run("legalize-nir", graph)
    x = torch.rand(5, *graph.type(graph.inputs[0]).shape, dtype=torch.float64)
    y, z = (spikec.run(g, x, 3 if g.is_spiking else None) for g in (graph, after))
    for a, b in zip(*((v if isinstance(v, tuple) else (v,)) for v in (y, z)), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)
    assert [after.type(name) for name in after.outputs] == [graph.type(name) for name in graph.outputs]
    again, changes, _ = run("legalize-nir", after)
    assert changes == 0
    assert not Nir().check(run("strict-threshold", again)[0])
    Nir().emit(run("strict-threshold", again)[0], spikec.Context(again))
    return after


# ------------------------------------------------------------------ convolutions


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_any_kernel_becomes_square_with_even_padding(data):
    def pick(low, high):
        return tuple(data.draw(st.integers(low, high)) for _ in range(2))

    kernel, stride, dilation = pick(1, 4), pick(1, 3), pick(1, 2)
    padding = tuple(zip(pick(0, 2), pick(0, 2), strict=True))
    groups = data.draw(st.sampled_from([1, 2]))
    graph = hand(
        conv(6, 4 // groups, kernel, stride=stride, dilation=dilation, padding=padding, groups=groups), shape=(4, 9, 7)
    )
    try:
        graph.type("conv")
    except spikec.TypeMismatchError:
        assume(False)
    after, _, notes = run("legalize-nir", graph)
    legal(graph)
    assert not notes
    for op in (node.op for node in after.match(Conv)):
        assert op.kernel[0] == op.kernel[1] <= max(k * d for k, d in zip(kernel, dilation, strict=True)) + 6
        assert all(before == behind for before, behind in op.padding)


def test_3x5_becomes_5x5():
    op = legal(hand(conv(3, 2, (3, 5), padding=(1, 2))))["conv"]
    assert op.weight.shape == (3, 2, 5, 5)
    assert op.padding == ((2, 2), (2, 2))
    assert not op.weight[:, :, [0, 4]].any()


def test_groups_stay():
    op = legal(hand(conv(6, 1, (3, 5), padding=(1, 2), groups=2)))["conv"]
    assert op.groups == 2
    assert op.weight.shape == (6, 1, 5, 5)


def test_3x4_takes_a_layer_in_front():
    """No zeros make it square: a square kernel takes an odd number of cells from both axes, or from neither."""
    after = legal(hand(conv(3, 2, (3, 4))))
    assert [node.op.kernel for node in after.match(Conv)] == [(2, 2), (5, 5)]
    assert [node.op.dilation for node in after.match(Conv)] == [(2, 1), (1, 1)]


def test_1d_and_legal_ones():
    legal(hand(conv(4, 1, (3,), groups=2, padding=((0, 2),)), shape=(2, 9)))
    graph = hand(conv(3, 2, (3, 3), padding=(1, 1)))
    assert run("legalize-nir", graph)[1] == 0


# ------------------------------------------------------------------ pools, pads, shapes


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (SumPool((2, 2), (2, 2), (1, 1)), IMAGE),
        (SumPool((3, 3), (1, 1), ((0, 2), (1, 1))), IMAGE),
        (SumPool((3,), (2,), (0,)), (2, 9)),
    ],
)
def test_pools_that_readers_get_wrong_become_convolutions(pool, shape):
    after = legal(hand(conv(3, 2, (1,) * len(pool.kernel), out_scale=[1.0, 2.0, 3.0]), pool, shape=shape))
    assert isinstance(after["sumpool"], Conv)
    assert set(np.unique(after["sumpool"].weight)) <= {0.0, 1.0}


def test_plain_pools_stay():
    graph = hand(SumPool((2, 3), (2, 2), (0, 0)))
    assert run("legalize-nir", graph)[1] == 0


@pytest.mark.parametrize("behind", [conv(3, 2, (3, 3), padding=(1, 0)), SumPool((2, 2), (2, 2), (0, 0))])
def test_zero_pads_join_what_is_behind(behind):
    after = legal(hand(Pad(((1, 2), (0, 1)), origin=source("pad")), behind))
    assert "pad" not in after


def test_other_pads_stay():
    for pad in (Pad((1, 1), mode="circular"), Pad((-1, -1)), Pad((1, 0, 0))):
        after, _, _ = run("legalize-nir", hand(pad, conv(3, 4 if len(pad.padding) == 3 else 2, (1, 1))))
        assert "pad" in after


def test_shapes_become_flatten_or_nothing():
    graph = hand(Reshape((96,)), Flatten(origin=source("flat")), Reshape((-1,)))
    after = legal(graph)
    assert [op.kind for op in (after[name] for name in after)] == ["input", "flatten", "output"]
    assert after.imported.dropped
    assert isinstance(legal(hand(Reshape((-1,))))["reshape"], Flatten)
    assert legal(hand(Flatten(0, 2)))["flatten"].end == -1


# ------------------------------------------------------------------ sums


def branches(*, count=3, shape=IMAGE):
    graph = spikec.Graph("branches")
    x = graph.add(Input(shape, "float64", rate=True), name="x")
    for i in range(count):
        op = conv(2, 2, (1, 1)) if len(shape) == 3 else Linear(RNG.normal(size=(shape[0],) * 2), None)
        graph.add(op, x, name=f"b{i}")
    return graph


@pytest.mark.parametrize("shape", [IMAGE, (4,)])
def test_sums_of_sums_and_repeats(shape):
    graph = branches(shape=shape)
    inner = graph.add(Add(origin=source("inner")), "b0", "b1", name="inner")
    outer = graph.add(Add(origin=source("outer")), inner, "b2", "b0", "x", name="outer")
    graph.add(Output(), graph.add(IF(np.full((1,) * len(shape), 0.5)), outer), name="y")
    after = legal(graph)
    assert after.operands("outer") == ("b0_copy", "b2", "b1", "b0", "x")
    assert "inner" not in after


def test_an_inner_sum_with_other_users_stays():
    graph = branches()
    graph.add(Add(), "b0", "b1", name="inner")
    graph.add(Add(), "inner", "b2", name="outer")
    for name in ("inner", "outer"):
        graph.add(Output(), graph.add(IF(np.full((1, 1, 1), 0.5)), name))
    after = legal(graph)
    assert after.operands("inner") == ("b1", "b0")
    assert after.operands("outer") == ("b2", "b1", "b0")


@pytest.mark.parametrize("user", [SumPool((2, 2), (2, 2), (0, 0)), Flatten(), None])
def test_a_sum_elsewhere_gets_an_identity(user):
    graph = branches(count=2)
    total = graph.add(Add(), "b1", "b0", name="total")
    graph.add(Output(), graph.add(user, total) if user else total, name="y")
    after = legal(graph)
    assert isinstance(after["total_sum"], Conv)
    assert after["total_sum"].groups == 2
    assert (after["total_sum"].weight == 1).all()


# ------------------------------------------------------------------ lower-v-init


def counts(graph, x, steps):
    return spikec.run(graph, x, steps).sum(0)


@pytest.mark.parametrize("steps", [7, 16])
def test_one_layer_counts_the_same_after_t_steps(steps):
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(5, 3)), rng.normal(size=5)
    graph = hand(Linear(weight, bias), IF(np.ones((1,)), v_init=np.array(0.5)), shape=(3,))
    after, changes, _ = run("lower-v-init", graph, timesteps=steps)
    assert changes == 1
    assert not after["if"].v_init.any()
    x = torch.rand(200, 3, dtype=torch.float64)
    expected, found = counts(graph, x, steps), counts(after, x, steps)
    assert float(expected.sum()) > 100
    rates = torch.tensor(weight) @ x.T + torch.tensor(graph["linear"].bias)[:, None]
    within = (rates.T > 0) & (rates.T < 1)
    assert torch.equal(found[within], expected[within])
    zero = graph.copy()
    zero.set_op("if", IF(np.ones((1,))))
    assert not torch.equal(counts(zero, x, steps)[within], expected[within])


def test_the_current_joins_the_bias_of_one_branch():
    graph = branches(count=2)
    total = graph.add(Add(), "x", "b1", name="total")
    graph.add(Output(), "b0", name="other")
    v_init = np.array([0.25, 0.75]).reshape(2, 1, 1)
    graph.add(Output(), graph.add(IF(np.ones((2, 1, 1)), v_init=v_init), total), name="y")
    after, changes, _ = run("lower-v-init", graph, timesteps=5)
    assert changes == 1
    assert len(after) == len(graph)
    assert np.allclose(after["b1"].bias - graph["b1"].bias, [0.05, 0.15])


@pytest.mark.parametrize("shape", [IMAGE, (3,)])
def test_without_a_branch_of_its_own_an_identity_carries_it(shape):
    graph = hand(IF(np.full((1,) * len(shape), 0.6), v_init=np.array(0.3)), shape=shape)
    after, _, _ = run("lower-v-init", graph, timesteps=4)
    assert np.allclose(after["if_bias"].bias, 0.075)
    x = torch.rand(9, *shape, dtype=torch.float64) * 0.6
    assert torch.equal(counts(after, x, 4), counts(graph, x, 4))


def test_a_shared_affine_is_not_touched():
    graph = branches(count=1)
    for i, v_init in enumerate((0.2, 0.4)):
        graph.add(Output(), graph.add(IF(np.ones((1, 1, 1)), v_init=np.array(v_init)), "b0"), name=f"y{i}")
    after, changes, _ = run("lower-v-init", graph, timesteps=2)
    assert changes == 2
    assert np.array_equal(after["b0"].bias, graph["b0"].bias)
    assert np.allclose(after["if_bias"].bias, 0.1)


def test_what_cannot_be_lowered_is_noted():
    v_init = RNG.uniform(size=IMAGE)
    graph = hand(conv(2, 2, (1, 1)), IF(np.ones((1, 1, 1)), v_init=v_init))
    _, changes, notes = run("lower-v-init", graph, timesteps=4)
    assert changes == 0
    assert "varies within a channel" in notes[0].reason
    _, changes, notes = run("lower-v-init", graph)
    assert changes == 0
    assert "compile with timesteps=" in notes[0].reason
    assert not run("lower-v-init", hand(IF(np.ones((1, 1, 1)))))[2]


# ------------------------------------------------------------------ strict-threshold


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ties_still_fire(dtype):
    graph = spikec.Graph("tie")
    x = graph.add(Input((2,), dtype, rate=True), name="x")
    graph.add(Output(), graph.add(IF(np.array([0.75, 0.1])), x), name="y")
    after, changes, notes = run("strict-threshold", graph)
    assert changes == 1
    assert dtype in notes[0].reason
    assert after["if"].strict
    assert after["if"].v_threshold.dtype == dtype
    values = torch.tensor([[0.75, 0.1], [0.5, 0.05], [0.25, 0.2]], dtype=getattr(torch, dtype))
    expected = spikec.run(graph, values, 6)
    assert torch.equal(spikec.run(after, values, 6), expected)
    assert expected[0, 0].tolist() == [1, 1]
    below = torch.nextafter(values[:1], values[:1] * 0)
    assert spikec.run(graph, below, 1).tolist() == spikec.run(after, below, 1).tolist() == [[[0, 0]]]
    assert run("strict-threshold", after)[1] == 0
