"""Converters of what takes windows out of a tensor, one beside the other or over each other, and puts them back."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spikec.extend.composites import permuted, reshaped, selected
from spikec.frontends.torch.call import Call, Signal, as_array, converter, methods
from spikec.frontends.torch.composed import composed
from spikec.frontends.torch.converters.shapes import asked, sample_axis
from spikec.frontends.torch.converters.weights import sizes


@converter(*methods("unfold"))
def _unfold(call: Call, input: Signal, dimension: int, size: int, step: int) -> Signal:
    """Windows along one axis, which may lie over each other: [..., L, ...] to [..., windows, ..., size]."""
    axis, shape = sample_axis(call, input, dimension), call.shape(input)
    like = asked(call, f"give a window of {shape[axis]} cells at most", torch.arange(shape[axis]).unfold, 0, size, step)
    cells = selected(call, input, axis, as_array(like.reshape(-1)), part="cells")
    apart = reshaped(call, cells, (*shape[:axis], *like.shape, *shape[axis + 1 :]), part="windows")
    rank = len(shape) + 1
    return permuted(call, apart, [*(each for each in range(rank) if each != axis + 1), axis + 1])


def _one_hot(call: Call, input: Signal, channels: int, kernel: tuple[int, ...]) -> Tensor:
    """The kernels that pick each cell of a window, for each channel: [C kh kw, 1, kh, kw]."""
    cells = math.prod(kernel)
    dtype = getattr(torch, call.graph.type(input.name).dtype)
    return torch.eye(cells, dtype=dtype).reshape(cells, 1, *kernel).repeat(channels, 1, 1, 1)


@converter(F.unfold, torch.ops.aten.im2col)
def _im2col(call: Call, input: Signal, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """The windows of a map [C, H, W] in columns, [C kh kw, windows]: a convolution with kernels of a single one."""
    call.expect_rank(input, 3)
    channels, kernel = call.shape(input)[0], sizes(kernel_size, 2)
    weight = _one_hot(call, input, channels, kernel)
    steps, added, apart = (sizes(each, 2) for each in (stride, padding, dilation))
    return composed(call, lambda x: F.conv2d(x, weight, None, steps, added, apart, channels).flatten(2), input)


@converter(F.fold, torch.ops.aten.col2im)
def _col2im(
    call: Call,
    input: Signal,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Any:
    """Columns [C kh kw, windows] as a map [C, H, W], where windows that lie over each other are added."""
    call.expect_rank(input, 2)
    given = output_size, kernel_size, stride, padding, dilation
    size, kernel, steps, added, apart = (sizes(each, 2) for each in given)
    spans = [n + 2 * p - d * (k - 1) - 1 for n, p, d, k in zip(size, added, apart, kernel, strict=True)]
    windows, left = zip(*(divmod(span, step) for span, step in zip(spans, steps, strict=True)), strict=True)
    counts = [each + 1 for each in windows]
    rows, columns = call.shape(input)
    channels, rest = divmod(rows, math.prod(kernel))
    if rest or not channels or min(counts) < 1 or columns != math.prod(counts):
        call.refuse(
            f"samples of shape {(rows, columns)} hold no windows of {list(kernel)} for a map of {list(size)}",
            f"give [B, C * {math.prod(kernel)}, {math.prod(counts)}]",
        )
    weight = _one_hot(call, input, channels, kernel)

    def fold(x: Any) -> Any:
        x = x.unflatten(-1, counts)
        return F.conv_transpose2d(x, weight, None, steps, added, left, channels, apart)

    return composed(call, fold, input)
