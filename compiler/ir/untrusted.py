"""Files of strangers as plain arrays: checked before anything is allocated, nothing outside of them read, no pickles.

What a file may take in memory has one limit, ``max_bytes``: that of all its arrays together. Where nobody states it, it
is the size of the file and half a gigabyte more, so that only what unpacks to much more than itself needs the option.
"""

import functools
import json
import math
import os
import pickletools
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.ir.errors import CompileError, Hint, InvalidModelError, Option, Problem, shown
from spikec.ir.types import Array, sealed

#: bytes that the arrays of a file may take more than the file itself, where ``max_bytes`` does not say
SPARE = 1 << 29
#: deflate unpacks a byte to 1032 at most
_RATIO = 1032
_START = (
    "import json, runpy, sys; sys.path[:] = json.loads(sys.argv[1]); runpy.run_path(sys.argv[2], run_name='__main__')"
)


@attrs.frozen
class Numbers:
    """One kind of numbers, to hold those in a file to.

    Attributes:
        called: what a message calls them.
        least, most: the smallest and the largest that are allowed.
        above: whether ``least`` itself is too small.
        whole: whether fractions are wrong.
    """

    called: str
    least: float = -np.inf
    most: float = np.inf
    above: bool = False
    whole: bool = False

    def wrong(self, name: str, value: Any) -> tuple[str, str] | None:
        """Return (what is wrong, what to do) where a value, by its name, is no such number or array of them."""
        values = np.asarray(value)
        if values.dtype.kind not in "biuf":
            return f"its {name} is {shown(value)}, and must be {self.called}", ""
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            return f"{count} of {values.size} numbers in its {name} are NaN or infinite", "train or convert it again"
        if not values.size:
            return None
        low, high = values.min(), values.max()
        inside = low > self.least if self.above else low >= self.least
        if inside and high <= self.most and not (self.whole and values.dtype.kind == "f" and (values % 1).any()):
            return None
        found = f"{low:.6g}" if low == high else f"{low:.6g}..{high:.6g}"
        return f"its {name} is {found}, and must be {self.called}", ""


def allowed_bytes(path: Path, max_bytes: int | None = None) -> int:
    """Return how much memory the arrays of a file may take, once it is known to be an ordinary file.

    Raises:
        InvalidModelError: there is none, or it is a folder, a pipe or a device.
    """
    if not os.path.exists(path):  # which no path is too odd for
        raise InvalidModelError(f"there is no file {path}", hint="give the path of one")
    if not os.path.isfile(path):
        raise InvalidModelError(f"{path} is no ordinary file", hint="give the path of one")
    return SPARE + _bytes_on_disk(path) if max_bytes is None else max_bytes


def too_large(path: Path, needed: int, location: str = "", texts: int = 0) -> InvalidModelError:
    """Return the error for a file whose arrays take more memory than is allowed, besides its texts."""
    return InvalidModelError(
        f"{path} holds arrays of {needed:,} bytes, more than a file of its size may unpack to",
        location=location,
        hint=Hint("if you trust it, allow them: ", Option("max_bytes", needed + texts)),
    )


def _bytes_on_disk(path: Path) -> int:
    """Return the size of a file without the holes in it, which cost its author nothing."""
    stat = path.stat()
    return min(stat.st_size, stat.st_blocks * 512) if hasattr(stat, "st_blocks") else stat.st_size


def read_hdf5(
    path: Path, groups: Sequence[str], refusal: str, hint: str, max_bytes: int | None = None
) -> dict[str, Any]:
    """Read the named groups at the top of an HDF5 file, as far as it has them.

    Another process does it (:mod:`untrusted_hdf5`), as the library crashes on some damaged files; that costs 0.2 s.

    Args:
        path: of the file.
        groups: their names.
        refusal: what a message says of a file that cannot be read: "is not an X file".
        hint: what it says to do.
        max_bytes: that its arrays may take in memory; None for half a gigabyte more than the file takes.

    Returns:
        Nested dicts of read-only arrays, numpy scalars, texts, and object arrays of texts.

    Raises:
        InvalidModelError: the file is damaged, too large, or refers to what lies outside of it.
    """
    allowed = allowed_bytes(path, max_bytes)
    task = {"path": str(path.resolve()), "groups": groups, "allowed": allowed, "share": _bytes_on_disk(path)}
    process = _start(task)
    try:
        return _Sender(path, refusal, hint, process.stdout).tree()
    except EOFError:
        process.wait()
    finally:
        process.kill()  # nothing, where it has ended
        process.stdout.close()
        code = process.wait()
    how = "comes to no end" if code == -getattr(signal, "SIGXCPU", 0) else "crashes"
    raise InvalidModelError(f"{path} {refusal}: the HDF5 library {how}, so it is damaged", hint=hint)


def _start(task: dict[str, Any]) -> Any:
    """Start :mod:`untrusted_hdf5` on its task; returns what has its ``stdout``, and is to be killed and waited for."""
    program = Path(__file__).with_name("untrusted_hdf5.py")
    command = [sys.executable, "-I", "-c", _START, json.dumps(sys.path), str(program)]
    # one thread has less memory to map, and no filters from elsewhere are loaded
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen(command, env=environment, **pipes)
    assert child.stdin is not None
    child.stdin.write(json.dumps(task).encode() + b"\n")
    child.stdin.close()
    return child


@attrs.frozen
class _Sender:
    """The process that reads a file, as it is listened to."""

    path: Path
    refusal: str
    hint: str
    stream: Any

    def tree(self) -> dict[str, Any]:
        """Receive everything."""
        tree: dict[str, Any] = {}
        while said := self._line():
            (kind,) = {"group", "array", "texts"} & said.keys()
            *above, name = said[kind]
            group = functools.reduce(dict.__getitem__, above, tree)
            group[name] = {} if kind == "group" else self._array(said) if kind == "array" else _texts(said)
        return tree

    def _line(self) -> dict[str, Any]:
        """Receive what is said next.

        Raises:
            InvalidModelError: it is that the file is refused.
            EOFError: nothing, as the process has ended.
        """
        line = self.stream.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        said: dict[str, Any] = json.loads(line)
        if "refused" not in said:
            return said
        place = "/".join(said["place"])
        if "needed" in said:
            raise too_large(self.path, said["needed"], place, said["texts"])
        raise InvalidModelError(f"{self.path} {self.refusal}: {said['refused']}", location=place, hint=self.hint)

    def _array(self, said: dict[str, Any]) -> Any:
        array = np.empty(said["shape"], said["dtype"])
        view = memoryview(array.reshape(-1).view(np.uint8).data)
        while len(view):
            end = len(view) - self._line()["bytes"]
            while len(view) > end:
                count = self.stream.readinto(view[: len(view) - end])
                if not count:
                    raise EOFError
                view = view[count:]
        return sealed(array) if array.ndim else array[()]


def _texts(said: dict[str, Any]) -> Any:
    texts = np.array(said["values"], dtype=object).reshape(said["shape"])
    return texts if texts.ndim else texts.item()


def read_npz(
    path: Path, error: type[CompileError], refusal: str, hint: str = "", max_bytes: int | None = None
) -> dict[str, Array]:
    """Read an ``.npz`` of numbers and texts.

    Args:
        path: of the file.
        error: raised where it cannot be read.
        refusal: what its message says of the file: "is not an X file".
        hint: what its message says to do.
        max_bytes: see :func:`read_hdf5`.
    """
    arrays: dict[str, Array] = {}
    name = ""
    try:
        if not path.is_file():  # to open a pipe would wait for its other end
            raise ValueError("it is no ordinary file" if path.exists() else "there is no such file")
        with path.open("rb") as start:
            if start.read(6) == b"\x93NUMPY":
                raise ValueError("it holds a single array without a name")
        with zipfile.ZipFile(path) as file:
            for name, member in members(path, file, max_bytes):
                arrays[name.removesuffix(".npy")] = _array(file, member)
    except CompileError:
        raise
    except Exception as reason:  # whatever zipfile and numpy make of damaged bytes
        raise error(Problem(f"{path} {refusal}: {reason}", shown(name) if name else "", hint=hint)) from None
    return arrays


def members(path: Path, file: zipfile.ZipFile, max_bytes: int | None) -> Iterator[tuple[str, zipfile.ZipInfo]]:
    """Give name and record of each file in a zip, whose sizes are what it can hold, and allowed.

    Raises:
        InvalidModelError: they are more than is allowed.
        ValueError: another one is wrong.
    """
    records = file.infolist()
    needed = sum(record.file_size for record in records)
    if needed > allowed_bytes(path, max_bytes):
        raise too_large(path, needed)
    if len({record.filename for record in records}) < len(records):
        raise ValueError("two of its parts have one name")
    for record in records:
        if record.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{record.filename} is packed in another way than deflate")
        if record.file_size > _RATIO * record.compress_size + _RATIO:
            raise ValueError(f"{record.filename} says that it unpacks to {record.file_size:,} bytes, which it cannot")
    yield from ((record.filename, record) for record in records)


def _array(file: zipfile.ZipFile, record: zipfile.ZipInfo) -> Array:
    """Read one array, whose header is held to the size of its part of the file."""
    with file.open(record) as stream:
        version = np.lib.format.read_magic(stream)
        headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = headers[version](stream)
        if dtype.kind not in "biufU":
            raise ValueError(f"it holds {dtype}, neither numbers nor texts")
        if math.prod(shape) * dtype.itemsize != record.file_size - stream.tell():
            raise ValueError(f"an array of shape {shape} has another size than its part of the file")
    with file.open(record) as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


_SAVE = "write it with torch.save(model.state_dict(), path)"
#: what the pickle in a file of weights may name: tensors are made of nothing else
_TENSOR_PARTS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char")),
    *(f"torch {kind}Storage" for kind in ("Byte", "Bool")),
}


def read_weights(path: Path, max_bytes: int | None = None) -> dict[str, Tensor]:
    """Read the ``state_dict`` in a file of ``torch.save``; nothing but plain tensors is made of it.

    Args:
        path: of the file.
        max_bytes: see :func:`read_hdf5`.

    Raises:
        InvalidModelError: the file is damaged, too large, or holds something else.
    """
    allowed = allowed_bytes(path, max_bytes)
    try:
        with zipfile.ZipFile(path) as file:
            for name, member in members(path, file, max_bytes):
                if name.endswith(".pkl"):
                    _check_pickle(file.read(member))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except CompileError:
        raise
    except Exception as error:  # whatever zipfile and torch make of damaged bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InvalidModelError(f"{path} is no file of weights: {reason}", hint=_SAVE) from None
    if not isinstance(loaded, dict) or not all(isinstance(x, Tensor) for x in loaded.values()):
        raise InvalidModelError(f"{path} is no file of weights: it holds other things than tensors by name", hint=_SAVE)
    if (needed := sum(x.numel() * x.element_size() for x in loaded.values())) > allowed:
        raise too_large(path, needed)
    return loaded


def _check_pickle(data: bytes) -> None:
    """Refuse a pickle that names more than tensors need, such as functions that allocate, before anything runs it."""
    for opcode, argument, _ in pickletools.genops(data):
        if "GLOBAL" in opcode.name and argument not in _TENSOR_PARTS:
            raise ValueError(f"it names {shown(argument)}, which is no part of a tensor")
