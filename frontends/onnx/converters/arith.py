"""Converters of arithmetic, element by element, with ONNX's broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from spikec.extend.arrange import affine, expanded
from spikec.extend.call import Signal
from spikec.frontends.onnx.call import Call, Known, converter
from spikec.ir.ops import Add, Clamp, Identity, Maximum, Minimum, Relu
from spikec.ir.types import Array


@converter("Identity")
def _identity(at: Call) -> Signal:
    return at.add(Identity(), at.signal())


@converter("Dropout")
def _dropout(at: Call) -> Signal:
    if at.has(2) and at.constant(2).any() and at.option("ratio", 1, 0.5) != 0:
        at.refuse("it is in training mode", "export the model in evaluation mode: model.eval()")
    return at.add(Identity(), at.signal())


@converter("Cast")
def _cast(at: Call) -> Signal:
    if at.attributes["to"] not in _FLOATS:
        at.refuse("only casts of a signal to another precision of float are supported", "only floats are signals")
    return at.add(Identity(), at.signal())


#: TensorProto's FLOAT, FLOAT16, DOUBLE and BFLOAT16: a signal keeps the precision of the model's input
_FLOATS = (1, 10, 11, 16)


@converter("CastLike")
def _cast_like(at: Call) -> Signal | Known:
    value = at.inputs[0]
    if isinstance(value, Known):
        dtype = at.graph.type(at.signal(1).name).dtype
        return Known(tuple(each.astype(dtype) for each in value.values))
    if not isinstance(at.inputs[1], Signal) and at.constant(1).dtype not in (np.float32, np.float64):
        at.refuse("only casts of a signal to another precision of float are supported", "only floats are signals")
    return at.add(Identity(), at.signal())


@converter("Add")
def _add(at: Call) -> Signal:
    return _sum(at, (1, 1))


@converter("Sub")
def _sub(at: Call) -> Signal:
    return _sum(at, (1, -1))


@converter("Sum")
def _sum_of_all(at: Call) -> Signal:
    return _sum(at, [1] * len(at.inputs))


@converter("Mean")
def _mean_of_all(at: Call) -> Signal:
    return _sum(at, [1 / len(at.inputs)] * len(at.inputs))


@converter("Neg")
def _neg(at: Call) -> Signal:
    return affine(at, at.signal(), -1, 0)


@converter("Mul")
def _mul(at: Call) -> Signal:
    signals, constants = _split(at)
    if len(signals) > 1:
        at.refuse(
            "a product of two signals is not supported: both depend on the model's input",
            "multiply by a constant, or replace the gate by a layer",
        )
    return affine(at, signals[0], constants[0], 0)


@converter("Div")
def _div(at: Call) -> Signal:
    if isinstance(at.inputs[1], Signal):
        at.refuse("a division by a signal is not supported", "divide by a constant")
    signals, constants = _split(at)
    with np.errstate(divide="ignore"):
        return affine(at, signals[0], 1 / np.asarray(constants[0], np.float64), 0)


@converter("Max")
def _max(at: Call) -> Signal:
    signals, constants = _split(at)
    x = reduce(lambda a, b: at.add(Maximum(), a, b), signals)
    if not constants:
        return x if len(signals) > 1 else at.add(Identity(), x)
    floor = reduce(np.maximum, constants)
    if floor.min() == floor.max():
        return at.add(Clamp(float(floor.flat[0]), None), x)
    return affine(at, at.add(Relu(), affine(at, x, 1, -floor, part="above"), part="excess"), 1, floor)


@converter("Min")
def _min(at: Call) -> Signal:
    signals, constants = _split(at)
    x = reduce(lambda a, b: at.add(Minimum(), a, b), signals)
    if not constants:
        return x if len(signals) > 1 else at.add(Identity(), x)
    ceiling = reduce(np.minimum, constants)
    if ceiling.min() == ceiling.max():
        return at.add(Clamp(None, float(ceiling.flat[0])), x)
    return affine(at, at.add(Relu(), affine(at, x, -1, ceiling, part="below"), part="excess"), -1, ceiling)


def _sum(at: Call, signs: Sequence[float]) -> Signal:
    """Signals and constants, each times its sign."""
    signals, constants = _split(at)
    kinds = [isinstance(each, Signal) for each in at.inputs]
    weights = [sign for sign, kind in zip(signs, kinds, strict=True) if kind]
    shift = sum(
        (
            sign * each
            for sign, each in zip([s for s, k in zip(signs, kinds, strict=True) if not k], constants, strict=True)
        ),
        np.zeros(()),
    )
    if len(signals) == 1:
        return affine(at, signals[0], weights[0], shift)
    parts = [affine(at, x, w, 0, part=f"times{i}") for i, (x, w) in enumerate(zip(signals, weights, strict=True))]
    if not constants:
        return at.add(Add(), *parts)
    return affine(at, at.add(Add(), *parts, part="sum"), 1, shift)


def _split(at: Call) -> tuple[list[Signal], list[Array]]:
    """(the signals, expanded to one shape; the constants, which broadcast against it)."""
    signals = [each for each in at.inputs if isinstance(each, Signal)]
    rank = len(at.shape(signals[0]))
    for each in signals:
        if len(at.shape(each)) != rank:
            shown = " and ".join(at.shown(x) for x in signals)
            at.refuse(f"broadcasting {shown} would put the batch of one beside another axis", "unsqueeze the smaller")
    constants = [at.beside(i, signals[0]) for i, each in enumerate(at.inputs) if isinstance(each, Known)]
    try:
        shape = np.broadcast_shapes(*(at.shape(x) for x in signals), *(each.shape for each in constants))
    except ValueError:
        shown = ", ".join([*(at.shown(x) for x in signals), *(str(list(each.shape)) for each in constants)])
        at.refuse(f"its operands do not broadcast: {shown}")
    return [expanded(at, x, shape, part=f"operand{i}") for i, x in enumerate(signals)], constants
