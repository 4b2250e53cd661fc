"""Converters of piecewise linear activations, maxima over axes, and of the heads that networks end in."""

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spikec.extend.composites import reshaped
from spikec.extend.levels import Levels
from spikec.frontends.torch.call import Call, Missing, Signal, as_array, converter, methods
from spikec.frontends.torch.convert import refuse_unknown
from spikec.frontends.torch.converters.arith import affine
from spikec.frontends.torch.converters.parts import matched
from spikec.frontends.torch.converters.shapes import same_dtype, sample_axes, sample_axis
from spikec.ir.errors import InvalidModelError
from spikec.ir.ops import Add, Clamp, Floor, Head, Identity, LeakyRelu, Maximum, MaxPool, Minimum, Relu
from spikec.ir.types import on_axis


@converter(F.relu, torch.relu, torch.relu_, *methods("relu", "relu_"))
def _relu(call: Call, input: Signal, inplace: bool = False) -> Signal:
    return call.add(Relu(), input)


# ---------------------------------------------------------------------- bounds


@converter(torch.clamp, torch.clamp_, torch.clip, torch.clip_, *methods("clamp", "clamp_", "clip", "clip_"))
@converter(torch.clamp_min, torch.clamp_min_, *methods("clamp_min", "clamp_min_"))
def clamp(call: Call, input: Signal, min: Any = None, max: Any = None) -> Signal:
    """Bounds that are numbers, constant tensors, signals or None; the upper one wins, as in torch."""
    low, high = _number(min), _number(max)
    if low is not None and high is not None and low >= high:
        call.refuse(f"it is constant: the bounds are {low:g} and {high:g}", "give the smaller bound first")
    if (min is None or low is not None) and (max is None or high is not None):
        return call.add(Clamp(low, high), input)
    if min is not None:
        input = _extreme(call, input, min, sign=1, part="" if max is None else "low")
    return input if max is None else _extreme(call, input, max, sign=-1)


@converter(torch.clamp_max, torch.clamp_max_, *methods("clamp_max", "clamp_max_"))
def _clamp_max(call: Call, input: Signal, max: Any) -> Signal:
    return clamp(call, input, None, max)


@converter(torch.floor, torch.floor_, *methods("floor", "floor_"))
def _floor(call: Call, input: Signal) -> Signal:
    """Levels that a clip was trained with: ``floor(L clip(x / bound, 0, 1) + 1/2)``. No other floor has spikes."""
    if Levels.of(call.graph, input.name) is None:
        refuse_unknown(call, call.source.kind)
    return call.add(Floor(), input)


@converter(F.hardtanh, F.hardtanh_)
def _hardtanh(call: Call, input: Signal, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Signal:
    return clamp(call, input, min_val, max_val)


@converter(F.relu6)
def _relu6(call: Call, input: Signal, inplace: bool = False) -> Signal:
    return clamp(call, input, 0, 6)


@converter(F.hardsigmoid)
def _hardsigmoid(call: Call, input: Signal, inplace: bool = False) -> Signal:
    return call.add(Clamp(0.0, 1.0), affine(call, input, np.asarray(1 / 6), np.asarray(0.5), part="line"))


@converter(F.softshrink)
def _softshrink(call: Call, input: Signal, lambd: float = 0.5) -> Signal:
    """``x - clamp(x, -lambd, lambd)``."""
    if lambd == 0:
        return call.add(Identity(), input)
    inside = call.add(Clamp(-float(lambd), float(lambd)), input, part="inside")
    return call.add(Add(), input, affine(call, inside, -np.ones(()), np.zeros(()), part="minus"))


@converter(F.threshold, torch.threshold, torch.threshold_)
def _threshold(call: Call, input: Signal, threshold: float, value: float, inplace: bool = False) -> Signal:
    if threshold != value:
        call.refuse(
            f"threshold(x, {threshold:g}, {value:g}) jumps at {threshold:g}, which no sum of spikes does",
            "threshold(x, 0, 0), which is a ReLU",
        )
    return call.add(Relu(), input) if threshold == 0 else call.add(Clamp(float(threshold), None), input)


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return float(value) if isinstance(value, (int, float)) else None


# ----------------------------------------------------------------- two slopes


def _leaky(call: Call, input: Signal, slope: Any) -> Signal:
    """``slope``: one number, or one a channel."""
    rank = len(call.shape(input))
    values = np.asarray(slope, call.graph.type(input.name).dtype).reshape(-1)
    if not np.isfinite(values).all():
        call.refuse("the slope is NaN or infinite", "the training diverged; retrain")
    return call.add(LeakyRelu(on_axis(values, rank, 0) if rank else values.reshape(())), input)


@converter(F.leaky_relu, F.leaky_relu_)
def _leaky_relu(call: Call, input: Signal, negative_slope: float = 0.01, inplace: bool = False) -> Signal:
    return _leaky(call, input, negative_slope)


@converter(F.prelu, torch.prelu, *methods("prelu"))
def _prelu(call: Call, input: Signal, weight: Any) -> Signal:
    if not isinstance(weight, Tensor):
        call.refuse("the slope is computed from the model's input", "only constant slopes can be compiled")
    return _leaky(call, input, as_array(weight))


@converter(F.rrelu, F.rrelu_, torch.rrelu, torch.rrelu_)
def _rrelu(
    call: Call, input: Signal, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Signal:
    if training:
        raise InvalidModelError(
            call.problem(f"{call.source.kind} draws its slopes in training mode", "call model.eval()")
        )
    return _leaky(call, input, (lower + upper) / 2)


@converter(torch.abs, torch.abs_, torch.absolute, *methods("abs", "abs_", "absolute", "absolute_"))
def _abs(call: Call, input: Signal) -> Signal:
    return _leaky(call, input, -1)


# --------------------------------------------------------------- of two tensors


def _extreme(call: Call, input: Any, other: Any, *, sign: int, part: str = "") -> Signal:
    """``max(input, other)`` for sign 1, ``min`` for -1; at least one is a signal.

    With a constant c it is a ReLU between two affine maps: ``max(x, c) = relu(x - c) + c``.
    """
    if isinstance(input, Signal) and isinstance(other, Signal):
        return call.add(Maximum() if sign > 0 else Minimum(), *matched(call, input, other), part=part)
    signal, bound = (input, other) if isinstance(input, Signal) else (other, input)
    if (number := _number(bound)) is not None:
        return call.add(Clamp(number, None) if sign > 0 else Clamp(None, number), signal, part=part)
    if not isinstance(bound, Tensor):
        call.refuse(f"a bound that is a {type(bound).__name__} is not supported", "give a number or a tensor")
    level, gain = as_array(bound).astype(np.float64), sign * np.ones(())
    beyond = affine(call, signal, gain, -sign * level, part=f"{part}beyond")
    return affine(call, call.add(Relu(), beyond, part=f"{part}excess"), gain, level, part=part)


converter(torch.maximum, torch.fmax, *methods("maximum", "fmax"))(partial(_extreme, sign=1))
converter(torch.minimum, torch.fmin, *methods("minimum", "fmin"))(partial(_extreme, sign=-1))

# ------------------------------------------------------------------- over axes


class Extreme(NamedTuple):
    """What ``x.max(dim)`` gives."""

    values: Signal
    indices: Missing


NO_INDICES = Missing("the places of a maximum have no spiking form")


def _over(call: Call, input: Signal, dim: Any = (), keepdim: bool = False, *, sign: int) -> Signal:
    """The maximum (sign 1) or minimum (-1) over axes of the sample: max-pools over whole axes."""
    if dim in (None, (), []):
        call.refuse("a maximum over all axes mixes the samples of a batch", "name the axes: x.amax((2, 3))")
    axes = sample_axes(call, input, dim)
    shape = call.shape(input)
    kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
    result = kept if keepdim else [size for axis, size in enumerate(shape) if axis not in axes]
    x = input if sign > 0 else affine(call, input, -np.ones(()), np.zeros(()), part="minus")
    if axes[0] == 0 or len(shape) > 4:
        for axis in axes:
            before, after = math.prod(kept[:axis]), math.prod(shape[axis + 1 :])
            x = reshaped(call, x, (before, shape[axis], after), part=f"axis{axis}_flat")
            x = call.add(_window((shape[axis], 1)), x, part=f"axis{axis}")
    else:
        x = call.add(
            _window(tuple(shape[axis] if axis in axes else 1 for axis in range(1, len(shape)))), x, part="pool"
        )
    if sign > 0:
        return reshaped(call, x, result)
    return affine(call, reshaped(call, x, result, part="shape"), -np.ones(()), np.zeros(()))


def _window(kernel: tuple[int, ...]) -> MaxPool:
    return MaxPool(kernel, kernel, (0,) * len(kernel), (1,) * len(kernel))


def _of_two_or_over(
    call: Call, input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None, sign: int
) -> Any:
    """``x.max(y)`` is of two tensors, ``x.max(2)`` over an axis."""
    second = dim if other is None else other
    if isinstance(second, (Signal, Tensor)):
        return _extreme(call, input, second, sign=sign)
    return Extreme(_over(call, input, dim, keepdim, sign=sign), NO_INDICES)


converter(torch.amax, *methods("amax"))(partial(_over, sign=1))
converter(torch.amin, *methods("amin"))(partial(_over, sign=-1))
converter(torch.max, *methods("max"))(partial(_of_two_or_over, sign=1))
converter(torch.min, *methods("min"))(partial(_of_two_or_over, sign=-1))


# ----------------------------------------------------------------------- heads


def _along_axis(
    call: Call, input: Signal, dim: int | None = None, dtype: Any = None, _stacklevel: int = 3, *, function: str
) -> Signal:
    """``torch.softmax`` and its like."""
    if dim is None:
        call.refuse(f"{function} without an axis takes one by the number of axes", f"{call.source.kind} with dim=1")
    if dtype is not None:
        same_dtype(call, input, str(dtype))
    return call.add(Head(function, sample_axis(call, input, dim)), input)


def _head(call: Call, input: Signal, *, function: str) -> Signal:
    """A function of single numbers."""
    return call.add(Head(function), input)


converter(F.softmax, torch.softmax, *methods("softmax"))(partial(_along_axis, function="softmax"))
converter(F.log_softmax, torch.log_softmax, *methods("log_softmax"))(partial(_along_axis, function="log_softmax"))
converter(F.softmin)(partial(_along_axis, function="softmin"))
for _name in ("sigmoid", "tanh"):
    _functions = (getattr(torch, _name), getattr(torch, f"{_name}_"), getattr(F, _name))
    converter(*_functions, *methods(_name, f"{_name}_"))(partial(_head, function=_name))
converter(F.logsigmoid)(partial(_head, function="log_sigmoid"))
