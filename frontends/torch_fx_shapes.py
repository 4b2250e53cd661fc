"""Converters of what moves numbers about, and of what asks for a shape."""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from spikec.frontends.torch_fx import BATCH, Call, Signal, methods, rules, takes_batch
from spikec.ops import Concat, Flatten, Identity, Pad, Reshape


@rules(torch.flatten, *methods("flatten"))
def flatten(at: Call, input: Signal, start_dim: int = 0, end_dim: int = -1) -> Signal:
    """Axes as in torch, the batch being axis 0."""
    rank = len(at.shape(input)) + 1
    start, end = start_dim % rank, end_dim % rank
    if start >= end:
        return at.add(Identity(), input)
    if start == 0:
        at.refuse("it flattens the batch axis too", "torch.flatten(x, 1)")
    return at.add(Flatten(start - 1, -1 if end == rank - 1 else end - 1), input)


@rules(torch.reshape, *methods("view", "reshape"))
@takes_batch
def _reshape(at: Call, input: Signal, *shape: Any) -> Signal:
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    if not all(isinstance(size, int) for size in shape):
        at.refuse("only sizes are supported as arguments")
    old = at.shape(input)
    try:
        first, *new = torch.empty((BATCH, *old), device="meta").reshape(shape).shape
    except RuntimeError:
        first, new = 0, []
    if first != BATCH:
        at.refuse(
            f"it does not keep the batch axis first and whole: samples of shape {old}",
            "x.view(x.size(0), -1), or torch.flatten(x, 1)",
        )
    if tuple(new) == old:
        return at.add(Identity(), input)
    return at.add(Flatten() if len(new) == 1 else Reshape(new), input)


@rules(F.pad)
def pad(at: Call, input: Signal, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Signal:
    """Sizes as in torch: last axis first, two numbers each."""
    if value:
        at.refuse(f"padding with {value} is not supported", "pad with zeros")
    pairs = [(int(a), int(b)) for a, b in zip(pad[::2], pad[1::2], strict=True)][::-1]
    if len(pairs) > len(at.shape(input)):
        at.refuse("it pads the batch axis", "samples of a batch are independent in a compiled network")
    return at.add(Pad(pairs, mode), input)


@rules(*methods("size"))
def _size(at: Call, input: Signal, dim: int | None = None) -> Any:
    shape = torch.Size((BATCH, *at.shape(input)))
    return shape if dim is None else shape[dim]


@rules(*methods("dim", "ndimension"))
def _dim(at: Call, input: Signal) -> Any:
    return len(at.shape(input)) + 1


@rules(*methods("numel"))
def _numel(at: Call, input: Signal) -> Any:
    return BATCH * math.prod(at.shape(input))


@rules(builtins.getattr)
def _attribute(at: Call, input: Signal, name: str) -> Any:
    if name == "dtype":
        return getattr(torch, at.graph.type(input.name).dtype)
    if name == "device":
        return torch.device(at.graph.device)
    if name not in ("shape", "ndim"):
        at.refuse(f"Tensor.{name} is not supported")
    return _size(at, input) if name == "shape" else _dim(at, input)


@rules(operator.getitem)
@takes_batch
def _getitem(at: Call, input: Any, index: Any) -> Any:
    if isinstance(input, Signal):
        at.refuse("indexing a tensor is not supported")
    return input[index]


@rules(torch.cat, torch.concat, torch.concatenate)
def _cat(at: Call, tensors: Sequence[Signal], dim: int = 0) -> Signal:
    axis = _sample_axis(at, tensors[0], dim)
    return at.add(Concat(axis), *tensors)


def _sample_axis(at: Call, signal: Any, dim: int) -> int:
    """An axis of torch's tensor as an axis of a sample; the batch is refused."""
    if not isinstance(signal, Signal):
        at.refuse("an operand does not depend on the model's input")
    axis = dim % (len(at.shape(signal)) + 1)
    if axis == 0:
        at.refuse("it works along the batch axis", "samples of a batch are independent in a compiled network")
    return axis - 1
