"""What a converter is given: where it is in the user's model, and the graph that it adds ops to."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import attrs

from spikec.extend.converters import place
from spikec.ir.errors import CompileError, Problem, TypeMismatchError, UnsupportedOpError, VerificationError
from spikec.ir.graph import Graph
from spikec.ir.op import Op
from spikec.ir.origin import Source
from spikec.ir.verify import broken_claim


@attrs.frozen
class Signal:
    """A tensor of the user's model that depends on its inputs: the result of a node of the graph."""

    name: str


@attrs.frozen
class Refused:
    """The value of a node that was refused: what depends on it is not converted, but still looked at."""

    node: str

    def __str__(self) -> str:
        return f"%{self.node}"


@attrs.frozen(eq=False)
class Call:
    """One call in the user's model, and the graph that its converter adds ops to.

    Attributes:
        graph: the graph so far.
        source: where the call stands in the user's model; every op that is added carries it.
        name: what the op will be called if that is free.
    """

    graph: Graph
    source: Source
    name: str

    def shape(self, signal: Signal) -> tuple[int, ...]:
        """Shape of one sample of a signal, without the batch."""
        return self.graph.type(signal.name).shape

    def shown(self, signal: Signal) -> str:
        """Shape of a signal with its batch, for messages: ``[B, 3, 8, 8]``."""
        return f"[{', '.join(map(str, ('B', *self.shape(signal))))}]"

    def add(self, op: Op, *operands: Signal, part: str = "") -> Signal:
        """Add an op behind its operands; it gets the call's source.

        Args:
            op: without an origin.
            operands: signals.
            part: appended to the name, for an op that is not the last of the call.

        Raises:
            TypeMismatchError: the operands do not fit.
            VerificationError: the op is not what it says of itself: of another shape, or not linear.
            UnsupportedOpError: an operand is a tensor that does not depend on the model's input.
        """
        for operand in operands:
            if not isinstance(operand, Signal):
                self.refuse(f"{self.source.kind} with a constant {type(operand).__name__} where a signal must be")
        wish = f"{self.name}_{part}" if part else self.name
        names = [operand.name for operand in operands]
        name = self.graph.add(attrs.evolve(op, origin=(self.source,)), *names, name=wish)
        try:
            result = self.graph.type(name)
            if broken := broken_claim(self.graph[name], [self.graph.type(each) for each in names], result):
                raise VerificationError(self.problem(*broken))
        except CompileError:
            self.graph.remove(name)
            raise
        return Signal(name)

    def check_memory(self, count: int) -> None:
        """Refuse what takes so many bytes, where the model may be a stranger's; a model of the user's own may do it."""

    def expect_rank(self, signal: Signal, *ranks: int) -> None:
        """Refuse a signal whose samples have another rank, batch not counted."""
        shape = self.shape(signal)
        if len(shape) not in ranks:
            wanted = " or ".join(map(str, ranks))
            raise TypeMismatchError(
                self.problem(f"{self.source.kind} takes samples of rank {wanted}, operand has shape {shape}")
            )

    def refuse(self, message: str, hint: str = "") -> NoReturn:
        """Raise an UnsupportedOpError that says where the call stands."""
        raise UnsupportedOpError(self.problem(message, hint))

    def problem(self, message: str, hint: str = "") -> Problem:
        """A finding about this call."""
        return Problem(message, str(self.source), f"{self.source.kind}({self.arguments()})", hint, (self.source,))

    def located(self, error: CompileError) -> CompileError:
        """Return an error as one of this call, if it does not say where it is."""
        return error if error.location else type(error)([self.problem(x.message, x.hint) for x in error.problems])

    @contextlib.contextmanager
    def blaming(self, convert: Callable[..., Any], form: str) -> Iterator[None]:
        """State whatever goes wrong inside as the converter's doing, and all errors as of this call.

        Args:
            convert: the converter that is called inside.
            form: what it is called with, for a hint.
        """
        try:
            yield
        except CompileError as error:
            raise self.located(error) from None
        except Exception as error:
            message = f"its converter {place(convert)} raises {type(error).__name__}: {error}"
            raise UnsupportedOpError(self.problem(message, f"mend it; it is called as {form}")) from error

    def refuse_result(self, convert: Callable[..., Any], result: Any) -> NoReturn:
        """Refuse what a converter returns, which is no signal of the graph."""
        self.refuse(f"its converter {place(convert)} returns {result!r}", "return what call.add gives: a Signal")

    def arguments(self) -> str:
        """What it is called with, for messages."""
        raise NotImplementedError
