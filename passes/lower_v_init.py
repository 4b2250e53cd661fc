"""Initial potentials become biases, for targets whose neurons start at zero."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np

from spikec.graph import Graph, Node
from spikec.ops import IF, Add, Neuron, Weighted
from spikec.ops.weighted import diagonal
from spikec.passbase import Context, Contract, Pass
from spikec.stages import FINAL, Stage
from spikec.types import Array, channel_scale


@attrs.frozen
class LowerVInit(Pass):
    """``v(-1) = v_init`` becomes ``v(-1) = 0`` and a current ``v_init / T`` at each of T steps.

    After T steps the membrane has received the same charge (Deng and Gu 2021, eq. 11: the bias shift). The
    current joins the bias of the affine op in front of the neuron; where there is none of its own, an
    identity with that bias is inserted.

    Attributes:
        timesteps: T; with None the potentials stay, and the loss is noted.
    """

    name: ClassVar[str] = "lower-v-init"
    contract: ClassVar[Contract] = "approximate"
    needs: ClassVar[tuple[Stage, ...]] = (FINAL,)

    timesteps: int | None = None

    def run(self, graph: Graph, context: Context) -> int:
        """Lower the potential of every neuron that has one."""
        nodes = [node for node in graph.match(Neuron) if node.op.v_init.any()]
        other = [node for node in nodes if not isinstance(node.op, IF) or node.op.v_reset is not None]
        nodes = [node for node in nodes if node not in other]
        if other:
            context.note(
                other[0].name,
                f"{len(other)} layer(s) that leak or reset to a value start at an initial potential, which no bias "
                "replaces; it is kept as metadata",
            )
        if nodes and self.timesteps is None:
            context.note(
                "",
                f"{len(nodes)} layer(s) start at an initial potential that the target's neurons do not have; it is "
                "kept as metadata, and a reader that ignores it starts at 0 and spikes up to one time less: "
                "compile with timesteps= to turn it into a bias",
            )
            return 0
        return sum(self._lower(graph, node, context) for node in nodes)

    def _lower(self, graph: Graph, node: Node[Neuron], context: Context) -> int:
        assert self.timesteps is not None
        (current,) = graph.operands(node.name)
        shape = graph.type(current).shape
        per_channel = np.broadcast_to(node.op.v_init, shape).reshape(shape[0], -1)
        if not (per_channel == per_channel[:, :1]).all():
            context.note(node.name, "its initial potential varies within a channel, where a bias does not")
            return 0
        shift = per_channel[:, 0].astype(np.float64) / self.timesteps
        owner = _owner(graph, node.name)
        if owner is None:
            scale = channel_scale(graph.type(current), 0, "bias")
            identity = diagonal(np.ones(shape[0]), shift, len(shape), in_scale=scale, out_scale=scale)
            graph.insert_before(node.name, 0, identity, new=f"{node.name}_bias")
        else:
            graph.set_op(owner.name, _with_current(owner.op, shift))
        graph.set_op(node.name, attrs.evolve(node.op, v_init=np.zeros(())))
        return 1


def _owner(graph: Graph, neuron: str) -> Node[Weighted] | None:
    """The affine op whose result reaches this neuron only, alone or as one operand of a sum."""
    (current,) = graph.operands(neuron)
    candidates = [current]
    if isinstance(graph[current], Add) and [user for user, _ in graph.users(current)] == [neuron]:
        candidates = list(graph.operands(current))
    for name in candidates:
        op = graph[name]
        along_channels = isinstance(op, Weighted) and op.axis % len(graph.type(name).shape) == 0
        if isinstance(op, Weighted) and along_channels and len(graph.users(name)) == 1:
            return Node(name, op)
    return None


def _with_current(op: Weighted, shift: Array) -> Weighted:
    return attrs.evolve(op, bias=op.shift + shift)
