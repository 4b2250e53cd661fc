"""Max-pools become ReLUs, sums and convolutions, which every target has."""

from collections.abc import Mapping

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph, Node
from spikec.ir.op import Movement, Op
from spikec.ir.ops import AdaptiveAvgPool, Add, AvgPool, MaxPool, Relu
from spikec.ir.ops.weighted import depthwise, diagonal
from spikec.ir.rewrite import rewrite
from spikec.ir.stages import IMPORTED
from spikec.ir.types import on_axis


@attrs.frozen
class LowerMaxPool(Pass):
    """``max(a, b) = b + relu(a - b)``, for halves of windows, along one axis after the other.

    A cell is picked by a depthwise convolution with a single 1. A ReLU behind the pool moves in front of
    it first, because ``relu(max(x)) = max(relu(x))``. Where windows reach beyond the map, cells are put there which the
    same windows hold anyway. Where the signal is never negative, the zeros that a convolution pads with do as well.

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
            changes += 1
            if self.counters:
                graph.set_op(node.name, attrs.evolve(node.op, counts=True))
                continue
            (source,) = graph.operands(node.name)
            zeros = source in never_negative
            largest = source
            for axis in reversed(range(len(node.op.kernel))):
                largest = _Line(graph, node, axis, zeros=zeros).reduced(largest)
            largest = _cut(graph, node, largest)
            if zeros:
                never_negative.add(largest)
            graph.replace_uses(node.name, largest)
            graph.remove(node.name, "each window is a single cell" if largest == source else "")
        return changes


def _never_negative(graph: Graph) -> set[str]:
    """The signals that are never negative: those of ReLUs, and of ops behind them that keep the sign."""
    found: set[str] = set()
    for name in graph:
        op = graph[name]
        keeps_sign = isinstance(op, (Movement, AvgPool, AdaptiveAvgPool, MaxPool, Add))
        if isinstance(op, Relu) or (keeps_sign and found.issuperset(graph.operands(name))):
            found.add(name)
    return found


def _cut(graph: Graph, node: Node[MaxPool], signal: str) -> str:
    """Cut off the windows that were added behind the last ones."""
    extra = [a - b for a, b in zip(graph.type(signal).shape, graph.type(node.name).shape, strict=True)][1:]
    if not any(extra):
        return signal
    kernel = np.zeros([1 + size for size in extra])
    kernel.flat[0] = 1.0
    cut = depthwise(kernel, graph.type(signal), origin=node.op.origin)
    return graph.add(cut, signal, name=f"{node.name}_cut")


@attrs.frozen
class _Cells:
    """One cell of every window: along the axis of its pool, window j has cell ``first + j stride`` of a signal."""

    signal: str
    first: int
    stride: int = 1


class _Line:
    """Writes the maximum over the windows of a pool along one of its axes.

    Args:
        zeros: whether a cell beyond the map may count as zero, rather than not at all.
    """

    def __init__(self, graph: Graph, node: Node[MaxPool], axis: int, *, zeros: bool) -> None:
        self.graph, self.node, self.axis, self.zeros = graph, node, axis, zeros

    def reduced(self, signal: str) -> str:
        """Add the maximum over each window; every comparison doubles the number of cells that a signal stands for.

        While each window is a whole number of the same pairs, pairs become cells. Windows that overlap share maxima
        over powers of two, the last two of which cover a window. Windows of a few cells, or far apart, are cheaper by a
        tournament in each.
        """
        op, axis = self.node.op, self.axis
        kernel, stride, step, first = op.kernel[axis], op.stride[axis], op.dilation[axis], -op.padding[axis][0]
        windows = self.graph.type(self.node.name).shape[axis + 1]
        alone, to_the_end = windows == 1, first + kernel >= self._size(signal)
        if not self.zeros:
            if alone and to_the_end and step == 1:
                kernel = 1 << (kernel - 1).bit_length()  # pairs of pairs; what is added is beyond the map
            signal, first = self._extended(signal, first, (windows - 1) * stride + (kernel - 1) * step + 1, step)
        while kernel > 1:
            if alone:
                kernel += kernel % 2 if to_the_end else 0  # that cell is beyond the map
                stride = kernel
            if kernel % 2 or stride % 2 or step > 1:
                break
            kernel, stride = kernel // 2, stride // 2
            pairs = (windows - 1) * stride + kernel
            signal, first = self._larger(_Cells(signal, first, 2), _Cells(signal, first + 1, 2), pairs), 0
        if stride == 1 and kernel > 1:
            windows = self._evenly(signal, windows)
        if kernel - 1 <= stride * (kernel - 1).bit_length():
            return self._tournament([_Cells(signal, first + i * step, stride) for i in range(kernel)], windows)
        width = 1
        while 2 * width < kernel:
            starts = self._evenly(signal, (windows - 1) * stride + (kernel - 2 * width) * step + 1)
            nearer, farther = _Cells(signal, first), _Cells(signal, first + width * step)
            signal, first, width = self._larger(nearer, farther, starts), 0, 2 * width
        nearer, farther = _Cells(signal, first, stride), _Cells(signal, first + (kernel - width) * step, stride)
        return self._larger(nearer, farther, windows)

    def _evenly(self, signal: str, count: int) -> int:
        """Add a window where a map would lose or gain an odd number of cells along one axis alone.

        NIR pads evenly and has square kernels, whose sides are odd as the map is as long as before along other axes.
        """
        return count + (self._size(signal) - count) % 2 if len(self.node.op.kernel) > 1 else count

    def _extended(self, signal: str, first: int, length: int, step: int) -> tuple[str, int]:
        """Add a map that has all cells from ``first`` on, ``length`` of them; give it, and where they start in it.

        A cell beyond the map is the nearest one in it that is a multiple of ``step`` away: windows that hold the one
        hold the other. Both sides get as many, because NIR pads evenly.
        """
        size = self._size(signal)
        margin = max(-first, first + length - size, 0)
        if not margin:
            return signal, first
        count = size + 2 * margin
        terms = [self._pick(_Cells(signal, -margin), count)]
        beyond = [*range(-margin, 0), *range(size, size + margin)]
        nearest = [place % step if place < 0 else size - 1 - (size - 1 - place) % step for place in beyond]
        for cell in sorted({each for each in nearest if 0 <= each < size}):
            # with those before it moved out of the map, and then those behind it, it stands alone in the last place
            alone = self._pick(_Cells(self._pick(_Cells(signal, cell), size), 1 - count), count)
            places = [place for place, source in zip(beyond, nearest, strict=True) if source == cell]
            terms.append(self._convolve(alone, {size + margin - 1 - place: 1.0 for place in places}, 1, count))
        return self._add(Add(), *terms, tag="extended"), first + margin

    def _tournament(self, cells: list[_Cells], windows: int) -> str:
        size = self._size(cells[0].signal)
        cells = [each for each in cells if any(0 <= each.first + each.stride * i < size for i in range(windows))]
        while len(cells) > 1:
            pairs = zip(cells[::2], cells[1::2], strict=False)
            paired = [_Cells(self._larger(a, b, windows), 0) for a, b in pairs]
            cells = [*paired, *cells[len(paired) * 2 :]]
        return self._pick(cells[0], windows)

    def _larger(self, a: _Cells, b: _Cells, count: int) -> str:
        """Add ``b + relu(a - b)`` for ``count`` windows."""
        excess = self._add(Relu(compares=True), self._difference(a, b, count), tag="excess")
        return self._add(Add(), self._pick(b, count), excess, tag="larger")

    def _difference(self, a: _Cells, b: _Cells, count: int) -> str:
        if a.signal == b.signal:
            return self._convolve(a.signal, {a.first: 1.0, b.first: -1.0}, a.stride, count)
        shape = self.graph.type(b.signal).shape
        minus = self._add(diagonal(-np.ones(shape[0]), None, len(shape)), self._pick(b, count), tag="minus")
        return self._add(Add(), self._pick(a, count), minus, tag="difference")

    def _pick(self, cells: _Cells, count: int) -> str:
        if (cells.first, cells.stride, count) == (0, 1, self._size(cells.signal)):
            return cells.signal
        return self._convolve(cells.signal, {cells.first: 1.0}, cells.stride, count)

    def _convolve(self, signal: str, values: Mapping[int, float], stride: int, count: int) -> str:
        """Add the convolution that weighs some cells of each window, just long enough to give ``count`` results."""
        size, before = self._size(signal), max(-min(values), 0)
        length = max(max(values) + before + 1, size + before - count * stride + 1)
        line = np.zeros(length)
        for cell, value in values.items():
            line[cell + before] = value
        rank = len(self.node.op.kernel)
        strides, padding = [1] * rank, [(0, 0)] * rank
        strides[self.axis] = stride
        padding[self.axis] = before, max((count - 1) * stride + length - size - before, 0)
        kernel = on_axis(line, rank, self.axis)
        conv = depthwise(kernel, self.graph.type(signal), stride=strides, padding=padding)
        return self._add(conv, signal, tag="cell")

    def _size(self, signal: str) -> int:
        return self.graph.type(signal).shape[self.axis + 1]

    def _add(self, op: Op, *operands: str, tag: str) -> str:
        op = attrs.evolve(op, origin=self.node.op.origin)
        return self.graph.add(op, *operands, name=f"{self.node.name}_{tag}")
