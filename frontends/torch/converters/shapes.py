"""Converters of what changes no number: copies and casts, the order and number of axes, views, and shapes asked for."""

import builtins
import contextlib
import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from spikec.extend.composites import permuted, reshaped
from spikec.frontends.torch.batch import BATCH, BatchSize, takes_batch
from spikec.frontends.torch.call import Call, Signal, converter, gives_constant, methods
from spikec.frontends.torch.convert import spreads
from spikec.frontends.torch.moved import moved, regrouped, settled
from spikec.ir.errors import InvalidModelError, UnsupportedOpError
from spikec.ir.ops import Flatten, Identity, Permute, Reshape

#: the hint for what would mix the samples of a batch
INDEPENDENT = "samples of a batch are independent in a compiled network"


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


def _to(call: Call, input: Signal, memory_format: Any = None, *, wanted: str) -> Signal:
    same_dtype(call, input, wanted)
    return call.add(Identity(), input)


for _name in ("float", "double", "half", "bfloat16", "int", "long", "bool"):
    converter(("method", _name))(partial(_to, wanted=str(getattr(torch, _name))))


def same_dtype(call: Call, signal: Signal, wanted: str) -> None:
    """Refuse a dtype (``torch.float32``) that is not the graph's own."""
    own = call.graph.type(signal.name).dtype
    if wanted != f"torch.{own}":
        call.refuse(
            f"a cast of a {own} signal to {wanted.removeprefix('torch.')} is not supported",
            "leave it out: the compiled network has one dtype, that of the model's weights",
        )


@converter(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout)
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


def sample_axis(call: Call, signal: Any, dim: int, *, new: bool = False) -> int:
    """An axis of torch's tensor as an axis of a sample; the batch is refused.

    Args:
        call: the call.
        signal: the tensor.
        dim: as torch takes it.
        new: the axis is one that will be inserted.
    """
    if not isinstance(signal, Signal):
        call.refuse("an operand does not depend on the model's input", "give it as an input, or add it instead")
    rank = len(call.shape(signal)) + 1 + new
    if not -rank <= dim < rank:
        call.refuse(f"axis {dim} of a tensor {call.shown(signal)} does not exist")
    if dim % rank == 0:
        call.refuse("it works along the batch axis", INDEPENDENT)
    return dim % rank - 1


def sample_axes(call: Call, signal: Signal, dim: Any) -> list[int]:
    """One axis or several of torch's tensor as axes of a sample, in rising order; the batch is refused."""
    return sorted({sample_axis(call, signal, each) for each in (dim if isinstance(dim, (tuple, list)) else (dim,))})


def asked(call: Call, hint: str, function: Callable[..., Any], *args: Any) -> Any:
    """What torch gives, as a rule on tensors without data; the call is refused with what torch says against it."""
    try:
        return function(*args)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        call.refuse(str(error).splitlines()[0], hint)


# ---------------------------------------------------------------------- order


@converter(torch.permute, *methods("permute"))
@spreads
def _permute(call: Call, input: Signal, dims: Sequence[int]) -> Signal:
    rank = len(call.shape(input)) + 1
    order = [dim % rank for dim in dims]
    if sorted(order) != list(range(rank)):
        call.refuse(
            f"the axes {list(dims)} are no order of those of a tensor {call.shown(input)}", "name each axis once"
        )
    return _ordered(call, input, order)


def transpose(call: Call, input: Signal, dim0: int, dim1: int) -> Signal:
    """Two axes change places."""
    order = list(range(len(call.shape(input)) + 1))
    try:
        order[dim0], order[dim1] = order[dim1], order[dim0]
    except IndexError:
        call.refuse(f"axes {dim0} and {dim1} of a tensor {call.shown(input)} do not exist")
    return _ordered(call, input, order)


for _name in ("transpose", "swapdims", "swapaxes"):
    converter(getattr(torch, _name), *methods(_name))(transpose)
converter(torch.adjoint, *methods("adjoint", "mT", "mH"))(partial(transpose, dim0=-2, dim1=-1))


@converter(torch.t, *methods("t"))
def _t(call: Call, input: Signal) -> Signal:
    return _ordered(call, input, list(range(len(call.shape(input)) + 1))[::-1])


@converter(torch.movedim, torch.moveaxis, *methods("movedim", "moveaxis"))
def _movedim(call: Call, input: Signal, source: Any, destination: Any) -> Signal:
    like = torch.empty(tuple(range(len(call.shape(input)) + 1)), device="meta")  # every axis is as long as its number
    return _ordered(call, input, asked(call, "name each axis once", torch.movedim, like, source, destination).shape)


def _ordered(call: Call, input: Signal, order: Sequence[int]) -> Signal:
    if order[0] == 0:
        return permuted(call, input, [axis - 1 for axis in order[1:]])
    hint = f"bring it back to the front: {INDEPENDENT}"
    whole = moved(call, input, UnsupportedOpError(call.problem("it moves the batch axis", hint)))
    turned = permuted(call, Signal(whole.name), order)
    return settled(call, attrs.evolve(whole, name=turned.name, axis=order.index(0)))


# ------------------------------------------------------------ number of axes


@converter(torch.unsqueeze, *methods("unsqueeze"))
def _unsqueeze(call: Call, input: Signal, dim: int) -> Signal:
    shape = call.shape(input)
    if isinstance(input, Signal) and dim in (0, -len(shape) - 2):
        error = UnsupportedOpError(call.problem("it works along the batch axis", INDEPENDENT))
        return regrouped(call, moved(call, input, error), (1, BATCH, *shape))
    axis = sample_axis(call, input, dim, new=True)
    return reshaped(call, input, (*shape[:axis], 1, *shape[axis:]))


@converter(torch.squeeze, *methods("squeeze"))
def _squeeze(call: Call, input: Signal, dim: Any = None) -> Signal:
    if dim is None:
        call.refuse(
            "squeeze without an axis drops the batch axis too where the batch is 1",
            "name the axes: x.squeeze(-1), or x.flatten(1)",
        )
    axes = sample_axes(call, input, dim)
    shape = call.shape(input)
    return reshaped(call, input, [size for axis, size in enumerate(shape) if axis not in axes or size != 1])


@converter(torch.unflatten, *methods("unflatten"))
def _unflatten(call: Call, input: Signal, dim: int, sizes: Any) -> Signal:
    axis = sample_axis(call, input, dim)
    shape = call.shape(input)
    hint = f"give sizes with the product {shape[axis]}"
    inner = asked(call, hint, torch.unflatten, torch.empty(shape[axis], device="meta"), 0, tuple(sizes)).shape
    return reshaped(call, input, (*shape[:axis], *inner, *shape[axis + 1 :]))


# ------------------------------------------------------------------- shuffles


def _shuffled(call: Call, input: Signal, split: Sequence[int], order: Sequence[int], shape: Sequence[int]) -> Signal:
    """Axes split, brought into another order and joined again."""
    ordered = call.add(Permute(order), call.add(Reshape(split), input, part="split"), part="order")
    return call.add(Reshape(shape), ordered)


@converter(F.pixel_shuffle)
def _pixel_shuffle(call: Call, input: Signal, upscale_factor: int) -> Signal:
    call.expect_rank(input, 3)
    c, h, w = call.shape(input)
    r = upscale_factor
    if c % r**2:
        call.refuse(f"{c} channels are no multiple of {r}x{r}", f"use a multiple of {r**2} channels")
    return _shuffled(call, input, (c // r**2, r, r, h, w), (0, 3, 1, 4, 2), (c // r**2, h * r, w * r))


@converter(F.pixel_unshuffle)
def _pixel_unshuffle(call: Call, input: Signal, downscale_factor: int) -> Signal:
    call.expect_rank(input, 3)
    c, h, w = call.shape(input)
    r = downscale_factor
    if h % r or w % r:
        call.refuse(f"the map {h}x{w} is no multiple of {r}x{r}", f"give a map with sides that {r} divides")
    return _shuffled(call, input, (c, h // r, r, w // r, r), (0, 2, 4, 1, 3), (c * r**2, h // r, w // r))


@converter(F.channel_shuffle, F.native_channel_shuffle)
def _channel_shuffle(call: Call, input: Signal, groups: int) -> Signal:
    call.expect_rank(input, 2, 3, 4)
    c, *space = call.shape(input)
    if c % groups:
        call.refuse(f"{c} channels are no multiple of {groups} groups", f"use a multiple of {groups} channels")
    order = (1, 0, *range(2, 2 + len(space)))
    return _shuffled(call, input, (groups, c // groups, *space), order, (c, *space))


@converter(torch.flatten, *methods("flatten"))
def flatten(call: Call, input: Signal, start_dim: int = 0, end_dim: int = -1) -> Signal:
    """Axes as in torch, the batch being axis 0."""
    rank = len(call.shape(input)) + 1
    start, end = start_dim % rank, end_dim % rank
    if start >= end:
        return call.add(Identity(), input)
    if start == 0:
        error = UnsupportedOpError(call.problem("it flattens the batch axis too", "torch.flatten(x, 1)"))
        shape = call.shape(input)
        joined = (BATCH * math.prod(shape[:end]), *shape[end:])
        return regrouped(call, moved(call, input, error), joined)
    return call.add(Flatten(start - 1, -1 if end == rank - 1 else end - 1), input)


@converter(torch.reshape, *methods("view", "reshape"))
@spreads
@takes_batch
def _reshape(call: Call, input: Signal, shape: Sequence[Any]) -> Signal:
    if not all(isinstance(size, int) for size in shape):
        call.refuse("only sizes are supported as arguments", "give whole numbers, or x.shape[i]")
    old = call.shape(input)
    first, *rest = shape or (0,)
    new = None
    if first == BATCH or (first == -1 and math.prod(rest) == math.prod(old)):
        with contextlib.suppress(RuntimeError, TypeError):
            new = torch.empty(old, device="meta").reshape(rest).shape
    if new is not None:
        return reshaped(call, input, new)
    message = f"it does not keep the batch axis first and whole: samples of shape {old}"
    error = UnsupportedOpError(call.problem(message, "x.view(x.size(0), -1), or torch.flatten(x, 1)"))
    return regrouped(call, moved(call, input, error), shape)


@converter(*methods("reshape_as", "view_as"))
def _reshape_as(call: Call, input: Signal, other: Signal) -> Signal:
    return _reshape(call, input, (BATCH, *call.shape(other)))


@converter(*methods("size"))
def _size(call: Call, input: Signal, dim: int | None = None) -> Any:
    shape = torch.Size((BATCH, *call.shape(input)))
    return shape if dim is None else shape[dim]


@converter(*methods("dim", "ndimension"))
def _dim(call: Call, input: Signal) -> Any:
    return len(call.shape(input)) + 1


def _new(call: Call, input: Signal, size: Sequence[int], *numbers: Any, function: Any, **kwargs: Any) -> Any:
    """A constant of the input's type; one for every sample is made for one."""
    first, *rest = size
    others = (*rest, *numbers, *kwargs.values())
    if any(isinstance(each, BatchSize) for each in others) or (isinstance(first, BatchSize) and first != BATCH):
        call.refuse("a size that depends on the batch is not supported", "give it one of the batch, in front")
    size = (1, *rest) if first == BATCH else size
    how = {name: value for name, value in kwargs.items() if name != "pin_memory" and value is not None}
    return function(size, *numbers, **{"dtype": getattr(torch, call.graph.type(input.name).dtype), **how})


for _name in ("zeros", "ones", "full"):
    _made = partial(_new, function=getattr(torch, _name))
    converter(*methods(f"new_{_name}"))(takes_batch(spreads(gives_constant(_made))))


@converter(torch.is_floating_point, *methods("is_floating_point"))
def _is_floating_point(call: Call, input: Signal) -> Any:
    return True


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
    if name in ("T", "H"):  # of real numbers the same
        return _t(call, input)
    if name in ("mT", "mH"):
        return transpose(call, input, -2, -1)
    if name not in ("shape", "ndim"):
        call.refuse(
            f"Tensor.{name} is not supported", "leave it out, or read one of shape, ndim, dtype, device, T and mT"
        )
    return _size(call, input) if name == "shape" else _dim(call, input)
