"""Runs a spiking graph layer after layer, each over all of T, so that a layer can be tuned once those before it are."""

import functools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeVar

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.extend.beginnings import Beginnings
from spikec.extend.passbase import NO_SAMPLES, Context
from spikec.interpreter.interp import run
from spikec.interpreter.results import BATCH
from spikec.ir.errors import CompileError
from spikec.ir.graph import Graph
from spikec.ir.op import Op, StatefulOp, tensor_cache
from spikec.ir.ops import Neuron, Relu
from spikec.ir.origin import label
from spikec.ir.progress import track
from spikec.ir.rewrite import neurons_by_relu
from spikec.ir.types import Array

T = TypeVar("T")

#: steps of single neurons up to which a sweep keeps for others what it found at a layer: a byte each, four behind it
SHARED = 2**27


class Sweep:
    """Iterates over a graph's neurons in order; those before the one that is given out are settled.

    What the caller changes between two neurons (biases, thresholds, potentials in front of or at the given one) counts
    from there on. What a layer is given is computed once for as long as nothing in front of it changes; behind a layer,
    only its spikes are held, as bytes. Samples go through all steps a few at a time, so that they stay in the cache.

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
        self._given: tuple[list[tuple[str, Op]], str, list[Tensor]] | None = None
        self._begun = begun
        self._depth: dict[str, int] = {}  # the most neurons in a row in front of a node
        for name in graph:
            before = (self._depth[x] + isinstance(graph[x], Neuron) for x in graph.operands(name))
            self._depth[name] = max(before, default=0)

    def __iter__(self) -> Iterator[str]:
        neurons = [node.name for node in self.graph.match(Neuron)]
        sources: dict[str, set[str]] = {}  # the neurons whose spikes reach a node without passing another one
        for name in self.graph:
            operands = self.graph.operands(name)
            sources[name] = set().union(*({x} if isinstance(self.graph[x], Neuron) else sources[x] for x in operands))
        for i, name in enumerate(neurons):
            yield name
            later = {source for each in (*neurons[i + 1 :], *self.graph.outputs) for source in sources[each]}
            for settled, spikes in zip(self._settled, self._spikes(name), strict=True):
                settled[name] = spikes
                for gone in settled.keys() - later - self.feeds.keys():
                    del settled[gone]
        self._given = None

    def counts(self, name: str) -> Tensor:
        """Return for how many samples each neuron of a layer fires at each step, [T, ...], with the ops as they are."""
        return self._once("counts", name, 0, lambda: functools.reduce(torch.add, (x.sum(1) for x in self._run(name))))

    def spikes(self, name: str) -> Tensor:
        """Return the spikes of a layer, [T, N, ...] as bytes, with the ops as they are."""
        return torch.cat(list(self._spikes(name)), 1)

    def _spikes(self, name: str) -> Sequence[Tensor]:
        """Return the spikes of a layer as bytes, [T, n, ...] for a few samples each, with the ops as they are."""
        return self._once("spikes", name, 0, lambda: [spikes.to(torch.uint8) for spikes in self._run(name)])

    def outputs(self) -> list[Tensor]:
        """Return what the graph puts out at each step, [T, N, ...] an output, once all neurons are settled."""
        found = (torch.cat(self.values(name), 1) for name in self.graph.outputs)
        return [x.expand(self.timesteps, *x.shape[1:]) for x in found]

    def _run(self, name: str) -> Iterator[Tensor]:
        """Run a layer with the ops as they are; yield its spikes, [T, n, ...], for a few samples after the other."""
        for given in self.values(self.graph.operands(name)[0]):
            with torch.no_grad(), tensor_cache():
                spikes = self._over_time(name, given)
            yield spikes

    def values(self, name: str) -> list[Tensor]:
        """Return what a node gives, [T, n, ...] or [1, n, ...] for a few samples each, as long as it stays the same."""
        between = self._between(name)
        ops = [(each, self.graph[each]) for each in between]
        if self._given is None or self._given[:2] != (ops, name):
            self._given = ops, name, self._once("values", name, 1, lambda: self._computed(name, between))
        return self._given[2]

    def _computed(self, name: str, between: Sequence[str]) -> list[Tensor]:
        with torch.no_grad(), tensor_cache():
            return [self._evaluated(name, between, settled) for settled in self._settled]

    def _once(self, what: str, name: str, depth: int, make: Callable[[], T]) -> T:
        """Make something of a node, unless another sweep has; it has at most so many neurons in a row before it."""
        if self._begun is None or self._depth.get(name, depth + 1) > depth:
            return make()
        if math.prod(self.graph.type(name).shape) * self.timesteps * self.samples > SHARED:
            return make()
        return self._begun.once((what, name, self.timesteps, self.samples), self.graph, name, make)

    def _evaluated(self, name: str, between: Sequence[str], settled: dict[str, Tensor]) -> Tensor:
        dtype = next(iter(self.feeds.values())).dtype
        read = {name, *(x for each in between for x in self.graph.operands(each))}
        values = {source: settled[source].to(dtype) for source in read & settled.keys()}
        own = {x for x in values if values[x] is not settled[x]} | {x for x in between if self.graph[x].fresh}
        for each in between:
            operands = self.graph.operands(each)
            over = len(operands) == 1 and operands[0] in own and len(self.graph.users(operands[0])) == 1
            values[each] = self._over_time(each, *(values[x] for x in operands), over=over)
        return values[name]

    def _over_time(self, name: str, *xs: Tensor, over: bool = False) -> Tensor:
        """Run an op for all steps: [T, n, ...], or [1, n, ...] where it gives the same at each; over its operand."""
        op = self.graph[name]
        steps = self.timesteps if isinstance(op, StatefulOp) else max(map(len, xs))
        xs = tuple(x.expand(steps, *x.shape[1:]) for x in xs)
        if isinstance(op, StatefulOp):
            return op.steps(op.initial(*(x[0] for x in xs)), *xs)[1]
        value: Tensor = self.graph.apply_rule(name, op.eval_over if over else op.eval, *(x.flatten(0, 1) for x in xs))
        return value.reshape(steps, -1, *value.shape[1:])

    def _between(self, name: str) -> list[str]:
        """What must be evaluated for a node, itself included, in order."""
        wanted = {name} - self._settled[0].keys()
        for each in reversed(list(self.graph)):
            if each in wanted:
                wanted.update(x for x in self.graph.operands(each) if x not in self._settled[0])
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
