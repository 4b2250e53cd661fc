"""Converters of smooth functions of single numbers, such as SiLU, exp or a power."""

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikec.frontends.torch.call import Call, Signal, as_array, converter, methods, qualified
from spikec.frontends.torch.converters.arith import affine
from spikec.ir.errors import CompileError
from spikec.ir.ops import Identity, ScalarFunction
from spikec.ir.ops.functions import Function, line_at, register_function


def _function(call: Call, input: Signal, inplace: bool = False, *, function: str) -> Signal:
    """A function without constants."""
    return call.add(ScalarFunction(function), input)


#: functions of torch without constants, each under the names that it has in torch, in torch.special and as a method
_IN_TORCH = (
    *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "square"),
    *("erf", "erfc", "sin", "cos", "atan", "sinh", "cosh", "asinh"),
)
for _name in _IN_TORCH:
    _keys = [getattr(torch, each) for each in (_name, f"{_name}_") if hasattr(torch, each)]
    converter(*_keys, *methods(_name, f"{_name}_"))(partial(_function, function=_name))
for _name in ("exp2", "expm1", "log1p", "erf", "erfc", "ndtr"):
    converter(getattr(torch.special, _name))(partial(_function, function=_name))
converter(torch.arctan, torch.arctan_, *methods("arctan", "arctan_"))(partial(_function, function="atan"))
for _name in ("silu", "hardswish", "mish", "tanhshrink", "softsign"):
    converter(getattr(F, _name))(partial(_function, function=_name))


@converter(F.gelu)
def _gelu(call: Call, input: Signal, *, approximate: str = "none") -> Signal:
    return call.add(ScalarFunction("gelu" if approximate == "none" else "gelu_tanh"), input)


@converter(F.elu, F.elu_)
def _elu(
    call: Call, input: Signal, alpha: Any = 1.0, inplace: bool = False, *, scale: Any = 1.0, input_scale: Any = 1.0
) -> Signal:
    """torch's own has a scale of the result and one of the input too, by which it computes SELU and CELU."""
    return call.add(ScalarFunction("elu", (alpha, scale, input_scale)), input)


@converter(F.celu, F.celu_, torch.celu, torch.celu_)
def _celu(call: Call, input: Signal, alpha: Any = 1.0, inplace: bool = False) -> Signal:
    return _elu(call, input, alpha, input_scale=1 / alpha)


@converter(F.selu, F.selu_, torch.selu, torch.selu_)
def _selu(call: Call, input: Signal, inplace: bool = False) -> Signal:
    """Klambauer et al. 2017, with the constants of its section 2.1."""
    return _elu(call, input, 1.6732632423543772848170429916717, scale=1.0507009873554804934193349852946)


@converter(F.softplus)
def _softplus(call: Call, input: Signal, beta: Any = 1, threshold: Any = 20) -> Signal:
    return call.add(ScalarFunction("softplus", (beta, threshold)), input)


# ---------------------------------------------------------------------- powers

#: powers that have names of their own
_NAMED = {2.0: "square", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}


@converter(torch.pow, operator.pow, operator.ipow, *methods("pow", "pow_", "__pow__", "float_power"), torch.float_power)
def _pow(call: Call, input: Any, exponent: Any) -> Signal:
    if isinstance(input, Signal) and isinstance(exponent, Signal):
        call.refuse("a power of two signals is not supported", "use a constant exponent")
    constant = _number(call, exponent if isinstance(input, Signal) else input)
    if not isinstance(input, Signal):
        if constant <= 0:
            call.refuse(f"a power of {constant:g} by a signal is no smooth function", "use a base above 0")
        return call.add(ScalarFunction("to_the", (constant,)), exponent)
    if constant == 0:
        return affine(call, input, np.zeros(()), np.ones(()))
    if constant == 1:
        return call.add(Identity(), input)
    if constant in _NAMED:
        return call.add(ScalarFunction(_NAMED[constant]), input)
    whole = "integer_pow" if constant > 0 else "inverse_pow"
    return call.add(ScalarFunction(whole if constant == int(constant) else "pow", (constant,)), input)


def _number(call: Call, value: Any) -> float:
    """A constant that is one number."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = float(as_array(value).reshape(()))
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        call.refuse("a power with a constant that is no single number is not supported", "use one number")
    return float(value)


@converter(*methods("__rpow__"))
def _rpow(call: Call, input: Signal, other: Any) -> Signal:
    return _pow(call, other, input)


# ------------------------------------------------------------- the user's own


def scalar_function(
    key: Any,
    compute: Callable[..., Tensor] | None = None,
    *,
    name: str = "",
    constants: Sequence[str] = (),
    domain: tuple[float, float] = (-math.inf, math.inf),
    pole: float | None = None,
) -> None:
    """Read a function of single numbers, or a layer that is one, as a smooth function, which becomes neurons.

    Ramps are fitted to it when a model is compiled, and beyond what the calibration data shows, to the lines that it
    lies on at large numbers. A formula in forward needs no registration where its parts are known.

    Args:
        key: a function such as ``torch.special.i0e``, or a layer's class.
        compute: torch's functions of a tensor and the constants; None for the key itself.
        name: how messages call it; the key's own name if empty.
        constants: attributes of the layer that are given to ``compute`` behind the tensor, each one number.
        domain: the least and the greatest number that it takes.
        pole: a number within the domain at which it is infinite.

    Raises:
        CompileError: a layer is given without ``compute``.

    Examples:
        >>> class Snake(nn.Module):
        ...     alpha = 0.5
        ...     def forward(self, x):
        ...         return x + torch.sin(self.alpha * x) ** 2 / self.alpha
        >>> spikec.frontends.torch.scalar_function(
        ...     Snake, lambda x, alpha: x + torch.sin(alpha * x) ** 2 / alpha, constants=["alpha"]
        ... )
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), Snake(), nn.Linear(8, 2)).eval()
        >>> graph = spikec.compile(net, "nir", calibration=images, timesteps=8)
    """
    if compute is None and isinstance(key, type):
        hint = "give what it computes: a function of a tensor and the constants"
        raise CompileError(f"what the layer {qualified(key)} computes is not given", hint=hint)
    function: Callable[..., Any] = compute or key
    name = name or getattr(key, "__name__", "function")
    left, right = (partial(_line_of, function, sign) for sign in (-1, 1))
    register_function(Function(name, function, left, right, domain, pole))

    def of_layer(module: nn.Module, call: Call) -> Signal:
        return call.add(ScalarFunction(name, tuple(getattr(module, each) for each in constants)), call.operand)

    def of_function(call: Call, input: Signal, inplace: bool = False) -> Signal:
        return call.add(ScalarFunction(name), input)

    converter(key)(of_layer if isinstance(key, type) else of_function)


def _line_of(function: Callable[..., Any], sign: int, *constants: float) -> tuple[float, float] | None:
    return line_at(function, constants, sign)
