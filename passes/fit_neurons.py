"""Potentials are counted in other units, for targets whose neurons have one gain, or one potential after a spike."""

from typing import Any, Literal

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph, Node
from spikec.ir.ops import IF, LIF, CubaLIF, Leaky, Neuron
from spikec.ir.stages import FINAL
from spikec.ir.types import Array, compress


@attrs.frozen
class FitNeurons(Pass):
    """Count the potentials of neurons in units, and from a zero, that suit the target; the spikes stay.

    A leaky neuron whose gain is g times the target's becomes one with the target's, and thresholds divided by g. A
    neuron that resets to v_reset becomes one that resets to 0: v_reset is taken off all its potentials. Ties fall as
    the rounding of the new numbers has it, so the pass is measured and not held to ``exact``.

    Attributes:
        gain: what a LIF and a CubaLIF are to multiply their input with: ``"any"``, ``"one"``, or ``"leak"``: a LIF's
            is 1/tau, a CubaLIF's any.
        zero: neurons are to reset to 0.
    """

    name = "fit-neurons"
    contract = "approximate"
    needs = (FINAL,)

    gain: Literal["any", "one", "leak"] = "any"
    zero: bool = False

    def run(self, graph: Graph, context: Context) -> int:
        """Move the zero, then change the units."""
        changes = 0
        for node in graph.match(Neuron):
            before = node.op
            if self.zero:
                node = _zeroed(graph, node)
            if isinstance(node.op, LIF) and self.gain != "any":
                leaks = bool(np.isfinite(node.op.tau).all())
                _rescale(graph, node.name, node.op, None if self.gain == "leak" and leaks else np.ones(()))
            elif isinstance(node.op, CubaLIF) and self.gain == "one":
                _rescale(graph, node.name, node.op, np.ones(()))
            changes += graph[node.name] is not before
        return changes


def _zeroed(graph: Graph, node: Node[Neuron]) -> Node[Neuron]:
    """Take v_reset off the potentials, where the threshold is above it everywhere."""
    op = node.op
    if not isinstance(op, (IF, LIF, CubaLIF)) or op.v_reset is None or not op.v_reset.any():
        return node
    if not (op.v_threshold > op.v_reset).all():
        return node
    others = ("v_init", "v_leak") if isinstance(op, Leaky) else ("v_init",)
    moved: dict[str, Any] = {name: compress(getattr(op, name) - op.v_reset) for name in others}
    threshold = compress(op.v_threshold - op.v_reset)
    fitted = attrs.evolve(
        op, v_threshold=threshold, v_reset=np.zeros(()), out_scale=graph.type(node.name).scale, **moved
    )
    graph.set_op(node.name, fitted)
    return Node(node.name, fitted)


def _rescale(graph: Graph, name: str, op: LIF | CubaLIF, wanted: Array | None) -> None:
    """Divide the potentials by as much as the gain is more than the wanted one; None stands for a LIF's 1/tau."""
    leaks = isinstance(op, LIF) and np.isfinite(op.tau).all()
    leak = 1 / op.tau if isinstance(op, LIF) and leaks else np.ones(())
    gain = leak if op.gain is None else op.gain
    factor = gain / (leak if wanted is None else wanted)
    if (factor == 1).all() and (op.gain is None) == (wanted is None):
        return
    values = {field: getattr(op, field) for field in op.potentials}
    scaled: dict[str, Any] = {field: compress(value / factor) for field, value in values.items() if value is not None}
    scaled["out_scale"] = graph.type(name).scale
    if isinstance(op, LIF):
        graph.set_op(name, attrs.evolve(op, gain=wanted, **scaled))
    else:
        graph.set_op(name, attrs.evolve(op, gain=np.ones(()), **scaled))
