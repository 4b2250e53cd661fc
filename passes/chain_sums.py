"""Residual sums become sums along one chain, for targets whose readers run a graph depth first."""

import functools
import itertools
import operator
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.ops import Add, Conv, Linear, Weighted
from spikec.ir.ops.weighted import block_diagonal, pointwise, spread_kernel
from spikec.ir.stages import FINAL
from spikec.ir.types import Array, channel_scale, sealed

#: a kernel, [O, I, *kernel], and its zeros in front of each axis and behind it
Kernel = tuple[Array, tuple[tuple[int, int], ...]]


@attrs.frozen
class ChainSums(Pass):
    """Put the weights on a skip connection into the main branch, so that only edges without layers skip.

    A reader that runs a graph depth first comes to the sum of two branches when it has run one of them. Where a
    branch is a single affine layer p of the signal u from which the others come too, p moves to the head of them: it
    becomes [p(u); u], with u beside its own channels (each window of a stride of s as s*s channels). The others read u
    from there, and the sum adds all channels of it and takes those of p: the sum of what was summed before.
    """

    name = "chain-sums"
    needs = (FINAL,)

    def run(self, graph: Graph, context: Context) -> int:
        """Move one layer after the other; note the sums that keep two branches with layers."""
        changes = 0
        while (found := next(_movable(graph), None)) is not None:
            _move(graph, *found)
            changes += 1
        for total, operands in _branching(graph, _Upstream(graph)):
            context.note(
                total,
                f"sums {' and '.join(f'%{x}' for x in operands)}, which are behind different layers: readers that run "
                "a graph depth first add what one of them gave a step before",
            )
        return changes


class _Upstream:
    """What is in front of each node, however far, as the bits of a number. It holds until the graph changes."""

    def __init__(self, graph: Graph) -> None:
        self.place = {name: i for i, name in enumerate(graph)}
        self._found = dict.fromkeys(self.place, 0)
        while sum(self._swept(graph, name) for name in self.place):  # again, as loops go back
            pass

    def _swept(self, graph: Graph, name: str) -> bool:
        operands = (self._found[x] | 1 << self.place[x] for x in graph.operands(name))
        found = functools.reduce(operator.or_, operands, 0) & ~(1 << self.place[name])
        is_new, self._found[name] = found != self._found[name], found
        return is_new

    def has(self, name: str, each: str) -> bool:
        """Whether ``each`` is in front of ``name``."""
        return bool(self._found[name] >> self.place[each] & 1)


def _branching(graph: Graph, upstream: _Upstream) -> list[tuple[str, list[str]]]:
    """Return sums of which two operands do not follow each other, with these."""
    found = []
    for node in graph.match(Add):
        operands = list(dict.fromkeys(graph.operands(node.name)))
        order = sorted(operands, key=upstream.place.__getitem__)
        if not all(upstream.has(b, a) for a, b in itertools.pairwise(order)):
            found.append((node.name, operands))
    return found


def _movable(graph: Graph) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (sum, affine operand on a skip, the layers that its source feeds and the other operands are behind)."""
    upstream = _Upstream(graph)
    for total, operands in _branching(graph, upstream):
        for skip in operands:
            op = graph[skip]
            if not isinstance(op, (Linear, Conv)) or len(graph.users(skip)) > 1:
                continue
            (source,) = graph.operands(skip)
            others = [x for x in operands if x != skip]
            if not all(upstream.has(x, source) for x in others):
                continue
            users = [user for user, _ in graph.users(source) if not isinstance(graph[user], Add)]
            heads = [user for user in users if any(user == x or upstream.has(x, user) for x in others)]
            if heads and all(_readable(graph, skip, head) for head in heads):
                yield total, skip, heads
                return


def _readable(graph: Graph, skip: str, head: str) -> bool:
    """Whether a layer can be written to read its signal from beside that of the skip."""
    op, other = graph[skip], graph[head]
    if not isinstance(op, Conv):
        return True
    size = graph.type(graph.operands(skip)[0]).shape[1:]
    if graph.type(skip).shape[1:] != tuple(-(-n // s) for n, s in zip(size, op.stride, strict=True)):
        return False
    if not isinstance(other, Conv):
        return set(op.stride) == {1}
    return other.stride == op.stride and coarse(graph, head, other, graph.type(skip).shape[1:]) is not None


def _move(graph: Graph, total: str, skip: str, heads: list[str]) -> None:
    op = graph[skip]
    assert isinstance(op, (Linear, Conv))
    (source,) = graph.operands(skip)
    signal, given = graph.type(source), graph.type(skip)
    out = op.out_features
    cells = 1 if isinstance(op, Linear) else int(np.prod(op.stride))
    scale = np.broadcast_to(channel_scale(signal, 0, "chain"), (signal.shape[0],))
    scales = np.concatenate([np.broadcast_to(op.out_scale, (out,)), np.repeat(scale, cells)])
    wide = graph.add(beside(op, signal.shape, scales), source, name=f"{skip}_wide")
    for head in heads:
        _read_from(graph, head, source, wide, out)
    # the sum: all channels of every operand, then those of the skip
    common = channel_scale(graph.type(total), 0, "chain")
    joined = graph.add(
        Add(origin=graph[total].origin),
        *(wide if operand == skip else _widened(graph, operand, scales, common) for operand in graph.operands(total)),
        name=f"{total}_wide",
    )
    picks = pointwise(sealed(np.eye(out, scales.size)), None, len(given.shape), in_scale=scales, out_scale=common)
    graph.set_op(total, picks)
    summed = graph.operands(total)
    graph.set_operands(total, joined)
    for name in summed:
        graph.remove_dead(name)


def _widened(graph: Graph, name: str, scales: Array, common: Array) -> str:
    """Return a node that gives what one gives, and zeros in further channels."""
    op, rank = graph[name], len(graph.type(name).shape)
    if isinstance(op, (Linear, Conv)) and len(graph.users(name)) == 1:
        more = scales.size - op.out_features
        dense = block_diagonal(op.weight, op.groups) if isinstance(op, Conv) else op.weight
        weight = sealed(np.pad(dense, [(0, more), *[(0, 0)] * (op.weight.ndim - 1)]))
        fields: dict[str, Any] = {"bias": np.pad(op.shift, (0, more)), "out_scale": scales}
        fields |= {"groups": 1} if isinstance(op, Conv) else {}
        return graph.add(attrs.evolve(op, weight=weight, **fields), *graph.operands(name), name=f"{name}_wide")
    embed = pointwise(
        sealed(np.eye(scales.size, graph.type(name).shape[0])), None, rank, in_scale=common, out_scale=scales
    )
    return graph.add(embed, name, name=f"{name}_wide")


def beside(op: Linear | Conv, shape: tuple[int, ...], scales: Array) -> Weighted:
    """Return the layer that gives what an affine layer gives, and its operand beside it."""
    channels = shape[0]
    shift = np.concatenate([op.shift, np.zeros(scales.size - op.out_features)]) if op.bias is not None else None
    fields: dict[str, Any] = {"in_scale": op.in_scale, "out_scale": scales, "origin": op.origin}
    if isinstance(op, Linear):
        return Linear(sealed(np.concatenate([op.weight, np.eye(channels)])), shift, **fields)
    cells = list(np.ndindex(*op.stride))
    windows = np.zeros((channels, len(cells), channels, *op.stride))
    for i, cell in enumerate(cells):
        at: tuple[Any, ...] = (np.arange(channels), i, np.arange(channels), *cell)
        windows[at] = 1
    windows = windows.reshape(-1, channels, *op.stride)
    own = spread_kernel(block_diagonal(op.weight, op.groups), op.dilation)
    ends = tuple((0, -size % s) for size, s in zip(shape[1:], op.stride, strict=True))
    weight, padding = joined((own, op.padding), (windows, ends))
    return Conv(weight, shift, stride=op.stride, padding=padding, **fields)


def joined(first: Kernel, second: Kernel, along: int = 0) -> Kernel:
    """Return the kernel of two with the same stride, with zeros around the smaller.

    Args:
        first: kernel.
        second: kernel.
        along: 0: it gives the channels of both; 1: it sums what both give of channels of their own.
    """
    weights, padding = [first[0], second[0]], []
    for axis, (one, other) in enumerate(zip(first[1], second[1], strict=True)):
        front = max(one[0], other[0])
        sizes = [front - pad[0] + w.shape[axis + 2] for pad, w in ((one, weights[0]), (other, weights[1]))]
        for i, pad in enumerate((one, other)):
            widths = [(0, 0)] * weights[i].ndim
            widths[axis + 2] = (front - pad[0], max(sizes) - sizes[i])
            weights[i] = np.pad(weights[i], widths) if any(widths[axis + 2]) else weights[i]
        behind = one[1] + max(sizes) - sizes[0]
        padding.append((front, behind))
    return sealed(np.concatenate(weights, along)), tuple(padding)


def _read_from(graph: Graph, head: str, source: str, wide: str, out: int) -> None:
    """Let a layer take its operand from the channels behind those of the skip."""
    op, scales = graph[head], channel_scale(graph.type(wide), 0, "chain")
    slots = [slot for slot, operand in enumerate(graph.operands(head)) if operand == source]
    if isinstance(op, Linear):
        weight = sealed(np.concatenate([np.zeros((op.out_features, out)), op.weight], 1))
        graph.set_operand(head, 0, wide)
        graph.set_op(head, attrs.evolve(op, weight=weight, in_scale=scales))
        return
    found = coarse(graph, head, op, graph.type(wide).shape[1:]) if isinstance(op, Conv) else None
    if isinstance(op, Conv) and found is not None:
        weight, padding = found
        weight = sealed(np.concatenate([np.zeros((len(weight), out, *weight.shape[2:])), weight], 1))
        graph.set_operand(head, 0, wide)
        fields: dict[str, Any] = {"groups": 1, "stride": (1,) * len(padding), "dilation": (1,) * len(padding)}
        graph.set_op(head, attrs.evolve(op, weight=weight, padding=padding, in_scale=scales, **fields))
        return
    count, signal = graph.type(wide).shape[0] - out, graph.type(source)
    scale = channel_scale(signal, 0, "chain")
    eye = np.concatenate([np.zeros((count, out)), np.eye(count)], 1)
    again = graph.add(
        pointwise(eye, None, len(signal.shape), in_scale=scales, out_scale=scale), wide, name=f"{source}_again"
    )
    for slot in slots:
        graph.set_operand(head, slot, again)


def coarse(graph: Graph, head: str, op: Conv, size: tuple[int, ...]) -> Kernel | None:
    """Return a convolution's kernel for its operand's windows of one stride as channels; None if it needs a cut.

    Args:
        graph: of the convolution.
        head: its name.
        op: the convolution.
        size: of the map of windows.
    """
    weight = spread_kernel(block_diagonal(op.weight, op.groups), op.dilation)
    starts = [-(-pad[0] // s) for pad, s in zip(op.padding, op.stride, strict=True)]
    taps = list(zip(weight.shape[2:], op.padding, op.stride, starts, strict=True))
    sides = [(k - 1 - pad[0]) // s + start + 1 for k, pad, s, start in taps]
    padding = tuple(
        (start, windows - count - start + side - 1)
        for start, windows, count, side in zip(starts, graph.type(head).shape[1:], size, sides, strict=True)
    )
    if min(map(min, padding)) < 0 or min(sides) < 1:
        return None
    if set(op.stride) == {1}:
        return weight, padding
    coarse = np.zeros((weight.shape[0], weight.shape[1], *op.stride, *sides))
    for cell in np.ndindex(*weight.shape[2:]):
        parts = [divmod(c - pad[0] + start * s, s) for c, (_, pad, s, start) in zip(cell, taps, strict=True)]
        all_channels = (slice(None), slice(None))
        there: tuple[Any, ...] = (*all_channels, *(i for _, i in parts), *(q for q, _ in parts))
        here: tuple[Any, ...] = (*all_channels, *cell)
        coarse[there] = weight[here]
    return sealed(coarse.reshape(weight.shape[0], -1, *sides)), padding
