"""What a pass is, and what it is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, get_args

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.calibration.calibration import Calibration, digest
from spikec.calibration.data import Batches
from spikec.interpreter.contract import agreement, neurons
from spikec.ir.errors import CalibrationError, CompileError, warn
from spikec.ir.graph import Graph
from spikec.ir.stages import EVERY, Stage

#: ``exact``: the same function. ``rate``: each neuron's rate is the clipped ReLU to 1/T. ``tuned``: kept
#: only if agreement with the ANN does not fall. ``approximate``: changes the function, and is measured.
Contract = Literal["exact", "rate", "tuned", "approximate"]
CONTRACTS: tuple[str, ...] = get_args(Contract)

#: steps at which a tuned pass is judged when the user named none
DEFAULT_TIMESTEPS = 32

#: steps of single neurons for which a tuned pass runs the net, which bounds its time and, at a byte each, its memory
WORK = 2**28
#: samples with which a net is tuned for the user's T, however large it is; one that is tuned unasked is left as it is
#: where its size allows no more than these
LEAST_SAMPLES = 16

#: a string that is written without quotes: no number and no constant
_WORD = re.compile(r"(?!(?:None|True|False|inf|nan)$)[A-Za-z_][\w-]*")

#: why a tuned pass does nothing
NO_SAMPLES = "there are no samples to tune on, or the net is so large that it is tuned only for a T that is given"


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
            statistics, then of all, or of those that the saved statistics saw; empty without data.
        ann: the ANN just before its ReLUs became neurons, under the same names; None until then.
        track: wraps an iterable in a progress bar: (items, description, total).
        ahead: how many times fewer steps the net will need once the passes that are still to run have run.
    """

    reference: Graph
    timesteps: int | None = None
    seed: int = 0
    batches: Batches | None = None
    statistics: Calibration | None = None
    notes: list[Note] = attrs.field(factory=list)
    samples: tuple[Tensor, ...] = ()
    ann: Graph | None = None
    track: Callable[[Iterable[Any], str, int], Iterable[Any]] = plain
    running: str = ""
    ahead: int = 1
    _judged: list[tuple[Graph, int, tuple[float, float]]] = attrs.field(factory=list, init=False)

    def note(self, node: str, reason: str) -> None:
        """Record why the running pass left a node as it is, or what its choice costs."""
        self.notes.append(Note(self.running, node, reason))

    def warn(self, message: str, node: str = "") -> None:
        """Note it, and issue a SpikecWarning."""
        self.note(node, message)
        warn(message)

    @property
    def steps(self) -> int:
        """The T at which tuned passes are judged: of the net as it is now."""
        return (self.timesteps or DEFAULT_TIMESTEPS) * self.ahead

    def tuning_samples(self, graph: Graph) -> tuple[Tensor, ...]:
        """As many samples as a spiking graph of its size is tuned with, in float32; empty without data or for none."""
        count = WORK // max(1, neurons(graph) * self.steps)
        if count < LEAST_SAMPLES:
            if self.timesteps is None:
                return ()
            count = LEAST_SAMPLES
        return tuple(x[:count].to(torch.float32) for x in self.samples)

    def agreement(self, graph: Graph) -> tuple[float, float]:
        """How near a spiking graph is to the model on the samples; see ``agreement`` in ``interpreter/contract.py``."""
        for known, steps, found in self._judged:
            if steps == self.steps and known.same_as(graph):
                return found
        found = agreement(graph, self.reference, self.tuning_samples(graph), self.steps)
        self._judged = [*self._judged[-3:], (graph.copy(), self.steps, found)]
        return found

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
                hint="pass calibration=: a tensor, a DataLoader, or the calibration of a Compilation of this model; or "
                'let thresholds follow from the weights: spikec.Normalization(method="model")',
            )
        self.statistics = Calibration.gather(graph, axes, self.track(self.batches, "calibrating", len(self.batches)))
        if self.statistics.retained is not None:
            self.samples = self.statistics.retained.inputs
        return self.statistics


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

    @property
    def speedup(self) -> int:
        """How many times fewer steps the net needs after it; the passes before it tune for so many times more."""
        return 1

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
        if not isinstance(cls.needs, tuple) or not all(isinstance(stage, Stage) for stage in cls.needs):
            raise CompileError(f"pass {cls.name} needs {cls.needs!r}", hint="give a tuple of stages: needs = (FOLDED,)")
        if cls.contract == "tuned" and cls.gives is not None:
            raise CompileError(
                f"pass {cls.name} is tuned and gives stage {cls.gives.name}",
                hint="a tuned pass may be left out, so no stage may rest on it: split it in two",
            )

    def __str__(self) -> str:
        """The text that :meth:`spikec.Pipeline.parse` reads: ``name{option=value}`` with what is not as by default."""
        return written(self).removesuffix("{}")


def written(value: Any) -> str:
    """An option's value as text; records show the fields that are not as by default."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return f"({', '.join(map(written, value))}{',' * (len(value) == 1)})"
    if isinstance(value, str) and _WORD.fullmatch(value):
        return value
    if not attrs.has(type(value)):
        return repr(value)
    fields = [(field.name, written(getattr(value, field.name)), field.default) for field in attrs.fields(type(value))]
    shown = ", ".join(f"{name}={text}" for name, text, default in fields if text != written(default))
    return f"{value.name if isinstance(value, Pass) else type(value).__name__}{{{shown}}}"
