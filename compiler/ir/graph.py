"""The dataflow graph: the one owner of networkx, of names and of wiring."""

from __future__ import annotations

import collections
import difflib
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import attrs
import networkx as nx
import numpy as np

from spikec.ir import drawing
from spikec.ir.errors import CompileError, Problem, TypeMismatchError
from spikec.ir.op import Op, Role, StatefulOp, check_op
from spikec.ir.origin import Imported, Origin, Source, describe
from spikec.ir.printer import text, type_text
from spikec.ir.types import Type

T = TypeVar("T")
OpT = TypeVar("OpT", bound=Op, covariant=True)


@attrs.frozen
class Node(Generic[OpT]):
    """A name and the op it holds."""

    name: str
    op: OpT


class Graph:
    """Ops by name; an edge's key is the operand's position, so ``x + x`` is two edges.

    Iteration is topological with ties by insertion: the same order on every run. Types are inferred when
    asked for and remembered until something upstream changes.

    Attributes:
        name: of the model, for dumps.
        imported: what is known of the model beside its ops.
    """

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.imported = Imported()
        self._g = nx.MultiDiGraph()
        self._operands: dict[str, tuple[str, ...]] = {}
        self._types: dict[str, Type] = {}
        self._stale: set[str] = set()  # to be inferred again
        self._doubtful: set[str] = set()  # these and all behind them
        self._order: tuple[str, ...] | None = None
        self._stateful: set[str] = set()
        self._taken: dict[str, int] = {}  # the number that was last given to a name, by the name without it

    # ------------------------------------------------------------------ look

    @property
    def nx(self) -> Any:
        """A copy as ``networkx.MultiDiGraph``, each node with its ``op``."""
        return self._g.copy()

    def __contains__(self, name: object) -> bool:
        return name in self._g

    def __len__(self) -> int:
        return int(self._g.number_of_nodes())

    def __getitem__(self, name: str) -> Op:
        op: Op = self._in(self._g.nodes, name)["op"]
        return op

    def get(self, name: str, kind: type[OpT]) -> OpT:
        """Return the op of a node that is known to be of that class."""
        op = self[name]
        if not isinstance(op, kind):
            raise CompileError(self.problem(name, f"is no {kind.__name__}"))
        return op

    def __iter__(self) -> Iterator[str]:
        if self._order is None:
            position = {name: i for i, name in enumerate(self._g)}
            try:
                self._order = tuple(nx.lexicographical_topological_sort(self._forward(), key=position.__getitem__))
            except nx.NetworkXUnfeasible:
                cycle = [edge[0] for edge in nx.find_cycle(self._forward())]
                message = f"cycle without a delay: {' -> '.join([*cycle, cycle[0]])}"
                raise CompileError(self.problem(cycle[0], message, "put a Delay on the way back")) from None
        return iter(self._order)

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
        return [(user, slot) for _, user, slot in self._g.out_edges(name, keys=True)]

    def match(self, kind: type[OpT]) -> list[Node[OpT]]:
        """Return all nodes whose op is of that class, in order: a list, so that the graph may change under it."""
        return [Node(name, op) for name in self if isinstance(op := self[name], kind)]

    def with_role(self, role: Role) -> list[Node[Op]]:
        """Return all nodes whose op has that role, in order."""
        return [node for node in self.match(Op) if node.op.role is role]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs, in order of insertion."""
        return tuple(name for name in self._g if self[name].role is Role.IO and self[name].arity == 0)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs, in order of insertion."""
        return tuple(name for name in self._g if self[name].role is Role.IO and self[name].arity != 0)

    @property
    def is_spiking(self) -> bool:
        """Whether the graph runs in time."""
        return bool(self._stateful)

    @property
    def sources(self) -> set[Source]:
        """The nodes of the model that are accounted for: held by an op, or dropped for a stated reason."""
        return {source for name in self._g for source in self[name].origin} | self.imported.dropped.keys()

    def type(self, name: str) -> Type:
        """Infer the type of a node's result.

        Raises:
            TypeMismatchError: with the user's layer, where operands do not fit.
        """
        if name in self._doubtful:
            self._refresh(name)
        return self._in(self._types, name)

    def _refresh(self, name: str) -> None:
        """Infer again what changed upstream, producers first; behind a type that comes out the same nothing is."""
        todo = [name]
        while todo:
            each = todo[-1]
            operands = () if self[each].register else self.operands(each)
            behind = next((x for x in operands if x in self._doubtful), None)
            if len(todo) > len(self):
                iter(self)  # names the cycle
            elif behind is not None:
                todo.append(behind)
            else:
                if each in self._stale:
                    self._infer(each, operands)
                self._doubtful.discard(todo.pop())

    def _infer(self, name: str, operands: tuple[str, ...]) -> None:
        known = self._types.get(name)
        try:
            found = self.apply_rule(name, self[name].infer, *(self._types[x] for x in operands))
        except CompileError:
            raise
        except Exception as error:  # of somebody's op, or of one with parameters that make no sense
            message = f"its type rule fails: {type(error).__name__}: {error}"
            raise TypeMismatchError(self.problem(name, message, "look at the parameters and operands")) from error
        if not isinstance(found, Type):
            raise TypeMismatchError(self.problem(name, f"its type rule gives a {type(found).__name__}, not a Type"))
        self._types[name] = found
        self._stale.discard(name)
        if known is None or not _identical(found, known):
            self._stale.update(user for user, _ in self.users(name))

    def _doubt(self, name: str) -> None:
        """Mark a node's type, and those behind it, as perhaps another than it was."""
        self._stale.add(name)
        todo = [name]
        while todo:
            each = todo.pop()
            if each not in self._doubtful:
                self._doubtful.add(each)
                todo += (user for user, _ in self.users(each))

    def apply_rule(self, name: str, rule: Any, *args: Any) -> Any:
        """Call a rule of the named op; a TypeMismatchError from it gets the user's location and the op's line."""
        try:
            return rule(*args)
        except TypeMismatchError as error:
            if error.location:
                raise
            hint = error.hint
            raise TypeMismatchError(self.problem(name, error.problems[0].message, hint)) from None

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

    def add(self, op: Op, *operands: str, name: str = "") -> str:
        """Add an op behind its operands; returns its name, which is ``name`` or made from the op's kind."""
        check_op(op)
        self._check_operands(name or op.kind, operands)
        name = self._fresh(name or op.kind)
        self.register_sources(*op.origin)
        self._hold(name, op)
        self._order = None
        self._wire(name, operands)
        return name

    def set_op(self, name: str, op: Op) -> None:
        """Put another op under the same name and wiring."""
        check_op(op)
        if op.register != self[name].register:
            self._order = None
        self._hold(name, op)
        self._doubt(name)

    def set_operands(self, name: str, *operands: str) -> None:
        """Rewire a node's operands."""
        self._check_operands(name, [*self.operands(name), *operands])
        self._g.remove_edges_from(list(self._g.in_edges(name, keys=True)))
        self._wire(name, operands)

    def set_operand(self, name: str, slot: int, operand: str) -> None:
        """Rewire one operand."""
        old, operands = self._operand(name, slot), self.operands(name)
        self._check_operands(name, [operand])
        self._g.remove_edge(old, name, key=slot)
        self._g.add_edge(operand, name, key=slot)
        self._rewired(name, (*operands[:slot], operand, *operands[slot + 1 :]))

    def replace_uses(self, old: str, new: str) -> None:
        """Let every user of ``old`` take ``new`` instead."""
        for user, slot in self.users(old):
            if user != new:
                self.set_operand(user, slot, new)

    def insert_after(self, name: str, op: Op, *, new: str = "") -> str:
        """Put a unary op between a node and all its users."""
        added = self.add(op, name, name=new)
        self.replace_uses(name, added)
        return added

    def insert_before(self, user: str, slot: int, op: Op, *, new: str = "") -> str:
        """Put a unary op in front of one operand."""
        added = self.add(op, self._operand(user, slot), name=new)
        self.set_operand(user, slot, added)
        return added

    def bypass(self, name: str, reason: str = "") -> None:
        """Remove a unary node, its users taking its operand; its source nodes are dropped for that reason.

        Without a reason its sources must live on in another op, which the verifier checks.
        """
        operands = self.operands(name)
        if len(operands) != 1:
            raise CompileError(self.problem(name, f"has {len(operands)} operands, so none can take its place"))
        self.replace_uses(name, operands[0])
        self.remove(name, reason)

    def remove(self, name: str, reason: str = "") -> None:
        """Remove a node that nobody uses."""
        if self.users(name):
            hint = "give its users another operand first: graph.replace_uses(name, other)"
            raise CompileError(self.problem(name, "a node with users cannot be removed", hint))
        if reason:
            self.drop(self[name].origin, reason)
        self._g.remove_node(name)
        wish, _, number = name.rpartition("_")
        if number.isdigit() and wish in self._taken:  # free again
            self._taken[wish] = min(self._taken[wish], int(number) - 1)
        self._stateful.discard(name)
        self._operands.pop(name)
        self._types.pop(name, None)
        self._stale.discard(name)
        self._doubtful.discard(name)
        self._order = None

    def remove_dead(self, name: str) -> None:
        """Remove a node nobody uses, and whatever fed only it; their sources must live on elsewhere."""
        todo = [name]
        while todo:
            name = todo.pop()
            if name in self and not self.users(name) and self[name].role is not Role.IO:
                todo += reversed(self.operands(name))
                self.remove(name)

    def drop(self, origin: Origin, reason: str) -> None:
        """State that these source nodes do nothing in the graph, and why."""
        self.register_sources(*origin)
        self.imported.dropped.update(dict.fromkeys(origin, reason))

    def register_sources(self, *sources: Source) -> None:
        """State that these are the next nodes of the model, whatever becomes of them."""
        for source in sources:
            self.imported.order.setdefault(source)

    def __deepcopy__(self, memo: Any) -> Graph:
        return self.copy()

    def copy(self) -> Graph:
        """Return another graph with the same ops; no array is copied."""
        other = Graph()
        other.replace_with(self)
        return other

    def replace_with(self, other: Graph) -> None:
        """Hold what another graph holds, in place of what was held; no array is copied."""
        for field, value in vars(other).items():  # all of them, so that a field of tomorrow is not forgotten here
            setattr(self, field, value.copy() if hasattr(value, "copy") else value)

    def same_as(self, other: Graph) -> bool:
        """Whether another graph has the same op objects under the same names and wiring."""
        return (
            list(self._g) == list(other._g)
            and all(self[name] is other[name] for name in self._g)
            and all(self.operands(name) == other.operands(name) for name in self._g)
        )

    def __str__(self) -> str:
        """Return one line an op, also where the graph is broken, with ``?`` for types that are not known."""
        return text(self.name, self._lines(), self.type)

    def __repr__(self) -> str:
        ends = (", ".join(f"%{x}: {type_text(self.type, x)}" for x in names) for names in (self.inputs, self.outputs))
        neurons = len(self.with_role(Role.NEURON))
        return f"<spikec.Graph {self.name}: {len(self)} ops, {neurons} of them neurons; {' -> '.join(ends)}>"

    def _repr_html_(self) -> str:
        return self.draw()

    def draw(self, path: str | os.PathLike[str] | None = None, *, alone: bool = True) -> str:
        """Draw the graph top down, as SVG; with a path also into that file.

        Args:
            path: ends in ``.svg``.
            alone: with the colours that it is drawn in, for light and dark; in a page they stand once.

        Raises:
            InvalidModelError: the file cannot be written.
        """
        return drawing.draw(self.name, self._lines(), self.type, path, alone=alone)

    def names(self) -> list[str]:
        """Return every node in topological order, or in any where the graph has a cycle."""
        try:
            return list(self)
        except CompileError:
            return list(self._g)

    def _lines(self) -> list[tuple[str, Op, tuple[str, ...]]]:
        return [(name, self[name], self.operands(name)) for name in self.names()]

    # --------------------------------------------------------------- private

    def _forward(self) -> Any:
        """Return the graph without the edges into registers: acyclic, if it is legal."""
        registers = [name for name in self._g if self[name].register]
        back = [(x, name, slot) for name in registers for slot, x in enumerate(self.operands(name))]
        return nx.restricted_view(self._g, [], back) if back else self._g

    def _fresh(self, wish: str) -> str:
        wish = re.sub(r"\W", "_", wish)
        if wish not in self._g:
            return wish
        numbers = itertools.count(self._taken.get(wish, 0) + 1)
        number = next(each for each in numbers if f"{wish}_{each}" not in self._g)
        self._taken[wish] = number
        return f"{wish}_{number}"

    def _hold(self, name: str, op: Op) -> None:
        self._g.add_node(name, op=op)  # or another op for the node that is there
        (self._stateful.add if isinstance(op, StatefulOp) else self._stateful.discard)(name)

    def _in(self, table: Mapping[str, T], name: str) -> T:
        try:
            return table[name]
        except KeyError:
            hint = "".join(f"the closest is %{each}" for each in difflib.get_close_matches(str(name), self._g, n=1))
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
            if operand not in self._g:
                hint = "operands are names of nodes, as add returns them"
                raise CompileError(f"%{name} takes %{operand}, which is not in graph {self.name}", hint=hint)

    def _wire(self, name: str, operands: tuple[str, ...]) -> None:
        for slot, operand in enumerate(operands):
            self._g.add_edge(operand, name, key=slot)
        self._rewired(name, operands)

    def _rewired(self, name: str, operands: tuple[str, ...]) -> None:
        self._operands[name] = operands
        self._doubt(name)
        self._order = None


def _identical(one: Type, other: Type) -> bool:
    """Compare types to the last bit, where ``==`` forgives a scale some rounding."""
    return one == other and np.array_equal(one.scale, other.scale)
