"""Converters of what has weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from spikec.extend.arrange import affine, expanded, last, permuted, reshaped
from spikec.extend.call import Signal
from spikec.frontends.onnx.call import Call, converter
from spikec.ir.ops import Add, BatchNorm, Conv, ConvTranspose, Linear
from spikec.ir.ops.weighted import Pairs, pairs
from spikec.ir.types import Array, ints


class Window:
    """``kernel_shape``, ``strides``, ``dilations``, ``pads`` and ``auto_pad`` of a convolution or pool.

    Attributes:
        kernel, stride, dilation: one number a spatial axis.
        extent: what a window covers of each axis.
    """

    def __init__(self, at: Call, kernel: Sequence[int]) -> None:
        ones = [1] * len(kernel)
        self.kernel = ints(at.attributes.get("kernel_shape", kernel))
        self.stride = ints(at.attributes.get("strides", ones))
        self.dilation = ints(at.attributes.get("dilations", ones))
        self.extent = tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        self.auto_pad = at.attributes.get("auto_pad", "NOTSET")
        if self.kernel != tuple(kernel) and "kernel_shape" not in at.attributes:
            at.refuse(f"its kernel is {list(kernel)}, its kernel_shape {list(self.kernel)}")
        flat = at.attributes.get("pads", [0, 0] * len(ones))
        self.pads = pairs(zip(flat[: len(ones)], flat[len(ones) :], strict=True))

    def padding(self, sizes: Sequence[int]) -> Pairs:
        """Pairs (before, after): as stated, none, or as many as keep ``ceil(size / stride)`` windows."""
        if self.auto_pad == "NOTSET":
            return self.pads
        if self.auto_pad == "VALID":
            return ((0, 0),) * len(sizes)
        total = [
            max((-(-size // step) - 1) * step + extent - size, 0)
            for size, step, extent in zip(sizes, self.stride, self.extent, strict=True)
        ]
        return self.split(total)

    def split(self, total: Sequence[int]) -> Pairs:
        """Padding on both sides, the odd cell behind in SAME_UPPER and in front else."""
        small = [each // 2 for each in total]
        both = [(each, whole - each) for each, whole in zip(small, total, strict=True)]
        return tuple(both if self.auto_pad == "SAME_UPPER" else [(b, a) for a, b in both])


@converter("Conv")
def _conv(at: Call) -> Signal:
    x, weight = at.signal(), at.constant(1)
    _expect_map(at, x, weight)
    window = Window(at, weight.shape[2:])
    op = Conv(
        weight,
        at.constant(2) if at.has(2) else None,
        stride=window.stride,
        padding=window.padding(at.shape(x)[1:]),
        dilation=window.dilation,
        groups=at.attributes.get("group", 1),
    )
    return at.add(op, x)


@converter("ConvTranspose")
def _conv_transpose(at: Call) -> Signal:
    x, weight = at.signal(), at.constant(1)
    _expect_map(at, x, weight)
    groups = at.attributes.get("group", 1)
    window = Window(at, weight.shape[2:])
    more = at.attributes.get("output_padding", [0] * len(window.kernel))
    padding = window.pads
    full = [
        (size - 1) * step + extent + extra
        for size, step, extent, extra in zip(at.shape(x)[1:], window.stride, window.extent, more, strict=True)
    ]
    if "output_shape" in at.attributes:
        shape = at.attributes["output_shape"][-len(full) :]
        padding = window.split([a - b for a, b in zip(full, shape, strict=True)])
    elif window.auto_pad.startswith("SAME"):
        shape = [size * step for size, step in zip(at.shape(x)[1:], window.stride, strict=True)]
        padding = window.split([a - b for a, b in zip(full, shape, strict=True)])
    turned = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    op = ConvTranspose(
        turned.reshape(-1, *turned.shape[2:]),
        at.constant(2) if at.has(2) else None,
        stride=window.stride,
        padding=tuple((a, b - extra) for (a, b), extra in zip(padding, more, strict=True)),
        dilation=window.dilation,
        groups=groups,
    )
    return at.add(op, x)


def _expect_map(at: Call, x: Signal, weight: Array) -> None:
    rank = weight.ndim - 2
    if not 1 <= rank <= 3:
        at.refuse(f"a {rank}d convolution is not supported", "1 to 3 spatial axes are")
    at.expect_rank(x, rank + 1)


@converter("Gemm")
def _gemm(at: Call) -> Signal:
    x, weight = at.signal(), at.constant(1)
    at.expect_rank(x, 1)
    if at.attributes.get("transA", 0):
        at.refuse("transA moves the batch axis", "samples of a batch are independent in a compiled network")
    weight = at.attributes.get("alpha", 1.0) * (weight if at.attributes.get("transB", 0) else weight.T)
    beta = at.attributes.get("beta", 1.0)
    if not at.has(2):
        return at.add(Linear(weight), x)
    other = at.inputs[2]
    if isinstance(other, Signal):
        product = at.add(Linear(weight), x, part="product")
        other = expanded(at, affine(at, other, beta, 0, part="beta"), at.shape(product), part="third")
        return at.add(Add(), product, other)
    shift = beta * np.asarray(at.beside(2, x))
    return at.add(Linear(weight, np.broadcast_to(shift, len(weight))), x)


@converter("MatMul")
def _matmul(at: Call) -> Signal:
    if all(isinstance(each, Signal) for each in at.inputs):
        at.refuse("a product of two signals is not supported: both depend on the model's input", "use constant weights")
    if not isinstance(at.inputs[0], Signal):
        return _matmul_left(at)
    x, weight = at.signal(), at.constant(1)
    shape = at.shape(x)
    if weight.ndim > 2:
        weight = at.beside(1, x)
    at.axis(x, -1)
    if weight.ndim == 1:
        return reshaped(at, at.add(Linear(weight[None]), x, part="product"), shape[:-1])
    if all(size == 1 for size in weight.shape[:-2]):
        return at.add(Linear(weight.reshape(weight.shape[-2:]).T), x)
    return _matmul_by_group(at, x, weight)


def _matmul_left(at: Call) -> Signal:
    """A constant matrix on the left: over the last axis but one."""
    x, matrix = at.signal(1), at.constant(0)
    rank = len(at.shape(x))
    if matrix.ndim < 2 or any(size != 1 for size in matrix.shape[:-2]):
        at.refuse(f"a constant of shape {list(matrix.shape)} on the left is not supported", "use one matrix")
    at.axis(x, rank - 1)
    order, back = last(rank, [rank - 2])
    moved = permuted(at, x, order, part="last")
    product = at.add(Linear(matrix.reshape(matrix.shape[-2:])), moved, part="product")
    return permuted(at, product, back)


def _matmul_by_group(at: Call, x: Signal, weight: Array) -> Signal:
    """A matrix for each cell of the leading axes: a convolution in as many groups."""
    front = np.broadcast_shapes(at.shape(x)[:-2], weight.shape[:-2])
    x = expanded(at, x, (*front, *at.shape(x)[-2:]), part="groups")
    *_, rows, features = at.shape(x)
    groups, axes = math.prod(front), list(range(len(front)))
    turned = permuted(at, x, [*axes, len(front) + 1, len(front)], part="turned")
    flat = reshaped(at, turned, (groups * features, rows), part="flat")
    matrices = np.broadcast_to(weight, (*front, *weight.shape[-2:])).swapaxes(-1, -2)
    kernel = matrices.reshape(-1, features, 1)
    product = at.add(Conv(kernel, stride=(1,), padding=(0,), dilation=(1,), groups=groups), flat, part="product")
    whole = reshaped(at, product, (*front, weight.shape[-1], rows), part="whole")
    return permuted(at, whole, [*axes, len(front) + 1, len(front)])


@converter("BatchNormalization")
def _batch_norm(at: Call) -> Signal:
    trains = at.attributes.get("training_mode", 0) or (at.opset < 14 and sum(at.named) > 1)
    if trains or any(at.wanted[1:]):
        at.refuse(
            "it is in training mode: it normalizes each batch by itself and puts out its statistics",
            "export the model in evaluation mode: model.eval()",
        )
    weight, bias, mean, var = (at.constant(slot) for slot in range(1, 5))
    return at.add(BatchNorm(weight, bias, mean, var, at.attributes.get("epsilon", 1e-5)), at.signal())
