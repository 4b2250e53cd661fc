"""Transpositions around layers, as channels-last models have them, cancel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph, Node
from spikec.ir.op import Op
from spikec.ir.ops import (
    Add,
    Clamp,
    Concat,
    Flatten,
    Head,
    Identity,
    LeakyRelu,
    Linear,
    Maximum,
    Minimum,
    Pad,
    Permute,
    Relu,
    Reshape,
    Slice,
)
from spikec.ir.origin import merge
from spikec.ir.stages import ANN, Stage


@attrs.frozen
class CancelPermutes(Pass):
    """A permute sinks until it meets another one::

    f(p(x))            = p(f(x))        for what works element by element, and slices, pads and concats
    q(p(x))            = (q p)(x)       and nothing where q undoes p
    p(x)               = reshape(x)     where only axes of length 1 change places
    reshape(reshape(x)) = reshape(x)
    linear(flatten(p(x))) = linear'(flatten(x)), with the weight's columns in x's order
    """

    name: ClassVar[str] = "cancel-permutes"
    needs: ClassVar[tuple[Stage, ...]] = ANN

    def run(self, graph: Graph, context: Context) -> int:
        """Apply the rules until none fires."""
        changes = 0
        while fired := sum(rule(graph, node) for rule, node in _candidates(graph) if node.name in graph):
            changes += fired
        return changes


Rule = Callable[[Graph, Node[Any]], bool]


def _candidates(graph: Graph) -> list[tuple[Rule, Node[Op]]]:
    return [(rule, node) for node in graph.match(Op) for kinds, rule in _RULES if isinstance(node.op, kinds)]


def _compose(graph: Graph, node: Node[Permute]) -> bool:
    """A permute of a permute is one, or none."""
    (inner,) = graph.operands(node.name)
    op, current = graph[inner], graph[node.name]
    if not isinstance(op, Permute) or not isinstance(current, Permute):
        return False
    (source,) = graph.operands(inner)
    axes = [op.axes[axis] for axis in current.axes]
    graph.set_operands(node.name, source)
    if axes == sorted(axes):
        graph.drop(op.origin, "cancels with another transposition")
        graph.bypass(node.name, "cancels with another transposition")
    else:
        graph.set_op(node.name, Permute(axes, origin=merge(op.origin, current.origin)))
    graph.remove_dead(inner)
    return True


def _flat(graph: Graph, node: Node[Permute]) -> bool:
    """A permute that moves no axis longer than 1 past another."""
    op = graph[node.name]
    shape = graph.type(graph.operands(node.name)[0]).shape
    if not isinstance(op, Permute):
        return False
    long = [axis for axis in op.axes if shape[axis] != 1]
    if long != sorted(long):
        return False
    graph.set_op(node.name, Reshape(graph.type(node.name).shape, origin=op.origin))
    return True


def _join(graph: Graph, node: Node[Reshape] | Node[Flatten]) -> bool:
    """A reshape of a reshape is one, or none."""
    (inner,) = graph.operands(node.name)
    before, op = graph[inner], graph[node.name]
    if not isinstance(before, (Reshape, Flatten)) or not isinstance(op, (Reshape, Flatten)):
        return False
    if len(graph.users(inner)) > 1:
        return False
    shape = graph.type(node.name).shape
    (source,) = graph.operands(inner)
    origin = merge(before.origin, op.origin)
    graph.set_operands(node.name, source)
    if shape == graph.type(source).shape:
        graph.drop(origin, "gives the shape that was there before")
        graph.bypass(node.name)
    else:
        graph.set_op(node.name, Flatten(origin=origin) if len(shape) == 1 else Reshape(shape, origin=origin))
    graph.remove_dead(inner)
    return True


def _sink(graph: Graph, node: Node[Any]) -> bool:
    """A permute of all operands moves behind the op."""
    permutes = graph.operands(node.name)
    ops = [graph[each] for each in permutes]
    first = ops[0]
    if not isinstance(first, Permute) or any(not isinstance(op, Permute) or op.axes != first.axes for op in ops):
        return False
    moved = _before(graph[node.name], first.axes)
    if moved is None:
        return False
    graph.set_operands(node.name, *(graph.operands(each)[0] for each in permutes))
    graph.set_op(node.name, moved)
    graph.insert_after(
        node.name, Permute(first.axes, origin=merge(*(op.origin for op in ops))), new=f"{node.name}_order"
    )
    for each in permutes:
        graph.remove_dead(each)
    return True


def _before(op: Op, axes: Sequence[int]) -> Op | None:
    """What does to x as ``op`` does to its permutation, if it is one op: axis i of that is axis ``axes[i]`` of x."""
    rank = len(axes)
    if isinstance(op, (Slice, Concat, Head)):
        return attrs.evolve(op, axis=axes[op.axis % rank])
    if isinstance(op, LeakyRelu):
        slope = op.slope.reshape((1,) * (rank - op.slope.ndim) + op.slope.shape)
        return attrs.evolve(op, slope=np.transpose(slope, np.argsort(axes)))
    if isinstance(op, Pad):
        if op.mode != "constant":
            return None
        sizes = ((0, 0),) * (rank - len(op.padding)) + op.padding
        return attrs.evolve(op, padding=[sizes[i] for i in np.argsort(axes)])
    return op


def _absorb(graph: Graph, node: Node[Linear]) -> bool:
    """A permute in front of a flatten whose only user is a matrix: the matrix's columns change places."""
    (flatten,) = graph.operands(node.name)
    op, linear = graph[flatten], graph[node.name]
    if not isinstance(op, (Flatten, Reshape)) or not isinstance(linear, Linear):
        return False
    (inner,) = graph.operands(flatten)
    permute = graph[inner]
    if not isinstance(permute, Permute) or len(graph.type(flatten).shape) != 1 or len(graph.users(flatten)) != 1:
        return False
    (source,) = graph.operands(inner)
    cells = np.arange(linear.in_features).reshape(graph.type(source).shape).transpose(permute.axes).reshape(-1)
    origin = merge(linear.origin, permute.origin)
    graph.set_op(node.name, attrs.evolve(linear, weight=linear.weight[:, np.argsort(cells)], origin=origin))
    graph.set_operands(flatten, source)
    graph.set_op(flatten, Flatten(origin=op.origin))
    graph.remove_dead(inner)
    return True


_RULES: tuple[tuple[tuple[type[Op], ...], Rule], ...] = (
    ((Permute,), _compose),
    ((Permute,), _flat),
    ((Reshape, Flatten), _join),
    ((Relu, Clamp, LeakyRelu, Identity, Add, Maximum, Minimum, Head, Slice, Concat, Pad), _sink),
    ((Linear,), _absorb),
)
