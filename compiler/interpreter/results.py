"""What a graph puts out for a batch, in ANN units, how far two such results are apart, and how often they are right."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from spikec.interpreter.inputs import as_input, class_numbers, whole_number, within
from spikec.interpreter.interp import outputs_over_time, run
from spikec.ir.errors import CalibrationError, InvalidModelError, shown
from spikec.ir.graph import Graph
from spikec.ir.op import tensor, tensor_cache
from spikec.ir.ops import Output
from spikec.ir.types import Array

#: allowed difference of an exact pass, relative to the output's spread over the probe
EXACT = 1e-9
#: least spread over a batch, relative to the output's maximum, at which float64 still resolves the exact contract
SPREAD = 1e-6
#: input values that an ANN graph is fed at a time, which bounds the memory of its activations
CELLS = 2**16
#: samples that run at a time where agreement is measured
BATCH = 64


def outputs(graph: Graph, xs: Sequence[Tensor], timesteps: int | None) -> list[Tensor]:
    """Return each output in ANN units, averaged over time in an SNN, behind its heads; inputs are as ``run`` takes."""
    if not graph.is_spiking:
        at_once = max(1, CELLS // max(x[0].numel() for x in xs))
        found = [as_tuple(run(graph, batch)) for batch in zip(*(torch.split(x, at_once) for x in xs), strict=True)]
        return in_ann_units(graph, [torch.cat(parts) for parts in zip(*found, strict=True)])
    total = RunningMean(graph)
    with torch.no_grad(), tensor_cache():
        for step in outputs_over_time(graph, xs, timesteps):
            total.add(step)
        return total.outputs()


class RunningMean:
    """The average of what a spiking graph has put out up to the latest step."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.sums: list[Tensor] = []
        self.steps = 0

    def add(self, step: Sequence[Tensor]) -> None:
        """Take the outputs of the next step."""
        self.sums = [a + b for a, b in zip(self.sums, step, strict=True)] if self.sums else list(step)
        self.steps += 1

    def outputs(self) -> list[Tensor]:
        """Return the average as :func:`outputs` gives it."""
        return in_ann_units(self.graph, [x / self.steps for x in self.sums])


def in_ann_units(graph: Graph, averages: Sequence[Tensor]) -> list[Tensor]:
    """Return a graph's raw outputs, averaged over time, times their scales and behind their heads.

    A graph without neurons may have scales too: a sum over a window of its input stands for the average.
    """
    scaled = [y * tensor(graph.type(name).scale, y) for name, y in zip(graph.outputs, averages, strict=True)]
    return [graph.get(name, Output).finish(y) for name, y in zip(graph.outputs, scaled, strict=True)]


def as_tuple(results: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return what ``run`` returns, as a tuple also for a graph with one output."""
    return results if isinstance(results, tuple) else (results,)


def difference(before: Sequence[Tensor], after: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Return the largest difference of two graphs' outputs, relative to the spread of a third's (the ANN's)."""
    return largest(distance(a, b) / max(spread(of), 1e-30) for a, b, of in zip(before, after, reference, strict=True))


def distance(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of two elements."""
    return float((a - b).abs().max())


def spread(output: Tensor) -> float:
    """Return how far a sample is at most from the average sample."""
    return float((output - output.mean(0, keepdim=True)).abs().max())


def varies(output: Tensor) -> bool:
    """Whether the output differs enough between samples that a wrong graph would be noticed."""
    return spread(output) > SPREAD * float(output.abs().max())


def largest(values: Iterable[float]) -> float:
    """Return the largest value, or NaN where one is: ``max`` would forget it."""
    return float(np.max([0.0, *values]))


def agreement(graph: Graph, ann: Graph, samples: Sequence[Tensor], timesteps: int) -> tuple[float, float]:
    """Measure how near a graph is to the ANN on samples: (share with the same argmax, minus the mean error).

    Both are over all outputs; tuples compare, so that the error decides where the argmax does not.
    """
    same, error, count = 0.0, 0.0, 0
    for batch in zip(*(torch.split(x.to(torch.float32), BATCH) for x in samples), strict=True):
        for a, b in zip(outputs(ann, batch, timesteps), outputs(graph, batch, timesteps), strict=True):
            same += hits(b, a.flatten(1).argmax(1))
            error += float((a - b).abs().flatten(1).mean(1).sum())
            count += len(a)
    return same / count, -error / count


def hits(output: Tensor, classes: Tensor) -> int:
    """Count the samples of an output, flattened, that have their largest value at these indices [B]."""
    return int((output.flatten(1).argmax(1) == classes).sum())


def agreement_text(found: tuple[float, float]) -> str:
    """Write an agreement as notes and reports show it."""
    return f"{100 * found[0]:.4g} % as the ANN, error {-found[1]:.3g}"


@runtime_checkable
class RunsOverTime(Protocol):
    """A network that runs itself, such as the integers of ``netx``.

    Attributes:
        output_scale: the mean output of a step times this is in ANN units.
    """

    output_scale: Array

    def over_time(self, x: Tensor | Array, timesteps: int | None = None) -> Array:
        """Return the output of every step, [T, B, ...], of inputs as the network takes them."""


def evaluate(
    snn: nn.Module | Graph | RunsOverTime, loader: Iterable[Any], timesteps: int, *, time_axis: int | None = None
) -> Array:
    """Measure top-1 accuracy after each time-step, of the output's running mean up to that step.

    Args:
        snn: a spiking torch module (``step_mode`` "s"), a Graph with one output, or a network of ``netx``; an ANN
            graph gives the same accuracy at every step.
        loader: batches ``(x [B, ...], labels [B])``.
        timesteps: number of steps T; x is fed at each of them.
        time_axis: of event data, the axis of x that is time, of length T (0 for [T, B, ...]).

    Returns:
        [T] accuracies in [0, 1].

    Raises:
        CalibrationError: the loader is empty, its batches are no pairs, or its labels no classes of the model.
        InvalidModelError: not a model with a single output.
    """
    timesteps = whole_number("timesteps", timesteps, 1)
    right, total = np.zeros(timesteps), 0
    if not isinstance(loader, Iterable) or isinstance(loader, (Tensor, np.ndarray)):
        raise CalibrationError(f"loader is {shown(loader)}", hint="give batches (x, labels), such as a DataLoader")
    for batch in loader:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise CalibrationError("a batch of loader is not a pair (x, labels)", hint="give [(x, labels), ...]")
        x, labels = as_input(batch[0]), class_numbers(batch[1])
        over_time = time_axis is not None
        if time_axis is not None:
            x = _time_first(x, time_axis, timesteps)
        samples = x.shape[1] if over_time else len(x)
        if len(labels) != samples:
            raise CalibrationError(
                f"{len(labels)} labels for a batch of {samples} samples", hint="give one class number a sample"
            )
        mean: Tensor | None = None
        for t, out in enumerate(_answers(snn, x, timesteps, over_time)):
            if out.ndim != 2:
                message = f"the output has shape {tuple(out.shape)}, accuracy needs [B, classes]"
                raise InvalidModelError(message, hint="compare such outputs with spikec.diagnose")
            if mean is None:
                within(labels, out.shape[1])
            mean = out if mean is None else mean + (out - mean) / (t + 1)
            right[t] += hits(mean.cpu(), labels)
        total += len(labels)
    if total == 0:
        raise CalibrationError("the loader is empty", hint="give at least one batch")
    return right / total


def _time_first(x: Tensor, axis: int, timesteps: int) -> Tensor:
    """Return event data as [T, B, ...]."""
    if not -x.ndim <= axis < x.ndim or x.ndim < 2 or x.shape[axis] != timesteps:
        message = f"a batch of shape {list(x.shape)} has not {timesteps} steps on axis {axis}"
        raise CalibrationError(message, hint="say with time_axis which axis is time, and its length as timesteps")
    return x.movedim(axis, 0)


def _answers(snn: nn.Module | Graph | RunsOverTime, x: Tensor, timesteps: int, over_time: bool) -> Iterable[Tensor]:
    """Yield the output of each step, for x [B, ...] at every one, or [T, B, ...] over time."""
    if isinstance(snn, Graph):
        if len(snn.outputs) != 1:
            message = f"graph {snn.name} has {len(snn.outputs)} outputs, accuracy needs one"
            raise InvalidModelError(message, hint="make a graph of the output with classes only")
        if not snn.is_spiking:
            (out,) = in_ann_units(snn, [run(snn, x.mean(0) if over_time else x)])
            yield from (out for _ in range(timesteps))
            return
        with torch.no_grad(), tensor_cache():
            for (out,) in outputs_over_time(snn, [x], None if over_time else timesteps):
                yield out * tensor(snn.type(snn.outputs[0]).scale, out)
        return
    if isinstance(snn, RunsOverTime):
        yield from torch.from_numpy(snn.over_time(x, timesteps) * snn.output_scale)
        return
    reset = getattr(snn, "reset", None)
    if not isinstance(snn, nn.Module) or not callable(reset):
        raise InvalidModelError(
            f"a {type(snn).__name__} is neither a Graph nor a spiking module with reset()",
            hint="give what compile(..., target='spikingjelly') returned",
        )
    like = next((t for t in (*snn.parameters(), *snn.buffers())), x)
    x = x.to(like.device, like.dtype)
    reset()
    with torch.no_grad():
        for t in range(timesteps):
            yield snn(x[t] if over_time else x)
    reset()
