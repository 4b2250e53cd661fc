"""Converters of pools, and of reductions over axes."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from spikec.extend.composites import affine, permuted, reshaped
from spikec.frontends.onnx.call import Call, Signal, converter
from spikec.frontends.onnx.converters.weighted import Window
from spikec.ir.op import Op
from spikec.ir.ops import AvgPool, Conv, MaxPool, Pad
from spikec.ir.ops.weighted import Pairs

# ------------------------------------------------------------------------ pools


@converter("AveragePool")
def _average_pool(
    call: Call, x: Any, kernel_shape: Sequence[int], ceil_mode: int = 0, count_include_pad: int = 0, **attributes: Any
) -> Any:
    window = Window(call, x, kernel_shape, **attributes)
    counts_pads = bool(count_include_pad) or not any(map(any, window.pads))
    if _pads_as_torch(window) and set(window.dilation) == {1}:
        before = [pair[0] for pair in window.pads]
        return call.add(AvgPool(window.kernel, window.stride, before, bool(ceil_mode), counts_pads), x)
    return _uneven_average(call, x, window, bool(ceil_mode), counts_pads)


def _uneven_average(call: Call, x: Signal, window: Window, ceil: bool, counts_pads: bool) -> Any:
    """Windows over the padded map, each times its share of cells that count."""
    channels, rank, cells = call.shape(x)[0], len(window.kernel), math.prod(window.kernel)
    whole = _whole_padding(window, ceil)
    x = call.add(Pad(whole), x, part="pad") if any(map(any, whole)) else x
    if set(window.dilation) == {1}:
        average: Op = AvgPool(window.kernel, window.stride, (0,) * rank)
    else:
        weight = np.full((channels, 1, *window.kernel), 1 / cells, call.graph.type(x.name).dtype)
        average = Conv(weight, stride=window.stride, padding=(0,) * rank, dilation=window.dilation, groups=channels)
    # the same windows over ones say how many cells of each count: those of the map, and of the stated pads or not
    counted = window.pads if counts_pads else ((0, 0),) * rank
    ones = torch.ones(1, channels, *(size + a + b for size, (a, b) in zip(window.sizes, counted, strict=True)))
    uncounted = [(a - c, b - d) for (a, b), (c, d) in zip(whole, counted, strict=True)]
    mean = average.eval(Pad(uncounted).eval(ones))[0, :1].numpy()
    return affine(call, call.add(average, x, part="average"), cells / np.rint(cells * mean), 0, part="share")


@converter("MaxPool")
def _max_pool(
    call: Call, x: Any, kernel_shape: Sequence[int], ceil_mode: int = 0, storage_order: int = 0, **attributes: Any
) -> Any:
    """The order of storage concerns the indices only, which are refused where they are used."""
    window = Window(call, x, kernel_shape, **attributes)
    pads, ceil = window.pads, bool(ceil_mode)
    if not _pads_as_torch(window):
        pads, ceil = _whole_padding(window, ceil), False
    return call.add(MaxPool(window.kernel, window.stride, pads, window.dilation, ceil), x)


def _pads_as_torch(window: Window) -> bool:
    """True for padding as torch's pools take it: the same on both sides, at most half a kernel."""
    return all(a == b and 2 * a <= size for (a, b), size in zip(window.pads, window.kernel, strict=True))


def _whole_padding(window: Window, ceil: bool) -> Pairs:
    """The padding with which every window lies inside: one that ``ceil_mode`` adds starts in front of the end pad."""
    found = []
    axes = zip(window.sizes, window.pads, window.stride, window.extent, strict=True)
    for size, (before, after), step, extent in axes:
        span = size + before + after - extent
        steps = -(-span // step) if ceil else span // step
        if ceil and steps * step >= size + before:
            steps -= 1
        found.append((before, max(after, steps * step + extent - size - before)))
    return tuple(found)


# ------------------------------------------------------------------- reductions


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    def convert(
        call: Call, x: Any, axes: Sequence[int] | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0
    ) -> Any:
        if axes is None or not len(axes):
            if noop_with_empty_axes:
                return x
            call.refuse("it reduces all axes, that of the batch too", "name the axes, without axis 0")
        return _reduced(call, function, x, sorted({call.axis(x, axis) for axis in axes}), bool(keepdims))

    return convert


for _kind, _function in (("Mean", torch.mean), ("Sum", torch.sum), ("Max", torch.amax), ("Min", torch.amin)):
    converter(f"Reduce{_kind}")(_reduction(_function))


@converter("GlobalAveragePool")
def _global_average_pool(call: Call, x: Any) -> Any:
    return _reduced(call, torch.mean, x, range(1, len(call.shape(x))), keepdims=True)


@converter("GlobalMaxPool")
def _global_max_pool(call: Call, x: Any) -> Any:
    return _reduced(call, torch.amax, x, range(1, len(call.shape(x))), keepdims=True)


def _reduced(call: Call, function: Callable[..., Any], x: Any, axes: Sequence[int], keepdims: bool) -> Any:
    """A reduction over axes of the sample; where channels are among them, behind the axes that are kept."""
    shape = call.shape(x)
    if 0 in shape:
        call.refuse(f"a tensor {call.shown(x)} holds no number")
    if axes and 0 not in axes and len(shape) <= 4:
        return function(x, [axis + 1 for axis in axes], keepdims)
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    x = permuted(call, x, [*kept, *axes], part="order")
    if len(kept) != 1 or not 1 <= len(axes) <= 3:
        x = reshaped(call, x, [math.prod(shape[axis] for axis in part) for part in (kept, axes)], part="rows")
    pooled = function(x, list(range(2, len(call.shape(x)) + 1)), keepdims)
    result = [1 if axis in axes else size for axis, size in enumerate(shape) if keepdims or axis not in axes]
    return reshaped(call, pooled, result, part="shape")
