"""What calibration data says about each ReLU, to gather, merge, save and share between processes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.calibration.sampled import Sampler
from spikec.calibration.statistics import Accumulator, Statistics
from spikec.interpreter.interp import run
from spikec.interpreter.processes import of_all_processes
from spikec.ir.errors import CalibrationError, InvalidModelError
from spikec.ir.files import path_of, replacing
from spikec.ir.graph import Graph
from spikec.ir.op import tensor_cache
from spikec.ir.types import Array, ints
from spikec.ir.untrusted import read_npz

#: how many samples are kept for passes that look at data themselves
RETAINED = 256
#: end of the name of an array of values in a file
_VALUES = "/values"
#: end of the name of a mean and a deviation of each channel among values
MOMENTS = "/moments"


@attrs.frozen(eq=False, repr=False)
class Retained:
    """At most 256 samples: those whose contents hash to the smallest numbers, in that order.

    Attributes:
        inputs: a tensor [N, ...] on the CPU for each input of the model, float32 at least.
        marks: uint64 [N], the hashes.
    """

    inputs: tuple[Tensor, ...]
    marks: Array

    @classmethod
    def of(cls, batch: Sequence[Tensor]) -> Retained:
        """Keep the samples of one batch."""
        inputs = tuple(x.detach().cpu().to(torch.promote_types(x.dtype, torch.float32)) for x in batch)
        flat = [x.reshape(len(x), -1).contiguous().view(torch.uint8).numpy() for x in inputs]
        digests = (hashlib.sha256(b"".join(parts)).digest() for parts in zip(*flat, strict=True))
        marks = np.array([int.from_bytes(each[:8], "big") for each in digests], dtype=np.uint64)
        return cls(inputs, marks)._least()

    def __repr__(self) -> str:
        return f"<spikec retained samples: {len(self.marks)}>"

    def merge(self, other: Retained) -> Retained:
        """Keep the samples that would be kept of both sets together."""
        if len(self.marks) == RETAINED and self.marks[-1] <= other.marks[0]:
            return self
        inputs = tuple(torch.cat(pair) for pair in zip(self.inputs, other.inputs, strict=True))
        return Retained(inputs, np.concatenate([self.marks, other.marks]))._least()

    def wrong(self, shapes: Sequence[tuple[int, ...]]) -> str:
        """Return what keeps these from being samples of such shapes; nothing where they are."""
        count = len(self.marks)
        if self.marks.dtype != np.uint64 or self.marks.shape != (count,) or count > RETAINED:
            return f"the marks of its samples are {self.marks.dtype} of shape {self.marks.shape}"
        for x, shape in zip(self.inputs, shapes, strict=True):
            if x.shape != (count, *shape) or not x.is_floating_point() or not bool(torch.isfinite(x).all()):
                return f"its samples are no {count} of shape {shape}, or hold NaN or infinity"
        return ""

    def _least(self) -> Retained:
        order = np.argsort(self.marks, kind="stable")[:RETAINED]
        chosen = torch.from_numpy(order)
        return Retained(tuple(x[chosen] for x in self.inputs), self.marks[order])


def digest(graph: Graph) -> str:
    """Return a text that is the same for graphs of the same ops, parameters and wiring only."""
    return hashlib.sha256(str(graph).encode()).hexdigest()[:16]


def _keep_freed_memory() -> None:
    """Let the next layer have the memory of the last one, where glibc would give it back to the system in between.

    glibc keeps freed blocks up to the size of the largest that it ever gave back, 32 MB at most (mallopt(3),
    M_MMAP_THRESHOLD); page faults are half the time of a pass over a small convolutional net otherwise. The block
    is never written to, so it takes no memory.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def _run(
    graph: Graph, found: Mapping[str, Accumulator | Sampler], batches: Iterable[Sequence[Tensor]]
) -> Iterator[Sequence[Tensor]]:
    """Run the ANN over the batches, and show the values of nodes to what gathers them; yield each batch behind it."""

    def tap(name: str, value: Tensor, *_: Any) -> None:
        try:
            found[name].add(value)
        except CalibrationError:
            message = "its values on the calibration data are not finite"
            hint = "mend the data, or the weights up to this layer"
            raise InvalidModelError(graph.problem(name, message, hint)) from None

    _keep_freed_memory()
    dtype = getattr(torch, graph.type(graph.inputs[0]).dtype)
    with contextlib.ExitStack() as kept:
        for i, batch in enumerate(batches):
            if i == 1:  # a single batch needs no weight twice
                kept.enter_context(tensor_cache())
            run(graph, [x.to(dtype) for x in batch], tap=tap, nodes=found)
            yield batch


def sampled(graph: Graph, names: Iterable[str], batches: Iterable[Sequence[Tensor]]) -> dict[str, Array]:
    """Run an ANN over the batches; return an even sample of the values of each of these nodes, rising."""
    found = {name: Sampler() for name in names}
    for _ in _run(graph, found, batches):
        pass
    return {name: each.result() for name, each in found.items()}


def merged_values(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Return values of nodes as of the samples of all parts, each of which counts as much as any other."""
    if len(parts) == 1:
        return dict(parts[0])
    found = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        if name.endswith(MOMENTS):
            means, deviations = np.swapaxes(arrays, 0, 1)
            power = (means**2 + deviations**2).mean(0)
            found[name] = np.stack([means.mean(0), np.sqrt(power - means.mean(0) ** 2)])
        else:
            found[name] = np.sort(np.concatenate(arrays))
    return found


@attrs.define(eq=False, repr=False)
class Calibration:
    """Statistics of every ReLU, gathered in one pass over the data.

    Attributes:
        nodes: statistics by node name.
        samples: how many samples were seen.
        model: digest of the ANN graph that they ran through.
        shapes: of one sample of each input.
        retained: a few of the samples, for passes that look at data themselves.
        values: of nodes that smooth functions work on, an even sample of their values, rising, by node name; and what
            other passes kept, see ``CalibrationSource.kept``.

    Examples:
        >>> calibration = spikec.calibrate(model, images)
        >>> calibration
        <spikec.Calibration 64 samples 1x8x8, 1 layers>
        >>> calibration.save("statistics.pt")
        >>> graph = spikec.compile(model, "nir", calibration=spikec.Calibration.load("statistics.pt"), timesteps=8)
    """

    nodes: dict[str, Statistics] = attrs.field(factory=dict)
    samples: int = 0
    model: str = ""
    shapes: tuple[tuple[int, ...], ...] = ()
    retained: Retained | None = None
    values: dict[str, Array] = attrs.field(factory=dict)

    def __repr__(self) -> str:
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.shapes)
        return f"<spikec.Calibration {self.samples} samples {shapes}, {len(self.nodes)} layers>"

    @classmethod
    def gather(cls, graph: Graph, axes: dict[str, int], batches: Iterable[Sequence[Tensor]]) -> Calibration:
        """Run the ANN over the batches.

        Args:
            graph: an ANN graph.
            axes: the nodes to watch, each with the axis of a sample that is its channel.
            batches: tuples of inputs [B, ...].
        """
        found = {name: Accumulator(axis) for name, axis in axes.items()}
        samples, retained = 0, None

        for batch in _run(graph, found, batches):
            samples += len(batch[0])
            some = Retained.of(batch)
            retained = some if retained is None else retained.merge(some)
        nodes = {name: each.result() for name, each in found.items()}
        shapes = tuple(graph.type(name).shape for name in graph.inputs)
        return cls(nodes, samples, digest(graph), shapes, retained)

    def merge(self, other: Calibration) -> Calibration:
        """Of both sets of samples.

        Raises:
            CalibrationError: they are of different models.
        """
        if self.model != other.model:
            hint = (
                "merge calibrations of one model; its smooth functions and products of signals are fitted to the data "
                "that each saw, so calibrate such a model in processes that share what they see: "
                "spikec.calibrate(..., all_reduce=True)"
            )
            raise CalibrationError("calibrations of different models cannot be merged", hint=hint)
        nodes = dict(self.nodes)
        for name, statistics in other.nodes.items():
            nodes[name] = nodes[name].merge(statistics) if name in nodes else statistics
        kept = [one.retained for one in (self, other) if one.retained is not None]
        retained = functools.reduce(Retained.merge, kept) if kept else None
        samples = self.samples + other.samples
        return Calibration(nodes, samples, self.model, self.shapes, retained, self.values)  # of one model, so the same

    def all_reduce(self, group: Any = None) -> Calibration:
        """Of the samples of all processes of a ``torch.distributed`` group, each of which must call it.

        Args:
            group: None for the default one.

        Raises:
            CalibrationError: the process is in no group, or the processes have different models.
        """
        merged: Calibration = functools.reduce(Calibration.merge, of_all_processes(self, group))
        return merged

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an ``.npz`` file, which appears whole or not at all."""
        arrays: dict[str, Any] = {"samples": np.int64(self.samples), "model": np.array(self.model)}
        arrays |= {f"shape_{i}": np.array(shape) for i, shape in enumerate(self.shapes)}
        for name, statistics in self.nodes.items():
            for field in attrs.fields(Statistics):
                arrays[f"{name}/{field.name}"] = np.asarray(getattr(statistics, field.name))
        if self.retained is not None:
            arrays["marks"] = self.retained.marks
            arrays |= {f"retained_{i}": x.numpy() for i, x in enumerate(self.retained.inputs)}
        arrays |= {f"{name}{_VALUES}": values for name, values in self.values.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        with replacing(path) as part:
            part.write_bytes(buffer.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str], max_bytes: int | None = None) -> Calibration:
        """Read what ``save`` wrote.

        Args:
            path: of the file.
            max_bytes: what its arrays may take in memory; None for half a gigabyte more than the file takes.

        Raises:
            CalibrationError: the file is not one.
        """
        hint = "give a file that Calibration.save wrote"
        arrays = read_npz(path_of(path), CalibrationError, "is not a saved calibration", hint, max_bytes)
        try:
            return cls._of(arrays)
        except (KeyError, ValueError, TypeError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise CalibrationError(f"{os.fspath(path)} is not a saved calibration: {reason}", hint=hint) from None

    @classmethod
    def _of(cls, arrays: dict[str, Array]) -> Calibration:
        """Make one of the arrays of a file, which are checked for what they mean.

        Raises:
            KeyError, ValueError, TypeError: they are wrong.
        """
        names = [key.removesuffix("/maximum") for key in arrays if key.endswith("/maximum")]
        fields = [field.name for field in attrs.fields(Statistics)]
        nodes = {name: Statistics(*(arrays[f"{name}/{field}"] for field in fields)) for name in names}
        for name, statistics in nodes.items():
            if why := statistics.wrong():
                raise ValueError(f"{name}: {why}")
        inputs = [i for i in range(len(arrays)) if f"shape_{i}" in arrays]
        shapes = tuple(ints(np.atleast_1d(arrays[f"shape_{i}"])) for i in inputs)
        retained = None
        if "marks" in arrays:
            samples = tuple(torch.from_numpy(arrays[f"retained_{i}"]) for i in inputs)
            retained = Retained(samples, arrays["marks"])
            if why := retained.wrong(shapes):
                raise ValueError(why)
        values = {key.removesuffix(_VALUES): each for key, each in arrays.items() if key.endswith(_VALUES)}
        for name, each in values.items():
            if each.dtype != np.float64 or not each.size or not np.isfinite(each).all():
                raise ValueError(f"{name}: its values are no finite numbers")
            if name.endswith(MOMENTS):
                if each.ndim != 2 or len(each) != 2 or (each[1] <= 0).any():
                    raise ValueError(f"{name}: its values are no mean and deviation of each channel")
            elif each.ndim != 1 or (np.diff(each) < 0).any():
                raise ValueError(f"{name}: its values do not rise")
        return cls(nodes, int(arrays["samples"]), str(arrays["model"]), shapes, retained, values)
