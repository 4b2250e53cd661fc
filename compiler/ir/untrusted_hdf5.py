"""A program that reads an HDF5 file of a stranger and writes plain arrays to stdout; :mod:`untrusted` starts it.

The HDF5 library crashes on some damaged bytes and runs in circles on others (both were seen with 2.0.0, in heaps of
texts), so it works where that harms nobody: in a process of its own, with limits on its memory and its processor time.
Nothing of spikec is imported here, which would take seconds.

On stdin there is one line of JSON: ``path``, ``groups`` (those at the top of the file that are wanted), ``allowed``
(bytes that all arrays may take) and ``share`` (bytes that the file takes on its disk). On stdout there are lines of
JSON, each about a place in the file, which is a list of names: ``{"group": place}``; ``{"texts": place, "shape": ...,
"values": ...}``; ``{"array": place, "shape": ..., "dtype": ...}``, and for each part of it ``{"bytes": count}`` with
the bytes behind the line. The last line is ``{}``, or ``{"refused": why, "place": place}``. Where ``allowed`` is too
little, that has ``"needed"``, the bytes that were counted, and ``"texts"``, the bytes that texts may take besides.
"""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import h5py
import numpy as np

try:
    import resource

    _HAS_LIMITS = True
except ImportError:  # Windows
    _HAS_LIMITS = False

#: groups may lie that deep in each other, names be that long, and be shown up to that length
_DEPTH, _NAME, _SHOWN = 32, 1000, 80
#: deflate unpacks a byte to 1032 at most, and small arrays need not be stored at all
_RATIO, _SMALL = 1100, 4096
#: bytes that are read at a time, where a dataset's chunks allow
_SLAB = 1 << 24
#: processor time: seconds for every file, bytes of a file that are looked through in a second, and bytes of data
_SECONDS, _LOOK, _UNPACK = 2, 5_000_000, 50_000_000
#: bytes that the library may take besides the data
_SPARE = 1 << 28

Place = tuple[str, ...]


class _RefusedError(Exception):
    """Carries the last line of the output."""


def _refuse(place: Place, why: str, **more: int) -> NoReturn:
    raise _RefusedError({"refused": why, "place": [name[:_SHOWN] for name in place], **more})


def _limit(kind: str, amount: int) -> None:
    """Set one of the system's limits, as far as the hard one allows, which stays."""
    number = getattr(resource, f"RLIMIT_{kind}")
    hard = resource.getrlimit(number)[1]
    resource.setrlimit(number, (amount if hard == resource.RLIM_INFINITY else min(amount, hard), hard))


def _limit_work(seconds: float, largest: int) -> None:
    """Allow so much more time, and memory for parts of that many bytes; and no core dump."""
    if not _HAS_LIMITS:
        return
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _limit("CPU", math.ceil(used + seconds))
    _limit("CORE", 0)
    if sys.platform == "linux":  # elsewhere it is not kept
        with open("/proc/self/statm", encoding="ascii") as file:
            _limit("AS", int(file.read().split()[0]) * resource.getpagesize() + _SPARE + 3 * largest)


def _wanted(file: Any, groups: Sequence[str]) -> Iterator[tuple[Place, Any]]:
    """Give every group and dataset in the wanted groups, those before what they hold.

    Nothing outside of the file is looked at, and no group twice.
    """

    def items(group: Any, place: Place, names: Sequence[str]) -> Iterator[tuple[Place, Any]]:
        for name in names:
            inner = (*place, name)
            if len(name) > _NAME or not name.isprintable():
                _refuse(inner, f"its name has more than {_NAME} characters, or some that cannot be printed")
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                _refuse(inner, f"it is a link to elsewhere ({type(link).__name__}), not data of the file")
            item = group[name]
            yield inner, item
            if isinstance(item, h5py.Group):
                address = h5py.h5o.get_info(item.id).addr
                if address in seen:
                    _refuse(inner, "it is a group that holds itself, or that stands at two places")
                if len(inner) > _DEPTH:
                    _refuse(inner, f"groups lie more than {_DEPTH} deep in each other")
                seen.add(address)
                yield from items(item, inner, list(item))

    seen: set[Any] = {h5py.h5o.get_info(file.id).addr}
    yield from items(file, (), [name for name in groups if name in file])


def _declared(dataset: Any, place: Place) -> int:
    """Return how many bytes a dataset says it has, if it is one of numbers or texts that the file itself holds."""
    if not isinstance(dataset, h5py.Dataset):
        _refuse(place, "it is neither a group nor a dataset")
    if dataset.external:
        _refuse(place, "its data is external storage: bytes of another file")
    if dataset.is_virtual:
        _refuse(place, "it is a virtual dataset, of data in other files")
    if dataset.shape is None:
        _refuse(place, "it is a dataset without data")
    if dataset.dtype.kind not in "biuf" and h5py.check_string_dtype(dataset.dtype) is None:
        _refuse(place, f"it holds {dataset.dtype}, neither numbers nor texts")
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if size > _RATIO * stored + _SMALL:
        _refuse(place, f"it says that it has {size:,} bytes, and {stored:,} are stored of them")
    return int(size)


def _bands(dataset: Any) -> Iterator[Any]:
    """Give a dataset in parts along its first axis: whole chunks, each of which is unpacked as a whole anyway."""
    if not dataset.shape:
        yield dataset[()]
        return
    chunk = dataset.chunks[0] if dataset.chunks else 1
    rows = math.ceil(max(1, _SLAB // _row_bytes(dataset)) / chunk) * chunk
    for start in range(0, dataset.shape[0], rows):
        yield dataset[start : start + rows]


def _row_bytes(dataset: Any) -> int:
    return int(max(1, math.prod(dataset.shape[1:]) * dataset.dtype.itemsize))


def _band_bytes(dataset: Any) -> int:
    """Return how many bytes a part has at most."""
    chunk = int(dataset.chunks[0]) if dataset.chunks else 1
    return max(_SLAB, _row_bytes(dataset) * chunk)


def _write_numbers(dataset: Any, place: Place) -> None:
    dtype = np.dtype(dataset.dtype.newbyteorder("=").str)
    _say({"array": place, "shape": dataset.shape, "dtype": dtype.str})
    for part in _bands(dataset):
        data = np.ascontiguousarray(part, dtype=dtype).tobytes()
        _say({"bytes": len(data)})
        sys.stdout.buffer.write(data)


def _write_texts(dataset: Any, place: Place, left: int, task: dict[str, Any]) -> int:
    """Write a text or an array of them; returns how many bytes they have, which a dataset does not declare.

    Args:
        dataset, place: of the texts.
        left: how many bytes they may have.
        task: as on stdin.
    """
    texts, size = [], 0
    for part in _bands(dataset):
        texts += [bytes(text).decode() for text in np.ravel(part).tolist()]
        size = sum(map(len, texts))
        if size > left:
            needed = task["allowed"] - left + size
            _refuse(place, f"its texts have more than {left:,} bytes", needed=needed, texts=task["share"])
    _say({"texts": place, "shape": dataset.shape, "values": texts})
    return size


def _say(line: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(line).encode() + b"\n")


def _read(task: dict[str, Any]) -> None:
    place: Place = ()
    try:
        with h5py.File(task["path"], "r") as file:
            left, largest, passed = task["allowed"], 0, None
            for place, item in _wanted(file, task["groups"]):
                if isinstance(item, h5py.Group):
                    continue
                left -= _declared(item, place)
                largest = max(largest, _band_bytes(item))
                if left < 0 and passed is None:
                    passed = place
            if passed is not None:
                needed = task["allowed"] - left
                # texts do not say how long they are; as no filter packs them, they take no more than the file
                _refuse(passed, f"all arrays take {needed:,} bytes of memory", needed=needed, texts=task["share"])
            seconds = _SECONDS + task["share"] / _LOOK + (task["allowed"] - left) / _UNPACK
            _limit_work(seconds, largest + task["share"])
            # once more from the start: datasets that stay open take 40 KB each
            for place, item in _wanted(file, task["groups"]):
                if isinstance(item, h5py.Group):
                    _say({"group": place})
                elif item.dtype.kind in "biuf":
                    _write_numbers(item, place)
                else:
                    left -= _write_texts(item, place, left, task)
    except _RefusedError:
        raise
    except Exception as error:  # whatever h5py makes of damaged bytes
        _refuse(place, (str(error) or type(error).__name__).splitlines()[0])


def main() -> None:
    """Do what the line on stdin says."""
    task = json.loads(sys.stdin.readline())
    _limit_work(_SECONDS + task["share"] / _LOOK, task["share"])
    try:
        _read(task)
        _say({})
    except _RefusedError as error:
        _say(error.args[0])
    sys.stdout.flush()


if __name__ == "__main__":
    main()
