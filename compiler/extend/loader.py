"""Finds passes, frontends and backends by the names of their files and folders."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, TypeVar

import attrs

from spikec.extend.backend import Backend
from spikec.extend.frontend import Frontend
from spikec.extend.passbase import Pass
from spikec.ir.errors import CompileError, MissingDependencyError

BuiltT = TypeVar("BuiltT")

#: which extra brings a package that a file of ours imports
_EXTRAS = {"onnx": "onnx", "lava": "lava", "matplotlib": "demo", "mlxtend": "demo", "sklearn": "demo"}


def names(room: str) -> list[str]:
    """Names of the files and folders in ``passes``, ``frontends`` or ``backends``, sorted."""
    package = importlib.import_module(f"spikec.{room}")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def module(room: str, name: str) -> ModuleType:
    """Import one file, or the face of a folder.

    Raises:
        MissingDependencyError: it needs a package that is not installed.
    """
    try:
        return importlib.import_module(f"spikec.{room}.{name}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("", "spikec"):
            raise
        raise missing_package(missing, f"{room}/{name}") from error


def modules(room: str, name: str) -> list[ModuleType]:
    """Import a file, or a folder with all that lies in it: what is registered there is then known."""
    face = module(room, name)
    below = pkgutil.walk_packages(getattr(face, "__path__", ()), f"{face.__name__}.")
    return [face, *(module(room, each.name.removeprefix(f"spikec.{room}.")) for each in below)]


def missing_package(package: str, needed_by: str) -> MissingDependencyError:
    """The error for a package that is not installed, with the command that installs it."""
    wanted = f"spikec[{_EXTRAS[package]}]" if package in _EXTRAS else package
    return MissingDependencyError(
        f"{needed_by} needs the package {package}, which is not installed", hint=f'pip install "{wanted}"'
    )


def unknown(what: str, name: str, known: Iterable[str]) -> CompileError:
    """The error for a name nobody has."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return CompileError(f"there is no {what} {name!r}", hint=f"{meant}known: {', '.join(known)}")


def built(what: str, kind: type[BuiltT], options: Mapping[str, Any]) -> BuiltT:
    """An instance of an attrs class with these options.

    Raises:
        CompileError: it has no such option, lacks one, or refuses a value.
    """
    known = [field.name for field in attrs.fields(kind)]  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            raise unknown(f"option of {what}", name, known or ["none"])
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        raise CompileError(f"an option of {what} does not fit: {error.args[0]}") from error


def pass_named(name: str, **options: Any) -> Pass:
    """The pass in ``passes/<name>.py`` with these options.

    Raises:
        CompileError: there is no such pass, or it does not take these options.
    """
    return built(f"pass {name}", pass_class(name), options)


def pass_class(name: str) -> type[Pass]:
    """The class of the pass in ``passes/<name>.py``."""
    stem = name.replace("-", "_")
    if stem not in names("passes"):
        raise unknown("pass", name, (each.replace("_", "-") for each in names("passes")))
    found = [
        value
        for value in vars(module("passes", stem)).values()
        if isinstance(value, type) and issubclass(value, Pass) and getattr(value, "name", None) == name
    ]
    if len(found) != 1:
        raise CompileError(f"passes/{stem}.py holds {len(found)} passes named {name!r}, it must hold one")
    return found[0]


def backends() -> list[str]:
    """Names of the targets."""
    return names("backends")


def backend_named(name: str) -> type[Backend]:
    """The backend of a target.

    Raises:
        CompileError: there is no such target.
        MissingDependencyError: it needs a package that is not installed.
    """
    if name not in backends():
        raise unknown("target", name, backends())
    found: list[type[Backend]] = _held("backends", name, "backend", lambda held: isinstance(held, type))
    return found[0]


def _held(room: str, name: str, wanted: str, fits: Callable[[Any], bool]) -> list[Any]:
    """What a file, or the files of a folder, hold under that name."""
    found = [vars(each)[wanted] for each in modules(room, name) if fits(vars(each).get(wanted))]
    if not found:
        raise CompileError(f"{room}/{name} holds no {wanted!r}", hint=f"each file or folder there defines a {wanted}")
    return found


def known_backends() -> Iterator[Backend]:
    """One of each backend that is loaded: ours, where their packages are installed, and users' own classes."""
    for name in backends():
        with contextlib.suppress(MissingDependencyError):
            backend_named(name)
    todo = list(Backend.__subclasses__())
    while todo:
        each = todo.pop()
        todo += each.__subclasses__()
        with contextlib.suppress(TypeError):
            yield each()


def frontends() -> Iterator[tuple[str, Frontend | MissingDependencyError]]:
    """Each frontend with the name of its file or folder, or why that cannot be loaded."""
    for name in names("frontends"):
        try:
            held = _held("frontends", name, "frontend", lambda held: isinstance(held, Frontend))
        except MissingDependencyError as error:
            yield name, error
        else:
            yield from ((name, frontend) for frontend in held)
