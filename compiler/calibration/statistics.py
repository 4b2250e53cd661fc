"""Maxima and histograms of one node's values, channel by channel, which merge without loss.

Everything that is kept is a count or a maximum, so nothing depends on the order in which values are seen or on how
they were dealt out to processes.
"""

from __future__ import annotations

import attrs
import numpy as np

from spikec.ir.errors import CalibrationError
from spikec.ir.types import Array

# A bin is the upper bits of a float32. Its code is the float's bits without the lowest SHIFT: 512 an octave.
SHIFT = 14
OCTAVE = 1 << (23 - SHIFT)
#: codes of the octaves up to a channel's maximum, each a slot of its own
FINE = 14 * OCTAVE
#: slots of the octaves below those, 8 codes a slot; the first few of a channel are for all that is smaller
COARSE = 16 * OCTAVE // 8
ZEROS = 16
#: slots of a channel: of 8 bytes at most, so 64 KB
SLOTS = COARSE + FINE


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

    maximum: Array
    count: int = attrs.field(converter=int)
    keys: Array
    counts: Array

    def merge(self, other: Statistics) -> Statistics:
        """Return the statistics of both sets of values together."""
        if len(self.maximum) != len(other.maximum):
            raise CalibrationError("statistics of different layers cannot be merged")
        maximum = np.maximum(self.maximum, other.maximum)
        parts = []
        for one in (self, other):
            channel, code, _ = one._codes()
            parts.append(channel * SLOTS + slots(code - base(maximum)[channel]))
        counts = np.concatenate([self.counts, other.counts], dtype=np.int64)
        return packed(maximum, self.count + other.count, np.concatenate(parts), counts)

    def layer(self) -> Statistics:
        """Return the statistics of all channels as if they were one."""
        maximum = self.maximum.max(keepdims=True)
        keys = slots(self._codes()[1] - base(maximum))
        count = self.count * len(self.maximum)
        return packed(maximum, count, keys, self.counts.astype(np.int64))

    def percentile(self, q: float) -> Array:
        """[C]: the value that q percent of all values, zeros included, do not exceed.

        Linear between the order statistics, as ``numpy.percentile``.
        """
        rank = q / 100 * (self.count - 1)
        low, high = self._ordered(np.floor(rank)), self._ordered(np.ceil(rank))
        return np.asarray(low + (rank - np.floor(rank)) * (high - low))

    def bins(self) -> tuple[Array, Array]:
        """Representative values [K], rising from 0, and how many values of each channel each stands for: [C, K].

        128 values an octave, so each within 0.4 % of what it stands for (0.8 % far below the maximum).
        """
        channel, code, width = self._codes()
        used, column = np.unique((code + width // 2) >> 2, return_inverse=True)
        counts = np.zeros((len(self.maximum), len(used) + 1), dtype=np.int64)
        np.add.at(counts, (channel, column + 1), self.counts.astype(np.int64))
        counts[:, 0] = self.count - counts.sum(1)
        return np.concatenate([[0.0], (_edge(used << 2) + _edge((used + 1) << 2)) / 2]), counts

    def _ordered(self, k: float) -> Array:
        """Return each channel's k-th smallest value, [C]: the middle of its bin, or the maximum if that is smaller."""
        if k >= self.count - 1:
            return self.maximum
        channels = np.arange(len(self.maximum))
        ends = np.searchsorted(self.keys, np.append(channels, len(channels)) * SLOTS)
        totals = np.append(0, self.counts.cumsum(dtype=np.int64))
        zeros = self.count - (totals[ends[1:]] - totals[ends[:-1]])
        place = np.searchsorted(totals[1:], totals[ends[:-1]] + k - zeros, side="right")
        _, code, width = self._codes()
        middles = np.append((_edge(code) + _edge(code + width)) / 2, 0.0)
        return np.where(k < zeros, 0.0, np.minimum(middles[np.minimum(place, len(code))], self.maximum))

    def _codes(self) -> tuple[Array, Array, Array]:
        """Return for each key its channel, its first code, and how many codes its slot holds."""
        channel, slot = np.divmod(self.keys.astype(np.int64), SLOTS)
        offset = slot - COARSE
        width = np.where(offset >= 0, 1, 8)
        return channel, base(self.maximum)[channel] + offset * width, width


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
    used = keys % SLOTS >= ZEROS
    kind = np.min_scalar_type(len(maximum) * SLOTS)
    return Statistics(maximum, count, keys[used].astype(kind), counts[used].astype(np.min_scalar_type(count)))


def _edge(code: Array) -> Array:
    """Return the smallest value that has this code."""
    return (code << SHIFT).astype(np.int32).view(np.float32).astype(np.float64)
