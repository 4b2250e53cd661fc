"""Loihi's neuron: its equations, in integers as the chip counts, written out in numpy."""

import numpy as np
import pytest
import torch

from spikec import Graph, TypeMismatchError, run
from spikec.ir.ops import Input, LoihiNeuron, Output
from spikec.ir.ops.neuron_loihi import GRAIN

N, T, B = 7, 60, 3
RNG = np.random.default_rng(0)
X = 2.0 * RNG.integers(-60, 90, (T, B, N))
REC = 2 * RNG.integers(-30, 31, (N, N))


def graph(op):
    g = Graph("loihi")
    x = g.add(Input((N,), "float64", rate=True), name="x")
    g.add(Output(), g.add(op, x, name="n"), name="y")
    return g


def neuron(**fields):
    fields = {name: np.asarray(value, dtype=float) for name, value in fields.items()}
    return LoihiNeuron(np.full(1, 200.0), strict=True, grain=np.asarray(GRAIN), out_scale=np.ones(1), **fields)


def cut(values, lost):
    """What is left in a step, in units of 1/64, rounded towards zero."""
    return np.sign(values) * ((np.abs(values) * (4096 - lost)) >> 12)


@pytest.mark.parametrize(("lost_syn", "lost"), [(4096, 300), (700, 300), (0, 4096), (900, 4096), (4096, 0)])
@pytest.mark.parametrize("recurrent", [False, True])
def test_it_counts_as_the_chip_does(lost_syn, lost, recurrent):
    fields = {"decay_syn": 1 - lost_syn / 4096, "decay": 1 - lost / 4096, "feedback": 100, "bias": 6}
    op = neuron(**fields, weight_rec=REC) if recurrent else neuron(**fields)
    back = (REC if recurrent else 0) - 100 * np.eye(N, dtype=int)
    u, v, s, expected = (np.zeros((B, N), dtype=np.int64) for _ in range(4))
    expected = []
    for x in X.astype(np.int64):
        u = cut(u, lost_syn) + 64 * (x + s @ back.T)
        v = cut(v, lost) + u + 64 * 6
        s = (v > 64 * 200).astype(np.int64)
        v = np.where(s == 1, 0, v)
        expected.append(s)
    assert 0.02 < np.mean(expected) < 0.98
    assert np.array_equal(run(graph(op), torch.tensor(X)).numpy(), np.array(expected))


def test_it_is_homogeneous():
    op = neuron(decay_syn=0.75, decay=0.5, feedback=100, bias=6, weight_rec=REC)
    assert torch.equal(
        run(graph(op.scale_input(np.full(1, 4.0))), torch.tensor(X)), run(graph(op), torch.tensor(4 * X))
    )
    unlike = 2.0 ** RNG.integers(0, 3, N)
    assert torch.equal(run(graph(op.scale_input(unlike)), torch.tensor(X)), run(graph(op), torch.tensor(unlike * X)))


def test_recurrent_weights_are_a_square_over_the_layer():
    with pytest.raises(TypeMismatchError, match=r"weight_rec of shape \(3, 3\) for 7 neurons"):
        graph(neuron(decay_syn=0, decay=1, weight_rec=np.ones((3, 3)))).type("y")
