"""Smooth functions of ONNX operators, and as torch's exporters write them, against onnxruntime and torch."""

import io

import onnx
import pytest
import torch
from torch import nn

import spikec
from onnx_models import agrees, model, node
from spikec.ir.ops import ScalarFunction

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


LAYERS = (nn.Softplus(2.0), nn.ELU(0.5), nn.SELU(), nn.CELU(1.2), nn.Softsign(), nn.Hardswish(), nn.Tanhshrink())


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
