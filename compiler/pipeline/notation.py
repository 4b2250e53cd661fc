"""Reads passes back from the text that they print as: ``name, name{option=value}``."""

import ast
import re
from collections.abc import Callable
from typing import Any, TypeVar

from spikec.calibration.normalization import Normalization
from spikec.extend.loader import built, pass_named
from spikec.extend.passbase import Pass
from spikec.ir.errors import CompileError

ItemT = TypeVar("ItemT")

_NAME = r"[A-Za-z_][\w-]*"
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_NUMBER = r"[-+]?(?:inf|nan|(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)"
_LITERAL = rf"{_QUOTED}|(?:None|True|False|{_NUMBER})(?![\w.-])"


def read_passes(text: str) -> list[Pass]:
    """The passes that a text names, in order.

    An option's value is a number, True, False, None, a word or a quoted string, a tuple ``(a, b)``, another pass
    ``name{...}``, or ``Normalization{...}``.

    Raises:
        CompileError: at the place that cannot be read, or for an unknown pass or option.
    """
    reader = _Reader(text)
    return reader.items(reader.one_pass, r"\Z")


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
        name = self.need(_NAME)
        return pass_named(name, **self.options()) if self.take("{") else pass_named(name)

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
