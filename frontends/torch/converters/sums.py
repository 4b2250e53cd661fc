"""Converters of linear maps without a layer: means and sums over axes, and products with constant matrices."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikec.extend.arrange import permuted, reshaped
from spikec.frontends.torch.call import Call, Signal, as_array, converter, methods
from spikec.frontends.torch.converters.arith import affine
from spikec.frontends.torch.converters.axes import sample_axis, transpose
from spikec.frontends.torch.converters.functions import constant_weight
from spikec.frontends.torch.converters.identities import same_dtype
from spikec.ir.ops import AdaptiveAvgPool, Conv, Linear
from spikec.ir.types import Array

# ------------------------------------------------------------------- over axes


@converter(torch.mean, *methods("mean"))
def _mean(at: Call, input: Signal, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Signal:
    return _reduced(at, input, dim, keepdim, dtype, total=False)


@converter(torch.sum, *methods("sum"))
def _total(at: Call, input: Signal, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Signal:
    return _reduced(at, input, dim, keepdim, dtype, total=True)


def _reduced(at: Call, input: Signal, dim: Any, keepdim: bool, dtype: Any, total: bool) -> Signal:
    """Spatial axes by an adaptive average pool, channels by a 1x1 convolution with one output channel."""
    what = "sum" if total else "mean"
    if dtype is not None:
        same_dtype(at, input, str(dtype))
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    if None in dims or not dims:
        at.refuse(f"a {what} over all axes mixes the samples of a batch", f"name the axes: x.{what}((2, 3))")
    axes = sorted({sample_axis(at, input, each) for each in dims})
    at.expect_rank(input, 1, 2, 3, 4)
    shape = at.shape(input)
    space = [axis for axis in axes if axis > 0]
    gain = float(math.prod(shape[axis] for axis in axes)) if total else 1.0
    x = input
    if space:
        size = tuple(1 if axis in space else None for axis in range(1, len(shape)))
        last = keepdim and 0 not in axes and gain == 1
        x = at.add(AdaptiveAvgPool(size), x, part="" if last else "pool")
    if 0 in axes:
        row = np.full((1, shape[0]), gain / shape[0], at.graph.type(input.name).dtype)
        x = at.add(_one_by_one(row, len(shape)), x, part="" if keepdim else "channels")
    elif gain != 1:
        x = affine(at, x, np.asarray(gain), np.zeros(()), part="" if keepdim else "times")
    return x if keepdim else reshaped(at, x, [size for axis, size in enumerate(shape) if axis not in axes])


def _one_by_one(matrix: Array, rank: int) -> Linear | Conv:
    if rank == 1:
        return Linear(matrix)
    ones = (1,) * (rank - 1)
    return Conv(matrix.reshape(*matrix.shape, *ones), stride=ones, padding=(0,) * (rank - 1), dilation=ones)


# -------------------------------------------------------------------- matrices


@converter(torch.matmul, operator.matmul, *methods("matmul"))
def _matmul(at: Call, input: Any, other: Any) -> Signal:
    if isinstance(input, Signal) and isinstance(other, Signal):
        at.refuse(
            "a product of two signals is not supported: both depend on the model's input",
            "multiply by a constant matrix, as nn.Linear does",
        )
    if isinstance(input, Signal):
        return _times(at, input, _matrix(at, other))
    matrix = _matrix(at, input)
    if len(at.shape(other)) < 2:
        at.refuse("a matrix in front of the batch mixes its samples", "x @ matrix.T")
    turned = _times(at, _turned(at, other), np.asarray(matrix.T), part="product")
    return transpose(at, turned, -2, -1)


@converter(torch.mm, *methods("mm"))
def _mm(at: Call, input: Any, mat2: Any) -> Signal:
    return _matmul(at, input, mat2)


@converter(torch.addmm, *methods("addmm"))
def _addmm(at: Call, input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> Signal:
    if isinstance(input, Signal) or not isinstance(mat1, Signal):
        at.refuse(f"{at.source.kind} is supported with a constant first and a signal second", "x @ matrix + bias")
    weight, bias = alpha * constant_weight(at, mat2), beta * constant_weight(at, input)
    if bias.ndim and bias.size != bias.shape[-1]:
        at.refuse("the constant differs between the samples of a batch", "give one number an output feature")
    return at.add(Linear(weight.T, np.broadcast_to(bias.reshape(-1), weight.shape[1:])), mat1)


def _matrix(at: Call, value: Any) -> Array:
    if not isinstance(value, Tensor) or value.ndim > 2:
        at.refuse(f"{at.source.kind} with a constant that is no matrix is not supported", "use nn.Linear")
    return as_array(value)


def _times(at: Call, input: Signal, matrix: Array, part: str = "") -> Signal:
    """``x @ matrix`` over the last axis; a vector leaves none."""
    if not at.shape(input):
        at.refuse("a matrix in front of the batch mixes its samples")
    if matrix.ndim == 2:
        return at.add(Linear(matrix.T), input, part=part)
    product = at.add(Linear(matrix[None]), input, part="product")
    return reshaped(at, product, at.shape(product)[:-1], part=part)


def _turned(at: Call, input: Signal) -> Signal:
    """The last two axes in the other order, as a step of a call."""
    rank = len(at.shape(input))
    return permuted(at, input, [*range(rank - 2), rank - 1, rank - 2], part="turned")
