"""What a node computes from the signals that reach it: convolutions of maps, or a matrix."""

import math
from collections.abc import Iterator, Mapping, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.ir.affine import BlockedError, backward_sweep
from spikec.ir.errors import TypeMismatchError
from spikec.ir.graph import Graph
from spikec.ir.op import tensor_cache
from spikec.ir.ops import Add, Concat, Conv, Flatten, Neuron, Reshape, Weighted
from spikec.ir.origin import Origin, merge
from spikec.ir.rewrite import follow
from spikec.ir.types import Array, channel_scale
from spikec.ir.windows import Windows, as_map

Shape = tuple[int, int, int]


class UnreadableError(Exception):
    """A node is no convolution of the signals that reach it; ``node`` is the first that is none."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(reason)
        self.node, self.reason = node, reason


@attrs.frozen(eq=False)
class Reading:
    """``y = sum of windows(x) + shift`` over the signals x that reach a node.

    Attributes:
        shape: of y, as a map; of a vector (N, 1, 1).
        reads: the windows, by the name of the signal.
        shift: one number a channel.
        scale: of y, one number a channel.
        origin: of all nodes between the signals and y.
    """

    shape: Shape
    reads: Mapping[str, Windows]
    shift: Array
    scale: Array
    origin: Origin


def spikes_of(graph: Graph) -> str:
    """Return the spikes that come of the input: those of the host's encoder, or the input itself."""
    return follow(graph, graph.inputs[0], Neuron, Weighted) or graph.inputs[0]


#: reads and shift of a :class:`Reading`
_Sum = tuple[dict[str, Windows], Array]


class Reader:
    """Reads nodes in terms of the spikes that reach them.

    Args:
        graph: is not changed.
        start: a signal that counts as spikes.
        flat: neurons that are read as vectors.
    """

    def __init__(self, graph: Graph, start: str, flat: set[str]) -> None:
        self.graph, self.start, self.flat = graph, start, flat
        self._known: dict[str, _Sum] = {}

    def read(self, name: str, *, flat: bool) -> Reading:
        """Read a node, as a map or as a vector.

        Raises:
            UnreadableError: it is no map of convolutions.
        """
        signal = self.graph.type(name)
        sources, between = self._behind(name)
        origin = merge(*(self.graph[each].origin for each in between))
        if flat:
            shape: Shape = (math.prod(signal.shape), 1, 1)
            reads, shift = self._matrix(name, sources, between)
            scale = signal.flat_scale
        else:
            reads, shift = self._windows(name)
            shape, scale = as_map(signal.shape), self._scale(name)
        return Reading(shape, reads, shift, np.broadcast_to(scale, shape[:1]), origin)

    def between(self, name: str) -> list[str]:
        """Return the nodes between the signals that reach a node and it, that one included; in order."""
        return self._behind(name)[1]

    def shape(self, name: str) -> Shape:
        """Return the shape of a signal's map."""
        shape = self.graph.type(name).shape
        return (math.prod(shape), 1, 1) if name in self.flat else as_map(shape)

    def scale(self, name: str) -> Array:
        """Return the scale of a signal, one number a channel."""
        shape = self.shape(name)
        scale = self.graph.type(name).flat_scale if shape[1:] == (1, 1) else self._scale(name)
        return np.broadcast_to(scale, shape[:1])

    def _scale(self, name: str) -> Array:
        try:
            return channel_scale(self.graph.type(name), 0, "a convolution")
        except TypeMismatchError:
            raise UnreadableError(name, "its scale varies within a channel") from None

    def _is_source(self, name: str) -> bool:
        return name == self.start or isinstance(self.graph[name], Neuron)

    def _behind(self, name: str) -> tuple[list[str], list[str]]:
        """Return the signals that reach a node, and the nodes between them and it, that one included; in order."""
        found, todo = set[str](), [name]
        while todo:
            each = todo.pop()
            if each not in found:
                found.add(each)
                todo += () if self._is_source(each) else self.graph.operands(each)
        nodes = [each for each in self.graph if each in found]
        return [x for x in nodes if self._is_source(x)], [x for x in nodes if not self._is_source(x)]

    def _matrix(self, name: str, sources: Sequence[str], between: Sequence[str]) -> _Sum:
        """Read a node as a vector, by one backward sweep."""

        def meaning(*xs: Tensor) -> Tensor:
            values = dict(zip(sources, xs, strict=True))
            for each in between:
                values[each] = self.graph[each].eval(*(values[x] for x in self.graph.operands(each)))
            return values[name]

        shape = self.graph.type(name).shape
        size = math.prod(shape)
        with tensor_cache():
            unit = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
            rows, offset = backward_sweep(meaning, [self.graph.type(each).shape for each in sources], unit)
        found = {each: w.reshape(size, *self.shape(each)).numpy() for each, w in zip(sources, rows, strict=True)}
        return {each: Windows(w).trimmed() for each, w in found.items()}, offset.reshape(-1).numpy()

    def _windows(self, name: str) -> _Sum:
        """Read a node's map as convolutions of the signals that reach it, and a bias."""
        if name not in self._known:
            try:
                self._known[name] = self._read(name)
            except BlockedError as why:
                raise UnreadableError(name, f"%{name} ({self.graph[name].kind}) {why}") from None
        return self._known[name]

    def _read(self, name: str) -> _Sum:
        op, operands, signal = self.graph[name], self.graph.operands(name), self.graph.type(name)
        channels, *result = as_map(signal.shape)
        if self._is_source(name):
            self._scale(name)
            if name in self.flat:
                raise BlockedError("is unrolled into a vector")
            return {name: Windows.picking(channels)}, np.zeros(channels)
        if isinstance(op, Add):
            return self._sum(map(self._windows, operands))
        if isinstance(op, Concat) and op.axis % len(signal.shape) == 0:
            return self._sum(self._placed(operands, channels))
        operand = self.graph.type(operands[0])
        between = as_map(operand.shape)
        reads, shift = self._windows(operands[0])
        if isinstance(op, (Flatten, Reshape)) and between == (channels, *result):
            return reads, shift
        conv = op if isinstance(op, Weighted) else op.as_convolution(operand)
        if not isinstance(conv, Conv):
            raise BlockedError("is no convolution")
        outer = Windows.of(conv)
        if shift.any() and any(map(any, conv.padding)):
            raise BlockedError("pads with zeros, where the layers before it would give their bias")
        sizes = between[1:], (result[0], result[1])
        found = {each: outer.behind(w, self.shape(each)[1:], *sizes) for each, w in reads.items()}
        return found, conv.shift + outer.weight.sum((2, 3)) @ shift

    def _placed(self, operands: Sequence[str], channels: int) -> Iterator[_Sum]:
        """Yield the parts of a concat, each among channels that are zero."""
        end = 0
        for operand in operands:
            reads, shift = self._windows(operand)
            start, end = end, end + len(shift)
            rows = np.eye(channels)[:, start:end]
            placed = {x: attrs.evolve(w, weight=np.tensordot(rows, w.weight, 1)) for x, w in reads.items()}
            yield placed, rows @ shift

    def _sum(self, parts: Iterator[_Sum]) -> _Sum:
        total, bias = next(parts)
        total = dict(total)
        for reads, shift in parts:
            bias = bias + shift
            for each, windows in reads.items():
                total[each] = total[each].plus(windows) if each in total else windows
        return total, bias
