"""Several neurons for one value run as one, which fires what they fire together."""

import attrs
import numpy as np
import pytest
import torch

import build
from spikec import Compiler, Graph, run
from spikec.extend.loader import pass_named
from spikec.extend.passbase import Context
from spikec.extend.sweep import Sweep
from spikec.interpreter.several import as_one, summed, with_one_for_each
from spikec.ir.ops import IF, Add, Input, Neuron, Output

T = 40


def several(count, start=0.25, **fields):
    """A graph of so many IFs of threshold 1 with one current, a count-th apart, and their sum."""
    g = Graph("several")
    x = g.add(Input((6,), "float64", rate=True), name="x")
    starts = [(start + i) / count for i in range(count)]
    share = np.full(1, 1 / count)
    names = [g.add(IF(np.ones(1), v_init=np.full(6, v), out_scale=share, **fields), x, name="neuron") for v in starts]
    total = g.add(Add(), *names, name="total")
    g.add(Output(), total, name="y")
    return g, total


def uneven(steps=T):
    """Currents [T, B, 6] from -1.5 to 2.5 that no sum of theirs rounds."""
    return torch.from_numpy(np.random.default_rng(0).integers(-96, 160, (steps, 5, 6)) / 64)


@pytest.mark.parametrize("count", [2, 4, 16])
@pytest.mark.parametrize("start", [0.0, 0.25, 0.5, 0.75])
def test_it_fires_at_each_step_as_often_as_all_of_them(count, start):
    """Also where they cannot keep up with the current, and where it takes them far below zero."""
    g, total = several(count, start)
    x = uneven()
    apart = sum(g[name].steps(g[name].initial(x[0]), x)[1] for name in g.operands(total))
    one = as_one(g, total)
    assert torch.equal(one.steps(one.initial(x[0]), x)[1], apart)
    assert {0, 1, count} <= set(apart.unique().tolist())
    together = with_one_for_each(g)
    assert len(together.match(Neuron)) == 1
    assert len(g.match(Neuron)) == count
    assert torch.equal(run(together, x), run(g, x))
    assert torch.equal(run(together, x[0], T), run(g, x[0], T))
    np.testing.assert_array_equal(together.type("y").scale, g.type("y").scale)
    state = one.initial(x[0])
    for step, wanted in zip(x, apart, strict=True):
        after, fired = one.step(state, step)
        over, again = one.step_over(state, step.clone())
        assert torch.equal(fired, wanted)
        assert torch.equal(again, wanted)
        assert torch.equal(after, over)
        state = after


def test_what_is_not_the_same_stays_several():
    """The sabotage: each of these changes what they fire, and would not be seen by one neuron."""
    g, total = several(4)
    first, *_, last = g.operands(total)
    changes = {
        "a potential": (last, {"v_init": g[last].v_init + 0.01}),
        "a threshold": (last, {"v_threshold": 2 * g[last].v_threshold}),
        "a hard reset": (first, {"v_reset": np.zeros(())}),
        "strict": (first, {"strict": True}),
    }
    assert as_one(g, total) is not None
    for what, (name, fields) in changes.items():
        other = g.copy()
        other.set_op(name, attrs.evolve(g[name], **fields))
        assert as_one(other, total) is None, what
        assert with_one_for_each(other) is other
        assert list(summed(other)) == [total]
        # the sweep runs them one by one then, and holds how many of them fire
        x = uneven(1)[0]
        sweep = Sweep(other, (x,), T)
        assert len(list(sweep)) == 4
        assert torch.equal(sweep.outputs()[0], run(other, x, T)), what
    g.add(Output(), last, name="z")
    assert not summed(g)


def test_a_sum_of_neurons_in_another_order_is_settled_behind_the_last_of_them():
    g, total = several(4)
    g.set_operands(total, *reversed(g.operands(total)))
    sweep = Sweep(g, (x := uneven(1)[0],), T)
    for name in sweep:
        g.set_op(name, attrs.evolve(g[name], v_init=g[name].v_init + 0.4))
    assert torch.equal(sweep.outputs()[0], run(g, x, T))


@pytest.mark.parametrize("name", ["calibrate-potential", "correct-bias"])
def test_a_net_is_tuned_as_with_each_neuron_by_itself(name, monkeypatch):
    """Up to what rounding makes of ties: the same potentials and biases, and the same answers."""
    b = build.Builder(2, 6, 5)
    h = b.relu(b.conv(b.x, 4, "conv1"), "relu1")
    g = b.done(b.relu(b.conv(h, 3, "conv2"), "relu2"))
    x = torch.rand(12, 2, 6, 5, dtype=torch.float64)
    stages = {r.name: r.graph for r in Compiler("spikingjelly", calibration=x, normalization="max").run(g).stages}
    found = []
    for together in (True, False):
        graph, context = stages["init-potential"].copy(), Context(g, 8, ann=stages["normalize"])
        context = attrs.evolve(context, calibration=build.samples(x))
        assert pass_named("replicate-neurons", copies=4).run(graph, context)
        if not together:
            monkeypatch.setattr("spikec.extend.sweep.summed", lambda graph: {})
            monkeypatch.setattr("spikec.extend.passbase.with_one_for_each", lambda graph: graph)
        untuned = graph.copy()
        assert pass_named(name).run(graph, context)
        found.append((graph, attrs.evolve(context, judged=[]).agreement(graph)))
        assert not graph.same_as(untuned)
    (one, near), (other, wanted) = found
    assert near == pytest.approx(wanted, rel=1e-5)
    for node in one.match(IF):
        np.testing.assert_allclose(node.op.v_init, other[node.name].v_init, atol=1e-12)
