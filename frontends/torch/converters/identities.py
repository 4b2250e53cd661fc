"""Converters of what changes no number: copies, casts that do nothing, dropout in evaluation mode."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spikec.frontends.torch.call import Call, Signal, converter, methods
from spikec.ir.errors import InvalidModelError
from spikec.ir.ops import Identity


@converter(
    operator.pos, torch.positive, torch.clone, torch.detach, *methods("contiguous", "detach", "clone", "positive")
)
def _identity(at: Call, input: Signal) -> Signal:
    return at.add(Identity(), input)


@converter(*methods("cpu", "cuda"))
def _device(at: Call, input: Signal, *args: Any, **kwargs: Any) -> Signal:
    return at.add(Identity(), input)


@converter(*methods("to", "type", "type_as"))
def _cast(at: Call, input: Signal, *args: Any, **kwargs: Any) -> Signal:
    """A device changes no number; a dtype may only be the graph's own."""
    if at.source.kind == "Tensor.type" and not args and not kwargs:
        at.refuse("the name of a type is not supported", "use x.dtype")
    for value in (*args, *kwargs.values()):
        if isinstance(value, Signal):
            continue
        wanted = value.dtype if isinstance(value, Tensor) else value
        if not isinstance(wanted, (bool, str, int, torch.device, torch.memory_format, torch.dtype)):
            at.refuse("this cast is not supported", "leave it out: the compiled network has one dtype")
        if isinstance(wanted, torch.dtype) or (isinstance(wanted, str) and at.source.kind == "Tensor.type"):
            same_dtype(at, input, str(wanted))
    return at.add(Identity(), input)


@converter(*methods("float"))
def _float(at: Call, input: Signal, memory_format: Any = None) -> Signal:
    same_dtype(at, input, "torch.float32")
    return at.add(Identity(), input)


@converter(*methods("double"))
def _double(at: Call, input: Signal, memory_format: Any = None) -> Signal:
    same_dtype(at, input, "torch.float64")
    return at.add(Identity(), input)


@converter(*methods("half", "bfloat16", "int", "long", "bool"))
def _narrow(at: Call, input: Signal, memory_format: Any = None) -> Signal:
    same_dtype(at, input, at.source.kind.removeprefix("Tensor."))
    return input


def same_dtype(at: Call, signal: Signal, wanted: str) -> None:
    """Refuse a dtype (``torch.float32``) that is not the graph's own."""
    own = at.graph.type(signal.name).dtype
    if wanted != f"torch.{own}":
        at.refuse(
            f"a cast of a {own} signal to {wanted.removeprefix('torch.')} is not supported",
            "leave it out: the compiled network has one dtype, that of the model's weights",
        )


@converter(
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    torch.dropout,
)
def _dropout(at: Call, input: Signal, p: float = 0.5, training: bool = True, inplace: bool = False) -> Signal:
    if training and p > 0:
        raise InvalidModelError(
            at.problem(
                f"{at.source.kind} is active whatever the mode of the model", f"{at.source.kind}(x, p, self.training)"
            )
        )
    return at.add(Identity(), input)


@converter("torchvision.ops.stochastic_depth.stochastic_depth")
def _stochastic_depth(at: Call, input: Signal, p: float, mode: str, training: bool = True) -> Signal:
    return _dropout(at, input, p, training)
