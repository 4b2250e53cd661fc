"""What the tool that reads a file does with it: otherwise than the file means, and how good its answers are then."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from spikec.extend.backend import Backend
from spikec.extend.passbase import Context
from spikec.interpreter.probe import neuron_count
from spikec.interpreter.results import answers, nearness
from spikec.ir.errors import CompileError, Hint, Option, Problem, without_warnings
from spikec.ir.graph import Graph
from spikec.ir.ops import Neuron
from spikec.reading import find_frontend, load

#: what becomes of accuracy, by the share of the answers that are lost
_LOSSES = (
    (0.5, "most of its accuracy is lost"),
    (0.05, "it loses accuracy"),
    (0.005, "it loses a little accuracy"),
    (-1.0, "its accuracy stays"),
)
#: steps of single neurons for which an emitted network is run as its reader does
WORK = 2**25


def differences(model: Any, reader: str, **options: Any) -> list[Problem]:
    """List everything that a tool refuses of a model, leaves out, or runs otherwise than the model says.

    Args:
        model: see :func:`spikec.compile`.
        reader: the tool, see :func:`spikec.load`.
        options: as for :func:`spikec.load`.

    Raises:
        InvalidModelError: there is no such model or reader.
    """
    frontend, opened = find_frontend(model, {"reader": reader, **options})
    return frontend.differences(opened)


def warn_of_reader(backend: Backend, artifact: Any, final: Graph, context: Context) -> None:
    """Warn, once, where the reader of an artifact runs it otherwise than the network, with what that costs.

    Args:
        backend: that has emitted it.
        artifact: for :attr:`Backend.reader`.
        final: the network.
        context: gives the samples, and takes the note.
    """
    if not backend.reader or not (found := differences(artifact, backend.reader)):
        return
    first = found[0]
    more = f" ({len(found)} such findings)" if len(found) > 1 else ""
    parts: list[str | Option] = [f"{first.message}{more}"]
    if samples := _few(context, final):
        parts.append(f": {_cost(artifact, backend, final, context, samples)}")
    if any(node.op.subtracts for node in final.match(Neuron)) and backend.reset != "hard":
        parts += ["; compile with ", Option("reset", "hard")]
        if backend.mends:
            parts.append(f", or load the file as\n{backend.mends}")
    context.warn(Hint(*parts), first.location)


def _few(context: Context, graph: Graph) -> list[Tensor]:
    """Return the calibration samples that the cost is measured on: at least one, where there are any."""
    count = max(1, WORK // max(1, neuron_count(graph) * context.steps))
    return [x[:count] for x in context.samples]


def _cost(artifact: Any, backend: Backend, final: Graph, context: Context, samples: Sequence[Tensor]) -> str:
    """Say how many answers of the model the network gives as it is, and as the reader runs it."""
    with without_warnings():
        try:
            run = load(artifact, reader=backend.reader)
        except CompileError:
            return "it does not run the file"
        wanted = answers(context.reference, samples, context.steps)
        here, there = (nearness(wanted, answers(each, samples, context.steps))[0] for each in (final, run))
    loss = next(text for least, text in _LOSSES if here - there >= least)
    whose = "model's" if context.reference.is_spiking else "ANN's"
    many = f"{len(samples[0])} calibration samples, T={context.steps}"
    return f"there {100 * there:.4g} % of the answers are the {whose}, and here {100 * here:.4g} % ({many}): {loss}"
