"""Adaptive average pools whose windows are all alike are ordinary ones."""

import itertools

import attrs

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.ops import AdaptiveAvgPool, AvgPool
from spikec.ir.stages import ANN, RECEIVED


@attrs.frozen
class LowerAdaptivePool(Pass):
    """``adaptiveavgpool(size)`` becomes ``avgpool(kernel, stride)`` where every window has one size and one step."""

    name = "lower-adaptive-pool"
    needs = (*ANN, RECEIVED)

    def run(self, graph: Graph, context: Context) -> int:
        """Rewrite those with even windows; the others stay linear ops."""
        changes = 0
        for node in graph.match(AdaptiveAvgPool):
            sizes = graph.type(graph.operands(node.name)[0]).shape[1:]
            found = [
                _window(size, size if wanted is None else wanted)
                for size, wanted in zip(sizes, node.op.size, strict=True)
            ]
            even = [window for window in found if window is not None]
            if len(even) < len(found):
                context.note(node.name, f"windows over {sizes} for {node.op.size} are uneven; it stays as it is")
                continue
            kernel, stride = zip(*even, strict=True)
            graph.set_op(node.name, AvgPool(kernel, stride, (0,) * len(kernel), origin=node.op.origin))
            changes += 1
        return changes


def _window(size: int, wanted: int) -> tuple[int, int] | None:
    """(kernel, stride) of the windows floor(i n/o) .. ceil((i+1) n/o), if they are all alike."""
    starts = [i * size // wanted for i in range(wanted)]
    ends = [-(-(i + 1) * size // wanted) for i in range(wanted)]
    kernels = {end - start for start, end in zip(starts, ends, strict=True)}
    steps = {b - a for a, b in itertools.pairwise(starts)}
    if len(kernels) > 1 or len(steps) > 1 or wanted > size:
        return None
    (kernel,) = kernels
    return kernel, steps.pop() if steps else kernel
