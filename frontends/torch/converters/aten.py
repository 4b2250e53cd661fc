"""Converters of aten overloads that have no like among torch's functions; all others are found by name."""

import operator
import sys
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from spikec.frontends.torch.batch import BATCH
from spikec.frontends.torch.call import Call, Signal, as_array, converter, methods
from spikec.frontends.torch.convert import convert
from spikec.ir.ops import Identity, Linear

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


@converter(aten.addmm)
def _addmm(call: Call, self: Any, mat1: Signal, mat2: Any, *, beta: float = 1, alpha: float = 1) -> Signal:
    """What a Linear is decomposed into; its weight is ``mat2`` transposed."""
    if not isinstance(mat1, Signal) or not isinstance(mat2, Tensor) or not isinstance(self, Tensor):
        call.refuse(
            "a product or a bias that depends on the model's input twice", "only constant weights can be compiled"
        )
    if self.ndim != 1:
        call.refuse("a matrix as the bias of a product is not supported", "add one number a feature")
    return call.add(Linear(alpha * as_array(mat2.T), beta * as_array(self)), mat1)


@converter(aten.mm)
def _mm(call: Call, self: Any, mat2: Any) -> Signal:
    if not isinstance(self, Signal) or not isinstance(mat2, Tensor):
        call.refuse("a product of which not the second factor is constant", "only constant weights can be compiled")
    return call.add(Linear(as_array(mat2.T)), self)


@converter(aten._native_batch_norm_legit_no_training)
def _batch_norm(
    call: Call,
    input: Signal,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
) -> Signal:
    return _call(call, F.batch_norm, input, running_mean, running_var, weight, bias, False, momentum, eps)


@converter(aten.alias, aten.lift_fresh, aten.lift_fresh_copy, aten.native_dropout)
def _identity(call: Call, input: Signal, *args: Any) -> Signal:
    return call.add(Identity(), input)


@converter(aten.feature_dropout, aten.alpha_dropout, aten.feature_alpha_dropout)
def _dropout(call: Call, input: Signal, p: float, train: bool) -> Signal:
    return call.add(Identity(), input)


@converter(aten.to, aten._to_copy)
def _cast(call: Call, self: Signal, *args: Any, **kwargs: Any) -> Signal:
    """A device and a layout change no number; a dtype may only be the graph's own."""
    dtypes = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)]
    return _call(call, *methods("to"), self, *dtypes)


@converter(aten.constant_pad_nd)
def _constant_pad(call: Call, self: Signal, pad: Sequence[int], value: float = 0) -> Signal:
    return _call(call, F.pad, self, pad, "constant", value)


@converter(aten.reflection_pad1d, aten.reflection_pad2d, aten.reflection_pad3d)
def _reflection_pad(call: Call, self: Signal, padding: Sequence[int]) -> Signal:
    return _call(call, F.pad, self, padding, "reflect")


@converter(aten.replication_pad1d, aten.replication_pad2d, aten.replication_pad3d)
def _replication_pad(call: Call, self: Signal, padding: Sequence[int]) -> Signal:
    return _call(call, F.pad, self, padding, "replicate")


# ------------------------------------------------------------------- movement


@converter(aten.slice)
def _slice(
    call: Call, self: Signal, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Signal:
    cells = slice(start, None if end == sys.maxsize else end, step)
    return _call(call, operator.getitem, self, (*_whole(call, self, dim), cells))


@converter(aten.index, aten._unsafe_index)
def _index(call: Call, self: Signal, indices: Sequence[Any]) -> Signal:
    return _call(call, operator.getitem, self, tuple(slice(None) if each is None else each for each in indices))


def _whole(call: Call, signal: Signal, dim: int) -> tuple[slice, ...]:
    """What indexes the axes in front of one."""
    return (slice(None),) * (dim % (len(call.shape(signal)) + 1))


@converter(*(getattr(aten, f"upsample_nearest{rank}d").vec for rank in (1, 2, 3)))
def _upsample(call: Call, input: Signal, output_size: Any, scale_factors: Any) -> Signal:
    return _call(call, F.interpolate, input, output_size, scale_factors, "nearest")


@converter(*(getattr(aten, f"upsample_nearest{rank}d").default for rank in (1, 2, 3)))
def _upsample_to(call: Call, self: Signal, output_size: Any, *scales: float | None) -> Signal:
    return _call(call, F.interpolate, self, output_size, None, "nearest")
