"""Converters of what takes tensors apart, puts them together, repeats, resizes and pads them."""

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spikec.extend.composites import affine, expanded, reshaped, selected, sliced
from spikec.frontends.torch.batch import BATCH, BatchSize, takes_batch
from spikec.frontends.torch.call import Call, Moved, Signal, Stacked, as_array, converter, gives_view, leaves, methods
from spikec.frontends.torch.convert import spreads
from spikec.frontends.torch.converters.shapes import INDEPENDENT, asked, sample_axis
from spikec.frontends.torch.converters.weights import adaptive_avg_pool
from spikec.frontends.torch.moved import moved, settled
from spikec.ir.errors import UnsupportedOpError
from spikec.ir.ops import Concat, Identity, Interpolate, Mask, Pad, Upsample
from spikec.ir.types import Array

# ----------------------------------------------------------------------- parts


def _in_pieces(call: Call, input: Signal, sections: Any, dim: int = 0, *, cut: Callable[..., Any]) -> Any:
    """Neighbouring slices along one axis; torch itself says how long each is."""
    axis = sample_axis(call, input, dim)
    like = torch.empty((1, *call.shape(input)), device="meta")
    pieces = asked(call, f"give whole numbers, or sizes with the sum {like.shape[axis + 1]}", cut, like, sections, dim)
    ends = np.cumsum([piece.shape[axis + 1] for piece in pieces]).tolist()
    return tuple(
        sliced(call, input, axis, end - piece.shape[axis + 1], end) for end, piece in zip(ends, pieces, strict=True)
    )


_SPLITS = (torch.split, torch.split_with_sizes, *methods("split", "split_with_sizes"))
converter(*_SPLITS)(partial(_in_pieces, cut=torch.split))
converter(torch.chunk, *methods("chunk"))(partial(_in_pieces, cut=torch.chunk))
converter(torch.tensor_split, *methods("tensor_split"))(partial(_in_pieces, cut=torch.tensor_split))


@converter(torch.unbind, *methods("unbind"))
def _unbind(call: Call, input: Signal, dim: int = 0) -> Any:
    axis = sample_axis(call, input, dim)
    return tuple(_select(call, input, dim, i) for i in range(call.shape(input)[axis]))


@converter(torch.select, *methods("select"))
def _select(call: Call, input: Signal, dim: int, index: int) -> Signal:
    axis = sample_axis(call, input, dim)
    return _indexed(call, input, (slice(None),) * (axis + 1) + (index,))


@converter(torch.narrow, *methods("narrow"))
def _narrow(call: Call, input: Signal, dim: int, start: int, length: int) -> Signal:
    axis = sample_axis(call, input, dim)
    size = call.shape(input)[axis]
    first = start + size if start < 0 else start
    if not 0 <= first <= first + length <= size:
        call.refuse(
            f"cells {start} to {start + length} of an axis of {size} do not exist",
            f"give a start and a length that stay within cells 0 to {size - 1}",
        )
    return sliced(call, input, axis, first, first + length)


@converter(operator.getitem)
@takes_batch
def _getitem(call: Call, input: Any, index: Any) -> Any:
    index = index if isinstance(index, tuple) else (index,)
    if any(isinstance(each, Signal) for each in leaves(index)):
        call.refuse(
            "an index that depends on the model's input is not supported", "a compiled network has fixed wiring"
        )
    return _indexed(call, input, index) if isinstance(input, Signal) else input[index[0]]  # a part of a tuple


def _indexed(call: Call, input: Signal, index: tuple[Any, ...]) -> Signal:
    """``x[index]``: slices, numbers, None and Ellipsis, and one list of constant numbers."""
    first, *rest = _in_full(call, index, len(call.shape(input)) + 1)
    given = isinstance(first, slice) and first.start in (None, 0) and first.stop in (None, BATCH)
    if not (given and first.step in (None, 1)):
        call.refuse("it indexes the batch axis", "samples of a batch are independent in a compiled network: x[:, ...]")
    shape: list[int] = []
    axis = 0
    for each in rest:
        if each is None:
            shape.append(1)
            continue
        input = _along(call, input, axis, each)
        if not isinstance(each, int):
            shape.append(call.shape(input)[axis])
        axis += 1
    return reshaped(call, input, shape)


def _in_full(call: Call, index: tuple[Any, ...], rank: int) -> tuple[Any, ...]:
    """The index with one entry for every axis, and None for every new one."""
    dots = [i for i, each in enumerate(index) if each is Ellipsis] or [len(index)]
    missing = rank - sum(each is not None and each is not Ellipsis for each in index)
    if missing < 0 or len(dots) > 1:
        call.refuse(f"{rank - missing} indices for a tensor of {rank} axes", f"give at most {rank}, and ... once")
    return (*index[: dots[0]], *[slice(None)] * missing, *index[dots[0] + 1 :])


def _along(call: Call, input: Signal, axis: int, index: Any) -> Signal:
    """One index on one axis, which stays, of length 1 where it is a number."""
    size = call.shape(input)[axis]
    if any(isinstance(each, BatchSize) for each in leaves(index)):
        call.refuse("an index made from the batch size is not supported", "index by a number")
    if isinstance(index, slice):
        start, stop, step = index.indices(size)
        if step < 1 or stop <= start:
            call.refuse(
                f"the slice leaves nothing of an axis of {size}",
                f"leave at least one of its cells 0 to {size - 1}, in steps of 1 or more",
            )
        return sliced(call, input, axis, start, stop, step, part="slice")
    if isinstance(index, int) and not isinstance(index, bool):
        if not -size <= index < size:
            call.refuse(f"index {index} is out of range for an axis of {size}", f"indices are {-size} to {size - 1}")
        return sliced(call, input, axis, index % size, index % size + 1, part="slice")
    return selected(call, input, axis, _cells(call, index, size), part="select")


def _cells(call: Call, index: Any, size: int) -> Array:
    """A list or constant tensor of cell numbers, or a mask, as cell numbers."""
    if not isinstance(index, (list, Tensor)):
        call.refuse(f"an index that is a {type(index).__name__} is not supported", "use slices and numbers")
    cells = as_array(torch.as_tensor(index))
    if cells.dtype == bool and cells.shape == (size,):
        cells = np.flatnonzero(cells)
    if cells.ndim != 1 or not np.issubdtype(cells.dtype, np.integer) or not len(cells):
        call.refuse("an index that is no list of cell numbers is not supported", "use slices, numbers and 1-d lists")
    if (cells < -size).any() or (cells >= size).any():
        call.refuse(f"an index is out of range for an axis of {size}", f"indices are {-size} to {size - 1}")
    return cells % size


@converter(torch.index_select, *methods("index_select"))
def _index_select(call: Call, input: Signal, dim: int, index: Any) -> Signal:
    axis = sample_axis(call, input, dim)
    return selected(call, input, axis, _cells(call, index, call.shape(input)[axis]))


@converter(torch.flip, *methods("flip"))
@spreads
def _flip(call: Call, input: Signal, dims: Any) -> Signal:
    axes = [sample_axis(call, input, dim) for dim in (dims if isinstance(dims, (tuple, list)) else (dims,))]
    for i, axis in enumerate(axes, start=1):
        cells = np.arange(call.shape(input)[axis])[::-1]
        input = selected(call, input, axis, cells, part="" if i == len(axes) else f"flip{i}")
    return input


converter(torch.fliplr, *methods("fliplr"))(partial(_flip, dims=1))


@converter(torch.roll, *methods("roll"))
def _roll(call: Call, input: Signal, shifts: Any, dims: Any = None) -> Signal:
    if dims is None:
        call.refuse("roll without an axis mixes the samples of a batch", "name the axes: torch.roll(x, 1, dims=2)")
    pairs = list(zip(*(each if isinstance(each, (tuple, list)) else (each,) for each in (shifts, dims)), strict=True))
    for i, (shift, dim) in enumerate(pairs, start=1):
        axis = sample_axis(call, input, dim)
        size = call.shape(input)[axis]
        part = "" if i == len(pairs) else f"roll{i}"
        if cut := -shift % size:
            ends = sliced(call, input, axis, cut, size, part="end"), sliced(call, input, axis, 0, cut, part="start")
            input = call.add(Concat(axis), *ends, part=part)
        elif not part:
            input = call.add(Identity(), input)
    return input


# -------------------------------------------------------------------- together


@converter(torch.cat, torch.concat, torch.concatenate)
def _cat(call: Call, tensors: Sequence[Signal], dim: int = 0) -> Signal:
    signal = next((each for each in tensors if isinstance(each, Signal)), tensors[0])
    axis = sample_axis(call, signal, dim)
    parts = [each if isinstance(each, Signal) else _beside(call, each, signal, axis) for each in tensors]
    return call.add(Concat(axis), *parts) if len(parts) > 1 else call.add(Identity(), signal)


def _beside(call: Call, value: Any, signal: Signal, axis: int) -> Signal:
    """A constant, the same for every sample, as a signal that can be put beside another one along an axis."""
    fits = isinstance(value, Tensor) and value.ndim == len(call.shape(signal)) + 1 and len(value) > 0
    if not fits or not bool((value == value[:1]).all()):
        call.refuse("it joins a constant that differs between the samples of a batch", "give one for all samples")
    constant = as_array(value)[0]
    cell = sliced(call, signal, axis, 0, 1, part="cell")
    cells = expanded(call, cell, constant.shape, part="cells")
    return affine(call, cells, 0.0, constant, part="constant")


@converter(torch.stack)
def _stack(call: Call, tensors: Sequence[Signal], dim: int = 0) -> Any:
    """Signals beside each other in a sample; in front of the batch they stay a list."""
    if all(isinstance(each, Signal) for each in tensors) and dim in (0, -len(call.shape(tensors[0])) - 2):
        if len({call.shape(each) for each in tensors}) > 1:
            call.refuse("it stacks tensors of different shapes")
        return Stacked(*tensors)
    axis = sample_axis(call, tensors[0], dim, new=True)
    parts = []
    for i, each in enumerate(tensors):
        sample_axis(call, each, 1, new=True)
        shape = call.shape(each)
        parts.append(reshaped(call, each, (*shape[:axis], 1, *shape[axis:]), part=str(i)))
    return call.add(Concat(axis), *parts)


converter(torch.hstack, torch.column_stack)(partial(_cat, dim=1))
converter(torch.dstack)(partial(_cat, dim=2))
converter(torch.vstack, torch.row_stack)(partial(_cat, dim=0))


# -------------------------------------------------------------------- repeated


def matched(call: Call, *signals: Signal) -> tuple[Signal, ...]:
    """Signals of one rank, broadcast to one shape as torch does."""
    shapes = [call.shape(signal) for signal in signals]
    if len({len(shape) for shape in shapes}) > 1 or any(
        len(set(sizes) - {1}) > 1 for sizes in zip(*shapes, strict=True)
    ):
        return signals
    shape = tuple(map(max, *shapes))
    return tuple(
        signal if call.shape(signal) == shape else expanded(call, signal, shape, part="expand") for signal in signals
    )


@converter(torch.broadcast_to, *methods("broadcast_to", "expand"))
@spreads
@takes_batch
@gives_view
def _broadcast(call: Call, input: Signal, size: Any) -> Signal:
    if not all(isinstance(each, int) for each in size):
        call.refuse("only sizes are supported as arguments", "give whole numbers, or x.shape[i]")
    first, *wanted = size
    old = call.shape(input)
    if first not in (-1, BATCH) or len(wanted) != len(old):
        call.refuse("it puts an axis in front of the batch", "x.unsqueeze(1).expand(-1, n, ...) keeps the batch first")
    try:
        shape = torch.empty(old, device="meta").expand(*wanted).shape
    except (RuntimeError, TypeError):
        call.refuse(
            f"{call.source.kind} from {call.shown(input)} to {list(size)}: only an axis of 1 can be repeated",
            "put one there first: x.unsqueeze(i).expand(...)",
        )
    return expanded(call, input, shape)


@converter(*methods("expand_as"))
@gives_view
def _expand_as(call: Call, input: Signal, other: Signal) -> Signal:
    return _broadcast(call, input, (BATCH, *call.shape(other)))


@converter(torch.tile, *methods("tile", "repeat"))
@spreads
def _tile(call: Call, input: Signal, dims: Sequence[int]) -> Signal:
    rank = len(call.shape(input)) + 1
    first, *times = (1,) * (rank - len(dims)) + tuple(dims)
    if first != 1 or len(times) != rank - 1:
        call.refuse("it repeats the batch axis", "samples of a batch are independent in a compiled network")
    todo = [(axis, count) for axis, count in enumerate(times) if count != 1]
    for i, (axis, count) in enumerate(todo, start=1):
        if count < 1:
            call.refuse("it repeats the tensor zero times", "give counts from 1 on")
        input = call.add(Concat(axis), *[input] * count, part="" if i == len(todo) else f"tile{i}")
    return input if todo else call.add(Identity(), input)


@converter(torch.repeat_interleave, *methods("repeat_interleave"))
def _repeat_interleave(call: Call, input: Signal, repeats: Any, dim: int | None = None) -> Signal:
    if dim is None or not isinstance(repeats, int):
        call.refuse("only one number of repeats, along one axis, is supported", "torch.repeat_interleave(x, 2, dim=1)")
    if dim in (0, -len(call.shape(input)) - 1):  # each sample is a few samples in a row
        error = UnsupportedOpError(call.problem("it repeats the batch axis", INDEPENDENT))
        shape = call.shape(input)
        whole = expanded(call, Signal(moved(call, input, error).name), (repeats, *shape))
        return settled(call, Moved(whole.name, 0, 1, error))
    axis = sample_axis(call, input, dim)
    cells = np.repeat(np.arange(call.shape(input)[axis]), repeats)
    if axis == 0:
        return selected(call, input, 0, cells)
    size = list(call.shape(input))
    size[axis] = len(cells)
    return call.add(Upsample(size[1:]), input)


# -------------------------------------------------------------------- resized


@converter(F.interpolate)
def interpolate(
    call: Call,
    input: Signal,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Signal:
    """Nearest neighbours, of which torch itself says which cells they are; ``area`` is an adaptive average pool."""
    call.expect_rank(input, 2, 3, 4)
    space = call.shape(input)[1:]
    index = torch.arange(math.prod(space), dtype=torch.float64).reshape(1, 1, *space)
    options = (size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
    hint = f"give size= or scale_factor=, as one number or one for each of {len(space)} axes, and a mode for as many"
    cells = asked(call, hint, F.interpolate, index, *options)[0, 0]
    new = tuple(cells.shape)
    if mode == "area":
        return adaptive_avg_pool(call, input, new, rank=len(space))
    if mode in ("nearest", "nearest-exact"):
        return _picked(call, input, index, cells)
    factors = None
    if scale_factor is not None and not recompute_scale_factor:
        factors = np.broadcast_to(np.asarray(scale_factor, np.float64), len(space)).tolist()
    if new == space and set(factors or [1.0]) == {1.0}:
        return call.add(Identity(), input)
    kernel = "cubic" if mode == "bicubic" else "linear"
    return call.add(Interpolate(new, kernel, bool(align_corners), factors, antialias), input)


def _picked(call: Call, input: Signal, index: Tensor, cells: Tensor) -> Signal:
    """Cells of the map: an upsampling, or slices with a step."""
    old, new = tuple(index.shape[2:]), tuple(cells.shape)
    if torch.equal(cells, index[0, 0]):
        return call.add(Identity(), input)
    if all(a <= b for a, b in zip(old, new, strict=True)) and torch.equal(Upsample(new).eval(index)[0, 0], cells):
        return call.add(Upsample(new), input)
    for axis, place in enumerate(np.unravel_index(cells.long().numpy(), old)):
        row = np.moveaxis(place, axis, 0).reshape(new[axis], -1)[:, 0]
        steps = np.diff(row)
        if (steps < 1).any() or (steps != steps[:1]).any():
            call.refuse(
                f"a resize from {old} to {new} picks cells at uneven distances",
                "resize by a whole number, or give size= instead of scale_factor=",
            )
        part = "" if axis == len(new) - 1 else f"axis{axis}"
        step = int(steps[0]) if len(steps) else 1
        input = sliced(call, input, axis + 1, int(row[0]), int(row[-1]) + 1, step, part=part)
    return input


# -------------------------------------------------------------------- padding


@converter(F.pad)
def pad(call: Call, input: Signal, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Signal:
    """Sizes as in torch: last axis first, two numbers each. A value v is ``pad(x - v) + v``."""
    pairs = [(int(a), int(b)) for a, b in zip(pad[::2], pad[1::2], strict=True)][::-1]
    if len(pairs) > len(call.shape(input)):
        call.refuse("it pads the batch axis", "samples of a batch are independent in a compiled network")
    if not value:
        return call.add(Pad(pairs, mode), input)
    if value == -math.inf and mode == "constant" and min(map(min, pairs)) >= 0:  # which a max-pool behind it takes
        in_front = len(call.shape(input)) - len(pairs)
        inside = np.ones((*[1] * in_front, *call.shape(input)[in_front:]))
        padded = call.add(Pad(pairs, mode), input, part="pad")
        return call.add(Mask(np.pad(inside, [(0, 0)] * in_front + pairs)), padded)
    if not math.isfinite(value):
        call.refuse(
            f"padding with {value} is not supported", "pad with a finite number; a MaxPool takes its own padding"
        )
    if len(pairs) == len(call.shape(input)) and any(pairs[0]):
        call.refuse(f"padding channels with {value} is not supported", "pad them with zeros")
    below = affine(call, input, 1.0, -float(value), part="below")
    return affine(call, call.add(Pad(pairs, mode), below, part="pad"), 1.0, float(value))
