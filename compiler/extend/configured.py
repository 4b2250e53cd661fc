"""What passes and targets have in common: fields that are options, and errors that say what is wrong with a class."""

import abc
import contextlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from spikec.interpreter.inputs import check_types
from spikec.ir.errors import CompileError


class Configured(abc.ABCMeta):
    """The class of ``Pass`` and ``Backend``, and of those derived from them, which users write.

    Methods are held to how they will be called when a class is defined, and options to its fields when they are given.
    """

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> None:
        super().__init__(name, bases, namespace, **options)
        for key, value in namespace.items():
            base = next((vars(each)[key] for each in cls.__mro__[1:] if key in vars(each)), None)
            if isinstance(value, types.FunctionType) and not key.startswith("_"):
                _check_method(f"{cls.__qualname__}.{key}", value, base)

    def __call__(cls, *args: Any, **options: Any) -> Any:
        """Make an instance.

        Raises:
            CompileError: it has no such option, lacks one, or refuses a value.
        """
        if not isinstance(getattr(cls, "name", None), str):
            raise CompileError(f"class {cls.__qualname__} has no name", hint='give it one: name = "my-target"')
        for each in cls.__mro__:
            fields = _annotated(each) if isinstance(each, Configured) and "__attrs_attrs__" not in vars(each) else []
            if fields:
                raise CompileError(
                    f"{', '.join(fields)} of class {each.__qualname__} are no options yet",
                    hint=f"put @attrs.frozen above class {each.__qualname__}",
                )
        known: tuple[Any, ...] = attrs.fields(cls)  # type: ignore[arg-type]
        try:
            given = inspect.signature(cls.__init__).bind(None, *args, **options).arguments  # type: ignore[misc]
            cls._check_options(given, known)
            return super().__call__(*args, **options)
        except (TypeError, ValueError) as error:
            names = ", ".join(field.alias for field in known) or "none"
            raise cls._misfit(str(error.args[0] if error.args else error), f"its options are: {names}") from error

    def _check_options(cls, given: Mapping[str, Any], known: Sequence[Any]) -> None:
        """Hold options to the types of their fields, where these are known when the program runs."""
        if not any(field.alias in given for field in known):  # as most passes are made; the types take a millisecond
            return
        hints: dict[str, Any] = {}
        with contextlib.suppress(NameError):  # a type that only a type checker sees
            hints = typing.get_type_hints(cls)
        checked = [field.alias for field in known if field.alias in hints and field.converter is None]
        try:
            check_types({name: given[name] for name in checked if name in given}, hints)
        except CompileError as error:
            raise cls._misfit(error.problems[0].message, error.hint) from None

    def _misfit(cls, reason: str, hint: str) -> CompileError:
        what = f"{getattr(cls, 'what', '')} {getattr(cls, 'name', '')}"
        shown = what if cls.__module__.startswith("spikec.") else f"{what} (class {cls.__qualname__})"
        return CompileError(f"an option of {shown} does not fit: {reason}", hint=hint)


def _check_method(shown: str, method: Callable[..., Any], base: Any) -> None:
    """Hold a method to the one that it redefines.

    Raises:
        CompileError: it cannot be called like that.
    """
    if isinstance(base, property):
        raise CompileError(f"{shown} is a method, and must be a value", hint="put @property above it")
    if not isinstance(base, types.FunctionType):
        return
    wanted = inspect.signature(base)
    try:
        inspect.signature(method).bind(*wanted.parameters)
    except TypeError as error:
        form = f"def {base.__name__}({', '.join(wanted.parameters)})"
        raise CompileError(f"{shown} cannot be called: {error}", hint=f"define it as {form}") from None


def _annotated(cls: type) -> list[str]:
    """Names that a class itself annotates, those of class variables not counted."""
    hints = inspect.get_annotations(cls)
    return [name for name, hint in hints.items() if "ClassVar" not in str(hint)]
