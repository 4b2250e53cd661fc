"""Batch norms become part of a neighbour's weights, or affine ops of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import attrs
import numpy as np
import torch

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph
from spikec.ir.op import Movement, Op
from spikec.ir.ops import (
    AdaptiveAvgPool,
    Add,
    AvgPool,
    BatchNorm,
    Concat,
    Conv,
    Flatten,
    Linear,
    Pad,
    Permute,
    Reshape,
    Slice,
    Upsample,
    Weighted,
)
from spikec.ir.ops.weighted import diagonal
from spikec.ir.origin import merge
from spikec.ir.stages import FOLDED, IMPORTED, RECEIVED, SPIKING, Stage
from spikec.ir.types import Array, Type, compress, on_axis


class BlockedError(Exception):
    """A batch norm cannot become part of other ops on this side; the message says why."""


@attrs.frozen(eq=False)
class _Affine:
    """``gain x + shift``; both are laid out as the sample is, each axis 1 or full."""

    gain: Array
    shift: Array

    def moved(self, move: Callable[[Array], Array]) -> _Affine:
        """The same on numbers that ``move`` moved."""
        return _Affine(move(self.gain), move(self.shift))

    def broadcast(self, shape: tuple[int, ...]) -> _Affine:
        """With every axis full."""
        return self.moved(lambda x: np.broadcast_to(x, shape))


Edits = dict[str, Op]


@attrs.frozen
class FoldBatchNorm(Pass):
    """With ``gain = weight / sqrt(var + eps)`` and ``shift = bias - mean gain``:

    - behind an affine op that nobody else uses: ``W' = gain W``, ``b' = gain b + shift``;
    - in front of affine ops only, where no zero padding would see the shift: ``W' = W gain``,
      ``b' = b + W shift``;
    - anywhere else it becomes a 1x1 depthwise convolution, or a diagonal matrix.

    Average pools, concats, sums and what only moves numbers about may stand between the norm and the affine op:
    gain and shift, laid out as the sample is, move with the numbers. Jacob et al. 2018, eq. 14, for the first.
    """

    name: ClassVar[str] = "fold-batchnorm"
    needs: ClassVar[tuple[Stage, ...]] = (IMPORTED, RECEIVED)
    gives: ClassVar[Stage | None] = FOLDED

    def reached(self, stage: Stage) -> Stage:
        """Real signals stay real; a model that came as a spiking one is a spiking graph now."""
        return SPIKING if stage is RECEIVED else FOLDED

    def run(self, graph: Graph, context: Context) -> int:
        """Fold every batch norm."""
        names = [node.name for node in graph.match(BatchNorm)]
        for name in names:
            op = graph[name]  # now: an earlier norm may have become part of this one
            assert isinstance(op, BatchNorm)
            rank = len(graph.type(name).shape)
            affine = _Affine(on_axis(op.gain, rank, 0), on_axis(op.shift, rank, 0))
            try:
                edits = _plan(graph, name, affine)
            except BlockedError as why:
                context.note(name, f"became an affine op of its own: {why}")
                graph.set_op(name, diagonal(op.gain, op.shift, rank, origin=op.origin))
                continue
            for each, folded in edits.items():
                graph.set_op(each, attrs.evolve(folded, origin=merge(graph[each].origin, op.origin)))
            graph.bypass(name)
        return len(names)


def _plan(graph: Graph, name: str, affine: _Affine) -> Edits:
    """The ops that become others so that the norm may go: its producers, or else its users."""
    reasons = []
    starts = ((_up, graph.operands(name)[0]), (_down, name))
    for fold, start in starts:
        edits: Edits = {}
        try:
            fold(graph, start, affine, edits)
        except BlockedError as why:
            reasons.append(str(why))
        else:
            return edits
    raise BlockedError("; ".join(reasons))


# ------------------------------------------------------------------- producers


def _up(graph: Graph, name: str, affine: _Affine, edits: Edits) -> None:
    """Make ``gain y + shift`` of what the node gives, which nobody else may use."""
    op, shape = graph[name], graph.type(name).shape
    if len(graph.users(name)) > 1:
        raise BlockedError(f"%{name} has {len(graph.users(name))} users")
    if isinstance(op, Weighted):
        gain, shift = (_vector(x, name, shape, op.axis % len(shape)) for x in (affine.gain, affine.shift))
        edits[name] = op.affine(gain, shift)
        return
    types = [graph.type(operand) for operand in graph.operands(name)]
    parts = _before(op, name, affine, types, shape)
    for operand, part in zip(graph.operands(name), parts, strict=True):
        _up(graph, operand, part, edits)


def _before(op: Op, name: str, affine: _Affine, types: list[Type], shape: tuple[int, ...]) -> list[_Affine]:
    """What to do to each operand so that the result is ``gain y + shift``."""
    old = types[0].shape if types else ()
    if isinstance(op, Add):
        return [affine, *(_Affine(affine.gain, np.zeros_like(affine.shift)) for _ in types[1:])]
    if isinstance(op, Concat):
        ends = np.cumsum([t.shape[op.axis] for t in types])[:-1]
        gains, shifts = (np.split(x, ends, op.axis) for x in attrs.astuple(affine.broadcast(shape)))
        return [_Affine(*pair) for pair in zip(gains, shifts, strict=True)]
    if isinstance(op, (AvgPool, AdaptiveAvgPool)):
        return [_through_pool(op, name, affine)]
    if isinstance(op, (Flatten, Reshape)):
        return [affine.broadcast(shape).moved(lambda x: x.reshape(old))]
    if isinstance(op, Permute):
        return [affine.moved(lambda x: x.transpose(np.argsort(op.axes)))]
    if isinstance(op, Slice):
        if compress(affine.gain).shape[op.axis] == compress(affine.shift).shape[op.axis] == 1:
            return [affine.moved(compress)]  # of the cells that are cut off too: nobody sees them
        rows = [slice(None)] * len(old)
        rows[op.axis] = slice(op.start, op.stop, op.step)
        gain, shift = np.ones(old), np.zeros(old)
        gain[tuple(rows)], shift[tuple(rows)] = affine.gain, affine.shift
        return [_Affine(gain, shift)]
    if isinstance(op, Upsample):
        _alike_in_space(name, affine)
        return [affine]
    if isinstance(op, Pad):
        _alike_in_space(name, affine)
        _no_zeros(op, name, affine)
        if len(op.padding) < len(old):
            return [affine]
    raise BlockedError(f"%{name} ({op.kind}) is no affine op over the same channels")


# ----------------------------------------------------------------------- users


def _down(graph: Graph, name: str, affine: _Affine, edits: Edits) -> None:
    """Make every user take the node's operand, or the moved operand, in place of ``gain x + shift``."""
    shape = graph.type(name).shape
    for user, slot in graph.users(name):
        op = edits.get(user, graph[user])
        if isinstance(op, Weighted):
            edits[user] = _behind(op, name, user, affine, shape)
        elif isinstance(op, BatchNorm):
            rank = len(shape)
            gain = on_axis(op.gain, rank, 0)
            edits[user] = _composed(op, user, _Affine(gain * affine.gain, gain * affine.shift), shape)
        elif isinstance(op, (AvgPool, AdaptiveAvgPool)):
            _down(graph, user, _through_pool(op, user, affine), edits)
        elif isinstance(op, Movement):
            if isinstance(op, Pad):
                _no_zeros(op, user, affine)
            fulls = [_Affine(np.ones(1), np.zeros(1)).broadcast(graph.type(x).shape) for x in graph.operands(user)]
            fulls[slot] = affine.broadcast(shape)
            moved = _Affine(_moved(op, [full.gain for full in fulls]), _moved(op, [full.shift for full in fulls]))
            _down(graph, user, moved, edits)
        else:
            raise BlockedError(f"its user %{user} ({op.kind}) is no affine op over the same channels")


def _moved(op: Movement, values: list[Array]) -> Array:
    """Values of the operands laid out as the result is; cells that are padded take their neighbour's."""
    return np.asarray(op.move_scale(*(torch.tensor(x)[None] for x in values))[0].numpy())


def _behind(op: Weighted, name: str, user: str, affine: _Affine, shape: tuple[int, ...]) -> Weighted:
    """``op(gain x + shift)``."""
    gain, shift = (_vector(x, name, shape, op.axis % len(shape)) for x in (affine.gain, affine.shift))
    if shift.any() and isinstance(op, Conv) and any(map(any, op.padding)):
        raise BlockedError(f"its user %{user} pads with zeros, which the shift would change")
    if shift.any() and not isinstance(op, (Conv, Linear)):
        raise BlockedError(f"its user %{user} ({op.kind}) does not spread a shift evenly")
    scaled = attrs.evolve(op.scale_input(gain), in_scale=op.in_scale)
    return scaled.affine(np.ones(1), _through(op, shift)) if shift.any() else scaled


def _composed(op: BatchNorm, user: str, before: _Affine, shape: tuple[int, ...]) -> BatchNorm:
    """The norm that also does what stood in front of it: the gain is its own already."""
    gain, shift = (_vector(x, user, shape, 0) for x in (before.gain, before.shift))
    nothing = np.zeros_like(gain)
    return BatchNorm(gain, shift + op.shift, nothing, np.ones_like(gain), 0.0, origin=op.origin)


def _through(op: Weighted, shift: Array) -> Array:
    """What a constant per input feature adds to each output feature."""
    weight = op.weight.astype(np.float64)
    per_tap = weight.reshape(*weight.shape[:2], -1).sum(2)
    if not isinstance(op, Conv):
        return np.asarray(per_tap @ shift)
    groups = per_tap.reshape(op.groups, -1, per_tap.shape[1])
    return np.asarray(np.einsum("goi,gi->go", groups, shift.reshape(op.groups, -1)).reshape(-1))


# ------------------------------------------------------------------------ both


def _vector(values: Array, name: str, shape: tuple[int, ...], axis: int) -> Array:
    """Values over a sample as a vector over its features, which must be all that they depend on."""
    small = compress(values)
    if any(size > 1 for i, size in enumerate(small.shape) if i != axis):
        raise BlockedError(f"it would differ within a channel of %{name}, which is no affine op over the same channels")
    return np.broadcast_to(small.reshape(-1), shape[axis : axis + 1]).astype(np.float64)


def _through_pool(op: AvgPool | AdaptiveAvgPool, name: str, affine: _Affine) -> _Affine:
    """An average of equal numbers is that number, but for zeros that are counted."""
    zeros = isinstance(op, AvgPool) and any(op.padding) and op.count_include_pad
    if zeros and affine.shift.any():
        raise BlockedError(f"%{name} ({op.kind}) averages zeros of its padding, which the shift would change")
    _alike_in_space(name, affine)
    return affine.moved(compress)


def _alike_in_space(name: str, affine: _Affine) -> None:
    if any(size > 1 for x in attrs.astuple(affine) for size in compress(x).shape[1:]):
        raise BlockedError(f"it would differ within a channel of %{name}")


def _no_zeros(op: Pad, name: str, affine: _Affine) -> None:
    if op.mode == "constant" and affine.shift.any() and any(size > 0 for pair in op.padding for size in pair):
        raise BlockedError(f"%{name} pads with zeros, which the shift would change")
