"""Nodes that are given a tensor whose batch is not its first axis, see :mod:`spikec.frontends.torch.moved`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from spikec.extend.call import Signal
from spikec.extend.composites import expanded
from spikec.frontends.onnx.call import Call, Constant, Value
from spikec.frontends.onnx.model import DOMAINS, library
from spikec.frontends.torch.batch import BATCH
from spikec.frontends.torch.call import Moved
from spikec.frontends.torch.moved import lifted, placed, refuse, regrouped, settled, with_rank
from spikec.ir.errors import CompileError
from spikec.ir.ops import Pad

#: operators that are read along other axes than the batch: those that name no axis, in an attribute or an input
_WITHOUT_AXES = (
    "Add Sub Mul Div Neg Identity Dropout Cast MatMul Gemm Relu LeakyRelu Elu Gelu Sigmoid Tanh Erf Exp Sqrt Pow "
    "Reciprocal HardSwish HardSigmoid Mish Softplus Clip Max Min Abs Sin Cos Log Atan Selu Celu Softsign "
    "Greater GreaterOrEqual Less LessOrEqual Not Where"
)
_REDUCTIONS = "ReduceMean ReduceSum ReduceMax ReduceMin ReduceL2 ReduceLogSumExp"
_ALONG_AXES = f"Softmax LogSoftmax LayerNormalization Concat Split Gather Slice {_REDUCTIONS}"
#: those that keep all numbers in their order, of which onnx says what shape they give
_SHAPES = "Reshape Flatten Squeeze Unsqueeze"
#: where the inputs of an operator are that hold axes
_SLOTS = {"Slice": 3, **dict.fromkeys(_REDUCTIONS.split(), 1)}
#: operators that work along the first axis where they name none
_FROM_FIRST = ("Gather", "Split")
#: the name of axes that are counted with one more in front
_LIFTED = "axes, one more in front"


def first(call: Call) -> Moved | None:
    """The first input of a node whose batch is not its first axis."""
    return next((value for value in call.values.values() if isinstance(value, Moved)), None)


def read(call: Call, given: Mapping[str, Any], run: Callable[[Call, Mapping[str, Any]], Any]) -> Sequence[Value]:
    """What a node gives that takes a moved tensor.

    Args:
        call: the node's.
        given: its attributes.
        run: reads a node with other inputs and attributes.

    Raises:
        CompileError: the node is not read of such a tensor, or works along the batch's axis.
    """
    kind, moved = call.node.op_type, first(call)
    assert moved is not None
    joins = kind in ("Softmax", "LogSoftmax") and call.opset < 13  # all axes from one on
    if (
        joins
        or call.node.domain not in DOMAINS
        or kind not in f"{_WITHOUT_AXES} {_ALONG_AXES} {_SHAPES} Transpose Shape Expand Pad".split()
    ):
        refuse(call, moved)
    if kind == "Shape":
        return call.computed(moved)
    if kind in _SHAPES.split():
        return [reshaped(call, moved, call.computed(moved))]
    if kind in ("Expand", "Pad"):
        return [(_expanded if kind == "Expand" else _padded)(call, given, moved)]
    signals = {name: value for name, value in call.values.items() if isinstance(value, Signal)}
    rank = max(len(call.graph.type(each.name).shape) + (not isinstance(each, Moved)) for each in signals.values())
    if any(isinstance(each, Moved) and each.before != moved.before for each in signals.values()):
        refuse(call, moved)
    inputs = {name: with_rank(call, each, rank, moved) for name, each in signals.items()}
    values: dict[str, Value] = {**call.values, **{name: Signal(each.name) for name, each in inputs.items()}}
    node, attributes, axes = type(call.node)(), dict(given), _axes(call, given, moved)
    node.CopyFrom(call.node)
    places = [axis % rank for axis in axes]
    if moved.axis in places or (kind == "LayerNormalization" and moved.axis > places[0]):
        refuse(call, moved)
    if kind == "Transpose":
        attributes["perm"] = [0, *(axis + 1 for axis in given.get("perm", range(rank)[::-1]))]
    elif "axis" in given or "axes" in given:
        name = "axis" if "axis" in given else "axes"
        attributes[name] = lifted(given[name])
    elif axes and kind in _SLOTS:
        node.input[_SLOTS[kind]] = _LIFTED  # the constant may be another input too
        values[_LIFTED] = Constant((np.array(lifted(axes)),) * len(call.batches))
    elif kind in _FROM_FIRST:
        attributes["axis"] = 1
    changed = [name for name in ("axis", "axes", "perm") if attributes.get(name) != given.get(name)]
    kept = [each for each in node.attribute if each.name not in changed]
    del node.attribute[:]
    node.attribute.extend([*kept, *(library().helper.make_attribute(name, attributes[name]) for name in changed)])
    ends = _places(call, inputs, moved)
    results = run(attrs.evolve(call, node=node, values=values), attributes)
    pairs = zip(results if isinstance(results, (tuple, list)) else (results,), ends, strict=False)
    return [settled(call, attrs.evolve(moved, name=each.name, axis=axis)) for each, axis in pairs]


def reshaped(call: Call, moved: Moved, results: Sequence[Constant]) -> Signal:
    """A moved tensor in the shape that the node's result has for each of the batch sizes."""
    shapes = [each.shape for each in results[0].values]
    if len({len(shape) for shape in shapes}) > 1:
        refuse(call, moved)
    sizes = [
        BATCH * (column[0] // call.batches[0]) if len(set(column)) > 1 else column[0]
        for column in zip(*shapes, strict=True)
    ]
    return regrouped(call, moved, sizes)


def _expanded(call: Call, given: Mapping[str, Any], moved: Moved) -> Signal:
    """A moved tensor repeated along other axes than the batch."""
    shapes = [each.shape for each in call.computed(moved)[0].values]
    x = with_rank(call, moved, len(shapes[0]), moved)
    sizes = list(shapes[0])
    sizes[x.axis] = call.graph.type(x.name).shape[x.axis]
    for shape, batch in zip(shapes, call.batches, strict=True):
        if list(shape) != [size * batch if i == x.axis else size for i, size in enumerate(sizes)]:
            refuse(call, moved)
    return settled(call, attrs.evolve(x, name=expanded(call, Signal(x.name), sizes).name))


def _padded(call: Call, given: Mapping[str, Any], moved: Moved) -> Signal:
    """A moved tensor with zeros around it along other axes than the batch."""
    rank = len(call.graph.type(moved.name).shape)
    pads, value, axes = (call.array(slot) for slot in (1, 2, 3))
    pads = np.ravel(given["pads"] if pads is None else pads).reshape(2, -1)
    places = range(rank) if axes is None else [int(axis) % rank for axis in axes]
    pairs = [(0, 0)] * rank
    for axis, before, after in zip(places, *pads.tolist(), strict=True):
        pairs[axis] = (before, after)
    is_zero = not np.any(given.get("value", 0.0) if value is None else value)
    if any(pairs[moved.axis]) or not is_zero or given.get("mode", "constant") not in ("constant", b"constant"):
        refuse(call, moved)
    return settled(call, attrs.evolve(moved, name=call.add(Pad(pairs), Signal(moved.name)).name))


def _axes(call: Call, given: Mapping[str, Any], moved: Moved) -> list[int]:
    """The axes that a node works along."""
    kind = call.node.op_type
    if kind in _WITHOUT_AXES.split() or kind == "Transpose":
        return []
    if kind in _FROM_FIRST:
        return [given.get("axis", 0)]
    if "axis" in given or "axes" in given:
        return [int(axis) for axis in np.ravel(given.get("axis", given.get("axes")))]
    if kind in ("Softmax", "LogSoftmax", "LayerNormalization"):
        return [-1]
    slot = _SLOTS.get(kind)
    array = call.array(slot) if slot is not None else None
    if array is None:
        refuse(call, moved)
    return [int(axis) for axis in np.ravel(array)]


def _places(call: Call, inputs: Mapping[str, Moved], moved: Moved) -> list[int]:
    """Which axis of each result the batch is, by what onnx makes of tensors of two and of three samples."""
    runs = []
    for batch in (2, 3):
        feeds = {name: value.values[0] for name, value in call.values.items() if isinstance(value, Constant)}
        for name, tensor in inputs.items():
            feeds[name] = np.zeros(placed(call, tensor, batch), call.graph.type(tensor.name).dtype)
        try:
            runs.append(call.evaluated(call.node, call.opsets, feeds, "", call.budget))
        except CompileError:
            refuse(call, moved)
    found = []
    for two, three in zip(*runs, strict=True):
        axes = [i for i, (a, b) in enumerate(zip(two.shape, three.shape, strict=True)) if a != b]
        if len(axes) != 1:
            refuse(call, moved)
        found += axes
    return found
