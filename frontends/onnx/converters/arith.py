"""Converters of arithmetic, element by element, with ONNX's broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from spikec.extend.call import Signal
from spikec.extend.composites import affine, expanded
from spikec.frontends.onnx.call import Call, Known, converter
from spikec.ir.ops import Add, Clamp, Identity, Maximum, Minimum, Relu
from spikec.ir.types import Array


@converter("Identity")
def _identity(call: Call) -> Signal:
    return call.add(Identity(), call.signal())


@converter("Dropout")
def _dropout(call: Call) -> Signal:
    if call.has(2) and call.constant(2).any() and call.option("ratio", 1, 0.5) != 0:
        call.refuse("it is in training mode", "export the model in evaluation mode: model.eval()")
    return call.add(Identity(), call.signal())


@converter("Cast")
def _cast(call: Call) -> Signal:
    if call.attributes["to"] not in _FLOATS:
        call.refuse("only casts of a signal to another precision of float are supported", "only floats are signals")
    return call.add(Identity(), call.signal())


#: TensorProto's FLOAT, FLOAT16, DOUBLE and BFLOAT16: a signal keeps the precision of the model's input
_FLOATS = (1, 10, 11, 16)


@converter("CastLike")
def _cast_like(call: Call) -> Signal | Known:
    value = call.inputs[0]
    if isinstance(value, Known):
        dtype = call.graph.type(call.signal(1).name).dtype
        return Known(tuple(each.astype(dtype) for each in value.values))
    if not isinstance(call.inputs[1], Signal) and call.constant(1).dtype not in (np.float32, np.float64):
        call.refuse("only casts of a signal to another precision of float are supported", "only floats are signals")
    return call.add(Identity(), call.signal())


@converter("Add")
def _add(call: Call) -> Signal:
    return _sum(call, (1, 1))


@converter("Sub")
def _sub(call: Call) -> Signal:
    return _sum(call, (1, -1))


@converter("Sum")
def _sum_of_all(call: Call) -> Signal:
    return _sum(call, [1] * len(call.inputs))


@converter("Mean")
def _mean_of_all(call: Call) -> Signal:
    return _sum(call, [1 / len(call.inputs)] * len(call.inputs))


@converter("Neg")
def _neg(call: Call) -> Signal:
    return affine(call, call.signal(), -1, 0)


@converter("Mul")
def _mul(call: Call) -> Signal:
    signals, constants = _split(call)
    if len(signals) > 1:
        call.refuse(
            "a product of two signals is not supported: both depend on the model's input",
            "multiply by a constant, or replace the gate by a layer",
        )
    return affine(call, signals[0], constants[0], 0)


@converter("Div")
def _div(call: Call) -> Signal:
    if isinstance(call.inputs[1], Signal):
        call.refuse("a division by a signal is not supported", "divide by a constant")
    signals, constants = _split(call)
    with np.errstate(divide="ignore"):
        return affine(call, signals[0], 1 / np.asarray(constants[0], np.float64), 0)


@converter("Max")
def _max(call: Call) -> Signal:
    signals, constants = _split(call)
    x = reduce(lambda a, b: call.add(Maximum(), a, b), signals)
    if not constants:
        return x if len(signals) > 1 else call.add(Identity(), x)
    floor = reduce(np.maximum, constants)
    if floor.min() == floor.max():
        return call.add(Clamp(float(floor.flat[0]), None), x)
    return affine(call, call.add(Relu(), affine(call, x, 1, -floor, part="above"), part="excess"), 1, floor)


@converter("Min")
def _min(call: Call) -> Signal:
    signals, constants = _split(call)
    x = reduce(lambda a, b: call.add(Minimum(), a, b), signals)
    if not constants:
        return x if len(signals) > 1 else call.add(Identity(), x)
    ceiling = reduce(np.minimum, constants)
    if ceiling.min() == ceiling.max():
        return call.add(Clamp(None, float(ceiling.flat[0])), x)
    return affine(call, call.add(Relu(), affine(call, x, -1, ceiling, part="below"), part="excess"), -1, ceiling)


def _sum(call: Call, signs: Sequence[float]) -> Signal:
    """Signals and constants, each times its sign."""
    signals, constants = _split(call)
    kinds = [isinstance(each, Signal) for each in call.inputs]
    weights = [sign for sign, kind in zip(signs, kinds, strict=True) if kind]
    shift = sum(
        (
            sign * each
            for sign, each in zip([s for s, k in zip(signs, kinds, strict=True) if not k], constants, strict=True)
        ),
        np.zeros(()),
    )
    if len(signals) == 1:
        return affine(call, signals[0], weights[0], shift)
    parts = [affine(call, x, w, 0, part=f"times{i}") for i, (x, w) in enumerate(zip(signals, weights, strict=True))]
    if not constants:
        return call.add(Add(), *parts)
    return affine(call, call.add(Add(), *parts, part="sum"), 1, shift)


def _split(call: Call) -> tuple[list[Signal], list[Array]]:
    """(the signals, expanded to one shape; the constants, which broadcast against it)."""
    signals = [each for each in call.inputs if isinstance(each, Signal)]
    rank = len(call.shape(signals[0]))
    for each in signals:
        if len(call.shape(each)) != rank:
            shown = " and ".join(call.shown(x) for x in signals)
            call.refuse(f"broadcasting {shown} would put the batch of one beside another axis", "unsqueeze the smaller")
    constants = [call.beside(i, signals[0]) for i, each in enumerate(call.inputs) if isinstance(each, Known)]
    try:
        shape = np.broadcast_shapes(*(call.shape(x) for x in signals), *(each.shape for each in constants))
    except ValueError:
        shown = ", ".join([*(call.shown(x) for x in signals), *(str(list(each.shape)) for each in constants)])
        call.refuse(f"its operands do not broadcast: {shown}")
    return [expanded(call, x, shape, part=f"operand{i}") for i, x in enumerate(signals)], constants
