"""The checks themselves: each is seen to fire on a graph that is wrong by a little."""

import attrs
import numpy as np
import pytest
import torch

import build
import spikec
from spikec import Compiler, Graph, SpikecWarning, VerificationError
from spikec.interpreter import contract, results
from spikec.interpreter import probe as probes
from spikec.interpreter.contract import check_exact, check_rate, check_shapes, side_by_side
from spikec.interpreter.likeness import PART
from spikec.interpreter.probe import probe
from spikec.interpreter.results import agreement, difference, outputs
from spikec.ir.op import Op, Role
from spikec.ir.ops import IF, Input, Linear, Neuron, Output, Weighted
from spikec.pipeline.manager import Step
from spikec.pipeline.observers import Numbers

X = torch.rand(40, 2, 8, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def spiking():
    return Compiler(build.GraphTarget(), calibration=X).run(build.residual()).graph


def scaled(graph, name, gain):
    other = graph.copy()
    op = other[name]
    other.set_op(name, attrs.evolve(op, weight=op.weight * gain))
    return other


@pytest.mark.parametrize("gain", [0.5, 0.999, 1 + 1e-7, 2.0])
def test_exact_notices_a_wrong_weight_in_an_ann(gain):
    g = build.residual()
    xs = probe(g, [X], 0)
    assert check_exact(g, g.copy(), xs) == 0
    with pytest.raises(VerificationError, match="changed the output"):
        check_exact(g, scaled(g, "conv2", gain), xs)


@pytest.mark.parametrize("gain", [0.5, 0.9, 1.1, 2.0])
@pytest.mark.parametrize("name", ["conv1", "conv3", "fc"])
def test_exact_notices_a_wrong_weight_in_an_snn(spiking, gain, name):
    xs = probe(spiking, [X], 0)
    assert check_exact(spiking, spiking.copy(), xs) == 0
    with pytest.raises(VerificationError, match="changed (a spike|the output)"):
        check_exact(spiking, scaled(spiking, name, gain), xs)


def test_exact_names_the_neuron_that_differs_first(spiking):
    with pytest.raises(VerificationError) as caught:
        check_exact(spiking, scaled(spiking, "conv3", 1.2), probe(spiking, [X], 0))
    assert caught.value.location == "relu3"


def neuron(weight, **options):
    g = Graph()
    x = g.add(Input((1,), "float64", rate=True), name="x")
    spikes = g.add(IF(np.ones(1), **options), g.add(Linear(np.array([[weight]])), x), name="if")
    g.add(Output(), spikes)
    return g


def test_a_tie_is_no_difference_and_a_near_tie_is_one():
    """Inputs of 1/4 reach the threshold exactly at every fourth step."""
    xs = (torch.tensor([[0.25], [0.7], [0.1]], dtype=torch.float64),)
    before, tie = neuron(1.0), neuron(1 - 1e-15)
    *_, first = side_by_side(before, tie, xs, 16)
    assert (first.node, first.step) == ("if", 3)
    check_exact(before, tie, xs)
    with pytest.raises(VerificationError, match="changed a spike at step 3, 1e-06 of the threshold away from a tie"):
        check_exact(neuron(1 + 1e-6), neuron(1 - 1e-6), xs)


def test_a_check_that_a_tie_decided_says_so():
    """Whether a neuron fires at the last step is all that the outputs of two graphs differ by."""
    xs = (torch.tensor([[0.25], [0.7], [0.1]], dtype=torch.float64),)
    before, tie = neuron(1.0), neuron(1 - 1e-15)

    class Tied(spikec.Pass):
        name = "tied"
        contract = "exact"

    said = [
        Numbers(before, xs, each=True, timesteps=None)(Step(1, Tied(), before, after, 1, 0.0, ()))
        for after in (tie, neuron(1 - 1e-17))
    ]
    assert ["as a spike at a tie is earlier or later" in each for each in said] == [True, False]


def test_a_silent_spiking_graph_is_fed_more_until_it_answers():
    """At the probe's own size nothing fires within 16 steps, and nothing could be seen."""
    xs = (torch.tensor([[0.9], [0.3], [0.1]], dtype=torch.float64),)
    assert check_exact(neuron(0.01), neuron(0.01), xs) == 0
    with pytest.raises(VerificationError, match="changed a membrane potential"):
        check_exact(neuron(0.01), neuron(0.012), xs)
    assert check_exact(neuron(1e-9), neuron(1e-9), xs) is None


@pytest.mark.slow
def test_a_net_that_stays_silent_is_said_not_to_be_checked():
    with pytest.warns(SpikecWarning):
        c = Compiler(build.GraphTarget(), verify="each").run(silent())
    checks = {record.name: record.check for record in c.stages}
    assert checks["fold-rescale"] == "exact: not checked, the net stays silent"
    assert checks["fold-batchnorm"].startswith("exact: ")
    assert "not checked" not in checks["fold-batchnorm"]


def silent():
    """Weights that cancel: the bound from the weights alone is far above any value."""
    b = build.Builder(6)
    x = b.relu(b.batchnorm(b.linear(b.x, 50, "fc0"), "bn"), "relu0")
    for i in range(1, 5):
        x = b.relu(b.linear(x, 50, f"fc{i}"), f"relu{i}")
    return b.done(b.linear(x, 3, "out"))


def test_a_probe_of_one_value_is_made_to_vary():
    (x,) = probe(build.mlp(), [torch.zeros(4, 6)], 0)
    assert float(x.std()) > 0


def test_what_a_pass_costs_is_measured_against_the_anns_spread(spiking):
    g = build.residual()
    xs = probe(g, [X], 0)
    found, wanted = outputs(spiking, xs, 16), outputs(g, xs, 16)
    assert difference(found, outputs(spiking.copy(), xs, 16), wanted) == 0
    assert difference(found, outputs(scaled(spiking, "fc", 1.5), xs, 16), wanted) > 0.1


@pytest.mark.parametrize(
    ("options", "holds"),
    [
        ({}, True),
        ({"v_init": np.array(0.5)}, True),
        ({"v_init": np.array(1.0)}, True),
        ({"v_init": np.array(1.5)}, False),
        ({"v_init": np.array(2.5)}, False),
        ({"v_init": np.array(-1.5)}, False),
        ({"v_reset": np.array(0.0)}, False),
    ],
)
def test_rate_is_seen_to_fail(options, holds):
    g = neuron(1.0, **options)
    if holds:
        check_rate(g, "if")
    else:
        with pytest.raises(VerificationError, match="clipped ReLU"):
            check_rate(g, "if")


def test_a_neuron_that_is_no_if_is_held_to_the_same_rate():
    @attrs.frozen(eq=False)
    class Leaky(Neuron):
        kind = "leaky"

        def step(self, state, *xs):
            return self.fire(0.5 * state + xs[0])

    g = neuron(1.0)
    g.set_op("if", Leaky(np.ones(1)))
    with pytest.raises(VerificationError, match="clipped ReLU"):
        check_rate(g, "if")


def test_the_probe_holds_real_and_random_samples():
    g = build.residual()
    (x,) = probe(g, [X], 0)
    assert x.dtype == torch.float64
    assert torch.equal(x[:6].float(), X[:6])
    assert len(x) == 8
    assert torch.equal(x, probe(g, [X], 0)[0])
    (single,) = probe(g, [X[:1]], 0)
    assert len(single) == 3


@pytest.mark.slow
def test_every_sum_of_weights_is_covered(spiking):
    """Sabotage each affine op in turn; none may hide from the check."""
    xs = probe(spiking, [X], 0)
    for node in spiking.match(Weighted):
        with pytest.raises(VerificationError):
            check_exact(spiking, scaled(spiking, node.name, 1.3), xs)


def test_large_samples_go_through_an_ann_one_by_one(monkeypatch):
    g = build.mlp()
    xs = probe(g, None, 0)
    sizes = []

    def counted(graph, batch):
        sizes.append(len(batch[0]))
        return spikec.run(graph, batch)

    whole = outputs(g, xs, 1)
    monkeypatch.setattr(results, "run", counted)
    monkeypatch.setattr(results, "CELLS", 2 * xs[0][0].numel() + 1)
    for a, b in zip(whole, outputs(g, xs, 1), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert sizes == [2] * (len(xs[0]) // 2)


@pytest.mark.slow
def test_a_large_graph_is_probed_on_two_samples_and_few_steps_and_still_held_to_its_contract(spiking, monkeypatch):
    g, size = build.residual(), probes.neuron_count(spiking)
    assert size == probes.neuron_count(g) > 0
    xs = probe(g, [X], 0)
    (all_of_them,), steps = probes.within_budget(probes.affordable(spiking), xs)
    assert (len(all_of_them), steps) == (8, 16)
    monkeypatch.setattr(probes, "WORK", 2 * 16 * size - 1)
    (few,), steps = probes.within_budget(probes.affordable(spiking), xs)
    assert torch.equal(few, xs[0][[0, 7]])  # a real one and a random one
    assert steps == 15
    monkeypatch.setattr(probes, "WORK", 1)
    assert probes.within_budget(probes.affordable(spiking), xs)[1] == probes.FEWEST_STEPS
    assert check_exact(spiking, spiking.copy(), xs, whole=True) == 0
    assert check_exact(spiking, spiking.copy(), xs) == PART
    for graph in (g, spiking):
        for node in graph.match(Weighted):
            for whole in (False, True):
                with pytest.raises(VerificationError):
                    check_exact(graph, scaled(graph, node.name, 1.3), xs, whole=whole)


def silent_neuron(weight):
    """Speaks of no potential."""

    @attrs.frozen(eq=False)
    class Mute(IF):
        kind = "mute"

        def charge(self, state, *xs):
            return None

        def step(self, state, *xs):
            return self.fire(state + xs[0])

    g = neuron(weight)
    g.set_op("if", Mute(np.ones(1)))
    return g


def test_a_neuron_that_tells_no_potential_is_held_to_its_spikes():
    xs = (torch.tensor([[0.9], [0.3], [0.1]], dtype=torch.float64),)
    assert check_exact(silent_neuron(0.4), silent_neuron(0.4), xs) == 0
    with pytest.raises(VerificationError, match=r"changed a spike at step \d+\n"):
        check_exact(silent_neuron(0.4), silent_neuron(0.5), xs)


@pytest.mark.slow
@pytest.mark.parametrize("gain", [1.0003, 1.001, 1.1])
def test_one_weight_of_a_spiking_net_that_changes_no_spike_is_noticed(spiking, gain):
    xs = probe(spiking, [X], 0)
    behind = {node.name for node in spiking.match(Weighted)} - {spiking.operands(spiking.outputs[0])[0]}
    for name in behind:
        op, other = spiking[name], spiking.copy()
        weight = op.weight.copy()
        place = np.unravel_index(np.abs(weight).argmax(), weight.shape)
        weight[place] *= gain
        other.set_op(name, attrs.evolve(op, weight=weight))
        with pytest.raises(VerificationError, match="changed a (spike|membrane potential)"):
            check_exact(spiking, other, xs)


@pytest.mark.slow
def test_a_net_that_stays_silent_is_held_to_its_potentials():
    with pytest.warns(SpikecWarning):
        graph = Compiler(build.GraphTarget(), verify="off").run(silent()).graph
    xs = probe(graph, None, 0)
    assert check_exact(graph, graph.copy(), xs) is None
    swapped = graph.copy()
    first = graph.match(Weighted)[0]
    order = [1, 0, *range(2, len(first.op.weight))]
    swapped.set_op(first.name, attrs.evolve(first.op, weight=first.op.weight[order]))
    with pytest.raises(VerificationError, match="changed a"):
        check_exact(graph, swapped, xs)


def hidden(order, name="if"):
    """A net whose hidden neurons stand in some order, possibly without the last, which nobody reads."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(6, 4)), rng.normal(size=(3, 6))
    second[:, 5] = 0
    g = Graph()
    x = g.add(Input((4,), "float64", rate=True), name="x")
    spikes = g.add(IF(np.ones(1)), g.add(Linear(first[order], np.full(len(order), 0.2)), x), name=name)
    g.add(Output(), g.add(Linear(second[:, order]), spikes))
    return g


def test_neurons_in_another_order_need_another_name_and_a_layer_of_another_size_is_another():
    straight, turned = [0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5]
    xs = probe(hidden(straight), None, 0)
    assert check_exact(hidden(straight), hidden(straight[:5]), xs) < 1e-9
    assert check_exact(hidden(straight), hidden(turned, "turned"), xs) < 1e-9
    with pytest.raises(VerificationError, match="in another order, another name"):
        check_exact(hidden(straight), hidden(turned), xs)
    with pytest.raises(VerificationError, match="changed the output"):
        check_exact(hidden(straight), hidden([0, 1, 2, 3, 5], "wrong"), xs)


# ------------------------------------------------- what could be broken unseen


def test_a_small_drift_of_potentials_is_rounding_and_a_larger_one_is_not():
    xs = (torch.tensor([[0.9], [0.3], [0.1]], dtype=torch.float64),)
    *_, first = side_by_side(neuron(0.3), neuron(0.3 * (1 + 2e-6)), xs, 16)
    assert first is None
    with pytest.raises(VerificationError, match="changed a membrane potential"):
        check_exact(neuron(0.3), neuron(0.3 * (1 + 1e-4)), xs)


def test_a_potential_far_below_its_threshold_may_drift_by_more():
    xs = (torch.tensor([[-500.0], [0.7], [0.1]], dtype=torch.float64),)
    *_, first = side_by_side(neuron(1.0), neuron(1 + 1e-7), xs, 16)
    assert first.tie


def test_every_output_must_answer_before_a_spiking_graph_counts_as_checked():
    """One of two branches is silent at the probe's own size, and its last layer is wrong."""

    def branches(gain):
        b = build.Builder(1)
        b.graph.set_op("x", Input((1,), "float64", rate=True, origin=build.source("x")))
        outs = []
        for i, (weight, last) in enumerate(((0.1, 1.0), (0.01, gain))):
            current = b.add(Linear(np.array([[weight]])), b.x, name=f"in{i}")
            spikes = b.add(IF(np.ones(1)), current, name=f"if{i}")
            outs.append(b.add(Linear(np.array([[last]])), spikes, name=f"out{i}"))
        return b.done(*outs)

    xs = (torch.tensor([[0.9], [0.3], [0.1]], dtype=torch.float64),)
    assert check_exact(branches(1.0), branches(1.0), xs) == 0
    with pytest.raises(VerificationError, match="changed the output"):
        check_exact(branches(1.0), branches(2.0), xs)


def test_an_output_that_varies_little_is_still_checked():
    g = build.mlp()
    g.set_op("fc3", attrs.evolve(g["fc3"], weight=1e-4 * g["fc3"].weight, bias=np.ones(4)))
    xs = probe(g, None, 0)
    assert check_exact(g, g.copy(), xs) == 0
    with pytest.raises(VerificationError, match="changed the output"):
        check_exact(g, scaled(g, "fc2", 1.01), xs)


def test_an_exact_pass_may_change_a_billionth_of_the_spread():
    g = build.mlp()
    xs = probe(g, None, 0)
    (y,) = outputs(g, xs, 1)
    spread = float((y - y.mean(0)).abs().max())

    def shifted(part):
        other, op = g.copy(), g["fc3"]
        other.set_op("fc3", attrs.evolve(op, bias=op.bias + part * spread))
        return other

    assert check_exact(g, shifted(0.9e-9), xs) == pytest.approx(0.9e-9, rel=1e-3)
    with pytest.raises(VerificationError, match="changed the output by 1.1e-09"):
        check_exact(g, shifted(1.1e-9), xs)


@attrs.frozen(eq=False)
class Misfiring(Neuron):
    """Integrate-and-fire, but for what is done with its current or its spikes."""

    kind = "misfiring"
    role_of_current: object = None
    role_of_spikes: object = None

    def step(self, state, *xs):
        current = self.role_of_current(xs[0]) if self.role_of_current else xs[0]
        state, spikes = self.fire(state + current)
        return state, self.role_of_spikes(spikes, current) if self.role_of_spikes else spikes


@pytest.mark.parametrize(
    "wrong",
    [
        {"role_of_current": torch.abs},  # wrong below zero only
        {"role_of_spikes": lambda spikes, current: spikes + (current > 1.2)},  # wrong above the threshold only
        {"role_of_spikes": lambda spikes, current: spikes * float("nan")},
    ],
)
def test_rate_is_held_over_the_whole_range_of_currents(wrong):
    g = neuron(1.0)
    g.set_op("if", Misfiring(np.ones(1)))
    check_rate(g, "if")
    g.set_op("if", Misfiring(np.ones(1), **wrong))
    with pytest.raises(VerificationError, match="clipped ReLU"):
        check_rate(g, "if")


def test_rate_is_held_at_few_steps_and_at_many():
    steps = []
    g = neuron(1.0)
    g.set_op("if", Misfiring(np.ones(1), role_of_current=lambda x: steps.append(0) or x))
    check_rate(g, "if")
    assert len(steps) == 8 + 64


def test_a_type_rule_that_contradicts_its_op_is_located():
    @attrs.frozen(eq=False)
    class Halved(Op):
        kind = "halved"
        role = Role.LINEAR

        def infer(self, *operands):
            return operands[0]

        def eval(self, *xs):
            return xs[0][:, ::2]

    b = build.Builder(6)
    g = b.done(b.add(Halved(), b.x, name="half"))
    with pytest.raises(VerificationError, match=r"halved gives samples of shape \(3,\), and its type rule says \(6,\)"):
        check_shapes(g)
    check_shapes(build.mlp())


@pytest.mark.parametrize("steps", [(1, 2), ([1], [2])], ids=["numbers", "lists"])
def test_a_type_rule_is_held_to_each_op_that_differs_in_more_than_the_numbers_of_its_arrays(steps):
    @attrs.frozen(eq=False)
    class Strided(Op):
        kind = "strided"
        role = Role.LINEAR
        step: object

        def infer(self, *operands):
            return operands[0]

        def eval(self, *xs):
            return xs[0][:, :: self.step if isinstance(self.step, int) else self.step[0]]

    b = build.Builder(6)
    right = b.add(Strided(steps[0]), b.x, name="right")
    g = b.done(b.add(Strided(steps[1]), right, name="wrong"))
    with pytest.raises(VerificationError, match="%wrong = strided"):
        check_shapes(g)
    before = b.graph.copy()
    before.set_op("wrong", Strided(steps[0]))
    with pytest.raises(VerificationError, match="%wrong = strided"):
        check_shapes(g, before)


def test_a_type_rule_is_held_to_an_op_that_is_as_it_was_on_operands_of_other_types():
    @attrs.frozen(eq=False)
    class Pairs(Op):
        kind = "pairs"
        role = Role.LINEAR

        def infer(self, *operands):
            return operands[0]

        def eval(self, *xs):
            return xs[0][:, : xs[0].shape[1] // 2 * 2]

    b = build.Builder(6)
    before = b.done(b.add(Pairs(), b.x, name="pairs"))
    after = before.copy()
    check_shapes(before)
    check_shapes(after, before)
    after.set_op(b.x, Input((5,)))
    with pytest.raises(VerificationError, match=r"pairs gives samples of shape \(4,\), and its type rule says \(5,\)"):
        check_shapes(after, before)


def test_of_ops_that_are_alike_one_is_run(monkeypatch):
    b, ran = build.Builder(6), []
    g = b.done(b.linear(b.linear(b.linear(b.x, 6, "fc1"), 6, "fc2"), 6, "fc3"))
    monkeypatch.setattr(Linear, "eval", lambda self, x: ran.append(self) or x.new_zeros(len(x), len(self.weight)))
    check_shapes(g)
    assert ran == [g["fc1"]]


def test_a_probe_without_data_holds_six_different_samples_of_the_unit_range():
    (x,) = probe(build.mlp(), None, 0)
    assert len(torch.unique(x, dim=0)) == len(x) == 6
    assert 0 <= float(x.min()) < 0.1
    assert 0.9 < float(x.max()) <= 1


def test_agreement_is_the_share_of_equal_classes_and_then_the_mean_error():
    """Numpy written out, over more samples than run at a time."""
    g = build.mlp()
    other = scaled(g, "fc3", -0.2)
    x = torch.rand(150, 6)
    a, b = (spikec.run(graph, x).numpy() for graph in (g, other))
    same, error = agreement(other, g, [x], 1)
    assert same == (a.argmax(1) == b.argmax(1)).mean()
    assert 0 < same < 1
    assert -error == pytest.approx(np.abs(a - b).mean(), rel=1e-5)
    assert agreement(g, g, [x], 1) == (1, 0)


def test_shapes_of_ops_that_differ_in_numbers_only_are_not_tried_again(monkeypatch):
    g = build.mlp()
    after, ran = scaled(g, "fc2", 2.0), []
    monkeypatch.setattr(Linear, "eval", lambda self, x: ran.append(self) or x.new_zeros(len(x), len(self.weight)))
    check_shapes(after, g)
    assert not ran
    check_shapes(after)
    assert len(ran) == len(g.match(Linear))


def test_neurons_that_are_the_same_by_value_are_held_to_their_rate_once(monkeypatch):
    b = build.Builder(2)
    b.graph.set_op("x", Input((2,), "float64", rate=True, origin=build.source("x")))
    x = b.x
    for i, start in enumerate((0.5, 0.5, 0.25, 0.5)):
        fc = b.add(Linear(np.eye(2)), x, name=f"fc{i}")
        x = b.add(IF(np.ones(1), v_init=np.full(1, start), strict=i == 3), fc, name=f"if{i}")
    held = []
    monkeypatch.setattr(contract, "check_rate", lambda graph, name: held.append(name))
    contract.check_rates(b.done(x))
    assert held == ["if0", "if2", "if3"]


def test_a_graph_of_very_many_nodes_sees_less_of_the_probe():
    b = build.Builder(2)
    x = b.x
    for i in range(700):
        x = b.relu(x, f"relu{i}")
    graph = b.done(x)
    assert probes.affordable(graph) == probes.NODES // len(graph) < probes.WORK // probes.neuron_count(graph)
