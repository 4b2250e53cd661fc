"""Concatenations become sums of the next affine op's parts, for targets that have no concat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph, Node
from spikec.ir.op import Op
from spikec.ir.ops import (
    AdaptiveAvgPool,
    Add,
    AvgPool,
    Concat,
    Conv,
    Flatten,
    Linear,
    Neuron,
    Rescale,
    SumPool,
    Weighted,
)
from spikec.ir.origin import merge
from spikec.ir.stages import SPIKING, Stage
from spikec.ir.types import Array, Type, channel_scale


@attrs.frozen
class LowerConcat(Pass):
    """``W concat(a, b) = W_a a + W_b b``: an affine op behind a concat of channels is split by its inputs.

    First the concat moves down through casts, neurons, pools and flatten, which work channel by channel.
    Where its user is neither, each part goes through a 1x1 convolution that places its channels.
    """

    name: ClassVar[str] = "lower-concat"
    needs: ClassVar[tuple[Stage, ...]] = (SPIKING,)

    def run(self, graph: Graph, context: Context) -> int:
        """Lower every concat along the channels, producers first."""
        changes = 0
        while node := next((n for n in graph.match(Concat) if _over_channels(graph, n)), None):
            for user, _ in dict.fromkeys(graph.users(node.name)):
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
    types = [graph.type(part) for part in parts]
    if isinstance(op, (Rescale, Neuron, SumPool, AvgPool, AdaptiveAvgPool)) or _flattens_all(op):
        _replace(graph, user, _per_part(op, types), parts, Concat(origin=node.op.origin))
    elif isinstance(op, Linear) or (isinstance(op, Conv) and op.groups == 1):
        _replace(graph, user, _columns(op, types), parts, Add(origin=merge(op.origin, node.op.origin)))
    elif isinstance(op, Concat) and _over_channels(graph, Node(user, op)):
        flat = [x for operand in graph.operands(user) for x in (parts if operand == node.name else (operand,))]
        graph.set_op(user, attrs.evolve(op, origin=merge(op.origin, node.op.origin)))
        graph.set_operands(user, *flat)
    else:
        total = _placed(graph, node, types)
        for each, slot in graph.users(node.name):
            if each == user:
                graph.set_operand(user, slot, total)


def _replace(graph: Graph, user: str, ops: Sequence[Op], parts: Sequence[str], joined: Op) -> None:
    """``user(concat(parts))`` becomes ``joined(op(part), ...)`` under the user's name."""
    made = [graph.add(op, part, name=f"{user}_{i}") for i, (op, part) in enumerate(zip(ops, parts, strict=True))]
    graph.set_op(user, joined)
    graph.set_operands(user, *made)


def _flattens_all(op: Op) -> bool:
    return isinstance(op, Flatten) and op.start == 0 and op.end == -1


def _slices(types: Sequence[Type]) -> list[slice]:
    ends = np.cumsum([t.shape[0] for t in types])
    return [slice(int(end) - t.shape[0], int(end)) for end, t in zip(ends, types, strict=True)]


def _per_part(op: Op, types: Sequence[Type]) -> list[Op]:
    """The op on each part: parameters that differ by channel are cut along axis 0."""
    made = []
    for rows in _slices(types):
        cut: dict[str, Any] = {}
        for field in attrs.fields(type(op)):
            value = getattr(op, field.name)
            if isinstance(value, np.ndarray) and value.ndim and value.shape[0] > 1:
                cut[field.name] = value[rows]
        made.append(attrs.evolve(op, **cut))
    return made


def _columns(op: Weighted, types: Sequence[Type]) -> list[Op]:
    """The affine op on each part; the first keeps the bias."""
    made: list[Op] = []
    for i, rows in enumerate(_slices(types)):
        scale = op.in_scale[rows] if op.in_scale.size > 1 else op.in_scale
        bias = op.bias if i == 0 else None
        made.append(attrs.evolve(op, weight=op.weight[:, rows], bias=bias, in_scale=scale))
    return made


def _placed(graph: Graph, node: Node[Concat], types: Sequence[Type]) -> str:
    """The concat as a sum of 1x1 convolutions, each placing its part's channels."""
    whole = graph.type(node.name)
    out_scale = channel_scale(whole, 0, "concat")
    made = []
    for i, (part, rows) in enumerate(zip(graph.operands(node.name), _slices(types), strict=True)):
        weight = np.zeros((whole.shape[0], types[i].shape[0]))
        weight[rows] = np.eye(types[i].shape[0])
        in_scale = channel_scale(types[i], 0, "concat")
        place = _one_by_one(weight, len(whole.shape), in_scale, out_scale, node)
        made.append(graph.add(place, part, name=f"{node.name}_{i}"))
    return graph.add(Add(origin=node.op.origin), *made, name=f"{node.name}_sum")


def _one_by_one(weight: Array, rank: int, in_scale: Array, out_scale: Array, node: Node[Concat]) -> Weighted:
    if rank == 1:
        return Linear(weight, in_scale=in_scale, out_scale=out_scale, origin=node.op.origin)
    ones = (1,) * (rank - 1)
    return Conv(
        weight.reshape(*weight.shape, *ones),
        stride=ones,
        padding=(0,) * (rank - 1),
        dilation=ones,
        in_scale=in_scale,
        out_scale=out_scale,
        origin=node.op.origin,
    )
