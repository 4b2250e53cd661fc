"""Converters of what changes no number: copies, casts that do nothing, dropout in evaluation mode."""

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
def _identity(call: Call, input: Signal) -> Signal:
    return call.add(Identity(), input)


@converter(*methods("cpu", "cuda"))
def _device(call: Call, input: Signal, *args: Any, **kwargs: Any) -> Signal:
    return call.add(Identity(), input)


@converter(*methods("to", "type", "type_as"))
def _cast(call: Call, input: Signal, *args: Any, **kwargs: Any) -> Signal:
    """A device changes no number; a dtype may only be the graph's own."""
    if call.source.kind == "Tensor.type" and not args and not kwargs:
        call.refuse("the name of a type is not supported", "use x.dtype")
    for value in (*args, *kwargs.values()):
        if isinstance(value, Signal):
            continue
        wanted = value.dtype if isinstance(value, Tensor) else value
        if not isinstance(wanted, (bool, str, int, torch.device, torch.memory_format, torch.dtype)):
            call.refuse("this cast is not supported", "leave it out: the compiled network has one dtype")
        if isinstance(wanted, torch.dtype) or (isinstance(wanted, str) and call.source.kind == "Tensor.type"):
            same_dtype(call, input, str(wanted))
    return call.add(Identity(), input)


@converter(*methods("float"))
def _float(call: Call, input: Signal, memory_format: Any = None) -> Signal:
    same_dtype(call, input, "torch.float32")
    return call.add(Identity(), input)


@converter(*methods("double"))
def _double(call: Call, input: Signal, memory_format: Any = None) -> Signal:
    same_dtype(call, input, "torch.float64")
    return call.add(Identity(), input)


@converter(*methods("half", "bfloat16", "int", "long", "bool"))
def _narrow(call: Call, input: Signal, memory_format: Any = None) -> Signal:
    same_dtype(call, input, call.source.kind.removeprefix("Tensor."))
    return input


def same_dtype(call: Call, signal: Signal, wanted: str) -> None:
    """Refuse a dtype (``torch.float32``) that is not the graph's own."""
    own = call.graph.type(signal.name).dtype
    if wanted != f"torch.{own}":
        call.refuse(
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
def _dropout(call: Call, input: Signal, p: float = 0.5, training: bool = True, inplace: bool = False) -> Signal:
    if training and p > 0:
        raise InvalidModelError(
            call.problem(
                f"{call.source.kind} is active whatever the mode of the model",
                f"{call.source.kind}(x, p, self.training)",
            )
        )
    return call.add(Identity(), input)


@converter("torchvision.ops.stochastic_depth.stochastic_depth")
def _stochastic_depth(call: Call, input: Signal, p: float, mode: str, training: bool = True) -> Signal:
    return _dropout(call, input, p, training)
