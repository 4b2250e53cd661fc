"""Writes files so that they appear whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spikec.ir.errors import CompileError, InvalidModelError, shown


def path_of(value: Any, name: str = "path") -> Path:
    """A path that the user gives, as a Path.

    Raises:
        CompileError: it is none, or no system could have it.
    """
    if not isinstance(value, (str, os.PathLike)) or "\0" in str(value) or not str(value):
        raise CompileError(f"{name} is {shown(value)}", hint="give a path, as a text or a pathlib.Path")
    return Path(value)


def file_to_write(path: Any) -> Path:
    """The file that a path leads to, which may be written and need not exist.

    Raises:
        InvalidModelError: its folder does not exist, or it is something else than a file.
        CompileError: it is no path.
    """
    target = Path(os.path.realpath(path_of(path)))
    if os.path.isdir(target):
        raise InvalidModelError(f"{path} is a folder", hint="name a file in it")
    if not os.path.isdir(target.parent):
        raise InvalidModelError(f"the folder {Path(path).parent} does not exist", hint="make it first")
    if os.path.lexists(target) and not os.path.isfile(target):
        raise InvalidModelError(f"{path} is no ordinary file", hint="name another one")
    return target


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path``, which is moved onto it at the end; on an error nothing is left.

    Raises:
        CompileError: the path is refused, see :func:`file_to_write`, or the system does not let it be written.
    """
    target = file_to_write(path)
    try:
        with _moved_onto(target) as part:
            yield part
    except OSError as error:
        why = error.strerror or str(error) or type(error).__name__
        raise CompileError(f"{path} cannot be written: {why}", hint="name another one, or make room") from error


@contextlib.contextmanager
def _moved_onto(target: Path) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".spikec-", suffix=target.suffix)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        umask = os.umask(0)  # the only way to ask for it; mkstemp makes files that nobody else may read
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
