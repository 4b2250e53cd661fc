"""Converters of convolutions and pools, which share their windows, of matrices, batch norm and reductions."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from spikec.extend.composites import affine, expanded, permuted, reshaped
from spikec.frontends.onnx.call import INDEPENDENT, Call, Signal, converter
from spikec.ir.op import Op
from spikec.ir.ops import AvgPool, Conv, ConvTranspose, Linear, MaxPool, Pad
from spikec.ir.spatial import Pairs, pairs
from spikec.ir.types import Array, sealed

#: of sizes and strides of a window, which torch's kernels count in 32 bits
_LARGEST = 2**31 - 1


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
            call.refuse(
                f"its kernel_shape {kernel_shape} is not that of its weights, {list(kernel)}",
                "leave kernel_shape out: the weights say it",
            )
        lists = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
        for name, values in lists.items():
            if values is not None and not (len(values) == rank and all(1 <= each <= _LARGEST for each in values)):
                call.refuse(f"its {name} {list(values)} are not {rank} numbers from 1 to {_LARGEST:,}")
        if pads and len(pads) != 2 * rank:
            call.refuse(f"its pads {pads} are not two numbers for each of {rank} axes")
        if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            call.refuse(f"its auto_pad {auto_pad!r} is none that there is")
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
    if group < 1 or len(weight) % group:
        call.refuse(f"its group {group} does not divide the {len(weight)} input channels of its weights")
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
    bias = call.beside(c, a)
    if bias.size not in (1, len(weight)):
        call.refuse(f"a constant of shape {list(np.shape(c))} is added to {len(weight)} numbers of each sample")
    return call.add(Linear(weight, np.broadcast_to(beta * bias, len(weight))), a)


@converter("MatMul")
def _matmul(call: Call, a: Any, b: Any) -> Any:
    if isinstance(a, Signal) and isinstance(b, Signal):
        matmul: Callable[..., Any] = torch.matmul
        return matmul(a, b)
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
    if np.size(axis) != 1:
        call.refuse(f"its axis is {axis}, which is not one number")
    axis = int(np.ravel(axis)[0])
    call.check_memory(8 * call.shape(x)[call.axis(x, axis)] ** 2)
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
    if (np.asarray(call.array(4)) + epsilon <= 0).any():
        call.refuse("a variance and its epsilon are not positive together", "train or load the model again")
    return F.batch_norm(x, mean, var, scale, bias, eps=epsilon)


# ------------------------------------------------------------------------ pools


@converter("AveragePool")
def _average_pool(
    call: Call, x: Any, kernel_shape: Sequence[int], ceil_mode: int = 0, count_include_pad: int = 0, **attributes: Any
) -> Any:
    window = Window(call, x, kernel_shape, **attributes)
    counts_pads = bool(count_include_pad) or not any(map(any, window.pads))
    if _pads_as_torch(window) and set(window.dilation) == {1}:
        before = [pair[0] for pair in window.pads]
        return call.add(AvgPool(window.kernel, window.stride, before, bool(ceil_mode), counts_pads), x)
    return _uneven_average(call, x, window, bool(ceil_mode), counts_pads)


def _uneven_average(call: Call, x: Signal, window: Window, ceil: bool, counts_pads: bool) -> Any:
    """Windows over the padded map, each times its share of cells that count."""
    channels, rank, cells = call.shape(x)[0], len(window.kernel), math.prod(window.kernel)
    whole = _whole_padding(window, ceil)
    x = call.add(Pad(whole), x, part="pad") if any(map(any, whole)) else x
    if set(window.dilation) == {1}:
        average: Op = AvgPool(window.kernel, window.stride, (0,) * rank)
    else:
        weight = np.full((channels, 1, *window.kernel), 1 / cells, call.graph.type(x.name).dtype)
        average = Conv(weight, stride=window.stride, padding=(0,) * rank, dilation=window.dilation, groups=channels)
    # the same windows over ones say how many cells of each count: those of the map, and of the stated pads or not
    counted = window.pads if counts_pads else ((0, 0),) * rank
    ones = torch.ones(1, channels, *(size + a + b for size, (a, b) in zip(window.sizes, counted, strict=True)))
    uncounted = [(a - c, b - d) for (a, b), (c, d) in zip(whole, counted, strict=True)]
    mean = average.eval(Pad(uncounted).eval(ones))[0, :1].numpy()
    return affine(call, call.add(average, x, part="average"), cells / np.rint(cells * mean), 0, part="share")


@converter("MaxPool")
def _max_pool(
    call: Call, x: Any, kernel_shape: Sequence[int], ceil_mode: int = 0, storage_order: int = 0, **attributes: Any
) -> Any:
    """The order of storage concerns the indices only, which are refused where they are used."""
    window = Window(call, x, kernel_shape, **attributes)
    pads, ceil = window.pads, bool(ceil_mode)
    if not _pads_as_torch(window):
        pads, ceil = _whole_padding(window, ceil), False
    return call.add(MaxPool(window.kernel, window.stride, pads, window.dilation, ceil), x)


def _pads_as_torch(window: Window) -> bool:
    """True for padding as torch's pools take it: the same on both sides, at most half a kernel."""
    return all(a == b and 2 * a <= size for (a, b), size in zip(window.pads, window.kernel, strict=True))


def _whole_padding(window: Window, ceil: bool) -> Pairs:
    """The padding with which every window lies inside: one that ``ceil_mode`` adds starts in front of the end pad."""
    found = []
    axes = zip(window.sizes, window.pads, window.stride, window.extent, strict=True)
    for size, (before, after), step, extent in axes:
        span = size + before + after - extent
        steps = -(-span // step) if ceil else span // step
        if ceil and steps * step >= size + before:
            steps -= 1
        found.append((before, max(after, steps * step + extent - size - before)))
    return tuple(found)


# ------------------------------------------------------------------- reductions


def _reduce(
    call: Call,
    x: Any,
    axes: Sequence[int] | None = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
    *,
    function: Callable[..., Any],
) -> Any:
    if axes is None or not len(axes):
        if noop_with_empty_axes:
            return x
        call.refuse("it reduces all axes, that of the batch too", "name the axes, without axis 0")
    return _reduced(call, function, x, sorted({call.axis(x, axis) for axis in axes}), bool(keepdims))


for _kind, _function in (("Mean", torch.mean), ("Sum", torch.sum), ("Max", torch.amax), ("Min", torch.amin)):
    converter(f"Reduce{_kind}")(partial(_reduce, function=_function))


def _global_pool(call: Call, x: Any, *, function: Callable[..., Any]) -> Any:
    return _reduced(call, function, x, range(1, len(call.shape(x))), keepdims=True)


converter("GlobalAveragePool")(partial(_global_pool, function=torch.mean))
converter("GlobalMaxPool")(partial(_global_pool, function=torch.amax))


def _reduced(call: Call, function: Callable[..., Any], x: Any, axes: Sequence[int], keepdims: bool) -> Any:
    """A reduction over axes of the sample; where channels are among them, behind the axes that are kept."""
    shape = call.shape(x)
    if 0 in shape:
        call.refuse(f"a tensor {call.shown(x)} holds no number", "give each of its axes a length of at least 1")
    if axes and 0 not in axes and len(shape) <= 4:
        return function(x, [axis + 1 for axis in axes], keepdims)
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    x = permuted(call, x, [*kept, *axes], part="order")
    if len(kept) != 1 or not 1 <= len(axes) <= 3:
        x = reshaped(call, x, [math.prod(shape[axis] for axis in part) for part in (kept, axes)], part="rows")
    pooled = function(x, list(range(2, len(call.shape(x)) + 1)), keepdims)
    result = [1 if axis in axes else size for axis, size in enumerate(shape) if keepdims or axis not in axes]
    return reshaped(call, pooled, result, part="shape")
