"""Converters of activations, and of what a classifier ends in."""

from __future__ import annotations

import numpy as np

from spikec.extend.call import Signal
from spikec.extend.composites import affine, reshaped
from spikec.frontends.onnx.call import Call, converter
from spikec.ir.ops import Clamp, Head, Identity, LeakyRelu, Relu


@converter("Relu")
def _relu(call: Call) -> Signal:
    return call.add(Relu(), call.signal())


@converter("Clip")
def _clip(call: Call) -> Signal:
    low, high = (_bound(call, name, slot) for slot, name in enumerate(("min", "max"), start=1))
    if low is None and high is None:
        return call.add(Identity(), call.signal())
    if low is not None and high is not None and low > high:
        low = high
    return call.add(Clamp(low, high), call.signal())


def _bound(call: Call, name: str, slot: int) -> float | None:
    """A bound; those at the ends of float's range are none."""
    value = call.option(name, slot)
    bound = None if value is None else float(np.asarray(value).reshape(()))
    return None if bound is None or abs(bound) >= np.finfo(np.float32).max else bound


@converter("LeakyRelu")
def _leaky_relu(call: Call) -> Signal:
    slope = call.attributes.get("alpha", 0.01)
    return _leaky(call, np.asarray(slope))


@converter("PRelu")
def _prelu(call: Call) -> Signal:
    return _leaky(call, call.beside(1, call.signal()))


@converter("Abs")
def _abs(call: Call) -> Signal:
    return _leaky(call, np.asarray(-1.0))


def _leaky(call: Call, slope: np.ndarray) -> Signal:
    x = call.signal()
    shape = (1,) * (len(call.shape(x)) - slope.ndim) + slope.shape
    return call.add(LeakyRelu(slope.reshape(shape)), x)


@converter("HardSigmoid")
def _hard_sigmoid(call: Call) -> Signal:
    gain, shift = call.attributes.get("alpha", 0.2), call.attributes.get("beta", 0.5)
    return call.add(Clamp(0.0, 1.0), affine(call, call.signal(), gain, shift, part="affine"))


@converter("ThresholdedRelu")
def _thresholded_relu(call: Call) -> Signal:
    if call.attributes.get("alpha", 1.0) != 0:
        call.refuse("it jumps at its threshold, which no rate does", "only alpha=0, a ReLU, is supported")
    return call.add(Relu(), call.signal())


@converter("Sigmoid")
def _sigmoid(call: Call) -> Signal:
    return call.add(Head("sigmoid"), call.signal())


@converter("Tanh")
def _tanh(call: Call) -> Signal:
    return call.add(Head("tanh"), call.signal())


@converter("Softmax")
def _softmax(call: Call) -> Signal:
    return _along(call, "softmax")


@converter("LogSoftmax")
def _log_softmax(call: Call) -> Signal:
    return _along(call, "log_softmax")


def _along(call: Call, function: str) -> Signal:
    """Below opset 13 all axes from the given one on are one."""
    x = call.signal()
    axis = call.axis(x, call.attributes.get("axis", -1 if call.opset >= 13 else 1))
    shape = call.shape(x)
    if call.opset >= 13 or axis == len(shape) - 1:
        return call.add(Head(function, axis), x)
    rows = reshaped(call, x, (*shape[:axis], int(np.prod(shape[axis:]))), part="rows")
    return reshaped(call, call.add(Head(function, axis), rows, part=function), shape)
