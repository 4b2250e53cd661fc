"""Writes files so that they appear whole or not at all."""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from spikec.ir.errors import InvalidModelError

_KINDS = {stat.S_IFIFO: "a named pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path beside ``path`` to write to, which is moved onto it at the end; on an error nothing is left.

    A link is followed, and a file that is replaced leaves its permissions to the new one. The old file stays as it was
    until then, even if the process is killed: prepare in memory what takes long, so that little can be left half done.

    Raises:
        InvalidModelError: the folder does not exist, something is there that is no file, or the disk does not take it.
    """
    try:
        target = Path(os.path.realpath(path))
        mode = _mode(path, target)
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
        raise InvalidModelError(f"{path} could not be written: {error.strerror or error}") from error


def _mode(path: str | os.PathLike[str], target: Path) -> int | None:
    """Return the permissions of the file that is there, None where there is none, or raise an InvalidModelError."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise InvalidModelError(f"the folder {Path(path).parent} does not exist", hint="make it first") from None
        return None
    if stat.S_ISDIR(mode):
        raise InvalidModelError(f"{path} is a folder", hint="name a file in it")
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise InvalidModelError(f"{path} is {kind}, no file that could be replaced", hint="name a file")
    return stat.S_IMODE(mode)
