"""Everything spikec raises, laid out as cards: what is wrong, where in the user's model, what to do."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import attrs

from spikec.ir.origin import Origin


@attrs.frozen
class Problem:
    """One located finding about a model.

    Attributes:
        message: what is wrong, in one sentence.
        location: the user's module path or node name, with file and line where they are known.
        op: the operation in the graph's own notation.
        hint: what to do about it.
        origin: the source nodes that it is about; the ledger marks them as refused.
    """

    message: str
    location: str = ""
    op: str = ""
    hint: str = ""
    origin: Origin = ()

    def __str__(self) -> str:
        lines = [self.message]
        lines += [
            f"  {label:<3} {text}"
            for label, text in (("at", self.location), ("op", self.op), ("try", self.hint))
            if text
        ]
        return "\n".join(lines)


class CompileError(Exception):
    """A model, an option or a pass is refused.

    Attributes:
        problems: every finding, in the order of the model.
        location: where the first one lies in the user's model, or ``""``.
        hint: what to do about the first one, or ``""``.
        graph: the model as far as it was read, a Graph with stand-ins for what was refused; None if nothing was.
        ledger: the Ledger of every node of the model until it was refused; None if there was no model yet.
    """

    # An error is older than the graph that it may carry, so their classes cannot be named here.
    graph: Any = None
    ledger: Any = None

    def __init__(self, problem: str | Problem | Sequence[Problem], *, location: str = "", hint: str = "") -> None:
        if isinstance(problem, str):
            problem = Problem(problem, location=location, hint=hint)
        self.problems = (problem,) if isinstance(problem, Problem) else tuple(problem)
        super().__init__(str(self))

    def add(self, problems: Sequence[Problem]) -> None:
        """Further findings about the same model."""
        self.problems += tuple(problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)

    @property
    def location(self) -> str:
        """Where the first problem lies."""
        return self.problems[0].location

    @property
    def hint(self) -> str:
        """What to do about the first problem."""
        return self.problems[0].hint


class UnsupportedOpError(CompileError):
    """The model holds operations that have no spiking form, or that the target cannot carry."""


class TypeMismatchError(CompileError):
    """Shapes, dtypes or encodings do not fit together."""


class InvalidModelError(CompileError):
    """What was handed in is not a model that can be compiled: wrong kind, NaN weights, training mode."""


class VerificationError(CompileError):
    """A pass or a backend broke its contract; the graph before it was fine."""


class CalibrationError(CompileError):
    """Calibration data is missing, empty, or does not fit the model."""


class MissingDependencyError(CompileError):
    """A package that this frontend, backend or command needs is not installed."""


class SpikecWarning(UserWarning):
    """The result is correct but probably not what the user wants."""


def warn(message: str) -> None:
    """Issue a SpikecWarning at the line outside of spikec that has led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "spikec":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, SpikecWarning, stacklevel=level)
