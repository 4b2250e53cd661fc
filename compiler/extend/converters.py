"""A table of functions keyed by what they handle: what a frontend reads, or what a backend writes."""

import inspect
import os
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any, Generic, TypeVar

from spikec.ir.errors import CompileError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])


class Converters(Generic[F]):
    """``@converter(Conv, Linear)`` above a function registers it; two functions for one key are an error.

    A function of the same module and name replaces the earlier one, as when a notebook cell is run again.

    Args:
        what: what one of the functions is called in messages.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self._table: dict[Hashable, F] = {}
        self._by_class: dict[type, F | None] = {}  # what was found for each class that was asked for

    def __call__(self, *keys: Hashable) -> Callable[[F], F]:
        """Register a function for these keys."""

        def register(function: F) -> F:
            for key in keys:
                known = self._table.get(key)
                if known is not None and not _again(known, function):
                    places = " and ".join(place(each, each.__module__) for each in (known, function))
                    raise CompileError(f"two {self.what}s for {key!r}: {places}", hint="remove one of them")
                self._table[key] = function
            self._by_class.clear()
            return function

        return register

    def get(self, key: Any) -> F | None:
        """Return the function for exactly that key, or None."""
        return self._table.get(key)

    def first(self, keys: Iterable[Hashable]) -> F | None:
        """Return the function for the first key that has one, or None."""
        return next((self._table[key] for key in keys if key in self._table), None)

    def for_class(self, kind: type) -> F | None:
        """Return the function for a class of op, or for a base of it whose meaning no class in between redefines."""
        if kind not in self._by_class:
            self._by_class[kind] = inherited(kind, self._table.get, _DESCRIPTIVE)
        return self._by_class[kind]

    def keys(self) -> list[Hashable]:
        """Return every key that has a function."""
        return list(self._table)


def inherited(
    kind: type, find: Callable[[type], T | None], descriptive: Collection[str], root: type = object
) -> T | None:
    """Return what ``find`` gives for a class, or for a base of it whose meaning no class in between redefines.

    Names that are ``descriptive``, and those of ``root``, the base of all such classes, are no meaning.
    """
    redefined: set[str] = set()
    for cls in kind.__mro__:
        found = find(cls)
        if found is not None and redefined:
            meaning = {name for base in cls.__mro__ if base not in root.__mro__ for name in vars(base)}
            return None if meaning & redefined else found
        if found is not None:
            return found
        redefined |= {name for name in vars(cls) if not name.startswith("__")}.difference(descriptive)
    return None


class Mark:
    """A decorator that leaves converters as they are; those that it was put on are ``in`` it."""

    def __init__(self) -> None:
        self._marked: set[Callable[..., object]] = set()

    def __call__(self, convert: F) -> F:
        """Mark a converter."""
        self._marked.add(convert)
        return convert

    def __contains__(self, convert: Callable[..., object] | None) -> bool:
        return convert is not None and (convert in self._marked or inspect.unwrap(convert) in self._marked)


#: what a derived op may redefine and still compute what its base does
_DESCRIPTIVE = {"kind", "role", "infer", "shape_of", "fresh", "scale_input", "potentials"}


def _again(known: Callable[..., object], function: Callable[..., object]) -> bool:
    """Return whether it is the same function, defined once more by a file or a notebook cell that is run again."""
    names = [(getattr(f, "__module__", None), getattr(f, "__qualname__", None)) for f in (known, function)]
    return names[0] == names[1] and None not in names[0]


def place(function: Callable[..., object], name: str = "") -> str:
    """``name (file.py:12)`` of a function, also of one in ``functools.partial``; its own name if none is given."""
    function = inspect.unwrap(function)
    function = getattr(function, "func", function)
    code = getattr(function, "__code__", None)
    return (
        f"{name or function.__name__} ({os.path.basename(code.co_filename)}:{code.co_firstlineno})"
        if code
        else repr(function)
    )
