"""Accuracy over time of modules and graphs."""

import numpy as np
import pytest
import torch

import nets
import spikec
from spikec.ir.ops import IF, Concat, Flatten, Input, Neuron, Output, SumPool


@pytest.fixture(scope="module")
def compilation():
    """Neurons that start at zero, which say little after one step."""
    given = {"calibration": nets.batch("mlp", 40), "normalization": spikec.Normalization(v_init=0.0)}
    return spikec.Compiler("spikingjelly", **given).run(nets.build("mlp"))


@pytest.mark.slow
def test_evaluate_starts_from_reset_whatever_ran_before_and_leaves_the_module_reset(compilation):
    snn, x = compilation.artifact, nets.batch("mlp", 30)
    labels = nets.build("mlp")(x).argmax(1)
    snn.reset()
    fresh = snn(x).clone()
    first = spikec.evaluate(snn, [(x, labels)], 6)
    assert torch.equal(snn(x), fresh)
    assert np.array_equal(spikec.evaluate(snn, [(x, labels)], 6), first)
    assert np.array_equal(spikec.evaluate(compilation.graph, [(x, labels)], 6), first)
    assert first[-1] > first[0]


def test_every_label_of_the_model_counts_and_no_other(compilation):
    x = nets.batch("mlp", 4)
    spikec.evaluate(compilation.graph, [(x, torch.tensor([0, 1, 2, 3]))], 2)
    for wrong in (-1, 4):
        with pytest.raises(spikec.CalibrationError, match=f"there is a label {wrong}, .* classes 0 to 3"):
            spikec.evaluate(compilation.graph, [(x, torch.tensor([0, 1, 2, wrong]))], 2)


def test_a_graph_that_ends_in_neurons_of_different_scales_is_judged_in_ann_units():
    """The rates alone would name another class: a spike of the second neuron stands for four times as much."""
    g = spikec.Graph()
    x = g.add(Input((2,), "float64", rate=True))
    g.add(Output(), g.add(IF(np.array([1.0, 4.0])), x))
    samples = torch.tensor([[0.5, 1.2], [0.5, 0.1]], dtype=torch.float64)
    assert spikec.evaluate(g, [(samples, torch.tensor([1, 0]))], 10)[-1] == 1


def test_a_graph_without_neurons_has_scales_too():
    """A sum over windows of different sizes stands for the average: the sums alone would name another class."""
    g = spikec.Graph()
    x = g.add(Input((2, 2), "float64", rate=True))
    pools = [g.add(SumPool((size,), (2,), (0,)), x) for size in (1, 2)]
    g.add(Output(), g.add(Flatten(), g.add(Concat(), *pools)))
    assert not g.match(Neuron)
    samples = torch.tensor([[[0.9, 0.1], [0.0, 0.0]]], dtype=torch.float64)
    assert spikec.evaluate(g, [(samples, torch.tensor([0]))], 2)[-1] == 1
