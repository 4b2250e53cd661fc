"""Which op takes the results of which: the one owner of networkx, of names, and of an order that is always the same."""

from __future__ import annotations

import collections
import difflib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import networkx as nx

from spikec.ir.errors import CompileError, Problem
from spikec.ir.op import Op, Role
from spikec.ir.origin import Origin, describe

T = TypeVar("T")
WiringT = TypeVar("WiringT", bound="Wiring")


class Wiring:
    """Ops by name; an edge's key is the operand's position, so that ``x + x`` is two edges.

    Iteration is topological with ties by insertion. Whatever is asked for, and whatever is changed, takes time by the
    nodes that it concerns, not by the size of the graph; only the order is found anew after a change of the wiring.

    Attributes:
        name: of the model, for dumps.
    """

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self._g = nx.MultiDiGraph()
        self._is_shared = False  # whether a copy may hold the same _g: whoever changes it copies it first
        self._ops: dict[str, Op] = {}
        self._operands: dict[str, tuple[str, ...]] = {}
        self._order: tuple[str, ...] | None = None
        self._ends: tuple[str, ...] | None = None  # inputs and outputs
        self._users: dict[str, tuple[tuple[str, int], ...]] = {}  # of those that were asked for
        self._timed: set[str] = set()
        self._taken: dict[str, int] = {}  # the number that was last given to a name, by the name without it

    # ------------------------------------------------------------------ look

    @property
    def nx(self) -> Any:
        """A copy as ``networkx.MultiDiGraph``, each node with its ``op``."""
        graph = self._g.copy()
        nx.set_node_attributes(graph, self._ops, "op")
        return graph

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._ops

    def __len__(self) -> int:
        return len(self._ops)

    def __getitem__(self, name: str) -> Op:
        return self._in(self._ops, name)

    def __iter__(self) -> Iterator[str]:
        if self._order is None:
            self._order = self._sorted()
        return iter(self._order)

    def newest_first(self) -> Iterator[str]:
        """Yield all names, the one that was added last first."""
        return reversed(self._ops)

    def operands(self, name: str) -> tuple[str, ...]:
        """Return the names of the operands, in order."""
        return self._in(self._operands, name)

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
        self.operands(name)  # raises where there is no such node
        if name not in self._users:
            self._users[name] = tuple((user, slot) for _, user, slot in self._g.out_edges(name, keys=True))
        return list(self._users[name])

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
        return list(self._operands.items()) == list(other._operands.items()) and all(
            self[name] is other[name] for name in self._operands
        )

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
        other._is_shared = True
        for field, value in vars(other).items():  # all of them, so that a field of tomorrow is not forgotten here
            is_kept = value is other._g or not hasattr(value, "copy")
            setattr(self, field, value if is_kept else value.copy())

    def _edges(self) -> Any:
        """Return the edges as they may be changed."""
        if self._is_shared:
            self._g, self._is_shared = self._g.copy(), False
        return self._g

    def _hold(self, name: str, op: Op) -> None:
        """Put an op under a name, which may have one."""
        if Role.IO in (op.role, self._ops.get(name, op).role):
            self._ends = None
        if name not in self._ops:
            self._edges().add_node(name)
        self._ops[name] = op
        (self._timed.add if op.timed else self._timed.discard)(name)

    def _wire(self, name: str, operands: tuple[str, ...]) -> None:
        """Let a node take these operands, instead of those that it has."""
        before = self._operands.get(name, ())
        for slot, (old, new) in enumerate(itertools.zip_longest(before, operands)):
            if old != new and old is not None:
                self._edges().remove_edge(old, name, key=slot)
                self._users.pop(old, None)
            if old != new and new is not None:
                self._edges().add_edge(new, name, key=slot)
                self._users.pop(new, None)
        self._operands[name] = operands
        self._order = None

    def _take_out(self, name: str) -> None:
        """Forget a node that nobody uses."""
        self._wire(name, ())
        if self[name].role is Role.IO:
            self._ends = None
        self._edges().remove_node(name)
        self._users.pop(name, None)
        del self._ops[name], self._operands[name]
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
        position = {name: i for i, name in enumerate(self._ops)}
        try:
            return tuple(nx.lexicographical_topological_sort(self._forward(), key=position.__getitem__))
        except nx.NetworkXUnfeasible:
            cycle = [edge[0] for edge in nx.find_cycle(self._forward())]
            message = f"cycle without a delay: {' -> '.join([*cycle, cycle[0]])}"
            raise CompileError(self.problem(cycle[0], message, "put a Delay on the way back")) from None

    def _forward(self) -> Any:
        """Return the graph without the edges into registers: acyclic, if it is legal."""
        registers = [name for name in self._timed if self[name].register]
        back = [(x, name, slot) for name in registers for slot, x in enumerate(self.operands(name))]
        return nx.restricted_view(self._g, [], back) if back else self._g

    def _fresh(self, wish: str) -> str:
        """Return the name that comes nearest to a wish and is free."""
        wish = re.sub(r"\W", "_", wish)
        if wish not in self:
            return wish
        numbers = itertools.count(self._taken.get(wish, 0) + 1)
        number = next(each for each in numbers if f"{wish}_{each}" not in self)
        self._taken[wish] = number
        return f"{wish}_{number}"

    def _in(self, table: Mapping[str, T], name: str) -> T:
        try:
            return table[name]
        except KeyError:
            hint = "".join(f"the closest is %{each}" for each in difflib.get_close_matches(str(name), self._ops, n=1))
            raise CompileError(f"graph {self.name} has no node %{name}", hint=hint or "see list(graph)") from None

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
