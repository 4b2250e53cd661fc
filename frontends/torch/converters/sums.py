"""Converters of linear maps without a layer: means and sums over axes, and products with constant matrices."""

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikec.extend.composites import along, permuted, reshaped
from spikec.frontends.torch.call import Call, Signal, as_array, converter, methods
from spikec.frontends.torch.converters.arith import affine
from spikec.frontends.torch.converters.axes import sample_axis, transpose
from spikec.frontends.torch.converters.identities import same_dtype
from spikec.frontends.torch.converters.weights import constant_weight
from spikec.ir.ops import AdaptiveAvgPool, Conv, Linear
from spikec.ir.types import Array

# ------------------------------------------------------------------- over axes


@converter(torch.mean, *methods("mean"))
def _mean(call: Call, input: Signal, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Signal:
    return _reduced(call, input, dim, keepdim, dtype, total=False)


@converter(torch.sum, *methods("sum"))
def _total(call: Call, input: Signal, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Signal:
    return _reduced(call, input, dim, keepdim, dtype, total=True)


def _reduced(call: Call, input: Signal, dim: Any, keepdim: bool, dtype: Any, total: bool) -> Signal:
    """Spatial axes by an adaptive average pool, channels by a 1x1 convolution with one output channel."""
    what = "sum" if total else "mean"
    if dtype is not None:
        same_dtype(call, input, str(dtype))
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    if None in dims or not dims:
        call.refuse(f"a {what} over all axes mixes the samples of a batch", f"name the axes: x.{what}((2, 3))")
    axes = sorted({sample_axis(call, input, each) for each in dims})
    call.expect_rank(input, 1, 2, 3, 4)
    shape = call.shape(input)
    space = [axis for axis in axes if axis > 0]
    gain = float(math.prod(shape[axis] for axis in axes)) if total else 1.0
    x = input
    if space:
        size = tuple(1 if axis in space else None for axis in range(1, len(shape)))
        last = keepdim and 0 not in axes and gain == 1
        x = call.add(AdaptiveAvgPool(size), x, part="" if last else "pool")
    if 0 in axes:
        row = np.full((1, shape[0]), gain / shape[0], call.graph.type(input.name).dtype)
        x = call.add(_one_by_one(row, len(shape)), x, part="" if keepdim else "channels")
    elif gain != 1:
        x = affine(call, x, np.asarray(gain), np.zeros(()), part="" if keepdim else "times")
    return x if keepdim else reshaped(call, x, [size for axis, size in enumerate(shape) if axis not in axes])


@converter(torch.cumsum, *methods("cumsum"))
def _cumsum(call: Call, input: Signal, dim: int, *, dtype: Any = None) -> Signal:
    """Each cell is the sum of all up to it, which a triangular matrix of ones gives."""
    if dtype is not None:
        same_dtype(call, input, str(dtype))
    axis = sample_axis(call, input, dim)
    return along(call, input, axis, np.tri(call.shape(input)[axis]))


def _one_by_one(matrix: Array, rank: int) -> Linear | Conv:
    if rank == 1:
        return Linear(matrix)
    ones = (1,) * (rank - 1)
    return Conv(matrix.reshape(*matrix.shape, *ones), stride=ones, padding=(0,) * (rank - 1), dilation=ones)


# -------------------------------------------------------------------- matrices


@converter(torch.matmul, operator.matmul, *methods("matmul"))
def _matmul(call: Call, input: Any, other: Any) -> Signal:
    if isinstance(input, Signal) and isinstance(other, Signal):
        call.refuse(
            "a product of two signals is not supported: both depend on the model's input",
            "multiply by a constant matrix, as nn.Linear does",
        )
    if isinstance(input, Signal):
        return _times(call, input, _matrix(call, other))
    matrix = _matrix(call, input)
    if len(call.shape(other)) < 2:
        call.refuse("a matrix in front of the batch mixes its samples", "x @ matrix.T")
    turned = _times(call, _turned(call, other), np.asarray(matrix.T), part="product")
    return transpose(call, turned, -2, -1)


@converter(torch.mm, *methods("mm"))
def _mm(call: Call, input: Any, mat2: Any) -> Signal:
    return _matmul(call, input, mat2)


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
        call.refuse("a matrix in front of the batch mixes its samples")
    if matrix.ndim == 2:
        return call.add(Linear(matrix.T), input, part=part)
    product = call.add(Linear(matrix[None]), input, part="product")
    return reshaped(call, product, call.shape(product)[:-1], part=part)


def _turned(call: Call, input: Signal) -> Signal:
    """The last two axes in the other order, as a step of a call."""
    rank = len(call.shape(input))
    return permuted(call, input, [*range(rank - 2), rank - 1, rank - 2], part="turned")
