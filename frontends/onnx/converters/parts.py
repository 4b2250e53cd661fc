"""Converters of what takes samples apart, puts them together, and pads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from spikec.extend.arrange import affine, concatenated, last, permuted, reshaped, selected, unchanged
from spikec.extend.call import Signal
from spikec.frontends.onnx.call import Call, converter
from spikec.ir.ops import Pad


@converter("Concat")
def _concat(at: Call) -> Signal:
    xs = [at.signal(slot) for slot in range(len(at.inputs))]
    return concatenated(at, xs, at.axis(xs[0], at.attributes["axis"]))


@converter("Split")
def _split(at: Call) -> tuple[Signal, ...]:
    x = at.signal()
    axis = at.axis(x, at.attributes.get("axis", 0))
    size, count = at.shape(x)[axis], len(at.named)
    lengths = at.option("split", 1)
    if lengths is None:
        step = -(-size // count)
        lengths = [min(step, size - i * step) for i in range(count)]
    if sum(lengths) != size or min(lengths) < 1:
        at.refuse(f"it splits {size} cells into {list(lengths)}")
    ends = np.cumsum(lengths).tolist()
    starts = [0, *ends[:-1]]
    return tuple(selected(at, x, axis, np.arange(a, b)) for a, b in zip(starts, ends, strict=True))


@converter("Slice")
def _slice(at: Call) -> Signal:
    x = at.signal()
    columns: list[Sequence[Any]]
    if at.opset < 10:
        columns = [[at.attributes.get(name)] * len(at.batches) for name in ("starts", "ends", "axes", "steps")]
    else:
        columns = [at.each(slot) if at.has(slot) else [None] * len(at.batches) for slot in range(1, 5)]
    given = zip(*columns, strict=True)
    found = [_cells(at, x, batch, *numbers) for batch, numbers in zip(at.batches, given, strict=True)]
    if any(cells.pop(0, range(batch)) != range(batch) for batch, cells in zip(at.batches, found, strict=True)):
        at.refuse("it slices the batch axis", "samples of a batch are independent in a compiled network")
    if any(cells != found[0] for cells in found):
        at.refuse("it slices by numbers that depend on the batch size")
    todo = list(found[0].items())
    if not all(cells for _, cells in todo):
        at.refuse("the slice leaves nothing")
    for axis, cells in todo[:-1]:
        x = selected(at, x, axis - 1, np.array(cells), part=f"axis{axis}")
    return selected(at, x, todo[-1][0] - 1, np.array(todo[-1][1])) if todo else unchanged(at, x)


def _cells(
    at: Call,
    x: Signal,
    batch: int,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None,
    steps: Sequence[int] | None,
) -> dict[int, range]:
    """Which cells each axis of the tensor keeps, for one batch size."""
    shape = (batch, *at.shape(x))
    found = {}
    for i, axis in enumerate(range(len(starts)) if axes is None else axes):
        step = 1 if steps is None else int(steps[i])
        bounds = slice(int(starts[i]), int(ends[i]), step)
        found[int(axis) % len(shape)] = range(*bounds.indices(shape[axis]))
    return found


@converter("Gather")
def _gather(at: Call) -> Signal:
    x, index = at.signal(), at.constant(1)
    axis = at.axis(x, at.attributes.get("axis", 0))
    shape = at.shape(x)
    if not index.size or (np.abs(index + 0.5) > shape[axis]).any():
        at.refuse(f"its indices reach out of {shape[axis]} cells, or there are none")
    cells = np.ravel(index) % shape[axis]
    if index.ndim == 1:
        return selected(at, x, axis, cells)
    picked = selected(at, x, axis, cells, part="select")
    return reshaped(at, picked, (*shape[:axis], *index.shape, *shape[axis + 1 :]))


_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@converter("Pad")
def _pad(at: Call) -> Signal:
    x = at.signal()
    rank = len(at.shape(x)) + 1
    flat = np.asarray(at.option("pads", 1)).reshape(2, -1)
    axes = at.constant(3) if at.has(3) else np.arange(flat.shape[1])
    pairs: list[tuple[int, int]] = [(0, 0)] * rank
    for axis, before, after in zip(axes % rank, *flat, strict=True):
        pairs[axis] = (int(before), int(after))
    if any(pairs[0]):
        at.refuse("it pads the batch axis", "samples of a batch are independent in a compiled network")
    padded = [axis for axis, pair in enumerate(pairs[1:]) if any(pair)]
    if not padded:
        return unchanged(at, x)
    sizes = [pairs[axis + 1] for axis in padded]
    mode = _MODES[at.attributes.get("mode", "constant")]
    if mode != "constant":
        return _pad_by_cells(at, x, padded, sizes, mode)
    value = float(np.reshape(at.option("value", 2, 0.0), ()))
    if not math.isfinite(value):
        at.refuse(f"padding with {value} is not supported", "a MaxPool takes its own padding")
    x = affine(at, x, 1, -value, part="below")
    op = Pad(pairs[1 + padded[0] :])
    return affine(at, at.add(op, x, part="pad"), 1, value) if value else at.add(op, x)


def _pad_by_cells(at: Call, x: Signal, axes: list[int], sizes: list[tuple[int, int]], mode: str) -> Signal:
    """Padding with the map's own cells, which torch does for the last axes behind one other."""
    if len(axes) > 3:
        at.refuse(f"padding {len(axes)} axes by {mode} is not supported", "pad with zeros")
    shape = at.shape(x)
    order, back = last(len(shape), axes)
    moved = permuted(at, x, order, part="last")
    front = at.shape(moved)[: len(shape) - len(axes)]
    rows = reshaped(at, moved, (math.prod(front), *(shape[axis] for axis in axes)), part="rows")
    padded = at.add(Pad(sizes, mode), rows, part="pad" if rows != x else "")
    whole = reshaped(at, padded, (*front, *at.shape(padded)[1:]), part="whole")
    return permuted(at, whole, back, part="" if back != sorted(back) else "back")
