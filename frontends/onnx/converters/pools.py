"""Converters of pools and of reductions, which are pools over whole axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from spikec.extend.arrange import affine, permuted, reshaped
from spikec.extend.call import Signal
from spikec.frontends.onnx.call import Call, converter
from spikec.frontends.onnx.converters.layers import Window
from spikec.ir.op import Op
from spikec.ir.ops import AdaptiveAvgPool, AvgPool, Conv, Identity, MaxPool, Pad
from spikec.ir.ops.weighted import Pairs
from spikec.ir.types import Array


@converter("AveragePool")
def _average_pool(at: Call) -> Signal:
    x, window = _window(at)
    pads = window.padding(at.shape(x)[1:])
    ceil = bool(at.attributes.get("ceil_mode", 0))
    counts_pads = bool(at.attributes.get("count_include_pad", 0)) or not any(map(any, pads))
    if _is_torch_padding(pads, window.kernel) and set(window.dilation) == {1}:
        return at.add(AvgPool(window.kernel, window.stride, [a for a, _ in pads], ceil, counts_pads), x)
    return _uneven_average(at, x, window, pads, ceil, counts_pads)


def _uneven_average(at: Call, x: Signal, window: Window, pads: Pairs, ceil: bool, counts_pads: bool) -> Signal:
    """Windows over the padded map, each times its share of cells that count."""
    channels, *sizes = at.shape(x)
    rank = len(sizes)
    whole = _whole_padding(window, sizes, pads, ceil)
    x = at.add(Pad(whole), x, part="pad") if any(map(any, whole)) else x
    if set(window.dilation) == {1}:
        average: Op = AvgPool(window.kernel, window.stride, (0,) * rank)
    else:
        weight = np.full((channels, 1, *window.kernel), 1 / math.prod(window.kernel), at.graph.type(x.name).dtype)
        average = Conv(weight, stride=window.stride, padding=(0,) * rank, dilation=window.dilation, groups=channels)
    counts = []
    for i, (size, (before, after)) in enumerate(zip(sizes, pads, strict=True)):
        number = (size + sum(whole[i]) - window.extent[i]) // window.stride[i] + 1
        starts = np.arange(number) * window.stride[i] - before
        cells = starts[:, None] + np.arange(window.kernel[i]) * window.dilation[i]
        low, high = (-before, size + after) if counts_pads else (0, size)
        counts.append(((cells >= low) & (cells < high)).sum(1))
    with np.errstate(divide="ignore"):
        share = math.prod(window.kernel) / reduce(np.multiply.outer, counts)
    if (share == 1).all():
        return at.add(average, x)
    return affine(at, at.add(average, x, part="average"), share[None], 0)


@converter("MaxPool")
def _max_pool(at: Call) -> Signal:
    x, window = _window(at)
    pads = window.padding(at.shape(x)[1:])
    ceil = bool(at.attributes.get("ceil_mode", 0))
    if not _is_torch_padding(pads, window.kernel):
        pads, ceil = _whole_padding(window, at.shape(x)[1:], pads, ceil), False
    return at.add(MaxPool(window.kernel, window.stride, pads, window.dilation, ceil), x)


def _window(at: Call) -> tuple[Signal, Window]:
    x = at.signal()
    window = Window(at, at.attributes["kernel_shape"])
    if len(window.kernel) > 3:
        at.refuse(f"a {len(window.kernel)}d pool is not supported", "1 to 3 spatial axes are")
    at.expect_rank(x, len(window.kernel) + 1)
    return x, window


def _is_torch_padding(pads: Pairs, kernel: Sequence[int]) -> bool:
    """The same on both sides, at most half a kernel."""
    return all(a == b and 2 * a <= size for (a, b), size in zip(pads, kernel, strict=True))


def _whole_padding(window: Window, sizes: Sequence[int], pads: Pairs, ceil: bool) -> Pairs:
    """The padding with which every window lies inside: one that ``ceil_mode`` adds starts in front of the end pad."""
    found = []
    for i, (size, (before, after)) in enumerate(zip(sizes, pads, strict=True)):
        step, span = window.stride[i], size + before + after - window.extent[i]
        steps = -(-span // step) if ceil else span // step
        if ceil and steps * step >= size + before:
            steps -= 1
        found.append((before, max(after, steps * step + window.extent[i] - size - before)))
    return tuple(found)


# ----------------------------------------------------------------- reductions


@converter("GlobalAveragePool")
def _global_average_pool(at: Call) -> Signal:
    return _reduced(at, range(1, len(at.shape(at.signal()))), True, _mean)


@converter("GlobalMaxPool")
def _global_max_pool(at: Call) -> Signal:
    return _reduced(at, range(1, len(at.shape(at.signal()))), True, _maximum)


@converter("ReduceMean")
def _reduce_mean(at: Call) -> Signal:
    return _reduce(at, _mean, lambda x, count: x)


@converter("ReduceSum")
def _reduce_sum(at: Call) -> Signal:
    return _reduce(at, _mean, lambda x, count: affine(at, x, count, 0))


@converter("ReduceMax")
def _reduce_max(at: Call) -> Signal:
    return _reduce(at, _maximum, lambda x, count: x)


@converter("ReduceMin")
def _reduce_min(at: Call) -> Signal:
    minus = affine(at, at.signal(), -1, 0, part="minus")
    return _reduce(at, _maximum, lambda x, count: affine(at, x, -1, 0), minus)


def _mean(sizes: Sequence[int]) -> Op:
    return AdaptiveAvgPool((1,) * len(sizes))


def _maximum(sizes: Sequence[int]) -> Op:
    return MaxPool(sizes, sizes, (0,) * len(sizes), (1,) * len(sizes))


def _reduce(
    at: Call,
    pool: Callable[[Sequence[int]], Op],
    then: Callable[[Signal, int], Signal],
    operand: Signal | None = None,
) -> Signal:
    """A reduction by its ``axes``; ``then`` is called with the pooled signal and the number of cells in a window."""
    x = operand or at.signal()
    axes: Array | None = at.option("axes", 1)
    if axes is None or not np.size(axes):
        if at.attributes.get("noop_with_empty_axes", 0):
            return at.add(Identity(), x)
        at.refuse("it reduces all axes, that of the batch too", "name the axes, without axis 0")
    inside = at.axes(x, axes)
    count = math.prod(at.shape(x)[axis] for axis in inside)
    return then(_reduced(at, inside, bool(at.attributes.get("keepdims", 1)), pool, x), count)


def _reduced(
    at: Call,
    axes: Sequence[int],
    keepdims: bool,
    pool: Callable[[Sequence[int]], Op],
    operand: Signal | None = None,
) -> Signal:
    """The pool over whole axes, behind the one axis that is kept, or all that are kept as one."""
    x = operand or at.signal()
    shape = at.shape(x)
    if 0 in shape:
        at.refuse(f"a tensor {at.shown(x)} holds no number")
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    result = [1 if axis in axes else size for axis, size in enumerate(shape) if keepdims or axis not in axes]
    if len(kept) != 1 or not 1 <= len(axes) <= 3:
        rows = permuted(at, x, [*kept, *axes], part="rows")
        sizes = [math.prod(shape[axis] for axis in part) for part in (kept, axes)]
        x = reshaped(at, rows, sizes, part="flat")
        return reshaped(at, at.add(pool(sizes[1:]), x, part="pool"), result)
    x = permuted(at, x, [*kept, *axes], part="first")
    op = pool([shape[axis] for axis in axes])
    if kept == [0] and keepdims:
        return at.add(op, x)
    return reshaped(at, at.add(op, x, part="pool"), result)
