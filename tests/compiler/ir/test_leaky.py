"""Leaky neurons: the equations of the docstrings, written once more in plain Python."""

import itertools

import numpy as np
import pytest
import torch

from spikec import Graph, InvalidModelError, TypeMismatchError, VerificationError, run
from spikec.interpreter.contract import check_rate
from spikec.ir.ops import IF, LIF, CubaLIF, Input, Output
from spikec.ir.types import Rate, Type

T = 60
X = torch.randn(T, 1, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2


def graph(op, width=7):
    g = Graph("leaky")
    g.add(Output(), g.add(op, g.add(Input((width,), "float64", rate=True), name="x"), name="n"), name="y")
    return g


def by_hand(step, op, x):
    """One neuron after the other: ``step(v, i, x)`` gives the charged (v, i)."""
    spikes = np.zeros(x.shape)
    for n in range(x.shape[2]):
        v = current = 0.0
        last = False
        for t in range(len(x)):
            v, current = step(v, current, float(x[t, 0, n]))
            if op.reset_at == "next" and last:
                v = v - 1.0 if op.v_reset is None else float(op.v_reset)
            last = v >= 1.0
            spikes[t, 0, n] = last
            if op.reset_at == "spike" and last:
                v = v - 1.0 if op.v_reset is None else float(op.v_reset)
    return spikes


@pytest.mark.parametrize(
    ("reset", "when", "gain"), list(itertools.product((None, -0.3), ("spike", "next", "never"), (None, 0.8)))
)
def test_lif(reset, when, gain):
    options = {"v_reset": None if reset is None else np.asarray(reset), "reset_at": when}
    op = LIF(np.ones(1), tau=np.asarray(3.0), gain=gain and np.asarray(gain), v_leak=np.asarray(0.1), **options)
    expected = by_hand(lambda v, i, x: (v + (0.1 - v + (x if gain is None else gain * 3 * x)) / 3, i), op, X)
    assert 0.02 < expected.mean() < 0.98
    assert np.array_equal(run(graph(op), X).numpy(), expected)


@pytest.mark.parametrize(("reset", "when"), list(itertools.product((None, 0.2), ("spike", "next", "never"))))
def test_cubalif(reset, when):
    options = {"v_reset": None if reset is None else np.asarray(reset), "reset_at": when}
    decays = {"decay_syn": np.asarray(0.4), "decay": np.asarray(0.7)}
    op = CubaLIF(np.ones(1), **decays, gain=np.asarray(0.6), v_leak=np.asarray(-0.1), **options)

    def step(v, i, x):
        i = 0.4 * i + 0.6 * x
        return 0.7 * v + 0.3 * -0.1 + i, i

    expected = by_hand(step, op, X)
    assert 0.02 < expected.mean() < 0.98
    assert np.array_equal(run(graph(op), X).numpy(), expected)


def test_a_potential_that_stays_above_the_threshold_is_lowered_twice():
    op = LIF(np.ones(1), tau=np.asarray(np.inf), gain=np.ones(()), strict=True, reset_at="again")
    x = torch.tensor([2.6, -0.1, 0.2, 0.2, 0.2], dtype=torch.float64).reshape(5, 1, 1)
    assert run(graph(op, 1), x).flatten().tolist() == [1, 0, 0, 0, 1]
    assert run(graph(IF(np.ones(1), strict=True), 1), x).flatten().tolist() == [1, 1, 0, 0, 1]


@pytest.mark.parametrize(
    "op",
    [
        LIF(np.full(1, 0.6), tau=np.asarray(3.0), v_leak=np.asarray(0.2), v_init=np.asarray(0.1)),
        CubaLIF(np.full(1, 0.6), v_reset=np.asarray(0.1), decay_syn=np.asarray(0.5), decay=np.asarray(0.9)),
    ],
)
def test_the_equations_are_homogeneous(op):
    factor = np.asarray([2.5])
    assert torch.equal(run(graph(op.scale_input(factor)), X), run(graph(op), X * 2.5))


def test_out_scale_says_what_spikes_stand_for():
    x = Type((7,), "float64", Rate(np.asarray([2.0])))
    assert IF(np.full(1, 0.5)).infer(x).scale.item() == 1.0
    assert IF(np.full(1, 0.5), out_scale=np.asarray([3.0])).infer(x).scale.item() == 3.0
    assert IF(np.full(1, 0.5), out_scale=np.asarray([3.0])).scale_input(np.asarray([4.0])).infer(x).scale.item() == 3.0


@pytest.mark.parametrize(
    "op", [LIF(np.ones(1), tau=np.asarray(5.0)), CubaLIF(np.ones(1), decay_syn=np.zeros(()), decay=np.asarray(0.9))]
)
def test_a_leaky_neuron_is_no_clipped_relu(op):
    with pytest.raises(VerificationError, match="clipped ReLU"):
        check_rate(graph(op), "n")


def test_what_cannot_be_is_refused():
    with pytest.raises(InvalidModelError, match="tau is 0.5"):
        LIF(np.ones(1), tau=np.asarray(0.5))
    with pytest.raises(InvalidModelError, match="decay is 1.1"):
        CubaLIF(np.ones(1), decay_syn=np.zeros(()), decay=np.asarray(1.1))
    with pytest.raises(InvalidModelError, match="reset_at is 'later'"):
        LIF(np.ones(1), tau=np.asarray(2.0), reset_at="later")
    with pytest.raises(InvalidModelError, match="reset_at is 'again'"):
        LIF(np.ones(1), np.zeros(()), tau=np.asarray(2.0), reset_at="again")
    with pytest.raises(TypeMismatchError, match="tau of shape"):
        graph(LIF(np.ones(1), tau=np.full(5, 2.0))).type("n")


def test_spikes_are_written_where_they_are_read_also_if_another_thread_begins_to_record(monkeypatch):
    recorded = iter([False, True, True])
    monkeypatch.setattr("spikec.ir.ops.neuron.is_recorded", lambda: next(recorded))
    z = torch.tensor([[0.4, 1.2, 2.5]], dtype=torch.float64)
    with torch.no_grad():
        state, spikes = IF(np.ones(1)).step(torch.zeros_like(z), z)
    assert spikes.tolist() == [[0, 1, 1]]
    assert state.tolist() == [[0.4, pytest.approx(0.2), 1.5]]
