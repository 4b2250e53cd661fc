"""Runs a spiking graph layer after layer, each over all of T, so that a layer can be tuned once those before it are."""

import functools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeVar

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.extend.beginnings import Beginnings
from spikec.extend.given import Given
from spikec.extend.passbase import NO_SAMPLES, Context
from spikec.interpreter.interp import run
from spikec.interpreter.results import BATCH
from spikec.interpreter.several import as_one, summed
from spikec.ir.errors import CompileError
from spikec.ir.graph import Graph
from spikec.ir.op import StatefulOp, tensor_cache
from spikec.ir.ops import Neuron, Relu
from spikec.ir.origin import label
from spikec.ir.progress import track
from spikec.ir.rewrite import neurons_by_relu
from spikec.ir.types import Array

T = TypeVar("T")

#: steps of single neurons up to which a sweep keeps for others what it found at a layer: a byte each, four behind it
SHARED = 2**25


class Sweep:
    """Iterates over a graph's neurons in order; those before the one that is given out are settled.

    What the caller changes between two neurons (biases, thresholds, potentials in front of or at the given one) counts
    from there on. Behind a layer only its spikes are held, as bytes: of several neurons for one value how many of them
    fire, as these are run as one where they are evenly apart. What a layer is given is computed once for as long as
    nothing in front of it changes, and held as far as it fits.

    Args:
        graph: a spiking graph without recurrence.
        xs: constant inputs [N, ...].
        timesteps: T.
        begun: knows what other sweeps of the same samples found at their first neurons, and is told what this one does.
    """

    def __init__(self, graph: Graph, xs: Sequence[Tensor], timesteps: int, begun: Beginnings | None = None) -> None:
        if any(node.op.register for node in graph.match(StatefulOp)):
            raise CompileError(
                "a recurrent graph has no layers to go through one after the other",
                hint="leave out the passes that tune layer by layer: Pipeline.without(...)",
            )
        self.graph, self.timesteps, self.samples = graph, timesteps, len(xs[0])
        self.feeds = dict(zip(graph.inputs, xs, strict=True))
        # inputs, and spikes as bytes, for a few samples each: [T, n, ...], or [1, n, ...] for what does not change
        parts = zip(*(torch.split(x[None], max(1, BATCH // timesteps), dim=1) for x in xs), strict=True)
        self._settled = [dict(zip(graph.inputs, part, strict=True)) for part in parts]
        self._given: Given | None = None
        self._begun = begun
        self._sums = summed(graph)
        self._total = {name: total for total, neurons in self._sums.items() for name in neurons}
        self._fires = {self.signal(node.name) for node in graph.match(Neuron)}
        self._depth: dict[str, int] = {}  # the most layers in a row in front of a node
        for name in graph:
            self._depth[name] = max((self._depth[x] + (x in self._fires) for x in graph.operands(name)), default=0)

    def __iter__(self) -> Iterator[str]:
        neurons = [node.name for node in self.graph.match(Neuron)]
        sources: dict[str, set[str]] = {}  # the layers whose spikes reach a node without passing another one
        for name in self.graph:
            operands = self.graph.operands(name)
            sources[name] = set().union(*({x} if x in self._fires else sources[x] for x in operands))
        last = {self.signal(name): name for name in neurons}
        for i, name in enumerate(neurons):
            yield name
            signal = self.signal(name)
            if name != last[signal]:
                continue  # until all of them are as they are to be
            later = {source for each in (*neurons[i + 1 :], *self.graph.outputs) for source in sources[each]}
            for settled, spikes in zip(self._settled, self._spikes(signal), strict=True):
                settled[signal] = spikes
                for gone in settled.keys() - later - self.feeds.keys():
                    del settled[gone]
        self._given = None

    def signal(self, neuron: str) -> str:
        """Return the sum that alone reads a neuron and others with its current, or the neuron."""
        return self._total.get(neuron, neuron)

    def counts(self, name: str) -> Tensor:
        """Return how often, over the samples, each neuron of a layer fires at each step, [T, ...], as its ops are.

        Args:
            name: of the layer, or of the sum of several.
        """
        return self._once("counts", name, 0, lambda: self._counted(name))

    def _counted(self, name: str) -> Tensor:
        dtype, total = next(iter(self.feeds.values())).dtype, torch.zeros(0)
        for spikes in self._run(name):
            if not len(total):
                total = torch.zeros_like(spikes[:, 0], dtype=dtype)
            for count, step in zip(total, spikes, strict=True):
                for each in step:  # step by step and sample by sample it stays in the cache
                    count.add_(each)
        return total

    def spikes(self, name: str) -> Tensor:
        """Return the spikes of a layer, or of the sum of several, [T, N, ...] as bytes, with the ops as they are."""
        return torch.cat(list(self._spikes(name)), 1)

    def _spikes(self, name: str) -> Iterable[Tensor]:
        """Return the spikes of a layer as bytes, [T, n, ...] for a few samples each, with the ops as they are.

        Those that no other sweep may ask for are made one by one, so that what is in front of the layer can be let go
        of in between.
        """
        made = self._run(name)
        return self._once("spikes", name, 0, lambda: list(made)) if self._is_shared(name, 0) else made

    def outputs(self) -> list[Tensor]:
        """Return what the graph puts out at each step, [T, N, ...] an output, once all neurons are settled."""
        found = (torch.cat(list(self.values(name)), 1) for name in self.graph.outputs)
        return [x.expand(self.timesteps, *x.shape[1:]) for x in found]

    def values(self, name: str) -> Iterator[Tensor]:
        """Yield what a node gives, [T, n, ...], or [1, n, ...] where it is the same at each step, for a few samples."""
        given = self._given_by(name)
        for part in range(len(self._settled)):
            with torch.no_grad(), tensor_cache():
                value = given.whole(part)
            yield value

    def _run(self, name: str) -> Iterator[Tensor]:
        """Run a layer with the ops as they are; yield its spikes, bytes [T, n, ...], for a few samples each."""
        neurons = self._sums.get(name, (name,))
        one = as_one(self.graph, name) if name in self._sums else None
        ops = [one] if one is not None else [self.graph.get(each, Neuron) for each in neurons]
        given = self._given_by(self.graph.operands(neurons[0])[0])
        for part in range(len(self._settled)):
            with torch.no_grad(), tensor_cache():
                spikes = _fired(ops, given.steps(part))
            yield spikes

    def _given_by(self, name: str) -> Given:
        """Return what a node gives, which is computed once for as long as the ops in between stay the same."""
        shared = self._is_shared(name, 1)
        known = self._once("values", name, 1, list[Tensor]) if shared else []
        given = Given(self.graph, name, self._settled, self.timesteps, known)
        if shared or self._given is None or (self._given.name, self._given.ops) != (name, given.ops):
            self._given = given
        return self._given

    def _once(self, what: str, name: str, depth: int, make: Callable[[], T]) -> T:
        """Make something of a node, unless another sweep has."""
        if self._begun is None or not self._is_shared(name, depth):
            return make()
        return self._begun.once((what, name, self.timesteps, self.samples), self.graph, name, make)

    def _is_shared(self, name: str, depth: int) -> bool:
        """Whether other sweeps may ask for it too: it has at most so many layers in a row before it, and is small."""
        if self._begun is None or self._depth.get(name, depth + 1) > depth:
            return False
        return math.prod(self.graph.type(name).shape) * self.timesteps * self.samples <= SHARED


def _fired(ops: Sequence[Neuron], given: Iterable[Tensor]) -> Tensor:
    """Run neurons of one current, given for a few steps after the other; return how many fire, bytes [T, n, ...]."""
    states: list[Tensor] = []
    found = []
    for current in given:
        states = states or [op.initial(current[0]) for op in ops]
        ran = [op.steps(state, current) for op, state in zip(ops, states, strict=True)]
        states = [state for state, _ in ran]
        found.append(functools.reduce(Tensor.add_, (spikes for _, spikes in ran)).to(torch.uint8))
    return torch.cat(found)


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

    def missing(self) -> Array:
        """Return what the layer as it is now lacks of the ReLU over all steps, summed up, on average over samples."""
        return functools.reduce(np.add, self._shortfalls())

    def shortfall(self) -> Array:
        """Return what the layer as it is now lacks of the ReLU at each step, [T, ...], in ANN units, on average."""
        return np.stack(list(self._shortfalls()))

    def _shortfalls(self) -> Iterator[Array]:
        counts, samples = [self.sweep.counts(name) for name in self._signals], self.sweep.samples
        for step in zip(*counts, strict=True):
            yield np.asarray(self.wanted - self._decoded(step) / samples)

    def values(self) -> Array:
        """Return what the spikes of all steps stand for, [N, ...], in ANN units."""
        totals = (self.sweep.spikes(name).sum(0, dtype=torch.int32) for name in self._signals)
        return self._decoded(totals) / self.sweep.timesteps

    @property
    def _signals(self) -> Sequence[str]:
        """The sum of the layer's neurons, or all of them where the sweep runs them one by one."""
        return list(dict.fromkeys(map(self.sweep.signal, self.neurons)))

    def _decoded(self, counts: Iterable[Tensor]) -> Array:
        """Return what counts of spikes of its signals stand for, summed over them."""
        scales = (self.sweep.graph.type(name).scale for name in self._signals)
        return np.asarray(sum(count.double().numpy() * scale for count, scale in zip(counts, scales, strict=True)))

    def activations(self) -> Array:
        """Return the ReLU's values, [N, ...]."""
        return activations(self.ann, self.name, tuple(self.sweep.feeds.values()))


def activations(ann: Graph, name: str, samples: Sequence[Tensor]) -> Array:
    """Return what a node of an ANN gives for samples, [N, ...]."""
    found: list[Tensor] = []
    for batch in zip(*(torch.split(x, BATCH) for x in samples), strict=True):
        run(ann, batch, tap=lambda _, value, *__: found.append(value), nodes=(name,))
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
    found, ann = tunable(graph, context), context.ann
    own = context.tuning_samples(graph)
    fed = samples or own
    if ann is None or not fed:
        context.note("", NO_SAMPLES)
        return
    key = ("means", ann, len(fed[0]), *found)
    wanted = _means(ann, found, samples) if samples else dict(context.once(key, lambda: _means(ann, found, own)))
    relus = {name: relu for relu, neurons in found.items() for name in neurons}
    sweep = Sweep(graph, fed, context.steps, None if samples else context.begun)
    count = len(list(graph.match(Neuron)))
    for name in track(sweep, "layers", count, current=lambda name: label(graph[name].origin) or name):
        relu = relus.get(name)
        if relu in wanted:
            yield Layer(relu, found[relu], wanted.pop(relu), sweep, ann)
    if not samples:
        context.ran_over_time(graph, sweep.outputs())


def _means(ann: Graph, names: Collection[str], samples: Sequence[Tensor]) -> dict[str, Array]:
    sums: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor, *_: object) -> None:
        total = value.sum(0, dtype=torch.float64)
        sums[name] = sums[name] + total if name in sums else total

    for batch in zip(*(torch.split(x, BATCH) for x in samples), strict=True):
        run(ann, batch, tap=tap, nodes=names)
    return {name: np.asarray(total.numpy()) / len(samples[0]) for name, total in sums.items()}
