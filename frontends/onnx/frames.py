"""Nodes on maps whose frames are joined to the batch, see :mod:`spikec.frontends.torch.frames`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from spikec.extend.call import Signal
from spikec.extend.composites import permuted
from spikec.frontends.onnx.call import Call, Constant, Value, converter
from spikec.frontends.onnx.model import DOMAINS
from spikec.frontends.onnx.moved import first
from spikec.frontends.torch.moved import refuse, settled

#: for each operator the one that reads it of maps with an axis more
_READ_AS = {
    **{kind: kind for kind in ("Conv", "ConvTranspose", "AveragePool", "MaxPool", "BatchNormalization", "PRelu")},
    "GlobalAveragePool": "AveragePool",
    "GlobalMaxPool": "MaxPool",
}
#: what an attribute says of the axis of the frames, before what it says of a frame's axes
_OF_FRAMES = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0}
#: operators whose second input is a constant with the axes of a frame's map, the last of its own
_WITH_MAPS = ("Conv", "ConvTranspose", "PRelu")


def takes(call: Call) -> bool:
    """Whether a node treats each frame by itself."""
    return call.node.domain in DOMAINS and call.node.op_type in _READ_AS


def read(call: Call, given: Mapping[str, Any], called: Callable[..., Any]) -> Sequence[Value]:
    """What a node gives that treats each frame by itself.

    Args:
        call: the node's.
        given: its attributes.
        called: calls a converter with a call and its attributes.

    Raises:
        CompileError: the batch is in another axis, or the node is not read of maps with an axis more.
    """
    kind, moved = call.node.op_type, first(call)
    assert moved is not None
    frames, *sample = call.graph.type(moved.name).shape
    maps = sample[1:]
    if moved.axis or call.inputs[0] is not moved or len(maps) > 2 or not sample:
        refuse(call, moved)
    order = [1, 0, *range(2, 2 + len(maps))]
    names = call.node.input
    values: dict[str, Value] = dict(call.values)
    values[names[0]] = permuted(call, Signal(moved.name), order, part="channels")
    constant = call.inputs[1] if kind in _WITH_MAPS else None
    if isinstance(constant, Constant) and (axis := constant.values[0].ndim - len(maps)) >= 0:
        values[names[1]] = Constant(tuple(np.expand_dims(each, axis) for each in constant.values))
    attributes = {name: _with_frames(name, value, frames, len(maps)) for name, value in given.items()}
    if kind.startswith("Global"):
        attributes["kernel_shape"] = [1, *maps]
    result = called(converter.get(_READ_AS[kind]), attrs.evolve(call, values=values), attributes)
    whole = permuted(call, Signal(result.name), order, part="whole")
    return [settled(call, attrs.evolve(moved, name=whole.name))]


def _with_frames(name: str, value: Any, frames: int, rank: int) -> Any:
    """An attribute of a node on a frame's map, [C, ...] with that many axes, as that of one on [C, F, ...]."""
    if name == "pads":
        return [0, *value[:rank], 0, *value[rank:]]
    if name == "output_shape":
        return [frames, *value[-rank:]]
    return [_OF_FRAMES[name], *value] if name in _OF_FRAMES else value
