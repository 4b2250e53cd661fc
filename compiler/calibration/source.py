"""Holds the user's ``calibration``, from the option to the statistics that thresholds are chosen from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from spikec.calibration.calibration import Calibration, digest
from spikec.calibration.data import Batches
from spikec.calibration.retained import RETAINED
from spikec.ir.errors import CalibrationError, Hint, Option, warn
from spikec.ir.graph import Graph


@attrs.define(eq=False)
class CalibrationSource:
    """Batches that the ANN can be run on, statistics that were gathered from others before, or nothing (it is false).

    Attributes:
        batches: of the model's inputs, or None.
        gathered: the statistics as they were given; with batches, those that were gathered last, None until then.
        progress: show a progress bar while the ANN runs.
    """

    batches: Batches | None = None
    gathered: Calibration | None = None
    progress: bool = False

    @classmethod
    def of(cls, given: Any, names: Sequence[str], *, progress: bool = False) -> CalibrationSource:
        """Read what the user gave.

        Args:
            given: a Calibration, or data in any of the forms that :class:`Batches` takes, or None.
            names: of the model's inputs.
            progress: show a progress bar while the ANN runs.

        Raises:
            CalibrationError: it is none of these, or it is empty.
        """
        if given is None or isinstance(given, Calibration):
            return cls(None, given, progress)
        return cls(given if isinstance(given, Batches) else Batches(given, names), None, progress)

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
                f"a sample is {_shapes(first)} in the calibration data, and {_shapes(given)} in example_input"
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
        """Statistics of nodes of an ANN graph: those that are known of just this graph, else from the batches.

        Args:
            graph: an ANN graph.
            axes: nodes to watch, each with its channel axis.

        Raises:
            CalibrationError: there is no data, or the statistics that were given are of another model.
        """
        known = self.gathered
        if known is not None and known.model == digest(graph) and axes.keys() <= known.nodes.keys():
            return known
        if self.batches is None:
            raise CalibrationError(
                "the calibration given is of another model" if known else "no calibration data",
                hint=Hint(
                    "pass ",
                    Option("calibration"),
                    ": a tensor, a DataLoader, or the calibration of a Compilation of this model; or let thresholds "
                    'follow from the weights: spikec.Normalization(method="model")',
                ),
            )
        self.gathered = Calibration.gather(graph, axes, self._shown())
        return self.gathered

    def _shown(self) -> Iterable[tuple[Tensor, ...]]:
        """Return the batches, with a progress bar around them where it is wanted."""
        assert self.batches is not None
        if not self.progress:
            return self.batches
        from rich.progress import track

        return track(self.batches, "calibrating", len(self.batches) or None)


def _shapes(xs: Sequence[Tensor]) -> str:
    """Return the shapes of one sample of each input as text."""
    return " and ".join(str(list(x.shape[1:])) for x in xs)
