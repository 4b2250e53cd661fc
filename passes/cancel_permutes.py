"""Transpositions around layers, as channels-last models have them, cancel."""

from collections.abc import Callable, Sequence
from functools import partial

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.graph import Graph, Node
from spikec.ir.op import Op
from spikec.ir.ops import Flatten, Linear, Permute, Reshape
from spikec.ir.origin import merge
from spikec.ir.rewrite import Kinds, rewrite
from spikec.ir.stages import ANN

#: kinds of nodes that follow each other, and what rewrites them
Rules = Sequence[tuple[tuple[Kinds, ...], Callable[..., bool]]]


@attrs.frozen
class CancelPermutes(Pass):
    """A permute sinks until it meets another one::

    f(p(x))            = p(f'(x))       for ops that work element by element or along axes (``Op.permuted``)
    q(p(x))            = (q p)(x)       and nothing where q undoes p
    p(x)               = reshape(x)     where only axes of length 1 change places, and nothing else fires
    reshape(reshape(x)) = reshape(x)
    linear(flatten(p(x))) = linear'(flatten(x)), with the weight's columns in x's order

    So does a reshape to a single number, behind ops that work element by element: layers have an axis for channels.
    """

    name = "cancel-permutes"
    needs = ANN

    def run(self, graph: Graph, context: Context) -> int:
        """Apply the rules until none fires."""
        changes = 0
        while fired := _fire(graph, _RULES) or _fire(graph, _LAST):
            changes += fired
        return changes


def _fire(graph: Graph, rules: Rules) -> int:
    return sum(rewrite(graph, kinds, partial(rule, graph), shared=True) for kinds, rule in rules)


def _compose(graph: Graph, first: Node[Permute], second: Node[Permute]) -> bool:
    """A permute of a permute is one, or none."""
    axes = [first.op.axes[axis] for axis in second.op.axes]
    graph.set_operands(second.name, *graph.operands(first.name))
    if axes == sorted(axes):
        graph.drop(first.op.origin, "cancels with another transposition")
        graph.bypass(second.name, "cancels with another transposition")
    else:
        graph.set_op(second.name, Permute(axes, origin=merge(first.op.origin, second.op.origin)))
    graph.remove_dead(first.name)
    return True


def _reshape(graph: Graph, permute: Node[Permute]) -> bool:
    """A permute that moves no axis longer than 1 past another is a reshape."""
    shape = graph.type(graph.operands(permute.name)[0]).shape
    long = [axis for axis in permute.op.axes if shape[axis] != 1]
    if long != sorted(long):
        return False
    graph.set_op(permute.name, Reshape(graph.type(permute.name).shape, origin=permute.op.origin))
    return True


def _join(graph: Graph, first: Node[Op], second: Node[Op]) -> bool:
    """A reshape of a reshape is one, or none."""
    if len(graph.users(first.name)) > 1:
        return False
    shape, (source,) = graph.type(second.name).shape, graph.operands(first.name)
    origin = merge(first.op.origin, second.op.origin)
    graph.set_operands(second.name, source)
    if shape == graph.type(source).shape:
        graph.drop(origin, "gives the shape that was there before")
        graph.bypass(second.name)
    else:
        graph.set_op(second.name, Flatten(origin=origin) if len(shape) == 1 else Reshape(shape, origin=origin))
    graph.remove_dead(first.name)
    return True


def _sink(graph: Graph, permute: Node[Permute], user: Node[Op]) -> bool:
    """A permute of all operands moves behind the op."""
    axes, operands = permute.op.axes, graph.operands(user.name)
    permutes = [op for each in operands if isinstance(op := graph[each], Permute) and op.axes == axes]
    moved = user.op.permuted(axes)
    if moved is None or len(permutes) < len(operands):
        return False
    graph.set_operands(user.name, *(graph.operands(each)[0] for each in operands))
    graph.set_op(user.name, moved)
    origin = merge(*(op.origin for op in permutes))
    graph.insert_after(user.name, Permute(axes, origin=origin), new=f"{user.name}_order")
    for each in operands:
        graph.remove_dead(each)
    return True


def _absorb(graph: Graph, permute: Node[Permute], flatten: Node[Op], linear: Node[Linear]) -> bool:
    """A permute in front of a flatten whose only user is a matrix: the matrix's columns change places."""
    if len(graph.type(flatten.name).shape) != 1 or len(graph.users(flatten.name)) != 1:
        return False
    (source,) = graph.operands(permute.name)
    cells = np.arange(linear.op.in_features).reshape(graph.type(source).shape).transpose(permute.op.axes).reshape(-1)
    weight, origin = linear.op.weight[:, np.argsort(cells)], merge(linear.op.origin, permute.op.origin)
    graph.set_op(linear.name, attrs.evolve(linear.op, weight=weight, origin=origin))
    graph.set_operands(flatten.name, source)
    graph.set_op(flatten.name, Flatten(origin=flatten.op.origin))
    graph.remove_dead(permute.name)
    return True


def _keep_axis(graph: Graph, reshape: Node[Op], user: Node[Op]) -> bool:
    """A reshape of every operand to a single number moves behind the op, in front of which one axis is left."""
    operands = graph.operands(user.name)
    numbers = [each for each in operands if isinstance(graph[each], _RESHAPES) and graph.type(each).shape == ()]
    if len(numbers) < len(operands) or not user.op.elementwise:
        return False
    origin = merge(*(graph[each].origin for each in operands))
    for slot, each in enumerate(operands):
        graph.insert_before(user.name, slot, Reshape((1,), origin=origin), new=f"{each}_axis")
    graph.insert_after(user.name, Reshape((), origin=origin), new=f"{user.name}_number")
    return True


_RESHAPES = (Reshape, Flatten)
_RULES: Rules = (
    ((Permute, Permute), _compose),
    ((_RESHAPES, _RESHAPES), _join),
    ((Permute, Op), _sink),
    ((Reshape, Op), _keep_axis),
    ((Permute, _RESHAPES, Linear), _absorb),
)
#: what would hide from the others that a permute around the layers of a map of one cell cancels
_LAST: Rules = (((Permute,), _reshape),)
