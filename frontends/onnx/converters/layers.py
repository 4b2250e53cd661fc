"""Converters of what has weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from spikec.extend.call import Signal
from spikec.extend.composites import affine, expanded, last, permuted, reshaped
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

    def __init__(self, call: Call, kernel: Sequence[int]) -> None:
        ones = [1] * len(kernel)
        self.kernel = ints(call.attributes.get("kernel_shape", kernel))
        self.stride = ints(call.attributes.get("strides", ones))
        self.dilation = ints(call.attributes.get("dilations", ones))
        self.extent = tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        self.auto_pad = call.attributes.get("auto_pad", "NOTSET")
        if self.kernel != tuple(kernel) and "kernel_shape" not in call.attributes:
            call.refuse(f"its kernel is {list(kernel)}, its kernel_shape {list(self.kernel)}")
        flat = call.attributes.get("pads", [0, 0] * len(ones))
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
def _conv(call: Call) -> Signal:
    x, weight = call.signal(), call.constant(1)
    _expect_map(call, x, weight)
    window = Window(call, weight.shape[2:])
    op = Conv(
        weight,
        call.constant(2) if call.has(2) else None,
        stride=window.stride,
        padding=window.padding(call.shape(x)[1:]),
        dilation=window.dilation,
        groups=call.attributes.get("group", 1),
    )
    return call.add(op, x)


@converter("ConvTranspose")
def _conv_transpose(call: Call) -> Signal:
    x, weight = call.signal(), call.constant(1)
    _expect_map(call, x, weight)
    groups = call.attributes.get("group", 1)
    window = Window(call, weight.shape[2:])
    more = call.attributes.get("output_padding", [0] * len(window.kernel))
    padding = window.pads
    full = [
        (size - 1) * step + extent + extra
        for size, step, extent, extra in zip(call.shape(x)[1:], window.stride, window.extent, more, strict=True)
    ]
    if "output_shape" in call.attributes:
        shape = call.attributes["output_shape"][-len(full) :]
        padding = window.split([a - b for a, b in zip(full, shape, strict=True)])
    elif window.auto_pad.startswith("SAME"):
        shape = [size * step for size, step in zip(call.shape(x)[1:], window.stride, strict=True)]
        padding = window.split([a - b for a, b in zip(full, shape, strict=True)])
    turned = weight.reshape(groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    op = ConvTranspose(
        turned.reshape(-1, *turned.shape[2:]),
        call.constant(2) if call.has(2) else None,
        stride=window.stride,
        padding=tuple((a, b - extra) for (a, b), extra in zip(padding, more, strict=True)),
        dilation=window.dilation,
        groups=groups,
    )
    return call.add(op, x)


def _expect_map(call: Call, x: Signal, weight: Array) -> None:
    rank = weight.ndim - 2
    if not 1 <= rank <= 3:
        call.refuse(f"a {rank}d convolution is not supported", "1 to 3 spatial axes are")
    call.expect_rank(x, rank + 1)


@converter("Gemm")
def _gemm(call: Call) -> Signal:
    x, weight = call.signal(), call.constant(1)
    call.expect_rank(x, 1)
    if call.attributes.get("transA", 0):
        call.refuse("transA moves the batch axis", "samples of a batch are independent in a compiled network")
    weight = call.attributes.get("alpha", 1.0) * (weight if call.attributes.get("transB", 0) else weight.T)
    beta = call.attributes.get("beta", 1.0)
    if not call.has(2):
        return call.add(Linear(weight), x)
    other = call.inputs[2]
    if isinstance(other, Signal):
        product = call.add(Linear(weight), x, part="product")
        other = expanded(call, affine(call, other, beta, 0, part="beta"), call.shape(product), part="third")
        return call.add(Add(), product, other)
    shift = beta * np.asarray(call.beside(2, x))
    return call.add(Linear(weight, np.broadcast_to(shift, len(weight))), x)


@converter("MatMul")
def _matmul(call: Call) -> Signal:
    if all(isinstance(each, Signal) for each in call.inputs):
        call.refuse(
            "a product of two signals is not supported: both depend on the model's input", "use constant weights"
        )
    if not isinstance(call.inputs[0], Signal):
        return _matmul_left(call)
    x, weight = call.signal(), call.constant(1)
    shape = call.shape(x)
    if weight.ndim > 2:
        weight = call.beside(1, x)
    call.axis(x, -1)
    if weight.ndim == 1:
        return reshaped(call, call.add(Linear(weight[None]), x, part="product"), shape[:-1])
    if all(size == 1 for size in weight.shape[:-2]):
        return call.add(Linear(weight.reshape(weight.shape[-2:]).T), x)
    return _matmul_by_group(call, x, weight)


def _matmul_left(call: Call) -> Signal:
    """A constant matrix on the left: over the last axis but one."""
    x, matrix = call.signal(1), call.constant(0)
    rank = len(call.shape(x))
    if matrix.ndim < 2 or any(size != 1 for size in matrix.shape[:-2]):
        call.refuse(f"a constant of shape {list(matrix.shape)} on the left is not supported", "use one matrix")
    call.axis(x, rank - 1)
    order, back = last(rank, [rank - 2])
    moved = permuted(call, x, order, part="last")
    product = call.add(Linear(matrix.reshape(matrix.shape[-2:])), moved, part="product")
    return permuted(call, product, back)


def _matmul_by_group(call: Call, x: Signal, weight: Array) -> Signal:
    """A matrix for each cell of the leading axes: a convolution in as many groups."""
    front = np.broadcast_shapes(call.shape(x)[:-2], weight.shape[:-2])
    x = expanded(call, x, (*front, *call.shape(x)[-2:]), part="groups")
    *_, rows, features = call.shape(x)
    groups, axes = math.prod(front), list(range(len(front)))
    turned = permuted(call, x, [*axes, len(front) + 1, len(front)], part="turned")
    flat = reshaped(call, turned, (groups * features, rows), part="flat")
    matrices = np.broadcast_to(weight, (*front, *weight.shape[-2:])).swapaxes(-1, -2)
    kernel = matrices.reshape(-1, features, 1)
    product = call.add(Conv(kernel, stride=(1,), padding=(0,), dilation=(1,), groups=groups), flat, part="product")
    whole = reshaped(call, product, (*front, weight.shape[-1], rows), part="whole")
    return permuted(call, whole, [*axes, len(front) + 1, len(front)])


@converter("BatchNormalization")
def _batch_norm(call: Call) -> Signal:
    trains = call.attributes.get("training_mode", 0) or (call.opset < 14 and sum(call.named) > 1)
    if trains or any(call.wanted[1:]):
        call.refuse(
            "it is in training mode: it normalizes each batch by itself and puts out its statistics",
            "export the model in evaluation mode: model.eval()",
        )
    weight, bias, mean, var = (call.constant(slot) for slot in range(1, 5))
    return call.add(BatchNorm(weight, bias, mean, var, call.attributes.get("epsilon", 1e-5)), call.signal())
