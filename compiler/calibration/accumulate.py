"""Counts the values of a stream of tensors, in a small part of the time that it takes to compute them."""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from spikec.calibration.statistics import COARSE, SHIFT, SLOTS, ZEROS, Statistics, base, packed, slots
from spikec.ir.errors import CalibrationError
from spikec.ir.types import Array

#: values that are looked at together: they and what is made of them stay in the processor's cache
_CHUNK = 1 << 18
#: the largest value that is counted: values are sorted into bins by the bits of a float32
_LARGEST = float(np.finfo(np.float32).max)
#: values of a channel that 32-bit counts can take
_FULL = 2**31


class Accumulator:
    """Statistics of values that are not negative, batch by batch.

    A channel holds its first 8,192 values (and the rest of a batch) as they are, and from then on a table of as
    many counts: memory is bounded whatever the number of values.

    Args:
        axis: of a sample, holding the channels.
    """

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._count = 0
        self._maximum: Array = np.zeros(0)
        self._waiting: list[Tensor] = []
        self._table: Tensor | None = None
        self._base: Array = np.zeros(0, dtype=np.int64)

    def add(self, values: Tensor) -> None:
        """Values [B, ...]; the tensor may be kept for a while, and must not be written to.

        Raises:
            CalibrationError: a value is not finite, also as a float32.
        """
        outer, channels = math.prod(values.shape[: self._axis + 1]), values.shape[self._axis + 1]
        rows = values.detach().reshape(outer, channels, -1)
        each = outer * rows.shape[2]
        if not self._count:
            self._maximum = np.full(channels, -np.inf)
        self._count += each
        many = each >= SLOTS and not self._waiting
        for group in _groups(channels, each):
            part = rows[:, group]
            maximum = part.amax((0, 2)).double().cpu().numpy()
            if not (maximum <= _LARGEST).all():
                raise CalibrationError("a value is not finite")
            self._maximum[group] = np.maximum(self._maximum[group], maximum)
            if many:
                self._tabulate(part.to(torch.float32), group)
        if not many:
            self._waiting.append(rows.to(torch.float32))
            self._settle(SLOTS)

    def result(self) -> Statistics:
        """Return the statistics of all values that were added so far."""
        if self._table is None:
            keys, counts = self._sorted()
        else:
            self._settle(1)
            table = self._table.cpu().numpy().reshape(-1)
            keys = np.flatnonzero(table)
            counts = table[keys].astype(np.int64)
        return packed(self._maximum, self._count, keys, counts)

    def _sorted(self) -> tuple[Array, Array]:
        """Return the keys and counts of the values that wait; they are few enough to be sorted."""
        rows = torch.cat(self._waiting)
        found = []
        for group in _groups(rows.shape[1], rows.shape[0] * rows.shape[2]):
            local = _keys(rows[:, group], base(self._maximum[group])).cpu().numpy()
            keys, counts = np.unique(local, return_counts=True)
            found.append((keys.astype(np.int64) + group.start * SLOTS, counts))
        keys, counts = (np.concatenate(column) for column in zip(*found, strict=True))
        return keys, counts

    def _settle(self, least: int) -> None:
        """Count the values that wait into the table, once a channel has at least so many."""
        if sum(x.shape[0] * x.shape[2] for x in self._waiting) >= least:
            rows = torch.cat(self._waiting)
            self._waiting = []
            for group in _groups(rows.shape[1], max(SLOTS, rows.shape[0] * rows.shape[2])):
                self._tabulate(rows[:, group], group)

    def _tabulate(self, rows: Tensor, group: slice) -> None:
        """Count values [N, C, M] of these channels into the table."""
        table = self._rebased(rows.device, group)
        for some in torch.split(rows, max(1, _CHUNK // (rows.shape[1] * rows.shape[2]))):
            table += torch.bincount(_keys(some, self._base[group]), minlength=len(table))

    def _rebased(self, device: torch.device, group: slice) -> Tensor:
        """Return these channels' part of the table, flat, its slots moved down where a maximum has risen by octaves."""
        if self._table is None:
            self._table = torch.from_numpy(np.zeros((len(self._maximum), SLOTS), dtype=np.int32)).to(device)
            self._base = base(self._maximum)
        if self._count >= _FULL:
            self._table = self._table.long()
        risen = base(self._maximum[group]) - self._base[group]
        self._base[group] += risen
        for channel in np.flatnonzero(risen):
            offset = np.arange(-COARSE, SLOTS - COARSE)
            code = np.where(offset < 0, 8 * offset, offset)
            moved = torch.from_numpy(slots(code - risen[channel])).to(device)
            row = self._table[group.start + channel]
            row.copy_(torch.zeros_like(row).index_add_(0, moved, row))
        return self._table[group].view(-1)


def _groups(channels: int, each: int) -> list[slice]:
    """Split the channels into groups that are looked at together, where each channel has so many values."""
    size = max(1, _CHUNK // each)
    return [slice(first, min(first + size, channels)) for first in range(0, channels, size)]


def _keys(rows: Tensor, base: Array) -> Tensor:
    """Return ``channel * SLOTS + slot`` of float32 values [N, C, M], flat, int32; ``base`` holds first fine codes."""
    channels, inner = rows.shape[1:]
    bits = rows.reshape(len(rows), channels * inner).view(torch.int32)
    starts, least = _constants(channels, inner, rows.device)
    bases = torch.from_numpy(base.astype(np.int32).repeat(inner)).to(rows.device)
    fine = (bits >> SHIFT).sub_(bases)
    coarse = fine >> 3
    torch.maximum(coarse, least, out=coarse)
    return torch.maximum(fine, coarse, out=fine).add_(starts).reshape(-1)


@functools.lru_cache(maxsize=16)
def _constants(channels: int, inner: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each column of [C, M], flat: the key of its channel's base, and the least offset from there.

    Zeros are spread over the slots that stand for them: counting equal numbers in a row is slow.
    """
    columns = torch.arange(channels * inner, dtype=torch.int32, device=device)
    starts = torch.div(columns, inner, rounding_mode="floor") * SLOTS + COARSE
    return starts, columns % ZEROS - COARSE
