"""ReLUs become integrate-and-fire neurons, and the whole graph rate-coded."""

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.errors import InvalidModelError
from spikec.ir.graph import Graph, Node
from spikec.ir.ops import IF, Carried, CountingMaxPool, Input, MaxPool, Relu, Rescale, RunningDifference
from spikec.ir.stages import CALIBRATED, SPIKING
from spikec.ir.types import fits, span


@attrs.frozen
class ReluToIF(Pass):
    """``relu(scale=s)`` becomes ``rescale(1/s) -> if(v_threshold=1), soft reset -> rescale(s)``.

    The rate of the neuron is ``clip(z / s, 0, 1)`` to 1/T (Rueckauer et al. 2017, eq. 4); the rescales
    state the units and are folded into the weights later. Max-pools that count, and what is carried without neurons,
    become what they say, and inputs Rate(1).
    """

    name = "relu-to-if"
    contract = "rate"
    needs = (CALIBRATED,)
    gives = SPIKING

    def run(self, graph: Graph, context: Context) -> int:
        """Replace every ReLU, max-pool and input, and what is carried."""
        relus, pools, inputs = graph.match(Relu), graph.match(MaxPool), graph.match(Input)
        carried = graph.match(Carried)
        for node in relus:
            _check_scale(graph, node)
        for node in relus:
            scale = node.op.scale
            assert scale is not None
            threshold = np.ones((1,) * scale.ndim)
            graph.insert_before(node.name, 0, Rescale(1 / scale), new=f"{node.name}_in")
            graph.set_op(node.name, IF(threshold, origin=node.op.origin))
            graph.insert_after(node.name, Rescale(scale), new=f"{node.name}_out")
        for pool in pools:
            graph.set_op(pool.name, CountingMaxPool(pool.op, origin=pool.op.origin))
        for each in carried:
            graph.set_op(each.name, RunningDifference(each.op, origin=each.op.origin))
        for entry in inputs:
            graph.set_op(entry.name, attrs.evolve(entry.op, rate=True))
        return len(relus) + len(pools) + len(inputs) + len(carried)


def _check_scale(graph: Graph, node: Node[Relu]) -> None:
    """Refuse a scale that makes no threshold for this layer."""
    scale, shape = node.op.scale, graph.type(node.name).shape
    if scale is not None and not fits(scale, shape):
        message = f"its scale has shape {scale.shape}, its sample {shape}"
        hint = "give one axis for each of the sample's, of length 1 where it is shared"
        raise InvalidModelError(graph.problem(node.name, message, hint))
    if scale is not None and not (scale > 0).all():
        message = f"its scale is {span(scale)}, and a threshold must be positive"
        raise InvalidModelError(graph.problem(node.name, message, "give a silent channel its layer's scale"))
