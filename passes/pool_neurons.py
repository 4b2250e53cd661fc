"""Neurons behind a pool that no convolution takes in, so that it is a layer of its own."""

import math

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass, rounds
from spikec.ir.affine import BlockedError
from spikec.ir.graph import Graph
from spikec.ir.loihi import UNROLLED
from spikec.ir.ops import IF, AvgPool, Neuron, SumPool
from spikec.ir.ops.weighted import diagonal
from spikec.ir.readings import Reader, UnreadableError, spikes_of
from spikec.ir.stages import FINAL
from spikec.ir.types import channel_scale, compress


@attrs.frozen
class PoolNeurons(Pass):
    """A pool becomes a depthwise convolution with neurons, where it cannot be part of the convolution behind it.

    That is so where the convolution pads with zeros, and the pool would give something else beyond its map: windows
    that overlap, or cells that are left over. The neurons fire once for every full window, and start half way. A layer
    that is small enough to be unrolled into a matrix takes any pool in.

    Attributes:
        limit: the most neurons of a layer that is unrolled.
    """

    name = "pool-neurons"
    contract = "approximate"
    needs = (FINAL,)

    limit: int = attrs.field(default=UNROLLED, validator=rounds())

    def run(self, graph: Graph, context: Context) -> int:
        """Look at every large layer that is a map."""
        if len(graph.inputs) != 1:
            return 0
        changes, start = 0, spikes_of(graph)
        for name in [*(node.name for node in graph.match(Neuron) if node.name != start), *graph.outputs]:
            (operand, *_) = graph.operands(name)
            shape = graph.type(operand).shape
            while len(shape) in (2, 3) and math.prod(shape) > self.limit:
                reader = Reader(graph, start, set())
                pool = _in_the_way(graph, reader, operand)
                if pool is None or not _integrate(graph, reader, pool):
                    break
                context.note(pool, "no part of the layer behind it: its windows have neurons of their own")
                changes += 1
        return changes


def _in_the_way(graph: Graph, reader: Reader, name: str) -> str | None:
    """Return the pool that keeps a node from being convolutions of spikes; None where there is none."""
    try:
        reader.read(name, flat=False)
    except UnreadableError as why:
        behind = [each for each in graph.before(why.node) if each in reader.between(name)]
        return next((each for each in behind if isinstance(graph[each], (AvgPool, SumPool))), None)
    return None


def _integrate(graph: Graph, reader: Reader, pool: str) -> bool:
    """Put neurons behind a pool; False where they cannot say what it gives, because it may be negative."""
    signal = graph.type(pool)
    try:
        found = reader.read(pool, flat=False)
        conv = graph[pool].as_convolution(graph.type(graph.operands(pool)[0]))
        scale = channel_scale(signal, 0, "neurons of a pool")
    except (UnreadableError, BlockedError):
        return False
    most = found.shift + sum(windows.weight.sum((1, 2, 3)) for windows in found.reads.values())
    if (found.shift < 0).any() or any((windows.weight < 0).any() for windows in found.reads.values()):
        return False
    full = np.where(most > 0, most, 1.0)
    threshold = compress(full.reshape(-1, *(1,) * (len(signal.shape) - 1)))
    graph.set_op(pool, conv)
    back = diagonal(full, None, len(signal.shape), in_scale=scale * full, out_scale=scale)
    graph.insert_after(pool, back, new=f"{pool}_value")
    graph.insert_before(f"{pool}_value", 0, IF(threshold, v_init=threshold / 2), new=f"{pool}_spikes")
    return True
