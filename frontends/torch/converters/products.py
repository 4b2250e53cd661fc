"""Converters of products of two signals."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spikec.extend.composites import permuted, reshaped
from spikec.frontends.torch.call import Call, Signal, converter, methods
from spikec.frontends.torch.composed import composed
from spikec.ir.ops import MatMul


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
    """A matrix over some axes of a signal, or one for each cell along axes that both have and the result keeps."""
    place = 0 if isinstance(operands[0], Signal) else 1
    x, constant, term, other = operands[place], operands[1 - place], letters[place], letters[1 - place]
    each_has = [each for each in other if each in term and each in result]
    summed = [each for each in term if each in other and each not in result]
    new = [each for each in other if each not in term]
    kept = [each for each in term if each not in other]
    mixes = term[0] != result[0] or term[0] in other
    if not isinstance(constant, Tensor) or mixes or set(result) != {*kept, *new, *each_has} or not summed:
        call.refuse("it is no product of a matrix with some axes of a signal", "x @ matrix")
    sizes = dict(zip(term[1:], call.shape(x), strict=True)) | dict(zip(other, constant.shape, strict=True))
    if each_has:
        return composed(call, _in_groups(constant, (term, other, result), sizes, each_has, summed, new), x)
    matrix = constant.permute([other.index(each) for each in (*summed, *new)]).reshape(
        math.prod(sizes[each] for each in summed), -1
    )

    def product(y: Any) -> Any:
        y = y.permute([term.index(each) for each in (*kept, *summed)]).flatten(len(kept)) @ matrix
        y = y.unflatten(-1, [sizes[each] for each in new]) if len(new) != 1 else y
        return y.permute([[*kept, *new].index(each) for each in result])

    return composed(call, product, x)


def _in_groups(
    constant: Tensor,
    equation: tuple[str, str, str],
    sizes: Mapping[str, int],
    groups: Sequence[str],
    summed: Sequence[str],
    new: Sequence[str],
) -> Callable[[Any], Any]:
    """The function of a signal whose cells along some axes have a matrix each: a convolution of as many groups.

    Args:
        constant: the matrices.
        equation: the letters of the signal, of the constant and of the result.
        sizes: of the axes, by letter.
        groups, summed, new: letters of the constant: those that all three have, those that only the result has not,
            and those that only the signal has not.
    """
    term, other, result = equation
    rest = [each for each in term[1:] if each not in other]
    inputs, outputs = (math.prod(sizes[each] for each in some) for some in (summed, new))
    order = [other.index(each) for each in (*groups, *new, *summed)]
    weight = constant.permute(order).reshape(-1, inputs, 1)
    found = [term[0], *groups, *new, *rest]

    def product(y: Any) -> Any:
        y = y.permute([term.index(each) for each in (term[0], *groups, *summed, *rest)])
        y = y.flatten(len(term) - len(rest)) if rest else y.unsqueeze(-1)
        y = F.conv1d(y.flatten(1, -2), weight, groups=len(weight) // outputs)
        y = y.unflatten(-1, [sizes[each] for each in rest]) if rest else y.squeeze(-1)
        y = y.unflatten(1, [sizes[each] for each in (*groups, *new)])
        return y.permute([found.index(each) for each in result])

    return product


@converter(F.cosine_similarity, torch.cosine_similarity)
def _cosine_similarity(call: Call, x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    return composed(call, lambda a, b: (F.normalize(a, 2, dim, eps) * F.normalize(b, 2, dim, eps)).sum(dim), x1, x2)
