"""What the ONNX frontend refuses: all of it at once, by the node's name, with what to do."""

import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import spikec
from onnx_models import model, node, random
from spikec.frontends.onnx import Constant, converter
from spikec.frontends.onnx.frontend import frontend
from spikec.ir.ops import Relu


def refused(proto, kind=spikec.UnsupportedOpError, example=None):
    with pytest.raises(kind) as caught:
        spikec.load(proto, example)
    return caught.value


@pytest.mark.parametrize(
    ("op", "message", "hint"),
    [
        (node("Shrink", "x", "y", name="act"), "Shrink is not supported", "replace it by Relu and retrain"),
        (node("Tan", "x", "y", name="act"), "Tan is not supported", '@converter("Tan")'),
        (node("MeanVarianceNormalization", "x", "y", name="act"), "statistics of the sample", "batch normalization"),
        (node("QuantizeLinear", "x w", "y", name="act"), "the model is quantized", "the float model"),
        (node("DequantizeLinear", "x w", "y", name="act"), "the model is quantized", "the float model"),
        (node("QLinearConv", "x w w w w w w w", "y", name="act"), "the model is quantized", "the float model"),
        (
            node("FusedConv", "x w", "y", name="act", domain="com.acme"),
            "com.acme.FusedConv",
            '("com.acme", "FusedConv")',
        ),
        (node("Cast", "x", "y", name="act", to=TensorProto.INT32), "precision of float", "floats"),
        (node("ThresholdedRelu", "x", "y", name="act"), "jumps at its threshold", ""),
        (node("Softmax", "x", "y", name="act", axis=0), "along the batch axis", ""),
        (node("Flatten", "x", "y", name="act", axis=0), "batch axis first", "flatten from axis 1"),
        (node("Transpose", "x", "y", name="act"), "moves the batch axis", "bring it back to the front"),
        (node("Gather", "x i", "y", name="act"), "along the batch axis", ""),
        (node("Gather", "w x", "y", name="act"), "must be a constant", "make it a constant"),
        (node("ReduceMean", "x", "y", name="act"), "that of the batch too", "name the axes"),
        (
            node("Concat", "x w", "y", name="act", axis=1),
            "it joins a constant that differs",
            "one for all samples",
        ),
        (node("Dropout", "x half true", "y", name="act"), "training mode", "model.eval()"),
        (node("MaxPool", "x4", "y z", name="act", kernel_shape=[1, 2]), "only the first 1 output", "from the first"),
    ],
)
def test_a_node_is_refused_by_its_name(op, message, hint):
    nodes = [op]
    if op.op_type == "MaxPool":
        nodes = [node("Unsqueeze", "x ones", "x4"), op, node("Cast", "z", "u", to=TensorProto.FLOAT)]
    constants = {
        "w": random(4),
        "i": np.array([0]),
        "half": np.float32(0.5),
        "true": np.array(True),
        "ones": np.array([1, 2]),
    }
    proto = model(nodes, ["n", 4], output="y u" if op.op_type == "MaxPool" else "y", domains=["com.acme"], **constants)
    error = refused(proto)
    assert message in str(error)
    assert hint in error.hint
    assert error.location == "act"


def test_every_problem_is_listed_at_once_and_none_behind_another():
    nodes = [
        node("Shrink", "x", "a", name="first"),
        node("Relu", "a", "b", name="fine"),
        node("Tan", "b", "c", name="second"),
        node("MatMul", "c w", "d", name="fine_too"),
        node("Acos", "d", "y", name="third"),
    ]
    error = refused(model(nodes, ["n", 4], 20, w=random(4, 3)))
    assert [problem.location for problem in error.problems] == ["first", "second", "third"]
    assert spikec.check(model(nodes, ["n", 4], 20, w=random(4, 3)), "nir") == list(error.problems)


def test_a_node_without_a_name_goes_by_its_output():
    assert refused(model([node("Tan", "x", "y")], ["n", 4])).location == "y"


@pytest.mark.parametrize(
    ("shape", "target", "hint"),
    [(["n", 4], [1, -1], ""), (["n", 4], [-1], ""), ([2, 4], [4, 2], ""), (["n", 4], [-1, 3], "")],
)
def test_a_reshape_that_mixes_samples_is_refused(shape, target, hint):
    error = refused(model([node("Reshape", "x to", "y", name="mix")], shape, to=np.array(target)))
    assert error.location == "mix"
    assert "batch" in str(error)


def test_numbers_made_from_the_batch_size_are_refused_where_they_matter():
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Cast", "n", "f", to=TensorProto.FLOAT),
        node("Div", "x f", "y", name="mean"),
    ]
    error = refused(model(nodes, ["n", 4], zero=np.int64(0)))
    assert error.location == "mean"
    assert "differs from sample to sample" in str(error)
    assert "one of its inputs depends on the batch size" in str(
        refused(model([*nodes[:3], node("Clip", "x f", "y")], ["n", 4], zero=np.int64(0)))
    )


def test_a_squeeze_without_axes_would_drop_a_batch_of_one():
    assert "name the axes" in refused(model([node("Squeeze", "x", "y")], [1, 4, 1])).hint
    assert spikec.load(model([node("Squeeze", "x", "y")], ["n", 4, 1])).type("y").shape == (4,)


def test_control_flow_on_the_input_is_refused():
    result = helper.make_tensor_value_info("r", TensorProto.FLOAT, None)
    branch = helper.make_graph([node("Relu", "x", "r", name="inner")], "branch", [], [result])
    nodes = [
        node("ReduceSum", "x ax", "s", keepdims=0),
        node("Cast", "s", "c", to=TensorProto.BOOL),
        node("If", "c", "y", name="choice", then_branch=branch, else_branch=branch),
    ]
    error = refused(model(nodes, ["n", 4], ax=np.array([1])))
    assert [problem.location for problem in error.problems] == ["c", "choice"]
    assert "which nodes run depends" in error.problems[1].message


@pytest.mark.parametrize(("opset", "options"), [(15, {"training_mode": 1}), (9, {})])
def test_a_batch_norm_in_training_mode_is_refused(opset, options):
    nodes = [node("BatchNormalization", "x w w w w", "y m v", name="bn", **options)]
    error = refused(model(nodes, ["n", 4], opset, w=random(4) ** 2))
    assert (error.location, "training mode" in str(error), "eval()" in error.hint) == ("bn", True, True)


@pytest.mark.parametrize(
    ("kind", "shown"), [(TensorProto.INT64, "int64"), (TensorProto.UINT8, "uint8"), (TensorProto.STRING, "string")]
)
def test_an_input_that_is_no_float_is_refused(kind, shown):
    error = refused(model([node("Cast", "x", "y", to=1)], ["n", 4], dtype=kind))
    assert (error.location, f"of type {shown}" in str(error)) == ("x", True)


def test_weights_that_are_no_numbers_are_refused_by_the_node():
    weight = random(4, 3)
    weight[1, 1] = np.nan
    error = refused(model([node("MatMul", "x w", "y", name="fc")], ["n", 4], w=weight), spikec.InvalidModelError)
    assert (error.location, "NaN" in str(error)) == ("fc", True)


def test_random_numbers_are_no_constants():
    nodes = [node("RandomNormal", "", "r", name="noise", shape=[4]), node("Add", "x r", "y")]
    assert "another number at every run" in str(refused(model(nodes, ["n", 4])))


def test_a_constant_that_cannot_be_computed_says_why():
    nodes = [node("Reshape", "w to", "v", name="bad"), node("Add", "x v", "y")]
    error = refused(model(nodes, ["n", 4], w=random(4), to=np.array([3])))
    assert (error.location, "cannot be computed beforehand" in str(error)) == ("bad", True)


def test_an_operand_that_does_not_fit_says_what_the_inputs_were():
    error = refused(model([node("MatMul", "x w", "y", name="fc")], ["n", 4], w=random(5, 3)), spikec.TypeMismatchError)
    assert (error.location, "[B, 4]" in error.hint) == ("fc", True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.opset_import[0].__setattr__("version", 6), "is of opset 6; 7 and up are read"),
        (lambda m: m.graph.ClearField("output"), "has no output"),
        (lambda m: m.graph.ClearField("input"), "has no input"),
        (lambda m: m.graph.node[0].input.__setitem__(0, "nobody"), "nothing in the ONNX model gives 'nobody'"),
        (lambda m: m.graph.node[0].input.__setitem__(0, "w"), "output y does not depend on the model's input"),
        (lambda m: m.graph.input[0].type.tensor_type.shape.ClearField("dim"), "without a batch axis"),
        (lambda m: m.graph.output[0].__setattr__("name", "x"), "its output is its input"),
    ],
)
def test_a_broken_model_says_what_is_wrong(change, message):
    proto = model([node("Relu", "x", "y")], ["n", 4], w=random(2, 4))
    change(proto)
    assert message in str(refused(proto, spikec.InvalidModelError))


def test_inputs_with_other_batches_are_refused():
    proto = model([node("Add", "a b", "y")], {"a": [2, 4], "b": [3, 4]})
    assert "first axes of the inputs differ: [2, 3]" in str(refused(proto, spikec.InvalidModelError))


def test_examples_must_be_as_many_as_inputs():
    proto = model([node("Add", "a b", "y")], {"a": ["n", 4], "b": ["n", 4]})
    assert "2 input(s) (a, b), 1 example(s)" in str(refused(proto, spikec.InvalidModelError, torch.rand(1, 4)))


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"\x07 this is no protobuf")
    assert "net.onnx cannot be read as ONNX" in str(refused(tmp_path / "net.onnx", spikec.InvalidModelError))
    assert "there is no file" in str(refused(str(tmp_path / "other.onnx"), spikec.InvalidModelError))


def test_sparse_initializers_are_refused():
    proto = model([node("Relu", "x", "y")], ["n", 4])
    values = numpy_helper.from_array(np.array([1.0], "float32"), "w")
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([2]), "i"), [4])
    )
    assert "sparse" in str(refused(proto))


def test_without_onnx_a_path_says_how_to_install_it(tmp_path, monkeypatch):
    onnx.save(model([node("Relu", "x", "y")], ["n", 4]), tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    error = refused(tmp_path / "net.onnx", spikec.MissingDependencyError)
    assert error.hint == 'pip install "spikec[onnx]"'
    spikec.load(torch.nn.Linear(2, 2))
    with pytest.raises(spikec.InvalidModelError, match=r"a path ending in \.onnx"):
        spikec.load(42)


# ------------------------------------------------------------ converters of users


@pytest.mark.slow
def test_a_converter_for_another_domain(monkeypatch):
    proto = model([node("Rectify", "x", "y", domain="com.acme")], ["n", 4], domains=["com.acme"])
    monkeypatch.setitem(converter._table, ("com.acme", "Rectify"), lambda call, x: call.add(Relu(), x))
    assert len(spikec.load(proto).match(Relu)) == 1
    assert frontend.input_names(proto) == ["x"]
    with pytest.warns(spikec.SpikecWarning, match="not compared with the model.*'Rectify' from domain 'com.acme'"):
        compilation = spikec.Compiler("spikingjelly", calibration=torch.rand(8, 4)).run(proto)
    assert {entry.source.kind: entry.fate for entry in compilation.ledger} == {"com.acme.Rectify": "converted"}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda call, x: 1 / 0, "raises ZeroDivisionError"),
        (lambda call, x: "y", "returns 'y'"),
        (lambda call, x: None, "returns None"),
        (lambda call, x: Constant((np.zeros(4),)), "does not depend on the model's input"),
        (lambda call, x: torch.zeros(4), "does not depend on the model's input"),
        (lambda call, x: torch.special.i0(x), "torch's special_i0 has no converter"),
        (lambda call, x: x.cholesky(), "torch's cholesky has no converter"),
        (lambda call, x: torch.zeros(int(x)), "must be a constant"),
        (lambda call, x: x if x else -x, "must be a constant"),
        (lambda call, x: call.add(Relu(), torch.zeros(4)), "does not depend on the model's input"),
        (lambda call, x, y: x, "missing a required argument: 'y'"),
    ],
)
def test_what_a_converter_does_wrong_is_said_of_it(rule, message, monkeypatch):
    monkeypatch.setitem(converter._table, "Cos", rule)
    assert message in str(refused(model([node("Cos", "x", "y", name="cos")], [1, 4]), spikec.CompileError))
