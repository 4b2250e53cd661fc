"""Affine maps on their way through the graph, until ops take them in."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import attrs
import numpy as np

from spikec.ir.affine import Affine, BlockedError
from spikec.ir.graph import Graph
from spikec.ir.op import Op, StatefulOp
from spikec.ir.types import Array, Type

T = TypeVar("T")
#: moves a map by one node; what it gives is to be done next, in order
_Step = Callable[[], "list[_Step]"]
#: how many maps may reach a node, on the average, before they are said to go round
_VISITS = 100


@attrs.frozen(eq=False)
class Transport:
    """Collects what ops become when an affine map moves away from where it is.

    A pass subclasses it and says in ``into_result`` and ``into_operand`` which ops take a map in, every
    :class:`spikec.ir.ops.Weighted` among them; any other op passes it on as its own ``map_operands`` and
    ``map_result`` say. The graph changes when the pass writes the edits, which it must not do where a
    :class:`BlockedError` came out.

    Attributes:
        graph: where the maps move.
        edits: what ops become, by name. An op that is reached twice takes in both maps.
    """

    graph: Graph
    edits: dict[str, Op] = attrs.field(factory=dict)

    def into_result(self, name: str, op: Op, wanted: Affine) -> Op | None:
        """Return the op that gives ``wanted`` of what this one gives; None for one that passes the map on."""
        return None

    def into_operand(self, name: str, op: Op, lost: Affine) -> Op | None:
        """Return the op that does to x what this one does to ``lost`` of x; None for one that passes the map on."""
        return None

    def check(self, name: str, op: Op, maps: Sequence[Affine], result: Affine) -> None:
        """Raise a BlockedError where an op may not pass these maps on although its meaning would allow it."""

    def up(self, name: str, wanted: Affine) -> None:
        """Make a node, which may have one user only, give ``wanted`` of what it gives now."""
        self._walk(partial(self._up, name, wanted))

    def down(self, name: str, lost: Affine) -> None:
        """Make all users of a node do to it what they did to ``lost`` of it."""
        self._walk(partial(self._down, name, lost))

    def into(self, user: str, slot: int, lost: Affine) -> None:
        """Make one user do to one of its operands what it did to ``lost`` of it."""
        self._walk(partial(self._into, user, slot, lost))

    def _walk(self, first: _Step) -> None:
        """Do a step and all that follow from it, without recursion, as a graph may be deep."""
        todo = [first]
        for _ in range(_VISITS * len(self.graph)):
            if not todo:
                return
            todo += reversed(todo.pop()())
        if todo:
            raise BlockedError("lets the map go round in a circle")

    def _up(self, name: str, wanted: Affine) -> list[_Step]:
        op, operands = self.edits.get(name, self.graph[name]), self.graph.operands(name)
        if (users := len(self.graph.users(name))) > 1:
            raise BlockedError(f"%{name} has {users} users")
        taken = self._named(name, lambda: self.into_result(name, op, wanted))
        if taken is not None:
            self.edits[name] = taken
            return []
        maps = self._named(name, lambda: self._back(name, op, wanted))
        return [partial(self._up, operand, each) for operand, each in zip(operands, maps, strict=True)]

    def _down(self, name: str, lost: Affine) -> list[_Step]:
        return [partial(self._into, user, slot, lost) for user, slot in self.graph.users(name)]

    def _into(self, user: str, slot: int, lost: Affine) -> list[_Step]:
        op, operands = self.edits.get(user, self.graph[user]), self.graph.operands(user)
        taken = self._named(user, lambda: self.into_operand(user, op, lost))
        if taken is not None:
            self.edits[user] = taken
            return []
        others = [Affine.scaling(np.ones((1,) * len(t.shape))) for t in self._types(user)]
        maps = [*others[:slot], lost, *others[slot + 1 :]]
        steps: list[_Step] = []
        try:
            result = self._named(user, lambda: self._on(user, op, maps))
        except BlockedError:
            if len(operands) == 1 or lost.shifts or not (lost.gain > 0).all():
                raise
            # The operands of a sum are in one unit, so the others give the gain up too.
            rest = (*operands[:slot], *operands[slot + 1 :])
            steps += (partial(self._up, operand, Affine.scaling(1 / lost.gain)) for operand in rest)
            result = self._named(user, lambda: self._on(user, op, [lost] * len(operands)))
        return [*steps, partial(self._down, user, result)]

    def write(self) -> None:
        """Put the edits into the graph."""
        for name, op in self.edits.items():
            self.graph.set_op(name, op)

    def _back(self, name: str, op: Op, wanted: Affine) -> list[Affine]:
        maps = op.map_operands(wanted, self._types(name))
        self.check(name, op, maps, wanted)
        if isinstance(op, StatefulOp):
            self._divide(name, op, 1 / maps[0].gain)
        return maps

    def _on(self, name: str, op: Op, maps: Sequence[Affine]) -> Affine:
        result = op.map_result(maps, self._types(name))
        self.check(name, op, maps, result)
        if isinstance(op, StatefulOp):
            self._divide(name, op, maps[0].gain)
        return result

    def _divide(self, name: str, op: StatefulOp, lost: Array) -> None:
        """Change an op with memory, which has its operand's units in it, where those change."""
        divided = op.divided(lost)
        if divided is None:
            raise BlockedError("has a state in its operand's units")
        self.edits[name] = divided

    def _types(self, name: str) -> list[Type]:
        return [self.graph.type(operand) for operand in self.graph.operands(name)]

    def _named(self, name: str, question: Callable[[], T]) -> T:
        """Answer a question about a node, which an error from it names."""
        try:
            return question()
        except BlockedError as why:
            raise BlockedError(f"%{name} ({self.graph[name].kind}) {why}") from None
