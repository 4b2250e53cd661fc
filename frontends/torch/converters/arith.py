"""Converters of arithmetic: what is affine folds as a batch norm does, a sum of signals is an Add."""

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikec.extend import composites
from spikec.frontends.torch.call import Call, Signal, as_array, converter, methods
from spikec.frontends.torch.converters.parts import matched
from spikec.ir.ops import Add
from spikec.ir.types import Array


def _keys(*names: str) -> list[Any]:
    """Every spelling of an arithmetic call: the operator, in place too, torch's function and the methods."""
    signs = [getattr(operator, each) for name in names for each in (name, f"i{name}") if hasattr(operator, each)]
    functions = [getattr(torch, each) for name in names for each in (name, f"{name}_") if hasattr(torch, each)]
    return [*dict.fromkeys(signs + functions), *methods(*names, *(f"{name}_" for name in names))]


@converter(*_keys("add"))
def _add(call: Call, input: Any, other: Any, *, alpha: float = 1) -> Signal:
    return _sum(call, input, other, alpha)


@converter(*_keys("sub", "subtract"))
def _sub(call: Call, input: Any, other: Any, *, alpha: float = 1) -> Signal:
    return _sum(call, input, other, -_number(call, alpha))


@converter(torch.rsub)
def _rsub(call: Call, input: Any, other: Any, *, alpha: float = 1) -> Signal:
    return _sum(call, other, input, -_number(call, alpha))


@converter(*_keys("mul", "multiply"))
def _mul(call: Call, input: Any, other: Any) -> Signal:
    if isinstance(input, Signal) and isinstance(other, Signal):
        call.refuse(
            "a product of two signals is not supported: both depend on the model's input",
            "multiply by a constant, or replace the gate by a layer",
        )
    signal, constant = (input, other) if isinstance(input, Signal) else (other, input)
    return affine(call, signal, _constant(call, constant), np.zeros(()))


@converter(*_keys("truediv", "div", "divide", "true_divide"))
def _div(call: Call, input: Any, other: Any, *, rounding_mode: str | None = None) -> Signal:
    if rounding_mode is not None:
        call.refuse(f"rounding_mode={rounding_mode!r} is not supported", "divide without rounding")
    if isinstance(other, Signal):
        call.refuse("a division by a signal is not supported", "divide by a constant")
    with np.errstate(divide="ignore"):
        return affine(call, input, 1 / _constant(call, other), np.zeros(()))


@converter(*_keys("neg", "negative"))
def _neg(call: Call, input: Signal) -> Signal:
    return affine(call, input, -np.ones(()), np.zeros(()))


def _sum(call: Call, input: Any, other: Any, alpha: Any) -> Signal:
    """``input + alpha * other``, of which at least one is a signal."""
    factor = np.asarray(_number(call, alpha))
    if not isinstance(other, Signal):
        return affine(call, input, np.ones(()), factor * _constant(call, other))
    if not isinstance(input, Signal):
        return affine(call, other, factor, _constant(call, input))
    if factor != 1:
        other = affine(call, other, factor, np.zeros(()), part="scaled")
    return call.add(Add(), *matched(call, input, other))


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


def _constant(call: Call, value: Any) -> Array:
    """A number or a tensor of numbers as float64."""
    if isinstance(value, Tensor) and not value.is_complex():
        return as_array(value).astype(np.float64)
    if not isinstance(value, (int, float)):
        call.refuse(f"arithmetic with a {type(value).__name__} is not supported", "use a float or a float tensor")
    return np.asarray(value, dtype=np.float64)
