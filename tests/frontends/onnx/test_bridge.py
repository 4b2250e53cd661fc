"""ONNX operators written in torch's functions: what a signal can be given to, against torch itself."""

import operator

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import spikec
from onnx_models import model, node, random
from spikec.frontends.onnx import converter

W = torch.from_numpy(random(4, 2))


def read(function):
    """The graph of a model whose one operator has this function for a converter."""
    proto = model([node("Mine", "x", "y", name="mine", domain="me")], ["n", 3, 4], domains=["me"])
    converter._table["me", "Mine"] = lambda call, x: function(x)
    try:
        return spikec.load(proto)
    finally:
        del converter._table["me", "Mine"]


@pytest.mark.parametrize(
    "function",
    [
        F.relu,
        torch.relu,
        lambda x: x.relu(),
        lambda x: x.clamp(min=0.2).mean(-1, keepdim=True),
        lambda x: 2 * x + 1,
        lambda x: 1 - x / 4,
        lambda x: -x + W[:, 0],
        lambda x: W[:, 1] - x,
        lambda x: W[:, 1] * x,
        lambda x: x @ W,
        lambda x: torch.eye(3) @ x,
        lambda x: x[:, 1:, ::2],
        lambda x: torch.cat([x, -x], 1),
        lambda x: sum(x.split([1, 2, 1], -1)[::2]),
        lambda x: F.max_pool1d(x, 2),
        lambda x: F.conv1d(x, W[None, :3]),
        lambda x: torch.maximum(torch.zeros(()), x),
    ],
)
def test_functions_methods_and_operators_mean_what_they_mean_in_torch(function):
    x = torch.from_numpy(random(5, 3, 4))
    graph = read(function)
    assert torch.allclose(spikec.run(graph, x), function(x), atol=1e-6)
    assert {source.label for name in graph for source in graph[name].origin} == {"mine"}


def test_the_op_of_a_call_has_the_nodes_name_and_others_a_part_of_it():
    assert list(read(F.relu)) == ["x", "mine", "y"]
    assert list(read(lambda x: F.hardsigmoid(x))) == ["x", "mine_line", "mine", "y"]
    assert list(read(lambda x: torch.abs(x) + 1)) == ["x", "mine", "mine_1", "y"]


def test_an_input_that_is_returned_is_an_identity():
    assert [read(lambda x: x)[name].kind for name in ("x", "mine", "y")] == ["input", "identity", "output"]


@pytest.mark.parametrize(
    "number", [int, float, bool, len, list, operator.index, np.asarray, lambda x: np.array(x, np.float64)]
)
def test_a_signal_has_no_number(number):
    with pytest.raises(spikec.UnsupportedOpError, match="computed from the model's input") as caught:
        read(number)
    assert (caught.value.location, caught.value.problems[0].op) == ("mine", "me.Mine(%x)")


def test_what_torchs_converters_refuse_is_said_of_the_onnx_node():
    with pytest.raises(spikec.UnsupportedOpError, match="all axes") as caught:
        read(lambda x: x.sum())
    assert (caught.value.location, caught.value.problems[0].op) == ("mine", "me.Mine(%x)")


def test_weights_that_are_no_numbers_are_refused_behind_torchs_functions_too():
    with pytest.raises(spikec.InvalidModelError, match="NaN or infinity"):
        read(lambda x: F.linear(x, torch.full((2, 4), torch.nan)))
