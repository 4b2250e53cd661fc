"""Converters of what gives samples another shape, and of what asks for one."""

from __future__ import annotations

import math

import numpy as np

from spikec.extend.call import Signal
from spikec.extend.composites import concatenated, expanded, permuted, reshaped
from spikec.frontends.onnx.call import Call, Known, converter
from spikec.ir.ops import Identity


@converter("Shape")
def _shape(call: Call) -> Known:
    start, end = call.attributes.get("start", 0), call.attributes.get("end")
    shape = call.shape(call.signal())
    return Known(tuple(np.array([batch, *shape][start:end], np.int64) for batch in call.batches))


@converter("Size")
def _size(call: Call) -> Known:
    count = math.prod(call.shape(call.signal()))
    return Known(tuple(np.array(batch * count, np.int64) for batch in call.batches))


@converter("Flatten")
def _flatten(call: Call) -> Signal:
    x = call.signal()
    shape = call.shape(x)
    axis = call.attributes.get("axis", 1)
    axis += len(shape) + 1 if axis < 0 else 0
    wholes = [(batch, *shape) for batch in call.batches]
    return reshaped(call, x, call.per_sample([(math.prod(each[:axis]), math.prod(each[axis:])) for each in wholes]))


@converter("Reshape")
def _reshape(call: Call) -> Signal:
    x = call.signal()
    shapes = []
    for batch, target in zip(call.batches, call.each(1), strict=True):
        old = (batch, *call.shape(x))
        keep = not call.attributes.get("allowzero", 0)
        new = [old[i] if size == 0 and keep and i < len(old) else int(size) for i, size in enumerate(target)]
        known = math.prod(size for size in new if size != -1)
        if -1 in new and known:
            new[new.index(-1)] = math.prod(old) // known
        if math.prod(new) != math.prod(old):
            call.refuse(f"a tensor {call.shown(x)} has no shape {target.tolist()} for a batch of {batch}")
        shapes.append(new)
    return reshaped(call, x, call.per_sample(shapes))


@converter("Squeeze")
def _squeeze(call: Call) -> Signal:
    x = call.signal()
    shape = call.shape(x)
    axes = call.option("axes", 1)
    if axes is None:
        if 1 in call.batches:
            call.refuse("without axes it drops the batch axis too, which is 1", "name the axes")
        dropped = [axis for axis, size in enumerate(shape) if size == 1]
    else:
        dropped = call.axes(x, axes)
    if any(shape[axis] != 1 for axis in dropped):
        call.refuse(f"it drops axes of a tensor {call.shown(x)} that are not 1")
    return reshaped(call, x, [size for axis, size in enumerate(shape) if axis not in dropped])


@converter("Unsqueeze")
def _unsqueeze(call: Call) -> Signal:
    x = call.signal()
    axes = call.option("axes", 1)
    new = list(call.shape(x))
    for axis in call.axes(x, axes, new=np.size(axes)):
        new.insert(axis, 1)
    return reshaped(call, x, new)


@converter("Transpose")
def _transpose(call: Call) -> Signal:
    x = call.signal()
    order = call.attributes.get("perm", list(range(len(call.shape(x)) + 1))[::-1])
    if order[0] != 0:
        call.refuse("it moves the batch axis", "keep the batch first: samples are independent in a compiled network")
    return permuted(call, x, [axis - 1 for axis in order[1:]])


@converter("Expand")
def _expand(call: Call) -> Signal:
    x = call.signal()
    shapes = []
    for batch, target in zip(call.batches, call.each(1), strict=True):
        try:
            shapes.append(np.broadcast_shapes((batch, *call.shape(x)), tuple(target.tolist())))
        except ValueError:
            call.refuse(f"a tensor {call.shown(x)} does not expand to {target.tolist()}")
    return expanded(call, x, call.per_sample(shapes))


@converter("Tile")
def _tile(call: Call) -> Signal:
    x = call.signal()
    first, *repeats = call.constant(1).tolist()
    if first != 1:
        call.refuse("it repeats the batch", "samples of a batch are independent in a compiled network")
    for axis, times in enumerate(repeats):
        x = concatenated(call, [x] * times, axis, part=f"axis{axis}") if times != 1 else x
    return call.add(Identity(), x) if x == call.signal() else x


@converter("DepthToSpace")
def _depth_to_space(call: Call) -> Signal:
    x = call.signal()
    call.expect_rank(x, 3)
    size = call.attributes["blocksize"]
    channels, height, width = call.shape(x)
    crd = call.attributes.get("mode", "DCR") == "CRD"
    split = (channels // size**2, size, size) if crd else (size, size, channels // size**2)
    parts = reshaped(call, x, (*split, height, width), part="split")
    moved = permuted(call, parts, (0, 3, 1, 4, 2) if crd else (2, 3, 0, 4, 1), part="order")
    return reshaped(call, moved, (channels // size**2, height * size, width * size))


@converter("SpaceToDepth")
def _space_to_depth(call: Call) -> Signal:
    x = call.signal()
    call.expect_rank(x, 3)
    size = call.attributes["blocksize"]
    channels, height, width = call.shape(x)
    parts = reshaped(call, x, (channels, height // size, size, width // size, size), part="split")
    crd = call.attributes.get("mode", "DCR") == "CRD"
    moved = permuted(call, parts, (0, 2, 4, 1, 3) if crd else (2, 4, 0, 1, 3), part="order")
    return reshaped(call, moved, (channels * size**2, height // size, width // size))
