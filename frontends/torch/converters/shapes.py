"""Converters of views in another shape, and of what asks for a shape."""

import builtins
import contextlib
import math
from typing import Any

import torch

from spikec.extend.composites import reshaped
from spikec.frontends.torch.batch import BATCH, takes_batch
from spikec.frontends.torch.call import Call, Signal, converter, methods
from spikec.frontends.torch.converters.axes import transposed_attribute
from spikec.ir.ops import Flatten, Identity


@converter(torch.flatten, *methods("flatten"))
def flatten(call: Call, input: Signal, start_dim: int = 0, end_dim: int = -1) -> Signal:
    """Axes as in torch, the batch being axis 0."""
    rank = len(call.shape(input)) + 1
    start, end = start_dim % rank, end_dim % rank
    if start >= end:
        return call.add(Identity(), input)
    if start == 0:
        call.refuse("it flattens the batch axis too", "torch.flatten(x, 1)")
    return call.add(Flatten(start - 1, -1 if end == rank - 1 else end - 1), input)


@converter(torch.reshape, *methods("view", "reshape"))
@takes_batch
def _reshape(call: Call, input: Signal, *shape: Any) -> Signal:
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    if not all(isinstance(size, int) for size in shape):
        call.refuse("only sizes are supported as arguments")
    old = call.shape(input)
    first, *rest = shape or (0,)
    new = None
    if first == BATCH or (first == -1 and math.prod(rest) == math.prod(old)):
        with contextlib.suppress(RuntimeError, TypeError):
            new = torch.empty(old, device="meta").reshape(rest).shape
    if new is None:
        call.refuse(
            f"it does not keep the batch axis first and whole: samples of shape {old}",
            "x.view(x.size(0), -1), or torch.flatten(x, 1)",
        )
    return reshaped(call, input, new)


@converter(*methods("size"))
def _size(call: Call, input: Signal, dim: int | None = None) -> Any:
    shape = torch.Size((BATCH, *call.shape(input)))
    return shape if dim is None else shape[dim]


@converter(*methods("dim", "ndimension"))
def _dim(call: Call, input: Signal) -> Any:
    return len(call.shape(input)) + 1


@converter(torch.numel, *methods("numel", "nelement"))
def _numel(call: Call, input: Signal) -> Any:
    return BATCH * math.prod(call.shape(input))


@converter(builtins.getattr)
def _attribute(call: Call, input: Any, name: str) -> Any:
    if not isinstance(input, Signal):
        return getattr(input, name)  # a part of a named tuple
    if name == "dtype":
        return getattr(torch, call.graph.type(input.name).dtype)
    if name == "device":
        return torch.device(call.graph.imported.device)
    if name in ("T", "mT", "H", "mH"):
        return transposed_attribute(call, input, name)
    if name not in ("shape", "ndim"):
        call.refuse(f"Tensor.{name} is not supported")
    return _size(call, input) if name == "shape" else _dim(call, input)
