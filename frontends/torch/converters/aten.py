"""Converters of aten overloads that have no like among torch's functions; all others are found by name."""

import operator
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from spikec.frontends.torch.batch import BATCH
from spikec.frontends.torch.call import Call, Missing, Signal, converter, methods
from spikec.frontends.torch.convert import convert

aten = torch.ops.aten


def _call(call: Call, key: Any, *args: Any) -> Signal:
    """What the converter of one of torch's functions or methods gives."""
    found = converter.get(key)
    if found is None:
        call.refuse(f"{call.source.kind} is not supported")
    result: Signal = convert(found, attrs.evolve(call, args=args, kwargs={}, outer=call))
    return result


@converter(aten.sym_size.int)
def _size(call: Call, self: Signal, dim: int) -> Any:
    return (BATCH, *call.shape(self))[dim]


@converter(aten.convolution)
def _convolution(
    call: Call,
    input: Signal,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Signal:
    if not isinstance(weight, Tensor):
        call.refuse("the weight is computed from the model's input", "only constant weights can be compiled")
    rank = weight.ndim - 2
    if transposed:
        transpose = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
        return _call(call, transpose, input, weight, bias, stride, padding, output_padding, groups, dilation)
    conv = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return _call(call, conv, input, weight, bias, stride, padding, dilation, groups)


@converter(aten.to, aten._to_copy)
def _cast(call: Call, self: Signal, *args: Any, **kwargs: Any) -> Signal:
    """A device and a layout change no number; a dtype may only be the graph's own."""
    dtypes = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)]
    return _call(call, *methods("to"), self, *dtypes)


def _pad(call: Call, self: Signal, padding: Sequence[int], *, mode: str) -> Signal:
    return _call(call, F.pad, self, padding, mode)


for _rank in (1, 2, 3):
    converter(getattr(aten, f"reflection_pad{_rank}d"))(partial(_pad, mode="reflect"))
    converter(getattr(aten, f"replication_pad{_rank}d"))(partial(_pad, mode="replicate"))


def _adaptive_max_pool(call: Call, self: Signal, output_size: Any, *, rank: int) -> Any:
    """The maxima, and their places."""
    found = _call(call, getattr(F, f"adaptive_max_pool{rank}d"), self, output_size)
    return found, Missing("the places of a maximum have no spiking form")


for _rank in (1, 2, 3):
    converter(getattr(aten, f"adaptive_max_pool{_rank}d").default)(partial(_adaptive_max_pool, rank=_rank))


# ------------------------------------------------------------------- movement


@converter(aten.slice)
def _slice(
    call: Call, self: Signal, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Signal:
    cells = slice(start, None if end == sys.maxsize else end, step)
    in_front = (slice(None),) * (dim % (len(call.shape(self)) + 1))
    return _call(call, operator.getitem, self, (*in_front, cells))


@converter(aten.index, aten._unsafe_index)
def _index(call: Call, self: Signal, indices: Sequence[Any]) -> Signal:
    return _call(call, operator.getitem, self, tuple(slice(None) if each is None else each for each in indices))


@converter(*(getattr(aten, f"upsample_nearest{rank}d").default for rank in (1, 2, 3)))
def _upsample_to(call: Call, self: Signal, output_size: Any, *scales: float | None) -> Signal:
    return _call(call, F.interpolate, self, output_size, None, "nearest")
