"""Converters of activations, arithmetic, and what changes no number."""

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spikec.extend.composites import affine
from spikec.frontends.onnx.call import Call, Constant, Signal, converter
from spikec.ir.ops import Clamp, Compare, LeakyRelu, ScalarFunction

#: operators without attributes, each with the function of torch that takes the same operands
_SAME: dict[str, Callable[..., Any]] = {
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Identity": lambda x: x,
    "Mish": F.mish,
    "HardSwish": F.hardswish,
    "Softplus": F.softplus,
    "Softsign": F.softsign,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Erf": torch.erf,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Atan": torch.atan,
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Pow": torch.pow,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Not": torch.logical_not,
    "Where": torch.where,
}
#: operators of any number of operands, each with the function of torch that takes two of them
_OF_ALL: dict[str, Callable[..., Any]] = {"Max": torch.maximum, "Min": torch.minimum, "Sum": torch.add}


def _elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda call, *operands: function(*call.broadcast(*operands))


def _of_all(function: Callable[..., Any]) -> Callable[..., Any]:
    """Constants come first: what torch computes from them is one constant."""
    return _elementwise(lambda *xs: reduce(function, sorted(xs, key=lambda x: isinstance(x, Signal))))


for _name, _function in _SAME.items():
    converter(_name)(_elementwise(_function))
for _name, _function in _OF_ALL.items():
    converter(_name)(_of_all(_function))


@converter("Div")
def _div(call: Call, a: Any, b: Any) -> Any:
    """The inverse of a signal is taken before it is repeated, which costs the fewest neurons."""
    if not isinstance(b, Signal):
        return torch.div(*call.broadcast(a, b))
    inverse = call.run(torch.reciprocal, (b,), {})
    return torch.mul(*call.broadcast(a, Signal(inverse.name, call.run)))


@converter("Mean")
def _mean(call: Call, *operands: Any) -> Any:
    return _of_all(torch.add)(call, *operands) / len(operands)


# ------------------------------------------------------------------ activations


@converter("Elu")
def _elu(call: Call, x: Any, alpha: float = 1.0) -> Any:
    return F.elu(x, alpha)


@converter("Celu")
def _celu(call: Call, x: Any, alpha: float = 1.0) -> Any:
    return F.celu(x, alpha)


@converter("Selu")
def _selu(
    call: Call, x: Any, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Any:
    """ONNX's constants are those of float32, where torch's are not."""
    return call.add(ScalarFunction("elu", (alpha, gamma, 1.0)), x)


@converter("Gelu")
def _gelu(call: Call, x: Any, approximate: str = "none") -> Any:
    return F.gelu(x, approximate=approximate)


@converter(("com.microsoft", "Gelu"))
def _microsofts_gelu(call: Call, x: Any) -> Any:
    return F.gelu(x)


@converter(("com.microsoft", "QuickGelu"))
def _quick_gelu(call: Call, x: Any, alpha: float = 1.702) -> Any:
    return _swish(call, x, alpha)


@converter("Swish")
def _swish(call: Call, x: Any, alpha: float = 1.0) -> Any:
    """``x sigmoid(alpha x)``."""
    return F.silu(x) if alpha == 1 else F.silu(alpha * x) / alpha


@converter("LeakyRelu")
def _leaky_relu(call: Call, x: Any, alpha: float = 0.01) -> Any:
    return F.leaky_relu(x, alpha)


@converter("PRelu")
def _prelu(call: Call, x: Any, slope: Any) -> Any:
    """The slope may vary along any axis of the sample, where torch's varies along the channels."""
    array = call.beside(slope, x)
    return call.add(LeakyRelu(array.reshape((1,) * (len(call.shape(x)) - array.ndim) + array.shape)), x)


@converter("Clip")
def _clip(call: Call, x: Any, min: Any = None, max: Any = None) -> Any:
    """Bounds at the ends of float's range are none; where the bounds cross, the upper one wins."""
    end = float(np.finfo(np.float32).max)
    low, high = (None if bound is None or abs(float(bound)) >= end else float(bound) for bound in (min, max))
    if low is not None and high is not None:
        low = sorted((low, high))[0]
    return x if low is None and high is None else call.add(Clamp(low, high), x)


@converter("Floor")
def _floor(call: Call, x: Any) -> Any:
    return torch.floor(x)


@converter("HardSigmoid")
def _hard_sigmoid(call: Call, x: Any, alpha: float = 0.2, beta: float = 0.5) -> Any:
    line: Any = affine(call, x, alpha, beta, part="line")
    return torch.clamp(line, 0, 1)


@converter("ThresholdedRelu")
def _thresholded_relu(call: Call, x: Any, alpha: float = 1.0) -> Any:
    if alpha != 0:
        call.refuse("it jumps at its threshold, which no rate does", "only alpha=0, a ReLU, is supported")
    return F.relu(x)


def _softmax(call: Call, x: Any, axis: int | None = None, *, function: Callable[..., Any]) -> Any:
    if call.opset >= 13:
        return function(x, -1 if axis is None else axis)
    first, shape = call.axis(x, 1 if axis is None else axis) + 1, call.shape(x)
    if first == len(shape):
        return function(x, first)
    # below opset 13 all axes from the given one on are one
    return torch.reshape(function(torch.flatten(x, first), first), (-1, *shape))


converter("Softmax")(partial(_softmax, function=torch.softmax))
converter("LogSoftmax")(partial(_softmax, function=torch.log_softmax))

# ------------------------------------------------------- what changes no number


@converter("Dropout")
def _dropout(call: Call, x: Any, ratio: Any = 0.5, training_mode: Any = False, seed: int = 0) -> Any:
    if training_mode and ratio != 0:
        call.refuse("it is in training mode", "export the model in evaluation mode: model.eval()")
    return x


#: TensorProto's FLOAT, FLOAT16, DOUBLE and BFLOAT16: a signal keeps the precision of the model's input
_FLOATS = (1, 10, 11, 16)
#: its BOOL, which a comparison is
_BOOL = 9
_NO_FLOAT = ("only casts of a signal to another precision of float are supported", "only floats are signals")


@converter("Cast")
def _cast(call: Call, x: Any, to: int, **rounding: Any) -> Any:
    if to not in _FLOATS and not (to == _BOOL and isinstance(call.graph[x.name], Compare)):
        call.refuse(*_NO_FLOAT)
    return x


@converter("CastLike")
def _cast_like(call: Call, x: Any, like: Any, **rounding: Any) -> Any:
    value = call.inputs[0]
    if isinstance(value, Constant):
        dtype = call.graph.type(like.name).dtype
        return Constant(tuple(each.astype(dtype) for each in value.values))
    if not isinstance(like, (Signal, Constant, Tensor)):
        call.refuse(*_NO_FLOAT)
    return x
