"""Runs a spiking graph layer after layer, each over all of T, so that a layer can be tuned once those before it are."""

from collections.abc import Callable, Collection, Iterator, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.extend.passbase import NO_SAMPLES, Context
from spikec.interpreter.interp import in_time, one_step, run
from spikec.interpreter.results import BATCH
from spikec.ir.errors import CompileError
from spikec.ir.graph import Graph
from spikec.ir.op import Op, StatefulOp, tensor_cache
from spikec.ir.ops import Neuron, Relu
from spikec.ir.rewrite import neurons_by_relu
from spikec.ir.types import Array


class Sweep:
    """Iterates over a graph's neurons in order; those before the one that is given out are settled.

    What the caller changes between two neurons (biases, thresholds, potentials in front of or at the given one) counts
    from there on. Linear ops between neurons are evaluated again for every step; only spikes are held.

    Args:
        graph: a spiking graph without recurrence.
        xs: constant inputs [N, ...].
        timesteps: T.
    """

    def __init__(self, graph: Graph, xs: Sequence[Tensor], timesteps: int) -> None:
        if any(node.op.register for node in graph.match(StatefulOp)):
            raise CompileError(
                "a recurrent graph has no layers to go through one after the other",
                hint="leave out the passes that tune layer by layer: Pipeline.without(...)",
            )
        self.graph, self.timesteps, self.samples = graph, timesteps, len(xs[0])
        self.feeds = dict(zip(graph.inputs, xs, strict=True))
        self._settled: dict[str, Tensor] = {}
        self._ran: tuple[str, tuple[Op, ...], Tensor, Tensor] | None = None

    def __iter__(self) -> Iterator[str]:
        neurons = [node.name for node in self.graph.match(Neuron)]
        sources: dict[str, set[str]] = {}  # the neurons whose spikes reach a node without passing another one
        for name in self.graph:
            operands = self.graph.operands(name)
            sources[name] = set().union(*({x} if isinstance(self.graph[x], Neuron) else sources[x] for x in operands))
        for i, name in enumerate(neurons):
            yield name
            later = {source for each in neurons[i + 1 :] for source in sources[each]}
            if name in later:
                self._settled[name] = self.spikes(name)
            self._settled = {source: train for source, train in self._settled.items() if source in later}
        self._ran = None

    def counts(self, name: str) -> Tensor:
        """Return for how many samples each neuron of a layer fires at each step, [T, ...], with the ops as they are."""
        return self._run(name)[1]

    def spikes(self, name: str) -> Tensor:
        """Return the spikes of a layer, [T, N, ...] as bytes, with the ops as they are."""
        return self._run(name)[0]

    def _run(self, name: str) -> tuple[Tensor, Tensor]:
        """Run a layer: return its spikes [T, N, ...] as bytes, and their sums over the samples [T, ...]."""
        between = self._between(name)
        ops = tuple(self.graph[each] for each in between)
        if self._ran is not None and self._ran[0] == name and list(map(id, self._ran[1])) == list(map(id, ops)):
            return self._ran[2:]
        moving = in_time(self.graph, between, self._settled)
        dtype = next(iter(self.feeds.values())).dtype
        values: dict[str, Tensor] = {}
        states: dict[str, Tensor] = {}
        trains: list[Tensor] = []
        sums: list[Tensor] = []
        with torch.no_grad(), tensor_cache():
            for t in range(self.timesteps):
                values |= {source: train[t].to(dtype) for source, train in self._settled.items()}
                one_step(self.graph, between if t == 0 else moving, values, self.feeds, states)
                trains.append(values[name].to(torch.uint8))
                sums.append(values[name].sum(0))
        self._ran = (name, ops, torch.stack(trains), torch.stack(sums))
        return self._ran[2:]

    def _between(self, name: str) -> list[str]:
        """What must be evaluated for a neuron, itself included, in order."""
        wanted = {name}
        for each in reversed(list(self.graph)):
            if each in wanted:
                wanted.update(x for x in self.graph.operands(each) if x not in self._settled)
        return [each for each in self.graph if each in wanted]


@attrs.frozen
class Layer:
    """A layer of neurons whose rates are to be a ReLU's values.

    Attributes:
        name: the ReLU's.
        neurons: the layer's, one for each value of the ReLU, or several whose sum it is.
        wanted: the ReLU's mean over the samples, of the sample's shape.
        sweep: has settled everything in front of the layer.
        ann: the graph that has the ReLU.
    """

    name: str
    neurons: tuple[str, ...]
    wanted: Array
    sweep: Sweep
    ann: Graph

    @property
    def signal(self) -> str:
        """The node that gives what stands for the ReLU's values: its only neuron, or the sum of several."""
        return self.neurons[0] if len(self.neurons) == 1 else self.name

    def shortfall(self) -> Array:
        """Return what the layer as it is now lacks of the ReLU at each step, [T, ...], in ANN units, on average."""
        return np.asarray(self.wanted - self._decoded(self.sweep.counts) / self.sweep.samples)

    def values(self) -> Array:
        """Return what the spikes of all steps stand for, [N, ...], in ANN units."""
        return self._decoded(lambda name: self.sweep.spikes(name).sum(0, dtype=torch.int32)) / self.sweep.timesteps

    def _decoded(self, count: Callable[[str], Tensor]) -> Array:
        """Return what counts of spikes stand for, summed over the neurons of the layer."""
        parts = (count(name).double().numpy() * self.sweep.graph.type(name).scale for name in self.neurons)
        return np.asarray(sum(parts))

    def activations(self) -> Array:
        """Return the ReLU's values, [N, ...]."""
        found: list[Tensor] = []
        for batch in zip(*(torch.split(x, BATCH) for x in self.sweep.feeds.values()), strict=True):
            run(self.ann, batch, tap=lambda _, value, *__: found.append(value), nodes=(self.name,))
        return np.asarray(torch.cat(found).double().numpy())


def tunable(graph: Graph, context: Context) -> dict[str, tuple[str, ...]]:
    """The neurons that stand for each ReLU of the ANN.

    Not those that compare two signals: their rate is a difference, right on average only if it is let alone.
    """
    if context.ann is None:
        return {}
    found = neurons_by_relu(graph, context.ann)
    relus = [node.name for node in context.ann.match(Relu) if not node.op.compares]
    for relu in relus:
        if not found[relu] and relu not in graph:
            context.note(relu, "a pass renamed its neuron, and it is not told apart from others: it is not tuned")
    return {relu: found[relu] for relu in relus if found[relu]}


def layers(graph: Graph, context: Context, samples: Sequence[Tensor] = ()) -> Iterator[Layer]:
    """Yield every tunable layer once what is before it is settled; none where there are no samples, which is noted.

    Args:
        graph: which the caller may change in front of and at the layer that is given out.
        context: of the pass that runs.
        samples: to tune on; those of the context where none are given.
    """
    found, samples = tunable(graph, context), samples or context.tuning_samples(graph)
    if context.ann is None or not samples:
        context.note("", NO_SAMPLES)
        return
    wanted = _means(context.ann, found, samples)
    relus = {name: relu for relu, neurons in found.items() for name in neurons}
    sweep = Sweep(graph, samples, context.steps)
    for name in sweep:
        relu = relus.get(name)
        if relu in wanted:
            yield Layer(relu, found[relu], wanted.pop(relu), sweep, context.ann)


def _means(ann: Graph, names: Collection[str], samples: Sequence[Tensor]) -> dict[str, Array]:
    sums: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor, *_: object) -> None:
        total = value.sum(0, dtype=torch.float64)
        sums[name] = sums[name] + total if name in sums else total

    for batch in zip(*(torch.split(x, BATCH) for x in samples), strict=True):
        run(ann, batch, tap=tap, nodes=names)
    return {name: np.asarray(total.numpy()) / len(samples[0]) for name, total in sums.items()}
