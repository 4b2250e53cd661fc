"""Residual sums become one layer, for targets whose readers run chains: the main branch carries what skips it."""

from typing import Any

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.ops import IF, Add, Conv, Linear
from spikec.ir.ops.weighted import block_diagonal, pointwise, spread_kernel
from spikec.ir.origin import merge
from spikec.ir.stages import FINAL
from spikec.ir.types import Array, Type, channel_scale, on_axis
from spikec.passes.chain_sums import beside, coarse, joined

#: what a copied spike adds to a potential, in thresholds: enough to fire, and 2^20 of them leave one more behind
_OVER = 1 + 2.0**-20


@attrs.frozen
class CarrySkips(Pass):
    """Write ``last(neurons(first(u))) + skip(u)`` of spikes u as a chain: ``[last, skip](neurons([first, copy](u)))``.

    A neuron that gets a threshold for each spike gives the same spikes in the same steps, whichever way it resets, so
    that the neurons of the main branch copy u in further channels (each window of a stride of s as s*s channels), and
    the layer behind them sums both. The skip is an affine layer, or nothing.
    """

    name = "carry-skips"
    needs = (FINAL,)

    def run(self, graph: Graph, context: Context) -> int:
        """Carry every skip that goes by one layer of IF neurons with one threshold; note the other sums."""
        changes = 0
        for node in graph.match(Add):
            if (block := _Block.of(graph, node.name)) is not None:
                block.carry()
                changes += 1
            else:
                context.note(node.name, "sums what does not skip one layer of IF neurons, which no chain does")
        return changes


@attrs.frozen(eq=False)
class _Block:
    """A residual block.

    Attributes:
        graph: it is in.
        total: its sum.
        source: the neurons in front of it.
        first, neurons, last: its main branch.
        skip: the layer beside that, or the source itself.
    """

    graph: Graph
    total: str
    source: str
    first: str
    neurons: str
    last: str
    skip: str

    @classmethod
    def of(cls, graph: Graph, total: str) -> "_Block | None":
        """Find the block that ends in a sum; None where it has another form."""
        operands = graph.operands(total)
        for last, skip in (operands, operands[::-1]) if len(operands) == 2 else ():
            path = [last]
            while len(path) < 4 and graph.operands(path[-1]):
                path.append(graph.operands(path[-1])[0])
            if len(path) == 4:
                block = cls(graph, total, path[3], path[2], path[1], last, skip)
                if block.fits():
                    return block
        return None

    def fits(self) -> bool:
        """Return whether the copies give the skip what it takes."""
        graph = self.graph
        kinds = {type(graph[name]) for name in (self.first, self.last, *self._layer())}
        inner = (self.first, self.neurons, self.last, *self._layer())
        if kinds not in ({Conv}, {Linear}) or any(len(graph.users(name)) > 1 for name in inner):
            return False
        neurons, source = graph[self.neurons], graph[self.source]
        if not (isinstance(neurons, IF) and isinstance(source, IF)) or np.unique(neurons.v_threshold).size > 1:
            return False
        if self.skip != self.source and graph.operands(self.skip) != (self.source,):
            return False
        first, last = graph[self.first], graph[self.last]
        if not (isinstance(first, Conv) and isinstance(last, Conv)):
            return True
        windows = tuple(-(-n // s) for n, s in zip(graph.type(self.source).shape[1:], first.stride, strict=True))
        return (
            set(last.stride) == {1}
            and graph.type(self.neurons).shape[1:] == windows
            and all(getattr(graph[name], "stride", None) == first.stride for name in self._layer())
            and (bool(self._layer()) or set(first.stride) == {1})
            and self._beside() is not None
        )

    def _layer(self) -> tuple[str, ...]:
        return () if self.skip == self.source else (self.skip,)

    def _beside(self) -> tuple[Array, Any] | None:
        """Return the skip's kernel and padding for the copies, which have each window of u as channels."""
        graph, op = self.graph, self.graph[self.skip]
        if isinstance(op, Conv):
            return coarse(graph, self.skip, op, graph.type(self.neurons).shape[1:])
        if isinstance(op, Linear):
            return op.weight, ()
        signal = graph.type(self.source)
        return pointwise(np.eye(signal.shape[0]), None, len(signal.shape)).weight, ((0, 0),) * (len(signal.shape) - 1)

    def carry(self) -> None:
        """Write the block as a chain."""
        graph, signal, given = self.graph, self.graph.type(self.source), self.graph.type(self.neurons)
        first, neurons, last = graph[self.first], graph.get(self.neurons, IF), graph[self.last]
        assert isinstance(first, (Linear, Conv))
        cells = int(np.prod(first.stride)) if isinstance(first, Conv) else 1
        current, spikes, source = (_scales(each) for each in (graph.type(self.first), given, signal))
        copies = np.repeat(source, cells)
        over = float(neurons.v_threshold.flat[0]) * _OVER
        op = self._sum(np.concatenate([spikes, copies]))
        graph.set_op(self.first, beside(first, signal.shape, np.concatenate([current, copies / over])))
        graph.set_op(self.neurons, _with_copies(neurons, given, np.concatenate([spikes, copies])))
        skip = graph[self.skip].origin if self._layer() else ()
        graph.set_op(self.total, attrs.evolve(op, origin=merge(last.origin, skip, graph[self.total].origin)))
        before = graph.operands(self.total)
        graph.set_operands(self.total, self.neurons)
        for name in before:
            graph.remove_dead(name)

    def _sum(self, scales: Array) -> Linear | Conv:
        """Return the layer that adds what the last one gives of the neurons, and the skip of the copies."""
        last, skip, found = self.graph[self.last], self.graph[self.skip], self._beside()
        assert isinstance(last, (Linear, Conv))
        assert found is not None
        bias = last.shift + (skip.shift if isinstance(skip, (Linear, Conv)) else 0)
        if isinstance(last, Linear):
            return attrs.evolve(last, weight=np.concatenate([last.weight, found[0]], 1), bias=bias, in_scale=scales)
        own = spread_kernel(block_diagonal(last.weight, last.groups), last.dilation)
        weight, padding = joined((own, last.padding), found, 1)
        dense: dict[str, Any] = {"groups": 1, "dilation": (1,) * len(last.kernel)}
        return attrs.evolve(last, weight=weight, padding=padding, bias=bias, in_scale=scales, **dense)


def _scales(signal: Type) -> Array:
    return np.broadcast_to(channel_scale(signal, 0, "skip"), signal.shape[:1])


def _with_copies(op: IF, signal: Type, scales: Array) -> IF:
    """Return neurons with further channels, whose spikes stand for so much; those start at 0."""
    rank, starts = len(signal.shape), np.zeros(())
    if op.v_init.any():
        own = np.broadcast_to(op.v_init, signal.shape)
        starts = np.concatenate([own, np.zeros((scales.size - len(own), *signal.shape[1:]))])
    threshold = np.full((1,) * rank, op.v_threshold.flat[0])
    return attrs.evolve(op, v_threshold=threshold, v_init=starts, out_scale=on_axis(scales, rank, 0))
