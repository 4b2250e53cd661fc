"""What a file of ``torch.save`` holds, taken apart: nothing that it names is imported, and none of it runs.

A pickle is a list of calls, and here none of them is made. What it names becomes a :class:`Named`, which holds what it
would have been called with; tensors become arrays. Who reads such a file decides what to make of them.
"""

import functools
import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from spikec.ir.errors import CompileError, InvalidModelError, shown
from spikec.ir.types import Array, sealed
from spikec.ir.untrusted import allowed_bytes, members

#: numpy's dtype for each of torch's storages; others, such as bfloat16, have none
_DTYPES = {
    "torch.DoubleStorage": "<f8",
    "torch.FloatStorage": "<f4",
    "torch.HalfStorage": "<f2",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
}
_HINT = "write it again, with spikec.save or torch.save"


class Named:
    """What stands for something that a pickle names: a class, a function, or what a call of it gives.

    Attributes:
        called: its name with that of its module.
        args: what it was called with.
        state: what was set on the result.
    """

    called = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> "Named":
        """Hold the arguments."""
        made = object.__new__(cls)
        made.args, made.state = args, {}
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self) -> "Named":
        """Stand for the result: of a functools.partial, which is all that our pickles call."""
        return self


@functools.cache
def _named(called: str) -> type[Named]:
    return type("Named", (Named,), {"called": called})


@attrs.frozen(eq=False)
class StoredTensor:
    """A tensor in the file, whose numbers are read when they are asked for."""

    read: Callable[[], Array]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    _made: list[Array] = attrs.field(factory=list)

    def array(self) -> Array:
        """Return its numbers.

        Raises:
            ValueError: they lie outside of what is stored, or it would hold some of them more than once.
        """
        if not self._made:
            stored = self.read()
            count, last = math.prod(self.shape), sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
            if count > len(stored) or min((*self.shape, *self.strides, self.offset), default=0) < 0:
                raise ValueError(f"a tensor of shape {self.shape} has {len(stored)} numbers in the file")
            if count and self.offset + last >= len(stored):
                raise ValueError(f"a tensor of shape {self.shape} lies behind the end of its {len(stored)} numbers")
            steps = [s * stored.itemsize for s in self.strides]
            view = np.lib.stride_tricks.as_strided(stored[self.offset :], self.shape, steps)
            self._made.append(sealed(np.array(view)))
        return self._made[0]


class _Dict(dict[Any, Any]):
    """What stands for an OrderedDict; nothing can be set on it, such as a ``values`` of its own."""

    def __setstate__(self, state: Any) -> None:
        """Forget what was set."""


class _Known:
    """A function that a pickle may call; nothing can be set on it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it sets attributes of a function")


def _tensor(storage: Callable[[], Array], offset: int, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, functools.partial):
        raise ValueError("a tensor has no storage")
    whole = [*shape, *strides, offset]
    if not all(isinstance(x, int) for x in whole) or len(shape) != len(strides):
        raise ValueError(f"a tensor has the shape {shown(shape)}")
    return StoredTensor(storage, tuple(shape), tuple(strides), offset)


def _of_numpy(dtype: Any, shape: Any, data: Any) -> Array:
    """Read the bytes of a numpy array."""
    kind = np.dtype(str(dtype.args[0]))
    if kind.kind not in "biuf" or not isinstance(data, bytes):
        raise ValueError(f"it holds an array of {shown(kind)}")
    return sealed(np.frombuffer(data, kind).reshape(shape))


class NumpyArray(Named):
    """What stands for a numpy array."""

    def array(self) -> Array:
        """Return its numbers."""
        _, shape, dtype, by_columns, data = self.state
        return _of_numpy(dtype, shape, data) if not by_columns else _of_numpy(dtype, shape[::-1], data).T


#: what is made while the pickle is read: plain containers and bytes, tensors, and numpy arrays
_MADE: Mapping[str, Any] = {
    "collections.OrderedDict": _Dict,
    "__builtin__.set": set,
    "builtins.set": set,
    "_codecs.encode": _Known(lambda text, how: text.encode("latin1" if how == "latin1" else "ascii")),
    "torch._utils._rebuild_tensor_v2": _Known(_tensor),
    "torch._utils._rebuild_parameter": _Known(lambda tensor, *_: tensor),
    "numpy.core.multiarray._reconstruct": NumpyArray,
    "numpy._core.multiarray._reconstruct": NumpyArray,
}


class _Apart(pickle.Unpickler):
    """Takes a pickle apart."""

    def __init__(self, data: bytes, storage: Callable[[str, str], Array]) -> None:
        super().__init__(io.BytesIO(data))
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name."""
        return _MADE.get(f"{module}.{name}") or _named(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """Return what reads a storage."""
        kind, of, key, *_ = pid
        if kind != "storage" or not isinstance(key, str) or not issubclass(of, Named):
            raise ValueError(f"it holds {shown(kind)}, no storage")
        return functools.partial(self._storage, of.called, key)


def take_apart(path: Path, max_bytes: int | None = None) -> Any:
    """Return what a file of ``torch.save`` holds: containers, numbers, texts, :class:`Named` and :class:`StoredTensor`.

    Args:
        path: of the file.
        max_bytes: see :func:`spikec.ir.untrusted.read_hdf5`.

    Raises:
        InvalidModelError: it is damaged or too large, or no file of torch.save.
    """
    allowed_bytes(path, max_bytes)
    try:
        with zipfile.ZipFile(path) as file:
            records = dict(members(path, file, max_bytes))
            (pickled,) = (name for name in records if name.split("/")[1:] == ["data.pkl"])
            root = pickled.split("/")[0]
            order = records.get(f"{root}/byteorder")
            if order is not None and file.read(order) != b"little":
                raise ValueError("its numbers are in big-endian order")
            data = file.read(records[pickled])
        for opcode, argument, _ in pickletools.genops(data):
            if "PUT" in opcode.name and int(str(argument)) > len(data):  # it would make room for that many
                raise ValueError("it counts objects that it cannot hold")

        @functools.cache
        def storage(kind: str, key: str) -> Array:
            with zipfile.ZipFile(path) as file:
                return np.frombuffer(file.read(records[f"{root}/data/{key}"]), _DTYPES[kind])

        return _Apart(data, storage).load()
    except CompileError:
        raise
    except Exception as reason:  # whatever zipfile and pickle make of damaged bytes
        said = (str(reason) or type(reason).__name__).splitlines()[0]
        raise InvalidModelError(f"{path} is no file of torch.save: {said}", hint=_HINT) from None
