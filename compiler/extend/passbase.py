"""What a pass is, and what it is given."""

import re
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, Literal, TypeVar, get_args

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.calibration.calibration import RETAINED, Calibration
from spikec.calibration.source import CalibrationSource
from spikec.extend.beginnings import Beginnings
from spikec.extend.configured import Configured
from spikec.interpreter.probe import neuron_count
from spikec.interpreter.results import RunningMean, agreement_text, answers, answers_by_batch, nearness
from spikec.interpreter.several import with_one_for_each
from spikec.ir.errors import CompileError, warn
from spikec.ir.graph import Graph
from spikec.ir.stages import EVERY, Stage
from spikec.ir.types import Array

#: ``exact``: the same function. ``rate``: each neuron's rate is the clipped ReLU to 1/T. ``tuned``: kept only if
#: agreement with the ANN does not fall, on few samples only if the error does not rise. ``approximate``: changes the
#: function, and is measured.
Contract = Literal["exact", "rate", "tuned", "approximate"]
CONTRACTS: tuple[str, ...] = get_args(Contract)

#: steps at which a tuned pass is judged when the user named none
DEFAULT_TIMESTEPS = 32

#: steps of single neurons for which a tuned pass runs the net, which bounds its time and, at a byte each, its memory
WORK = 2**28
#: samples with which a net is tuned for the user's T, however large it is; one that is tuned unasked is left as it is
#: where its size allows no more than these
LEAST_SAMPLES = 16
#: samples of which the share that is answered as by the ANN says something; of fewer the error alone does
TELLING = 32
#: outputs, over all steps and samples, up to which those of the graph that ran last are held: of 4 bytes
HELD = 2**24

#: a string that is written without quotes: no number and no constant
_WORD = re.compile(r"(?!(?:None|True|False|inf|nan)$)[A-Za-z_][\w-]*")

T = TypeVar("T")

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


@attrs.frozen(eq=False, repr=False)
class Context:
    """What a pass or a backend may know besides the graph.

    It is frozen. The manager makes one for each pass: the facts are the same in all of them, while ``running``,
    ``speedup`` and ``ann`` are that pass's own. They share their notes, the graphs beside, and what the calibration
    source remembers.

    Attributes:
        reference: the graph as imported.
        timesteps: the T that the user means to run, or None.
        seed: for everything random.
        calibration: the data, or the statistics that were gathered from it before.
        notes: in order; see :meth:`note`.
        running: name of the pass that runs.
        speedup: product of the ``speedup`` of this pass and of those still to come.
        ann: the ANN just before its ReLUs became neurons, under the same names; for a pass over an ANN, its graph; None
            where no pass to come looks back.
        most: how many samples this pass is tuned and judged on, if there are more.
        begun: what passes that are tried one after the other on the same graph found at its first layers; else None.
        beside: graphs that passes hand to the backend besides their own, by the pass's name.

    Examples:
        >>> @attrs.frozen
        ... class Steps(spikec.Pass):
        ...     name = "steps"
        ...     def run(self, graph, context):
        ...         context.note("", f"{context.steps} steps, {len(context.samples[0])} samples")
        ...         return 0
        >>> pipeline = spikec.Pipeline.default("nir", normalization="max") + [Steps()]
        >>> report = spikec.Compiler("nir", calibration=images, timesteps=8, pipeline=pipeline).run(model).report
        >>> print(*[note for note in report.notes if note.by == "steps"])
        steps: 8 steps, 64 samples
    """

    reference: Graph
    timesteps: int | None = None
    seed: int = 0
    calibration: CalibrationSource = attrs.field(factory=CalibrationSource)
    notes: list[Note] = attrs.field(factory=list)
    running: str = ""
    speedup: int = 1
    ann: Graph | None = None
    begun: Beginnings | None = None
    most: int = RETAINED
    beside: dict[str, Graph] = attrs.field(factory=dict)
    _judged: list[tuple[Graph, tuple[int, int], tuple[float, float]]] = attrs.field(factory=list)
    _over_time: list[tuple[Graph, int, tuple[Tensor, ...], Sequence[Tensor]]] = attrs.field(factory=list)
    _made: dict[tuple[Any, ...], tuple[tuple[Tensor, ...], Any]] = attrs.field(factory=dict)

    def __repr__(self) -> str:
        steps = "any T" if self.timesteps is None else f"T={self.timesteps}"
        return f"<spikec.Context of {self.reference.name}, {steps}, {len(self.notes)} notes, now {self.running or '-'}>"

    def note(self, node: str, reason: str) -> None:
        """Record why the running pass left a node as it is, or what its choice costs."""
        self.notes.append(Note(self.running, node, reason))

    def warn(self, message: str, node: str = "") -> None:
        """Note it, and issue a SpikecWarning."""
        self.note(node, message)
        warn(message)

    @property
    def samples(self) -> tuple[Tensor, ...]:
        """At most 256 calibration samples, a tensor [N, ...] an input; see :attr:`CalibrationSource.samples`."""
        return self.calibration.samples

    def gather(self, graph: Graph, axes: dict[str, int]) -> Calibration:
        """Return statistics of nodes of an ANN graph on the calibration data; see :meth:`CalibrationSource.gather`."""
        return self.calibration.gather(graph, axes)

    def values(self, graph: Graph, names: Collection[str]) -> dict[str, Array]:
        """Return a sample of the values of nodes of an ANN graph, rising; see :meth:`CalibrationSource.values`."""
        return self.calibration.values(graph, names)

    @property
    def steps(self) -> int:
        """The T at which tuned passes are judged, which is that of the net as it is now."""
        return (self.timesteps or DEFAULT_TIMESTEPS) * self.speedup

    def tuning_samples(self, graph: Graph) -> tuple[Tensor, ...]:
        """Return as many samples as a graph of this size is tuned with, in float32; none without data."""
        count = min(self.most, WORK // max(1, neuron_count(graph) * self.steps))
        least = min(LEAST_SAMPLES, self.most)
        if count < least:
            if self.timesteps is None:
                return ()
            count = least
        return tuple(x[:count].to(torch.float32) for x in self.samples)

    def agreement(self, graph: Graph) -> tuple[float, float]:
        """Measure how near a spiking graph is to the model on the samples, as ``nearness`` of the interpreter says."""
        return self._judge(graph)[0]

    def compared(self, before: Graph, after: Graph) -> tuple[bool, str]:
        """Return whether a spiking graph is as near to the model as the one before it, or nearer, and both as text.

        Samples too few for their answers to tell count by their error.
        The one before it sees only as many samples as it takes to know that it cannot be nearer.
        """
        now = self.agreement(after)
        was, seen = self._judge(before, now)
        count = len(self.tuning_samples(before)[0])
        part = f" on {seen} of {count} samples" if seen < count else ""
        is_as_near = bool(part) or telling(now, count) >= telling(was, count)
        return is_as_near, f"{agreement_text(was)}{part} -> {agreement_text(now)}"

    def _judge(self, graph: Graph, least: tuple[float, float] | None = None) -> tuple[tuple[float, float], int]:
        """Return a graph's agreement and on how many samples; not on all where it is sure to be below the least."""
        samples = self.tuning_samples(graph)
        count = len(samples[0])
        for known, size, agreed in self._judged:
            if size == (self.steps, count) and known.same_as(graph):
                return agreed, count
        parts: list[list[Tensor]] = []
        for part in answers_by_batch(with_one_for_each(graph), samples, self.steps):
            parts.append(part)
            found = [torch.cat(each) for each in zip(*parts, strict=True)]
            seen = len(found[0])
            if least is not None and seen < count:
                same, error = nearness([x[:seen] for x in self.wanted(samples)], found)
                bound = 1 - (1 - same) * seen / count, error * seen / count
                if telling(bound, count) < telling(least, count):
                    return (same, error), seen
        return self.ran(graph, found), count

    def wanted(self, samples: Sequence[Tensor]) -> list[Tensor]:
        """Return what the model answers to its samples."""
        key = ("answers", self.reference, len(samples[0]))
        return self.once(key, lambda: answers(self.reference, samples, self.steps))

    def ran(self, graph: Graph, outputs: Sequence[Tensor]) -> tuple[float, float]:
        """Take what a graph has put out for its samples; return its :meth:`agreement`, which is known from then on."""
        samples = self.tuning_samples(graph)
        found = nearness(self.wanted(samples), outputs)
        self._judged[:] = [*self._judged[-3:], (graph.copy(), (self.steps, len(samples[0])), found)]
        return found

    def ran_over_time(self, graph: Graph, steps: Sequence[Tensor]) -> None:
        """Take what a graph has put out for its samples at each step, [T, N, ...] an output; it is held if small."""
        mean = RunningMean(graph)
        for step in zip(*steps, strict=True):
            mean.add(step)
        self.ran(graph, mean.outputs())
        is_small = sum(map(Tensor.numel, steps)) <= HELD
        self._over_time[:] = [(graph.copy(), self.steps, self.samples, steps)] if is_small else []

    def over_time(self, graph: Graph) -> list[Tensor]:
        """Return what a graph puts out for its samples at each step, [T, N, ...] an output; empty if it is not held."""
        count = len(self.tuning_samples(graph)[0])
        for known, timesteps, samples, steps in self._over_time:
            is_it = timesteps == self.steps and samples is self.samples and known.same_as(graph)
            if is_it and len(steps[0][0]) >= count:
                return [x[:, :count] for x in steps]
        return []

    def once(self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """Return what ``make`` makes of the calibration samples; it is made once for a key, and for these samples."""
        made: T
        held, made = self._made.get(key, ((), None))
        if not held or any(a is not b for a, b in zip(held, self.samples, strict=True)):
            held, made = self._made[key] = self.samples, make()
        return made


def number(low: float, high: float = sys.float_info.max) -> Any:
    """Make a validator of an option that is a finite number from ``low`` to ``high``."""
    valid = attrs.validators
    return valid.and_(valid.instance_of((int, float)), valid.ge(low), valid.le(high))


def telling(found: tuple[float, float], count: int) -> tuple[float, float]:
    """Return of an agreement, found on so many samples, what can be told apart: of few of them no answers."""
    return found if count >= TELLING else (1.0, found[1])


def rounds() -> Any:
    """Make a validator of an option that is a whole number, 1 or more."""
    return attrs.validators.and_(attrs.validators.instance_of(int), attrs.validators.ge(1))


@attrs.frozen
class Pass(metaclass=Configured):
    """A rewrite of the graph. Subclass it with ``@attrs.frozen``; the fields are its options.

    Attributes:
        name: the file's name with dashes; what pipelines and dumps call it.
        contract: what it does to the numbers, and so how it is checked.
        needs: the stages at which it may run.
        gives: the stage that the graph has reached after it, or None for the same.
        looks_back: whether it may ask its context for the ANN or for statistics of the data; where none of the passes
            to come does, they are let go of.
        judges: of a tuned pass, whether it has held what it leaves against what it was given itself, on samples that
            had no part in it; it is not compared again on those that had.

    Examples:
        >>> @attrs.frozen
        ... class Halve(spikec.Pass):
        ...     name = "halve"
        ...     contract = "approximate"
        ...     def run(self, graph, context):
        ...         nodes = graph.with_role(spikec.Role.NEURON)
        ...         for node in nodes:
        ...             graph.set_op(node.name, attrs.evolve(node.op, v_init=node.op.v_init / 2))
        ...         return len(nodes)
        >>> pipeline = spikec.Pipeline.default("nir", normalization="max").insert_after("init-potential", Halve())
        >>> graph = spikec.compile(model, "nir", calibration=images, pipeline=pipeline, timesteps=8)
    """

    what: ClassVar[str] = "pass"
    name: ClassVar[str]
    contract: ClassVar[Contract] = "exact"
    needs: ClassVar[tuple[Stage, ...]] = EVERY
    gives: ClassVar[Stage | None] = None
    looks_back: ClassVar[bool] = True
    judges: ClassVar[bool] = False

    @property
    def speedup(self) -> int:
        """How many times fewer steps the net needs after it; the passes before it tune for so many times more."""
        return 1

    @property
    def most_samples(self) -> int:
        """How many of the calibration samples that are kept it is tuned and judged on, if there are more."""
        return RETAINED

    def reached(self, stage: Stage) -> Stage:
        """Return the stage that a graph of ``stage`` has reached after this pass."""
        return self.gives or stage

    def run(self, graph: Graph, context: Context) -> int:
        """Change the graph, which is this pass's own cheap copy; return the number of changes."""
        raise CompileError(f"pass {self.name} does nothing", hint="define its run(self, graph, context)")

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
    """Return an option's value as text; records show the fields that are not as by default."""
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
