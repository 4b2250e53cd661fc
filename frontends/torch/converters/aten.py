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

from spikec.frontends.torch.batch import BATCH, takes_batch
from spikec.frontends.torch.call import Call, Missing, Signal, converter, methods, takes_moved
from spikec.frontends.torch.convert import convert, refuse_unknown

aten = torch.ops.aten


def _call(call: Call, key: Any, *args: Any) -> Signal:
    """What the converter of one of torch's functions or methods gives."""
    found = converter.get(key)
    if found is None:
        refuse_unknown(call, call.source.kind)
    result: Signal = convert(found, attrs.evolve(call, args=args, kwargs={}, outer=call))
    return result


@converter(aten.sym_size.int)
def _size(call: Call, self: Signal, dim: int) -> Any:
    return (BATCH, *call.shape(self))[dim]


@converter(aten.convolution)
@takes_moved
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


@converter(aten.native_group_norm)
@takes_batch
def _group_norm(call: Call, input: Signal, weight: Any, bias: Any, *sizes: Any) -> Any:
    """``sizes``: of the batch, of its axes, then the number of groups, and epsilon."""
    return _call(call, torch.native_group_norm, input, weight, bias, *sizes)


@converter(aten.to, aten._to_copy)
def _cast(call: Call, self: Signal, *args: Any, **kwargs: Any) -> Signal:
    """A device and a layout change no number; a dtype may only be the graph's own."""
    dtypes = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)]
    return _call(call, *methods("to"), self, *dtypes)


def _pad(call: Call, self: Signal, padding: Sequence[int], *, mode: str) -> Signal:
    return _call(call, F.pad, self, padding, mode)


for _rank in (1, 2, 3):
    for _name, _mode in (("reflection", "reflect"), ("replication", "replicate")):
        converter(getattr(aten, f"{_name}_pad{_rank}d"))(takes_moved(partial(_pad, mode=_mode)))


def _adaptive_max_pool(call: Call, self: Signal, output_size: Any, *, rank: int) -> Any:
    """The maxima, and their places."""
    found = _call(call, getattr(F, f"adaptive_max_pool{rank}d"), self, output_size)
    return found, Missing("the places of a maximum have no spiking form")


for _rank in (1, 2, 3):
    converter(getattr(aten, f"adaptive_max_pool{_rank}d").default)(takes_moved(partial(_adaptive_max_pool, rank=_rank)))


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


def _resized(call: Call, self: Signal, output_size: Any, *options: Any, mode: str, antialias: bool) -> Signal:
    """``options``: align_corners, where the mode has it, and the factors, in a list or one after the other.

    Where factors are given, the cells are counted by them and not by the sizes.
    """
    align = None if mode.startswith("nearest") else options[0]
    rest = options if align is None else options[1:]
    factors = rest[0] if rest and isinstance(rest[0], (list, tuple)) else rest
    if not factors or None in factors:
        return _call(call, F.interpolate, self, output_size, None, mode, align, None, antialias)
    return _call(call, F.interpolate, self, None, tuple(factors), mode, align, None, antialias)


_RESIZES = {
    **{f"upsample_nearest{rank}d": "nearest" for rank in (1, 2, 3)},
    **{f"_upsample_nearest_exact{rank}d": "nearest-exact" for rank in (1, 2, 3)},
    "upsample_linear1d": "linear",
    "upsample_bilinear2d": "bilinear",
    "upsample_trilinear3d": "trilinear",
    "upsample_bicubic2d": "bicubic",
    "_upsample_bilinear2d_aa": "bilinear",
    "_upsample_bicubic2d_aa": "bicubic",
}
for _name, _mode in _RESIZES.items():
    converter(getattr(aten, _name))(takes_moved(partial(_resized, mode=_mode, antialias=_name.endswith("_aa"))))
