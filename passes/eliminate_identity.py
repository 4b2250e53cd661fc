"""Ops that do nothing disappear."""

from typing import ClassVar

import attrs

from spikec.graph import Graph
from spikec.op import Role
from spikec.passbase import Context, Pass
from spikec.stages import ANN, RECEIVED, Stage


@attrs.frozen
class EliminateIdentity(Pass):
    """Dropout in evaluation mode, ``nn.Identity``, ``contiguous``: users take the operand."""

    name: ClassVar[str] = "eliminate-identity"
    needs: ClassVar[tuple[Stage, ...]] = (*ANN, RECEIVED)

    def run(self, graph: Graph, context: Context) -> int:
        """Bypass every op whose role is identity."""
        nodes = graph.with_role(Role.IDENTITY)
        for node in nodes:
            graph.bypass(node.name, "does nothing in evaluation mode")
        return len(nodes)
