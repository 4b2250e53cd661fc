"""Smooth functions of single numbers, such as SiLU or exp: one op for all of them, and the table that it goes by.

A spiking network has none of these; ``lower-functions`` writes each as a sum of clipped ramps, which neurons compute.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import ClassVar

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from spikec.ir.errors import CompileError
from spikec.ir.op import Op, Role
from spikec.ir.types import Type

__all__ = ["Function", "ScalarFunction", "function_named", "register_function"]

#: slope and offset of a straight line
Line = tuple[float, float]

_FLAT: Line = (0.0, 0.0)
_SAME: Line = (1.0, 0.0)
_EVERYWHERE = (-math.inf, math.inf)
_POSITIVE = (0.0, math.inf)


def _floats(values: object) -> tuple[float, ...]:
    return tuple(float(value) for value in values)  # type: ignore[attr-defined]


@attrs.frozen
class Function:
    """One entry of the table.

    Attributes:
        name: how ops and messages call it.
        compute: torch's function of a tensor and the constants.
        left, right: the line (slope, offset) that it approaches at minus and plus infinity, or None where it approaches
            none; a function of the constants where it depends on them.
        domain: the least and the greatest number that it takes.
        pole: a number within the domain at which it is infinite, or None.
    """

    name: str
    compute: Callable[..., Tensor]
    left: Line | Callable[..., Line | None] | None = None
    right: Line | Callable[..., Line | None] | None = None
    domain: tuple[float, float] = _EVERYWHERE
    pole: float | None = None


_FUNCTIONS: dict[str, Function] = {}


def register_function(function: Function) -> Function:
    """Put a function into the table; another of the same name is replaced."""
    _FUNCTIONS[function.name] = function
    return function


def function_named(name: str) -> Function:
    """Return the table's entry.

    Raises:
        CompileError: there is none of that name.
    """
    if name not in _FUNCTIONS:
        hint = f"register it, or take one of {', '.join(sorted(_FUNCTIONS))}"
        raise CompileError(f"there is no scalar function {name!r}", hint=hint)
    return _FUNCTIONS[name]


@attrs.frozen(eq=False)
class ScalarFunction(Op):
    """``y = f(x, constants)``, number by number, with the f of that name in the table of functions.

    Attributes:
        function: its name, such as ``"silu"``.
        constants: what f takes besides x, such as the alpha of an ELU.
    """

    kind: ClassVar[str] = "function"
    role = Role.ACTIVATION
    elementwise = True
    fresh = True
    hint: ClassVar[str] = 'put the pass "lower-functions" before'

    function: str = attrs.field(validator=lambda _, __, name: function_named(name) and None)
    constants: tuple[float, ...] = attrs.field(default=(), converter=_floats)

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Return the operand's shape."""
        return operands[0].shape

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's function."""
        return function_named(self.function).compute(xs[0], *self.constants)

    def asymptotes(self) -> tuple[Line | None, Line | None]:
        """Return the lines (slope, offset) that it approaches at minus and plus infinity; None for none."""
        entry = function_named(self.function)
        left, right = (each(*self.constants) if callable(each) else each for each in (entry.left, entry.right))
        return left, right

    def __str__(self) -> str:
        constants = ", ".join(f"{each:g}" for each in self.constants)
        return f"{self.function}({constants})" if constants else self.function


def _softplus(beta: float, threshold: float) -> tuple[Line, Line]:
    return (_FLAT, _SAME) if beta > 0 else (_SAME, _FLAT)


_SELU_SCALE, _SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
_QUARTER = math.pi / 2

for _each in (
    Function("silu", F.silu, _FLAT, _SAME),
    Function("gelu", F.gelu, _FLAT, _SAME),
    Function("gelu_tanh", functools.partial(F.gelu, approximate="tanh"), _FLAT, _SAME),
    Function("hardswish", F.hardswish, _FLAT, _SAME),
    Function("mish", F.mish, _FLAT, _SAME),
    Function("elu", F.elu, lambda alpha: (0.0, -alpha), _SAME),
    Function("celu", F.celu, lambda alpha: (0.0, -alpha), _SAME),
    Function("selu", F.selu, (0.0, -_SELU_SCALE * _SELU_ALPHA), (_SELU_SCALE, 0.0)),
    Function("softplus", F.softplus, lambda *given: _softplus(*given)[0], lambda *given: _softplus(*given)[1]),
    Function("sigmoid", torch.sigmoid, _FLAT, (0.0, 1.0)),
    Function("log_sigmoid", F.logsigmoid, _SAME, _FLAT),
    Function("tanh", torch.tanh, (0.0, -1.0), (0.0, 1.0)),
    Function("tanhshrink", F.tanhshrink, (1.0, 1.0), (1.0, -1.0)),
    Function("softsign", F.softsign, (0.0, -1.0), (0.0, 1.0)),
    Function("atan", torch.atan, (0.0, -_QUARTER), (0.0, _QUARTER)),
    Function("asinh", torch.asinh),
    Function("sinh", torch.sinh),
    Function("cosh", torch.cosh),
    Function("sin", torch.sin),
    Function("cos", torch.cos),
    Function("erf", torch.erf, (0.0, -1.0), (0.0, 1.0)),
    Function("erfc", torch.erfc, (0.0, 2.0), _FLAT),
    Function("ndtr", torch.special.ndtr, _FLAT, (0.0, 1.0)),
    Function("exp", torch.exp, _FLAT),
    Function("exp2", torch.exp2, _FLAT),
    Function("expm1", torch.expm1, (0.0, -1.0)),
    Function("log", torch.log, domain=_POSITIVE),
    Function("log2", torch.log2, domain=_POSITIVE),
    Function("log10", torch.log10, domain=_POSITIVE),
    Function("log1p", torch.log1p, domain=(-1.0, math.inf)),
    Function("sqrt", torch.sqrt, domain=_POSITIVE),
    Function("rsqrt", torch.rsqrt, right=_FLAT, domain=_POSITIVE),
    Function("reciprocal", torch.reciprocal, _FLAT, _FLAT, pole=0.0),
    Function("square", torch.square),
    Function("pow", lambda x, exponent: x**exponent, domain=_POSITIVE),
    Function("integer_pow", lambda x, exponent: x ** int(exponent)),
    Function("inverse_pow", lambda x, exponent: x ** int(exponent), _FLAT, _FLAT, pole=0.0),
    Function("to_the", lambda x, base: torch.pow(base, x)),
):
    register_function(_each)
