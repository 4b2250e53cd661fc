"""The dataflow graph: wired ops with the types of what they give, and where all of it comes from."""

from __future__ import annotations

import os
from typing import Any, Generic, TypeVar

import attrs
import numpy as np

from spikec.ir import drawing
from spikec.ir.errors import CompileError, TypeMismatchError
from spikec.ir.op import Op, Role, check_op
from spikec.ir.origin import Imported, Origin, Source
from spikec.ir.printer import text, type_text
from spikec.ir.types import Real, Type
from spikec.ir.wiring import Wiring

OpT = TypeVar("OpT", bound=Op, covariant=True)


@attrs.frozen
class Node(Generic[OpT]):
    """A name and the op it holds."""

    name: str
    op: OpT


class Graph(Wiring):
    """Ops that are wired, see :class:`Wiring`, and the types of what they give.

    Types are inferred when asked for and remembered until something upstream changes.

    Attributes:
        name: of the model, for dumps.
        imported: what is known of the model beside its ops.

    Examples:
        >>> graph = spikec.load(model, images[:1])
        >>> list(graph)
        ['input', 'conv2d_0', 'batchnorm2d_1', 'relu_2', 'flatten_3', 'linear_4', 'output']
        >>> graph.type("relu_2").shape, graph.operands("relu_2"), graph["relu_2"].role
        ((8, 6, 6), ('batchnorm2d_1',), <Role.ACTIVATION: 'activation'>)
        >>> drawing = graph.draw("graph.svg")
    """

    def __init__(self, name: str = "graph") -> None:
        super().__init__(name)
        self.imported = Imported()
        self._types: dict[str, Type] = {}
        self._stale: set[str] = set()  # to be inferred again
        self._doubtful: set[str] = set()  # these and all behind them

    # ------------------------------------------------------------------ look

    def get(self, name: str, kind: type[OpT]) -> OpT:
        """Return the op of a node that is known to be of that class."""
        op = self[name]
        if not isinstance(op, kind):
            raise CompileError(self.problem(name, f"is no {kind.__name__}"))
        return op

    def match(self, kind: type[OpT]) -> list[Node[OpT]]:
        """Return all nodes whose op is of that class, in order: a list, so that the graph may change under it."""
        return [Node(name, op) for name, op in self.items() if isinstance(op, kind)]

    def with_role(self, role: Role) -> list[Node[Op]]:
        """Return all nodes whose op has that role, in order."""
        return [Node(name, op) for name, op in self.items() if op.role is role]

    @property
    def sources(self) -> set[Source]:
        """The nodes of the model that are accounted for: held by an op, or dropped for a stated reason."""
        return {source for op in self._ops.values() for source in op.origin} | self.imported.dropped.keys()

    def type(self, name: str) -> Type:
        """Infer the type of a node's result.

        Raises:
            TypeMismatchError: with the user's layer, where operands do not fit.
        """
        if name in self._doubtful:
            self._refresh(name)
        try:
            return self._types[name]
        except KeyError:
            raise self._unknown(name) from None

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
            self._stale.update(self._users[name])

    def _doubt(self, name: str) -> None:
        """Mark a node's type, and those behind it, as perhaps another than it was."""
        self._stale.add(name)
        todo = [name]
        while todo:
            each = todo.pop()
            if each not in self._doubtful:
                self._doubtful.add(each)
                todo += self._users[each]

    def apply_rule(self, name: str, rule: Any, *args: Any) -> Any:
        """Call a rule of the named op; a TypeMismatchError from it gets the user's location and the op's line."""
        try:
            return rule(*args)
        except TypeMismatchError as error:
            if error.location:
                raise
            hint = error.hint
            raise TypeMismatchError(self.problem(name, error.problems[0].message, hint)) from None

    # ---------------------------------------------------------------- change

    def add(self, op: Op, *operands: str, name: str = "") -> str:
        """Add an op behind its operands; returns its name, which is ``name`` or made from the op's kind."""
        check_op(op)
        self._check_operands(name or op.kind, operands)
        name = self._fresh(name or op.kind)
        self.register_sources(*op.origin)
        self._hold(name, op)
        self._rewire(name, operands)
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
        self._rewire(name, operands)

    def set_operand(self, name: str, slot: int, operand: str) -> None:
        """Rewire one operand."""
        self._operand(name, slot)  # raises where there is none
        self._check_operands(name, [operand])
        operands = self.operands(name)
        self._rewire(name, (*operands[:slot], operand, *operands[slot + 1 :]))

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
        self._take_out(name)
        self._types.pop(name, None)
        self._stale.discard(name)
        self._doubtful.discard(name)

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

    def __str__(self) -> str:
        """Return one line an op, also where the graph is broken, with ``?`` for types that are not known."""
        return text(self.name, self._lines(), self.type, self.imported.notes)

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
            return list(self._ops)

    def _lines(self) -> list[tuple[str, Op, tuple[str, ...]]]:
        return [(name, self[name], self.operands(name)) for name in self.names()]

    # --------------------------------------------------------------- private

    def _rewire(self, name: str, operands: tuple[str, ...]) -> None:
        self._wire(name, operands)
        self._doubt(name)


def _identical(one: Type, other: Type) -> bool:
    """Compare types to the last bit, where ``==`` forgives a scale some rounding."""
    same = (one.shape, one.dtype, type(one.encoding)) == (other.shape, other.dtype, type(other.encoding))
    return same and (isinstance(one.encoding, Real) or np.array_equal(one.scale, other.scale))
