"""Converters of what gives samples another shape, and of what asks for one."""

from __future__ import annotations

import math

import numpy as np

from spikec.extend.arrange import concatenated, expanded, permuted, reshaped
from spikec.extend.call import Signal
from spikec.frontends.onnx.call import Call, Known, converter
from spikec.ir.ops import Identity


@converter("Shape")
def _shape(at: Call) -> Known:
    start, end = at.attributes.get("start", 0), at.attributes.get("end")
    shape = at.shape(at.signal())
    return Known(tuple(np.array([batch, *shape][start:end], np.int64) for batch in at.batches))


@converter("Size")
def _size(at: Call) -> Known:
    count = math.prod(at.shape(at.signal()))
    return Known(tuple(np.array(batch * count, np.int64) for batch in at.batches))


@converter("Flatten")
def _flatten(at: Call) -> Signal:
    x = at.signal()
    shape = at.shape(x)
    axis = at.attributes.get("axis", 1)
    axis += len(shape) + 1 if axis < 0 else 0
    wholes = [(batch, *shape) for batch in at.batches]
    return reshaped(at, x, at.per_sample([(math.prod(each[:axis]), math.prod(each[axis:])) for each in wholes]))


@converter("Reshape")
def _reshape(at: Call) -> Signal:
    x = at.signal()
    shapes = []
    for batch, target in zip(at.batches, at.each(1), strict=True):
        old = (batch, *at.shape(x))
        keep = not at.attributes.get("allowzero", 0)
        new = [old[i] if size == 0 and keep and i < len(old) else int(size) for i, size in enumerate(target)]
        known = math.prod(size for size in new if size != -1)
        if -1 in new and known:
            new[new.index(-1)] = math.prod(old) // known
        if math.prod(new) != math.prod(old):
            at.refuse(f"a tensor {at.shown(x)} has no shape {target.tolist()} for a batch of {batch}")
        shapes.append(new)
    return reshaped(at, x, at.per_sample(shapes))


@converter("Squeeze")
def _squeeze(at: Call) -> Signal:
    x = at.signal()
    shape = at.shape(x)
    axes = at.option("axes", 1)
    if axes is None:
        if 1 in at.batches:
            at.refuse("without axes it drops the batch axis too, which is 1", "name the axes")
        dropped = [axis for axis, size in enumerate(shape) if size == 1]
    else:
        dropped = at.axes(x, axes)
    if any(shape[axis] != 1 for axis in dropped):
        at.refuse(f"it drops axes of a tensor {at.shown(x)} that are not 1")
    return reshaped(at, x, [size for axis, size in enumerate(shape) if axis not in dropped])


@converter("Unsqueeze")
def _unsqueeze(at: Call) -> Signal:
    x = at.signal()
    axes = at.option("axes", 1)
    new = list(at.shape(x))
    for axis in at.axes(x, axes, new=np.size(axes)):
        new.insert(axis, 1)
    return reshaped(at, x, new)


@converter("Transpose")
def _transpose(at: Call) -> Signal:
    x = at.signal()
    order = at.attributes.get("perm", list(range(len(at.shape(x)) + 1))[::-1])
    if order[0] != 0:
        at.refuse("it moves the batch axis", "keep the batch first: samples are independent in a compiled network")
    return permuted(at, x, [axis - 1 for axis in order[1:]])


@converter("Expand")
def _expand(at: Call) -> Signal:
    x = at.signal()
    shapes = []
    for batch, target in zip(at.batches, at.each(1), strict=True):
        try:
            shapes.append(np.broadcast_shapes((batch, *at.shape(x)), tuple(target.tolist())))
        except ValueError:
            at.refuse(f"a tensor {at.shown(x)} does not expand to {target.tolist()}")
    return expanded(at, x, at.per_sample(shapes))


@converter("Tile")
def _tile(at: Call) -> Signal:
    x = at.signal()
    first, *repeats = at.constant(1).tolist()
    if first != 1:
        at.refuse("it repeats the batch", "samples of a batch are independent in a compiled network")
    for axis, times in enumerate(repeats):
        x = concatenated(at, [x] * times, axis, part=f"axis{axis}") if times != 1 else x
    return at.add(Identity(), x) if x == at.signal() else x


@converter("DepthToSpace")
def _depth_to_space(at: Call) -> Signal:
    x = at.signal()
    at.expect_rank(x, 3)
    size = at.attributes["blocksize"]
    channels, height, width = at.shape(x)
    crd = at.attributes.get("mode", "DCR") == "CRD"
    split = (channels // size**2, size, size) if crd else (size, size, channels // size**2)
    parts = reshaped(at, x, (*split, height, width), part="split")
    moved = permuted(at, parts, (0, 3, 1, 4, 2) if crd else (2, 3, 0, 4, 1), part="order")
    return reshaped(at, moved, (channels // size**2, height * size, width * size))


@converter("SpaceToDepth")
def _space_to_depth(at: Call) -> Signal:
    x = at.signal()
    at.expect_rank(x, 3)
    size = at.attributes["blocksize"]
    channels, height, width = at.shape(x)
    parts = reshaped(at, x, (channels, height // size, size, width // size, size), part="split")
    crd = at.attributes.get("mode", "DCR") == "CRD"
    moved = permuted(at, parts, (0, 2, 4, 1, 3) if crd else (2, 4, 0, 1, 3), part="order")
    return reshaped(at, moved, (channels * size**2, height // size, width // size))
