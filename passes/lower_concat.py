"""Concatenations become sums of the next affine op's parts, for targets that have no concat."""

from collections.abc import Sequence

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph, Node
from spikec.ir.ops import Add, Concat, Weighted
from spikec.ir.ops.weighted import pointwise
from spikec.ir.origin import merge
from spikec.ir.stages import SPIKING
from spikec.ir.types import channel_scale


@attrs.frozen
class LowerConcat(Pass):
    """``W concat(a, b) = W_a a + W_b b``: an affine op behind a concat of channels is split by its inputs.

    First the concat moves down through what works channel by channel, such as casts, neurons and pools, and through
    flatten (``Op.split``). Where its user is none of these, each part goes through a 1x1 convolution that places its
    channels.
    """

    name = "lower-concat"
    needs = (SPIKING,)
    looks_back = False

    def run(self, graph: Graph, context: Context) -> int:
        """Lower every concat along the channels, producers first."""
        changes = 0
        while node := next((n for n in graph.match(Concat) if _over_channels(graph, n)), None):
            for user in dict.fromkeys(user for user, _ in graph.users(node.name)):  # one may take it twice
                _lower(graph, node, user)
                changes += 1
            graph.remove_dead(node.name)
        for node in graph.match(Concat):
            context.note(node.name, f"concat along axis {node.op.axis} is not along the channels")
        return changes


def _over_channels(graph: Graph, node: Node[Concat]) -> bool:
    return node.op.axis % len(graph.type(node.name).shape) == 0


def _lower(graph: Graph, node: Node[Concat], user: str) -> None:
    op, parts = graph[user], graph.operands(node.name)
    if isinstance(op, Concat) and _over_channels(graph, Node(user, op)):
        flat = [x for operand in graph.operands(user) for x in (parts if operand == node.name else (operand,))]
        graph.set_op(user, attrs.evolve(op, origin=merge(op.origin, node.op.origin)))
        graph.set_operands(user, *flat)
        return
    alone = len(graph.operands(user)) == 1
    ops = op.split(_channels_of(graph, parts), graph.type(node.name)) if alone else None
    if ops is not None:
        split = enumerate(zip(ops, parts, strict=True))
        made = [graph.add(each, part, name=f"{user}_{i}") for i, (each, part) in split]
        origin = merge(op.origin, node.op.origin)
        graph.set_op(user, Add(origin=origin) if isinstance(op, Weighted) else Concat(origin=node.op.origin))
        graph.set_operands(user, *made)
        return
    total = _placed(graph, node)
    for each, slot in graph.users(node.name):
        if each == user:
            graph.set_operand(user, slot, total)


def _channels_of(graph: Graph, parts: Sequence[str]) -> list[slice]:
    """Where the channels of each part lie in the concat of all."""
    sizes = [graph.type(part).shape[0] for part in parts]
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def _placed(graph: Graph, node: Node[Concat]) -> str:
    """Add the concat as a sum of 1x1 convolutions, each of which places its part's channels."""
    whole, parts = graph.type(node.name), graph.operands(node.name)
    out_scale = channel_scale(whole, 0, "concat")
    made = []
    for i, (part, rows) in enumerate(zip(parts, _channels_of(graph, parts), strict=True)):
        weight, in_scale = np.eye(whole.shape[0])[:, rows], channel_scale(graph.type(part), 0, "concat")
        rank, origin = len(whole.shape), node.op.origin
        place = pointwise(weight, None, rank, in_scale=in_scale, out_scale=out_scale, origin=origin)
        made.append(graph.add(place, part, name=f"{node.name}_{i}"))
    return graph.add(Add(origin=node.op.origin), *made, name=f"{node.name}_sum")
