"""Outputs are plain means again, for targets whose readers know no other."""

import attrs

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.ops import RecentMean
from spikec.ir.stages import SNN


@attrs.frozen
class PlainReadout(Pass):
    """Take the averages that ``weigh-readout`` put before outputs away again; the neurons stay as they are."""

    name = "plain-readout"
    contract = "approximate"
    needs = SNN
    looks_back = False

    def run(self, graph: Graph, context: Context) -> int:
        """Remove every op of the kind, and note with which weights the reader may average."""
        nodes = graph.match(RecentMean)
        for node in nodes:
            weights = f"weights that grow like t^{node.op.power:g} are nearer to the model than a plain mean over t"
            context.note(node.name, f"this target has plain means only; {weights}")
            graph.bypass(node.name)
        return len(nodes)
