"""What a pass is, and what it is given."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal, get_args

import attrs
import torch
from torch import Tensor

from spikec.calibration import Calibration, digest
from spikec.data import Batches
from spikec.errors import CalibrationError, CompileError, SpikecWarning
from spikec.graph import Graph
from spikec.stages import EVERY, Stage

#: ``exact``: the same function. ``rate``: each neuron's rate is the clipped ReLU to 1/T. ``tuned``: kept
#: only if agreement with the ANN does not fall. ``approximate``: changes the function, and is measured.
Contract = Literal["exact", "rate", "tuned", "approximate"]
CONTRACTS: tuple[str, ...] = get_args(Contract)

#: how many samples are kept for passes that look at data themselves
RETAINED = 256


@attrs.frozen
class Note:
    """Why a rewrite did not fire, or what a pass wants the user to know."""

    by: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.by}: %{self.node}: {self.reason}" if self.node else f"{self.by}: {self.reason}"


def plain(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
    """No progress bar."""
    return items


@attrs.define(eq=False)
class Context:
    """What passes and backends may know besides the graph.

    Attributes:
        reference: the graph as imported.
        timesteps: the T that the user means to run, or None.
        seed: for everything random.
        batches: the calibration data, or None.
        notes: in order; see :meth:`note`.
        samples: a tensor [N, ...] an input, N at most 256: of the first batch until a pass gathers
            statistics, then of all; empty without data.
        track: wraps an iterable in a progress bar: (items, description, total).
    """

    reference: Graph
    timesteps: int | None = None
    seed: int = 0
    batches: Batches | None = None
    statistics: Calibration | None = None
    notes: list[Note] = attrs.field(factory=list)
    samples: tuple[Tensor, ...] = ()
    track: Callable[[Iterable[Any], str, int], Iterable[Any]] = plain
    running: str = ""

    def note(self, node: str, reason: str) -> None:
        """Record why the running pass left a node as it is, or what its choice costs."""
        self.notes.append(Note(self.running, node, reason))

    def warn(self, message: str, node: str = "") -> None:
        """Note it, and issue a SpikecWarning."""
        self.note(node, message)
        warnings.warn(message, SpikecWarning, stacklevel=2)

    @property
    def has_data(self) -> bool:
        """True where statistics can be had."""
        return self.batches is not None or self.statistics is not None

    def gather(self, graph: Graph, axes: dict[str, int]) -> Calibration:
        """Statistics of these nodes of an ANN graph: from the data, or as saved for just this graph.

        Args:
            graph: an ANN graph.
            axes: nodes to watch, each with its channel axis.

        Raises:
            CalibrationError: there is no data, or the saved statistics are of another model.
        """
        known = self.statistics
        if known is not None and known.model == digest(graph) and axes.keys() <= known.nodes.keys():
            return known
        if self.batches is None:
            raise CalibrationError(
                "the calibration given is of another model" if known else "no calibration data",
                hint="pass calibration=: a tensor, a DataLoader, or the calibration of a Compilation of this model",
            )
        kept: list[tuple[Tensor, ...]] = []
        batches = self._retaining(self.track(self.batches, "calibrating", len(self.batches)), kept)
        self.statistics = Calibration.gather(graph, axes, batches)
        self.samples = tuple(torch.cat(column)[:RETAINED] for column in zip(*kept, strict=True))
        return self.statistics

    @staticmethod
    def _retaining(batches: Iterable[Any], kept: list[tuple[Tensor, ...]]) -> Iterable[Sequence[Tensor]]:
        count = 0
        for batch in batches:
            if count < RETAINED:
                kept.append(batch)
                count += len(batch[0])
            yield batch


@attrs.frozen
class Pass:
    """A rewrite of the graph. Subclass it with ``@attrs.frozen``; the fields are its options.

    Attributes:
        name: the file's name with dashes; what pipelines and dumps call it.
        contract: what it does to the numbers, and so how it is checked.
        needs: the stages at which it may run.
        gives: the stage that the graph has reached after it, or None for the same.
    """

    name: ClassVar[str]
    contract: ClassVar[Contract] = "exact"
    needs: ClassVar[tuple[Stage, ...]] = EVERY
    gives: ClassVar[Stage | None] = None

    def reached(self, stage: Stage) -> Stage:
        """The stage after it has run at ``stage``."""
        return self.gives or stage

    def run(self, graph: Graph, context: Context) -> int:
        """Change the graph, which is this pass's own cheap copy; return the number of changes."""
        raise NotImplementedError

    def __init_subclass__(cls) -> None:
        if not isinstance(getattr(cls, "name", None), str):
            raise CompileError(f"pass {cls.__qualname__} has no name", hint='give it one: name = "my-pass"')
        if cls.contract not in CONTRACTS:
            raise CompileError(
                f"pass {cls.name} has contract {cls.contract!r}", hint=f"contracts: {', '.join(CONTRACTS)}"
            )
        if cls.contract == "tuned" and cls.gives is not None:
            raise CompileError(
                f"pass {cls.name} is tuned and gives stage {cls.gives.name}",
                hint="a tuned pass may be left out, so no stage may rest on it: split it in two",
            )

    def __str__(self) -> str:
        options = []
        for field in attrs.fields(type(self)):
            value = getattr(self, field.name)
            if value != field.default:
                options.append(f"{field.name}={value}")
        return f"{self.name}({', '.join(options)})" if options else self.name
