"""Runs the passes dry, to know early what a model will be refused for: before calibration, and of a part of a model."""

from collections.abc import Callable, Sequence

from spikec.calibration.source import CalibrationSource
from spikec.extend.backend import Backend
from spikec.extend.passbase import Context
from spikec.ir.errors import CompileError, Problem, UnsupportedOpError, without_warnings
from spikec.ir.graph import Graph
from spikec.ir.op import Role
from spikec.ir.ops import Output
from spikec.ir.origin import Source
from spikec.ir.progress import shown
from spikec.pipeline.manager import run_pipeline
from spikec.pipeline.pipeline import Pipeline

#: what is refused of a graph, as imported, if thresholds are chosen from this calibration
DryRun = Callable[[Graph, CalibrationSource], list[Problem]]


def run_dry(graph: Graph, pipeline: Pipeline, backend: Backend, context: Context) -> list[Problem]:
    """What the passes, or the target behind them, do not support; nothing is compared, nothing emitted."""
    with without_warnings(), shown(False):
        try:
            return backend.check(run_pipeline(graph, pipeline, context)[-1].graph)
        except UnsupportedOpError as error:
            return list(error.problems)
        except CompileError:
            return []  # no refusal, or one that the real run will say better


def refuse_early(graph: Graph, calibration: CalibrationSource, dry_run: DryRun) -> None:
    """Raise what will be refused whatever thresholds are chosen, before all of the data is looked at.

    Thresholds from the weights alone cost nothing to choose; what is refused with them, and with those of the first
    batch too, is not for want of better thresholds.

    Raises:
        UnsupportedOpError: with all that is refused either way.
    """
    problems = dry_run(graph, CalibrationSource())
    if problems:
        again = dry_run(graph, calibration.only_first_batch())
        problems = [problem for problem in again if problem in problems]
    if problems:
        raise UnsupportedOpError(problems)


def refused_beside(read: Graph, known: Sequence[Problem], dry_run: DryRun) -> list[Problem]:
    """What the target refuses of a model that was read in part, at other nodes than those known already."""
    part, end = readable_part(read)
    if not part.outputs:
        return []
    found = dry_run(part, CalibrationSource())
    beside = end.union(*(problem.origin for problem in known))
    return [problem for problem in found if problem.origin and beside.isdisjoint(problem.origin)]


def readable_part(graph: Graph) -> tuple[Graph, set[Source]]:
    """The part of a refused model that can be run dry, and the layers at its end whose fate depends on what is missing.

    The part leads to the model's outputs, or where none was reached, to the last result; that is cut behind an
    activation as far as the verdict goes, because linear layers and pools fold into what follows them.
    """
    part = graph.copy()
    last = next((name for name in reversed(list(part)) if part[name].role is not Role.IO), "")
    cut = [] if part.outputs or not last else [part.add(Output(), last)]
    for name in reversed(list(part)):
        if part[name].role is not Role.IO and not part.users(name):
            part.remove(name, "nothing that was read depends on it")
    part.drop(tuple(part.imported.order.keys() - part.sources), "not read")
    end: set[Source] = set()
    while cut:
        name = cut.pop()
        if part[name].role is not Role.ACTIVATION:
            end.update(part[name].origin)
            cut += part.operands(name)
    return part, end
