"""Which op takes the results of which, under what names, and in an order that is always the same."""

from __future__ import annotations

import collections
import difflib
import heapq
import itertools
import operator
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypeVar

from spikec.ir.errors import CompileError, Problem
from spikec.ir.op import Op, Role
from spikec.ir.origin import Origin, describe

WiringT = TypeVar("WiringT", bound="Wiring")


class Wiring:
    """Ops by name; a use is a user and the operand's position, so that ``x + x`` is two uses of x.

    Iteration is topological with ties by insertion. Whatever is asked for, and whatever is changed, takes time by the
    nodes that it concerns, not by the size of the graph; only the order is found anew after a change of the wiring.

    Attributes:
        name: of the model, for dumps.
    """

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self._ops: dict[str, Op] = {}
        self._operands: dict[str, tuple[str, ...]] = {}
        self._users: dict[str, dict[str, tuple[int, ...]]] = {}  # the operands the other way round: user, positions
        self._unshared: set[str] = set()  # nodes whose users no copy of the graph looks at too
        self._order: tuple[str, ...] | None = None
        self._ends: tuple[str, ...] | None = None  # inputs and outputs
        self._timed: set[str] = set()
        self._taken: dict[str, int] = {}  # the number that was last given to a name, by the name without it

    # ------------------------------------------------------------------ look

    @property
    def nx(self) -> Any:
        """The same as ``networkx.MultiDiGraph``, each node with its ``op``, each edge with the operand's position."""
        import networkx  # takes as long as all of spikec, and is seldom needed

        graph = networkx.MultiDiGraph()
        graph.add_nodes_from((name, {"op": op}) for name, op in self._ops.items())
        graph.add_edges_from((x, name, slot) for name, xs in self._operands.items() for slot, x in enumerate(xs))
        return graph

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._ops

    def __len__(self) -> int:
        return len(self._ops)

    def __getitem__(self, name: str) -> Op:
        try:
            return self._ops[name]
        except KeyError:
            raise self._unknown(name) from None

    def __iter__(self) -> Iterator[str]:
        if self._order is None:
            self._order = self._sorted()
        return iter(self._order)

    def items(self) -> Iterator[tuple[str, Op]]:
        """Yield all names with their ops, in order."""
        return zip(self, map(self._ops.__getitem__, self), strict=True)

    def newest_first(self) -> Iterator[str]:
        """Yield all names, the one that was added last first."""
        return reversed(self._ops)

    def operands(self, name: str) -> tuple[str, ...]:
        """Return the names of the operands, in order."""
        try:
            return self._operands[name]
        except KeyError:
            raise self._unknown(name) from None

    def before(self, name: str) -> Iterator[str]:
        """Yield every other node in front of this one, however far, the nearest first."""
        seen, todo = {name}, collections.deque([name])
        while todo:
            for each in self.operands(todo.popleft()):
                if each not in seen:
                    seen.add(each)
                    todo.append(each)
                    yield each

    def users(self, name: str) -> list[tuple[str, int]]:
        """Return (user, operand position) for every use, outputs included."""
        try:
            uses = self._users[name]
        except KeyError:
            raise self._unknown(name) from None
        return [(user, slot) for user, slots in uses.items() for slot in slots]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs, in order of insertion."""
        return tuple(name for name in self._inputs_and_outputs() if self[name].arity == 0)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs, in order of insertion."""
        return tuple(name for name in self._inputs_and_outputs() if self[name].arity != 0)

    @property
    def is_spiking(self) -> bool:
        """Whether the graph runs in time."""
        return bool(self._timed)

    def same_as(self, other: Wiring) -> bool:
        """Whether another graph has the same op objects under the same names and wiring."""
        is_wired_alike = self._operands == other._operands and list(self._ops) == list(other._ops)
        return is_wired_alike and all(map(operator.is_, self._ops.values(), other._ops.values()))

    def location(self, name: str) -> str:
        """Name the user's layers behind a node; for one that a pass added, those of its nearest producer."""
        return describe(self._near(name))

    def _near(self, name: str) -> Origin:
        near = (self[each].origin for each in itertools.chain([name], self.before(name)))
        return next((origin for origin in near if origin), ())

    def problem(self, name: str, message: str, hint: str = "") -> Problem:
        """Make a problem card about one node."""
        call = f"%{name} = {self[name].kind}({', '.join('%' + x for x in self.operands(name))})"
        return Problem(message, self.location(name), call, hint, self._near(name))

    # ---------------------------------------------------------------- change

    def __deepcopy__(self: WiringT, memo: Any) -> WiringT:
        return self.copy()

    def copy(self: WiringT) -> WiringT:
        """Return another graph with the same ops; no array is copied."""
        other = type(self)()
        other.replace_with(self)
        return other

    def replace_with(self: WiringT, other: WiringT) -> None:
        """Hold what another graph holds, in place of what was held; no array is copied."""
        for field, value in vars(other).items():  # all of them, so that a field of tomorrow is not forgotten here
            setattr(self, field, value.copy() if hasattr(value, "copy") else value)
        self._unshared, other._unshared = set(), set()

    def _hold(self, name: str, op: Op) -> None:
        """Put an op under a name, which may have one."""
        if Role.IO in (op.role, self._ops.get(name, op).role):
            self._ends = None
        if name not in self._ops:
            self._users[name] = {}
            self._unshared.add(name)
        self._ops[name] = op
        (self._timed.add if op.timed else self._timed.discard)(name)

    def _wire(self, name: str, operands: tuple[str, ...]) -> None:
        """Let a node take these operands, instead of those that it has."""
        before = self._operands.get(name, ())
        for slot, (old, new) in enumerate(itertools.zip_longest(before, operands)):
            if old != new and old is not None:
                uses = self._users_to_change(old)
                left = tuple(each for each in uses[name] if each != slot)
                if left:
                    uses[name] = left
                else:
                    del uses[name]
            if old != new and new is not None:
                uses = self._users_to_change(new)
                uses[name] = (*uses.get(name, ()), slot)
        self._operands[name] = operands
        self._order = None

    def _users_to_change(self, name: str) -> dict[str, tuple[int, ...]]:
        """Return the users of a node, which are copied before where another graph looks at them too."""
        if name not in self._unshared:
            self._users[name] = self._users[name].copy()
            self._unshared.add(name)
        return self._users[name]

    def _take_out(self, name: str) -> None:
        """Forget a node that nobody uses."""
        self._wire(name, ())
        if self[name].role is Role.IO:
            self._ends = None
        del self._ops[name], self._operands[name], self._users[name]
        self._unshared.discard(name)
        self._timed.discard(name)
        wish, _, number = name.rpartition("_")
        if number.isdigit() and wish in self._taken:  # free again
            self._taken[wish] = min(self._taken[wish], int(number) - 1)

    # --------------------------------------------------------------- private

    def _inputs_and_outputs(self) -> tuple[str, ...]:
        if self._ends is None:
            self._ends = tuple(name for name, op in self._ops.items() if op.role is Role.IO)
        return self._ends

    def _sorted(self) -> tuple[str, ...]:
        """Sort by Kahn's algorithm: of the nodes whose operands are all there, the one that was added first is next."""
        names, position = list(self._ops), {name: i for i, name in enumerate(self._ops)}
        registers = {name for name in self._timed if self[name].register}  # give what they took a step before
        missing = [0 if name in registers else len(self._operands[name]) for name in names]
        ready = [i for i, count in enumerate(missing) if not count]
        order = []
        while ready:
            order.append(names[heapq.heappop(ready)])
            for user, slots in self._users[order[-1]].items():
                if user not in registers:
                    missing[position[user]] -= len(slots)
                    if not missing[position[user]]:
                        heapq.heappush(ready, position[user])
        if len(order) < len(names):
            cycle = self._cycle(registers)
            message = f"cycle without a delay: {' -> '.join([*cycle, cycle[0]])}"
            raise CompileError(self.problem(cycle[0], message, "put a Delay on the way back"))
        return tuple(order)

    def _cycle(self, registers: Collection[str]) -> list[str]:
        """Return nodes each of which takes the one before it, and the first one the last, none of them a register."""
        import networkx

        graph = self.nx
        graph.remove_edges_from(list(graph.in_edges(registers, keys=True)))
        return [edge[0] for edge in networkx.find_cycle(graph)]

    def _fresh(self, wish: str) -> str:
        """Return the name that comes nearest to a wish and is free."""
        wish = re.sub(r"\W", "_", wish)
        if wish not in self:
            return wish
        numbers = itertools.count(self._taken.get(wish, 0) + 1)
        number = next(each for each in numbers if f"{wish}_{each}" not in self)
        self._taken[wish] = number
        return f"{wish}_{number}"

    def _unknown(self, name: str) -> CompileError:
        """Make the error of a name that no node has."""
        hint = "".join(f"the closest is %{each}" for each in difflib.get_close_matches(str(name), self._ops, n=1))
        return CompileError(f"graph {self.name} has no node %{name}", hint=hint or "see list(graph)")

    def _operand(self, name: str, slot: int) -> str:
        operands = self.operands(name)
        if not 0 <= slot < len(operands):
            raise CompileError(self.problem(name, f"has {len(operands)} operand(s), and none at {slot}"))
        return operands[slot]

    def _check_operands(self, name: object, operands: Sequence[object]) -> None:
        if not isinstance(name, str):
            raise CompileError(f"a node's name is a text, and not the {type(name).__name__} {name!r}")
        for operand in operands:
            if operand not in self:
                hint = "operands are names of nodes, as add returns them"
                raise CompileError(f"%{name} takes %{operand}, which is not in graph {self.name}", hint=hint)
