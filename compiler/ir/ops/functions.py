"""Smooth functions of single numbers, such as SiLU or exp: one op for all of them, and the table that it goes by.

A spiking network has none of these; ``lower-functions`` writes each as a sum of clipped ramps, which neurons compute.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from spikec.ir.errors import CompileError
from spikec.ir.op import Op, Role
from spikec.ir.printer import attributes
from spikec.ir.types import Type

__all__ = ["ComposedFunction", "Curve", "ScalarFunction"]

#: slope and offset of a straight line
Line = tuple[float, float]

_FLAT: Line = (0.0, 0.0)
_SAME: Line = (1.0, 0.0)
_EVERYWHERE = (-math.inf, math.inf)
_POSITIVE = (0.0, math.inf)


def _floats(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


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


#: numbers at which every function that has an asymptote is near it
_LARGE = (1e4, 2e4, 4e4)


def line_at(compute: Callable[..., Tensor], constants: Sequence[float], sign: int) -> Line | None:
    """Return the line (slope, offset) on which a function lies at large numbers of that sign; None if on none."""
    x = sign * torch.tensor(_LARGE, dtype=torch.float64)
    with torch.no_grad():
        y = compute(x, *constants)
    first, second = (y.diff() / x.diff()).tolist()
    if not bool(torch.isfinite(y).all()) or abs(first - second) > 1e-6 * max(1.0, abs(second)):
        return None
    return second, float(y[-1] - second * x[-1])


@attrs.frozen(eq=False)
class Curve(Op):
    """A function of single numbers."""

    kind: ClassVar[str] = "function"
    role = Role.ACTIVATION
    elementwise = True
    fresh = True
    hint: ClassVar[str] = 'put the pass "lower-functions" before'

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Return the operand's shape."""
        return operands[0].shape

    @property
    def domain(self) -> tuple[float, float]:
        """The least and the greatest number that it takes."""
        return _EVERYWHERE

    @property
    def pole(self) -> float | None:
        """A number within the domain at which it is infinite, if it is known."""
        return None

    def asymptotes(self) -> tuple[Line | None, Line | None]:
        """Return the lines (slope, offset) that it approaches at minus and plus infinity; None for none."""
        raise NotImplementedError


@attrs.frozen(eq=False)
class ScalarFunction(Curve):
    """``y = f(x, constants)``, number by number, with the f of that name in the table of functions.

    Attributes:
        function: its name, such as ``"silu"``.
        constants: what f takes besides x, such as the alpha of an ELU.
    """

    function: str = attrs.field(validator=lambda _, __, name: function_named(name) and None)
    constants: tuple[float, ...] = attrs.field(default=(), converter=_floats)

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's function."""
        return function_named(self.function).compute(xs[0], *self.constants)

    @property
    def domain(self) -> tuple[float, float]:
        """The table's."""
        return function_named(self.function).domain

    @property
    def pole(self) -> float | None:
        """The table's."""
        return function_named(self.function).pole

    def asymptotes(self) -> tuple[Line | None, Line | None]:
        """Return the table's for these constants."""
        entry = function_named(self.function)
        left, right = (each(*self.constants) if callable(each) else each for each in (entry.left, entry.right))
        return left, right

    def __str__(self) -> str:
        constants = ", ".join(f"{each:g}" for each in self.constants)
        return f"{self.function}({constants})" if constants else self.function


@attrs.frozen(eq=False)
class Steps:
    """Ops of single numbers, one after the other; the last one's result is that of all.

    Attributes:
        ops: each with the places of its operands: 0 is the operand of the whole, i + 1 the result of op i.
    """

    ops: tuple[tuple[Op, tuple[int, ...]], ...]

    def __str__(self) -> str:
        shown = []
        for op, places in self.ops:
            constants = [f"{name}={value}" for name, value in attributes(op).items()]
            shown.append(f"{op.kind}({', '.join(['x' + str(each) for each in places] + constants)})")
        return "; ".join(shown)


@attrs.frozen(eq=False)
class ComposedFunction(Curve):
    """A function that is written as several ops, such as ``x sigmoid(x)``: all of them are one function of x.

    Attributes:
        steps: the ops; their arrays hold one number each.
    """

    steps: Steps

    def eval(self, *xs: Tensor) -> Tensor:
        """Run the ops one after the other."""
        values = [xs[0]]
        for op, places in self.steps.ops:
            values.append(op.eval(*(values[each] for each in places)))
        return values[-1]

    def asymptotes(self) -> tuple[Line | None, Line | None]:
        """Return the lines on which it lies at large numbers."""
        return line_at(self.eval, (), -1), line_at(self.eval, (), 1)

    def __str__(self) -> str:
        return " of ".join(str(op) if isinstance(op, Curve) else op.kind for op, _ in reversed(self.steps.ops))


def _softplus(beta: float, threshold: float) -> tuple[Line, Line]:
    return (_FLAT, _SAME) if beta > 0 else (_SAME, _FLAT)


def _elu(x: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    """``scale x`` above 0, and ``scale alpha (exp(input_scale x) - 1)`` below, as torch computes ELU, SELU and CELU."""
    result: Tensor = torch.ops.aten.elu(x, alpha, scale, input_scale)
    return result


def _line(slope: float, offset: float) -> Line:
    return slope, offset


#: what atan goes to
_QUARTER = math.pi / 2

for _each in (
    Function("silu", F.silu, _FLAT, _SAME),
    Function("gelu", F.gelu, _FLAT, _SAME),
    Function("gelu_tanh", functools.partial(F.gelu, approximate="tanh"), _FLAT, _SAME),
    Function("hardswish", F.hardswish, _FLAT, _SAME),
    Function("mish", F.mish, _FLAT, _SAME),
    Function("elu", _elu, lambda alpha, scale, _: (0.0, -alpha * scale), lambda _, scale, __: (scale, 0.0)),
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
    Function("line", lambda x, slope, offset: slope * x + offset, _line, _line),
):
    register_function(_each)
