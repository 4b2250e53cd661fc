"""Norms, gates and attention as exporters write them, held to onnxruntime and torch."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional as F

import spikec
from onnx_models import agrees
from spikec.ir.ops import ScalarFunction

SHAPE = (4, 6, 8)


class Net(nn.Module):
    def __init__(self, call):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.group, self.instance = nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)
        self.layer = nn.LayerNorm(8)
        for each in (self.group, self.instance, self.layer):
            nn.init.uniform_(each.weight, 0.5, 1.5)
            nn.init.normal_(each.bias)
        self.call = call
        self.eval()

    def forward(self, x):
        return self.call(self, self.conv(x))


CALLS = {
    "gate": lambda net, y: y * torch.sigmoid(y.mean((2, 3), keepdim=True)),
    "quotient": lambda net, y: y / (1 + y.abs().mean(1, keepdim=True)),
    "layer": lambda net, y: net.layer(y),
    "group": lambda net, y: net.group(y),
    "instance": lambda net, y: net.instance(y),
    "normalize": lambda net, y: F.normalize(y),
    "matrices": lambda net, y: y @ y.transpose(2, 3),
    "einsum": lambda net, y: torch.einsum("bcij,bckj->bkci", y, y),
    "attention": lambda net, y: torch.softmax(y @ y.relu().transpose(2, 3), -1) @ y,
}


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.parametrize("name", CALLS)
def test_what_torch_exports_is_the_torch_model(name, dynamo, tmp_path):
    model, x = Net(CALLS[name]), torch.randn(2, *SHAPE)
    options = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if dynamo else {"dynamic_axes": {"x": {0: "batch"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (x,), tmp_path / "net.onnx", dynamo=dynamo, verbose=False, input_names=["x"], **options
        )
    graph, x = spikec.load(str(tmp_path / "net.onnx")), torch.randn(3, *SHAPE)
    wanted = model(x).detach()
    assert (spikec.run(graph, x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def operator(op, opset, *constants, **attributes):
    """A model of one node, whose other inputs are constants."""
    names = [f"c{i}" for i in range(len(constants))]
    node = helper.make_node(op, ["x", *names], ["y"], name="act", **attributes)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *SHAPE]) for name in "xy"]
    held = [onnx.numpy_helper.from_array(each, name) for each, name in zip(constants, names, strict=True)]
    graph = helper.make_graph([node], "net", ports[:1], ports[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def numbers(count):
    return np.linspace(0.5, 1.5, count, dtype=np.float32)


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (
            operator("LayerNormalization", 17, np.ones(SHAPE[1:], np.float32), axis=2),
            lambda x: F.layer_norm(x, SHAPE[1:]),
        ),
        (
            operator("GroupNormalization", 21, numbers(4), numbers(4), num_groups=2),
            lambda x: F.group_norm(x, 2, *[torch.tensor(numbers(4))] * 2),
        ),
        (
            operator("GroupNormalization", 18, numbers(2), numbers(2), num_groups=2),
            lambda x: F.group_norm(x, 2, *[torch.tensor(numbers(2)).repeat_interleave(2)] * 2),
        ),
        (operator("RMSNormalization", 23, numbers(8)), lambda x: F.rms_norm(x, (8,), torch.tensor(numbers(8)), 1e-5)),
        (operator("LpNormalization", 13, axis=1), F.normalize),
        (operator("LRN", 13, size=2, alpha=0.5), lambda x: F.local_response_norm(x.flip(1), 2, 0.5).flip(1)),
    ],
    ids=["layer", "group", "group before 21", "rms", "lp", "lrn of an even window"],
)
def test_operators(model, wanted):
    x = torch.randn(3, *SHAPE)
    torch.testing.assert_close(spikec.run(spikec.load(model), x), wanted(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        operator("LRN", 13, size=3, alpha=0.5, beta=0.6, bias=2.0),
        operator("ReduceLogSumExp", 18, np.array([1, 3]), keepdims=0),
        operator("ReduceLogSumExp", 13, axes=[2]),
    ],
    ids=["lrn", "logsumexp", "logsumexp before 18"],
)
def test_operators_as_onnxruntime_computes_them(model):
    agrees(model, *SHAPE)


def test_an_inverse_is_taken_before_it_is_repeated():
    """A norm over channels is one number for all of them, and so are its neurons."""
    nodes = [
        helper.make_node("ReduceL2", ["x", "axes"], ["n"]),
        helper.make_node("Div", ["x", "n"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *SHAPE]) for name in "xy"]
    axes = onnx.numpy_helper.from_array(np.array([1]), "axes")
    model = helper.make_model(
        helper.make_graph(nodes, "net", ports[:1], ports[1:], [axes]), opset_imports=[helper.make_opsetid("", 18)]
    )
    graph = spikec.load(model)
    shapes = [graph.type(node.name).shape for node in graph.match(ScalarFunction)]
    assert shapes == [(1, *SHAPE[1:])] * 2
    x = torch.randn(3, *SHAPE)
    torch.testing.assert_close(spikec.run(graph, x), F.normalize(x), rtol=1e-5, atol=1e-5)
