"""Maxima and histograms of one node's values, channel by channel, which merge without loss.

Everything that is kept is a count or a maximum, so nothing depends on the order in which values are seen or on how
they were dealt out to processes.
"""

from __future__ import annotations

import functools
import math

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.ir.errors import CalibrationError
from spikec.ir.types import Array, brief

# A bin is the upper bits of a float32. Its code is the float's bits without the lowest SHIFT: 512 an octave.
SHIFT = 14
OCTAVE = 1 << (23 - SHIFT)
#: codes of the octaves up to a channel's maximum, each a slot of its own
FINE = 14 * OCTAVE
#: slots of the octaves below those, 8 codes a slot; the first few of a channel are for all that is smaller
COARSE = 16 * OCTAVE // 8
ZEROS = 16
#: slots of a channel: of 8 bytes at most, so 64 KB; a power of two
SLOTS = COARSE + FINE
_SLOT_BITS = SLOTS.bit_length() - 1

#: values that are looked at together: they and what is made of them stay in the processor's cache
_CHUNK = 1 << 18
#: the largest value that is counted: values are sorted into bins by the bits of a float32
_LARGEST = float(np.finfo(np.float32).max)
#: values of a channel that 32-bit counts can take
_FULL = 2**31


@attrs.frozen(eq=False)
class Statistics:
    """One node's values over all samples and positions, for each channel.

    A value is known to within 0.1 % over 14 octaves up to its channel's maximum (so above the 99th percentile,
    unless that is 16,000 times smaller than the maximum) and to 0.8 % over nearly 16 below; what is smaller counts
    as zero. At most 64 KB a channel for up to 4e9 values.

    Attributes:
        maximum: [C], exact.
        count: how many values each channel had.
        keys: the slots in use, in order: ``channel * SLOTS + slot``.
        counts: how many values are in each.
    """

    maximum: Array = attrs.field(repr=brief)
    count: int = attrs.field(converter=int)
    keys: Array = attrs.field(repr=brief)
    counts: Array = attrs.field(repr=brief)

    def wrong(self) -> str:
        """Return what keeps these, read from a file, from being statistics; nothing where they are."""
        channels = self.maximum.size
        if self.maximum.ndim != 1 or not channels or not (np.isfinite(self.maximum) & (self.maximum >= 0)).all():
            return "its maxima are no numbers from 0 on, one a channel"
        numbers = (self.keys, self.counts)
        if any(x.dtype.kind not in "iu" or x.shape != (len(self.keys),) for x in numbers):
            return "its keys and counts are no whole numbers, as many of each"
        keys, counts = (x.astype(np.int64) for x in numbers)
        if (np.diff(keys) <= 0).any() or (keys < 0).any() or (keys >= channels * SLOTS).any():
            return f"its keys do not rise within the slots of {channels} channels"
        if self.count < 0 or (counts < 0).any() or (np.bincount(keys // SLOTS, counts, channels) > self.count).any():
            return f"its counts are negative, or more than {self.count} in a channel"
        return ""

    def merge(self, other: Statistics) -> Statistics:
        """Return the statistics of both sets of values together."""
        if len(self.maximum) != len(other.maximum):
            hint = "merge calibrations of one model only"
            raise CalibrationError("statistics of different layers cannot be merged", hint=hint)
        maximum = np.maximum(self.maximum, other.maximum)
        parts = []
        for one in (self, other):
            channel, code, _ = _codes(one.keys, one.maximum)
            parts.append(channel * SLOTS + slots(code - base(maximum)[channel]))
        counts = np.concatenate([self.counts, other.counts], dtype=np.int64)
        return packed(maximum, self.count + other.count, np.concatenate(parts), counts)

    def layer(self) -> Statistics:
        """Return the statistics of all channels as if they were one."""
        maximum = self.maximum.max(keepdims=True)
        keys = slots(_codes(self.keys, self.maximum)[1] - base(maximum))
        counts = _totals(keys, self.counts, SLOTS)
        used = np.flatnonzero(counts != 0)
        return packed(maximum, self.count * len(self.maximum), used, counts[used])

    def percentile(self, q: float) -> Array:
        """[C]: the value that q percent of all values, zeros included, do not exceed.

        Linear between the order statistics, as ``numpy.percentile``.
        """
        rank = q / 100 * (self.count - 1)
        low, high = self._ordered(math.floor(rank), math.ceil(rank))
        return np.asarray(low + (rank - math.floor(rank)) * (high - low))

    def bins(self) -> tuple[Array, Array]:
        """Representative values [K], rising from 0, and how many values of each channel each stands for: [C, K].

        128 values an octave, so each within 0.4 % of what it stands for (0.8 % far below the maximum).
        """
        channel, code, width = _codes(self.keys, self.maximum)
        middle = (code + width // 2) >> 2
        least = middle.min(initial=0)
        is_used = np.bincount(middle - least) > 0
        used = np.flatnonzero(is_used) + least
        places = channel * (len(used) + 1) + is_used.cumsum()[middle - least]
        counts = _totals(places, self.counts, len(self.maximum) * (len(used) + 1)).reshape(len(self.maximum), -1)
        counts[:, 0] = self.count - counts.sum(1)
        return np.concatenate([[0.0], (_edge(used << 2) + _edge((used + 1) << 2)) / 2]), counts

    def _ordered(self, *ranks: int) -> list[Array]:
        """Return each channel's k-th smallest value for each k, [C]: the middle of its bin, the maximum at most."""
        channels = np.arange(len(self.maximum))
        ends = np.searchsorted(self.keys, np.append(channels, len(channels)) * SLOTS)
        totals = np.append(0, self.counts.cumsum(dtype=np.int64))
        zeros = self.count - (totals[ends[1:]] - totals[ends[:-1]])
        found = []
        for k in ranks:
            place = np.searchsorted(totals[1:], totals[ends[:-1]] + k - zeros, side="right")
            inside = place < len(self.keys)
            _, code, width = _codes(self.keys[place[inside]], self.maximum)
            middles = np.zeros(len(place))
            middles[inside] = (_edge(code) + _edge(code + width)) / 2
            value = np.where(k < zeros, 0.0, np.minimum(middles, self.maximum))
            found.append(self.maximum if k >= self.count - 1 else value)
        return found


def _totals(places: Array, counts: Array, size: int) -> Array:
    """Add up the counts that belong to each place; float64 adds whole numbers up to 2^53 exactly."""
    return np.bincount(places, counts, minlength=size).astype(np.int64)


def _codes(keys: Array, maximum: Array) -> tuple[Array, Array, Array]:
    """Return for each key its channel, its first code, and how many codes its slot holds; ``maximum`` is [C]."""
    keys = keys.astype(np.int64)
    channel, offset = keys >> _SLOT_BITS, (keys & (SLOTS - 1)) - COARSE
    width = np.where(offset >= 0, 1, 8)
    return channel, base(maximum)[channel] + offset * width, width


def base(maximum: Array) -> Array:
    """Return the code at which each channel's fine slots begin, [C]."""
    bits = np.maximum(maximum, 0).astype(np.float32).view(np.int32).astype(np.int64)
    return np.asarray(((bits >> 23) + 1) * OCTAVE - FINE)


def slots(offset: Array) -> Array:
    """Return the slots of codes, which are given as their distance from the base."""
    return np.asarray(np.maximum(offset, offset >> 3).clip(-COARSE) + COARSE)


def packed(maximum: Array, count: int, keys: Array, counts: Array) -> Statistics:
    """Make statistics with keys in order, each once, none of a slot for zeros, in the least bytes that hold them."""
    if (np.diff(keys) <= 0).any():
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], counts[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        keys, counts = keys[first], np.add.reduceat(counts, first)
    used = keys & (SLOTS - 1) >= ZEROS
    kind = np.min_scalar_type(len(maximum) * SLOTS)
    return Statistics(maximum, count, keys[used].astype(kind), counts[used].astype(np.min_scalar_type(count)))


def _edge(code: Array) -> Array:
    """Return the smallest value that has this code."""
    return (code << SHIFT).astype(np.int32).view(np.float32).astype(np.float64)


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
        maximum = rows.amax((0, 2)).double().cpu().numpy()
        if not (maximum <= _LARGEST).all():
            raise CalibrationError("a value is not finite", hint="mend the data or the weights")
        self._maximum = np.maximum(self._maximum, maximum) if self._count else maximum
        self._count += outer * rows.shape[2]
        self._waiting.append(rows.to(torch.float32))
        if sum(x.shape[0] * x.shape[2] for x in self._waiting) >= SLOTS:
            self._settle()

    def result(self) -> Statistics:
        """Return the statistics of all values that were added so far."""
        if self._table is None:
            keys, counts = self._sorted()
        else:
            if self._waiting:
                self._settle()
            table = self._table.cpu().numpy().reshape(-1)
            keys = np.flatnonzero(table != 0)  # of numbers it takes five times as long
            counts = table[keys].astype(np.int64)
        return packed(self._maximum, self._count, keys, counts)

    def _sorted(self) -> tuple[Array, Array]:
        """Return the keys and counts of the values that wait; they are few enough to be sorted."""
        rows = torch.cat(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
        found = []
        for group in _groups(rows.shape[1], rows.shape[0] * rows.shape[2]):
            part = rows[:, group]
            local = _keys(part, base(self._maximum[group])).cpu().numpy().reshape(part.shape)
            # channel by channel takes a quarter of the time of all at once
            ordered = np.sort(local.swapaxes(0, 1).reshape(part.shape[1], -1), axis=1).reshape(-1)
            first = np.flatnonzero(np.diff(ordered, prepend=-1))
            keys, counts = ordered[first], np.diff(first, append=len(ordered))
            found.append((keys.astype(np.int64) + group.start * SLOTS, counts))
        keys, counts = (np.concatenate(column) for column in zip(*found, strict=True))
        return keys, counts

    def _settle(self) -> None:
        """Count the values that wait into the table."""
        rows = torch.cat(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
        self._waiting = []
        for group in _groups(rows.shape[1], max(SLOTS, rows.shape[0] * rows.shape[2])):
            table, part = self._rebased(rows.device, group), rows[:, group]
            for some in torch.split(part, max(1, _CHUNK // (part.shape[1] * part.shape[2]))):
                table += torch.bincount(_keys(some, self._base[group]), minlength=len(table))

    def _rebased(self, device: torch.device, group: slice) -> Tensor:
        """Return these channels' part of the table, flat, its slots moved down where a maximum has risen by octaves."""
        if self._table is None:
            self._table = torch.zeros((len(self._maximum), SLOTS), dtype=torch.int32, device=device)
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
