"""Max-pools become ReLUs, sums and convolutions, which every target has."""

import itertools
from collections.abc import Sequence

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph, Node
from spikec.ir.op import Movement
from spikec.ir.ops import AdaptiveAvgPool, Add, AvgPool, Conv, MaxPool, Relu
from spikec.ir.ops.weighted import Pairs, depthwise, diagonal
from spikec.ir.rewrite import rewrite
from spikec.ir.stages import IMPORTED

#: a cell of the window, or a node that holds the maximum of several
Item = tuple[int, ...] | str


@attrs.frozen
class LowerMaxPool(Pass):
    """``max(a, b) = b + relu(a - b)``, as a tournament over the cells of the window.

    A cell is picked by a depthwise convolution with a single 1. A ReLU behind the pool moves in front of
    it first, because ``relu(max(x)) = max(relu(x))``. Padding and windows that reach beyond the map see
    zeros, which is right for a signal that is never negative; others are left, and refused later.

    Attributes:
        counters: leave every max-pool to be one that counts spikes, for a target that can.
    """

    name = "lower-maxpool"
    needs = (IMPORTED,)

    counters: bool = False

    def run(self, graph: Graph, context: Context) -> int:
        """Move ReLUs in front of pools, then lower every pool."""

        def commute(pool: Node[MaxPool], relu: Node[Relu]) -> bool:
            (source,) = graph.operands(pool.name)
            graph.bypass(pool.name)
            graph.set_operands(relu.name, source)
            graph.insert_after(relu.name, pool.op, new=pool.name)
            return True

        changes = rewrite(graph, (MaxPool, Relu), commute)
        never_negative = _never_negative(graph)
        for node in graph.match(MaxPool):
            if self.counters:
                graph.set_op(node.name, attrs.evolve(node.op, counts=True))
                changes += 1
                continue
            (source,) = graph.operands(node.name)
            padding = _padding(node.op, graph.type(source).shape, graph.type(node.name).shape)
            if any(map(any, padding)) and source not in never_negative:
                context.note(node.name, "its windows reach beyond the map, and its operand may be negative")
                continue
            largest = _tournament(graph, node, source, padding)
            if source in never_negative:
                never_negative.add(largest)
            graph.replace_uses(node.name, largest)
            graph.remove(node.name)
            changes += 1
        return changes


def _padding(op: MaxPool, before: Sequence[int], after: Sequence[int]) -> Pairs:
    """The padding with which every window lies inside: behind the map, windows of ceil_mode need more."""
    found = []
    for i, (low, _) in enumerate(op.padding):
        extent = op.dilation[i] * (op.kernel[i] - 1) + 1
        needed = (after[i + 1] - 1) * op.stride[i] + extent - before[i + 1] - low
        found.append((low, max(needed, 0)))
    return tuple(found)


def _never_negative(graph: Graph) -> set[str]:
    """The signals that are never negative: those of ReLUs, and of ops behind them that keep the sign."""
    found: set[str] = set()
    for name in graph:
        op = graph[name]
        keeps_sign = isinstance(op, (Movement, AvgPool, AdaptiveAvgPool, MaxPool, Add))
        if isinstance(op, Relu) or (keeps_sign and found.issuperset(graph.operands(name))):
            found.add(name)
    return found


def _tournament(graph: Graph, node: Node[MaxPool], source: str, padding: Pairs) -> str:
    pool = _Picker(graph, node, source, padding)
    items: list[Item] = list(itertools.product(*map(range, node.op.kernel)))
    while len(items) > 1:
        paired = [pool.larger(a, b) for a, b in zip(items[::2], items[1::2], strict=False)]
        items = [*paired, *items[len(paired) * 2 :]]
    return pool.as_node(items[0])


class _Picker:
    """Builds the ops of one tournament."""

    def __init__(self, graph: Graph, node: Node[MaxPool], source: str, padding: Pairs) -> None:
        self.graph, self.node, self.source, self.padding = graph, node, source, padding
        self.shape = graph.type(source).shape

    def larger(self, a: Item, b: Item) -> str:
        """Add the maximum of two cells or signals, as ``b + relu(a - b)``."""
        last = self.as_node(b)
        if isinstance(a, str) or isinstance(b, str):
            minus = self.graph.add(diagonal(-np.ones(self.shape[0]), None, len(self.shape)), last, name=f"{last}_minus")
            difference = self._add(Add(origin=self.node.op.origin), self.as_node(a), minus, tag="difference")
        else:
            difference = self._pick({a: 1.0, b: -1.0})
        excess = self._add(Relu(compares=True, origin=self.node.op.origin), difference, tag="excess")
        return self._add(Add(origin=self.node.op.origin), last, excess, tag="larger")

    def as_node(self, item: Item) -> str:
        """The signal of an item: a cell of every window is picked, a maximum is one already."""
        return item if isinstance(item, str) else self._pick({item: 1.0})

    def _pick(self, cells: dict[tuple[int, ...], float]) -> str:
        op = self.node.op
        kernel = np.zeros(op.kernel)
        for cell, value in cells.items():
            kernel[cell] = value
        signal, dilation = self.graph.type(self.source), op.dilation
        conv = depthwise(kernel, signal, stride=op.stride, padding=self.padding, dilation=dilation, origin=op.origin)
        return self._add(conv, self.source, tag="cell")

    def _add(self, op: Add | Relu | Conv, *operands: str, tag: str) -> str:
        return self.graph.add(op, *operands, name=f"{self.node.name}_{tag}")
