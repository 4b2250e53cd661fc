"""An output's average counts later steps more, where a deep network takes some to settle."""

from collections.abc import Iterable, Iterator, Sequence

import attrs
import torch
from torch import Tensor

from spikec.extend.passbase import NO_SAMPLES, Context, Pass, number, rounds, telling
from spikec.interpreter.interp import run
from spikec.interpreter.results import agreement_text, as_tuple, in_ann_units, nearness
from spikec.interpreter.several import with_one_for_each
from spikec.ir.graph import Graph
from spikec.ir.ops import Output, RecentMean
from spikec.ir.stages import SPIKING

#: samples that run at a time, whose outputs of all steps are held
_AT_ONCE = 32


@attrs.frozen
class WeighReadout(Pass):
    """A :class:`spikec.ir.ops.RecentMean` before each output, of the power that brings answers nearest to the ANN.

    The network is run once, unless a sweep has just done so; its neurons stay as they are, and so does what the mean
    over all steps stands for. The power of the least error is taken, of those that leave as many samples with the ANN's
    answer as the plain mean does, which counts only where there are enough of them to tell; but only if its error is
    clearly less, as a weighed average is of fewer steps, and so coarser on other samples.

    Attributes:
        powers: to choose from, besides 0, the plain mean.
        gain: by which share of the plain mean's error the error must be less.
        samples: how many calibration samples it is chosen on, if there are more.
    """

    name = "weigh-readout"
    contract = "tuned"
    needs = (SPIKING,)

    powers: tuple[float, ...] = attrs.field(
        default=(1.0, 2.0, 3.0, 5.0, 7.0), validator=attrs.validators.deep_iterable(number(0, 64))
    )
    gain: float = attrs.field(default=0.1, validator=number(0, 1))
    samples: int = attrs.field(default=64, validator=rounds())

    @property
    def most_samples(self) -> int:
        """How many samples it asks for."""
        return self.samples

    def run(self, graph: Graph, context: Context) -> int:
        """Put the op before every output, unless the plain mean is the nearest."""
        samples = context.tuning_samples(graph)
        if not samples:
            context.note("", NO_SAMPLES)
            return 0
        if graph.match(RecentMean):
            context.note("", "the outputs are weighed already")
            return 0
        found = _answers(graph, _over_time(graph, samples, context), (0.0, *self.powers))
        plain = context.ran(graph, found[0.0])
        wanted = context.wanted(samples)
        reached = {power: nearness(wanted, outputs) for power, outputs in found.items()}
        told = {power: telling(each, len(samples[0])) for power, each in reached.items()}
        best = max((power for power in told if told[power][0] >= told[0.0][0]), key=lambda power: told[power][1])
        context.note("", f"the plain mean: {agreement_text(plain)}")
        if best > 0:
            context.note("", f"weights that grow like t^{best:g}: {agreement_text(reached[best])}")
        if best == 0 or reached[best][1] < (1 - self.gain) * plain[1]:  # errors are negative
            return 0
        outputs = [node.name for node in graph.match(Output)]
        for name in outputs:
            graph.insert_before(name, 0, RecentMean(best), new=f"{name}_mean")
        context.ran(graph, found[best])
        return len(outputs)


def _over_time(graph: Graph, samples: Sequence[Tensor], context: Context) -> Iterator[tuple[Tensor, ...]]:
    """Yield what the outputs say at each step, [T, n, ...], for a few samples after the other."""
    if known := context.over_time(graph):
        yield from zip(*(torch.split(x, _AT_ONCE, dim=1) for x in known), strict=True)
        return
    together = with_one_for_each(graph)
    for batch in zip(*(torch.split(x, _AT_ONCE) for x in samples), strict=True):
        yield as_tuple(run(together, batch, context.steps))


def _answers(
    graph: Graph, over_time: Iterable[tuple[Tensor, ...]], powers: Sequence[float]
) -> dict[float, list[Tensor]]:
    """What the outputs say after T steps by each power, in ANN units and behind their heads."""
    parts: dict[float, list[list[Tensor]]] = {power: [] for power in powers}
    for steps in over_time:
        for power in powers:
            parts[power].append(in_ann_units(graph, [_average(each, power) for each in steps]))
    return {power: [torch.cat(each) for each in zip(*found, strict=True)] for power, found in parts.items()}


def _average(steps: Tensor, power: float) -> Tensor:
    """[B, ...]: what a RecentMean says after all steps, [T, B, ...]."""
    op = RecentMean(power)
    return op.steps(op.initial(steps[0]), steps)[1].mean(0)
