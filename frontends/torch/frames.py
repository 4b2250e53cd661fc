"""Layers on maps whose frames are joined to the batch: ``x.flatten(0, 1)`` in front of a convolution, and back behind.

A graph has such a tensor of one sample: [F, C, ...], F frames. With its channels in front, [C, F, ...], it is a map
with one axis more, along which a layer on maps of one axis more has windows of a single frame.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from torch import Tensor
from torch.nn import functional as F

from spikec.extend.call import Call
from spikec.extend.composites import permuted
from spikec.frontends.torch import moved
from spikec.frontends.torch.call import Moved, Signal, converter
from spikec.frontends.torch.converters.weights import for_each_axis
from spikec.frontends.torch.moved import refuse, settled

#: what arguments say of the axis of the frames, before what they say of a frame's axes
_OF_FRAMES: Mapping[str, Any] = {
    "stride": 1,
    "dilation": 1,
    "padding": 0,
    "output_padding": 0,
    "kernel_size": 1,
    "output_size": None,
    "scale_factor": 1.0,
}
#: the modes of ``F.interpolate`` that are the same along the axes of a frame
_MODES = {"nearest": "nearest", "nearest-exact": "nearest-exact", "linear": "bilinear", "bilinear": "trilinear"}
_NAMES = ("conv{}d", "conv_transpose{}d", "avg_pool{}d", "max_pool{}d", "adaptive_avg_pool{}d", "adaptive_max_pool{}d")
#: layers that take maps with any number of axes
_OF_ANY_RANK = (F.batch_norm, F.prelu, F.interpolate, F.pad)


@functools.cache
def _longer() -> Mapping[tuple[Any, int], Any]:
    """The converter for maps with one axis more, by the converter and the number of axes of a frame's map."""
    found = {(converter.get(each), rank): converter.get(each) for each in _OF_ANY_RANK for rank in (0, 1, 2)}
    for name in _NAMES:
        for rank in (1, 2):
            shorter, longer = (converter.get(getattr(F, name.format(each))) for each in (rank, rank + 1))
            found[shorter, rank] = longer
    return found


def takes(convert: Callable[..., Any]) -> bool:
    """Whether that converter reads a call that treats each frame by itself."""
    return any(convert is each for each, _ in _longer())


def read(call: Call, convert: Callable[..., Any], arguments: Mapping[str, Any], first: Moved) -> Any:
    """What a call gives that treats each frame by itself.

    Args:
        call: the call.
        convert: what reads it of other signals.
        arguments: of the call, by the names that the converter has for them.
        first: the signal, whose first axis holds the batch and the frames.

    Raises:
        CompileError: the batch is in another axis, or the call is not read of maps with an axis more.
    """
    frames, *sample = call.graph.type(first.name).shape
    rank = len(sample) - 1
    longer = _longer().get((convert, rank))
    rest = {name: value for name, value in arguments.items() if name != "input"}
    if longer is None or first.axis or arguments["input"] is not first or len(rest.get("pad", ())) > 2 * rank:
        return moved.read(call, convert, arguments, first)
    changed = {name: _with_frames(name, value, rank, frames) for name, value in rest.items()}
    if convert is converter.get(F.interpolate):
        mode = rest.get("mode", "nearest")
        if mode not in _MODES:
            refuse(call, first)
        changed["mode"] = _MODES[mode]
    order = [1, 0, *range(2, 2 + rank)]
    in_front = permuted(call, Signal(first.name), order, part="channels")
    whole = permuted(call, longer(call, in_front, **changed), order, part="whole")
    return settled(call, attrs.evolve(first, name=whole.name))


def _with_frames(name: str, value: Any, rank: int, frames: int) -> Any:
    """An argument of a call on a frame's map, [C, ...] with that many axes, as that of one on [C, F, ...]."""
    if name == "weight" and isinstance(value, Tensor) and value.ndim == rank + 2:
        return value.unsqueeze(2)
    if name == "pad":
        return (*value, 0, 0)
    if name == "size" and value is not None:
        return (frames, *for_each_axis(value, rank))
    if name not in _OF_FRAMES or value in (None, [], ()) or isinstance(value, str):
        return value
    return (_OF_FRAMES[name], *for_each_axis(value, rank))
