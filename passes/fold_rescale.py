"""Every cast between scales disappears into weights, thresholds or the output's scale."""

from __future__ import annotations

from typing import ClassVar, Literal

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.errors import TypeMismatchError, UnsupportedOpError
from spikec.ir.graph import Graph, Node
from spikec.ir.op import Op, Role, StatefulOp
from spikec.ir.ops import Concat, Neuron, Output, Rescale, Weighted
from spikec.ir.ops.weighted import diagonal
from spikec.ir.stages import FINAL, SPIKING, Stage
from spikec.ir.types import Array, Type, channel_scale, compress

Edits = dict[str, Op]


class BlockedError(Exception):
    """A factor cannot go that way; the message says what stops it."""


@attrs.frozen
class FoldRescale(Pass):
    """Move each Rescale to where it costs nothing.

    In this order: up into the affine ops that make the signal; down into the affine ops that take it, into
    neurons (``v_threshold / factor``) and outputs (the output's scale), through pools, shapes and sums; and
    if neither goes, it becomes a 1x1 depthwise convolution or a diagonal matrix. For an affine op between
    scales ``W' = W s_in / s_out``, ``b' = b / s_out`` (Rueckauer et al. 2017, sec. 2.2.1).

    Attributes:
        thresholds: what the target's neurons take: ``any`` shape, or one ``uniform`` value a layer.
    """

    name: ClassVar[str] = "fold-rescale"
    needs: ClassVar[tuple[Stage, ...]] = (SPIKING,)
    gives: ClassVar[Stage | None] = FINAL

    thresholds: Literal["any", "uniform"] = "any"

    def run(self, graph: Graph, context: Context) -> int:
        """Fold every Rescale, producers first."""
        nodes = graph.match(Rescale)
        for name in [node.name for node in nodes]:
            self._fold(graph, name, context)
        return len(nodes)

    def _fold(self, graph: Graph, name: str, context: Context) -> None:
        op = graph[name]
        assert isinstance(op, Rescale)
        (source,) = graph.operands(name)
        reasons = []
        if bool((op.factor == 1).all()):
            graph.bypass(name)
            return
        try:
            _apply(graph, _lift(graph, source, op.factor, through=name))
            graph.bypass(name)
            return
        except BlockedError as blocked:
            reasons.append(str(blocked))
        for user, slot in graph.users(name):
            try:
                edits: Edits = {}
                self._sink(graph, user, slot, op.factor, edits)
                _apply(graph, edits)
                graph.set_operand(user, slot, source)
            except BlockedError as blocked:
                reasons.append(str(blocked))
        if graph.users(name):
            context.note(name, f"became an affine op of its own: {'; '.join(reasons)}")
            graph.set_op(name, _as_affine(graph, Node(name, op), graph.type(source)))
        else:
            graph.remove(name)

    def _sink(self, graph: Graph, name: str, slot: int, factor: Array, edits: Edits) -> None:
        """Collect the edits after which a node takes its operand without that factor, and nothing changes."""
        op = graph[name]
        if name in edits:
            raise BlockedError(f"%{name} is reached twice")
        if isinstance(op, Output):
            return
        if isinstance(op, Weighted):
            edits[name] = op.scale_input(_vector(factor, graph.type(graph.operands(name)[slot]), op, name))
        elif isinstance(op, Rescale):
            edits[name] = attrs.evolve(op, factor=op.factor * factor)
        elif isinstance(op, Neuron):
            edits[name] = self._threshold(op, name, factor)
        else:
            edits[name] = _divided(op, name, factor)
            gain = self._pass_through(graph, name, slot, factor, edits)
            for user, position in graph.users(name):
                self._sink(graph, user, position, gain, edits)

    def _threshold(self, op: Neuron, name: str, factor: Array) -> Neuron:
        scaled = op.scale_input(factor)
        if self.thresholds == "uniform" and scaled.v_threshold.size > 1:
            raise BlockedError(f"%{name} would have different thresholds, the target takes one")
        return scaled

    def _pass_through(self, graph: Graph, name: str, slot: int, factor: Array, edits: Edits) -> Array:
        """The factor behind a pool, shape or sum, once one operand lost it; a sum's others give it up too."""
        op = graph[name]
        operands = graph.operands(name)
        types = [graph.type(x) for x in operands]
        scaled = [t.with_scale(t.scale * factor) if i == slot else t for i, t in enumerate(types)]
        try:
            after = op.infer(*scaled)
        except TypeMismatchError as error:
            if len(operands) == 1:
                raise BlockedError(f"%{name}: {error.problems[0].message}") from None
            for i, other in enumerate(operands):
                if i != slot:
                    _merge(edits, _lift(graph, other, 1 / factor, through=name))
            after = op.infer(*[t.with_scale(t.scale * factor) for t in types])
        return after.scale / graph.type(name).scale


def _divided(op: Op, name: str, factor: Array) -> Op:
    """The op that takes its operand divided by the factor and gives its result so."""
    if not isinstance(op, StatefulOp):
        return op
    divided = op.divided(factor)
    if divided is None:
        raise BlockedError(f"%{name} ({op.kind}) has a state in its operand's units")
    return divided


def _lift(graph: Graph, name: str, factor: Array, through: str) -> Edits:
    """The edits after which a node gives ``factor`` times what it did, seen by its only user ``through``."""
    op = graph[name]
    if [user for user, _ in graph.users(name)] != [through]:
        raise BlockedError(f"%{name} has other users")
    if isinstance(op, Weighted):
        return {name: op.scale_output(_vector(factor, graph.type(name), op, name))}
    if isinstance(op, Rescale):
        return {name: attrs.evolve(op, factor=op.factor * factor)}
    if op.role is Role.IO or isinstance(op, Neuron):
        raise BlockedError(f"%{name} ({op.kind}) has no weights")
    operands = graph.operands(name)
    factors = _operand_factors(graph, name, factor)
    edits: Edits = {name: _divided(op, name, 1 / factors[0])}
    for operand, each in zip(operands, factors, strict=True):
        _merge(edits, _lift(graph, operand, each, through=name))
    return edits


def _operand_factors(graph: Graph, name: str, factor: Array) -> list[Array]:
    """The factors on a pool's, shape's or sum's operands that put ``factor`` on its result."""
    op, out = graph[name], graph.type(name)
    types = [graph.type(x) for x in graph.operands(name)]
    if isinstance(op, Concat):
        axis = op.axis % len(out.shape)
        full = np.broadcast_to(
            factor,
            np.broadcast_shapes(factor.shape, tuple(size if i == axis else 1 for i, size in enumerate(out.shape))),
        )
        candidates = [np.split(full, np.cumsum([t.shape[axis] for t in types])[:-1], axis=axis)]
    else:
        candidates = [[each] * len(types) for each in _candidates(factor, types[0], out)]
    for candidate in candidates:
        try:
            after = op.infer(*[t.with_scale(t.scale / f) for t, f in zip(types, candidate, strict=True)])
        except TypeMismatchError:
            continue
        if after.encoding == out.with_scale(out.scale / factor).encoding:
            return list(candidate)
    raise BlockedError(f"%{name} ({op.kind}) does not let the factor through")


def _candidates(factor: Array, operand: Type, out: Type) -> list[Array]:
    found = []
    if factor.size == 1:
        found.append(factor.reshape((1,) * len(operand.shape)))
    if factor.ndim == len(operand.shape) and all(
        f in (1, size) for f, size in zip(factor.shape, operand.shape, strict=True)
    ):
        found.append(factor)
    if np.prod(out.shape) == np.prod(operand.shape):
        found.append(compress(np.broadcast_to(factor, out.shape).reshape(operand.shape)))
    return found


def _vector(factor: Array, signal: Type, op: Weighted, name: str) -> Array:
    """The factor over the op's features, if it is the same along the axes that share the weights."""
    try:
        return channel_scale(signal.with_scale(factor), op.axis, op.kind)
    except TypeMismatchError:
        raise BlockedError(f"%{name} shares its weights where the factor varies") from None


def _merge(edits: Edits, more: Edits) -> None:
    for name, op in more.items():
        if name in edits:
            raise BlockedError(f"%{name} is reached twice")
        edits[name] = op


def _apply(graph: Graph, edits: Edits) -> None:
    for name, op in edits.items():
        if graph[name] is not op:
            graph.set_op(name, op)


def _as_affine(graph: Graph, node: Node[Rescale], operand: Type) -> Op:
    rank = len(operand.shape)
    axis = 0
    factor = np.broadcast_to(node.op.factor, operand.shape)
    gain = np.moveaxis(factor, axis, 0).reshape(operand.shape[axis], -1)
    if not (gain == gain[:, :1]).all():
        raise UnsupportedOpError(
            graph.problem(
                node.name,
                "a scale that varies within a channel cannot be folded into any neighbour",
                "use Normalization(per_channel=False)",
            )
        )
    scale = channel_scale(operand, axis, "rescale")
    return diagonal(gain[:, 0], None, rank, in_scale=scale, out_scale=scale / gain[:, 0])
