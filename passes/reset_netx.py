"""Neurons of layers that netx can only reset to zero."""

from typing import Literal

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.ops import Conv, Flatten, Neuron, Reshape, Weighted
from spikec.ir.rewrite import follow
from spikec.ir.stages import FINAL


@attrs.frozen
class ResetNetx(Pass):
    """Hard reset in every layer of the file, if there is a convolution in it or the user asks for hard reset.

    A neuron that is reset to zero loses what lies above its threshold, less of it the rarer it fires: the
    threshold (and v_init) becomes ``ratio`` times what soft reset has, and the next weights too (the SNN toolbox
    calls it ``desired_threshold_to_input_ratio``). To start at v_init a neuron takes a pulse at step 0, over a cell
    of the kernel that never lies on padding; from the first convolution on that has none, neurons start at 0.

    Attributes:
        reset: ``auto``, ``soft`` or ``hard``.
        ratio: None for T/8, but within 2 and 8, and 3 where no T is given: eight spikes a neuron at most. Where
            neurons start at 0, None is 2, and 1 below 32 steps.
    """

    name = "reset-netx"
    contract = "approximate"
    needs = (FINAL,)

    reset: Literal["auto", "soft", "hard"] = "auto"
    ratio: float | None = None

    def run(self, graph: Graph, context: Context) -> int:
        """Reset all layers or none. The first neurons are the host's, which resets by subtraction."""
        hidden = graph.match(Neuron)[1:]
        in_front = [graph[graph.operands(node.name)[0]] for node in hidden]
        if self.reset == "soft" or (self.reset == "auto" and not any(isinstance(op, Conv) for op in in_front)):
            return 0
        readers = [follow(graph, node.name, Weighted, (Flatten, Reshape)) for node in hidden]
        if None in readers:
            return 0
        charged = next((i for i, node in enumerate(hidden) if not _can_charge(graph, node.name)), len(hidden))
        if charged < len(hidden):
            context.note(hidden[charged].name, "no cell of the kernel stays on the map: from here on v_init is 0")
        ratio = self.ratio or _ratio(context.timesteps, charged == len(hidden))
        for i, (node, reader) in enumerate(zip(hidden, readers, strict=True)):
            assert reader is not None
            graph.set_op(
                node.name,
                attrs.evolve(
                    node.op.scale_input(np.asarray(1 / ratio)),
                    v_threshold=node.op.v_threshold * ratio,
                    v_reset=np.zeros(()),
                    v_init=node.op.v_init * ratio if i < charged else np.zeros(()),
                    out_scale=None if node.op.out_scale is None else node.op.out_scale * ratio,
                ),
            )
            graph.set_op(reader, graph.get(reader, Weighted).scale_input(np.full(1, ratio)))
        if hidden:
            context.note("", f"hard reset to zero in {len(hidden)} layer(s), thresholds times {ratio:g}")
        return len(hidden)


def _ratio(timesteps: int | None, charged: bool) -> float:
    if charged:
        return 3.0 if timesteps is None else min(max(timesteps / 8, 2.0), 8.0)
    return 1.0 if timesteps is not None and timesteps < 32 else 2.0


def _can_charge(graph: Graph, name: str) -> bool:
    """Whether a pulse through the layer in front of a neuron charges all of them alike, whatever it pads."""
    (source,) = graph.operands(name)
    op, shape = graph[source], graph.type(source).shape
    return not isinstance(op, Conv) or op.inner_tap(graph.type(graph.operands(source)[0]).shape, shape) is not None
