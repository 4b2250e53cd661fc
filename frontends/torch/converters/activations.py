"""Converters of piecewise linear activations, maxima over axes, and of the heads that networks end in."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikec.extend.arrange import reshaped
from spikec.frontends.torch.call import Call, Missing, Signal, as_array, converter, methods
from spikec.frontends.torch.converters.arith import affine
from spikec.frontends.torch.converters.axes import sample_axis
from spikec.frontends.torch.converters.identities import same_dtype
from spikec.frontends.torch.converters.parts import matched
from spikec.ir.errors import InvalidModelError
from spikec.ir.ops import Clamp, Head, LeakyRelu, Maximum, MaxPool, Minimum, Relu
from spikec.ir.types import Array, on_axis


@converter(F.relu, torch.relu, torch.relu_, *methods("relu", "relu_"))
def _relu(at: Call, input: Signal, inplace: bool = False) -> Signal:
    return at.add(Relu(), input)


@converter(nn.ReLU)
def _relu_layer(module: nn.ReLU, at: Call) -> Signal:
    return at.add(Relu(), at.operand)


# ---------------------------------------------------------------------- bounds


@converter(torch.clamp, torch.clamp_, torch.clip, torch.clip_, *methods("clamp", "clamp_", "clip", "clip_"))
def clamp(at: Call, input: Signal, min: Any = None, max: Any = None) -> Signal:
    """Bounds that are numbers, constant tensors, signals or None; the upper one wins, as in torch."""
    low, high = _number(min), _number(max)
    if low is not None and high is not None and low >= high:
        at.refuse(f"it is constant: the bounds are {low:g} and {high:g}", "give the smaller bound first")
    if (min is None or low is not None) and (max is None or high is not None):
        return at.add(Clamp(low, high), input)
    if min is None:
        return _smaller(at, input, max)
    return _larger(at, input, min) if max is None else _smaller(at, _larger(at, input, min, "low"), max)


@converter(torch.clamp_min, torch.clamp_min_, *methods("clamp_min", "clamp_min_"))
def _clamp_min(at: Call, input: Signal, min: Any) -> Signal:
    return clamp(at, input, min)


@converter(torch.clamp_max, torch.clamp_max_, *methods("clamp_max", "clamp_max_"))
def _clamp_max(at: Call, input: Signal, max: Any) -> Signal:
    return clamp(at, input, None, max)


@converter(F.hardtanh, F.hardtanh_)
def _hardtanh(at: Call, input: Signal, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Signal:
    return clamp(at, input, min_val, max_val)


@converter(F.relu6)
def _relu6(at: Call, input: Signal, inplace: bool = False) -> Signal:
    return clamp(at, input, 0, 6)


@converter(nn.Hardtanh, nn.ReLU6)
def _hardtanh_layer(module: nn.Hardtanh, at: Call) -> Signal:
    return clamp(at, at.operand, module.min_val, module.max_val)


@converter(F.hardsigmoid)
def _hardsigmoid(at: Call, input: Signal, inplace: bool = False) -> Signal:
    return at.add(Clamp(0.0, 1.0), affine(at, input, np.asarray(1 / 6), np.asarray(0.5), part="line"))


@converter(nn.Hardsigmoid)
def _hardsigmoid_layer(module: nn.Hardsigmoid, at: Call) -> Signal:
    return _hardsigmoid(at, at.operand)


@converter(F.threshold, torch.threshold, torch.threshold_)
def _threshold(at: Call, input: Signal, threshold: float, value: float, inplace: bool = False) -> Signal:
    if threshold != value:
        at.refuse(
            f"threshold(x, {threshold:g}, {value:g}) jumps at {threshold:g}, which no sum of spikes does",
            "threshold(x, 0, 0), which is a ReLU",
        )
    return at.add(Relu(), input) if threshold == 0 else at.add(Clamp(float(threshold), None), input)


@converter(nn.Threshold)
def _threshold_layer(module: nn.Threshold, at: Call) -> Signal:
    return _threshold(at, at.operand, module.threshold, module.value)


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return float(value) if isinstance(value, (int, float)) else None


# ----------------------------------------------------------------- two slopes


def _leaky(at: Call, input: Signal, slope: Any) -> Signal:
    """``slope``: one number, or one a channel."""
    rank = len(at.shape(input))
    values = np.asarray(slope, at.graph.type(input.name).dtype).reshape(-1)
    if not np.isfinite(values).all():
        at.refuse("the slope is NaN or infinite")
    return at.add(LeakyRelu(on_axis(values, rank, 0) if rank else values.reshape(())), input)


@converter(F.leaky_relu, F.leaky_relu_)
def _leaky_relu(at: Call, input: Signal, negative_slope: float = 0.01, inplace: bool = False) -> Signal:
    return _leaky(at, input, negative_slope)


@converter(nn.LeakyReLU)
def _leaky_relu_layer(module: nn.LeakyReLU, at: Call) -> Signal:
    return _leaky(at, at.operand, module.negative_slope)


@converter(F.prelu, torch.prelu, *methods("prelu"))
def _prelu(at: Call, input: Signal, weight: Any) -> Signal:
    if not isinstance(weight, Tensor):
        at.refuse("the slope is computed from the model's input", "only constant slopes can be compiled")
    return _leaky(at, input, as_array(weight))


@converter(nn.PReLU)
def _prelu_layer(module: nn.PReLU, at: Call) -> Signal:
    return _prelu(at, at.operand, module.weight)


@converter(F.rrelu, F.rrelu_, torch.rrelu, torch.rrelu_)
def _rrelu(
    at: Call, input: Signal, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Signal:
    if training:
        raise InvalidModelError(at.problem(f"{at.source.kind} draws its slopes in training mode", "call model.eval()"))
    return _leaky(at, input, (lower + upper) / 2)


@converter(nn.RReLU)
def _rrelu_layer(module: nn.RReLU, at: Call) -> Signal:
    return _rrelu(at, at.operand, module.lower, module.upper, module.training)


@converter(torch.abs, torch.abs_, torch.absolute, *methods("abs", "abs_", "absolute", "absolute_"))
def _abs(at: Call, input: Signal) -> Signal:
    return _leaky(at, input, -1)


# --------------------------------------------------------------- of two tensors


def _larger(at: Call, input: Any, other: Any, part: str = "") -> Signal:
    """``max(input, other)``, of which at least one is a signal."""
    if isinstance(input, Signal) and isinstance(other, Signal):
        return at.add(Maximum(), *matched(at, input, other), part=part)
    signal, bound = (input, other) if isinstance(input, Signal) else (other, input)
    if (number := _number(bound)) is not None:
        return at.add(Clamp(number, None), signal, part=part)
    level = _level(at, bound)
    above = affine(at, signal, np.ones(()), -level, part=f"{part}above")
    return affine(at, at.add(Relu(), above, part=f"{part}excess"), np.ones(()), level, part=part)


def _smaller(at: Call, input: Any, other: Any) -> Signal:
    """``min(input, other)``, of which at least one is a signal."""
    if isinstance(input, Signal) and isinstance(other, Signal):
        return at.add(Minimum(), *matched(at, input, other))
    signal, bound = (input, other) if isinstance(input, Signal) else (other, input)
    if (number := _number(bound)) is not None:
        return at.add(Clamp(None, number), signal)
    level = _level(at, bound)
    below = affine(at, signal, -np.ones(()), level, part="below")
    return affine(at, at.add(Relu(), below, part="excess"), -np.ones(()), level)


def _level(at: Call, bound: Any) -> Array:
    if not isinstance(bound, Tensor):
        at.refuse(f"a bound that is a {type(bound).__name__} is not supported", "give a number or a tensor")
    return as_array(bound).astype(np.float64)


@converter(torch.maximum, torch.fmax, *methods("maximum", "fmax"))
def _maximum(at: Call, input: Any, other: Any) -> Signal:
    return _larger(at, input, other)


@converter(torch.minimum, torch.fmin, *methods("minimum", "fmin"))
def _minimum(at: Call, input: Any, other: Any) -> Signal:
    return _smaller(at, input, other)


# ------------------------------------------------------------------- over axes


class Extreme(NamedTuple):
    """What ``x.max(dim)`` gives."""

    values: Signal
    indices: Missing


_NO_INDICES = Missing("the places of a maximum have no spiking form")


def _over(at: Call, input: Signal, dim: Any, keepdim: bool, sign: int) -> Signal:
    """The maximum (sign 1) or minimum (-1) over axes of the sample: max-pools over whole axes."""
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    if None in dims or not dims:
        at.refuse("a maximum over all axes mixes the samples of a batch", "name the axes: x.amax((2, 3))")
    axes = sorted({sample_axis(at, input, each) for each in dims})
    shape = at.shape(input)
    kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
    result = kept if keepdim else [size for axis, size in enumerate(shape) if axis not in axes]
    x = input if sign > 0 else affine(at, input, -np.ones(()), np.zeros(()), part="minus")
    if axes[0] == 0 or len(shape) > 4:
        for axis in axes:
            before, after = math.prod(kept[:axis]), math.prod(shape[axis + 1 :])
            x = reshaped(at, x, (before, shape[axis], after), part=f"axis{axis}_flat")
            x = at.add(_window((shape[axis], 1)), x, part=f"axis{axis}")
    else:
        x = at.add(_window(tuple(shape[axis] if axis in axes else 1 for axis in range(1, len(shape)))), x, part="pool")
    if sign > 0:
        return reshaped(at, x, result)
    return affine(at, reshaped(at, x, result, part="shape"), -np.ones(()), np.zeros(()))


def _window(kernel: tuple[int, ...]) -> MaxPool:
    return MaxPool(kernel, kernel, (0,) * len(kernel), (1,) * len(kernel))


@converter(torch.amax, *methods("amax"))
def _amax(at: Call, input: Signal, dim: Any = (), keepdim: bool = False) -> Signal:
    return _over(at, input, dim, keepdim, 1)


@converter(torch.amin, *methods("amin"))
def _amin(at: Call, input: Signal, dim: Any = (), keepdim: bool = False) -> Signal:
    return _over(at, input, dim, keepdim, -1)


@converter(torch.max, *methods("max"))
def _max(at: Call, input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    second = dim if other is None else other
    if isinstance(second, (Signal, Tensor)):
        return _larger(at, input, second)
    return Extreme(_over(at, input, dim, keepdim, 1), _NO_INDICES)


@converter(torch.min, *methods("min"))
def _min(at: Call, input: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    second = dim if other is None else other
    if isinstance(second, (Signal, Tensor)):
        return _smaller(at, input, second)
    return Extreme(_over(at, input, dim, keepdim, -1), _NO_INDICES)


# ----------------------------------------------------------------------- heads


def _along_axis(at: Call, input: Signal, function: str, dim: int | None, dtype: Any = None) -> Signal:
    if dim is None:
        at.refuse(f"{function} without an axis takes one by the number of axes", f"{at.source.kind} with dim=1")
    if dtype is not None:
        same_dtype(at, input, str(dtype))
    return at.add(Head(function, sample_axis(at, input, dim)), input)


@converter(F.softmax, *methods("softmax"))
def _softmax(at: Call, input: Signal, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Signal:
    return _along_axis(at, input, "softmax", dim, dtype)


@converter(F.log_softmax, *methods("log_softmax"))
def _log_softmax(at: Call, input: Signal, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Signal:
    return _along_axis(at, input, "log_softmax", dim, dtype)


@converter(F.softmin)
def _softmin(at: Call, input: Signal, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Signal:
    return _along_axis(at, input, "softmin", dim, dtype)


@converter(torch.softmax)
def _torch_softmax(at: Call, input: Signal, dim: int, dtype: Any = None) -> Signal:
    return _along_axis(at, input, "softmax", dim, dtype)


@converter(torch.log_softmax)
def _torch_log_softmax(at: Call, input: Signal, dim: int, dtype: Any = None) -> Signal:
    return _along_axis(at, input, "log_softmax", dim, dtype)


_HEADS: dict[type[nn.Module], str] = {nn.Softmax: "softmax", nn.LogSoftmax: "log_softmax", nn.Softmin: "softmin"}


@converter(nn.Softmax, nn.LogSoftmax, nn.Softmin)
def _softmax_layer(module: Any, at: Call) -> Signal:
    function = next(_HEADS[cls] for cls in type(module).__mro__ if cls in _HEADS)
    return _along_axis(at, at.operand, function, module.dim)


@converter(nn.Softmax2d)
def _softmax2d(module: nn.Softmax2d, at: Call) -> Signal:
    return _along_axis(at, at.operand, "softmax", -3)


@converter(torch.sigmoid, torch.sigmoid_, F.sigmoid, *methods("sigmoid", "sigmoid_"))
def _sigmoid(at: Call, input: Signal) -> Signal:
    return at.add(Head("sigmoid"), input)


@converter(torch.tanh, torch.tanh_, F.tanh, *methods("tanh", "tanh_"))
def _tanh(at: Call, input: Signal) -> Signal:
    return at.add(Head("tanh"), input)


@converter(F.logsigmoid)
def _logsigmoid(at: Call, input: Signal) -> Signal:
    return at.add(Head("log_sigmoid"), input)


@converter(nn.Sigmoid)
def _sigmoid_layer(module: nn.Sigmoid, at: Call) -> Signal:
    return _sigmoid(at, at.operand)


@converter(nn.Tanh)
def _tanh_layer(module: nn.Tanh, at: Call) -> Signal:
    return _tanh(at, at.operand)


@converter(nn.LogSigmoid)
def _logsigmoid_layer(module: nn.LogSigmoid, at: Call) -> Signal:
    return _logsigmoid(at, at.operand)
