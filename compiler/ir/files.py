"""Paths that a user gives, and files that appear whole or not at all."""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spikec.ir.errors import CompileError, InvalidModelError, shown

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a link that leads to itself",
}


def path_of(value: Any, name: str = "path") -> Path:
    """Return a path that the user gives as a Path.

    Raises:
        CompileError: it is none, or no system could have it.
    """
    if not isinstance(value, (str, os.PathLike)) or "\0" in str(value) or not str(value):
        raise CompileError(f"{name} is {shown(value)}", hint="give a path, as a text or a pathlib.Path")
    return Path(value)


def file_to_write(path: Any) -> Path:
    """Return the file that a path leads to, which may be written and need not exist.

    Raises:
        InvalidModelError: its folder does not exist, or it is something else than a file.
        CompileError: it is no path.
    """
    target = Path(os.path.realpath(path_of(path)))
    # unlike Path's methods, these functions take a name that is too long for the system
    if os.path.isdir(target):
        raise InvalidModelError(f"{path} is a folder", hint="name a file in it")
    if not os.path.isdir(target.parent):
        raise InvalidModelError(f"the folder {Path(path).parent} does not exist", hint="make it first")
    if os.path.lexists(target) and not os.path.isfile(target):
        kind = _KINDS.get(stat.S_IFMT(target.lstat().st_mode), "something else")
        raise InvalidModelError(f"{path} is {kind}, no file that could be replaced", hint="name a file")
    return target


@contextlib.contextmanager
def replacing(path: Any) -> Iterator[Path]:
    """Give a path beside ``path`` to write to, which is moved onto it at the end; on an error nothing is left.

    A link is followed, and a file that is replaced leaves its permissions to the new one. The old file stays as it was
    until then, even if the process is killed: prepare in memory what takes long, so that little can be left half done.

    Raises:
        InvalidModelError: there can be no such file, see :func:`file_to_write`, or the disk does not take it.
        CompileError: it is no path.
    """
    try:
        target = file_to_write(path)
        mode = stat.S_IMODE(target.stat().st_mode) if os.path.exists(target) else None
        suffix = target.suffix if len(target.suffix) < 32 else ""
        part = target.with_name(f".spikec-{secrets.token_hex(8)}{suffix}")
        try:
            yield part
            with part.open("rb") as written:
                os.fsync(written.fileno())
            if mode is not None:
                part.chmod(mode)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        why = error.strerror or str(error) or type(error).__name__
        raise InvalidModelError(f"{path} cannot be written: {why}", hint="name another one, or make room") from error


def write_text(path: Any, text: str) -> None:
    """Let a file with this text appear, whole or not at all; raises what :func:`replacing` does."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
