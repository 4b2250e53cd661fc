"""What a graph puts out for a batch, in ANN units, and how far two such results are apart."""

from collections.abc import Iterable, Iterator, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.interpreter.interp import outputs_over_time, run
from spikec.ir.graph import Graph
from spikec.ir.op import Op, tensor, tensor_cache
from spikec.ir.ops import Output
from spikec.ir.progress import track

#: allowed difference of an exact pass, relative to the output's spread over the probe
EXACT = 1e-9
#: least spread over a batch, relative to the output's maximum, at which float64 still resolves the exact contract
SPREAD = 1e-6
#: by how much more rounding may move a result than weights do that are moved by what they may be rounded by
ROUNDING = 16
#: input values that an ANN graph is fed at a time, which bounds the memory of its activations
CELLS = 2**16
#: samples that run at a time where layers are tuned, and where agreement is measured
BATCH, JUDGED = 64, 32


def outputs(graph: Graph, xs: Sequence[Tensor], timesteps: int | None) -> list[Tensor]:
    """Return each output in ANN units, averaged over time in an SNN, behind its heads; inputs are as ``run`` takes."""
    if not graph.is_spiking:
        at_once = max(1, CELLS // max(x[0].numel() for x in xs))
        found = [as_tuple(run(graph, batch)) for batch in zip(*(torch.split(x, at_once) for x in xs), strict=True)]
        return in_ann_units(graph, [torch.cat(parts) for parts in zip(*found, strict=True)])
    total = RunningMean(graph)
    with torch.no_grad(), tensor_cache():
        count = len(xs[0]) if timesteps is None else timesteps
        for step in track(outputs_over_time(graph, xs, timesteps), "steps", count):
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


def difference(
    before: Sequence[Tensor], after: Sequence[Tensor], reference: Sequence[Tensor], least: Sequence[float] = ()
) -> float:
    """Return the largest difference of two graphs' outputs, relative to the spread of a third's (the ANN's).

    An output that hardly varies has its largest number in place of its spread, and none has less than its ``least``.
    """
    sizes = [spread(of) if varies(of) else float(of.abs().max()) for of in reference]
    floors = least or [1e-30] * len(sizes)
    return largest(distance(a, b) / max(s, f) for a, b, s, f in zip(before, after, sizes, floors, strict=True))


def distance(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of two elements."""
    return float((a - b).abs().max())


def differences(a: Tensor, b: Tensor) -> Tensor:
    """Return the largest difference within each sample: [B]."""
    return cells((a - b).abs()).amax(1)


def rounding(graph: Graph, xs: Sequence[Tensor], timesteps: int, got: Sequence[Tensor]) -> list[float]:
    """Return how far rounding may move each of a graph's outputs; where terms cancel, it is all that is left."""
    moved = outputs(moved_weights(graph, got[0].dtype), xs, timesteps)
    return [ROUNDING * distance(a, b) for a, b in zip(got, moved, strict=True)]


def moved_weights(graph: Graph, dtype: torch.dtype) -> Graph:
    """Return a copy whose weights and biases are off by four units in the last place of a dtype, as rounded ones."""
    copy, generator = graph.copy(), np.random.default_rng(0)
    for node in graph.match(Op):
        held = {field: value for field, value in node.op.parameters().items() if field in ("weight", "bias")}
        moved = {
            field: value * (1 + 4 * torch.finfo(dtype).eps * generator.choice((-1.0, 1.0), value.shape))
            for field, value in held.items()
            if isinstance(value, np.ndarray)
        }
        copy.set_op(node.name, attrs.evolve(node.op, **moved))
    return copy


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
    """Measure how near a graph is to the ANN on samples, as :func:`nearness` says."""
    return nearness(*(answers(each, samples, timesteps) for each in (ann, graph)))


def answers(graph: Graph, samples: Sequence[Tensor], timesteps: int) -> list[Tensor]:
    """Return what :func:`outputs` does, for some samples at a time, in float32."""
    return [torch.cat(parts) for parts in zip(*answers_by_batch(graph, samples, timesteps), strict=True)]


def answers_by_batch(graph: Graph, samples: Sequence[Tensor], timesteps: int) -> Iterator[list[Tensor]]:
    """Yield the parts of :func:`answers`, one batch of samples after the other."""
    batches = list(zip(*(torch.split(x.to(torch.float32), JUDGED) for x in samples), strict=True))
    for batch in track(batches, "batches of samples"):
        yield outputs(graph, batch, timesteps)


def nearness(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> tuple[float, float]:
    """Return (the share of samples with the same argmax, minus the mean error), over all outputs.

    Tuples compare, so that the error decides where the argmax does not.
    """
    same, error = 0, 0.0
    for a, b in zip(wanted, found, strict=True):
        same += hits(b, cells(a).argmax(1))
        error += float(cells((a - b).abs()).mean(1).sum(dtype=torch.float64))
    count = sum(map(len, wanted))
    return same / count, -error / count


def hits(output: Tensor, classes: Tensor) -> int:
    """Count the samples of an output, flattened, that have their largest value at these indices [B]."""
    return int((cells(output).argmax(1) == classes).sum())


def cells(output: Tensor) -> Tensor:
    """Return a batch of outputs of any shape, a single number a sample among them, as [B, cells]."""
    return output.reshape(len(output), -1)


def agreement_text(found: tuple[float, float]) -> str:
    """Write an agreement as notes and reports show it."""
    return f"{100 * found[0]:.4g} % answered as by the ANN, mean error of the outputs {-found[1]:.3g}"
