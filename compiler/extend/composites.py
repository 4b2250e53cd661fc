"""What converters of every frontend say in terms of a few ops: the batch is no axis here, as in all of the graph."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from spikec.extend.call import Call, Signal
from spikec.ir.ops import BatchNorm, Concat, Conv, Flatten, Identity, Linear, Permute, Reshape, Slice, Upsample
from spikec.ir.types import Array

# In all of these a ``part`` is given for a step inside of a call: one that does nothing is left out then.


def unchanged(call: Call, x: Signal, part: str = "") -> Signal:
    """The signal itself; at the end of a call an Identity, which stands for the call."""
    return x if part else call.add(Identity(), x)


def reshaped(call: Call, x: Signal, shape: Sequence[int], part: str = "") -> Signal:
    """The same numbers, row-major, in samples of another shape."""
    old = call.shape(x)
    if tuple(shape) == old:
        return unchanged(call, x, part)
    return call.add(Flatten() if len(shape) == 1 and old else Reshape(shape), x, part=part)


def permuted(call: Call, x: Signal, axes: Sequence[int], part: str = "") -> Signal:
    """Axis i of the result is axis ``axes[i]`` of the signal."""
    if list(axes) == sorted(axes):
        return unchanged(call, x, part)
    return call.add(Permute(axes), x, part=part)


def last(rank: int, axes: Sequence[int]) -> tuple[list[int], list[int]]:
    """(the order that puts these axes behind the others, the order that puts them back)."""
    order = [axis for axis in range(rank) if axis not in axes] + list(axes)
    return order, np.argsort(order).tolist()


def along(call: Call, x: Signal, axis: int, matrix: Array, part: str = "") -> Signal:
    """Each row of a matrix [O, I] over one axis of length I: a 1x1 convolution over channels, else a Linear."""
    rank = len(call.shape(x))
    dtype = call.graph.type(x.name).dtype
    if axis == 0 and 2 <= rank <= 4:
        ones = (1,) * (rank - 1)
        weight = matrix.reshape(*matrix.shape, *ones).astype(dtype)
        return call.add(Conv(weight, stride=ones, padding=(0,) * (rank - 1), dilation=ones), x, part=part)
    order, back = last(rank, [axis])
    x = permuted(call, x, order, part=f"{part}last")
    inner = call.add(Linear(matrix.astype(dtype)), x, part=f"{part}along" if back != sorted(back) else part)
    return permuted(call, inner, back, part=part) if back != sorted(back) else inner


def selected(call: Call, x: Signal, axis: int, cells: Array, part: str = "") -> Signal:
    """Cells of one axis, in that order: a slice where they have one positive distance, else a matrix of ones."""
    size = call.shape(x)[axis]
    steps = np.diff(cells)
    step = int(steps[0]) if len(steps) else 1
    if step > 0 and (steps == step).all():
        start, stop = int(cells[0]), int(cells[-1]) + 1
        if (start, stop, step) == (0, size, 1):
            return unchanged(call, x, part)
        return call.add(Slice(axis, start, None if stop == size else stop, step), x, part=part)
    return along(call, x, axis, np.eye(size)[cells], part)


def expanded(call: Call, x: Signal, shape: Sequence[int], part: str = "") -> Signal:
    """Axes of length 1 repeated; new ones come in front, as in numpy."""
    x = reshaped(call, x, (1,) * (len(shape) - len(call.shape(x))) + call.shape(x), part=f"{part}axes")
    old = call.shape(x)
    if tuple(shape) == old:
        return unchanged(call, x, part)
    rows = shape[0] != old[0]
    if tuple(shape[1:]) != old[1:]:
        x = call.add(Upsample(shape[1:]), x, part=f"{part}space" if rows else part)
    return along(call, x, 0, np.ones((shape[0], 1)), part) if rows else x


def affine(call: Call, x: Signal, gain: Array | float, shift: Array | float, part: str = "") -> Signal:
    """``gain x + shift``; both broadcast over the sample's axes, and may vary along any of them.

    It is a batch norm, which folds into its neighbours; where it varies along other axes than the channels', one
    between reorderings of the sample.
    """
    shape, dtype = call.shape(x), call.graph.type(x.name).dtype
    gains, shifts = (np.broadcast_to(np.asarray(each, np.float64), shape) for each in (gain, shift))
    if not (np.isfinite(gains).all() and np.isfinite(shifts).all()):
        call.refuse("a constant is, or its inverse is, NaN or infinite")
    if (gains == 1).all() and not shifts.any():
        return unchanged(call, x, part)
    varying = [axis for axis in range(len(shape)) if _varies(gains, axis) or _varies(shifts, axis)]
    if not set(varying) <= {0} or not 1 <= len(shape) <= 4:
        order = varying + [axis for axis in range(len(shape)) if axis not in varying]
        back = np.argsort(order).tolist()
        first = permuted(call, x, order, part=f"{part}first")
        moved = call.shape(first)
        rows = moved
        if len(varying) != 1 or len(shape) > 4:
            size = math.prod(moved[: len(varying)])
            rows = (size, math.prod(shape) // max(size, 1))
        flat = reshaped(call, first, rows, part=f"{part}rows")
        gains, shifts = (np.transpose(each, order).reshape(rows) for each in (gains, shifts))
        done = affine(call, flat, gains, shifts, f"{part}affine" if rows != moved or back != sorted(back) else part)
        whole = reshaped(call, done, moved, part=f"{part}whole")
        return permuted(call, whole, back, part) if back != sorted(back) else whole
    row: tuple[slice | int, ...] = (slice(None),) + (0,) * (len(shape) - 1)
    zeros, ones = np.zeros(shape[0], dtype), np.ones(shape[0], dtype)
    return call.add(BatchNorm(gains[row].astype(dtype), shifts[row].astype(dtype), zeros, ones, eps=0.0), x, part=part)


def _varies(array: Array, axis: int) -> bool:
    return bool((array != np.take(array, [0], axis)).any())


def concatenated(call: Call, xs: Sequence[Signal], axis: int, part: str = "") -> Signal:
    """Signals side by side."""
    return call.add(Concat(axis), *xs, part=part) if len(xs) > 1 else unchanged(call, xs[0], part)
