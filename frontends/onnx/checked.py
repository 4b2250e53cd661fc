"""Checks of an ONNX model before anything of it is used, because what a stranger's model says may be untrue."""

import graphlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spikec.ir.errors import InvalidModelError
from spikec.ir.untrusted import SPARE, allowed_bytes, too_large

#: bytes that a node takes while the model is read
_NODE = 4096


def subgraphs(node: Any) -> Iterator[Any]:
    """Give the graphs that a node holds."""
    for each in node.attribute:
        yield from [each.g] if each.HasField("g") else each.graphs


def _graphs(root: Any) -> Iterator[Any]:
    """Give a graph or function, and all graphs that lie in it; protobuf itself refuses those that lie very deep."""
    yield root
    for node in root.node:
        for each in subgraphs(node):
            yield from _graphs(each)


def _all_graphs(proto: Any) -> Iterator[Any]:
    for root in (proto.graph, *proto.functions):
        yield from _graphs(root)


def check_structure(proto: Any, allowed: int) -> None:
    """Hold the nodes, names, shapes and functions of a model to what can be read.

    Raises:
        InvalidModelError: they cannot; with the node or tensor that is wrong.
    """
    count = 0
    for graph in _all_graphs(proto):
        count = _count(count + len(graph.node), allowed)
    _count(_written_out(proto), allowed)
    for graph in _all_graphs(proto):
        if any(isinstance(text, bytes) for text in _texts(graph)):
            raise InvalidModelError("a name in the ONNX model is no text: its file is damaged")
    for graph in _graphs(proto.graph):
        constants = [each.name for each in graph.initializer]
        given = Counter(name for node in graph.node for name in node.output if name)
        given += Counter([*constants, *{each.name for each in graph.input}.difference(constants)])
        for name, times in given.items():
            if times > 1:
                raise InvalidModelError(f"{times} nodes, constants or inputs are named {name!r}", location=name)
    for name, tensor in _tensors(proto):
        if any(size < 0 for size in tensor.dims):
            raise InvalidModelError(f"constant {name} has the shape {list(tensor.dims)}", location=name)


def _texts(graph: Any) -> Iterator[Any]:
    """Give all names in a graph or function, which protobuf gives as bytes where they are no UTF-8."""
    yield graph.name
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (each.name for each in node.attribute)
    for each in (*graph.input, *graph.output, *getattr(graph, "initializer", ())):
        yield getattr(each, "name", each)


def _count(nodes: int, allowed: int) -> int:
    """The number of nodes, which is not too large."""
    if nodes * _NODE > allowed:
        raise InvalidModelError(f"the ONNX model has {nodes:,} nodes or more, too many for its size")
    return nodes


def _written_out(proto: Any) -> int:
    """How many nodes a model has once each call of its functions is written out.

    Raises:
        InvalidModelError: a function calls itself.
    """

    def key(each: Any, name: str) -> tuple[str, str, str]:
        return each.domain, name, each.overload

    functions = {key(each, each.name): each for each in proto.functions}
    calls = {
        name: Counter(key(node, node.op_type) for graph in _graphs(root) for node in graph.node)
        for name, root in [*functions.items(), (None, proto.graph)]
    }
    inner = {name: [each for each in found if each in functions] for name, found in calls.items()}
    totals: dict[Any, int] = {}
    try:
        for name in graphlib.TopologicalSorter(inner).static_order():
            totals[name] = sum(times * totals.get(called, 1) for called, times in calls[name].items())
    except graphlib.CycleError as error:
        shown = " -> ".join(dict.fromkeys(name for _, name, _ in error.args[1]))
        raise InvalidModelError(f"a function of the ONNX model calls itself: {shown}", location=shown) from None
    return totals[None]


def _tensors(proto: Any) -> Iterator[tuple[str, Any]]:
    """Give all tensors in a model, each with its name or its node's."""
    for graph in _all_graphs(proto):
        for each in getattr(graph, "initializer", ()):
            yield each.name, each
        for node in graph.node:
            for attribute in node.attribute:
                for each in [attribute.t] if attribute.HasField("t") else attribute.tensors:
                    yield node.name or next(iter(node.output), ""), each


def held_bytes(proto: Any) -> int:
    """How many bytes of numbers lie in a model itself; protobuf cannot say the size of one beyond 2 GB."""
    return sum(len(tensor.raw_data) for _, tensor in _tensors(proto))


def load_external(proto: Any, path: Path | None, onnx: Any, max_bytes: int | None) -> int:
    """Load the data that a model has in other files, each of them beside it or in a folder there.

    Args:
        proto: the model; its tensors are given their data.
        path: its file; None for a model that has none.
        onnx: the package.
        max_bytes: that may be loaded; None for as much as the files hold.

    Returns:
        Bytes that these files take.

    Raises:
        InvalidModelError: a file is not there, lies elsewhere, or does not hold what is said to be in it.
    """
    files: dict[Path, int] = {}
    needed = 0
    outside = [(name, each) for name, each in _tensors(proto) if each.data_location == onnx.TensorProto.EXTERNAL]
    if path is None:
        if outside:
            raise InvalidModelError(
                f"constant {outside[0][0]} cannot be read: its data are in another file",
                location=outside[0][0],
                hint="give the path of the .onnx file, beside which its external data lie",
            )
        return 0
    folder = path.resolve().parent
    for load in (False, True):  # all are looked at before the first is loaded
        for name, tensor in outside:
            try:
                if load:
                    onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
                    continue
                file, size = _external(tensor, folder)
                files[file] = allowed_bytes(file) - SPARE
                needed += size
            except Exception as error:  # onnx has checks of its own, whose errors have no common base
                message = f"{path} cannot be read as ONNX: constant {name}: {str(error) or type(error).__name__}"
                raise InvalidModelError(message.splitlines()[0], location=name) from error
        if needed > (sum(files.values()) + SPARE if max_bytes is None else max_bytes):
            raise too_large(path, needed)
    return sum(files.values())


def _external(tensor: Any, folder: Path) -> tuple[Path, int]:
    """The file that a tensor's data lie in, and how many bytes of it they are.

    Raises:
        ValueError: it is not one that the model may have, or does not hold them.
    """
    stated = {each.key: each.value for each in tensor.external_data}
    location = stated.get("location", "")
    file = (folder / location).resolve()
    if Path(location).is_absolute() or not file.is_relative_to(folder):
        raise ValueError(f"its data are in {location!r}, outside of the model's folder")
    if not file.is_file():
        raise ValueError(f"there is no file {location!r} beside the model")
    whole = file.stat().st_size
    start = int(stated.get("offset", 0))
    size = int(stated.get("length", whole - start))
    if min(start, size) < 0 or start + size > whole:
        raise ValueError(f"{location!r} has no {size:,} bytes from byte {start:,} on")
    return file, size
