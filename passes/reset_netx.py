"""Neurons of layers that netx can only reset to zero."""

import math
from collections.abc import Sequence
from typing import Literal

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph, Node
from spikec.ir.loihi import UNROLLED
from spikec.ir.ops import IF, Conv, Linear, LoihiNeuron, Neuron, Weighted
from spikec.ir.rewrite import SHAPES, before_shapes, follow
from spikec.ir.stages import FINAL


@attrs.frozen
class ResetNetx(Pass):
    """Hard reset in the layers that have a convolution in front of them, or in all if the user asks for it.

    Where there are convolutions, layers so large have it too that the matrix by which their spikes come back, of the
    square of their size, would be all that the file is.

    A neuron that is reset to zero loses what lies above its threshold, less of it the rarer it fires: where soft reset
    becomes hard, the threshold (and v_init) becomes ``ratio`` times what it was, and the next weights too (the SNN
    toolbox calls it ``desired_threshold_to_input_ratio``). A neuron that was hard before keeps its threshold; an IF
    that is reset to another value than zero counts its potential from there.

    To start at v_init a neuron takes a pulse at step 0, over a cell of the kernel that never lies on padding; from the
    first convolution on that has none, neurons start at 0.

    A LoihiNeuron is left as it is, but for one behind a convolution whose spikes lower its current: that is reset to
    zero.

    Attributes:
        reset: ``auto``, ``soft`` or ``hard``.
        ratio: None for T/8, but within 2 and 8, and 3 where no T is given: eight spikes a neuron at most. Where
            neurons start at 0, None is 2, and 1 below 32 steps. A whole number loses nothing where neurons relay
            spikes, because they reach it and do not exceed it.
    """

    name = "reset-netx"
    contract = "approximate"
    needs = (FINAL,)

    reset: Literal["auto", "soft", "hard"] = "auto"
    ratio: float | None = None

    def run(self, graph: Graph, context: Context) -> int:
        """Change the neurons of the file. The first ones are the host's, which resets by subtraction."""
        hidden = graph.match(Neuron)[1:]
        layers = [before_shapes(graph, node.name) for node in hidden]
        readers = [follow(graph, node.name, Weighted, SHAPES) for node in hidden]
        on_maps = {
            node.name for node, layer in zip(hidden, layers, strict=True) if not isinstance(graph[layer], Linear)
        }
        changes = sum(_harden(graph, node, context) for node in graph.match(LoihiNeuron) if node.name in on_maps)
        hard = [node for node in hidden if node.op.v_reset is not None and not isinstance(node.op, LoihiNeuron)]
        soft = [(node, layer) for node, layer in zip(hidden, layers, strict=True) if node.op.v_reset is None]
        if hard and self.reset != "hard":
            context.note(hard[0].name, f"{len(hard)} layer(s) have hard reset in the model, and keep it")
        cleared = self._cleared(graph, soft)
        if not (cleared or hard) or None in readers:
            return changes
        charged = next((i for i, layer in enumerate(layers) if not _can_charge(graph, layer)), len(hidden))
        if charged < len(hidden):
            context.note(hidden[charged].name, "no cell of the kernel stays on the map: from here on v_init is 0")
        ratio = self.ratio or _ratio(context.timesteps, charged == len(hidden))
        for i, (node, reader) in enumerate(zip(hidden, readers, strict=True)):
            assert reader is not None
            if isinstance(node.op, LoihiNeuron) or (node.op.v_reset is None and node.name not in cleared):
                continue
            factor = ratio if node.op.v_reset is None else 1.0
            changed = _hard(graph, node, factor, starts=i < charged)
            changes += changed is not node.op
            graph.set_op(node.name, changed)
            if factor != 1:
                graph.set_op(reader, graph.get(reader, Weighted).scale_input(np.full(1, factor)))
        if cleared:
            say = context.warn if context.reference.is_spiking else lambda message: context.note("", message)
            say(f"hard reset to zero in {len(cleared)} layer(s), thresholds times {ratio:g}")
        return changes

    def _cleared(self, graph: Graph, soft: Sequence[tuple[Node[Neuron], str]]) -> set[str]:
        """Name the neurons that are to be reset to zero, of those with the layers in front of them."""
        if self.reset == "hard":
            return {node.name for node, _ in soft}
        on_maps = {node.name for node, layer in soft if isinstance(graph[layer], Conv)}
        if self.reset == "soft" or not on_maps:
            return set()
        return on_maps | {node.name for node, _ in soft if math.prod(graph.type(node.name).shape) > UNROLLED}


def _hard(graph: Graph, node: Node[Neuron], factor: float, starts: bool) -> Neuron:
    """Return a neuron with hard reset to zero; ``starts`` where it may start at its v_init."""
    op = node.op
    rest = np.zeros(()) if op.v_reset is None or not isinstance(op, IF) else op.v_reset
    start = op.v_init * factor - rest if starts else np.zeros(())
    if op.v_reset is not None and not rest.any() and np.array_equal(start, op.v_init):
        return op
    return attrs.evolve(
        op.scale_input(np.asarray(1 / factor)),
        v_threshold=op.v_threshold * factor - rest,
        v_reset=np.zeros(()) if op.v_reset is None or rest.any() else op.v_reset,
        v_init=start,
        out_scale=graph.type(node.name).scale * factor if op.out_scale is not None or rest.any() else None,
    )


def _harden(graph: Graph, node: Node[LoihiNeuron], context: Context) -> bool:
    """Let the potential leak, and be cleared, of a neuron whose spikes lower its current; say so."""
    op = node.op
    if not op.subtracts:
        return False
    graph.set_op(node.name, attrs.evolve(op, decay=op.decay_syn, decay_syn=op.decay, feedback=np.zeros(())))
    where = "behind a convolution, which cannot have spikes come back to it"
    context.warn(f"a neuron that leaks is reset to zero in the file, and not by subtraction: it is {where}", node.name)
    return True


def _ratio(timesteps: int | None, charged: bool) -> float:
    if charged:
        return 3.0 if timesteps is None else float(min(max(round(timesteps / 8), 2), 8))
    return 1.0 if timesteps is not None and timesteps < 32 else 2.0


def _can_charge(graph: Graph, layer: str) -> bool:
    """Whether a pulse through a layer charges the neurons behind it all alike, whatever it pads."""
    op, shape = graph[layer], graph.type(layer).shape
    return not isinstance(op, Conv) or op.inner_tap(graph.type(graph.operands(layer)[0]).shape, shape) is not None
