"""ONNX files that a stranger might send, each to be refused at once by a spikec error.

By name: a function that builds the file in a folder and gives its path, and words that the refusal says.
"""

import os

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnx_models import model, node, random

HUGE = 10**12
FILES = {}


def hostile(*words):
    def register(build):
        FILES[build.__name__] = (build, words)
        return build

    return register


def saved(proto, folder, name="model.onnx"):
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def added(folder, nodes, opset=17, **constants):
    """A model that adds ``k``, which these nodes compute, to its input."""
    return saved(model([*nodes, node("Add", "x k", "y", name="sum")], ["n", 4], opset, **constants), folder)


# ----------------------------------------------------------- results that are huge


def _register_bombs():
    sizes = np.array([HUGE, HUGE])
    one = np.ones((1, 1), "f")
    bombs = {
        "constant_of_shape": ([node("ConstantOfShape", "s", "k", name="bomb")], {"s": sizes}),
        "expand": ([node("Expand", "c s", "k", name="bomb")], {"c": one, "s": sizes}),
        "tile": ([node("Tile", "c s", "k", name="bomb")], {"c": one, "s": sizes}),
        "range": (
            [node("Range", "a b c", "k", name="bomb")],
            {"a": np.int64(0), "b": np.int64(HUGE), "c": np.int64(1)},
        ),
        "range_of_floats": (
            [node("Range", "a b c", "k", name="bomb")],
            {"a": np.float32(0), "b": np.float32(1), "c": np.float32(1e-12)},
        ),
        "pad": ([node("Pad", "c s", "k", name="bomb")], {"c": one, "s": np.array([0, 0, HUGE, 0])}),
        "resize": ([node("Resize", "c - f", "k", name="bomb")], {"c": one, "f": np.array([1e6, 1e6], "f")}),
        "resize_to": ([node("Resize", "c - - s", "k", name="bomb")], {"c": one, "s": np.array([HUGE, 1])}),
        "one_hot": (
            [node("OneHot", "c s v", "k", name="bomb")],
            {"c": np.array([0]), "s": np.int64(HUGE), "v": np.array([0, 1], "f")},
        ),
        "outer_product": (
            [node("MatMul", "a b", "k", name="bomb")],
            {"a": np.ones((200_000, 1), "f"), "b": np.ones((1, 200_000), "f")},
        ),
        "einsum": (
            [node("Einsum", "a a", "k", name="bomb", equation="i,j->ij")],
            {"a": np.ones(200_000, "f")},
        ),
        "broadcast": (
            [node("Add", "a b", "k", name="bomb")],
            {"a": np.ones((200_000, 1), "f"), "b": np.ones((1, 200_000), "f")},
        ),
        "gather": (
            [node("Gather", "a i", "k", name="bomb")],
            {"a": np.ones((1, 200_000), "f"), "i": np.zeros(200_000, "i8")},
        ),
        "hann_window": ([node("HannWindow", "s", "k", name="bomb")], {"s": np.int64(HUGE)}),
        "conv_transpose": (
            [node("ConvTranspose", "a b", "k", name="bomb", strides=[HUGE])],
            {"a": np.ones((1, 1, 3), "f"), "b": np.ones((1, 1, 3), "f")},
        ),
        "random_normal_like": ([node("RandomNormal", "", "k", name="bomb", shape=[HUGE])], {}),
        "loop_without_end": ([_loop(None)], {"t": np.array(True), "c": one}),
        "loop_that_is_long": ([_loop(HUGE)], {"m": np.int64(HUGE), "t": np.array(True), "c": one}),
        "loop_that_grows": ([_loop(60, grows=True)], {"m": np.int64(60), "t": np.array(True), "c": one}),
        "loop_with_a_bomb": ([_loop(2, bomb=True)], {"m": np.int64(2), "t": np.array(True), "c": one}),
        "sum_of_parts": (
            [
                *(node("ConstantOfShape", "s", f"k{i}", name=f"bomb{i}") for i in range(64)),
                node("Sum", " ".join(f"k{i}" for i in range(64)), "k", name="sum_of_all"),
            ],
            {"s": np.array([4_000_000, 4])},
        ),
        "doubling": (
            [
                *(node("Concat", f"k{i} k{i}", f"k{i + 1}", name="bomb", axis=0) for i in range(40)),
                node("Identity", "k40", "k"),
            ],
            {"k0": one},
        ),
        "sequence": (
            [
                node("SequenceConstruct", " ".join(["a"] * 2000), "q", name="bomb"),
                node("ConcatFromSequence", "q", "k", name="bomb", axis=0),
            ],
            {"a": np.ones((500, 500), "f")},
        ),
    }
    for name, (nodes, constants) in bombs.items():
        FILES[f"a {name}"] = (
            lambda folder, nodes=nodes, constants=constants: added(folder, nodes, 17, **constants),
            ("bomb",) if name != "sum_of_parts" else (),
        )


def _loop(times, *, grows=False, bomb=False):
    one = helper.make_tensor_value_info("v", TensorProto.FLOAT, None)
    inner = [node("Identity", "g", "h"), node("Identity", "v", "w")]
    if grows:
        inner[1] = node("Concat", "v v", "w", axis=0)
    if bomb:
        inner[1:] = [
            node("Constant", "", "z", value=numpy_helper.from_array(np.array([HUGE, HUGE]))),
            node("ConstantOfShape", "z", "w"),
        ]
    body = helper.make_graph(
        inner,
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("g", TensorProto.BOOL, []),
            one,
        ],
        [
            helper.make_tensor_value_info("h", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
        ],
    )
    return node("Loop", f"{'-' if times is None else 'm'} t c", "k", name="bomb", body=body)


_register_bombs()


def _register_signals():
    """Nodes on the signal whose results are huge."""
    bombs = {
        "expanded": (node("Expand", "x s", "y", name="bomb"), {"s": np.array([1, HUGE, 1, 4])}),
        "repeated": (node("Tile", "x s", "y", name="bomb"), {"s": np.array([1, HUGE])}),
        "resized": (node("Resize", "x - f", "y", name="bomb"), {"f": np.array([1, 1e12], "f")}),
        "resized linearly": (node("Resize", "x - f", "y", name="bomb", mode="linear"), {"f": np.array([1, 1e9], "f")}),
        "broadcast": (node("Add", "x c", "y", name="bomb"), {"c": np.ones((40_000, 1, 1), "f")}),
    }
    for name, (bomb, constants) in bombs.items():
        FILES[f"a signal {name}"] = (
            lambda folder, bomb=bomb, constants=constants: saved(model([bomb], ["n", 4], 17, **constants), folder),
            ("bomb",),
        )


_register_signals()


@hostile("bomb", "max_bytes")
def a_signal_gathered(folder):
    """A matrix of 3 GB."""
    bomb = node("Gather", "x i", "y", name="bomb", axis=1)
    return saved(model([bomb], ["n", 20_000], i=np.arange(20_000) * 7 % 20_000), folder)


@hostile("bomb", "max_bytes")
def a_signal_summed_up(folder):
    return saved(model([node("CumSum", "x a", "y", name="bomb")], ["n", 20_000], a=np.int64(1)), folder)


# -------------------------------------------------------- files that lie


@hostile("ONNX")
def nothing_in_it(folder):
    return _bytes(folder, b"")


@hostile("ONNX")
def text(folder):
    return _bytes(folder, b"hello, this is no model" * 100)


def _bytes(folder, data):
    path = folder / "model.onnx"
    path.write_bytes(data)
    return path


@hostile("ordinary file")
def a_pipe(folder):
    os.mkfifo(folder / "model.onnx")
    return folder / "model.onnx"


@hostile("ordinary file")
def a_folder(folder):
    (folder / "model.onnx").mkdir()
    return folder / "model.onnx"


@hostile("ordinary file")
def a_device(folder):
    (folder / "model.onnx").symlink_to("/dev/zero")
    return folder / "model.onnx"


@hostile("model.onnx")
def a_file_of_holes(folder):
    path = _bytes(folder, b"")
    os.truncate(path, 2**40)
    return path


@hostile("input x takes")
def a_huge_input(folder):
    return saved(model([node("Relu", "x", "y", name="r")], ["n", HUGE, HUGE]), folder)


def _external(folder, location, *, offset=None, length=None, shape=(4, 3), data=None):
    proto = model([node("MatMul", "x w", "y", name="fc")], ["n", 4], w=np.zeros((1, 1), "f"))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.dims[:] = shape
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": length}
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    if data is not None:
        (folder / "w.bin").write_bytes(data)
    return saved(proto, folder)


@hostile("w", "outside")
def data_above_the_folder(folder):
    (folder.parent / "secret.bin").write_bytes(b"0" * 48)
    return _external(folder, "../secret.bin")


@hostile("w", "outside")
def data_at_an_absolute_path(folder):
    (folder.parent / "secret.bin").write_bytes(b"0" * 48)
    return _external(folder, str(folder.parent / "secret.bin"))


@hostile("w", "outside")
def data_behind_a_link(folder):
    (folder.parent / "secret.bin").write_bytes(b"0" * 48)
    (folder / "w.bin").symlink_to(folder.parent / "secret.bin")
    return _external(folder, "w.bin")


@hostile("w", "no file")
def data_in_a_pipe(folder):
    os.mkfifo(folder / "w.bin")
    return _external(folder, "w.bin")


@hostile("w", "no file")
def data_that_is_not_there(folder):
    return _external(folder, "w.bin")


@hostile("w")
def data_without_a_place(folder):
    return _external(folder, "")


@hostile("w", "bytes")
def data_that_is_shorter_than_it_says(folder):
    return _external(folder, "w.bin", length=HUGE, data=b"0" * 48)


@hostile("w", "bytes")
def data_before_its_file(folder):
    return _external(folder, "w.bin", offset=-8, length=48, data=b"0" * 48)


@hostile("w")
def data_of_another_shape(folder):
    return _external(folder, "w.bin", shape=(HUGE, HUGE), data=b"0" * 48)


@hostile("w")
def data_at_no_number(folder):
    return _external(folder, "w.bin", offset="zero", data=b"0" * 48)


@hostile("w")
def data_in_a_file_of_holes(folder):
    path = _external(folder, "w.bin", shape=(2**20, 2**18), data=b"")
    os.truncate(folder / "w.bin", 2**40)
    return path


@hostile("max_bytes")
def one_file_many_times(folder):
    proto = model(
        [*(node("Identity", f"w{i}", f"v{i}") for i in range(40)), node("MatMul", "x w0", "y", name="fc")],
        ["n", 4],
    )
    for i in range(40):
        tensor = proto.graph.initializer.add(name=f"external{i}", data_type=1, dims=[2**20, 16])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
    (folder / "w.bin").write_bytes(b"\0" * 2**26)
    return saved(proto, folder)


def _tensor(folder, **fields):
    proto = model([node("MatMul", "x w", "y", name="fc")], ["n", 4], w=np.ones((4, 3), "f"))
    tensor = proto.graph.initializer[0]
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(tensor, name)[:] = value
        else:
            setattr(tensor, name, value)
    return saved(proto, folder)


@hostile("w")
def a_weight_larger_than_its_bytes(folder):
    return _tensor(folder, dims=[HUGE, HUGE])


@hostile("w", "[-1, 3]")
def a_weight_of_negative_size(folder):
    return _tensor(folder, dims=[-1, 3])


@hostile("w")
def a_weight_of_no_type(folder):
    return _tensor(folder, data_type=99)


@hostile("w")
def a_weight_of_half_bytes(folder):
    return _tensor(folder, raw_data=b"123")


@hostile("w", "NaN")
def a_weight_of_nan(folder):
    return _tensor(folder, raw_data=np.full((4, 3), np.nan, "f").tobytes())


@hostile("w", "NaN")
def a_weight_of_infinity(folder):
    return _tensor(folder, raw_data=np.full((4, 3), np.inf, "f").tobytes())


# --------------------------------------------------------- graphs without an end


@hostile("loop")
def a_node_that_takes_its_own_result(folder):
    return saved(model([node("Add", "x loop", "loop"), node("Relu", "loop", "y")], ["n", 4]), folder)


@hostile("b")
def a_cycle(folder):
    nodes = [node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b", "y")]
    return saved(model(nodes, ["n", 4]), folder)


@hostile("y")
def a_name_given_twice(folder):
    return saved(model([node("Relu", "x", "y"), node("Neg", "x", "y")], ["n", 4]), folder)


@hostile("w")
def a_constant_given_twice(folder):
    proto = model([node("Add", "x w", "y")], ["n", 4], w=random(4))
    proto.graph.initializer.append(numpy_helper.from_array(random(4, seed=1), "w"))
    return saved(proto, folder)


def _functions(bodies):
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    return [helper.make_function("f", name, ["a"], ["b"], nodes, opsets) for name, nodes in bodies.items()]


@hostile("calls itself", "twice")
def a_function_that_calls_itself(folder):
    functions = _functions({"twice": [node("twice", "a", "b", domain="f")]})
    return saved(model([node("twice", "x", "y", domain="f")], ["n", 4], domains=["f"], functions=functions), folder)


@hostile("calls itself")
def functions_that_call_each_other(folder):
    functions = _functions({"f": [node("g", "a", "b", domain="f")], "g": [node("f", "a", "b", domain="f")]})
    return saved(model([node("f", "x", "y", domain="f")], ["n", 4], domains=["f"], functions=functions), folder)


@hostile("nodes")
def functions_that_double(folder):
    bodies = {"f0": [node("Relu", "a", "b")]}
    for i in range(1, 40):
        bodies[f"f{i}"] = [node(f"f{i - 1}", "a", "c", domain="f"), node(f"f{i - 1}", "c", "b", domain="f")]
    proto = model([node("f39", "x", "y", domain="f")], ["n", 4], domains=["f"], functions=_functions(bodies))
    return saved(proto, folder)


@hostile("nodes")
def empty_nodes_without_number(folder):
    head = model([node("Relu", "x", "y")], ["n", 4]).SerializeToString()
    graph = b"\x0a\x00" * 2_000_000
    size = len(graph)
    varint = b""
    while size > 127:
        varint, size = varint + bytes([size & 127 | 128]), size >> 7
    return _bytes(folder, head + b"\x3a" + varint + bytes([size]) + graph)


@hostile()
def a_sparse_constant(folder):
    values = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    sparse = helper.make_sparse_tensor(values, helper.make_tensor("i", TensorProto.INT64, [1], [5]), [HUGE])
    return added(folder, [node("Constant", "", "k", name="bomb", sparse_value=sparse)])


# ----------------------------------------------------------- impossible attributes


MAP = ["n", 2, 6, 6]
W = random(2, 2, 3, 3)
IMPOSSIBLE = {
    "a kernel of nothing": node("MaxPool", "x", "y", name="odd", kernel_shape=[0, 0]),
    "a negative kernel": node("AveragePool", "x", "y", name="odd", kernel_shape=[-2, 2]),
    "a huge kernel": node("AveragePool", "x", "y", name="odd", kernel_shape=[HUGE, HUGE]),
    "a huge dilation": node("MaxPool", "x", "y", name="odd", kernel_shape=[2, 2], dilations=[2**62, 2**62]),
    "a stride of nothing": node("MaxPool", "x", "y", name="odd", kernel_shape=[2, 2], strides=[0, 0]),
    "a negative stride": node("Conv", "x w", "y", name="odd", strides=[-1, -1]),
    "a stride beyond 32 bits": node("Conv", "x w", "y", name="odd", strides=[2, 2**62]),
    "padding with an integer": node("Pad", "x p8 one", "y", name="odd"),
    "a dilation of nothing": node("Conv", "x w", "y", name="odd", dilations=[0, 0]),
    "negative pads": node("Conv", "x w", "y", name="odd", pads=[-9, -9, -9, -9]),
    "huge pads": node("Conv", "x w", "y", name="odd", pads=[HUGE] * 4),
    "huge pads of a pool": node("AveragePool", "x", "y", name="odd", kernel_shape=[2, 2], pads=[HUGE] * 4),
    "huge pads of a max-pool": node("MaxPool", "x", "y", name="odd", kernel_shape=[2, 2], pads=[2**61] * 4),
    "pads of another length": node("Conv", "x w", "y", name="odd", pads=[1]),
    "strides of another length": node("Conv", "x w", "y", name="odd", strides=[1, 1, 1]),
    "dilations of another length": node("MaxPool", "x", "y", name="odd", kernel_shape=[2, 2], dilations=[1]),
    "no group": node("Conv", "x w", "y", name="odd", group=0),
    "a negative group": node("Conv", "x w", "y", name="odd", group=-1),
    "too many groups": node("Conv", "x w", "y", name="odd", group=7),
    "no group of a transposed one": node("ConvTranspose", "x w", "y", name="odd", group=0),
    "a huge stride": node("ConvTranspose", "x w", "y", name="odd", strides=[HUGE, HUGE]),
    "a huge output": node("ConvTranspose", "x w", "y", name="odd", output_shape=[HUGE, HUGE]),
    "a huge output padding": node("ConvTranspose", "x w", "y", name="odd", output_padding=[HUGE, HUGE]),
    "an odd auto_pad": node("Conv", "x w", "y", name="odd", auto_pad="SOMEHOW"),
    "an axis that is not there": node("Softmax", "x", "y", name="odd", axis=9),
    "a text for a number": node("Softmax", "x", "y", name="odd", axis="one"),
    "a number for a list": node("MaxPool", "x", "y", name="odd", kernel_shape=2),
    "a list for a number": node("Concat", "x x", "y", name="odd", axis=[1]),
    "a slope of NaN": node("LeakyRelu", "x", "y", name="odd", alpha=float("nan")),
    "a slope of infinity": node("LeakyRelu", "x", "y", name="odd", alpha=float("inf")),
    "a slope of a hard sigmoid": node("HardSigmoid", "x", "y", name="odd", alpha=float("nan")),
    "a NaN epsilon": node("BatchNormalization", "x v v v v", "y", name="odd", epsilon=float("nan")),
    "a negative epsilon": node("BatchNormalization", "x v v v v", "y", name="odd", epsilon=-5.0),
    "an order that is none": node("Transpose", "x", "y", name="odd", perm=[0, 1, 1, 3]),
    "an order far out": node("Transpose", "x", "y", name="odd", perm=[0, 1, 2, 99]),
    "an axis of parts far out": node("Concat", "x x", "y", name="odd", axis=99),
    "an axis of a resize far out": node("Resize", "x - t1", "y", name="odd", axes=[99]),
    "an axis of pads far out": node("Pad", "x p2 - h1", "y", name="odd"),
    "an order of another length": node("Transpose", "x", "y", name="odd", perm=[0, 1]),
    "a block of nothing": node("DepthToSpace", "x", "y", name="odd", blocksize=0),
    "a negative block": node("SpaceToDepth", "x", "y", name="odd", blocksize=-1),
    "a huge block": node("SpaceToDepth", "x", "y", name="odd", blocksize=HUGE),
    "a mode that is none": node("DepthToSpace", "x", "y", name="odd", blocksize=1, mode="ABC"),
    "a reduction that is not there": node("ReduceSum", "x h", "y", name="odd"),
    "a squeeze that is not there": node("Squeeze", "x h", "y", name="odd"),
    "huge repeats": node("Tile", "x h4", "y", name="odd"),
    "negative repeats": node("Tile", "x n4", "y", name="odd"),
    "huge pads by Pad": node("Pad", "x h8", "y", name="odd"),
    "huge pads by reflection": node("Pad", "x h8", "y", name="odd", mode="reflect"),
    "huge pads by the edge": node("Pad", "x h8", "y", name="odd", mode="edge"),
    "pads of another rank": node("Pad", "x h4", "y", name="odd"),
    "a huge expansion": node("Expand", "x h4", "y", name="odd"),
    "a huge shape": node("Reshape", "x h4", "y", name="odd"),
    "a resize by infinity": node("Resize", "x - i4", "y", name="odd"),
    "a linear resize by much": node("Resize", "x - m4", "y", name="odd", mode="linear"),
    "a resize by much": node("Resize", "x - m4", "y", name="odd"),
    "a resize to much": node("Resize", "x - - h4", "y", name="odd"),
    "a resize to a negative size": node("Resize", "x - - n4", "y", name="odd"),
    "a resize to nothing": node("Resize", "x - - z4", "y", name="odd"),
    "a cubic resize of NaN": node("Resize", "x - t4", "y", name="odd", mode="cubic", cubic_coeff_a=float("nan")),
    "a resize in a mode that is none": node("Resize", "x - t4", "y", name="odd", mode="guess"),
    "indices far out": node("Gather", "x h4", "y", name="odd", axis=1),
    "an axis far out": node("Gather", "x z4", "y", name="odd", axis=HUGE),
    "a sum over an axis far out": node("CumSum", "x h", "y", name="odd"),
    "parts of nothing": node("Split", "x z4", "y", name="odd", axis=1),
    "a division by zero": node("Div", "x zero", "y", name="odd"),
    "a bound of NaN": node("Clip", "x nan", "y", name="odd"),
    "an added NaN": node("Add", "x nan", "y", name="odd"),
    "a product with infinity": node("Mul", "x inf", "y", name="odd"),
    "a slope that varies and is NaN": node("PRelu", "x nan", "y", name="odd"),
    "padding with NaN": node("Pad", "x p8 nan", "y", name="odd"),
    "a threshold of NaN": node("ThresholdedRelu", "x", "y", name="odd", alpha=float("nan")),
    "no input at all": helper.make_node("Relu", [], ["y"], name="odd"),
    "an empty input": helper.make_node("Relu", [""], ["y"], name="odd"),
    "no operator": helper.make_node("", ["x"], ["y"], name="odd"),
    "too many inputs": helper.make_node("Relu", ["x", "x", "x"], ["y"], name="odd"),
    "an operator of text": node("StringNormalizer", "x", "y", name="odd"),
}
CONSTANTS = {
    "w": W,
    "v": np.ones(2, "f"),
    "h": np.array([HUGE]),
    "h4": np.array([1, HUGE, HUGE, HUGE]),
    "n4": np.array([1, -2, 3, 3]),
    "z4": np.array([0, 0, 0, 0]),
    "h8": np.array([0, 0, 0, 0, 0, 0, HUGE, HUGE]),
    "p8": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "i4": np.array([1, 1, np.inf, np.inf], "f"),
    "m4": np.array([1, 1, 1e9, 1e9], "f"),
    "t4": np.array([1, 1, 2, 2], "f"),
    "t1": np.array([2], "f"),
    "p2": np.array([1, 1]),
    "h1": np.array([99]),
    "one": np.int64(1),
    "zero": np.float32(0),
    "nan": np.float32(np.nan),
    "inf": np.float32(np.inf),
}


def _register_impossible():
    for name, odd in IMPOSSIBLE.items():
        used = {each: CONSTANTS[each] for each in odd.input if each in CONSTANTS}
        FILES[name] = (lambda folder, odd=odd, used=used: saved(model([odd], MAP, 18, **used), folder), ("odd",))


_register_impossible()
