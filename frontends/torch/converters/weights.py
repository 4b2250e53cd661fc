"""Converters of what layers with weights, normalizations and pools call; parameters are called as torch calls them."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spikec.extend.composites import affine
from spikec.frontends.torch.call import Call, Signal, as_array, converter
from spikec.ir.ops import AdaptiveAvgPool, AvgPool, BatchNorm, Conv, ConvTranspose, Linear, Mask, MaxPool, Pad
from spikec.ir.spatial import for_axes


def for_each_axis(value: Any, rank: int) -> tuple[Any, ...]:
    """One value an axis, as torch reads ``2`` or ``(2, 3)``."""
    items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return items * rank if len(items) == 1 else items


def sizes(value: Any, rank: int) -> tuple[int, ...]:
    """One whole number an axis."""
    return tuple(map(int, for_each_axis(value, rank)))


# ------------------------------------------------------------------ weights


@converter(F.linear)
def _linear(call: Call, input: Signal, weight: Tensor, bias: Tensor | None = None) -> Signal:
    return call.add(Linear(constant_weight(call, weight), None if bias is None else constant_weight(call, bias)), input)


@converter(F.conv1d, F.conv2d, F.conv3d)
def _conv(
    call: Call,
    input: Signal,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Signal:
    array = constant_weight(call, weight)
    kernel = array.shape[2:]
    spread = sizes(dilation, len(kernel))
    op = Conv(
        array,
        None if bias is None else constant_weight(call, bias),
        stride=sizes(stride, len(kernel)),
        padding=conv_padding(padding, kernel, spread),
        dilation=spread,
        groups=groups,
    )
    return call.add(op, input)


@converter(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
def _conv_transpose(
    call: Call,
    input: Signal,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Signal:
    """The op's weight is [out, in / groups, ...], torch's [in, out / groups, ...]."""
    array = constant_weight(call, weight)
    rank = array.ndim - 2
    grouped = array.reshape(groups, -1, *array.shape[1:]).swapaxes(1, 2)
    pairs = zip(sizes(padding, rank), sizes(output_padding, rank), strict=True)
    op = ConvTranspose(
        grouped.reshape(-1, *grouped.shape[2:]),
        None if bias is None else constant_weight(call, bias),
        stride=sizes(stride, rank),
        padding=tuple((cut, cut - added) for cut, added in pairs),
        dilation=sizes(dilation, rank),
        groups=groups,
    )
    return call.add(op, input)


def conv_padding(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Pairs (before, after); ``"same"`` puts the odd cell behind, as torch does."""
    if padding == "valid":
        padding = 0
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    return tuple((p, p) for p in sizes(padding, len(kernel)))


def constant_weight(call: Call, value: Any) -> Any:
    """A weight as numpy; one that is computed from the input is refused."""
    if not isinstance(value, Tensor):
        call.refuse("the weight is computed from the model's input", "only constant weights can be compiled")
    return as_array(value)


@converter(F.batch_norm)
def batch_norm(
    call: Call,
    input: Signal,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Signal:
    """With running statistics; a missing weight is one, a missing bias zero."""
    if training or running_mean is None or running_var is None:
        call.refuse(
            "batch norm without running statistics normalizes each batch by itself",
            "train it with track_running_stats=True",
        )
    mean, var = constant_weight(call, running_mean), constant_weight(call, running_var)
    gain = np.ones_like(mean) if weight is None else constant_weight(call, weight)
    shift = np.zeros_like(mean) if bias is None else constant_weight(call, bias)
    return call.add(BatchNorm(gain, shift, mean, var, eps), input)


# -------------------------------------------------------------------- pools


def _avg_pool(
    call: Call,
    input: Signal,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    rank: int,
) -> Signal:
    call.expect_rank(input, rank + 1)
    kernel = sizes(kernel_size, rank)
    step = sizes(stride, rank) if stride else kernel
    if divisor_override is None:
        return call.add(AvgPool(kernel, step, sizes(padding, rank), ceil_mode, count_include_pad), input)
    pool = AvgPool(kernel, step, sizes(padding, rank), ceil_mode)  # it holds for all windows, whatever they cover
    if why := pool.irregular(call.graph.type(input.name)):
        call.refuse(f"divisor_override is not supported where {why}", "leave ceil_mode out")
    gain = np.asarray(math.prod(kernel) / divisor_override)
    return affine(call, call.add(pool, input, part="average"), gain, np.zeros(()))


def _max_pool(
    call: Call,
    input: Signal,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    rank: int,
) -> Signal:
    call.expect_rank(input, rank + 1)
    if return_indices:
        call.refuse("return_indices=True is not supported", "indices have no spiking form; leave it out")
    kernel = sizes(kernel_size, rank)
    step = sizes(stride, rank) if stride else kernel
    options = step, sizes(padding, rank), sizes(dilation, rank), ceil_mode
    inside, border = _within(call, input, rank)
    if not border:
        return call.add(MaxPool(kernel, *options), input)
    around = [(a + c, b + c) for (a, b), c in zip(border, options[1], strict=True)]
    result = call.add(MaxPool(kernel, step, around, *options[2:]), inside)
    like = torch.empty((1, *call.shape(input)), device="meta")
    if tuple(for_axes("max_pool", rank)(like, kernel, *options).shape[1:]) != call.shape(result):
        call.refuse("with ceil_mode, a window would start in what F.pad put around the map", "leave ceil_mode out")
    op = call.graph[result.name]
    call.graph.set_op(result.name, attrs.evolve(op, origin=(*call.graph[input.name].origin, *op.origin)))
    return result


def _within(call: Call, input: Signal, rank: int) -> tuple[Signal, Sequence[tuple[int, int]]]:
    """The map that F.pad has put minus infinity around, and how much of it; no pairs where it has not."""
    mask = call.graph[input.name]
    pad_name = call.graph.operands(input.name)[0] if isinstance(mask, Mask) else input.name
    pad = call.graph[pad_name]
    if not isinstance(mask, Mask) or not isinstance(pad, Pad) or mask.origin != pad.origin or len(pad.padding) > rank:
        return input, ()
    return Signal(call.graph.operands(pad_name)[0]), [*[(0, 0)] * (rank - len(pad.padding)), *pad.padding]


def adaptive_avg_pool(call: Call, input: Signal, output_size: Any, *, rank: int) -> Signal:
    """To maps of that size; None keeps an axis as it is."""
    call.expect_rank(input, rank + 1)
    size = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * rank
    return call.add(AdaptiveAvgPool(tuple(size)), input)


def _adaptive_max_pool(
    call: Call, input: Signal, output_size: Any, return_indices: bool = False, *, rank: int
) -> Signal:
    """A max-pool, where all windows are alike."""
    call.expect_rank(input, rank + 1)
    old = call.shape(input)[1:]
    wanted = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * rank
    new = tuple(size if cells is None else int(cells) for size, cells in zip(old, wanted, strict=True))
    if any(a % b for a, b in zip(old, new, strict=True)):
        call.refuse(f"the windows from {old} to {new} are of different sizes", "use sizes that divide the map's")
    kernel = tuple(a // b for a, b in zip(old, new, strict=True))
    return _max_pool(call, input, kernel, return_indices=return_indices, rank=rank)


for _rank in (1, 2, 3):  # the samples that these pool over have one axis more
    _names = (f"max_pool{_rank}d", f"max_pool{_rank}d_with_indices")
    converter(getattr(torch, _names[0]), *(getattr(F, each) for each in _names))(partial(_max_pool, rank=_rank))
    converter(*(getattr(F, f"adaptive_{each}") for each in _names))(partial(_adaptive_max_pool, rank=_rank))
    converter(getattr(F, f"avg_pool{_rank}d"))(partial(_avg_pool, rank=_rank))
    converter(getattr(F, f"adaptive_avg_pool{_rank}d"))(partial(adaptive_avg_pool, rank=_rank))
