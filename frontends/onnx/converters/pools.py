"""Converters of pools and of reductions, which are pools over whole axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np

from spikec.extend.call import Signal
from spikec.extend.composites import affine, permuted, reshaped
from spikec.frontends.onnx.call import Call, converter
from spikec.frontends.onnx.converters.layers import Window
from spikec.ir.op import Op
from spikec.ir.ops import AdaptiveAvgPool, AvgPool, Conv, Identity, MaxPool, Pad
from spikec.ir.ops.weighted import Pairs
from spikec.ir.types import Array


@converter("AveragePool")
def _average_pool(call: Call) -> Signal:
    x, window = _window(call)
    pads = window.padding(call.shape(x)[1:])
    ceil = bool(call.attributes.get("ceil_mode", 0))
    counts_pads = bool(call.attributes.get("count_include_pad", 0)) or not any(map(any, pads))
    if _is_torch_padding(pads, window.kernel) and set(window.dilation) == {1}:
        return call.add(AvgPool(window.kernel, window.stride, [a for a, _ in pads], ceil, counts_pads), x)
    return _uneven_average(call, x, window, pads, ceil, counts_pads)


def _uneven_average(call: Call, x: Signal, window: Window, pads: Pairs, ceil: bool, counts_pads: bool) -> Signal:
    """Windows over the padded map, each times its share of cells that count."""
    channels, *sizes = call.shape(x)
    rank = len(sizes)
    whole = _whole_padding(window, sizes, pads, ceil)
    x = call.add(Pad(whole), x, part="pad") if any(map(any, whole)) else x
    if set(window.dilation) == {1}:
        average: Op = AvgPool(window.kernel, window.stride, (0,) * rank)
    else:
        weight = np.full((channels, 1, *window.kernel), 1 / math.prod(window.kernel), call.graph.type(x.name).dtype)
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
        return call.add(average, x)
    return affine(call, call.add(average, x, part="average"), share[None], 0)


@converter("MaxPool")
def _max_pool(call: Call) -> Signal:
    x, window = _window(call)
    pads = window.padding(call.shape(x)[1:])
    ceil = bool(call.attributes.get("ceil_mode", 0))
    if not _is_torch_padding(pads, window.kernel):
        pads, ceil = _whole_padding(window, call.shape(x)[1:], pads, ceil), False
    return call.add(MaxPool(window.kernel, window.stride, pads, window.dilation, ceil), x)


def _window(call: Call) -> tuple[Signal, Window]:
    x = call.signal()
    window = Window(call, call.attributes["kernel_shape"])
    if len(window.kernel) > 3:
        call.refuse(f"a {len(window.kernel)}d pool is not supported", "1 to 3 spatial axes are")
    call.expect_rank(x, len(window.kernel) + 1)
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
def _global_average_pool(call: Call) -> Signal:
    return _reduced(call, range(1, len(call.shape(call.signal()))), True, _mean)


@converter("GlobalMaxPool")
def _global_max_pool(call: Call) -> Signal:
    return _reduced(call, range(1, len(call.shape(call.signal()))), True, _maximum)


@converter("ReduceMean")
def _reduce_mean(call: Call) -> Signal:
    return _reduce(call, _mean, lambda x, count: x)


@converter("ReduceSum")
def _reduce_sum(call: Call) -> Signal:
    return _reduce(call, _mean, lambda x, count: affine(call, x, count, 0))


@converter("ReduceMax")
def _reduce_max(call: Call) -> Signal:
    return _reduce(call, _maximum, lambda x, count: x)


@converter("ReduceMin")
def _reduce_min(call: Call) -> Signal:
    minus = affine(call, call.signal(), -1, 0, part="minus")
    return _reduce(call, _maximum, lambda x, count: affine(call, x, -1, 0), minus)


def _mean(sizes: Sequence[int]) -> Op:
    return AdaptiveAvgPool((1,) * len(sizes))


def _maximum(sizes: Sequence[int]) -> Op:
    return MaxPool(sizes, sizes, (0,) * len(sizes), (1,) * len(sizes))


def _reduce(
    call: Call,
    pool: Callable[[Sequence[int]], Op],
    then: Callable[[Signal, int], Signal],
    operand: Signal | None = None,
) -> Signal:
    """A reduction by its ``axes``; ``then`` is called with the pooled signal and the number of cells in a window."""
    x = operand or call.signal()
    axes: Array | None = call.option("axes", 1)
    if axes is None or not np.size(axes):
        if call.attributes.get("noop_with_empty_axes", 0):
            return call.add(Identity(), x)
        call.refuse("it reduces all axes, that of the batch too", "name the axes, without axis 0")
    inside = call.axes(x, axes)
    count = math.prod(call.shape(x)[axis] for axis in inside)
    return then(_reduced(call, inside, bool(call.attributes.get("keepdims", 1)), pool, x), count)


def _reduced(
    call: Call,
    axes: Sequence[int],
    keepdims: bool,
    pool: Callable[[Sequence[int]], Op],
    operand: Signal | None = None,
) -> Signal:
    """The pool over whole axes, behind the one axis that is kept, or all that are kept as one."""
    x = operand or call.signal()
    shape = call.shape(x)
    if 0 in shape:
        call.refuse(f"a tensor {call.shown(x)} holds no number")
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    result = [1 if axis in axes else size for axis, size in enumerate(shape) if keepdims or axis not in axes]
    if len(kept) != 1 or not 1 <= len(axes) <= 3:
        rows = permuted(call, x, [*kept, *axes], part="rows")
        sizes = [math.prod(shape[axis] for axis in part) for part in (kept, axes)]
        x = reshaped(call, rows, sizes, part="flat")
        return reshaped(call, call.add(pool(sizes[1:]), x, part="pool"), result)
    x = permuted(call, x, [*kept, *axes], part="first")
    op = pool([shape[axis] for axis in axes])
    if kept == [0] and keepdims:
        return call.add(op, x)
    return reshaped(call, call.add(op, x, part="pool"), result)
