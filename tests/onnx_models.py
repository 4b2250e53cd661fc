"""Small ONNX models for tests, and what onnxruntime makes of them."""

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

import spikec


def node(op, inputs, outputs, name="", domain="", **attributes):
    """A node; inputs and outputs are names with spaces between, ``-`` for one that is left out."""
    names = [["" if each == "-" else each for each in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op, *names, name=name, domain=domain, **attributes)


def model(nodes, shape, opset=17, output="y", dtype=TensorProto.FLOAT, domains=(), functions=(), **constants):
    """A model of one input ``x`` of that shape (first axis included) and one output; constants are arrays."""
    shapes = shape if isinstance(shape, dict) else {"x": shape}
    outputs = output.split()
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, dtype, each) for name, each in shapes.items()],
        [helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=functions)


def random(*shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def reference(proto, **feeds):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def agrees(proto, *shape, example=None, seed=5, tolerance=2e-5, batch=3):
    """Load a model and hold the graph to onnxruntime; returns the graph."""
    graph = spikec.load(proto, example)
    x = random(batch, *shape, seed=seed, dtype=graph.type(graph.inputs[0]).dtype)
    found = spikec.run(graph, torch.tensor(x))
    found = found if isinstance(found, tuple) else (found,)
    for a, b in zip(found, reference(proto, **{graph.inputs[0]: x}), strict=True):
        assert tuple(a.shape) == b.shape
        assert np.abs(b).max() > 0.01
        assert np.abs(a.numpy() - b).max() <= tolerance * np.abs(b).max()
    return graph
