"""Branches, sums, concats and shortcuts become one chain of layers, because a netx file is one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass, rounds
from spikec.ir.affine import BlockedError
from spikec.ir.errors import UnsupportedOpError
from spikec.ir.graph import Graph, Node
from spikec.ir.loihi import UNROLLED
from spikec.ir.op import Op, Role, StatefulOp
from spikec.ir.ops import IF, Conv, Flatten, Linear, LoihiNeuron, Neuron, Reshape, Weighted
from spikec.ir.origin import Origin, merge
from spikec.ir.readings import Reader, Shape, UnreadableError, spikes_of
from spikec.ir.stages import FINAL
from spikec.ir.types import Array, compress
from spikec.ir.windows import Pair, Windows, box

_HINT = 'make it smaller (up to {} neurons are unrolled), or use the target "spikingjelly"'


@attrs.frozen
class LinearizeNetx(Pass):
    """A graph of layers becomes a chain of layers, whose neurons spike as before.

    - What a neuron integrates is a convolution of each signal that reaches it, and a sum of those (``W (x + y) =
      W x + W y``), or a matrix. So sums, concats and picks become weights over all channels of the layer before.
    - A signal that skips a layer is carried by relays in it: neurons of weight 1 and threshold 1, which give one spike
      for one. Past a stride, a relay carries every ``stride``-th cell, and there are as many as are read.
    - Layers are filled from the front: in each is what can be computed then and has the same map, the longest way to
      the output first. What has to wait is relayed.
    - Where there are no such convolutions, a layer of up to ``limit`` neurons is unrolled into a matrix over the
      flattened map, and those behind it.

    A chain stays as it is.

    Attributes:
        limit: the most neurons of a layer that is unrolled.
    """

    name = "linearize-netx"
    needs = (FINAL,)

    limit: int = attrs.field(default=UNROLLED, validator=rounds())

    def run(self, graph: Graph, context: Context) -> int:
        """Rewrite everything between the host's encoder and the output.

        Raises:
            UnsupportedOpError: a layer has no such form; the error names it.
        """
        start = _start(graph)
        if start is None:
            return 0
        flat = {node.name for node in graph.match(Neuron) if len(graph.type(node.name).shape) > 3}
        while True:
            try:
                layers = _Schedule(graph, start, flat, self.limit).layers()
                break
            except _UnfitError as why:
                if why.target in flat or math.prod(graph.type(why.target).shape) > self.limit:
                    message = f"it has no place in a netx file, one chain of layers: {why.reason}"
                    raise UnsupportedOpError(graph.problem(why.node, message, _HINT.format(self.limit))) from None
                flat.add(why.target)
        _Writer(graph, start).write(layers)
        relayed = sum(len(layer.before[source].scale) for layer in layers for source, _ in layer.relays.values())
        context.note("", f"one chain of {len(layers)} layers, in which {relayed} channels are relays")
        return len(layers)


class _UnfitError(Exception):
    """A target cannot be written as convolutions of the layer before it."""

    def __init__(self, target: str, node: str, reason: str) -> None:
        super().__init__(reason)
        self.target, self.node, self.reason = target, node, reason


@attrs.frozen(eq=False)
class _Wire:
    """A signal in the layer before: ``scale`` [C] of its spikes, and in which part (height, width) of it they are."""

    scale: Array
    size: Pair


@attrs.define(eq=False)
class _Target:
    """Neurons, or the output, and what they integrate.

    Attributes:
        name: of the node.
        shape: of its map.
        reads: by the name of a signal; in terms of the layer before once that has all of them.
        shift: [C], a bias.
        scale, spikes: [C], of the current and of the spikes.
        origin: what its weights stand for.
        kind: neurons of different kinds cannot share a layer.
    """

    name: str
    shape: Shape
    reads: dict[str, Windows]
    shift: Array
    scale: Array
    spikes: Array
    origin: Origin
    kind: object


@attrs.frozen(eq=False)
class _Layer:
    """One layer of the chain.

    Attributes:
        before: the signals that it is fed, in order.
        space: height and width of the map that it is fed.
        targets, relays: what it computes, in order; a relay by its name has the name of what it reads and the cell.
    """

    before: Mapping[str, _Wire]
    space: Pair
    targets: Sequence[_Target]
    relays: Mapping[str, tuple[str, Windows]]


def _start(graph: Graph) -> str | None:
    """Return the signal that the first layer is fed, if the graph is no chain, and of what this pass knows."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        return None
    (first,) = graph.inputs
    nodes = [node for node in graph.match(Op) if node.name != first]
    branches = any(len(graph.operands(node.name)) > 1 or len(graph.users(node.name)) > 1 for node in nodes)
    known = all(node.op.role is Role.IO or _is_known(graph, node) for node in nodes)
    return spikes_of(graph) if branches and known else None


def _is_known(graph: Graph, node: Node[Op]) -> bool:
    if isinstance(node.op, Neuron):
        return len(graph.operands(node.name)) == 1
    return node.op.role is Role.LINEAR and not isinstance(node.op, StatefulOp)


class _Schedule:
    """Says what each layer of the chain computes, and what it relays.

    Args:
        graph, start, flat: as of :class:`Reader`.
        limit: the most neurons that carry a map past a layer that is none.
    """

    def __init__(self, graph: Graph, start: str, flat: set[str], limit: int) -> None:
        self.graph, self.reader, self.limit = graph, Reader(graph, start, flat), limit
        names = [node.name for node in graph.match(Neuron) if node.name != start]
        self.waiting = [self._target(name) for name in (*names, *graph.outputs)]
        self.space = self.reader.shape(start)[1:]
        self.wires = {start: _Wire(self.reader.scale(start), self.space)}
        self.rest: dict[str, int] = {}  # the number of layers from a target to the output
        for each in reversed(self.waiting):
            self.rest[each.name] = 1 + max((self.rest[x.name] for x in self.waiting if each.name in x.reads), default=0)

    def layers(self) -> list[_Layer]:
        """Fill layer after layer."""
        found = []
        while self.waiting:
            found.append(self._next())
        return found

    def _target(self, name: str) -> _Target:
        (operand,) = self.graph.operands(name)
        flat = name in self.reader.flat or len(self.graph.type(operand).shape) == 1
        try:
            found = self.reader.read(operand, flat=flat)
        except UnreadableError as why:
            raise _UnfitError(name, why.node, why.reason) from None
        spikes = found.scale if name in self.graph.outputs else self.reader.scale(name)
        kind = _kind(self.graph[name]) or name
        reads = dict(found.reads)
        return _Target(name, found.shape, reads, found.shift, found.scale, spikes, found.origin, kind)

    def _next(self) -> _Layer:
        ready = [each for each in self.waiting if each.reads.keys() <= self.wires.keys()]
        first = max(ready, key=lambda each: self.rest[each.name])
        space = first.shape[1:]
        if self.space == (1, 1) != space:
            raise _UnfitError(first.name, first.name, "a map cannot be made of a vector")
        stride = self._stride(first)
        chosen = [first]
        for each in ready:
            alike = each is not first and (each.kind, each.shape[1:]) == (first.kind, space)
            if alike and _has_stride(each, stride):
                chosen.append(each)
        for each in chosen:
            each.reads = {x: w.free(space, stride) for x, w in each.reads.items()}
        self.waiting = [each for each in self.waiting if each not in chosen]
        relays: dict[str, tuple[str, Windows]] = {}
        for each in self.waiting:
            self._pass(each, space, stride, relays)
        carried = sum(len(self.wires[source].scale) for source, _ in relays.values())
        if space == (1, 1) != self.space and carried > self.limit:
            message = f"{carried} neurons would relay a map past a layer that is none"
            raise _UnfitError(self.waiting[0].name, self.waiting[0].name, message)
        layer = _Layer(self.wires, self.space, chosen, relays)
        if relays and first.kind == first.name:
            message = "signals have to pass its neurons, and no neuron of that kind repeats them"
            raise _UnfitError(first.name, first.name, message)
        made = {name: self._relayed(source, pick, space) for name, (source, pick) in relays.items()}
        self.wires = {**{each.name: _Wire(each.spikes, space) for each in chosen}, **made}
        self.space = space
        return layer

    def _stride(self, first: _Target) -> Pair:
        """Return the stride of a target; 1 along an axis where it has one cell only."""
        found = [1, 1]
        for axis, size in enumerate(first.shape[1:]):
            strides = {windows.stride[axis] for windows in first.reads.values()} if size > 1 else set()
            if len(strides) > 1:
                raise _UnfitError(first.name, first.name, f"it reads signals at strides of {sorted(strides)}")
            found[axis] = max(strides, default=1)
        return found[0], found[1]

    def _pass(self, target: _Target, space: Pair, stride: Pair, relays: dict[str, tuple[str, Windows]]) -> None:
        """Let a target that waits read relays of this layer in place of the signals of the layer before."""
        reads: dict[str, Windows] = {}
        for name, windows in target.reads.items():
            if name not in self.wires:
                reads[name] = windows  # of neurons that are still to come
                continue
            wire = self.wires[name]
            try:
                parts = windows.split(wire.size, space, target.shape[1:], stride)
            except BlockedError as why:
                raise _UnfitError(target.name, target.name, f"it {why}") from None
            for cell, part in parts.items():
                relay = name if (cell, stride) == ((0, 0), (1, 1)) else f"{name}[{cell[0]},{cell[1]}]"
                relays[relay] = name, Windows.picking(len(wire.scale), cell, stride)
                reads[relay] = part
        target.reads = reads

    def _relayed(self, source: str, pick: Windows, space: Pair) -> _Wire:
        wire = self.wires[source]
        cells = zip(wire.size, space, pick.first, pick.stride, strict=True)
        height, width = (max(1, min(most, -(-(size - cell) // step))) for size, most, cell, step in cells)
        return _Wire(wire.scale, (height, width))


def _kind(op: Op) -> object:
    """Return what neurons of one layer have in common; None for those that share a layer with no others."""
    if isinstance(op, LoihiNeuron) and op.weight_rec is None and not op.v_init.any():
        return LoihiNeuron, op.strict
    if not isinstance(op, IF) or (op.v_reset is not None and op.v_reset.any()):
        return None
    starts = np.unique(op.v_init / op.v_threshold)
    late = op.strict and op.v_reset is None and not starts.any()  # at the threshold a relay would not fire
    return None if late or starts.size > 1 else (op.v_reset is None, op.strict, starts.item())


def _has_stride(target: _Target, stride: Pair) -> bool:
    return all(windows.free(target.shape[1:], stride).stride == stride for windows in target.reads.values())


class _Writer:
    """Writes a chain in the place of a graph."""

    def __init__(self, graph: Graph, start: str) -> None:
        self.graph, self.last = graph, start

    def write(self, layers: Sequence[_Layer]) -> None:
        """Put the layers between the start and the output."""
        (output,) = self.graph.outputs
        (old,) = self.graph.operands(output)
        names = [each.name for layer in layers for each in layer.targets]
        ops = {name: self.graph[name] for name in names}
        shapes = {name: self.graph.type(self.graph.operands(name)[0]).shape for name in names}
        weights = {name: self._weights(name) for name in names}
        self.graph.set_operand(output, 0, self.last)
        self.graph.remove_dead(old)
        for layer in layers:
            first = layer.targets[0].name
            op = _affine(layer)
            self._shape((op.in_features, *(layer.space if isinstance(op, Conv) else ())))
            self.last = self.graph.add(op, self.last, name=weights[first])
            if len(layer.targets) == 1 and not layer.relays:
                self._shape(shapes[first])
                if first != output:
                    self.last = self.graph.add(ops[first], self.last, name=first)
            else:
                neurons = _neurons(layer, ops, shapes)
                self.last = self.graph.add(neurons, self.last, name=f"{first}_layer")
        self.graph.set_operand(output, 0, self.last)

    def _weights(self, name: str) -> str:
        """Return the name of the layer in front of a target."""
        (operand,) = self.graph.operands(name)
        return operand if isinstance(self.graph[operand], Weighted) else f"{name}_weights"

    def _shape(self, shape: tuple[int, ...]) -> None:
        if self.graph.type(self.last).shape != shape:
            op = Flatten() if len(shape) == 1 else Reshape(shape)
            self.last = self.graph.add(op, self.last, name=f"{self.last}_{'flat' if len(shape) == 1 else 'map'}")


def _affine(layer: _Layer) -> Linear | Conv:
    """Write all that a layer computes as one op over all channels of the layer before; a matrix where it has no map."""
    scales = [wire.scale for wire in layer.before.values()]
    ends = dict(zip(layer.before, np.cumsum([len(scale) for scale in scales]).tolist(), strict=True))
    relays = [layer.before[source].scale for source, _ in layer.relays.values()]
    rows = [each.reads for each in layer.targets] + [{source: pick} for source, pick in layer.relays.values()]
    shift = np.concatenate([*(each.shift for each in layer.targets), *map(np.zeros_like, relays)])
    space = layer.targets[0].shape[1:]
    every = [windows for reads in rows for windows in reads.values()]
    every = every or [Windows(np.zeros((1, 1, 1, 1)))]  # where all weights are zero
    first, kernel = ((0, 0), layer.space) if space == (1, 1) else _evenly(every, layer.space, space)
    weight = np.zeros((len(shift), sum(map(len, scales)), *kernel))
    start = 0
    sizes = [each.shape[0] for each in layer.targets] + list(map(len, relays))
    for reads, size in zip(rows, sizes, strict=True):
        for name, windows in reads.items():
            columns = slice(ends[name] - windows.weight.shape[1], ends[name])
            weight[start : start + size, columns] = windows.laid_out(first, kernel)
        start += size
    bias = shift if shift.any() else None
    before, after = np.concatenate(scales), np.concatenate([*(each.scale for each in layer.targets), *relays])
    origin = merge(*(each.origin for each in layer.targets))
    if space == (1, 1):
        before = before.repeat(math.prod(kernel))
        return Linear(weight.reshape(len(weight), -1), bias, in_scale=before, out_scale=after, origin=origin)
    padding, stride = [(-cell, -cell) for cell in first], every[0].stride
    return Conv(weight, bias, stride=stride, padding=padding, in_scale=before, out_scale=after, origin=origin)


def _evenly(windows: Sequence[Windows], size: Pair, result: Pair) -> tuple[Pair, Pair]:
    """Return the first cell and the size of a kernel for them all, that pads a map alike on both sides."""
    (y, x), kernel = box(windows)
    found = []
    for first, length, cells, count, stride in zip((y, x), kernel, size, result, windows[0].stride, strict=True):
        last = first + length - 1
        pad = max(-first, (count - 1) * stride + last + 1 - cells, 0)
        found.append((-pad, max(last + pad + 1, cells + 2 * pad - count * stride + 1)))
    return (found[0][0], found[1][0]), (found[0][1], found[1][1])


def _neurons(layer: _Layer, ops: Mapping[str, Op], shapes: Mapping[str, tuple[int, ...]]) -> Neuron:
    """Write the neurons of a layer as one op."""
    first = ops[layer.targets[0].name]
    assert isinstance(first, Neuron)
    relay, space, scales = _relay(first), layer.targets[0].shape[1:], list[Array]()
    laid: dict[str, list[Array]] = {name: [] for name in relay}
    for each in layer.targets:
        for name, values in laid.items():
            values.append(np.broadcast_to(getattr(ops[each.name], name), shapes[each.name]).reshape(each.shape))
        scales.append(each.spikes)
    for source, _ in layer.relays.values():
        scale = layer.before[source].scale
        for name, values in laid.items():
            values.append(np.full((len(scale), *space), relay[name]))
        scales.append(scale)
    rank = 1 if space == (1, 1) else 3
    flat = {name: np.concatenate(values).reshape(-1, *space[: rank - 1]) for name, values in laid.items()}
    fields: dict[str, Any] = {name: compress(values) for name, values in flat.items()}
    fields["out_scale"] = np.concatenate(scales).reshape(-1, *(1,) * (rank - 1))
    return attrs.evolve(first, **fields, origin=merge(*(ops[each.name].origin for each in layer.targets)))


def _relay(like: Neuron) -> dict[str, float]:
    """Return the fields of a neuron that repeats spikes of weight 1, and starts at the fraction that all start at."""
    if isinstance(like, LoihiNeuron):  # it forgets, and rounding takes less of its weight than 1/100
        return {"v_threshold": 0.99, **dict.fromkeys(("decay_syn", "decay", "feedback", "bias"), 0.0)}
    threshold = 0.99 if like.strict and like.v_reset is not None else 1.0  # a spike exceeds it, and clears what is left
    return {"v_threshold": threshold, "v_init": threshold * (like.v_init / like.v_threshold).flat[0]}
