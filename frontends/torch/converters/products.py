"""Converters of products of two signals, and of what divides a signal by statistics of itself."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spikec.extend.composites import permuted, reshaped
from spikec.frontends.torch.call import Call, Missing, Signal, as_array, converter, methods
from spikec.frontends.torch.composed import composed
from spikec.frontends.torch.converters.arith import affine
from spikec.frontends.torch.converters.shapes import same_dtype, sample_axes
from spikec.frontends.torch.converters.weights import batch_norm
from spikec.ir.ops import MatMul, Standardize

# -------------------------------------------------------------------- products


@converter(F.glu, torch.ops.aten.glu)
def _glu(call: Call, input: Signal, dim: int = -1) -> Any:
    def glu(x: Any) -> Any:
        a, b = torch.chunk(x, 2, dim)
        return a * torch.sigmoid(b)

    return composed(call, glu, input)


@converter(F.bilinear, torch.bilinear)
def _bilinear(call: Call, input1: Signal, input2: Signal, weight: Tensor, bias: Tensor | None = None) -> Any:
    """``y_o = x1 W_o x2 + b_o``: the matrices are applied to x2, and what they give is multiplied by x1."""
    if not isinstance(weight, Tensor):
        call.refuse("the weight is computed from the model's input", "only constant weights can be compiled")
    outputs, inputs, _ = weight.shape

    def bilinear(x1: Any, x2: Any) -> Any:
        y = torch.unflatten(F.linear(x2, weight.flatten(0, 1)), -1, (outputs, inputs))
        y = (y * x1.unsqueeze(-2)).sum(-1)
        return y if bias is None else y + bias

    return composed(call, bilinear, input1, input2)


@converter(torch.bmm, *methods("bmm"))
def _bmm(call: Call, input: Any, mat2: Any) -> Signal:
    if not (isinstance(input, Signal) and isinstance(mat2, Signal)):
        call.refuse("a constant with an axis for the batch differs between samples", "x @ matrix, with one matrix")
    return call.add(MatMul(), input, mat2)


@converter(torch.baddbmm, *methods("baddbmm"))
def _baddbmm(call: Call, input: Any, batch1: Any, batch2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return composed(call, lambda c, a, b: beta * c + alpha * torch.bmm(a, b), input, batch1, batch2)


@converter(torch.einsum)
def _einsum(call: Call, equation: str, *operands: Any, tensors: Any = (), path: None = None) -> Any:
    """Of two tensors, as one product of matrices; the letter of the batch is the first of every signal."""
    operands = (*operands, *tensors)
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    terms, _, result = equation.replace(" ", "").partition("->")
    letters = terms.split(",")
    plain = result and all(len(set(each)) == len(each) and each.isalpha() for each in (*letters, result))
    if not plain or len(letters) != 2 or len(operands) != 2:
        call.refuse(
            f"the equation {equation!r} is not supported",
            "give two tensors, with a letter for each axis, each once in a term, and -> with the result's",
        )
    signals = [isinstance(each, Signal) for each in operands]
    if not all(signals):
        return _einsum_with_constant(call, letters, result, operands)
    batch = result[0]
    if any(term[0] != batch for term in letters):
        call.refuse("it mixes the samples of a batch", f"put the batch first in every term: {equation}")
    first, second = letters[0][1:], letters[1][1:]
    both = [each for each in first if each in second]
    kept = [each for each in both if each in result]
    summed = [each for each in both if each not in result]
    free = [[each for each in term if each not in both and each in result] for term in (first, second)]
    sizes = {
        each: size
        for term, x in zip((first, second), operands, strict=True)
        for each, size in zip(term, call.shape(x), strict=True)
    }
    orders = ((*kept, *free[0], *summed), (*kept, *summed, *free[1]))
    if any(set(order) != set(term) for order, term in zip(orders, (first, second), strict=True)):
        call.refuse("a letter stands in one term alone and not in the result", "sum over it first: x.sum(i)")
    shapes = ((free[0], summed), (summed, free[1]))
    parts = [
        reshaped(
            call,
            permuted(call, x, [term.index(each) for each in order], part="order"),
            [*(sizes[each] for each in kept), *(math.prod(sizes[each] for each in group) for group in groups)],
            part="matrices",
        )
        for x, term, order, groups in zip(operands, (first, second), orders, shapes, strict=True)
    ]
    product = call.add(MatMul(), *parts, part="product")
    found = [*kept, *free[0], *free[1]]
    whole = reshaped(call, product, [sizes[each] for each in found], part="shape")
    return permuted(call, whole, [found.index(each) for each in result[1:]])


def _einsum_with_constant(call: Call, letters: Sequence[str], result: str, operands: Sequence[Any]) -> Any:
    """A matrix over some axes of a signal: no letter of the constant may be kept from the signal."""
    place = 0 if isinstance(operands[0], Signal) else 1
    x, constant, term, other = operands[place], operands[1 - place], letters[place], letters[1 - place]
    summed = [each for each in term if each in other]
    new = [each for each in other if each not in term]
    kept = [each for each in term if each not in other]
    if not isinstance(constant, Tensor) or term[0] != result[0] or set(result) != {*kept, *new} or not summed:
        call.refuse("it is no product of a matrix with some axes of a signal", "x @ matrix")
    sizes = dict(zip(term[1:], call.shape(x), strict=True)) | dict(zip(other, constant.shape, strict=True))
    matrix = constant.permute([other.index(each) for each in (*summed, *new)]).reshape(
        math.prod(sizes[each] for each in summed), -1
    )

    def product(y: Any) -> Any:
        y = y.permute([term.index(each) for each in (*kept, *summed)]).flatten(len(kept)) @ matrix
        y = y.unflatten(-1, [sizes[each] for each in new]) if len(new) != 1 else y
        return y.permute([[*kept, *new].index(each) for each in result])

    return composed(call, product, x)


@converter(F.cosine_similarity, torch.cosine_similarity)
def _cosine_similarity(call: Call, x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    return composed(call, lambda a, b: (F.normalize(a, 2, dim, eps) * F.normalize(b, 2, dim, eps)).sum(dim), x1, x2)


# ----------------------------------------------------------------------- norms


def _scaled(call: Call, x: Signal, weight: Any, bias: Any, rank: int = 0) -> Signal:
    """``weight x + bias`` over the trailing axes, or with a rank over the channels of samples of that rank."""
    gain, shift = (None if each is None else as_array(each).astype(np.float64) for each in (weight, bias))
    gain, shift = (np.ones(()) if gain is None else gain), (np.zeros(()) if shift is None else shift)
    if rank > 1:
        gain, shift = (each.reshape(-1, *(1,) * (rank - 1)) if each.ndim else each for each in (gain, shift))
    return affine(call, x, gain, shift)


def _has_gain(*constants: Any) -> str:
    """The end of the name of an op that a gain or a bias follows."""
    return "" if all(each is None for each in constants) else "standardized"


@converter(F.layer_norm, torch.layer_norm)
def _layer_norm(
    call: Call,
    input: Signal,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Signal:
    axes = _trailing(call, input, normalized_shape)
    x = call.add(Standardize(axes, eps=eps), input, part=_has_gain(weight, bias))
    return _scaled(call, x, weight, bias) if _has_gain(weight, bias) else x


def _trailing(call: Call, input: Signal, normalized_shape: Sequence[int]) -> list[int]:
    """The axes of a sample that have these sizes, which are the last ones."""
    sizes, shape = tuple(normalized_shape), call.shape(input)
    if not sizes or shape[-len(sizes) :] != sizes:
        call.refuse(
            f"it normalizes the last axes {list(sizes)} of a tensor {call.shown(input)}",
            "give the sizes of the last axes, without the batch",
        )
    return list(range(len(shape) - len(sizes), len(shape)))


@converter(torch.native_layer_norm)
def _native_layer_norm(call: Call, input: Signal, normalized_shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    return _layer_norm(call, input, normalized_shape, weight, bias, eps), *_NO_STATISTICS


_NO_STATISTICS = (Missing("the mean of a norm is used inside it alone"), Missing("its deviation is used inside it"))


@converter(F.rms_norm, torch.rms_norm)
def _rms_norm(
    call: Call,
    input: Signal,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Signal:
    axes = _trailing(call, input, normalized_shape)
    least = torch.finfo(getattr(torch, call.graph.type(input.name).dtype)).eps
    op = Standardize(axes, centred=False, eps=least if eps is None else eps)
    x = call.add(op, input, part=_has_gain(weight))
    return x if weight is None else _scaled(call, x, weight, None)


@converter(F.group_norm, torch.group_norm)
def _group_norm(
    call: Call,
    input: Signal,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Signal:
    rank = len(call.shape(input))
    op = Standardize(range(rank), eps=eps, groups=num_groups)
    if num_groups == call.shape(input)[0] and rank > 1:
        op = Standardize(range(1, rank), eps=eps)
    x = call.add(op, input, part=_has_gain(weight, bias))
    return _scaled(call, x, weight, bias, rank) if _has_gain(weight, bias) else x


@converter(torch.native_group_norm)
def _native_group_norm(
    call: Call, input: Signal, weight: Any, bias: Any, samples: Any, channels: int, cells: int, group: int, eps: float
) -> Any:
    return _group_norm(call, input, group, weight, bias, eps), *_NO_STATISTICS


@converter(F.instance_norm)
def _instance_norm(
    call: Call,
    input: Signal,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Signal:
    """With running statistics it is a batch norm, else it divides by the statistics of each map of the sample."""
    if not use_input_stats and running_mean is not None:
        return batch_norm(call, input, running_mean, running_var, weight, bias, eps=eps)
    call.expect_rank(input, 2, 3, 4)
    rank = len(call.shape(input))
    x = call.add(Standardize(range(1, rank), eps=eps), input, part=_has_gain(weight, bias))
    return _scaled(call, x, weight, bias, rank) if _has_gain(weight, bias) else x


@converter(F.normalize)
def _normalize(call: Call, input: Signal, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: None = None) -> Signal:
    if p != 2 or out is not None:
        call.refuse(f"a division by the {p:g}-norm is not supported", "F.normalize(x), which divides by the 2-norm")
    axes = sample_axes(call, input, dim)
    return call.add(Standardize(axes, centred=False, total=True, least=eps**2), input)


# ------------------------------------------------------------------ statistics


def _moment(
    call: Call,
    input: Signal,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
    root: bool,
) -> Any:
    """The variance over axes of a sample, or its root; torch divides by the count less the ``correction``, 1."""
    if isinstance(dim, bool) or dim in (None, (), []):
        call.refuse("statistics over all axes mix the samples of a batch", "name the axes: x.var((2, 3))")
    less = correction if correction is not None else 1 if unbiased is None else float(unbiased)
    shape = call.shape(input)
    count = math.prod(shape[axis] for axis in sample_axes(call, input, dim))
    if count <= less:
        call.refuse(f"the variance of {count} number(s) has no divisor", "unbiased=False")

    def moment(x: Any) -> Any:
        d = x - x.mean(dim, True)
        power = (d * d).sum(dim, keepdim) * (1 / (count - less))
        return torch.sqrt(power) if root else power

    return composed(call, moment, input)


converter(torch.var, *methods("var"))(partial(_moment, root=False))
converter(torch.std, *methods("std"))(partial(_moment, root=True))


def _with_mean(call: Call, input: Signal, dim: Any = None, *args: Any, root: bool, **kwargs: Any) -> Any:
    found = _moment(call, input, dim, *args, root=root, **kwargs)
    keepdim = kwargs.get("keepdim", args[1] if len(args) > 1 else False)
    return found, composed(call, lambda x: x.mean(dim, keepdim), input)


converter(torch.var_mean)(partial(_with_mean, root=False))
converter(torch.std_mean)(partial(_with_mean, root=True))


def _norm(
    call: Call,
    input: Signal,
    p: Any = 2,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
    out: None = None,
    **ord: Any,
) -> Any:
    """The root of the sum of squares over axes of a sample."""
    p = ord.pop("ord", p)
    if dtype is not None:
        same_dtype(call, input, str(dtype))
    if p not in (2, "fro", None) or ord:
        call.refuse(f"a norm of order {p} is not supported", "the 2-norm is")
    if dim in (None, (), []):
        call.refuse("a norm over all axes mixes the samples of a batch", "name the axes: x.norm(dim=(2, 3))")
    return composed(call, lambda x: torch.sqrt((x * x).sum(dim, keepdim)), input)


converter(torch.norm, *methods("norm"))(_norm)
converter(torch.linalg.vector_norm)(_norm)


@converter(torch.linalg.norm)
def _vector_or_matrix_norm(
    call: Call, input: Signal, ord: Any = None, dim: Any = None, keepdim: bool = False, **kwargs: Any
) -> Any:
    """Of two axes the norm of order 2 is the largest singular value, which is no root of a sum."""
    if isinstance(dim, Sequence) and len(dim) == 2 and ord not in (None, "fro"):
        call.refuse(f"a matrix norm of order {ord} is not supported", "the Frobenius norm is")
    return _norm(call, input, 2 if ord is None else ord, dim, keepdim, **kwargs)
