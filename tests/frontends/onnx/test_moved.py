"""Tensors whose batch is not their first axis, in ONNX: what is read of them is what onnxruntime computes."""

import warnings

import numpy as np
import pytest
import torch
from onnx import TensorProto

import moved_nets
import spikec
from onnx_models import agrees, model, node, random
from spikec.frontends.onnx import converter
from spikec.ir.errors import UnsupportedOpError
from spikec.ir.ops import Relu
from spikec.ir.stages import IMPORTED
from spikec.ir.verify import verify


def exported(name, path, dynamo, batch):
    """A network of :mod:`moved_nets` as one of torch's two exporters writes it, for a batch of that size or of any."""
    options = {"dynamo": dynamo, "verbose": False}
    if batch is None and dynamo:
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    elif batch is None:
        options |= {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    net = moved_nets.build(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.zeros(batch or 4, 5, 6),), path, **options)
    return net


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dynamo", "batch"),
    [(False, None), (False, 1), (False, 5), (True, None)],
    ids=["old, open", "old, one", "old, as long as a sequence", "new, open"],
)
@pytest.mark.parametrize("name", moved_nets.NETS)
def test_an_exported_network_is_read_for_any_batch(name, dynamo, batch, tmp_path):
    net = exported(name, tmp_path / "net.onnx", dynamo, batch)
    graph = spikec.load(tmp_path / "net.onnx")
    verify(graph, IMPORTED, graph.sources)
    x = torch.tensor(random(3, 5, 6))
    with torch.no_grad():
        wanted = net(x)
    assert (spikec.run(graph, x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


CONSTANTS = {
    "w": random(6, 4),
    "v": random(4),
    "one": random(1),
    "ones": np.ones(6, "float32"),
    "zero": np.array([0]),
    "first": np.array(0),
    "two": np.array([2]),
    "three": np.array([3]),
    "halves": np.array([2, 4]),
    "joined": np.array([-1, 6]),
    "apart": np.array([5, -1, 6]),
    "cells": random(5, 1, 6),
    "five": np.array([5, 1, 6]),
    "two_more": np.array([2, 1, 1, 1]),
    "around": np.array([1, 0, 0, 0, 0, 2]),
    "less": np.array([0, 0, -1, 2, 0, 0]),
    "zeros": np.zeros(1, "float32"),
}
#: nodes that make z of a tensor y of [5, B, 6], with three axes of which the second is the batch again
NODES = {
    "arithmetic": [node("Add", "y one", "a"), node("Mul", "a y", "b"), node("Sub", "b cells", "z")],
    "division": [node("Div", "y one", "z")],
    "activations": [node("Relu", "y", "a"), node("Gelu", "y", "b"), node("Sigmoid", "b", "c"), node("Max", "a c", "z")],
    "clip": [node("Clip", "y - one", "a"), node("Tanh", "a", "b"), node("Neg", "b", "c"), node("Exp", "c", "z")],
    "product with a matrix": [node("MatMul", "y w", "z")],
    "product of two": [
        node("Transpose", "y", "a", perm=[1, 0, 2]),
        node("Transpose", "y", "b", perm=[1, 2, 0]),
        node("MatMul", "a b", "c"),
        node("Transpose", "c", "z", perm=[1, 0, 2]),
    ],
    "gemm": [node("Reshape", "y joined", "a"), node("Gemm", "a w v", "b"), node("Reshape", "b apart4", "z")],
    "layer norm": [node("LayerNormalization", "y ones", "z")],
    "softmax": [node("Softmax", "y", "a"), node("Softmax", "y", "b", axis=0), node("Add", "a b", "z")],
    "concat": [node("Concat", "y cells_of y", "z", axis=0)],
    "parts": [node("Split", "y halves", "a b", axis=2), node("Concat", "b a", "z", axis=-1)],
    "slice, its axes a constant that is also its start": [node("Slice", "y zero three zero", "z")],
    "slice of the last axis": [node("Slice", "y zero three two", "z")],
    "gather": [node("Gather", "y two", "z", axis=0)],
    "gather of one": [node("Gather", "y first", "a", axis=0), node("Unsqueeze", "a zero", "z")],
    "means": [node("ReduceMean", "y", "a", axes=[0]), node("ReduceMean", "y", "b", axes=[2]), node("Add", "a b", "z")],
    "sums": [node("ReduceSum", "y zero", "z")],
    "extremes": [node("ReduceMax", "y", "z", axes=[0])],
    "norms": [
        node("ReduceL2", "y", "a", axes=[2]),
        node("ReduceL2", "y", "b", axes=[0]),
        node("ReduceLogSumExp", "y", "c", axes=[-1]),
        node("Add", "a b", "d"),
        node("Mul", "d c", "z"),
    ],
    "more functions": [node("Abs", "y", "a"), node("Sin", "a", "b"), node("Selu", "b", "c"), node("Atan", "c", "z")],
    "expand": [node("ReduceMean", "y", "a", axes=[0]), node("Expand", "a five", "b"), node("Add", "b y", "z")],
    "expand with an axis more": [node("Expand", "y two_more", "a"), node("ReduceMean", "a", "z", axes=[0], keepdims=0)],
    "pad": [node("Pad", "y around", "a"), node("Pad", "a less zeros", "z", mode="constant")],
    "axes of one": [node("Unsqueeze", "y zero", "a"), node("Relu", "a", "b"), node("Squeeze", "b zero", "z")],
    "joined": [node("Reshape", "y joined", "a"), node("Relu", "a", "b"), node("Reshape", "b apart", "z")],
    "no change": [node("Identity", "y", "a"), node("Cast", "a", "b", to=1), node("Dropout", "b", "z")],
}


BACK = node("Reshape", "c apart", "z")


def around(nodes, shape, opset=17, **constants):
    """A model that brings the batch behind the first axis of a sample, and back at the end."""
    nodes = [node("Transpose", "x", "y", perm=[1, 0, 2], name="moves"), *nodes]
    return model([*nodes, node("Transpose", "z", "out", perm=[1, 0, 2])], shape, opset, "out", **constants)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("name", NODES)
def test_a_node_along_other_axes_is_onnxs(name, fixed):
    nodes = NODES[name]
    constants = CONSTANTS | {"apart4": np.array([5, -1, 4])}
    if name == "concat":
        nodes = [node("Mul", "y one", "cells_of"), *nodes]
    opset = 20 if name == "activations" else 17
    agrees(around(nodes, [3 if fixed else "n", 5, 6], opset, **constants), 5, 6)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Softmax", "y", "z", axis=1)],
        [node("ReduceMean", "y", "z", axes=[1])],
        [node("ReduceMean", "y", "z")],
        [node("ReduceSum", "y axis", "z")],
        [node("ReduceSum", "y", "z")],
        [node("Gather", "y zero", "z", axis=1)],
        [node("Slice", "y zero three axis", "z")],
        [node("Slice", "y zero three", "z")],
        [node("Concat", "y y", "z", axis=1)],
        [node("Split", "y", "z b", axis=1)],
        [node("Add", "x y", "z")],
        [node("Mul", "y samples", "z")],
        [node("MatMul", "turned y", "z")],
        [node("LayerNormalization", "y one", "z", axis=1)],
        [node("LayerNormalization", "y one", "z", axis=0)],
        [node("Transpose", "y", "a", perm=[0, 2, 1]), node("MatMul", "a y", "z")],
        [node("Reshape", "y joined", "a"), node("Reshape", "x joined", "b"), node("Add", "a b", "c"), BACK],
        [node("CumSum", "y axis", "z")],
        [node("ThresholdedRelu", "y", "z")],
        [node("ReduceL2", "y", "z", axes=[1])],
        [node("Pad", "y over_samples", "z")],
        [node("Pad", "y around one", "z")],
        [node("Pad", "y around", "z", mode="edge")],
        [node("Reshape", "y dealt", "z")],
        [node("Add", "y by_cell", "z")],
    ],
)
def test_what_mixes_samples_or_is_not_read_so_is_refused(nodes):
    constants = CONSTANTS | {"axis": np.array([1]), "samples": random(1, 3, 1), "dealt": np.array([3, 5, 6])}
    constants |= {"over_samples": np.array([0, 1, 0, 0, -1, 0])}
    if "turned" in nodes[0].input:
        nodes = [node("Transpose", "x", "turned", perm=[2, 1, 0]), *nodes]
    if "by_cell" in nodes[0].input:
        nodes = [
            node("Reshape", "y joined", "a"),
            node("Reshape", "a apart", "b"),
            node("Reshape", "b dealt", "by_cell"),
        ] + nodes
    with pytest.raises(UnsupportedOpError, match="cannot take such a tensor"):
        spikec.load(around(nodes, [3, 5, 6], **constants))


def test_an_expansion_to_a_number_of_samples_is_refused():
    for shape in ([5, 3, 6], [2, 5, 3, 6]):
        with pytest.raises(UnsupportedOpError):
            spikec.load(around([node("Expand", "y sizes", "z")], ["n", 5, 6], sizes=np.array(shape)))


def test_a_softmax_of_all_axes_from_one_on_is_refused():
    for axis in ({}, {"axis": 2}):
        with pytest.raises(UnsupportedOpError, match="moves the batch axis, and Softmax"):
            spikec.load(around([node("Softmax", "y", "z", **axis)], ["n", 5, 6], opset=11))


def test_a_model_of_doubles_is_read_in_doubles():
    nodes = [node("Transpose", "x", "y", perm=[1, 0, 2]), node("MatMul", "y w", "z")]
    nodes += [node("Softmax", "z", "a"), node("Transpose", "a", "out", perm=[1, 0, 2])]
    w = CONSTANTS["w"].astype("float64")
    agrees(model(nodes, ["n", 5, 6], output="out", dtype=TensorProto.DOUBLE, w=w), 5, 6, tolerance=1e-12)


def test_an_op_is_never_put_behind_a_tensor_that_moved():
    @converter(("test", "Own"))
    def _own(call, x):
        return call.add(Relu(), torch.transpose(x, 0, 1))

    with pytest.raises(UnsupportedOpError, match="it moves the batch axis"):
        spikec.load(model([node("Own", "x", "y", domain="test")], ["n", 5, 6], domains=["test"]))


def test_an_output_whose_batch_has_moved_is_refused():
    with pytest.raises(UnsupportedOpError, match="moves the batch axis") as caught:
        spikec.load(model([node("Transpose", "x", "y", perm=[1, 0, 2], name="moves")], ["n", 5, 6]))
    assert caught.value.location == "moves"


def test_a_refusal_names_both_nodes():
    with pytest.raises(UnsupportedOpError) as caught:
        spikec.load(around([node("ThresholdedRelu", "y", "z", name="act")], ["n", 5, 6]))
    (problem,) = caught.value.problems
    assert problem.location == "moves"
    assert problem.message == "it moves the batch axis, and ThresholdedRelu, at act, cannot take such a tensor"


def test_the_shape_of_a_moved_tensor_is_known_for_each_batch():
    nodes = [
        node("Shape", "y", "s"),
        node("Slice", "s zero two", "front"),
        node("Concat", "front rest", "shape", axis=0),
        node("Reshape", "y shape", "a"),
        node("ReduceSum", "a two", "z", keepdims=0),
    ]
    agrees(around(nodes, ["n", 5, 6], rest=np.array([2, 3]), **CONSTANTS), 5, 6)


def test_a_constant_that_is_repeated_for_each_sample_stands_beside_a_signal():
    nodes = [node("Concat", "token x", "y", axis=1)]
    agrees(model(nodes, [3, 5, 6], token=np.repeat(random(1, 2, 6), 3, 0)), 5, 6)
    with pytest.raises(UnsupportedOpError, match="differs from sample to sample"):
        spikec.load(model(nodes, [3, 5, 6], token=random(3, 2, 6)))
