"""Writes files so that they appear whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path``, which is moved onto it at the end; on an error nothing is left."""
    target = Path(path).resolve()
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix)
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
