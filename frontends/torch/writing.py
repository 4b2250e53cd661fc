"""A tensor of which another one shows a part that was written: put together of what was written and what it was."""

import itertools
import math
from typing import Any

import numpy as np
from torch import Tensor

from spikec.extend.composites import permuted, reshaped, sliced
from spikec.frontends.torch.call import Call, Moved, Signal
from spikec.ir.ops import Concat
from spikec.ir.types import Array

#: into how many pieces one axis may fall
_PIECES = 64


class NotFollowedError(Exception):
    """The new value cannot be put together."""


def cells(tensor: Tensor) -> Array:
    """Places of the first sample's elements in memory, in the shape of a sample."""
    places = np.array(tensor.storage_offset())
    for size, stride in zip(tensor.shape[1:], tensor.stride()[1:], strict=True):
        places = places[..., None] + np.arange(size) * stride
    return places


def put_together(call: Call, old: Any, tensor: Any, new: Signal, written: Tensor) -> Any:
    """Give a tensor's value after a write to memory that it shares.

    Args:
        call: the call that wrote; it gets the ops.
        old: the tensor's value before, a signal or a tuple of them.
        tensor: the tensor itself, without data, or a tuple of them.
        new: the value that was written.
        written: the tensor that it was written to, of the same memory.

    Raises:
        NotFollowedError: the tensors are no regular parts of one another.
    """
    if isinstance(old, (tuple, list)) and isinstance(tensor, (tuple, list)):
        pairs = zip(old, tensor, strict=True)
        return type(old)([put_together(call, value, each, new, written) for value, each in pairs])
    if not isinstance(old, Signal) or isinstance(old, Moved) or isinstance(new, Moved):
        raise NotFollowedError
    if not isinstance(tensor, Tensor) or not _is_beside(tensor, written):
        raise NotFollowedError
    places, order = cells(written).reshape(-1), cells(written).reshape(-1).argsort()
    found = order[np.searchsorted(places, cells(tensor), sorter=order).clip(max=len(places) - 1)]
    return _joined(call, old, new, np.where(places[found] == cells(tensor), found, -1))


def _is_beside(a: Tensor, b: Tensor) -> bool:
    """True for parts of one memory in which each sample lies as far behind the one before, and outside of it."""
    alike = a.untyped_storage()._cdata == b.untyped_storage()._cdata and a.shape[:1] == b.shape[:1]
    last = max(cells(a).max(initial=0), cells(b).max(initial=0))
    return alike and a.stride()[:1] == b.stride()[:1] and bool(last < a.stride(0))


def _joined(call: Call, old: Signal, new: Signal, source: Array) -> Signal:
    """Give the signal that has the cells of ``new`` which ``source`` numbers, and where that is -1, its own."""
    taken = source >= 0
    if taken.all():
        return _picked(call, new, source)
    if not taken.any():
        return old
    for axis in range(source.ndim):
        others = tuple(i for i in range(source.ndim) if i != axis)
        kind = taken.any(others).astype(int) + taken.all(others)  # of each row: 0 old, 1 mixed, 2 new
        ends = [0, *(np.flatnonzero(np.diff(kind)) + 1).tolist(), len(kind)]
        if 2 < len(ends) <= _PIECES:
            parts = []
            for start, stop in itertools.pairwise(ends):
                kept = sliced(call, old, axis, start, stop, part="old")
                parts.append(_joined(call, kept, new, source.take(range(start, stop), axis)))
            return call.add(Concat(axis), *parts)
    raise NotFollowedError


def _picked(call: Call, new: Signal, source: Array) -> Signal:
    """Give cells of a signal by their numbers: slices along its axes, perhaps with these in another order."""
    shape = call.shape(new)
    numbers = np.arange(math.prod(shape)).reshape(shape)
    ranges = []
    for place in np.unravel_index(source, shape) if shape else ():
        rows = np.unique(place)
        ranges.append((int(rows[0]), int(rows[-1]) + 1, int(rows[1] - rows[0]) if len(rows) > 1 else 1))
    kept = numbers[tuple(slice(*each) for each in ranges)]
    for axes in itertools.permutations(range(len(shape))):
        if kept.size == source.size and (kept.transpose(axes).reshape(-1) == source.reshape(-1)).all():
            for axis, each in enumerate(ranges):
                new = sliced(call, new, axis, *each, part="part")
            return reshaped(call, permuted(call, new, axes, part="part"), source.shape, part="new")
    raise NotFollowedError
