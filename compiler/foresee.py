"""What a model will be refused for, found out on a dry run: before calibration, and of a model read in part."""

from __future__ import annotations

import warnings

from spikec.extend.backend import Backend
from spikec.extend.passbase import Context
from spikec.ir.errors import CompileError, Problem, SpikecWarning, UnsupportedOpError
from spikec.ir.graph import Graph
from spikec.ir.op import Role
from spikec.ir.ops import Output
from spikec.ir.origin import Source
from spikec.pipeline.manager import run_pipeline
from spikec.pipeline.pipeline import Pipeline


def foresee(graph: Graph, pipeline: Pipeline, backend: Backend, context: Context) -> list[Problem]:
    """What the passes, or the target behind them, do not support; nothing is compared, nothing emitted.

    Args:
        graph: as imported.
        pipeline, context: how to choose thresholds now, from the weights or from little data.
        backend: the target.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpikecWarning)
        try:
            return backend.check(run_pipeline(graph, pipeline, context)[-1].graph)
        except UnsupportedOpError as error:
            return list(error.problems)
        except CompileError:
            return []  # no refusal, or one that the real run will say better


def readable(graph: Graph) -> tuple[Graph, set[Source]]:
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
    part.drop(tuple(part.met.keys() - part.sources), "not read")
    end: set[Source] = set()
    while cut:
        name = cut.pop()
        if part[name].role is not Role.ACTIVATION:
            end.update(part[name].origin)
            cut += part.operands(name)
    return part, end
