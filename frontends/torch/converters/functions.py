"""Converters of smooth functions of single numbers, such as SiLU, exp or a power."""

from functools import partial

import torch
from torch.nn import functional as F

from spikec.frontends.torch.call import Call, Signal, converter, methods
from spikec.ir.ops import ScalarFunction


def _function(call: Call, input: Signal, inplace: bool = False, *, function: str) -> Signal:
    """A function without constants."""
    return call.add(ScalarFunction(function), input)


#: functions of torch without constants, each under the names that it has in torch, in F and as a method
for (
    _name
) in "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal square erf erfc sin cos atan sinh cosh asinh".split():
    _keys = [getattr(torch, each) for each in (_name, f"{_name}_") if hasattr(torch, each)]
    converter(*_keys, *methods(_name, f"{_name}_"))(partial(_function, function=_name))
for _name in "silu hardswish mish tanhshrink softsign".split():
    converter(getattr(F, _name))(partial(_function, function=_name))
