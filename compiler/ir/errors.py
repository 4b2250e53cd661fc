"""Everything spikec raises, laid out as cards: what is wrong, where in the user's model, what to do."""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import attrs

from spikec.ir.origin import Origin


def shown(value: Any) -> str:
    """A value as messages show it: what ``repr`` says, on one line of at most 80 letters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


@attrs.frozen
class Option:
    """An option of ``spikec.compile`` or of a target, as a Hint names it; ``str`` spells it as Python does.

    Attributes:
        name: what Python calls it.
        value: what to give for it, or ``...`` where that is for the user to fill in. For ``example_input`` it is the
            shape of a sample of each input, with letters for sizes that the user knows.
    """

    name: str
    value: Any = ...

    def __str__(self) -> str:
        if self.value is ...:
            return f"{self.name}="
        if self.name != "example_input":
            return f"{self.name}={self.value!r}"
        zeros = [f"torch.zeros({', '.join(map(str, (1, *shape)))})" for shape in self.value]
        return f"example_input={zeros[0] if len(zeros) == 1 else '(' + ', '.join(zeros) + ')'}"


class Hint(str):
    """A text that names options: as a string it spells them as Python does, and ``parts`` lets others spell them.

    ``Hint("say how many steps you will run: ", Option("timesteps", 8))`` reads ``... run: timesteps=8``, and the
    command line makes ``--timesteps 8`` of it. It serves for hints, notes and warnings alike.

    Attributes:
        parts: what it was made of; a Hint among that is taken apart.
    """

    parts: tuple[str | Option, ...]

    def __new__(cls, *parts: str | Option) -> Hint:
        """Join the parts."""
        hint = super().__new__(cls, "".join(map(str, parts)))
        hint.parts = tuple(each for part in parts for each in (part.parts if isinstance(part, Hint) else (part,)))
        return hint


@attrs.frozen
class Problem:
    """One located finding about a model.

    Attributes:
        message: what is wrong, in one sentence.
        location: the user's module path or node name, with file and line where they are known.
        op: the operation in the graph's own notation.
        hint: what to do about it; a Hint where it names options.
        origin: the source nodes that it is about; the ledger marks them as refused.

    Examples:
        >>> jumps = nn.Sequential(nn.Linear(3, 3), nn.Hardshrink())
        >>> (problem,) = spikec.check(jumps, "nir", example_input=torch.rand(1, 3))
        >>> problem.location, problem.op
        ('1', 'nn.Hardshrink(%linear_0)')
    """

    message: str
    location: str = ""
    op: str = ""
    hint: str = ""
    origin: Origin = ()

    def __str__(self) -> str:
        details = (("at", self.location), ("op", self.op), ("try", self.hint))
        return "\n".join([self.message, *(f"  {label:<3} {text}" for label, text in details if text)])


class CompileError(Exception):
    """A model, an option or a pass is refused.

    Attributes:
        problems: every finding, in the order of the model.
        graph: the model as far as it was read, a Graph with stand-ins for what was refused; None if nothing was.
        ledger: the Ledger of every node of the model until it was refused; None if there was no model yet.

    Examples:
        >>> try:
        ...     spikec.pass_named("fold-batchnrom")
        ... except spikec.CompileError as error:
        ...     print(error.problems[0].message)
        there is no pass 'fold-batchnrom': did you mean 'fold-batchnorm'?
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
        """Append further findings about the same model."""
        self.problems += tuple(problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)

    @property
    def location(self) -> str:
        """Where the first problem lies in the user's model, or ``""``."""
        return self.problems[0].location

    @property
    def hint(self) -> str:
        """What to do about the first problem, or ``""``."""
        return self.problems[0].hint


class UnsupportedOpError(CompileError):
    """The model holds operations that have no spiking form, or that the target cannot carry.

    Examples:
        >>> spikec.compile(nn.Sequential(nn.Linear(3, 3), nn.Hardshrink()), "nir", example_input=torch.rand(1, 3))
        Traceback (most recent call last):
        spikec.ir.errors.UnsupportedOpError: nn.Hardshrink is not supported: ...
    """


class TypeMismatchError(CompileError):
    """Shapes, dtypes or encodings do not fit together.

    Examples:
        >>> graph = spikec.load(model, images[:1])
        >>> graph.set_operand("linear_4", 0, "relu_2")
        >>> graph.type("linear_4")
        Traceback (most recent call last):
        spikec.ir.errors.TypeMismatchError: ...
    """


class InvalidModelError(CompileError):
    """What was handed in is not a model that can be compiled: wrong kind, NaN weights, training mode.

    Examples:
        >>> spikec.compile(nn.Sequential(nn.Linear(3, 3), nn.Dropout()).train(), "nir", example_input=torch.rand(1, 3))
        Traceback (most recent call last):
        spikec.ir.errors.InvalidModelError: ...
    """


class VerificationError(CompileError):
    """A pass or a backend broke its contract; the graph before it was fine.

    Attributes:
        step: the Step of the pass that a check blames, where others have run since; None for the one that ran last.

    Examples:
        >>> @attrs.frozen
        ... class Forgets(spikec.Pass):
        ...     name = "forgets"
        ...     def run(self, graph, context):
        ...         return 1
        >>> pipeline = spikec.Pipeline.default("nir", normalization="max").insert_before("normalize", Forgets())
        >>> spikec.compile(model, "nir", calibration=images, pipeline=pipeline)
        Traceback (most recent call last):
        spikec.ir.errors.VerificationError: pass forgets reports 1 change(s), and the graph says otherwise...
    """

    step: Any = None


class CalibrationError(CompileError):
    """Calibration data is missing, empty, or does not fit the model.

    Examples:
        >>> spikec.compile(model, "nir", calibration=[])
        Traceback (most recent call last):
        spikec.ir.errors.CalibrationError: calibration is empty: it holds no batch...
    """


class MissingDependencyError(CompileError):
    """A package that this frontend, backend or command needs is not installed.

    Examples:
        >>> from spikec.ir.packages import needed
        >>> needed("no_such_package", "this page")
        Traceback (most recent call last):
        spikec.ir.errors.MissingDependencyError: this page needs the package no_such_package, which is not installed...
    """


class PluginError(CompileError):
    """Another package brings parts for spikec (entry points ``spikec.plugins``), and they cannot be used.

    Examples:
        >>> issubclass(spikec.PluginError, spikec.CompileError)
        True
    """


class SpikecWarning(UserWarning):
    """The result is correct but probably not what the user wants.

    Examples:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore", spikec.SpikecWarning)
        ...     snn = spikec.compile(model, "spikingjelly", example_input=images[:1])
    """


_is_silent: ContextVar[bool] = ContextVar("is_silent", default=False)


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Say nothing of what :func:`warn` is given; in this thread only, where a filter of warnings holds for all."""
    token = _is_silent.set(True)
    try:
        yield
    finally:
        _is_silent.reset(token)


#: held by the thread that changes the filters of warnings, which are those of the whole process
_filters = threading.RLock()


@contextlib.contextmanager
def ignoring_others() -> Iterator[None]:
    """Ignore what other libraries warn of inside; what :func:`warn` is given in other threads meanwhile comes after."""
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def warn(message: str) -> None:
    """Issue a SpikecWarning at the line outside of spikec that has led here.

    Args:
        message: what is not as the user wants it; a Hint where it names options.
    """
    if _is_silent.get():
        return
    # The user should see a line of his own, not one of ours, and how many of our frames lie between differs from
    # call to call: walk out of spikec. (Python 3.12 can, with skip_file_prefixes.)
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "spikec":
        frame, level = frame.f_back, level + 1
    with _filters:
        warnings.warn(message, SpikecWarning, stacklevel=level)


@contextlib.contextmanager
def advising(hint: str) -> Iterator[None]:
    """Give this hint to every problem in an error that has none."""
    try:
        yield
    except CompileError as error:
        error.problems = tuple(attrs.evolve(problem, hint=problem.hint or hint) for problem in error.problems)
        raise
