"""Runs the passes: a copy for each, verified before the first and after every one."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import attrs

from spikec.extend.passbase import NO_SAMPLES, Context, Note, Pass
from spikec.interpreter.agreement import agreement_text
from spikec.ir.errors import VerificationError
from spikec.ir.graph import Graph
from spikec.ir.verify import verify
from spikec.pipeline.pipeline import Pipeline


@attrs.frozen
class Step:
    """What one pass did.

    Attributes:
        index: from 1; ``last`` is True for the end of the pipeline.
        check: what the observers before this one found.
    """

    index: int
    by: Pass
    before: Graph
    after: Graph
    changes: int
    seconds: float
    notes: tuple[Note, ...]
    last: bool = False
    check: str = ""


class Observer:
    """Looks at each step of a pipeline; the pass manager knows nothing else of it."""

    def __call__(self, step: Step) -> str | None:
        """Look at a pass that has run; what is returned becomes the step's check, and an exception stops the run."""
        return None

    def failed(self, step: Step, error: Exception) -> None:
        """Look at a pass that raised, or that was refused; ``step.after`` is the graph as the pass left it."""


@attrs.frozen
class StageRecord:
    """The graph after one pass (or after the import).

    Attributes:
        name: the pass.
        graph: the graph after it.
        changes: how many changes it made.
        seconds: how long it took.
        check: what the numeric check found, or ``""``.
    """

    name: str
    graph: Graph
    changes: int = 0
    seconds: float = 0.0
    check: str = ""


def run_pipeline(
    graph: Graph, pipeline: Pipeline, context: Context, observers: Sequence[Observer] = ()
) -> list[StageRecord]:
    """Run every pass on its own copy.

    Raises:
        CompileError: from a pass or from the verifier. A note on it, as on any other exception of a pass,
            names the pass and those that ran before it.
    """
    sources = graph.sources | graph.met.keys()
    stage = pipeline.start
    verify(graph, stage, sources)
    records = [StageRecord("import", graph)]
    for index, each in enumerate(pipeline, start=1):
        if not graph.is_spiking:
            context.ann = graph
        after = graph.copy()
        context.running = each.name
        context.ahead = math.prod(later.speedup for later in list(pipeline)[index - 1 :])
        noted = len(context.notes)
        started = time.perf_counter()
        try:
            changes = each.run(after, context)
            if changes is None or (changes == 0) != after.same_as(graph):
                raise VerificationError(
                    f"pass {each.name} reports {changes} change(s), and the graph says otherwise",
                    hint="return the number of changes from run",
                )
            stage = each.reached(stage)
            verify(after, stage, sources, before=graph)
            if each.contract == "tuned" and changes:
                after, changes = _kept(graph, after, changes, context)
            seconds = time.perf_counter() - started
            notes, last = tuple(context.notes[noted:]), index == len(pipeline)
            step = Step(index, each, graph, after, changes, seconds, notes, last)
            for observer in observers:
                if found := observer(step):
                    step = attrs.evolve(step, check=found)
        except Exception as error:
            done = ", ".join(record.name for record in records[1:]) or "nothing"
            if hasattr(error, "add_note"):
                error.add_note(f"in pass {index} of {len(pipeline)}, {each}; run before it: {done}")
            seconds, notes = time.perf_counter() - started, tuple(context.notes[noted:])
            for observer in observers:
                observer.failed(Step(index, each, graph, after, 0, seconds, notes), error)
            raise
        records.append(StageRecord(each.name, after, changes, seconds, step.check))
        graph = after
    context.running = ""
    return records


def _kept(before: Graph, after: Graph, changes: int, context: Context) -> tuple[Graph, int]:
    """A tuned pass's graph if it agrees with the ANN no worse than the one before, else that one."""
    if not context.tuning_samples(after):
        context.note("", f"{NO_SAMPLES}; left out")
        return before, 0
    was, now = context.agreement(before), context.agreement(after)
    found = f"{agreement_text(was)} -> {agreement_text(now)}, T={context.steps}"
    if now >= was:
        context.note("", found)
        return after, changes
    context.note("", f"{found}; left out")
    return before, 0
