"""Converters of what has weights, and the windows that convolutions share with pools."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from spikec.extend.composites import affine, expanded
from spikec.frontends.onnx.call import INDEPENDENT, Call, Signal, converter
from spikec.ir.ops import Conv, ConvTranspose, Linear
from spikec.ir.ops.weighted import Pairs, pairs
from spikec.ir.types import Array, sealed


class Window:
    """The attributes that place the windows of a convolution or pool.

    Attributes:
        kernel, stride, dilation: one number a spatial axis.
        extent: what a window covers of each axis.
        sizes: of the map.
        pads: pairs (before, after).
    """

    def __init__(
        self,
        call: Call,
        x: Signal,
        kernel: Sequence[int],
        kernel_shape: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        auto_pad: str = "NOTSET",
    ) -> None:
        """``kernel``: of the weights; ``x``: the signal, whose map must have as many spatial axes."""
        rank = len(kernel)
        if not 1 <= rank <= 3:
            call.refuse(f"a {rank}d {call.source.kind} is not supported", "1 to 3 spatial axes are")
        call.expect_rank(x, rank + 1)
        if kernel_shape not in (None, list(kernel)):
            call.refuse(f"its kernel_shape {kernel_shape} is not that of its weights, {list(kernel)}")
        self.kernel, self.sizes, self.auto_pad = tuple(kernel), call.shape(x)[1:], auto_pad
        self.stride, self.dilation = tuple(strides or [1] * rank), tuple(dilations or [1] * rank)
        self.extent = tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        flat = pads if pads and auto_pad == "NOTSET" else [0] * 2 * rank
        self.pads = pairs(zip(flat[:rank], flat[rank:], strict=True))
        if auto_pad.startswith("SAME"):  # as much as keeps ceil(size / stride) windows
            axes = zip(self.sizes, self.stride, self.extent, strict=True)
            self.pads = self.split(max((-(-size // step) - 1) * step + extent - size, 0) for size, step, extent in axes)

    def split(self, total: Iterable[int]) -> Pairs:
        """Padding on both sides, the odd cell behind in SAME_UPPER and in front else."""
        both = [(each // 2, each - each // 2) for each in total]
        return tuple(both if self.auto_pad == "SAME_UPPER" else [(b, a) for a, b in both])


# Convolutions are ops here, not functions of torch: only ops take another padding in front than behind. Their weights
# stay where they lie in the model.


@converter("Conv")
def _conv(call: Call, x: Any, w: Any, b: Any = None, group: int = 1, **attributes: Any) -> Any:
    weight, bias = call.array(1), call.array(2)
    window = Window(call, x, weight.shape[2:], **attributes)
    op = Conv(weight, bias, stride=window.stride, padding=window.pads, dilation=window.dilation, groups=group)
    return call.add(op, x)


@converter("ConvTranspose")
def _conv_transpose(
    call: Call,
    x: Any,
    w: Any,
    b: Any = None,
    group: int = 1,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    **attributes: Any,
) -> Any:
    """``output_padding`` keeps more cells behind the end; an ``output_shape`` says how many are cut off in all."""
    weight, bias = call.array(1), call.array(2)
    window = Window(call, x, weight.shape[2:], **attributes)
    more = output_padding or [0] * len(window.kernel)
    if output_shape is None and window.auto_pad.startswith("SAME"):
        output_shape = [size * step for size, step in zip(window.sizes, window.stride, strict=True)]
    cut = window.pads
    if output_shape is not None:
        wanted = output_shape[-len(more) :]
        axes = zip(window.sizes, window.stride, window.extent, more, wanted, strict=True)
        cut = window.split((size - 1) * step + extent + extra - out for size, step, extent, extra, out in axes)
    # ONNX has input channels first, and output channels counted within a group; the op has all output channels first
    turned = weight.reshape(group, -1, *weight.shape[1:]).swapaxes(1, 2)
    weight = turned.reshape(-1, *turned.shape[2:])
    padding = [(before, after - extra) for (before, after), extra in zip(cut, more, strict=True)]
    op = ConvTranspose(weight, bias, stride=window.stride, padding=padding, dilation=window.dilation, groups=group)
    return call.add(op, x)


# --------------------------------------------------------------------- matrices


@converter("Gemm")
def _gemm(call: Call, a: Any, b: Any, c: Any = None, alpha: float = 1.0, beta: float = 1.0, **transposed: int) -> Any:
    """``alpha a b + beta c``, where the attributes transA and transB say which factors are stored transposed."""
    call.expect_rank(a, 1)
    if transposed.get("transA"):
        call.refuse("transA moves the batch axis", INDEPENDENT)
    weight = call.array(1) if transposed.get("transB") else call.array(1).T
    if alpha != 1:
        weight = sealed(alpha * weight)
    if c is None:
        return call.add(Linear(weight), a)
    if isinstance(c, Signal):
        product: Any = call.add(Linear(weight), a, part="product")
        return torch.add(*call.broadcast(product, affine(call, c, beta, 0, part="beta")))
    return call.add(Linear(weight, np.broadcast_to(beta * call.beside(c, a), len(weight))), a)


@converter("MatMul")
def _matmul(call: Call, a: Any, b: Any) -> Any:
    if isinstance(a, Signal) and isinstance(b, Signal):
        call.refuse(
            "a product of two signals is not supported: both depend on the model's input", "use constant weights"
        )
    on_left = isinstance(b, Signal)
    weight = np.asarray(a if on_left else b)
    if not on_left and weight.ndim > 2:
        weight = call.beside(weight, a)
    if any(size != 1 for size in weight.shape[:-2]) or (on_left and weight.ndim < 2):
        if on_left:
            call.refuse(f"a constant of shape {list(weight.shape)} on the left is not supported", "use one matrix")
        return _matmul_by_group(call, a, weight)
    matrix = torch.from_numpy(weight.reshape(weight.shape[-2:]))
    return torch.matmul(matrix, b) if on_left else torch.matmul(a, matrix)


def _matmul_by_group(call: Call, x: Any, weight: Array) -> Any:
    """A matrix for each cell of the leading axes: a convolution in as many groups."""
    front = np.broadcast_shapes(call.shape(x)[:-2], weight.shape[:-2])
    x = expanded(call, x, (*front, *call.shape(x)[-2:]), part="groups")
    *_, rows, features = call.shape(x)
    groups = math.prod(front)
    flat = torch.reshape(torch.transpose(x, -1, -2), (-1, groups * features, rows))
    matrices = np.broadcast_to(weight, (*front, *weight.shape[-2:])).swapaxes(-1, -2)
    product = F.conv1d(flat, torch.from_numpy(matrices.reshape(-1, features, 1)), groups=groups)
    return torch.transpose(torch.reshape(product, (-1, *front, weight.shape[-1], rows)), -1, -2)


@converter("CumSum")
def _cumsum(call: Call, x: Any, axis: Any, exclusive: int = 0, reverse: int = 0) -> Any:
    """From the end where it is reversed; without the cell itself where it is exclusive."""
    axis = int(axis)
    x = torch.flip(x, (axis,)) if reverse else x
    sums = torch.cumsum(x, axis) - x if exclusive else torch.cumsum(x, axis)
    return torch.flip(sums, (axis,)) if reverse else sums


@converter("BatchNormalization")
def _batch_norm(
    call: Call, x: Any, scale: Any, bias: Any, mean: Any, var: Any, epsilon: float = 1e-5, **training: Any
) -> Any:
    trains = training.get("training_mode") or (call.opset < 14 and sum(map(bool, call.node.output)) > 1)
    if trains or any(call.wanted[1:]):
        call.refuse(
            "it is in training mode: it normalizes each batch by itself and puts out its statistics",
            "export the model in evaluation mode: model.eval()",
        )
    return F.batch_norm(x, mean, var, scale, bias, eps=epsilon)
