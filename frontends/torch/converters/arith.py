"""Converters of arithmetic: affine maps, sums of signals, means and sums over axes, products with constant matrices."""

import itertools
import math
import operator
from functools import partial
from typing import Any, NoReturn

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.extend import composites
from spikec.extend.composites import along, expanded, permuted, reshaped
from spikec.frontends.torch.call import Call, Signal, as_array, converter, methods
from spikec.frontends.torch.composed import composed
from spikec.frontends.torch.converters.parts import matched
from spikec.frontends.torch.converters.shapes import same_dtype, sample_axes, sample_axis, transpose
from spikec.frontends.torch.converters.weights import constant_weight
from spikec.ir.ops import AdaptiveAvgPool, Add, Linear, MatMul, Multiply
from spikec.ir.types import Array


def _keys(*names: str) -> list[Any]:
    """Every spelling of an arithmetic call: the operator, in place too, torch's function and the methods."""
    signs = [getattr(operator, each) for name in names for each in (name, f"i{name}") if hasattr(operator, each)]
    functions = [getattr(torch, each) for name in names for each in (name, f"{name}_") if hasattr(torch, each)]
    return [*dict.fromkeys(signs + functions), *methods(*names, *(f"{name}_" for name in names))]


@converter(*_keys("add"))
def _sum(call: Call, input: Any, other: Any, *, alpha: Any = 1) -> Signal:
    """``input + alpha * other``, of which at least one is a signal."""
    factor = np.asarray(_number(call, alpha))
    if not isinstance(other, Signal):
        return affine(call, input, np.ones(()), factor * as_constant(call, other))
    if not isinstance(input, Signal):
        return affine(call, other, factor, as_constant(call, input))
    if factor != 1:
        other = affine(call, other, factor, np.zeros(()), part="scaled")
    return call.add(Add(), *matched(call, input, other))


@converter(*_keys("sub", "subtract"))
def _sub(call: Call, input: Any, other: Any, *, alpha: float = 1) -> Signal:
    return _sum(call, input, other, alpha=-_number(call, alpha))


@converter(torch.rsub)
def _rsub(call: Call, input: Any, other: Any, *, alpha: float = 1) -> Signal:
    return _sub(call, other, input, alpha=alpha)


@converter(*_keys("mul", "multiply"))
def _mul(call: Call, input: Any, other: Any) -> Signal:
    if isinstance(input, Signal) and isinstance(other, Signal):
        return call.add(Multiply(), input, other)
    signal, constant = (input, other) if isinstance(input, Signal) else (other, input)
    return affine(call, signal, as_constant(call, constant), np.zeros(()))


@converter(*_keys("truediv", "div", "divide", "true_divide"))
def _div(call: Call, input: Any, other: Any, *, rounding_mode: str | None = None) -> Signal:
    if rounding_mode is not None:
        call.refuse(f"rounding_mode={rounding_mode!r} is not supported", "divide without rounding")
    if isinstance(other, Signal):
        quotient: Signal = composed(call, lambda a, b: a * torch.reciprocal(b), input, other)
        return quotient
    with np.errstate(divide="ignore"):
        return affine(call, input, 1 / as_constant(call, other), np.zeros(()))


@converter(*_keys("addcmul"))
def _addcmul(call: Call, input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Signal:
    """``input + value * tensor1 * tensor2``."""
    if isinstance(tensor1, Signal) and isinstance(tensor2, Signal):
        return _sum(call, input, call.add(Multiply(), tensor1, tensor2, part="product"), alpha=value)
    signals = [each for each in (tensor1, tensor2) if isinstance(each, Signal)]
    factors = [as_constant(call, each) for each in (tensor1, tensor2) if not isinstance(each, Signal)]
    if not signals:
        return _sum(call, input, torch.tensor(factors[0] * factors[1]), alpha=value)
    return _sum(call, input, affine(call, signals[0], factors[0], np.zeros(()), part="product"), alpha=value)


def _filled(call: Call, input: Signal, fill_value: Any, *, dtype: Any = None, **where: Any) -> Signal:
    """A constant of the signal's shape, whatever the batch."""
    if dtype is not None:
        same_dtype(call, input, str(dtype))
    return affine(call, input, np.zeros(()), as_constant(call, fill_value))


converter(torch.full_like)(_filled)
converter(torch.zeros_like)(partial(_filled, fill_value=0.0))
converter(torch.ones_like)(partial(_filled, fill_value=1.0))
converter(torch.empty_like)(partial(_filled, fill_value=0.0))  # any number is as good
converter(torch.zero_, *methods("zero_"))(partial(_filled, fill_value=0.0))


@converter(torch.fill_, *methods("fill_"))
def _fill(call: Call, input: Signal, value: Any) -> Signal:
    return _filled(call, input, value)


@converter(*methods("__setitem__"))
def _written_to_constant(call: Call, input: Any, index: Any, value: Any) -> NoReturn:
    """A write to a tensor of the model's input is recorded as ``copy_`` or ``fill_``."""
    call.refuse(
        "it writes to a tensor that does not depend on the model's input",
        "write to torch.zeros_like(x), or join the parts: torch.cat",
    )


@converter(*methods("copy_"))
def _copy(call: Call, input: Any, src: Any, non_blocking: bool = False) -> Signal:
    """What is written over the input."""
    if not isinstance(input, Signal):
        _written_to_constant(call, input, ..., src)
    return expanded(call, src, call.shape(input)) if isinstance(src, Signal) else _filled(call, input, src)


@converter(*_keys("neg", "negative"))
def _neg(call: Call, input: Signal) -> Signal:
    return affine(call, input, -np.ones(()), np.zeros(()))


def affine(call: Call, signal: Signal, gain: Array, shift: Array, part: str = "") -> Signal:
    """``gain * signal + shift``; both broadcast as in torch, and are the same for every sample."""
    return composites.affine(call, signal, _of_sample(call, signal, gain), _of_sample(call, signal, shift), part=part)


def _of_sample(call: Call, signal: Signal, constant: Array) -> Array:
    """A constant that broadcasts against [B, ...] as one that broadcasts against a sample."""
    shape = call.shape(signal)
    if constant.ndim <= len(shape):
        constant = constant[None]
    if (
        constant.shape[0] != 1
        or any(size not in (1, full) for size, full in zip(constant.shape[:0:-1], shape[::-1], strict=False))
        or constant.ndim > len(shape) + 1
    ):
        call.refuse(
            f"a constant of shape {list(constant.shape)} changes the shape of a signal {call.shown(signal)}",
            "its axes must be 1 or the signal's own, and 1 along the batch",
        )
    return np.asarray(constant[0])


def _number(call: Call, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        call.refuse("alpha is not a number", "give one number")
    return value


def as_constant(call: Call, value: Any) -> Array:
    """A number or a tensor of numbers as float64."""
    if isinstance(value, Tensor) and not value.is_complex():
        return as_array(value).astype(np.float64)
    if not isinstance(value, (int, float)):
        call.refuse(f"arithmetic with a {type(value).__name__} is not supported", "use a float or a float tensor")
    return np.asarray(value, dtype=np.float64)


# ------------------------------------------------------------------- over axes


def _reduced(
    call: Call, input: Signal, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, total: bool
) -> Signal:
    """Spatial axes by an adaptive average pool, channels by a 1x1 convolution with one output channel."""
    what = "sum" if total else "mean"
    if dtype is not None:
        same_dtype(call, input, str(dtype))
    if dim in (None, (), []):
        call.refuse(f"a {what} over all axes mixes the samples of a batch", f"name the axes: x.{what}((2, 3))")
    axes = sample_axes(call, input, dim)
    shape = call.shape(input)
    kept = [1 if axis in axes else size for axis, size in enumerate(shape) if keepdim or axis not in axes]
    runs = [(summed, list(run)) for summed, run in itertools.groupby(range(len(shape)), axes.__contains__)]
    if len(shape) > 4 and len(runs) <= 4:  # neighbours of which all, or none, are summed up become one axis
        joined = reshaped(call, input, [math.prod(shape[axis] for axis in run) for _, run in runs], part="joined")
        places = [place for place, (summed, _) in enumerate(runs, start=1) if summed]
        inner = _reduced(attrs.evolve(call, name=f"{call.name}_inner"), joined, places, total=total)
        return reshaped(call, inner, kept)
    call.expect_rank(input, 1, 2, 3, 4)
    space = [axis for axis in axes if axis > 0]
    gain = float(math.prod(shape[axis] for axis in axes)) if total else 1.0
    x = input
    if space:
        size = tuple(1 if axis in space else None for axis in range(1, len(shape)))
        last = keepdim and 0 not in axes and gain == 1
        x = call.add(AdaptiveAvgPool(size), x, part="" if last else "pool")
    if 0 in axes:
        x = along(call, x, 0, np.full((1, shape[0]), gain / shape[0]), part="" if keepdim else "channels")
    elif gain != 1:
        x = affine(call, x, np.asarray(gain), np.zeros(()), part="" if keepdim else "times")
    return x if keepdim else reshaped(call, x, kept)


converter(torch.mean, *methods("mean"))(partial(_reduced, total=False))
converter(torch.sum, *methods("sum"))(partial(_reduced, total=True))


@converter(torch.cumsum, *methods("cumsum"))
def _cumsum(call: Call, input: Signal, dim: int, *, dtype: Any = None) -> Signal:
    """Each cell is the sum of all up to it, which a triangular matrix of ones gives."""
    if dtype is not None:
        same_dtype(call, input, str(dtype))
    axis = sample_axis(call, input, dim)
    return along(call, input, axis, np.tri(call.shape(input)[axis]))


# -------------------------------------------------------------------- matrices


@converter(torch.matmul, torch.mm, operator.matmul, *methods("matmul", "mm"))
def _matmul(call: Call, input: Any, other: Any) -> Signal:
    if isinstance(input, Signal) and isinstance(other, Signal):
        return call.add(MatMul(), input, other)
    if isinstance(input, Signal):
        return _times(call, input, _matrix(call, other))
    matrix = _matrix(call, input)
    if len(call.shape(other)) < 2:
        call.refuse("a matrix in front of the batch mixes its samples", "x @ matrix.T")
    rank = len(call.shape(other))
    turned = permuted(call, other, [*range(rank - 2), rank - 1, rank - 2], part="turned")
    return transpose(call, _times(call, turned, np.asarray(matrix.T), part="product"), -2, -1)


@converter(torch.addmm, *methods("addmm"))
def _addmm(call: Call, input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> Signal:
    if isinstance(input, Signal) or not isinstance(mat1, Signal):
        call.refuse(f"{call.source.kind} is supported with a constant first and a signal second", "x @ matrix + bias")
    weight, bias = alpha * constant_weight(call, mat2), beta * constant_weight(call, input)
    if bias.ndim and bias.size != bias.shape[-1]:
        call.refuse("the constant differs between the samples of a batch", "give one number an output feature")
    return call.add(Linear(weight.T, np.broadcast_to(bias.reshape(-1), weight.shape[1:])), mat1)


def _matrix(call: Call, value: Any) -> Array:
    if not isinstance(value, Tensor) or value.ndim > 2:
        call.refuse(f"{call.source.kind} with a constant that is no matrix is not supported", "use nn.Linear")
    return as_array(value)


def _times(call: Call, input: Signal, matrix: Array, part: str = "") -> Signal:
    """``x @ matrix`` over the last axis; a vector leaves none."""
    if not call.shape(input):
        call.refuse(
            "a matrix in front of the batch mixes its samples", "give it an axis of features: x.unsqueeze(1) @ matrix"
        )
    if matrix.ndim == 2:
        return call.add(Linear(matrix.T), input, part=part)
    product = call.add(Linear(matrix[None]), input, part="product")
    return reshaped(call, product, call.shape(product)[:-1], part=part)
