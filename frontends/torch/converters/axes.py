"""Converters of what reorders, adds and removes axes; the batch stays axis 0."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from spikec.extend.composites import permuted, reshaped
from spikec.frontends.torch.call import Call, Signal, converter, methods
from spikec.ir.ops import Permute, Reshape


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
        call.refuse("it works along the batch axis", "samples of a batch are independent in a compiled network")
    return dim % rank - 1


def varargs(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """``f(1, 2)`` and ``f((1, 2))`` alike."""
    return tuple(values[0]) if len(values) == 1 and isinstance(values[0], (tuple, list)) else values


# ---------------------------------------------------------------------- order


@converter(torch.permute)
def _permute(call: Call, input: Signal, dims: Sequence[int]) -> Signal:
    rank = len(call.shape(input)) + 1
    order = [dim % rank for dim in dims]
    if sorted(order) != list(range(rank)):
        call.refuse(f"the axes {list(dims)} are no order of those of a tensor {call.shown(input)}")
    return _ordered(call, input, order)


@converter(*methods("permute"))
def _permute_method(call: Call, input: Signal, *order: Any, dims: Any = ()) -> Signal:
    return _permute(call, input, varargs(order) or dims)


def transpose(call: Call, input: Signal, dim0: int, dim1: int) -> Signal:
    """Two axes change places."""
    order = list(range(len(call.shape(input)) + 1))
    try:
        order[dim0], order[dim1] = order[dim1], order[dim0]
    except IndexError:
        call.refuse(f"axes {dim0} and {dim1} of a tensor {call.shown(input)} do not exist")
    return _ordered(call, input, order)


converter(torch.transpose, torch.swapdims, *methods("transpose", "swapdims"))(transpose)


@converter(torch.swapaxes, *methods("swapaxes"))
def _swapaxes(call: Call, input: Signal, axis0: int, axis1: int) -> Signal:
    return transpose(call, input, axis0, axis1)


@converter(torch.t, *methods("t"))
def _t(call: Call, input: Signal) -> Signal:
    return _ordered(call, input, list(range(len(call.shape(input)) + 1))[::-1])


@converter(torch.adjoint, *methods("adjoint"))
def _adjoint(call: Call, input: Signal) -> Signal:
    return transpose(call, input, -2, -1)


def transposed_attribute(call: Call, input: Signal, name: str) -> Signal:
    """``x.T``, ``x.mT`` and, for real numbers the same, ``x.H`` and ``x.mH``."""
    return _adjoint(call, input) if name.startswith("m") else _t(call, input)


@converter(torch.movedim, torch.moveaxis, *methods("movedim", "moveaxis"))
def _movedim(call: Call, input: Signal, source: Any, destination: Any) -> Signal:
    like = torch.empty(tuple(range(len(call.shape(input)) + 1)), device="meta")  # every axis is as long as its number
    try:
        order = list(torch.movedim(like, source, destination).shape)
    except (IndexError, RuntimeError) as error:
        call.refuse(str(error).splitlines()[0])
    return _ordered(call, input, order)


def _ordered(call: Call, input: Signal, order: Sequence[int]) -> Signal:
    if order[0] != 0:
        call.refuse("it moves the batch axis", "keep the batch first: samples are independent in a compiled network")
    return permuted(call, input, [axis - 1 for axis in order[1:]])


# ------------------------------------------------------------ number of axes


@converter(torch.unsqueeze, *methods("unsqueeze"))
def _unsqueeze(call: Call, input: Signal, dim: int) -> Signal:
    axis = sample_axis(call, input, dim, new=True)
    shape = call.shape(input)
    return reshaped(call, input, (*shape[:axis], 1, *shape[axis:]))


@converter(torch.squeeze, *methods("squeeze"))
def _squeeze(call: Call, input: Signal, dim: Any = None) -> Signal:
    if dim is None:
        call.refuse(
            "squeeze without an axis drops the batch axis too where the batch is 1",
            "name the axes: x.squeeze(-1), or x.flatten(1)",
        )
    axes = {sample_axis(call, input, each) for each in (dim if isinstance(dim, (tuple, list)) else (dim,))}
    shape = call.shape(input)
    return reshaped(call, input, [size for axis, size in enumerate(shape) if axis not in axes or size != 1])


@converter(torch.unflatten, *methods("unflatten"))
def _unflatten(call: Call, input: Signal, dim: int, sizes: Any) -> Signal:
    axis = sample_axis(call, input, dim)
    shape = call.shape(input)
    try:
        inner = torch.unflatten(torch.empty(shape[axis], device="meta"), 0, tuple(sizes)).shape
    except (RuntimeError, TypeError) as error:
        call.refuse(str(error).splitlines()[0])
    return reshaped(call, input, (*shape[:axis], *inner, *shape[axis + 1 :]))


# ------------------------------------------------------------------- shuffles


@converter(F.pixel_shuffle)
def _pixel_shuffle(call: Call, input: Signal, upscale_factor: int) -> Signal:
    call.expect_rank(input, 3)
    c, h, w = call.shape(input)
    r = upscale_factor
    if c % r**2:
        call.refuse(f"{c} channels are no multiple of {r}x{r}")
    split = call.add(Reshape((c // r**2, r, r, h, w)), input, part="split")
    return call.add(Reshape((c // r**2, h * r, w * r)), call.add(Permute((0, 3, 1, 4, 2)), split, part="order"))


@converter(F.pixel_unshuffle)
def _pixel_unshuffle(call: Call, input: Signal, downscale_factor: int) -> Signal:
    call.expect_rank(input, 3)
    c, h, w = call.shape(input)
    r = downscale_factor
    if h % r or w % r:
        call.refuse(f"the map {h}x{w} is no multiple of {r}x{r}")
    split = call.add(Reshape((c, h // r, r, w // r, r)), input, part="split")
    return call.add(Reshape((c * r**2, h // r, w // r)), call.add(Permute((0, 2, 4, 1, 3)), split, part="order"))


@converter(F.channel_shuffle, F.native_channel_shuffle)
def _channel_shuffle(call: Call, input: Signal, groups: int) -> Signal:
    call.expect_rank(input, 2, 3, 4)
    c, *space = call.shape(input)
    if c % groups:
        call.refuse(f"{c} channels are no multiple of {groups} groups")
    inner = tuple(range(2, 2 + len(space)))
    split = call.add(Reshape((groups, c // groups, *space)), input, part="split")
    return call.add(Reshape((c, *space)), call.add(Permute((1, 0, *inner)), split, part="order"))
