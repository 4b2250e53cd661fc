"""One spelling for every clipped ReLU."""

from typing import Any, ClassVar

import attrs

from spikec.graph import Graph, Node
from spikec.ops import Clamp, Relu
from spikec.origin import merge
from spikec.passbase import Context, Pass
from spikec.rewrite import rewrite
from spikec.stages import ANN, Stage


@attrs.frozen
class CanonicalizeActivations(Pass):
    """``clamp(0, k)``, ReLU6 and hardtanh(0, k) become ``relu(cap=k)``; two ReLUs in a row become one."""

    name: ClassVar[str] = "canonicalize-activations"
    needs: ClassVar[tuple[Stage, ...]] = ANN

    def run(self, graph: Graph, context: Context) -> int:
        """Rewrite clamps, then pairs of ReLUs."""
        changes = 0
        for node in graph.match(Clamp):
            low, high = node.op.low, node.op.high
            if low != 0 or (high is not None and high <= 0):
                context.note(node.name, f"clamp({low}, {high}) is no clipped ReLU")
                continue
            graph.set_op(node.name, Relu(high, origin=node.op.origin))
            changes += 1

        def join(first: Node[Any], second: Node[Any]) -> bool:
            caps = [op.cap for op in (first.op, second.op) if op.cap is not None]
            origin = merge(first.op.origin, second.op.origin)
            graph.set_op(second.name, Relu(min(caps, default=None), origin=origin))
            graph.bypass(first.name)
            return True

        while joined := rewrite(graph, (Relu, Relu), join):
            changes += joined
        return changes
