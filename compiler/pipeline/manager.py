"""Runs the passes: a copy for each, verified before the first and after every one."""

import math
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, ClassVar

import attrs

from spikec.extend.heldout import judged, trials
from spikec.extend.passbase import LEAST_SAMPLES, NO_SAMPLES, Context, Note, Pass
from spikec.interpreter.results import agreement_text
from spikec.ir.errors import VerificationError
from spikec.ir.graph import Graph
from spikec.ir.origin import Source
from spikec.ir.packages import frame
from spikec.ir.progress import track
from spikec.ir.stages import Stage
from spikec.ir.templates import table
from spikec.ir.verify import verify
from spikec.pipeline.pipeline import Pipeline

#: by which share an error must be less where there are few samples to say so
_CLEAR = 0.1


@attrs.frozen
class Step:
    """What one pass did.

    Attributes:
        index: from 1.
        next: the pass that runs behind this one; None at the end of the pipeline.
        check: what the observers before this one found.
    """

    index: int
    by: Pass
    before: Graph
    after: Graph
    changes: int
    seconds: float
    notes: tuple[Note, ...]
    next: Pass | None = None
    check: str = ""


class Observer:
    """Looks at each step of a pipeline; the pass manager knows nothing else of it.

    Attributes:
        looks_at: what is said while it looks; may be empty.
    """

    looks_at: ClassVar[str] = ""

    def __call__(self, step: Step) -> str | None:
        """Look at a pass that has run; what is returned becomes the step's check, and an exception stops the run."""
        return None

    def failed(self, step: Step, error: Exception) -> None:
        """Look at a pass that raised, or that was refused; ``step.after`` is the graph as the pass left it.

        It need not be the pass that ran last: a check of several passes at once may find that an earlier one is wrong.
        """


@attrs.frozen(repr=False)
class StageRecord:
    """The graph after a pass, ``by``, with what the numeric check found; after the import, ``by`` is None.

    Where the pass ``failed``, the graph is as it left it, and ``check`` says why.
    """

    name: str
    graph: Graph
    changes: int = 0
    seconds: float = 0.0
    check: str = ""
    by: Pass | None = None
    failed: bool = False

    def __repr__(self) -> str:
        what = "failed" if self.failed else f"{self.changes} change{'' if self.changes == 1 else 's'}"
        return f"<spikec stage {self.name}: {what}, {len(self.graph)} ops>"


def run_pipeline(
    graph: Graph, pipeline: Pipeline, context: Context, observers: Sequence[Observer] = ()
) -> list[StageRecord]:
    """Run every pass on its own copy; see :func:`stages`."""
    return list(stages(graph, pipeline, context, observers))


def stages(
    graph: Graph, pipeline: Pipeline, context: Context, observers: Sequence[Observer] = ()
) -> Iterator[StageRecord]:
    """Run every pass on its own copy, and yield what it left, the import first; nothing else holds earlier graphs.

    Raises:
        CompileError: from a pass or from the verifier. A note on it, as on any other exception of a pass,
            names the pass and those that ran before it.
    """
    sources = graph.sources | graph.imported.order.keys()
    stage, ann = pipeline.start, context.ann if graph.is_spiking else graph
    verify(graph, stage, sources)
    record = StageRecord("import", graph)
    yield record
    for index, each in enumerate(track(pipeline, "passes", current=lambda each: each.name), start=1):
        own = _context(context, pipeline.passes[index - 1 :], ann)
        record = _run_pass(index, pipeline, record.graph, stage, sources, own, observers)
        stage = each.reached(stage)
        ann = record.graph if not record.graph.is_spiking else ann
        if not looks_back(pipeline.passes[index:]):
            ann = None
        yield record


def _run_pass(
    index: int,
    pipeline: Pipeline,
    graph: Graph,
    stage: Stage,
    sources: Collection[Source],
    context: Context,
    observers: Sequence[Observer],
) -> StageRecord:
    """Run the pass of this number on its own copy, and show observers what it did."""
    each, behind = pipeline.passes[index - 1], pipeline.passes[index:]
    after = graph.copy()
    noted = len(context.notes)
    started = time.perf_counter()
    try:
        changes = each.run(after, context)
        if changes is None or (changes == 0) != after.same_as(graph):
            raise VerificationError(
                f"pass {each.name} reports {changes} change(s), and the graph says otherwise",
                hint="return the number of changes from run",
            )
        verify(after, each.reached(stage), sources, graph, stage)
        if each.contract == "tuned" and changes and not each.judges:
            after, changes = _kept(each, graph, after, changes, context)
        seconds, notes = time.perf_counter() - started, tuple(context.notes[noted:])
        step = Step(index, each, graph, after, changes, seconds, notes, behind[0] if behind else None)
        for observer in track(observers, "checks", current=lambda observer: observer.looks_at):
            if found := observer(step):
                step = attrs.evolve(step, check=found)
    except Exception as error:
        seconds, notes = time.perf_counter() - started, tuple(context.notes[noted:])
        blamed: Step = getattr(error, "step", None) or Step(index, each, graph, after, 0, seconds, notes)
        if hasattr(error, "add_note"):
            done = ", ".join(one.name for one in pipeline.passes[: blamed.index - 1]) or "nothing"
            error.add_note(f"in pass {blamed.index} of {len(pipeline)}, {blamed.by}; run before it: {done}")
        for observer in observers:
            observer.failed(blamed, error)
        raise
    return StageRecord(each.name, after, changes, seconds, step.check, each)


def looks_back(still_to_run: Sequence[Pass]) -> bool:
    """Whether one of these passes may ask for the ANN, or for statistics of the data."""
    return any(each.looks_back for each in still_to_run)


def _context(context: Context, still_to_run: Sequence[Pass], ann: Graph | None) -> Context:
    """Make the context of the first of these passes: the facts, and what is so only while it runs."""
    return attrs.evolve(
        context,
        running=still_to_run[0].name,
        speedup=math.prod(each.speedup for each in still_to_run),
        ann=ann,
        most=still_to_run[0].most_samples,
    )


def _kept(by: Pass, before: Graph, after: Graph, changes: int, context: Context) -> tuple[Graph, int]:
    """Return a tuned pass's graph if it agrees with the ANN no worse than the one before it, else that one.

    Few samples say little of what was tuned on them, so there the error must be clearly less by parts: tuned on some,
    judged on others.
    """
    samples = context.tuning_samples(after)
    if not samples:
        context.note("", f"{NO_SAMPLES}; left out")
        return before, 0
    if 1 < len(samples[0]) < LEAST_SAMPLES:
        parted = trials(before, context)
        was, now = judged(parted, ()), judged(parted, (by,))
        is_kept = now[1] > (1 - _CLEAR) * was[1]  # errors are negative
        found = f"on samples that had no part in it, {agreement_text(was)} -> {agreement_text(now)}"
    else:
        is_kept, found = context.compared(before, after)
    context.note("", f"{found}, T={context.steps}{'' if is_kept else '; left out'}")
    return (after, changes) if is_kept else (before, 0)


@attrs.frozen(repr=False)
class Report:
    """The passes with their checks, one row each, and every note: why rewrites did not fire, what choices cost."""

    target: str
    stages: tuple[StageRecord, ...]
    notes: tuple[Note, ...]

    @property
    def passes(self) -> str:
        """The passes with their options, as :meth:`spikec.Pipeline.parse` reads them to run the same again."""
        return ", ".join(str(record.by) for record in self.stages if record.by is not None)

    @property
    def title(self) -> str:
        """The model, the target, and how many ops the graph had and has."""
        first, last = self.stages[0].graph, self.stages[-1].graph
        return f"{first.name} -> {self.target}: {len(first)} ops in, {len(last)} ops out"

    def __repr__(self) -> str:
        return f"<spikec report {self.title}; {len(self.stages) - 1} passes, {len(self.notes)} notes>"

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` with a row for each pass; ``ops`` are those that it left.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        rows = [(each.name, each.changes, len(each.graph), each.seconds, each.check) for each in self.stages[1:]]
        return frame(("pass", "changes", "ops", "seconds", "check"), rows)

    def _repr_html_(self) -> str:
        rows = [(each.name, str(each.changes), f"{each.seconds:.3f}", each.check) for each in self.stages[1:]]
        return table(self.title, ("pass", "changes", "seconds", "check"), rows, map(str, self.notes))

    def __str__(self) -> str:
        width = max(len(record.name) for record in self.stages)
        lines = [self.title]
        for record in self.stages[1:]:
            changes = f"{record.changes:4d} change{'s' if record.changes != 1 else ' '}"
            lines.append(f"  {record.name:<{width}} {changes} {record.seconds:7.3f} s  {record.check}".rstrip())
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join([*lines, f"  passes: {self.passes}"])
