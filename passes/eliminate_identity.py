"""Ops that do nothing disappear."""

import attrs

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.op import Role
from spikec.ir.stages import ANN, RECEIVED


@attrs.frozen
class EliminateIdentity(Pass):
    """Users of dropout in evaluation mode, ``nn.Identity`` or ``contiguous`` take its operand instead."""

    name = "eliminate-identity"
    needs = (*ANN, RECEIVED)

    def run(self, graph: Graph, context: Context) -> int:
        """Bypass every op whose role is identity."""
        nodes = graph.with_role(Role.IDENTITY)
        for node in nodes:
            graph.bypass(node.name, "does nothing in evaluation mode")
        return len(nodes)
