"""ONNX models as exporters write them: opsets, batches, precision, constants, files; held to onnxruntime."""

import sys
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import nets
import spikec
from onnx_models import agrees, model, node, random, reference
from spikec.frontends.onnx.frontend import frontend
from spikec.ir.errors import UnsupportedOpError
from spikec.ir.ops import BatchNorm, Clamp, Conv, Flatten, Head, Linear, Permute, Relu, Slice, Upsample
from spikec.ir.stages import IMPORTED
from spikec.ir.verify import verify


def kinds(graph):
    return [graph[name].kind for name in graph]


def exported(module, x, path, dynamo, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), path, dynamo=dynamo, verbose=False, **options)
    return path


# ------------------------------------------------------------ what torch writes


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("fixed", [True, False])
def test_what_torch_exports_is_the_torch_model(dynamo, fixed, tmp_path):
    net, x = nets.build("resnet"), nets.batch("resnet")
    if fixed:
        options = {}
    elif dynamo:
        options = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    else:
        options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    path = exported(net, x[:1] if fixed else x[:2], tmp_path / "net.onnx", dynamo, **options)
    graph = spikec.load(path)
    verify(graph, IMPORTED, graph.sources)
    with torch.no_grad():
        wanted = net(x)
    assert (spikec.run(graph, x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_view_by_the_batch_size_is_read_for_any_batch(tmp_path):
    net, x = nets.build("concat"), nets.batch("concat")
    options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    graph = spikec.load(exported(net, x[:2], tmp_path / "net.onnx", False, **options))
    with torch.no_grad():
        wanted = net(x)
    assert len(x) != 2
    assert (spikec.run(graph, x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("as_text", [True, False])
def test_a_path_compiles_for_every_target(as_text, tmp_path):
    net, x = nets.build("mlp_batchnorm"), nets.batch("mlp_batchnorm")
    path = exported(net, x[:1], tmp_path / "net.onnx", False)
    for target in ("spikingjelly", "nir", "netx"):
        compilation = spikec.Compiler(target, calibration=x, timesteps=16, verify="each").run(
            str(path) if as_text else path
        )
        assert len(compilation.ledger) >= 3
        assert spikec.check(path, target, calibration=x) == []


# --------------------------------------------------------------------- batches


def flat(shape, target):
    nodes = [node("Reshape", "x to", "f"), node("MatMul", "f w", "m"), node("Relu", "m", "y")]
    return model(nodes, shape, to=np.array(target), w=random(12, 4))


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        (["n", 3, 4], [-1, 12]),
        (["n", 3, 4], [0, -1]),
        ([None, 3, 4], [0, 12]),
        ([1, 3, 4], [1, 12]),
        ([1, 3, 4], [-1, 12]),
        ([4, 3, 4], [4, -1]),
        ([4, 3, 4], [4, 12]),
    ],
)
def test_the_first_axis_is_the_batch_also_where_its_size_is_fixed(shape, target):
    graph = agrees(flat(shape, target), 3, 4, batch=shape[0] if isinstance(shape[0], int) else 5)
    assert graph.type("x").shape == (3, 4)
    assert spikec.run(graph, torch.rand(9, 3, 4)).shape == (9, 4)


def test_shapes_are_computed_with_the_batch_symbolic():
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Unsqueeze", "n zero_", "n1"),
        node("Cast", "n1", "n2", to=TensorProto.INT64),
        node("Mul", "n2 two", "n3"),
        node("Concat", "n2 minus", "to", axis=0),
        node("Div", "n3 two", "n4"),
        node("Concat", "n4 six two", "to2", axis=0),
        node("Reshape", "x to", "f"),
        node("Relu", "f", "r"),
        node("Reshape", "r to2", "y"),
    ]
    ints = {"zero": np.int64(0), "zero_": np.array([0]), "two": np.array([2]), "six": np.array([6])}
    graph = agrees(model(nodes, ["n", 3, 4], minus=np.array([-1]), **ints), 3, 4)
    assert kinds(graph) == ["input", "flatten", "relu", "reshape", "output"]
    assert sum(reason == "a constant" for reason in graph.imported.dropped.values()) == 7


def test_a_constant_made_for_the_whole_batch_broadcasts():
    nodes = [
        node("Shape", "x", "s"),
        node("ConstantOfShape", "s", "ones", value=numpy_helper.from_array(np.array([2.5], "float32"))),
        node("Add", "x ones", "a"),
        node("Expand", "row s", "rows"),
        node("Mul", "a rows", "y"),
    ]
    agrees(model(nodes, ["n", 3, 4], row=random(4)), 3, 4)


def test_open_axes_need_an_example():
    proto = model([node("GlobalAveragePool", "x", "p"), node("Relu", "p", "y")], ["n", 3, "h", "w"])
    with pytest.raises(spikec.InvalidModelError, match=r"shape of input x is not known: it is \[B, 3, \?, \?\]"):
        spikec.load(proto)
    agrees(proto, 3, 6, 5, example=torch.rand(1, 3, 6, 5))
    with pytest.raises(spikec.InvalidModelError, match=r"input x is \[B, 3, \?, \?\], the example is \[1, 2, 6, 5\]"):
        spikec.load(proto, torch.rand(1, 2, 6, 5))


# ------------------------------------------------------------- opsets, precision


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 21])
def test_one_network_in_the_words_of_each_opset(opset):
    attributes, ints = {}, {}
    inputs = {"pad": "r", "squeeze": "p", "clip": "c", "slice": "sl", "mean": "m"}
    if opset < 11:
        attributes |= {"pad": {"pads": [0, 0, 1, 0, 0, 0, 0, 1]}, "clip": {"min": 0.0, "max": 1.5}}
    else:
        inputs |= {"pad": "r pads", "clip": "c low high"}
        ints |= {"pads": np.array([0, 0, 1, 0, 0, 0, 0, 1]), "low": np.float32(0), "high": np.float32(1.5)}
    if opset < 10:
        attributes["slice"] = {"starts": [1], "ends": [1000], "axes": [1]}
    else:
        inputs["slice"] = "sl starts ends axes1"
        ints |= {"starts": np.array([1]), "ends": np.array([2**62]), "axes1": np.array([1])}
    if opset < 18:
        attributes["mean"] = {"axes": [2, 3], "keepdims": 1}
    else:
        inputs["mean"] = "m axes23"
        ints["axes23"] = np.array([-1, -2])
    if opset < 13:
        attributes["squeeze"] = {"axes": [2, 3]}
    else:
        inputs["squeeze"] = "p squeezed"
        ints["squeezed"] = np.array([2, 3])
    nodes = [
        node("Conv", "x w b", "c"),
        node("Clip", inputs["clip"], "r", **attributes.get("clip", {})),
        node("Pad", inputs["pad"], "sl", **attributes.get("pad", {})),
        node("Slice", inputs["slice"], "m", **attributes.get("slice", {})),
        node("ReduceMean", inputs["mean"], "p", **attributes.get("mean", {})),
        node("Squeeze", inputs["squeeze"], "f", **attributes.get("squeeze", {})),
        node("Dropout", "f", "d"),
        node("Gemm", "d wg bg", "g", transB=1, alpha=0.5, beta=2.0),
        node("Softmax", "g", "y", axis=1),
    ]
    weights = {"w": random(4, 2, 3, 3), "b": random(4, seed=1), "wg": random(5, 3, seed=2), "bg": random(5, seed=3)}
    graph = agrees(model(nodes, ["n", 2, 6, 6], opset, **weights, **ints), 2, 6, 6)
    for kind in (Conv, Clamp, Slice, Linear, Head):
        assert len(graph.match(kind)) == 1


def test_softmax_below_opset_13_takes_all_axes_from_its_own_on():
    graph = agrees(model([node("Softmax", "x", "y")], ["n", 3, 4], 11), 3, 4)
    assert kinds(graph) == ["input", "flatten", "head", "reshape", "output"]
    assert kinds(agrees(model([node("Softmax", "x", "y")], ["n", 3, 4], 13), 3, 4)) == ["input", "head", "output"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "dtype"), [("FLOAT16", "float32"), ("DOUBLE", "float64"), ("BFLOAT16", "float32")])
def test_half_becomes_float32_and_double_stays(kind, dtype):
    number = getattr(TensorProto, kind)
    weight = helper.make_tensor("w", number, [4, 3], random(4, 3).ravel())
    proto = model([node("MatMul", "x w", "m"), node("Relu", "m", "y")], ["n", 4], dtype=number)
    proto.graph.initializer.append(weight)
    graph = spikec.load(proto)
    assert graph.type("x").dtype == dtype
    assert graph.match(Linear)[0].op.weight.dtype == dtype
    assert (frontend.reference(proto) is None) == (dtype == "float32")
    spikec.compile(proto, "spikingjelly", calibration=torch.rand(8, 4))


def test_external_data_is_found_beside_the_file(tmp_path):
    proto = flat(["n", 3, 4], [-1, 12])
    wanted = reference(proto, x=random(2, 3, 4))[0]
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, size_threshold=0, location="weights.bin")
    found = spikec.run(spikec.load(tmp_path / "net.onnx"), torch.tensor(random(2, 3, 4)))
    assert np.abs(found.numpy() - wanted).max() < 1e-6
    bare = onnx.load(tmp_path / "net.onnx", load_external_data=False)
    with pytest.raises(spikec.InvalidModelError, match=r"constant \w+ cannot be read") as caught:
        spikec.load(bare)
    assert "path" in caught.value.hint
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(spikec.InvalidModelError, match=r"net.onnx cannot be read as ONNX"):
        spikec.load(tmp_path / "net.onnx")


# -------------------------------------------------------------------- constants


def test_weights_that_are_computed_are_computed_beforehand():
    nodes = [
        node("Transpose", "v", "vt", perm=[1, 0]),
        node("Constant", "", "g", value=numpy_helper.from_array(random(3))),
        node("Mul", "vt g", "w"),
        node("Identity", "b", "b1"),
        node("MatMul", "x w", "m"),
        node("Add", "m b1", "y"),
    ]
    graph = agrees(model(nodes, ["n", 4], v=random(3, 4), b=random(3, seed=2)), 4)
    assert kinds(graph) == ["input", "linear", "batchnorm", "output"]
    assert {source.kind for source in graph.imported.dropped} == {"Transpose", "Constant", "Mul", "Identity"}


def test_initializers_may_stand_among_the_inputs():
    proto = model([node("MatMul", "x w", "y")], {"x": ["n", 4], "w": [4, 3]}, w=random(4, 3))
    assert frontend.input_names(proto) == ["x"]
    assert spikec.load(proto).inputs == ("x",)


@pytest.mark.parametrize("condition", [True, False])
def test_an_if_on_a_constant_is_one_of_its_branches(condition):
    def branch(op):
        return helper.make_graph(
            [node(op, "x", f"y_{op}", name=op)],
            op,
            [],
            [helper.make_tensor_value_info(f"y_{op}", TensorProto.FLOAT, None)],
        )

    nodes = [
        node("Shape", "x", "s"),
        node("Size", "s", "rank"),
        node("Equal", "rank two", "c"),
        node("If", "c", "y", then_branch=branch("Relu"), else_branch=branch("Neg")),
    ]
    graph = agrees(model(nodes, ["n", 4], two=np.int64(2 if condition else 3)), 4)
    assert kinds(graph)[1] == ("relu" if condition else "batchnorm")


def test_functions_of_the_model_are_written_out():
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [node("Add", "a a", "s"), node("Relu", "s", "b")], [helper.make_opsetid("", 17)]
    )
    nodes = [node("Twice", "x", "t", domain="mine"), node("Neg", "t", "y")]
    agrees(model(nodes, ["n", 4], domains=["mine"], functions=[function]), 4)


def test_what_no_output_needs_is_dropped_and_said():
    nodes = [node("Relu", "x", "y", name="kept"), node("Erf", "x", "z", name="dead")]
    graph = spikec.load(model(nodes, ["n", 4]))
    assert [source.label for source in graph.imported.dropped] == ["dead"]


@pytest.mark.slow
def test_several_inputs_and_outputs_keep_their_order():
    nodes = [node("Add", "a b", "s"), node("Relu", "s", "y1"), node("Neg", "b", "y2")]
    proto = model(nodes, {"a": ["n", 4], "b": ["n", 4]}, output="y2 y1")
    graph = spikec.load(proto)
    assert (graph.inputs, graph.outputs, graph.imported.structure) == (("a", "b"), ("y2", "y1"), (0, 1))
    a, b = random(3, 4), random(3, 4, seed=1)
    for found, wanted in zip(
        spikec.run(graph, [torch.tensor(a), torch.tensor(b)]), reference(proto, a=a, b=b), strict=True
    ):
        assert np.abs(found.numpy() - wanted).max() < 1e-6
    batches = [{"b": torch.rand(8, 4), "a": torch.rand(8, 4)}]
    spikec.compile(proto, "spikingjelly", calibration=batches)


# -------------------------------------------------------------------- operators


@pytest.mark.parametrize("pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("op", ["Conv", "MaxPool", "AveragePool", "ConvTranspose"])
def test_automatic_padding(op, pad):
    weights = {"Conv": {"w": random(4, 2, 3, 2)}, "ConvTranspose": {"w": random(2, 4, 3, 2)}}.get(op, {})
    given = {} if weights else {"kernel_shape": [3, 2]}
    nodes = [node(op, "x w" if weights else "x", "y", auto_pad=pad, strides=[2, 2], **given)]
    agrees(model(nodes, ["n", 2, 6, 7], **weights), 2, 6, 7)


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("options", [{"pads": [1, 0, 0, 1]}, {"pads": [1, 1, 1, 1]}, {"dilations": [2, 1]}])
@pytest.mark.parametrize("ceil", [0, 1])
def test_average_pools_of_every_padding(include, options, ceil):
    options = {"kernel_shape": [3, 2], "strides": [2, 2], "count_include_pad": include, "ceil_mode": ceil, **options}
    agrees(model([node("AveragePool", "x", "y", **options)], ["n", 2, 6, 7], 19), 2, 6, 7)


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (op, s)
        for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")
        for s in ((), (5,), (3, 1, 1), (1, 4, 1), (3, 4, 5), (1, 3, 4, 5))
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_arithmetic_with_constants_of_every_shape(op, shape, first):
    constant = np.asarray(random(*shape)) + np.float32(2)
    if op == "Div" and first:
        return
    graph = agrees(model([node(op, "c x" if first else "x c", "y")], ["n", 3, 4, 5], c=constant), 3, 4, 5)
    if np.size(constant) in (1, 3):
        assert len(graph) == (3 if op not in ("Max", "Min") or np.size(constant) == 1 else 5)


def test_signals_broadcast():
    nodes = [node("GlobalAveragePool", "x", "p"), node("Add", "p x", "y")]
    assert len(agrees(model(nodes, ["n", 3, 4, 5]), 3, 4, 5).match(Upsample)) == 1
    nodes = [node("ReduceMean", "x", "p", axes=[1]), node("Sub", "x p", "y")]
    agrees(model(nodes, ["n", 3, 4, 5]), 3, 4, 5)


@pytest.mark.parametrize("axes", [[1], [2], [3], [1, 2], [2, 3], [1, 3], [1, 2, 3]])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"])
def test_reductions_over_any_axes(op, axes, keepdims):
    agrees(model([node(op, "x", "y", axes=axes, keepdims=keepdims)], ["n", 3, 4, 5], 11), 3, 4, 5)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("options", [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}])
def test_running_sums(options, axis):
    agrees(model([node("CumSum", "x axis", "y", **options)], ["N", 3, 4], axis=np.int64(axis)), 3, 4)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("axes", [[2, 3], [1, 2], [1], [1, 3]])
def test_padding_of_any_axes(mode, axes):
    pads = np.array([*[1] * len(axes), *[2] * len(axes)])
    nodes = [node("Pad", "x pads v axes", "y", mode=mode)]
    agrees(model(nodes, ["n", 3, 4, 5], 19, pads=pads, v=np.float32(1.5), axes=np.array(axes)), 3, 4, 5)


@pytest.mark.parametrize("axes", [[2, 3], [1, 2]])
@pytest.mark.parametrize("how", ["nearest", "linear", "cubic"])
def test_resizes_of_any_axes(axes, how):
    scales = np.array([1, *[2.0 if axis in axes else 1.0 for axis in (1, 2, 3)]], "float32")
    graph = agrees(model([node("Resize", "x - scales", "y", mode=how)], ["n", 3, 4, 5], scales=scales), 3, 4, 5)
    assert len(graph.match(Upsample)) == (how == "nearest")


@pytest.mark.parametrize("index", [[0, 2], [2, 0], [1, 1, 0], [-1], 1, [[0, 1], [2, 0]]])
@pytest.mark.parametrize("axis", [1, 2, -1])
def test_gather_by_constant_indices(index, axis):
    agrees(model([node("Gather", "x i", "y", axis=axis)], ["n", 3, 4, 5], i=np.array(index)), 3, 4, 5)


def from_a_row(cells, stride, *behind, output="y"):
    """Cells of the row of all numbers of a batch, moved by ``stride`` from sample to sample, as torch writes them."""
    ones = np.ones(np.ndim(cells), np.int64)
    nodes = [
        node("Reshape", "x all", "row", name="row"),
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "n"),
        node("Range", "zero n one", "samples"),
        node("Mul", "samples stride", "starts"),
        node("Reshape", "starts sides", "column"),
        node("Add", "column cells", "index"),
        node("Gather", "row index", "z" if behind else "y", name="strided"),
        *behind,
    ]
    sides = np.array([-1, *ones])
    numbers = {"all": np.array([-1]), "zero": np.int64(0), "one": np.int64(1), "stride": np.int64(stride)}
    return model(nodes, ["n", 3, 2], output=output, sides=sides, cells=np.array([cells]), **numbers)


@pytest.mark.parametrize("cells", [[0, 1, 2, 3, 4, 5], [5, 0, 3], [[0, 2], [2, 4]]])
def test_what_torch_makes_of_as_strided(cells):
    graph = agrees(from_a_row(cells, 6), 3, 2)
    verify(graph, IMPORTED, graph.sources)
    assert graph.type("y").shape == np.shape(cells)


def test_as_strided_of_a_fixed_batch():
    nodes = [node("Reshape", "x all", "row"), node("Gather", "row index", "y")]
    agrees(model(nodes, [2, 3], all=np.array([-1]), index=np.array([[1, 0], [4, 3]])), 3, batch=2)


@pytest.mark.parametrize("gather", ["w row", "row row"])
def test_a_row_is_no_index(gather):
    nodes = [node("Reshape", "x all", "row", name="row"), node("Gather", gather, "y")]
    with pytest.raises(UnsupportedOpError, match="keep the batch axis first") as caught:
        spikec.load(model(nodes, ["n", 3], all=np.array([-1]), w=random(4)))
    assert caught.value.location == "row"


@pytest.mark.parametrize(("cells", "stride"), [([0, 1], 3), ([0, 6], 6), ([-1, 0], 6), (np.empty(0, np.int64), 6)])
def test_cells_of_other_samples_are_refused_at_the_reshape(cells, stride):
    with pytest.raises(UnsupportedOpError, match="keep the batch axis first") as caught:
        spikec.load(from_a_row(cells, stride))
    assert caught.value.location == "row"


@pytest.mark.parametrize("output", ["z c", "row", "z row"])
def test_a_row_of_all_samples_is_refused_once_whatever_takes_it(output):
    users = [node("Relu", "row", "a"), node("Neg", "row", "b"), node("Add", "a b", "c")]
    with pytest.raises(UnsupportedOpError, match="keep the batch axis first") as caught:
        spikec.load(from_a_row([0], 6, *users, output=output))
    assert [problem.location for problem in caught.value.problems] == ["row"]


@pytest.mark.parametrize("perm", [[0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2]])
def test_transposes(perm):
    assert len(agrees(model([node("Transpose", "x", "y", perm=perm)], ["n", 3, 4, 5]), 3, 4, 5).match(Permute)) == 1


def test_matrices_on_either_side_and_one_for_each_group():
    agrees(model([node("MatMul", "x w", "y")], ["n", 3, 4, 5], w=random(5, 2)), 3, 4, 5)
    agrees(model([node("MatMul", "w x", "y")], ["n", 3, 4, 5], w=random(2, 4)), 3, 4, 5)
    agrees(model([node("MatMul", "x w", "y")], ["n", 3, 4, 5], w=random(3, 5, 2)), 3, 4, 5)
    agrees(model([node("MatMul", "x w", "y")], ["n", 3, 4, 5], w=random(5)), 3, 4, 5)


def test_split_slice_and_concat_back():
    nodes = [
        node("Split", "x sizes", "a b", axis=1),
        node("Slice", "b start stop axis step", "c"),
        node("Concat", "c a", "y", axis=-1),
    ]
    ints = {"start": [-1], "stop": [-100], "axis": [3], "step": [-1], "sizes": [1, 1]}
    agrees(model(nodes, ["n", 2, 4, 5], **{key: np.array(value) for key, value in ints.items()}), 2, 4, 5)


@pytest.mark.parametrize(
    ("op", "options", "kind"),
    [
        ("LeakyRelu", {"alpha": 0.3}, "leakyrelu"),
        ("Abs", {}, "leakyrelu"),
        ("Neg", {}, "batchnorm"),
        ("HardSigmoid", {"alpha": 0.3}, "clamp"),
        ("ThresholdedRelu", {"alpha": 0.0}, "relu"),
        ("Sigmoid", {}, "head"),
        ("Tanh", {}, "head"),
        ("LogSoftmax", {"axis": 1}, "head"),
    ],
)
def test_activations(op, options, kind):
    assert kinds(agrees(model([node(op, "x", "y", **options)], ["n", 3, 4]), 3, 4))[-2] == kind


def test_prelu_of_a_slope_a_channel():
    agrees(model([node("PRelu", "x s", "y")], ["n", 3, 4, 5], s=random(3, 1, 1)), 3, 4, 5)


def test_batch_norm_is_an_op_of_its_own():
    nodes = [node("BatchNormalization", "x w b m v", "y", epsilon=1e-3)]
    values = {"w": random(3), "b": random(3, seed=1), "m": random(3, seed=2), "v": random(3, seed=3) ** 2}
    assert agrees(model(nodes, ["n", 3, 4, 5], **values), 3, 4, 5).match(BatchNorm)[0].op.eps == pytest.approx(1e-3)


@pytest.mark.slow
def test_channels_last_networks_become_channels_first_ones():
    nodes = [
        node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w", "c", auto_pad="SAME_UPPER", strides=[2, 2]),
        node("Transpose", "c", "cl", perm=[0, 2, 3, 1]),
        node("Add", "cl b", "a"),
        node("Relu", "a", "r"),
        node("ReduceMean", "r", "p", axes=[1, 2], keepdims=0),
        node("MatMul", "p v", "y"),
    ]
    proto = model(nodes, ["n", 8, 6, 3], w=random(4, 3, 3, 3), b=random(4), v=random(4, 5))
    agrees(proto, 8, 6, 3)
    compilation = spikec.Compiler("spikingjelly", calibration=torch.rand(16, 8, 6, 3), verify="each").run(proto)
    assert kinds(compilation.graph) == ["input", "permute", "conv", "if", "sumpool", "flatten", "linear", "output"]
    assert len(compilation.graph.match(Flatten)) == 1
    assert not compilation.graph.match(Relu)


# -------------------------------------------------------------------- reference


def test_the_import_is_held_to_onnxruntime_or_to_onnxs_own_evaluator(monkeypatch):
    proto = flat([4, 3, 4], [4, 12])
    xs = [torch.rand(6, 3, 4, dtype=torch.float64)]
    in_runtime = frontend.reference(proto)(xs)[0]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    own = frontend.reference(proto)(xs)[0]
    assert in_runtime.shape == own.shape == (6, 4)
    assert (in_runtime - own).abs().max() < 1e-6
    assert (own - spikec.run(spikec.load(proto), xs[0].float())).abs().max() < 1e-6


def test_a_converter_that_reads_wrongly_is_caught(monkeypatch):
    from spikec.frontends.onnx import converter

    monkeypatch.setitem(converter._table, "Relu", lambda call, x: call.add(Clamp(-1.0, 1.0), x))
    with pytest.raises(spikec.VerificationError, match="imported graph differs from the model"):
        spikec.compile(flat(["n", 3, 4], [-1, 12]), "spikingjelly", calibration=torch.randn(16, 3, 4))
