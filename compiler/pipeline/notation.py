"""Reads passes back from the text that they print as: ``name, name{option=value}``."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any, TypeVar

from spikec.calibration.normalization import Normalization
from spikec.extend.loader import built, pass_named
from spikec.extend.passbase import Pass
from spikec.ir.errors import CompileError

ItemT = TypeVar("ItemT")

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.])|[-+]?(?:inf|nan)(?![\w.-]))
         |(?P<word>[A-Za-z_][\w-]*)|(?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<mark>[{}(),=]))""",
    re.VERBOSE,
)
_CONSTANTS = {"None": None, "True": True, "False": False}


def read_passes(text: str) -> list[Pass]:
    """The passes that a text names, in order.

    An option's value is a number, True, False, None, a word or a quoted string, a tuple ``(a, b)``, another pass
    ``name{...}``, or ``Normalization{...}``.

    Raises:
        CompileError: at the place that cannot be read, or for an unknown pass or option.
    """
    return _Reader(text).passes()


class _Reader:
    """A recursive descent over the tokens of a text: (kind, token, where it starts)."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str, int]] = []
        place, end = 0, len(text.rstrip())
        while place < end:
            found = _TOKEN.match(text, place)
            if found is None:
                raise self._error(place)
            kind = str(found.lastgroup)
            self._tokens.append((kind, found[kind], found.start(kind)))
            place = found.end()
        self._tokens.append(("end", "", end))

    def passes(self) -> list[Pass]:
        found = self._list(self._pass, "")
        if self._tokens[0][0] != "end":
            raise self._error(self._tokens[0][2])
        return found

    def _pass(self) -> Pass:
        name = self._take("word")
        return pass_named(name, **(self._options() if self._next("{") else {}))

    def _options(self) -> dict[str, Any]:
        found = dict(self._list(self._option, "}"))
        self._take("}")
        return found

    def _option(self) -> tuple[str, Any]:
        name = self._take("word")
        self._take("=")
        return name, self._value()

    def _value(self) -> Any:
        if self._next("("):
            found = tuple(self._list(self._value, ")"))
            self._take(")")
            return found
        kind, token, _ = self._tokens[0]
        if kind in ("number", "quoted"):
            self._take(kind)
            return float(token) if token.lstrip("+-") in ("inf", "nan") else ast.literal_eval(token)
        self._take("word")
        if not self._next("{"):
            return _CONSTANTS.get(token, token)
        if token == Normalization.__name__:
            return built(token, Normalization, self._options())
        return pass_named(token, **self._options())

    def _list(self, item: Callable[[], ItemT], end: str) -> list[ItemT]:
        """Items with commas between them, and perhaps one behind the last."""
        found = []
        while self._tokens[0][1] != end:
            found.append(item())
            if not self._next(","):
                break
        return found

    def _next(self, mark: str) -> bool:
        """Take a mark if it comes next."""
        if self._tokens[0][:2] == ("mark", mark):
            self._tokens.pop(0)
            return True
        return False

    def _take(self, wanted: str) -> str:
        """Take a token of this kind, or this mark."""
        kind, token, place = self._tokens[0]
        if wanted not in (kind, token):
            raise self._error(place)
        self._tokens.pop(0)
        return token

    def _error(self, place: int) -> CompileError:
        shown = f"{self._text[:place]} >>> {self._text[place:]}".strip()
        return CompileError(
            f"the passes cannot be read from >>> on: {shown}",
            hint="write them as they print: name, name{option=value, option=(1, 2)}",
        )
