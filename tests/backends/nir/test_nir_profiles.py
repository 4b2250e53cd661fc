"""What profiles of NIR write, and what they refuse."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import nets
import spikec
from nir_numpy import evaluate
from spikec.ir.ops import IF, LIF, CubaLIF, Input, Linear, Output
from spiking_standins import IFNode, LIFNode

#: that readers run neurons otherwise is measured and warned of, which other tests are about
pytestmark = pytest.mark.filterwarnings("ignore::spikec.SpikecWarning")

T = 40
DT = 2e-4


def graph(*ops, width=4):
    g = spikec.Graph("neurons")
    x = g.add(Input((width,), "float64", rate=True), name="input")
    weights = np.random.default_rng(0).normal(size=(width, width))
    for i, op in enumerate(ops):
        x = g.add(op, g.add(Linear(weights), x, name=f"fc{i}"), name=f"neuron{i}")
    g.add(Output(), x, name="output")
    return g


ONE, TAU = np.ones(1), np.asarray(3.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:SpikingJelly 2.0.0. a spike resets")  # neurons that subtract
def test_the_tutorial_of_spikingjelly_keeps_its_structure():
    """The nodes, edges and shapes that its page on NIR shows for this model; names differ."""
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1), IFNode(), nn.AvgPool2d((2, 2)), nn.Flatten(), nn.Linear(4096, 10),
        LIFNode(10.0, False, v_reset=None),
    )  # fmt: skip
    found = spikec.compile(net, "nir", example_input=torch.rand(8, 3, 32, 32), profile="spikingjelly", dt=1e-4)
    kinds = [type(node).__name__ for node in found.nodes.values()]
    assert kinds == ["Input", "Conv2d", "IF", "AvgPool2d", "Flatten", "Affine", "LIF", "Output"]
    names = list(found.nodes)
    assert set(found.edges) == set(itertools.pairwise(names))
    shapes = [tuple(node.output_type["output"]) for node in found.nodes.values()]
    assert shapes == [(3, 32, 32), (16, 32, 32), (16, 32, 32), (16, 16, 16), (4096,), (10,), (10,), (10,)]
    _, conv, fire, pool, flatten, _, leaky, _ = found.nodes.values()
    assert (conv.stride, conv.padding, conv.dilation, conv.groups) == ((1, 1), (1, 1), (1, 1), 1)
    assert np.allclose(fire.r, 1e4, rtol=1e-6)
    assert (fire.v_threshold == 1).all()
    assert (fire.v_reset == 0).all()
    assert (tuple(pool.kernel_size), tuple(pool.stride), tuple(pool.padding)) == ((2, 2), (2, 2), (0, 0))
    assert (flatten.start_dim, flatten.end_dim) == (-3, -1)  # of a map the axes 0 to -1
    assert (leaky.tau / 1e-4 == 10).all()
    assert np.allclose(leaky.r, 10)
    assert [fire.metadata["reset"], leaky.metadata["reset"]] == ["value", "subtract"]


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["portable", "spikingjelly"])
@pytest.mark.filterwarnings("ignore:SpikingJelly 2.0.0. a spike resets")  # neurons that subtract
def test_an_ann_in_both_profiles(profile):
    x = nets.batch("cnn", dtype=torch.float64)
    run = spikec.Compiler("nir", calibration=[x], timesteps=16, profile=profile, dt=DT)
    compilation = run.run(nets.build("cnn", dtype=torch.float64))
    train = torch.rand(T, *x.shape, dtype=torch.float64) * x.max()
    expected = spikec.run(compilation.graph, train)
    physical = profile == "spikingjelly"
    found = evaluate(compilation.artifact, train.numpy(), dt=DT if physical else None)
    assert np.allclose(found["output"].reshape(expected.shape), expected, rtol=0, atol=1e-9)
    back = spikec.load(compilation.artifact)
    assert np.allclose(spikec.run(back, train), expected, rtol=0, atol=1e-9)
    assert compilation.artifact.metadata["gain"] == ("physical" if physical else "unit")
    fires = {node.op.strict for node in compilation.graph.match(IF)}
    assert fires == {not physical}


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (LIF(ONE, tau=TAU, reset_at="next"), "reset_at='next'"),
        (IF(np.linspace(0.5, 1, 4)), "v_threshold differs from neuron to neuron"),
        (LIF(ONE, tau=np.linspace(2, 3, 4)), "tau differs from neuron to neuron"),
        (LIF(ONE, tau=TAU, v_leak=np.asarray(0.3)), "leaks to 0.3, where the reader's leaks to 0"),
        (LIF(ONE, np.asarray(0.2), tau=TAU), "leaks to 0, where the reader's leaks to 0.2"),
        (LIF(ONE, tau=TAU, gain=np.asarray(0.7)), "a gain of 0.7"),
        (LIF(ONE, tau=np.asarray(1.0)), "a time constant of one step"),
        (CubaLIF(ONE, decay=np.asarray(0.5), decay_syn=np.asarray(0.5), gain=np.asarray(2.0)), "a gain of 2"),
        (CubaLIF(ONE, decay=np.ones(()), decay_syn=np.asarray(0.5)), "does not leak"),
    ],
)
def test_what_spikingjelly_does_not_read_is_refused(op, message):
    with pytest.raises(spikec.UnsupportedOpError, match="spikingjelly does not read") as error:
        spikec.compile(graph(op), "nir", profile="spikingjelly")
    assert message in str(error.value)
    assert "%neuron0" in str(error.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:SpikingJelly 2.0.0. a spike resets")  # neurons that subtract
def test_a_threshold_is_moved_to_what_the_reader_compares_by():
    for strict, profile, moved in ((True, "spikingjelly", 1), (False, "spikingjelly", 0), (False, "portable", -1)):
        (node,) = spikec.Compiler("nir", profile=profile).run(graph(IF(ONE, strict=strict))).graph.match(IF)
        expected = {1: np.nextafter(1.0, 2), 0: 1.0, -1: np.nextafter(1.0, 0)}[moved]
        assert node.op.v_threshold.item() == expected
        assert node.op.strict == (profile == "portable")


@pytest.mark.slow
def test_losses_are_said():
    def notes(*ops):
        return [str(note) for note in spikec.Compiler("nir").run(graph(*ops)).report.notes]

    assert any("reset by subtraction" in note for note in notes(LIF(ONE, tau=TAU)))
    assert any("do not reset with their spike" in note for note in notes(LIF(ONE, tau=TAU, reset_at="next")))
    assert not any("subtraction" in note for note in notes(LIF(ONE, np.zeros(()), tau=TAU)))


@pytest.mark.slow
@pytest.mark.parametrize("tau", [2.0, 3.0, 7.3, 10.0, 49.0, 123.456])
def test_a_reader_that_divides_by_dt_gets_the_time_constant_back(tau):
    for dt in (1e-4, 1e-3, DT):
        found = spikec.compile(graph(LIF(ONE, tau=np.asarray(tau))), "nir", dt=dt)
        (node,) = [node for node in found.nodes.values() if hasattr(node, "tau")]
        assert np.allclose(node.tau / dt, tau, rtol=1e-15)
        assert (spikec.load(found).match(LIF)[0].op.tau == node.tau[0] / dt).all()


def test_an_initial_potential_of_what_leaks_is_not_turned_into_a_bias():
    op = LIF(ONE, np.asarray(-0.2), tau=TAU, v_leak=np.asarray(-0.2), v_init=np.asarray(-0.2))
    compilation = spikec.Compiler("nir", timesteps=8).run(graph(op))
    assert any("no bias replaces" in str(note) for note in compilation.report.notes)
    assert compilation.artifact.metadata["v_init"] == -0.2
    x = torch.randn(T, 3, 4, dtype=torch.float64)
    assert torch.equal(spikec.run(spikec.load(compilation.artifact), x), spikec.run(compilation.graph, x))
