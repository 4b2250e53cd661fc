"""Holds the user's ``calibration``, from the option to the statistics that thresholds are chosen from."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from spikec.calibration.calibration import RETAINED, Calibration, digest, merged_values, sampled
from spikec.interpreter.inputs import as_input, check_types
from spikec.interpreter.processes import of_all_processes
from spikec.ir.errors import CalibrationError, Hint, Option, warn
from spikec.ir.graph import Graph
from spikec.ir.progress import track
from spikec.ir.types import Array

#: a single tensor is read in batches of this size
TENSOR_BATCH = 256


class Batches:
    """Batches of model inputs, the first of which may be looked at before the pass over them.

    Args:
        data: a tensor or array [N, ...], or an iterable of batches: ``x``, ``(x, y)`` or a dict.
        names: the model's input names; with n of them the first n elements of a tuple are inputs, and a
            dict is read by name.
        option: what the user calls the data.
        time_axis: of event data, the axis of every input that is time, such as 0 for [T, B, ...]; the samples
            are the averages over it, which is what a rate stands for.
        device: where the samples are moved to in the pass over them; None leaves them where they are.
        all_reduce: whether each process of ``torch.distributed`` has batches of its own, and what passes find in them
            is to be that of all.

    Raises:
        CalibrationError: there is no batch, or a batch cannot be read.
    """

    def __init__(
        self,
        data: Any,
        names: Sequence[str],
        option: str = "calibration",
        *,
        time_axis: int | None = None,
        device: str | torch.device | None = None,
        all_reduce: bool = False,
    ) -> None:
        self.names = list(names)
        self.all_reduce = all_reduce
        self.option = option
        self.device = _device(device)
        if time_axis is not None:
            check_types({"time_axis": time_axis}, {"time_axis": int})
        self._time_axis = time_axis
        self._data = data
        self.shapes: list[torch.Size] | None = None
        batches = self._read()
        try:
            self.first = next(batches)
        except StopIteration:
            raise CalibrationError(
                f"{option} is empty: it holds no batch",
                hint="give at least one batch, 256 samples are plenty; a generator can be read once only",
            ) from None
        self._rest: Iterator[tuple[Tensor, ...]] | None = itertools.chain([self.first], batches)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        if self._rest is not None:
            batches, self._rest = self._rest, None
        elif isinstance(self._data, Iterator):
            raise CalibrationError(
                f"{self.option} is a generator, and it was read already", hint="give a list or a DataLoader"
            )
        else:
            batches = self._read()
        if self.device is None:
            return batches
        return (tuple(x.to(self.device) for x in batch) for batch in batches)

    def __len__(self) -> int:
        if isinstance(self._data, (Tensor, np.ndarray)):
            return -(-self._data.shape[self._batch_axis] // TENSOR_BATCH)
        try:
            return len(self._data)
        except TypeError:
            return 0

    @property
    def _batch_axis(self) -> int:
        return 1 if self._time_axis == 0 else 0

    def _read(self) -> Iterator[tuple[Tensor, ...]]:
        data = self._data
        if isinstance(data, (str, os.PathLike, Mapping)):
            raise CalibrationError(
                f"{self.option} is a {type(data).__name__}",
                hint="give tensors: one [N, ...], or a list of batches, each x, (x, y) or a dict by argument name",
            )
        if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
            raise CalibrationError(
                f"{self.option} is a {type(data).__name__}, whose items are single samples",
                hint="wrap it: torch.utils.data.DataLoader(dataset, batch_size=256)",
            )
        if isinstance(data, tuple) and len(data) > 1 and len({np.ndim(x) for x in data}) > 1:
            raise CalibrationError(f"{self.option} is a tuple, read as batches that differ", hint="give [(x, y)] or x")
        if isinstance(data, (Tensor, np.ndarray)):
            data = as_input(data, CalibrationError, self.option)
            data = torch.split(data, TENSOR_BATCH, self._batch_axis)
        try:
            batches = iter(data)
        except TypeError:
            raise CalibrationError(
                f"{self.option} is a {type(data).__name__}, which is not an iterable of batches",
                hint="give a tensor [N, ...], a DataLoader, or a list of batches",
            ) from None
        for batch in batches:
            inputs = self._inputs(batch)
            if self.shapes is None:
                self.shapes = [x.shape[1:] for x in inputs]
            elif self.shapes != [x.shape[1:] for x in inputs]:
                found = " and ".join(str(list(x.shape)) for x in inputs)
                first = " and ".join(str(["B", *shape]) for shape in self.shapes)
                raise CalibrationError(
                    f"a batch of {self.option} is {found}, the first one was {first}".replace("'", ""),
                    hint="all batches hold samples of one shape, batch first; wrap single samples in a DataLoader",
                )
            yield inputs

    def _inputs(self, batch: Any) -> tuple[Tensor, ...]:
        if isinstance(batch, Mapping):
            missing = [name for name in self.names if name not in batch]
            if missing:
                raise CalibrationError(
                    f"a batch of {self.option} has no key {missing[0]!r} (keys: {', '.join(map(str, batch))})",
                    hint="the keys are the argument names of the model's forward",
                )
            found: list[Any] = [batch[name] for name in self.names]
        elif isinstance(batch, (list, tuple)):
            found = list(batch[: len(self.names)])
        else:
            found = [batch]
        if len(found) < len(self.names):
            raise CalibrationError(
                f"the model has {len(self.names)} inputs, a batch of {self.option} has {len(found)} elements",
                hint=f"give batches ({', '.join(self.names)})",
            )
        return tuple(self._sample(as_input(x, CalibrationError, f"an input in {self.option}")) for x in found)

    def _sample(self, x: Tensor) -> Tensor:
        if self._time_axis is None:
            return x
        if not -x.ndim <= self._time_axis < x.ndim or x.ndim < 2:
            raise CalibrationError(
                f"a batch of {self.option} is {list(x.shape)}, and has no time axis {self._time_axis}",
                hint="time_axis=0 is for batches [T, B, ...]",
            )
        return x.mean(self._time_axis)


def _device(name: str | torch.device | None) -> torch.device | None:
    """Return the device of this name, once it is known to hold numbers."""
    if name is None:
        return None
    try:
        found = torch.device(name)
        torch.zeros(1, device=found).cpu()
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CalibrationError(f"device {name!r} cannot be used: {reason}", hint='give "cpu", or "cuda"') from None
    return found


@attrs.define(eq=False)
class CalibrationSource:
    """Batches that the ANN can be run on, statistics that were gathered from others before, or nothing (it is false).

    Attributes:
        batches: of the model's inputs, or None.
        gathered: the statistics as they were given; with batches, those that were gathered last, None until then.
    """

    batches: Batches | None = None
    gathered: Calibration | None = None
    _values: dict[str, Array] = attrs.field(factory=dict)

    @classmethod
    def of(cls, given: Any, names: Sequence[str]) -> CalibrationSource:
        """Read what the user gave for the model's inputs: a Calibration, what :class:`Batches` takes, or None.

        Raises:
            CalibrationError: it is none of these, or it is empty.
        """
        if given is None or isinstance(given, Calibration):
            return cls(None, given)
        return cls(given if isinstance(given, Batches) else Batches(given, names))

    def __bool__(self) -> bool:
        return self.batches is not None or self.gathered is not None

    @property
    def is_long(self) -> bool:
        """True for data of more than one batch, and for data whose length is not known."""
        return self.batches is not None and len(self.batches) != 1

    @property
    def samples(self) -> tuple[Tensor, ...]:
        """A tensor [N, ...] an input, N at most 256.

        They are drawn from all of the data once statistics were gathered, and from its first batch before; empty
        without data, and for statistics that were saved without samples.
        """
        if self.gathered is not None and self.gathered.retained is not None:
            return self.gathered.retained.inputs
        return () if self.batches is None else tuple(x[:RETAINED] for x in self.batches.first)

    def examples(self, given: Sequence[Tensor] | None) -> Sequence[Tensor] | None:
        """An example [B, ...] of each input for the frontend: the user's own, else what the data shows of their shapes.

        Raises:
            CalibrationError: the samples have other shapes than the user's example.
        """
        first = None if self.batches is None else self.batches.first
        if given is None and first is None and self.gathered is not None:
            return tuple(torch.zeros(1, *shape) for shape in self.gathered.shapes)
        if given is not None and first is not None and _shapes(first) != _shapes(given):
            raise CalibrationError(
                f"a sample is {_shapes(first)} in the calibration data, and {_shapes(given)} in example_input",
                hint=Hint("leave ", Option("example_input"), " out: the calibration data says the shape"),
            )
        return first if given is None else given

    def warn_if_alike(self) -> None:
        """Warn of a first batch whose samples are all the same."""
        first = () if self.batches is None else self.batches.first
        if first and len(first[0]) > 1 and all(bool((x == x[:1]).all()) for x in first):
            warn("the samples of the first calibration batch are all the same: thresholds will fit nothing else")

    def only_first_batch(self) -> CalibrationSource:
        """Return the same data without all that comes behind its first batch."""
        return self if self.batches is None else CalibrationSource(Batches([self.batches.first], self.batches.names))

    def gather(self, graph: Graph, axes: dict[str, int]) -> Calibration:
        """Statistics as :meth:`Calibration.gather` takes them: those known of just this graph, else from the batches.

        Raises:
            CalibrationError: there is no data, or the statistics that were given are of another model.
        """
        known = self.gathered
        if known is not None and known.model == digest(graph) and axes.keys() <= known.nodes.keys():
            return known
        if self.batches is None:
            hint = Hint(
                "pass ",
                Option("calibration"),
                ": a tensor, a DataLoader, or the calibration of a Compilation of this model; or let thresholds "
                'follow from the weights: spikec.Normalization(method="model")',
            )
            raise CalibrationError(_NO_DATA[bool(known)], hint=hint)
        found = attrs.evolve(Calibration.gather(graph, axes, self._tracked()), values=self._values)
        self.gathered = found.all_reduce() if self.batches.all_reduce else found
        return self.gathered

    def values(self, graph: Graph, names: Collection[str]) -> dict[str, Array]:
        """Return an even sample of the values of nodes of an ANN graph, rising: from the batches, or as given.

        Raises:
            CalibrationError: there is no data, or what was given says nothing of these nodes.
        """

        def make() -> dict[str, Array]:
            if self.batches is None:
                hint = Hint("pass ", Option("calibration"), ": a tensor, a DataLoader, or a Calibration of this model")
                raise CalibrationError(_NO_DATA[self.gathered is not None], hint=hint)
            return sampled(graph, names, self._tracked())

        return self.kept(names, make)

    def kept(self, names: Collection[str], make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
        """Return what a pass took from the samples under these names; statistics are saved with it.

        Args:
            make: takes it, where it was not given with statistics: numbers, rising, or under a name that ends in
                ``MOMENTS`` the mean and the deviation of each channel, [2, C].
        """
        if not set(names) <= self._known.keys():
            shared = self.batches is not None and self.batches.all_reduce
            self._values = self._values | merged_values(of_all_processes(make()) if shared else [make()])
        return {name: self._known[name] for name in names}

    @property
    def _known(self) -> dict[str, Array]:
        """What was kept, and what the statistics have that were given."""
        return self._values | (self.gathered.values if self.gathered is not None else {})

    def _tracked(self) -> Iterable[tuple[Tensor, ...]]:
        assert self.batches is not None
        return track(self.batches, "calibration batches", len(self.batches) or None)


#: what is wrong where there are no batches, by whether there are statistics
_NO_DATA = {False: "no calibration data", True: "the calibration given is of another model"}


def _shapes(xs: Sequence[Tensor]) -> str:
    """Return the shapes of one sample of each input as text."""
    return " and ".join(str(list(x.shape[1:])) for x in xs)
