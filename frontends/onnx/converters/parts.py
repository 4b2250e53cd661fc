"""Converters of what takes samples apart, puts them together, and pads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from spikec.extend.call import Signal
from spikec.extend.composites import affine, concatenated, last, permuted, reshaped, selected, unchanged
from spikec.frontends.onnx.call import Call, converter
from spikec.ir.ops import Pad


@converter("Concat")
def _concat(call: Call) -> Signal:
    xs = [call.signal(slot) for slot in range(len(call.inputs))]
    return concatenated(call, xs, call.axis(xs[0], call.attributes["axis"]))


@converter("Split")
def _split(call: Call) -> tuple[Signal, ...]:
    x = call.signal()
    axis = call.axis(x, call.attributes.get("axis", 0))
    size, count = call.shape(x)[axis], len(call.named)
    lengths = call.option("split", 1)
    if lengths is None:
        step = -(-size // count)
        lengths = [min(step, size - i * step) for i in range(count)]
    if sum(lengths) != size or min(lengths) < 1:
        call.refuse(f"it splits {size} cells into {list(lengths)}")
    ends = np.cumsum(lengths).tolist()
    starts = [0, *ends[:-1]]
    return tuple(selected(call, x, axis, np.arange(a, b)) for a, b in zip(starts, ends, strict=True))


@converter("Slice")
def _slice(call: Call) -> Signal:
    x = call.signal()
    columns: list[Sequence[Any]]
    if call.opset < 10:
        columns = [[call.attributes.get(name)] * len(call.batches) for name in ("starts", "ends", "axes", "steps")]
    else:
        columns = [call.each(slot) if call.has(slot) else [None] * len(call.batches) for slot in range(1, 5)]
    given = zip(*columns, strict=True)
    found = [_cells(call, x, batch, *numbers) for batch, numbers in zip(call.batches, given, strict=True)]
    if any(cells.pop(0, range(batch)) != range(batch) for batch, cells in zip(call.batches, found, strict=True)):
        call.refuse("it slices the batch axis", "samples of a batch are independent in a compiled network")
    if any(cells != found[0] for cells in found):
        call.refuse("it slices by numbers that depend on the batch size")
    todo = list(found[0].items())
    if not all(cells for _, cells in todo):
        call.refuse("the slice leaves nothing")
    for axis, cells in todo[:-1]:
        x = selected(call, x, axis - 1, np.array(cells), part=f"axis{axis}")
    return selected(call, x, todo[-1][0] - 1, np.array(todo[-1][1])) if todo else unchanged(call, x)


def _cells(
    call: Call,
    x: Signal,
    batch: int,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None,
    steps: Sequence[int] | None,
) -> dict[int, range]:
    """Which cells each axis of the tensor keeps, for one batch size."""
    shape = (batch, *call.shape(x))
    found = {}
    for i, axis in enumerate(range(len(starts)) if axes is None else axes):
        step = 1 if steps is None else int(steps[i])
        bounds = slice(int(starts[i]), int(ends[i]), step)
        found[int(axis) % len(shape)] = range(*bounds.indices(shape[axis]))
    return found


@converter("Gather")
def _gather(call: Call) -> Signal:
    x, index = call.signal(), call.constant(1)
    axis = call.axis(x, call.attributes.get("axis", 0))
    shape = call.shape(x)
    if not index.size or (np.abs(index + 0.5) > shape[axis]).any():
        call.refuse(f"its indices reach out of {shape[axis]} cells, or there are none")
    cells = np.ravel(index) % shape[axis]
    if index.ndim == 1:
        return selected(call, x, axis, cells)
    picked = selected(call, x, axis, cells, part="select")
    return reshaped(call, picked, (*shape[:axis], *index.shape, *shape[axis + 1 :]))


_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@converter("Pad")
def _pad(call: Call) -> Signal:
    x = call.signal()
    rank = len(call.shape(x)) + 1
    flat = np.asarray(call.option("pads", 1)).reshape(2, -1)
    axes = call.constant(3) if call.has(3) else np.arange(flat.shape[1])
    pairs: list[tuple[int, int]] = [(0, 0)] * rank
    for axis, before, after in zip(axes % rank, *flat, strict=True):
        pairs[axis] = (int(before), int(after))
    if any(pairs[0]):
        call.refuse("it pads the batch axis", "samples of a batch are independent in a compiled network")
    padded = [axis for axis, pair in enumerate(pairs[1:]) if any(pair)]
    if not padded:
        return unchanged(call, x)
    sizes = [pairs[axis + 1] for axis in padded]
    mode = _MODES[call.attributes.get("mode", "constant")]
    if mode != "constant":
        return _pad_by_cells(call, x, padded, sizes, mode)
    value = float(np.reshape(call.option("value", 2, 0.0), ()))
    if not math.isfinite(value):
        call.refuse(f"padding with {value} is not supported", "a MaxPool takes its own padding")
    x = affine(call, x, 1, -value, part="below")
    op = Pad(pairs[1 + padded[0] :])
    return affine(call, call.add(op, x, part="pad"), 1, value) if value else call.add(op, x)


def _pad_by_cells(call: Call, x: Signal, axes: list[int], sizes: list[tuple[int, int]], mode: str) -> Signal:
    """Padding with the map's own cells, which torch does for the last axes behind one other."""
    if len(axes) > 3:
        call.refuse(f"padding {len(axes)} axes by {mode} is not supported", "pad with zeros")
    shape = call.shape(x)
    order, back = last(len(shape), axes)
    moved = permuted(call, x, order, part="last")
    front = call.shape(moved)[: len(shape) - len(axes)]
    rows = reshaped(call, moved, (math.prod(front), *(shape[axis] for axis in axes)), part="rows")
    padded = call.add(Pad(sizes, mode), rows, part="pad" if rows != x else "")
    whole = reshaped(call, padded, (*front, *call.shape(padded)[1:]), part="whole")
    return permuted(call, whole, back, part="" if back != sorted(back) else "back")
