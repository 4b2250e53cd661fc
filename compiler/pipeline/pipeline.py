"""An ordered list of passes, edited by making another one, and read back from the text that it prints as."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from spikec.calibration.normalization import Normalization
from spikec.extend.backend import Backend
from spikec.extend.loader import backend_named, built, pass_named, unknown
from spikec.extend.passbase import Pass
from spikec.interpreter.inputs import whole_number
from spikec.ir.errors import CompileError, shown
from spikec.ir.stages import IMPORTED, RECEIVED, SPIKING, Stage
from spikec.pipeline.orders import order_for

ItemT = TypeVar("ItemT")

_NAME = r"[A-Za-z_][\w-]*"
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_NUMBER = r"[-+]?(?:inf|nan|(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)"
_LITERAL = rf"{_QUOTED}|(?:None|True|False|{_NUMBER})(?![\w.-])"


class Pipeline:
    """Passes in order; a wrong order is refused here, not when it runs.

    Args:
        passes: instances, or text such as ``name`` or ``name{option=value}``.
        start: the stage of the graph that it is run on.
        timesteps: the T that its passes were chosen for; None if they fit any.

    Raises:
        CompileError: an unknown name, or a pass at a stage that it does not take.

    Examples:
        >>> pipeline = spikec.Pipeline.default("nir").without("infer-types").insert_after("fold-batchnorm", "fold-pool")
        >>> [each.name for each in pipeline][:2]
        ['eliminate-identity', 'cancel-permutes']
        >>> spikec.Pipeline.parse(str(pipeline)).passes == pipeline.passes
        True
    """

    def __init__(self, passes: Iterable[Pass | str], start: Stage = IMPORTED, *, timesteps: int | None = None) -> None:
        self.start = _checked(start, "start")
        self.timesteps = None if timesteps is None else whole_number("timesteps", timesteps, 1)
        self.passes = as_passes(passes)
        stage, by = start, "the import"
        for each in self.passes:
            if stage not in each.needs:
                wanted = " or ".join(s.name for s in each.needs)
                raise CompileError(
                    f"pass {each.name} runs on a graph that is {wanted}; here it is {stage.name} (since {by})",
                    hint=f"move {each.name}, or put the pass that is missing before it",
                )
            if each.reached(stage) is not stage:
                stage, by = each.reached(stage), each.name

    @classmethod
    def default(
        cls,
        target: str | Backend,
        *,
        normalization: str | float | Normalization | None = None,
        timesteps: int | None = None,
    ) -> Pipeline:
        """The recommended passes for a target.

        Args:
            target: a name or a backend.
            normalization: how thresholds are chosen, as for :func:`spikec.compile`; None lets calibration data choose.
            timesteps: the T that the user means to run, which biases and thresholds are tuned for; None for any.
        """
        timesteps = None if timesteps is None else whole_number("timesteps", timesteps, 1)
        backend = backend_named(target)() if isinstance(target, str) else target
        if not isinstance(backend, Backend):
            raise CompileError(f"target is {shown(target)}", hint="give a name, or an instance of a Backend")
        chosen = None if normalization is None else Normalization.parse(normalization)
        return cls(order_for(backend, chosen, timesteps), timesteps=timesteps)

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """The passes of a text such as ``"fold-batchnorm, normalize, dither-potential{layers=first}"``.

        It is what a pipeline and a report print. It starts at the first stage, from an imported ANN to a spiking graph,
        at which its passes may run in this order.

        Raises:
            CompileError: the text cannot be read, or there is no such pass or option, or no stage for this order.
        """
        passes = read_passes(text)
        for start in (IMPORTED, RECEIVED, SPIKING):
            with contextlib.suppress(CompileError):
                return cls(passes, start)
        return cls(passes)  # which says what does not fit

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)

    def __repr__(self) -> str:
        return f"<spikec.Pipeline from {self.start.name}, {len(self)} passes: {self}>"

    def __str__(self) -> str:
        return ", ".join(map(str, self.passes))

    def __add__(self, other: Iterable[Pass | str]) -> Pipeline:
        return self._with([*self.passes, *as_passes(other)])

    def _with(self, passes: Iterable[Pass | str]) -> Pipeline:
        return Pipeline(passes, self.start, timesteps=self.timesteps)

    def _at(self, name: str) -> int:
        for i, each in enumerate(self.passes):
            if isinstance(name, str) and each.name == name:
                return i
        raise unknown("pass in this pipeline", name, (p.name for p in self.passes))

    def insert_before(self, name: str, *passes: Pass | str) -> Pipeline:
        """Return a pipeline with these passes in front of the named one."""
        return self.replace(name, *passes, self.passes[self._at(name)])

    def insert_after(self, name: str, *passes: Pass | str) -> Pipeline:
        """Return a pipeline with these passes behind the named one."""
        return self.replace(name, self.passes[self._at(name)], *passes)

    def replace(self, name: str, *passes: Pass | str) -> Pipeline:
        """Return a pipeline with these passes in place of the named one."""
        i = self._at(name)
        return self._with([*self.passes[:i], *passes, *self.passes[i + 1 :]])

    def without(self, *names: str) -> Pipeline:
        """Return a pipeline without the passes of these names, wherever they stand."""
        for name in names:
            self._at(name)
        return self._with(p for p in self.passes if p.name not in names)

    def from_stage(self, stage: Stage) -> Pipeline:
        """Return the passes that still apply to a graph that has reached a stage already."""
        kept, reached = [], _checked(stage, "stage")
        for each in self.passes:
            if reached in each.needs:
                kept.append(each)
                reached = each.reached(reached)
        return Pipeline(kept, stage, timesteps=self.timesteps)


def _checked(stage: Stage, name: str) -> Stage:
    if not isinstance(stage, Stage):
        raise CompileError(f"{name} is {shown(stage)}", hint="give a stage of spikec.ir.stages, such as IMPORTED")
    return stage


def as_passes(given: Iterable[Pass | str], name: str = "passes") -> tuple[Pass, ...]:
    """The passes that instances and texts stand for, in order; ``name`` is what the user calls them.

    Raises:
        CompileError: one is neither, or a text cannot be read.
    """
    try:
        items = iter(() if isinstance(given, str) else given)
    except TypeError:
        items = None
    if items is None or isinstance(given, str):
        raise CompileError(f"{name} is {shown(given)}", hint="give a Pipeline, such as spikec.Pipeline.parse(text)")
    found: list[Pass] = []
    for each in items:
        if not isinstance(each, (str, Pass)):
            raise CompileError(f"{shown(each)} is not a pass", hint="give names or instances of spikec.Pass")
        found += read_passes(each) if isinstance(each, str) else (each,)
    return tuple(found)


def read_passes(text: str) -> list[Pass]:
    """The passes that a text names, in order.

    An option's value is a number, True, False, None, a word or a quoted string, a tuple ``(a, b)``, another pass
    ``name{...}``, or ``Normalization{...}``.

    Raises:
        CompileError: at the place that cannot be read, or for an unknown pass or option.
    """
    if not isinstance(text, str):
        raise CompileError(f"the text of passes is {shown(text)}", hint='give one such as "normalize, relu-to-if"')
    reader = _Reader(text)
    try:
        return reader.items(reader.one_pass, r"\Z")
    except (RecursionError, ValueError, SyntaxError) as error:  # thousands of brackets, or of digits
        raise CompileError(f"the passes cannot be read: {error}", hint="write them as they print") from None


class _Reader:
    """Takes a text apart from left to right, by recursive descent."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0

    def take(self, pattern: str) -> str | None:
        """What comes next, if it fits the pattern."""
        found = re.compile(rf"\s*({pattern})").match(self.text, self.place)
        if found is None:
            return None
        self.place = found.end()
        return found[1]

    def need(self, pattern: str) -> str:
        """What comes next, which must fit the pattern."""
        found = self.take(pattern)
        if found is None:
            raise CompileError(
                f"the passes cannot be read from >>> on: {self.text[: self.place]} >>> {self.text[self.place :]}",
                hint="write them as they print: name, name{option=value, option=(1, 2)}",
            )
        return found

    def items(self, item: Callable[[], ItemT], end: str) -> list[ItemT]:
        """Items up to the end, with commas between them and perhaps one behind the last."""
        found = []
        while self.take(end) is None:
            found.append(item())
            if self.take(",") is None:
                self.need(end)
                break
        return found

    def one_pass(self) -> Pass:
        return pass_named(self.need(_NAME), **(self.options() if self.take("{") else {}))

    def options(self) -> dict[str, Any]:
        return dict(self.items(self.option, "}"))

    def option(self) -> tuple[str, Any]:
        name = self.need(_NAME)
        self.need("=")
        return name, self.value()

    def value(self) -> Any:
        if self.take(r"\("):
            return tuple(self.items(self.value, r"\)"))
        if (literal := self.take(_LITERAL)) is not None:
            return float(literal) if literal[-3:] in ("inf", "nan") else ast.literal_eval(literal)
        name = self.need(_NAME)
        if not self.take("{"):
            return name
        if name == Normalization.__name__:
            return built(name, Normalization, self.options())
        return pass_named(name, **self.options())
