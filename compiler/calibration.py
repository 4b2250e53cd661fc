"""What calibration data says about each ReLU: exact maxima and mergeable histograms, channel by channel."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.errors import CalibrationError
from spikec.files import replacing
from spikec.graph import Graph
from spikec.interp import run
from spikec.types import Array

# A bin is the upper 16 bits of a float32: 128 bins an octave, so at most 0.8 % wide. Values below 2^-30
# share the bin of zero, values above 2^30 the last one.
_BITS = 16
_FIRST = (127 - 30) << 7
_LAST = (127 + 30) << 7


@attrs.define(eq=False)
class Statistics:
    """One node's values over all samples and positions, for each channel.

    Counts are integers, so the result depends neither on the order nor on the size of the batches.

    Attributes:
        maximum: [C], exact.
        counts: int64 [C, bins]; the first bin holds the zeros (and everything below 2^-30).
        first: number of the second bin's value range.
    """

    maximum: Array
    counts: Array
    first: int = _FIRST

    @classmethod
    def of(cls, values: Tensor, axis: int) -> Statistics:
        """Of values [B, ...] that are not negative; ``axis`` of a sample is the channel."""
        rows = values.detach().movedim(axis + 1, 0).flatten(1).to(torch.float32).contiguous()
        width = _LAST - _FIRST + 2
        bins = (rows.view(torch.int32) >> _BITS).sub_(_FIRST - 1).clamp_(0, width - 1)
        bins += torch.arange(len(rows), dtype=torch.int32, device=rows.device)[:, None] * width
        counts = torch.bincount(bins.flatten(), minlength=len(rows) * width).reshape(len(rows), width).cpu().numpy()
        used = np.flatnonzero(counts[:, 1:].any(0))
        first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        counts = np.concatenate([counts[:, :1], counts[:, 1 + first : 1 + last]], axis=1)
        return cls(rows.amax(1).double().cpu().numpy(), counts, _FIRST + first)

    def merge(self, other: Statistics) -> Statistics:
        """Of both sets of values."""
        if len(self.maximum) != len(other.maximum):
            raise CalibrationError("statistics of different layers cannot be merged")
        first = min(self.first, other.first)
        width = max(self.first + self.counts.shape[1], other.first + other.counts.shape[1]) - first
        counts = np.zeros((len(self.maximum), width), dtype=np.int64)
        for one in (self, other):
            counts[:, 0] += one.counts[:, 0]
            start = one.first - first + 1
            counts[:, start : start + one.counts.shape[1] - 1] += one.counts[:, 1:]
        return Statistics(np.maximum(self.maximum, other.maximum), counts, first)

    def layer(self) -> Statistics:
        """Of all channels together."""
        return Statistics(self.maximum.max(keepdims=True), self.counts.sum(0, keepdims=True), self.first)

    def percentile(self, q: float) -> Array:
        """[C]: the value that q percent of all values, zeros included, do not exceed.

        Linear between the order statistics as ``numpy.percentile``, linear within a bin; at most 0.8 % off.
        """
        last = self.counts[0].sum() - 1
        rank = q / 100 * last
        low, high = self._ordered(np.floor(rank)), self._ordered(np.ceil(rank))
        return np.asarray(low + (rank - np.floor(rank)) * (high - low))

    def bins(self) -> tuple[Array, Array]:
        """Representative values [K], rising from 0, and how many values of each channel each stands for: [C, K]."""
        numbers = self.first + np.arange(self.counts.shape[1] - 1)
        return np.concatenate([[0.0], (_edge(numbers) + _edge(numbers + 1)) / 2]), self.counts

    def _ordered(self, k: float) -> Array:
        """[C]: the k-th smallest value, placed linearly within its bin."""
        totals = self.counts.cumsum(1)
        if k >= totals[0, -1] - 1:
            return self.maximum
        bins = (totals <= k).sum(1)
        rows = np.arange(len(bins))
        inside = self.counts[rows, bins]
        share = (k - (totals[rows, bins] - inside) + 0.5) / inside
        low, high = _edge(self.first + bins - 1), _edge(self.first + bins)
        return np.where(bins == 0, 0.0, np.minimum(low + share * (high - low), self.maximum))


def _edge(number: Array) -> Array:
    """The smallest value of a bin."""
    return (number.astype(np.int32) << _BITS).view(np.float32).astype(np.float64)


def digest(graph: Graph) -> str:
    """Of a graph's ops, parameters and wiring."""
    return hashlib.sha256(str(graph).encode()).hexdigest()[:16]


@attrs.define(eq=False)
class Calibration:
    """Statistics of every ReLU, gathered in one pass over the data.

    Attributes:
        nodes: statistics by node name.
        samples: how many samples were seen.
        model: digest of the ANN graph that they ran through.
        shapes: of one sample of each input.
    """

    nodes: dict[str, Statistics] = attrs.field(factory=dict)
    samples: int = 0
    model: str = ""
    shapes: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def gather(cls, graph: Graph, axes: dict[str, int], batches: Iterable[Sequence[Tensor]]) -> Calibration:
        """Run the ANN over the batches.

        Args:
            graph: an ANN graph.
            axes: the nodes to watch, each with the axis of a sample that is its channel.
            batches: tuples of inputs [B, ...].
        """
        total = cls(model=digest(graph), shapes=tuple(graph.type(name).shape for name in graph.inputs))
        dtype = getattr(torch, graph.type(graph.inputs[0]).dtype)
        for batch in batches:
            seen: dict[str, Statistics] = {}

            def tap(name: str, value: Tensor, *_: Any, seen: dict[str, Statistics] = seen) -> None:
                if name in axes:
                    seen[name] = Statistics.of(value, axes[name])

            run(graph, [x.to(dtype) for x in batch], tap=tap)
            total = total.merge(cls(seen, len(batch[0]), total.model, total.shapes))
        return total

    def merge(self, other: Calibration) -> Calibration:
        """Of both sets of samples.

        Raises:
            CalibrationError: they are of different models.
        """
        if self.model != other.model:
            raise CalibrationError("calibrations of different models cannot be merged")
        nodes = dict(self.nodes)
        for name, statistics in other.nodes.items():
            nodes[name] = nodes[name].merge(statistics) if name in nodes else statistics
        return Calibration(nodes, self.samples + other.samples, self.model, self.shapes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to an ``.npz``; it appears whole or not at all."""
        arrays: dict[str, Any] = {"samples": np.int64(self.samples), "model": np.array(self.model)}
        arrays |= {f"shape_{i}": np.array(shape) for i, shape in enumerate(self.shapes)}
        for name, statistics in self.nodes.items():
            for field in ("maximum", "counts", "first"):
                arrays[f"{name}/{field}"] = np.asarray(getattr(statistics, field))
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        with replacing(path) as part:
            part.write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what ``save`` wrote.

        Raises:
            CalibrationError: the file is not one.
        """
        try:
            with np.load(path) as arrays:
                names = [key.removesuffix("/maximum") for key in arrays.files if key.endswith("/maximum")]
                nodes = {
                    name: Statistics(arrays[f"{name}/maximum"], arrays[f"{name}/counts"], int(arrays[f"{name}/first"]))
                    for name in names
                }
                shapes = [arrays[key] for key in sorted(arrays.files) if key.startswith("shape_")]
                return cls(
                    nodes,
                    int(arrays["samples"]),
                    str(arrays["model"]),
                    tuple(tuple(int(size) for size in shape) for shape in shapes),
                )
        except (OSError, KeyError, ValueError) as error:
            raise CalibrationError(f"{os.fspath(path)} is not a saved calibration: {error}") from None
