"""A netx network as a graph: what a file computes, in ops that every pass and target knows."""

import math
from typing import Any

import attrs
import numpy as np
import torch
from torch.nn import functional as F

from spikec.backends.netx.contents import Contents
from spikec.backends.netx.sim import UNITY, IntegerLayer, run_layer
from spikec.ir.errors import Problem, UnsupportedOpError
from spikec.ir.graph import Graph
from spikec.ir.ops import (
    IF,
    LIF,
    Add,
    Conv,
    CubaLIF,
    Delay,
    Flatten,
    Input,
    Linear,
    LoihiNeuron,
    Neuron,
    Output,
    Reshape,
)
from spikec.ir.ops.neuron_loihi import GRAIN
from spikec.ir.ops.weighted import block_diagonal, pointwise
from spikec.ir.origin import Source
from spikec.ir.types import Array, Rate, Type, compress

#: steps for which relays are looked at, where the network does not say how many it is for
_STEPS = 64
#: the smallest step of a voltage, in units of weights
_TICK = 1 / 64


def graph_of(contents: Contents, rounded: bool = False) -> Graph:
    """Return the network as a spiking graph of integers: weights, biases and thresholds in the file's units.

    Run in float64 it gives the simulation's spikes, one for one, as long as nothing wraps or saturates. Only where a
    decay is neither none nor all (0 and 4096), netx rounds towards zero at every step, and the graph only if
    ``rounded``: then such neurons are LoihiNeurons, which the target ``netx`` alone takes.

    The encoder is an IF, and a layer is a Linear or Conv with neurons behind it: an IF that is reset by subtraction
    where neurons inhibit themselves by their threshold, else one with hard reset; a LIF where the voltage decays, a
    CubaLIF where the current does too. Other recurrent weights read the spikes through a Delay. What always-on inputs
    and relays do is in biases and initial potentials.

    Args:
        contents: of the file.
        rounded: round where netx does.

    Raises:
        UnsupportedOpError: the file has something that the graph has not; the problem names its layer.
    """
    graph = Graph(contents.name)
    last = _inputs(graph, contents)
    shape = contents.fed_shape
    on = contents.constants, contents.pulses
    for layer in contents.layers:
        part = _Layer(layer, shape, on, contents.timesteps or _STEPS, rounded)
        if layer is contents.layers[-1]:
            last = part.put_last(graph, last, contents)
        else:
            last = part.put(graph, last)
        shape, on = part.shape, part.relayed
    if graph.type(last).shape != contents.output_shape:
        last = graph.add(Reshape(contents.output_shape), last)
    graph.add(Output(), last, name="y")
    return graph


def _inputs(graph: Graph, contents: Contents) -> str:
    """Add the input and the host's encoder; return the node whose spikes the first layer reads."""
    encoder = contents.encoder
    last = graph.add(Input(contents.fed_shape if encoder is None else encoder.shape, "float64", rate=True), name="x")
    if encoder is not None:
        rank = len(encoder.shape)
        if encoder.signed:
            signs = np.tile([1.0, -1.0], encoder.shape[0])
            last = graph.add(pointwise(signs[:, None], None, rank, encoder.shape[0]), last, name="x_split")
        neuron = IF(np.full((1,) * rank, encoder.threshold), v_init=np.asarray(encoder.v_init))
        last = graph.add(neuron, last, name="x_spikes")
    if graph.type(last).shape != contents.fed_shape:
        last = graph.add(Reshape(contents.fed_shape), last)
    return last


class _Layer:
    """One layer on its way into the graph, without its relays and what they feed.

    Args:
        layer: of the file.
        before: the shape of the spikes that it reads, without those that are always on.
        on: how many channels behind them are on: (at every step, at step 0 only).
        steps: the T for which relays must do as they are said to.
        rounded: whether decays round as in netx.
    """

    def __init__(
        self, layer: IntegerLayer, before: tuple[int, ...], on: tuple[int, int], steps: int, rounded: bool
    ) -> None:
        self.layer, self.before, self.steps, self.rounded = layer, before, steps, rounded
        self.neurons = layer.shape[0] - layer.relays
        self.shape = (self.neurons, *layer.shape[1:])
        self.rank = len(self.shape)
        self.groups = 1 if any(on) else layer.groups
        self.weight = layer.weight if self.groups == layer.groups else block_diagonal(layer.weight, layer.groups)
        if layer.kind == "conv":
            self.read, self.on, self.cells = before[0], on, before[1:]
        else:
            self.read, self.cells = math.prod(before), ()
            self.on = on[0] * math.prod(before[1:]), on[1] * math.prod(before[1:])
        #: how many channels its relays keep on, as ``on``
        self.relayed = self._relayed() if layer.relays else (0, 0)
        behind = self.read + self.on[0]
        self.constant = self._given(self.weight[: self.neurons, self.read : behind])
        self.start = self._given(self.weight[: self.neurons, behind:])
        self.shift = self._features(0 if layer.bias is None else UNITY * layer.bias)
        square = np.zeros((1, 1)) if layer.weight_rec is None else layer.weight_rec[: self.neurons, : self.neurons]
        self.rec = square.astype(np.float64)
        self.leak, self.leak_syn = self._features(layer.voltage_decay), self._features(layer.current_decay)

    def _refusal(self, message: str, hint: str = "") -> UnsupportedOpError:
        return UnsupportedOpError(Problem(message, self.layer.name, f"netx {self.layer.kind}", hint))

    def _features(self, values: int | Array) -> Array:
        """Return 1/4096 of one value, or of one a feature, laid along the first axis of a sample without relays."""
        found = np.asarray(values, dtype=np.float64) / UNITY
        return (found if found.ndim == 0 else found[: self.neurons]).reshape(-1, *(1,) * (self.rank - 1))

    def _given(self, weight: Array) -> Array:
        """Return what channels that are on give to each neuron at a step: [C, 1 or H, 1 or W], or [O]."""
        if not weight.size:
            return np.zeros((1,) * self.rank)
        if self.layer.kind != "conv":
            return np.asarray(weight.sum(1), dtype=np.float64)
        x, kernel = (
            torch.ones(1, weight.shape[1], *self.cells, dtype=torch.float64),
            torch.tensor(weight, dtype=torch.float64),
        )
        geometry = self.layer.stride, self.layer.padding, self.layer.dilation
        summed: Array = F.conv2d(x, kernel, None, *geometry)[0].numpy()
        return summed.reshape(*summed.shape[:1], -1)[:, :1, None] if _even(summed) else summed

    def _relayed(self) -> tuple[int, int]:
        """Return how many relays repeat what is always on, and how many behind those what is on at step 0.

        Raises:
            UnsupportedOpError: they do something else, which would not fold into biases and potentials.
        """
        own, layer, rec = slice(self.neurons, None), self.layer, self.layer.weight_rec
        apart = self.weight[own, : self.read].any() or (layer.bias is not None and layer.bias[own].any())
        if rec is not None:
            apart = apart or rec[own, : self.neurons].any() or rec[: self.neurons, own].any()
        alone: IntegerLayer = attrs.evolve(
            layer,
            shape=(layer.relays, *layer.shape[1:]),
            weight=self.weight[own, self.read :],
            weight_rec=None if rec is None else rec[own, own],
            bias=None,
            groups=1,
            current_decay=_part(layer.current_decay, own),
            voltage_decay=_part(layer.voltage_decay, own),
        )
        fed = np.ones((self.steps, 1, sum(self.on), *self.cells), dtype=bool)
        fed[1:, :, self.on[0] :] = False
        found = run_layer(alone, fed).spikes if sum(self.on) else np.zeros((1, 1, *alone.shape), dtype=bool)
        always = int(found[-1, 0].reshape(layer.relays, -1).all(1).sum()) if self.on[0] else 0
        wanted = np.ones_like(found)
        wanted[1:, :, always:] = False
        if apart or not np.array_equal(found, wanted):
            raise self._refusal("its relays do not repeat the inputs that are always on")
        return always, layer.relays - always

    @property
    def subtracts(self) -> bool:
        """Whether its neurons inhibit themselves by one amount, and their current is their potential: soft reset."""
        amount = -self.rec[0, 0]
        keeps = not self.leak_syn.any() and bool((self.leak == 1).all())
        return keeps and amount > 0 and np.array_equal(self.rec, -amount * np.eye(self.neurons))

    @property
    def neuron(self) -> Neuron:
        """The layer's neurons."""
        layer = self.layer
        if (
            self.subtracts
        ):  # the current starts at 0 where the potential starts at v_init, and a bias of the voltage stays
            start = -self.rec[0, 0] - layer.threshold - 1 + self.start + self.shift
            return IF(self._full(-self.rec[0, 0]), v_init=compress(start))
        start = compress(self.start)
        leak, leak_syn, forgets = self.leak, self.leak_syn, bool((self.leak_syn == 1).all())
        if forgets and not leak.any():
            return IF(self._full(layer.threshold + 1), v_reset=np.zeros(()), v_init=start)
        fixed: dict[str, Any] = {"v_reset": np.zeros(()), "strict": True}
        fixed["v_threshold"] = self._full(max(layer.threshold, _TICK))
        if start.any() and ((leak == 1).any() or not forgets):
            raise self._refusal("a pulse charges neurons whose current stays, or whose voltage does not")
        if self.rounded and any(((each > 0) & (each < 1)).any() for each in (leak, leak_syn)):
            # half a grain lets a start be what it is, and no less, once it has leaked and been rounded
            fixed["v_init"] = (start + GRAIN / 2) / (1 - leak) if start.any() else start
            fixed |= {"bias": compress(self.shift), "grain": np.asarray(GRAIN)}
            return LoihiNeuron(**fixed, decay_syn=compress(1 - leak_syn), decay=compress(1 - leak))
        if forgets and leak.all():
            fixed["v_init"] = start / (1 - leak) if start.any() else start  # it leaks before the first step's input
            return LIF(**fixed, tau=compress(1 / leak), gain=np.ones(()))
        if (self.shift * (leak == 0)).any():
            raise self._refusal("a bias of neurons whose current decays, and whose voltage does not")
        fixed["v_leak"] = compress(self.shift / np.where(leak == 0, 1, leak))
        return CubaLIF(**fixed, decay_syn=compress(1 - leak_syn), decay=compress(1 - leak))

    def _full(self, value: float) -> Array:
        return np.full((1,) * self.rank, float(value))

    def put(self, graph: Graph, last: str, out_scale: Array | None = None) -> str:
        """Add weights and neurons; return the neurons' name."""
        neuron = self.neuron
        rate = Rate(neuron.v_threshold if out_scale is None else out_scale)
        into_voltage = self.subtracts or isinstance(neuron, (CubaLIF, LoihiNeuron))  # there the bias is the neurons'
        current = self._weights(graph, last, self.constant if into_voltage else self.constant + self.shift)
        op = attrs.evolve(neuron, out_scale=out_scale, origin=self._origin)
        if not self.rec.any() or self.subtracts:
            return graph.add(op, current, name=self.layer.name)
        delay = graph.add(Delay(Type(self.shape, "float64", rate)), name=f"{self.layer.name}_before")
        rec = pointwise(self.rec, None, self.rank, in_scale=rate.scale.reshape(-1), origin=self._origin)
        back = graph.add(rec, delay, name=f"{self.layer.name}_rec")
        spikes = graph.add(op, graph.add(Add(), current, back), name=self.layer.name)
        graph.set_operands(delay, spikes)
        return spikes

    def put_last(self, graph: Graph, last: str, contents: Contents) -> str:
        """Add the layer that is read; return the node of its output."""
        scale = np.broadcast_to(contents.output_scale, contents.output_shape).reshape(self.shape)
        if self.layer.fires:
            return self.put(graph, last, out_scale=compress(scale))
        if (self.leak_syn != 1).any() or self.leak.any() or self.rec.any():
            raise self._refusal("an output that never fires, and whose current or voltage decays")
        if self.rank > 1 and not _even(scale):
            raise self._refusal("an output_scale that differs within a channel")
        out_scale = scale if self.rank == 1 else scale.reshape(self.neurons, -1)[:, 0]
        return self._weights(graph, last, self.constant + self.shift, out_scale=out_scale)

    def _weights(self, graph: Graph, last: str, bias: Array, **scales: Array) -> str:
        """Add the Linear or Conv."""
        layer = self.layer
        if bias.size > self.neurons:
            raise self._refusal("inputs that are always on give a bias that differs within a channel")
        shift = np.broadcast_to(bias.reshape(-1), (self.neurons,)) if bias.any() else None
        weight = self.weight[: self.neurons, : self.read].astype(np.float64)
        name = f"{layer.name}_weights"
        if layer.kind != "conv" and len(graph.type(last).shape) > 1:
            last = graph.add(Flatten(), last)
        scales["in_scale"] = graph.type(last).flat_scale
        if layer.kind != "conv":
            return graph.add(Linear(weight, shift, origin=self._origin, **scales), last, name=name)
        geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        conv = Conv(weight, shift, groups=self.groups, origin=self._origin, **geometry, **scales)
        return graph.add(conv, last, name=name)

    @property
    def _origin(self) -> tuple[Source, ...]:
        return (Source(self.layer.name, self.layer.name, f"netx {self.layer.kind}"),)


def _part(values: int | Array, some: slice) -> int | Array:
    return values if isinstance(values, int) else values[some]


def _even(values: Array) -> bool:
    """Whether no channel's values differ within it."""
    rows = values.reshape(len(values), -1)
    return bool((rows == rows[:, :1]).all())
