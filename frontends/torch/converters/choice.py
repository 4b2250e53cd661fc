"""Converters of comparisons with a number, and of what chooses between two tensors by them."""

import operator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikec.frontends.torch.call import Call, Signal, as_array, converter, methods
from spikec.frontends.torch.converters.arith import affine, as_constant
from spikec.frontends.torch.converters.attention import filled
from spikec.frontends.torch.converters.parts import matched
from spikec.ir.ops import Add, Compare, Identity, Where

#: what ``a < b`` says of b
_TURNED = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge"}


def _compare(call: Call, input: Any, other: Any, *, relation: str) -> Signal:
    if isinstance(input, Signal) and isinstance(other, Signal):
        call.refuse(
            "two signals are compared: it jumps, and a rate changes steadily with its input",
            "torch.maximum(a, b) is the larger of the two",
        )
    if not isinstance(input, Signal):
        input, other, relation = other, input, _TURNED[relation]
    if isinstance(other, Tensor) and other.numel() == 1:
        other = other.item()
    if not isinstance(other, (int, float)):
        call.refuse("it compares with several numbers", "compare with one, or take torch.maximum(x, bounds)")
    return call.add(Compare(relation, other), input)


for _relation, _name in (("gt", "greater"), ("ge", "greater_equal"), ("lt", "less"), ("le", "less_equal")):
    _keys = getattr(operator, _relation), getattr(torch, _relation), getattr(torch, _name)
    converter(*_keys, *methods(_relation, _name))(partial(_compare, relation=_relation))


@converter(operator.invert, torch.logical_not, torch.bitwise_not, *methods("logical_not", "bitwise_not"))
def _not(call: Call, input: Signal) -> Signal:
    name, op = _comparison(call, input)
    return call.add(op.opposite(), Signal(*call.graph.operands(name)))


def _comparison(call: Call, condition: Any) -> tuple[str, Compare]:
    """The node that a condition is, and its op."""
    name = condition.name if isinstance(condition, Signal) else ""
    while name and isinstance(call.graph[name], Identity):
        (name,) = call.graph.operands(name)
    op = call.graph[name] if name else None
    if not isinstance(op, Compare):
        call.refuse("the condition is no comparison of a signal with a number", "torch.where(x > 0, x, 0.1 * x)")
    return name, op


@converter(torch.where)
def where(call: Call, condition: Any, input: Any, other: Any) -> Signal:
    """What a comparison, or a constant mask, chooses for each number, of two signals, or of a signal and numbers."""
    if isinstance(condition, Tensor):
        return _masked(call, condition, input, other)
    name, _ = _comparison(call, condition)
    compared = Signal(*call.graph.operands(name))
    signals = [
        each if isinstance(each, Signal) else affine(call, compared, np.zeros(()), as_constant(call, each), part)
        for each, part in ((input, "then"), (other, "else"))
    ]
    return call.add(Where(), *matched(call, condition, *signals))


def _masked(call: Call, mask: Tensor, input: Any, other: Any) -> Signal:
    if not isinstance(other, Signal):
        return filled(call, input, mask.logical_not(), other)
    if not isinstance(input, Signal):
        return filled(call, other, mask, input)
    keep = as_array(mask.to(torch.float64))
    parts = affine(call, input, keep, np.zeros(()), "then"), affine(call, other, 1 - keep, np.zeros(()), "else")
    return call.add(Add(), *matched(call, *parts))


@converter(*methods("where"))
def _where_of(call: Call, input: Any, condition: Any, other: Any) -> Signal:
    return where(call, condition, input, other)


@converter(torch.masked_fill, *methods("masked_fill", "masked_fill_"))
def _masked_fill(call: Call, input: Signal, mask: Any, value: Any) -> Signal:
    """Cells that a comparison, or a constant mask, marks get a number."""
    return where(call, mask, value, input) if isinstance(mask, Signal) else filled(call, input, mask, value)
