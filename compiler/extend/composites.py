"""What converters of all frontends build from a few ops; shapes and axes are those of a sample, without the batch.

A ``part`` is given where the step is not the last of a call: it is appended to the op's name, and a step that changes
nothing is then left out, where at the end of a call an Identity stands for it.
"""

import math
from collections.abc import Sequence

import numpy as np

from spikec.extend.call import Call, Signal
from spikec.ir.ops import BatchNorm, Conv, Flatten, Identity, Linear, Permute, Reshape, Slice, Upsample
from spikec.ir.types import Array


def _unchanged(call: Call, x: Signal, part: str) -> Signal:
    return x if part else call.add(Identity(), x)


def reshaped(call: Call, x: Signal, shape: Sequence[int], part: str = "") -> Signal:
    """The same numbers, row-major, in samples of another shape."""
    old = call.shape(x)
    if tuple(shape) == old:
        return _unchanged(call, x, part)
    return call.add(Flatten() if len(shape) == 1 and old else Reshape(shape), x, part=part)


def permuted(call: Call, x: Signal, axes: Sequence[int], part: str = "") -> Signal:
    """The axes in another order: axis i of the result is axis ``axes[i]`` of the signal."""
    if list(axes) == sorted(axes):
        return _unchanged(call, x, part)
    return call.add(Permute(axes), x, part=part)


def along(call: Call, x: Signal, axis: int, matrix: Array, part: str = "") -> Signal:
    """The product of a matrix [O, I] with each row of length I along one axis.

    Along the channels of a map it is a 1x1 convolution, else a Linear, which works on the last axis.
    """
    rank = len(call.shape(x))
    matrix = matrix.astype(call.graph.type(x.name).dtype)
    if axis == 0 and 2 <= rank <= 4:
        ones = (1,) * (rank - 1)
        op = Conv(matrix.reshape(*matrix.shape, *ones), stride=ones, padding=(0,) * (rank - 1), dilation=ones)
        return call.add(op, x, part=part)
    order = [*(each for each in range(rank) if each != axis), axis]
    if axis == rank - 1:
        return call.add(Linear(matrix), x, part=part)
    product = call.add(Linear(matrix), permuted(call, x, order, part=f"{part}last"), part=f"{part}along")
    return permuted(call, product, np.argsort(order).tolist(), part=part)


def sliced(call: Call, x: Signal, axis: int, start: int, stop: int, step: int = 1, part: str = "") -> Signal:
    """Cells ``start:stop:step`` of one axis, both within it."""
    stop_at = None if stop >= call.shape(x)[axis] else stop
    if (start, stop_at, step) == (0, None, 1):
        return _unchanged(call, x, part)
    return call.add(Slice(axis, start, stop_at, step), x, part=part)


def selected(call: Call, x: Signal, axis: int, cells: Array, part: str = "") -> Signal:
    """Cells of one axis, in that order: a slice where they have one positive distance, else a matrix of ones."""
    size = call.shape(x)[axis]
    steps = np.diff(cells)
    step = int(steps[0]) if len(steps) else 1
    if step > 0 and (steps == step).all():
        return sliced(call, x, axis, int(cells[0]), int(cells[-1]) + 1, step, part)
    call.check_memory(8 * size * len(cells))
    return along(call, x, axis, np.eye(size)[cells], part)


def expanded(call: Call, x: Signal, shape: Sequence[int], part: str = "") -> Signal:
    """The signal broadcast to a shape as numpy does it: axes of length 1 are repeated, new ones come in front."""
    x = reshaped(call, x, (1,) * (len(shape) - len(call.shape(x))) + call.shape(x), part=f"{part}axes")
    old = call.shape(x)
    if tuple(shape) == old:
        return _unchanged(call, x, part)
    rows = shape[0] != old[0]
    if tuple(shape[1:]) != old[1:]:
        x = call.add(Upsample(shape[1:]), x, part=f"{part}space" if rows else part)
    return along(call, x, 0, np.ones((shape[0], 1)), part) if rows else x


def affine(call: Call, x: Signal, gain: Array | float, shift: Array | float, part: str = "") -> Signal:
    """``gain x + shift``, where both broadcast over the sample's axes and may vary along any of them.

    It is a batch norm, which folds into its neighbours. A batch norm varies along the first axis only, so that one
    which varies along others stands between reorderings of the sample: these axes, as one, are brought to the front.
    """
    shape, dtype = call.shape(x), call.graph.type(x.name).dtype
    gains, shifts = (np.broadcast_to(np.asarray(each, np.float64), shape) for each in (gain, shift))
    if not (np.isfinite(gains).all() and np.isfinite(shifts).all()):
        call.refuse("a constant is, or its inverse is, NaN or infinite")
    if (gains == 1).all() and not shifts.any():
        return _unchanged(call, x, part)
    varying = [axis for axis in range(len(shape)) if _varies(gains, axis) or _varies(shifts, axis)]
    if set(varying) <= {0} and 1 <= len(shape) <= 4:
        first: tuple[slice | int, ...] = (slice(None), *(0,) * (len(shape) - 1))
        zeros, ones = np.zeros(shape[0], dtype), np.ones(shape[0], dtype)
        op = BatchNorm(gains[first].astype(dtype), shifts[first].astype(dtype), zeros, ones, eps=0.0)
        return call.add(op, x, part=part)
    order = varying + [axis for axis in range(len(shape)) if axis not in varying]
    back = np.argsort(order).tolist()
    front = permuted(call, x, order, part=f"{part}first")
    moved = rows = call.shape(front)
    if len(varying) != 1 or len(shape) > 4:
        size = math.prod(moved[: len(varying)])
        rows = (size, math.prod(shape) // max(size, 1))
    flat = reshaped(call, front, rows, part=f"{part}rows")
    gains, shifts = (np.transpose(each, order).reshape(rows) for each in (gains, shifts))
    done = affine(call, flat, gains, shifts, f"{part}affine" if rows != moved or back != sorted(back) else part)
    whole = reshaped(call, done, moved, part=f"{part}whole")
    return permuted(call, whole, back, part) if back != sorted(back) else whole


def _varies(array: Array, axis: int) -> bool:
    return bool((array != np.take(array, [0], axis)).any())
