"""Channel shuffles, slices and crops become convolutions that pick, for targets that have no other way to move."""

from collections.abc import Sequence

import attrs
import numpy as np
import torch

from spikec.extend.passbase import Context, Pass
from spikec.ir.errors import TypeMismatchError
from spikec.ir.graph import Graph
from spikec.ir.op import Movement
from spikec.ir.ops import Concat, Conv, Linear, Slice, Weighted
from spikec.ir.ops.weighted import depthwise, pointwise
from spikec.ir.origin import merge
from spikec.ir.stages import SPIKING
from spikec.ir.types import Array, Type, channel_scale, on_axis


@attrs.frozen
class LowerMovement(Pass):
    """Movements become picks, ``y_c = x_pick(c)``, with a single 1 in each row of the weight.

    - A run of movements whose result holds whole channels of its operand (reshape, permute, reshape of a channel
      shuffle; a slice of channels) is a 1x1 convolution, or a matrix for vectors. What it does is found by moving
      an array of numbers.
    - A slice along a spatial axis is a depthwise convolution with one 1, strided as the slice is.

    A pick of channels whose users are all Linear or Conv of one group folds into their weights.
    """

    name = "lower-movement"
    needs = (SPIKING,)
    looks_back = False

    def run(self, graph: Graph, context: Context) -> int:
        """Lower the longest runs, then fold the picks that they became, producers first."""
        picks = []
        changes = 0
        for name in list(graph):
            for run in _runs(graph, name):
                (source,) = graph.operands(run[0])
                operand, result, first = graph.type(source), graph.type(run[-1]), graph[run[0]]
                channels = _channels(graph, run, operand, result)
                if channels is not None and np.array_equal(channels, np.arange(operand.shape[0])):
                    for each in run:
                        graph.bypass(each, "moves nothing")
                elif channels is not None:
                    _replace(graph, run, _pick(channels, operand, result))
                    picks.append(run[-1])
                elif len(run) == 1 and isinstance(first, Slice) and _is_uniform(operand):
                    _replace(graph, run, _crop(first, operand, result))
                else:
                    continue
                changes += 1
                break
        return changes + sum(_fold(graph, name) for name in picks)


def _runs(graph: Graph, name: str) -> list[list[str]]:
    """The runs of movements that start at a node, the longest first, whose inner results nobody else uses."""
    run: list[str] = []
    while name in graph and isinstance(graph[name], Movement) and not isinstance(graph[name], Concat):
        run.append(name)
        if len(graph.users(name)) != 1:
            break
        ((name, _),) = graph.users(name)
    return [run[:end] for end in range(len(run), 0, -1)]


def _replace(graph: Graph, run: Sequence[str], op: Weighted) -> None:
    """Put one op in the place of a run, under its last name."""
    (source,) = graph.operands(run[0])
    graph.set_op(run[-1], attrs.evolve(op, origin=merge(*(graph[name].origin for name in run))))
    graph.set_operands(run[-1], source)
    for name in reversed(run[:-1]):
        graph.remove(name)


def _is_uniform(signal: Type) -> bool:
    """Whether a signal is a map whose scale does not vary within a channel."""
    try:
        channel_scale(signal, 0, "conv")
    except TypeMismatchError:
        return False
    return 2 <= len(signal.shape) <= 4


def _channels(graph: Graph, run: Sequence[str], operand: Type, result: Type) -> Array | None:
    """[C]: which channel of the operand each channel of the result is; None if some is no whole channel.

    The run moves numbers that are all different, and they are looked for where they arrive.
    """
    if not result.shape or operand.shape[1:] != result.shape[1:]:
        return None
    if not (_is_uniform(operand) or len(operand.shape) == 1):
        return None
    numbers = np.arange(1.0, np.prod(operand.shape) + 1).reshape(operand.shape)
    moved = torch.tensor(numbers)[None]
    for name in run:
        moved = graph[name].eval(moved)
    found = moved[0].numpy().reshape(result.shape[0], -1)
    rows = numbers.reshape(operand.shape[0], -1)
    channels = ((found[:, 0] - 1) // rows.shape[1]).astype(np.int64)
    return channels if channels.min() >= 0 and np.array_equal(found, rows[channels]) else None


def _pick(channels: Array, operand: Type, result: Type) -> Weighted:
    weight = np.eye(operand.shape[0])[channels]
    scales = channel_scale(operand, 0, "pick"), channel_scale(result, 0, "pick")
    return pointwise(weight, None, len(operand.shape), in_scale=scales[0], out_scale=scales[1])


def _crop(op: Slice, operand: Type, result: Type) -> Conv:
    """The convolution that picks cells ``start + i step`` of an axis.

    Its kernel is just long enough to leave no room for a window behind the last of them.
    """
    axis = op.axis % len(operand.shape)
    size, count = operand.shape[axis], result.shape[axis]
    start = range(size)[op.start : op.stop : op.step][0]
    rank, stride = len(operand.shape) - 1, [1] * (len(operand.shape) - 1)
    stride[axis - 1] = op.step
    line = np.zeros(max(size - count * op.step + 1, start + 1))
    line[start] = 1.0
    return depthwise(on_axis(line, rank, axis - 1), operand, stride=stride)


def _fold(graph: Graph, name: str) -> int:
    """Fold a pick P into the affine ops W that take it, as ``W P``, if nothing else takes it."""
    op, users = graph.get(name, Weighted), graph.users(name)
    rank = len(graph.type(name).shape)
    taken = [graph[user] for user, _ in users]
    if not all(isinstance(each, Linear if rank == 1 else Conv) and getattr(each, "groups", 1) == 1 for each in taken):
        return 0
    (source,) = graph.operands(name)
    for user, slot in users:
        each = graph.get(user, Weighted)
        pick = op.weight.reshape(op.out_features, -1).astype(each.weight.dtype)
        weight = np.moveaxis(np.tensordot(each.weight, pick, (1, 0)), -1, 1)
        origin = merge(each.origin, op.origin)
        graph.set_op(user, attrs.evolve(each, weight=weight, in_scale=op.in_scale, origin=origin))
        graph.set_operand(user, slot, source)
    graph.remove(name)
    return 1
