"""What the tool that reads a file does with it: otherwise than the file means, and how good its answers are then."""

from collections.abc import Callable, Iterable, Sequence
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

#: the share of the answers whose loss is worth a warning
_LITTLE = 0.005
#: what becomes of accuracy, by the share of the answers that are lost
_LOSSES = (
    (0.5, "most of its accuracy is lost"),
    (0.05, "it loses accuracy"),
    (_LITTLE, "it loses a little accuracy"),
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
    """Say where the reader of an artifact runs it otherwise than the network, with what that costs.

    It is a warning where the reader resets otherwise or loses answers, and else a note.

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
    run = _as_it_runs(artifact, backend.reader)
    lost, hardens = 0.0, run is not None and _subtracts(final, any) and not _subtracts(run, all)
    if run is None:
        parts.append(": it does not run the file")
    elif samples := _few(context, final):
        lost, said = _cost(run, final, context, samples)
        parts.append(f": {said}")
    if hardens and backend.reset != "hard":
        parts += ["; compile with ", Option("reset", "hard")]
        if mends := backend.mends(final):
            parts.append(f", or load the file as\n{mends}")
    if run is None or hardens or lost >= _LITTLE:
        context.warn(Hint(*parts), first.location)
    else:
        context.note(first.location, Hint(*parts))


def _as_it_runs(artifact: Any, reader: str) -> Graph | None:
    """Return what a tool runs; None where it refuses the artifact."""
    with without_warnings():
        try:
            return load(artifact, reader=reader)
        except CompileError:
            return None


def _subtracts(graph: Graph, how_many: Callable[[Iterable[bool]], bool]) -> bool:
    """Whether any, or all, of its neurons reset by subtraction."""
    return how_many(node.op.subtracts for node in graph.match(Neuron))


def _few(context: Context, graph: Graph) -> list[Tensor]:
    """Return the calibration samples that the cost is measured on: at least one, where there are any."""
    count = max(1, WORK // max(1, neuron_count(graph) * context.steps))
    return [x[:count] for x in context.samples]


def _cost(run: Graph, final: Graph, context: Context, samples: Sequence[Tensor]) -> tuple[float, str]:
    """Return the share of the model's answers that are lost where the reader runs the network, and say so."""
    with without_warnings():
        wanted = answers(context.reference, samples, context.steps)
        here, there = (nearness(wanted, answers(each, samples, context.steps))[0] for each in (final, run))
    loss = next(text for least, text in _LOSSES if here - there >= least)
    whose = "model's" if context.reference.is_spiking else "ANN's"
    many = f"{len(samples[0])} calibration samples, T={context.steps}"
    return (
        here - there,
        f"there {100 * there:.4g} % of the answers are the {whose}, and here {100 * here:.4g} % ({many}): {loss}",
    )
