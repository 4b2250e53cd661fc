"""Operators of old opsets mean what they meant then: those whose attributes, defaults or inputs changed since opset 7.

``onnx.defs`` says which these are, and onnxruntime what their versions give. Each version is held both where the node
is computed beforehand and where its first input is a signal; what no network can do with a signal is refused.
"""

import functools
import itertools
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

import spikec
from onnx_models import node, random, reference
from spikec.frontends.onnx.evaluate import Budget, own_evaluator, run_node

OLDEST = 7
#: operators without a case, and why
LEFT_OUT = {
    "Attention": "a product of signals; its versions differ in inputs that are added",
    "Constant": "it has no input; test_onnx reads its attributes",
    "Dropout": "below opset 12 the session says whether it is in training mode",
    "Scan": "it runs a graph of its own",
}


@functools.cache
def schemas():
    """The versions of each operator of ONNX's own domain from opset 7 on, oldest first."""
    found = {}
    for each in onnx.defs.get_all_schemas_with_history():
        if not each.domain:
            found.setdefault(each.name, []).append(each)
    for name, versions in found.items():
        versions.sort(key=lambda each: each.since_version)
        first = max((i for i, each in enumerate(versions) if each.since_version <= OLDEST), default=0)
        found[name] = versions[first:]
    return found


def meaning(schema):
    """What of a version a model says: attributes with their defaults, and the inputs."""
    attributes = {name: each.default_value.SerializeToString() for name, each in schema.attributes.items()}
    return attributes, [each.name for each in schema.inputs]


def changed():
    """(operator, version) for each version that says something else than the one before or behind it."""
    found = []
    for name, versions in schemas().items():
        differs = [meaning(a) != meaning(b) for a, b in itertools.pairwise(versions)]
        if any(differs):
            kept = [versions[0], *(b for b, new in zip(versions[1:], differs, strict=True) if new)]
            found += [(name, max(each.since_version, OLDEST)) for each in kept]
    return found


C = random(2, 3, 4)
MAP = random(1, 2, 5, 5)
ONE, TWO = np.array([1]), np.array([2])
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

#: by operator, (first opset, last opset, inputs, attributes)
CASES = {
    "ArgMax": [(7, 30, [C], {}), (7, 30, [C], {"axis": 2, "keepdims": 0})],
    "ArgMin": [(7, 30, [C], {}), (12, 30, [np.zeros((2, 3), "f")], {"axis": 1, "select_last_index": 1})],
    "AveragePool": [
        (7, 30, [MAP], {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        (7, 30, [MAP], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
        (10, 30, [MAP], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
        (19, 30, [MAP], {"kernel_shape": [2, 2], "dilations": [2, 2]}),
    ],
    "BatchNormalization": [(7, 30, [MAP, *(np.abs(random(2, seed=i)) for i in range(4))], {"epsilon": 0.1})],
    "Cast": [(7, 30, [C * 3], {"to": onnx.TensorProto.INT32}), (7, 30, [C], {"to": onnx.TensorProto.DOUBLE})],
    "CastLike": [(15, 30, [C * 3, ONE], {})],
    "Clip": [
        (7, 10, [C], {"min": -0.2, "max": 0.5}),
        (7, 10, [C], {"min": 0.2}),
        (7, 10, [C], {}),
        (11, 30, [C, np.float32(-0.2), np.float32(0.5)], {}),
        (11, 30, [C, None, np.float32(0.5)], {}),
    ],
    "DepthToSpace": [
        (7, 30, [random(1, 8, 2, 3)], {"blocksize": 2}),
        (11, 30, [random(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
    ],
    "DequantizeLinear": [(10, 30, [np.arange(6, dtype=np.uint8), np.float32(0.5), np.uint8(3)], {})],
    "DFT": [(17, 19, [random(1, 6, 1)], {"axis": 1}), (20, 30, [random(1, 6, 1), None, np.int64(1)], {})],
    "GatherND": [(11, 30, [C, np.array([[0, 1], [1, 2]])], {})],
    "GridSample": [(16, 30, [MAP, np.tanh(random(1, 2, 3, 2))], {})],
    "Hardmax": [(7, 30, [C], {}), (7, 30, [C], {"axis": 2}), (7, 30, [C], {"axis": 0})],
    "LogSoftmax": [(7, 30, [C], {}), (7, 30, [C], {"axis": 2}), (11, 30, [C], {"axis": -2})],
    "LpPool": [(7, 30, [np.abs(MAP)], {"kernel_shape": [2, 2], "p": 2})],
    "MaxPool": [
        (7, 30, [MAP], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        (10, 30, [MAP], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ],
    "Pad": [
        (7, 10, [C], {"pads": [0, 1, 0, 0, 0, 2], "value": 0.5}),
        (7, 10, [C], {"pads": [0, 1, 1, 0, 0, 2], "mode": "edge"}),
        (11, 30, [C, np.array([0, 1, 0, 0, 0, 2]), np.float32(0.5)], {}),
        (18, 30, [C, np.array([1, 2]), None, ONE], {}),
    ],
    "QuantizeLinear": [(10, 30, [C, np.float32(0.1), np.uint8(3)], {})],
    "Range": [(11, 30, [np.float32(1), np.float32(7), np.float32(2)], {})],
    "ReduceSum": [(7, 12, [C], {"axes": [1]}), (13, 30, [C, ONE], {}), (13, 30, [C], {"noop_with_empty_axes": 1})],
    "Reshape": [(7, 30, [C, np.array([2, -1])], {}), (7, 30, [C, np.array([0, 0, 2, 2])], {})],
    "Resize": [
        (10, 10, [MAP, np.array([1, 1, 2, 1.6], "f")], {}),
        (10, 10, [MAP, np.array([1, 1, 2, 1.6], "f")], {"mode": "linear"}),
        (11, 30, [MAP, np.array([], "f"), np.array([1, 1, 2, 1.6], "f")], {"mode": "linear"}),
        (13, 30, [MAP, None, None, np.array([1, 2, 7, 3])], {}),
        (18, 30, [MAP, None, np.array([2, 1.6], "f")], {"axes": [2, 3]}),
    ],
    "RoiAlign": [
        (
            10,
            30,
            [MAP, np.array([[0.3, 0.2, 3.4, 4.1]], "f"), np.array([0])],
            {"output_height": 2, "output_width": 2, "sampling_ratio": 2},
        )
    ],
    "ScatterElements": [(11, 30, [C, np.zeros((1, 3, 4), "i8") + 1, random(1, 3, 4, seed=1)], {})],
    "ScatterND": [(11, 30, [C, np.array([[1, 2]]), random(1, 4, seed=1)], {})],
    "Shape": [(7, 30, [C], {}), (15, 30, [C], {"start": 1})],
    "Slice": [
        (7, 9, [C], {"starts": [1, 0], "ends": [3, -1], "axes": [1, 2]}),
        (10, 30, [C, ONE, np.array([3]), ONE, ONE], {}),
        (10, 30, [C, np.array([-1]), np.array([-9]), TWO, np.array([-2])], {}),
    ],
    "Softmax": [(7, 30, [C], {}), (7, 30, [C], {"axis": 2}), (7, 30, [C], {"axis": 0}), (11, 30, [C], {"axis": -2})],
    "SpaceToDepth": [(7, 30, [random(1, 2, 4, 6)], {"blocksize": 2})],
    "Split": [
        (7, 12, [C], {"axis": 2}),
        (7, 12, [C], {"axis": 2, "split": [1, 3]}),
        (13, 30, [C, np.array([1, 3])], {"axis": 2}),
        (18, 30, [C], {"axis": 2, "num_outputs": 2}),
    ],
    "Squeeze": [(7, 12, [C[:, None]], {"axes": [1]}), (7, 12, [C[..., None]], {}), (13, 30, [C[:, None], ONE], {})],
    "TopK": [(7, 9, [C], {"k": 2}), (10, 30, [C, TWO], {}), (11, 30, [C, TWO], {"axis": 1, "largest": 0})],
    "Unsqueeze": [
        (7, 12, [C], {"axes": [1, 4]}),
        (7, 12, [C], {"axes": [0]}),
        (11, 12, [C], {"axes": [-1]}),
        (13, 30, [C, np.array([-1, 1])], {}),
    ],
    "Upsample": [
        (7, 8, [MAP], {"scales": [1.0, 1.0, 2.0, 1.6]}),
        (7, 8, [MAP], {"scales": [1.0, 1.0, 2.0, 3.0], "mode": "linear"}),
        (9, 9, [MAP, np.array([1, 1, 2, 1.6], "f")], {}),
        (9, 9, [MAP, np.array([1, 1, 2, 3], "f")], {"mode": "linear"}),
    ],
    **{
        f"Reduce{kind}": [
            (7, 17, [np.abs(C)], {"axes": [1], "keepdims": 0}),
            (7, 30, [np.abs(C)], {}),
            (18, 30, [np.abs(C), ONE], {}),
        ]
        for kind in REDUCTIONS
        if kind != "Sum"
    },
    "Gemm": [(7, 30, [C[0], random(4, 2), random(2)], {"alpha": 0.5})],
    "GRU": [(7, 30, [random(3, 1, 2), random(1, 6, 2), random(1, 6, 2)], {"hidden_size": 2})],
    "LSTM": [(7, 30, [random(3, 1, 2), random(1, 8, 2), random(1, 8, 2)], {"hidden_size": 2})],
    "RNN": [(7, 30, [random(3, 1, 2), random(1, 2, 2), random(1, 2, 2)], {"hidden_size": 2})],
    "GroupNormalization": [
        (18, 20, [MAP, random(1), random(1)], {"num_groups": 1}),
        (21, 30, [MAP, random(2), random(2)], {"num_groups": 1}),
    ],
}


def versions(operator):
    """The opsets from which on an operator has another version, where it means something else or not."""
    return sorted({max(each.since_version, OLDEST) for each in schemas()[operator]})


def cases():
    for operator, found in CASES.items():
        for first, last, inputs, attributes in found:
            for opset in versions(operator):
                if first <= opset <= last:
                    shown = ",".join(f"{name}={value}" for name, value in attributes.items())
                    yield pytest.param(operator, opset, inputs, attributes, id=f"{operator}-{opset}-{shown}")


def built(operator, opset, inputs, attributes, *, signal):
    """(model, feeds): all inputs are fed, or only the first one."""
    names = ["-" if value is None else f"i{k}" for k, value in enumerate(inputs)]
    outputs = [f"y{k}" for k in range({"Split": 2, "TopK": 2, "LSTM": 3}.get(operator, 1))]
    feeds = {name: np.asarray(value) for name, value in zip(names, inputs, strict=True) if value is not None}
    fed = list(feeds)[:1] if signal else list(feeds)
    declared = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(feeds[name].dtype), feeds[name].shape)
        for name in fed
    ]
    graph = helper.make_graph(
        [node(operator, " ".join(names), " ".join(outputs), name="op", **attributes)],
        "test",
        declared,
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in feeds.items() if name not in fed],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), feeds


def stated(operator, opset, inputs, attributes):
    """What onnxruntime gives."""
    proto, feeds = built(operator, opset, inputs, attributes, signal=False)
    try:
        return reference(proto, **feeds)
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        pytest.skip("onnxruntime has no kernel for it")
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail as error:
        if "ValidateOpsetForDomain" not in str(error):
            raise
        pytest.skip("onnxruntime is older than the opset")
    except onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException:
        pytest.skip("onnxruntime fails on it, as versions below 1.24 do on a sum over no axes")


def hold(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("operator", "opset", "inputs", "attributes"), list(cases()))
def test_a_version_of_an_operator_gives_what_onnxruntime_gives(operator, opset, inputs, attributes):
    wanted = stated(operator, opset, inputs, attributes)
    proto, feeds = built(operator, opset, inputs, attributes, signal=False)
    hold(run_node(proto.graph.node[0], {"": opset}, feeds, Budget(2**20)), wanted)
    hold(own_evaluator(proto)(feeds), wanted)
    proto, feeds = built(operator, opset, inputs, attributes, signal=True)
    try:
        graph = spikec.load(proto)
    except (spikec.UnsupportedOpError, spikec.InvalidModelError):
        return
    found = spikec.run(graph, torch.tensor(feeds["i0"]))
    hold([each.numpy() for each in (found if isinstance(found, tuple) else (found,))], wanted)


def test_every_version_with_another_meaning_has_a_case():
    held = {
        (operator, opset)
        for operator, found in CASES.items()
        for opset in versions(operator)
        for first, last, *_ in found
        if first <= opset <= last
    }
    assert {each for each in changed() if each[0] not in LEFT_OUT} <= held
    assert {operator for operator, _ in changed()}.issuperset(LEFT_OUT)


@pytest.mark.parametrize("operator", ["Softmax", "Hardmax", "LogSoftmax", "Upsample"])
def test_an_operator_that_is_read_by_todays_rules_is_seen(operator, monkeypatch):
    monkeypatch.setattr("spikec.frontends.onnx.evaluate.in_todays_terms", lambda node, opset: node)
    monkeypatch.setattr("spikec.frontends.onnx.evaluate._as_formerly", lambda node, opset, op: op.run)
    opset, _, inputs, attributes = CASES[operator][0]
    proto, feeds = built(operator, opset, inputs, attributes, signal=False)
    wanted = stated(operator, opset, inputs, attributes)
    with pytest.raises((AssertionError, spikec.CompileError, TypeError, RuntimeError)):
        hold(run_node(proto.graph.node[0], {"": opset}, feeds), wanted)


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 17])
def test_a_view_by_the_batch_size_is_read_as_every_opset_writes_it(opset, tmp_path):
    class View(torch.nn.Module):
        def forward(self, x):
            return torch.relu(x.view(x.size(0), -1))

    x = torch.randn(4, 2, 3, 3)
    options = {"opset_version": opset, "input_names": ["x"], "dynamic_axes": {"x": {0: "N"}}, "dynamo": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(View(), (x,), tmp_path / "view.onnx", **options)
    assert torch.equal(spikec.run(spikec.load(tmp_path / "view.onnx"), x), View()(x))
