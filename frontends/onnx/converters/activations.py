"""Converters of activations, and of what a classifier ends in."""

from __future__ import annotations

import numpy as np

from spikec.extend.arrange import affine, reshaped
from spikec.extend.call import Signal
from spikec.frontends.onnx.call import Call, converter
from spikec.ir.ops import Clamp, Head, Identity, LeakyRelu, Relu


@converter("Relu")
def _relu(at: Call) -> Signal:
    return at.add(Relu(), at.signal())


@converter("Clip")
def _clip(at: Call) -> Signal:
    low, high = (_bound(at, name, slot) for slot, name in enumerate(("min", "max"), start=1))
    if low is None and high is None:
        return at.add(Identity(), at.signal())
    if low is not None and high is not None and low > high:
        low = high
    return at.add(Clamp(low, high), at.signal())


def _bound(at: Call, name: str, slot: int) -> float | None:
    """A bound; those at the ends of float's range are none."""
    value = at.option(name, slot)
    bound = None if value is None else float(np.asarray(value).reshape(()))
    return None if bound is None or abs(bound) >= np.finfo(np.float32).max else bound


@converter("LeakyRelu")
def _leaky_relu(at: Call) -> Signal:
    slope = at.attributes.get("alpha", 0.01)
    return _leaky(at, np.asarray(slope))


@converter("PRelu")
def _prelu(at: Call) -> Signal:
    return _leaky(at, at.beside(1, at.signal()))


@converter("Abs")
def _abs(at: Call) -> Signal:
    return _leaky(at, np.asarray(-1.0))


def _leaky(at: Call, slope: np.ndarray) -> Signal:
    x = at.signal()
    shape = (1,) * (len(at.shape(x)) - slope.ndim) + slope.shape
    return at.add(LeakyRelu(slope.reshape(shape)), x)


@converter("HardSigmoid")
def _hard_sigmoid(at: Call) -> Signal:
    gain, shift = at.attributes.get("alpha", 0.2), at.attributes.get("beta", 0.5)
    return at.add(Clamp(0.0, 1.0), affine(at, at.signal(), gain, shift, part="affine"))


@converter("ThresholdedRelu")
def _thresholded_relu(at: Call) -> Signal:
    if at.attributes.get("alpha", 1.0) != 0:
        at.refuse("it jumps at its threshold, which no rate does", "only alpha=0, a ReLU, is supported")
    return at.add(Relu(), at.signal())


@converter("Sigmoid")
def _sigmoid(at: Call) -> Signal:
    return at.add(Head("sigmoid"), at.signal())


@converter("Tanh")
def _tanh(at: Call) -> Signal:
    return at.add(Head("tanh"), at.signal())


@converter("Softmax")
def _softmax(at: Call) -> Signal:
    return _along(at, "softmax")


@converter("LogSoftmax")
def _log_softmax(at: Call) -> Signal:
    return _along(at, "log_softmax")


def _along(at: Call, function: str) -> Signal:
    """Below opset 13 all axes from the given one on are one."""
    x = at.signal()
    axis = at.axis(x, at.attributes.get("axis", -1 if at.opset >= 13 else 1))
    shape = at.shape(x)
    if at.opset >= 13 or axis == len(shape) - 1:
        return at.add(Head(function, axis), x)
    rows = reshaped(at, x, (*shape[:axis], int(np.prod(shape[axis:]))), part="rows")
    return reshaped(at, at.add(Head(function, axis), rows, part=function), shape)
