"""Smooth functions of ONNX operators, and as torch's exporters write them, against onnxruntime and torch."""

import io
import math

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import spikec
from onnx_models import agrees, model, node
from spikec.extend.loader import pass_named
from spikec.ir.ops import ComposedFunction, Multiply, ScalarFunction

#: operator, opset, attributes, and whether its numbers are positive
NODES = {
    **{name: (name, 17, {}, False) for name in ("Softplus", "Softsign", "Exp", "Reciprocal", "Erf", "Sin", "Cos")},
    **{name: (name, 17, {}, False) for name in ("Atan", "Sinh", "Cosh", "Asinh", "HardSwish")},
    **{name: (name, 17, {}, True) for name in ("Log", "Sqrt")},
    "Elu": ("Elu", 17, {"alpha": 0.6}, False),
    "Celu": ("Celu", 17, {"alpha": 0.7}, False),
    "Selu": ("Selu", 17, {}, False),
    "Mish": ("Mish", 18, {}, False),
    "Gelu": ("Gelu", 20, {}, False),
    "Gelu tanh": ("Gelu", 20, {"approximate": "tanh"}, False),
}


@pytest.mark.parametrize("name", NODES)
def test_an_operator_is_read_as_onnxruntime_computes_it(name):
    operator, opset, attributes, positive = NODES[name]
    nodes = [node(operator, "p" if positive else "x", "y", name="act", **attributes)]
    if positive:
        nodes = [node("Abs", "x", "a"), node("Add", "a c", "p"), *nodes]
    graph = agrees(model(nodes, ["n", 3, 4], opset, c=torch.tensor([0.1]).numpy()), 3, 4)
    assert len(graph.match(ScalarFunction)) == 1


@pytest.mark.parametrize(("exponent", "function"), [(2.0, "square"), (3.0, "integer_pow"), (-1.0, "reciprocal")])
def test_a_power(exponent, function):
    graph = agrees(model([node("Pow", "x e", "y")], ["n", 3, 4], e=torch.tensor(exponent).numpy()), 3, 4)
    assert [each.op.function for each in graph.match(ScalarFunction)] == [function]


def test_a_number_over_a_tensor():
    """As torch exports rsqrt."""
    nodes = [node("Abs", "x", "a"), node("Add", "a c", "p"), node("Sqrt", "p", "s"), node("Div", "one s", "y")]
    constants = {"c": torch.tensor([0.1]).numpy(), "one": torch.tensor(1.0).numpy()}
    graph = agrees(model(nodes, ["n", 3, 4], **constants), 3, 4)
    assert [each.op.function for each in graph.match(ScalarFunction)] == ["sqrt", "reciprocal"]


LAYERS = (nn.Softplus(2.0), nn.ELU(0.5), nn.SELU(), nn.CELU(1.2), nn.Hardswish(), nn.Tanhshrink())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_what_torch_exports_is_what_torch_computes(layer):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), layer, nn.Linear(5, 3)).eval()
    file = io.BytesIO()
    torch.onnx.export(net, (torch.randn(2, 4),), file, dynamo=False, dynamic_axes={"x": [0]}, input_names=["x"])
    graph = spikec.load(onnx.load_model_from_string(file.getvalue()))
    x = torch.randn(7, 4)
    torch.testing.assert_close(spikec.run(graph, x), net(x).detach(), rtol=1e-5, atol=1e-5)


#: a function as exporters write it in operators, with these constants, and what torch computes
FORMS = {
    "silu": ("Sigmoid x s, Mul x s y", {}, F.silu),
    "silu, turned": ("Sigmoid x s, Mul s x y", {}, F.silu),
    "gelu, divided": (
        "Div x root d, Erf d e, Add e one f, Mul x f g, Mul g half y",
        {"root": 2**0.5, "one": 1.0, "half": 0.5},
        F.gelu,
    ),
    "gelu, half first": (
        "Mul x root d, Erf d e, Add one e f, Mul half x g, Mul g f y",
        {"root": 0.5**0.5, "one": 1.0, "half": 0.5},
        F.gelu,
    ),
    "gelu by tanh": (
        "Pow x three p, Mul p c q, Add x q r, Mul r k s, Tanh s t, Add t one u, Mul x half h, Mul h u y",
        {"three": 3.0, "c": 0.044715, "k": (2 / math.pi) ** 0.5, "one": 1.0, "half": 0.5},
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    "hardswish by clip": (
        "Add x three a, Clip a low six c, Mul x c m, Div m six y",
        {"three": 3.0, "low": 0.0, "six": 6.0},
        F.hardswish,
    ),
    "hardswish, sixth first": (
        "Add x three a, Clip a low six c, Div c six d, Mul x d y",
        {"three": 3.0, "low": 0.0, "six": 6.0},
        F.hardswish,
    ),
    "hardswish by hardsigmoid": ("HardSigmoid x s, Mul x s y", {}, lambda x: x * (0.2 * x + 0.5).clamp(0, 1)),
    "softplus": ("Exp x e, Add e one p, Log p y", {"one": 1.0}, F.softplus),
    "mish": ("Softplus x s, Tanh s t, Mul x t y", {}, F.mish),
    "mish, written out": ("Exp x e, Add e one p, Log p s, Tanh s t, Mul x t y", {"one": 1.0}, F.mish),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_of_several_operators_is_one_function(name):
    text, constants, function = FORMS[name]
    steps = [step.split() for step in text.split(", ")]
    nodes = [node(kind, " ".join(inputs), result) for kind, *inputs, result in steps]
    arrays = {key: torch.tensor(value).numpy() for key, value in constants.items()}
    graph = agrees(model(nodes, ["n", 3, 4], **arrays), 3, 4)
    after = graph.copy()
    assert pass_named("join-functions").run(after, spikec.Context(graph)) == 1
    (joined,) = after.match(ComposedFunction)
    assert after.operands(joined.name) == graph.inputs
    assert not after.match(Multiply)
    x = torch.randn(50, 3, 4)
    torch.testing.assert_close(spikec.run(after, x), function(x), rtol=1e-5, atol=1e-5)
