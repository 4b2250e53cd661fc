"""Initial potentials become biases, for targets whose neurons start at zero."""

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.errors import Hint, Option
from spikec.ir.graph import Graph, Node
from spikec.ir.ops import IF, Neuron
from spikec.ir.ops.weighted import identity
from spikec.ir.rewrite import bias_owner
from spikec.ir.stages import SNN
from spikec.ir.types import SCALE_RTOL, channel_scale


@attrs.frozen
class LowerVInit(Pass):
    """``v(-1) = v_init`` becomes ``v(-1) = 0`` and a current ``v_init / T`` at each of T steps.

    After T steps the membrane has received the same charge (Deng and Gu 2021, eq. 11: the bias shift). The
    current joins the bias of the affine op in front of the neuron; where there is none of its own, an
    identity with that bias is inserted. Where the user's T is open, the potentials stay, and the loss is noted.

    Attributes:
        kept: whether the target's neurons start at them, if they do not leak, and reset by subtraction.
    """

    name = "lower-v-init"
    contract = "approximate"
    needs = SNN
    looks_back = False

    kept: bool = False

    def run(self, graph: Graph, context: Context) -> int:
        """Lower the potential of every neuron that has one."""
        started = [node for node in graph.match(Neuron) if node.op.v_init.any()]
        nodes = [node for node in started if isinstance(node.op, IF) and node.op.v_reset is None]
        if other := [node for node in started if node not in nodes]:
            context.note(
                other[0].name,
                f"{len(other)} layer(s) that leak or reset to a value start at an initial potential, which no bias "
                "replaces; it is kept as metadata",
            )
        if not nodes or self.kept:
            return 0
        if context.timesteps is None:
            context.note(
                "",
                Hint(
                    f"{len(nodes)} layer(s) start at an initial potential that the target's neurons do not have; it is "
                    "kept as metadata, and a reader that ignores it starts at 0 and spikes up to one time less: "
                    "compile with ",
                    Option("timesteps"),
                    " to turn it into a bias",
                ),
            )
            return 0
        return sum(_lower(graph, node, context.timesteps, context) for node in nodes)


def _lower(graph: Graph, node: Node[Neuron], timesteps: int, context: Context) -> int:
    (current,) = graph.operands(node.name)
    signal, owner = graph.type(current), bias_owner(graph, node.name)
    axis = 0 if owner is None else owner.op.axis % len(signal.shape)
    charge = np.moveaxis(np.broadcast_to(node.op.v_init * signal.scale, signal.shape), axis, 0)
    charge = charge.reshape(len(charge), -1).astype(np.float64)
    if not np.allclose(charge, charge[:, :1], rtol=SCALE_RTOL, atol=0):
        context.note(node.name, "its initial potential varies within a channel, where a bias does not")
        return 0
    shift = charge[:, 0] / timesteps
    if owner is None:
        unit = identity(signal, shift / channel_scale(signal, 0, "bias"))
        graph.insert_before(node.name, 0, unit, new=f"{node.name}_bias")
    else:
        scale = channel_scale(graph.type(owner.name), axis, "bias")
        graph.set_op(owner.name, attrs.evolve(owner.op, bias=owner.op.shift + shift / scale))
    graph.set_op(node.name, attrs.evolve(node.op, v_init=np.zeros(())))
    return 1
