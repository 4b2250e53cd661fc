"""Comparisons, and what is chosen by them, as ONNX writes it, against onnxruntime."""

import numpy as np
import pytest

import spikec
from onnx_models import agrees, model, node
from spikec.extend.loader import pass_named
from spikec.ir.errors import UnsupportedOpError
from spikec.ir.ops import ComposedFunction, LeakyRelu, Relu

ONE, ZERO, SLOPE = (np.asarray(x, np.float32) for x in (1.0, [0.0], [[0.5], [-0.25], [2.0]]))
CONSTANTS = {"zero": ZERO, "one": ONE, "slope": SLOPE}

FORMS = {
    "Greater": ([node("Greater", "x zero", "c"), node("Where", "c x zero", "y")], Relu),
    "GreaterOrEqual": ([node("GreaterOrEqual", "x zero", "c"), node("Where", "c x zero", "y")], Relu),
    "Less": ([node("Less", "x zero", "c"), node("Where", "c zero x", "y")], Relu),
    "LessOrEqual": ([node("LessOrEqual", "x zero", "c"), node("Where", "c zero x", "y")], Relu),
    "turned": ([node("Less", "zero x", "c"), node("Where", "c x zero", "y")], Relu),
    "Not": ([node("Greater", "x zero", "c"), node("Not", "c", "n"), node("Where", "n zero x", "y")], Relu),
    "Cast": ([node("Greater", "x zero", "c"), node("Cast", "c", "f", to=1), node("Mul", "x f", "y")], Relu),
    "Cast to bool": (
        [node("Less", "x zero", "c"), node("Cast", "c", "f", to=9), node("Where", "f zero x", "y")],
        Relu,
    ),
    "slopes": (
        [node("Greater", "x zero", "c"), node("Mul", "x slope", "s"), node("Where", "c x s", "y")],
        LeakyRelu,
    ),
    "softplus": (
        [
            *(node("Greater", "x one", "c"), node("Exp", "x", "e"), node("Exp", "one", "top")),
            *(node("Sub", "x one", "past"), node("Add", "past top", "line"), node("Where", "c line e", "y")),
        ],
        ComposedFunction,
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_choice_is_one_function(name):
    nodes, kind = FORMS[name]
    graph = agrees(model(nodes, ["n", 3, 4], **CONSTANTS), 3, 4)
    for each in ("eliminate-identity", "join-functions"):
        pass_named(each).run(graph, spikec.Context(graph))
    assert len(graph.match(kind)) == 1


def test_a_signal_that_is_no_comparison_is_no_bool():
    with pytest.raises(UnsupportedOpError, match="only casts of a signal to another precision"):
        spikec.load(model([node("Cast", "x", "c", to=9), node("Where", "c x zero", "y")], ["n", 3, 4], **CONSTANTS))


def test_a_jump_is_refused_by_the_name_of_the_node():
    nodes = [node("Greater", "x one", "c"), node("Where", "c x zero", "y", name="gate")]
    with pytest.raises(UnsupportedOpError, match=r"jumps at 1 from 0 to 1[^@]*gate"):
        spikec.compile(model(nodes, ["n", 3, 4], **CONSTANTS), "spikingjelly", example_input=np.zeros((2, 3, 4), "f"))
