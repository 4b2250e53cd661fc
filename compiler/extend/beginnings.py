"""What sweeps of nearly the same graph found at their first layers, so that the next one need not find it again."""

from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import numpy as np

from spikec.ir.graph import Graph
from spikec.ir.op import Op
from spikec.ir.ops import Neuron

T = TypeVar("T")

#: a node, with its op and its operands
_Part = tuple[str, Op, tuple[str, ...]]


@attrs.frozen(eq=False)
class Beginnings:
    """Remembers what was computed at some nodes, as long as all that stands in front of them says the same.

    All of it must have been computed for the same samples. Of each node only what was computed last is held.
    """

    _found: dict[tuple[Any, ...], tuple[list[_Part], Any]] = attrs.field(factory=dict)

    def once(self, key: tuple[Any, ...], graph: Graph, name: str, make: Callable[[], T]) -> T:
        """Return what ``make`` makes of a node and all in front of it, or has made of one that says the same.

        Args:
            key: what is made of which node, and for how many samples and steps.
            graph, name: the node.
            make: called where the ops are not those of the last call.
        """
        parts: list[_Part] = [(each, graph[each], graph.operands(each)) for each in (name, *graph.before(name))]
        known, found = self._found.get(key, ([], None))
        if len(known) != len(parts) or not all(map(_alike, known, parts)):
            self._found.pop(key, None)  # before another one takes memory
            found = make()
            self._found[key] = parts, found
        made: T = found
        return made


def _alike(one: _Part, other: _Part) -> bool:
    """Whether two nodes are the same, or neurons with equal numbers."""
    (name, op, operands), (other_name, other_op, other_operands) = one, other
    if name != other_name or operands != other_operands:
        return False
    if op is other_op or type(op) is not type(other_op) or not isinstance(op, Neuron):
        return op is other_op
    values = other_op.parameters()
    return all(np.array_equal(value, values[field]) for field, value in op.parameters().items())
