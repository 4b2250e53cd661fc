"""Reads back what the target ``spikingjelly`` emitted: a module with the parameters that it has now, or its file."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from torch import Tensor, nn

from spikec.extend.frontend import Frontend
from spikec.frontends.torch.call import as_array
from spikec.ir.errors import CompileError, Hint, InvalidModelError, Problem, UnsupportedOpError
from spikec.ir.graph import Graph
from spikec.ir.op import Op
from spikec.ir.origin import Source
from spikec.ir.stages import IMPORTED
from spikec.ir.types import Array, Rate, Real, Type
from spikec.ir.untrusted_pickle import Named, NumpyArray, StoredTensor, take_apart
from spikec.ir.verify import verify

_MODULE = "spikec.backends.spikingjelly.network.SpikingNetwork"
_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")


class SpikingNetworkFrontend(Frontend):
    """Reads a ``SpikingNetwork`` as the final graph that it was made from, with its parameters as they are now.

    The network knows the op of each part, but for its arrays: those are read from the part, by their names. Of a file
    nothing is unpickled: it is taken apart, see :mod:`spikec.ir.untrusted_pickle`.
    """

    takes = "a module that spikec emitted, or a path ending in .pt"

    def accepts(self, model: Any) -> bool:
        """True for the class of that name; the backend is not imported. True for files that torch.save writes."""
        kind = type(model)
        is_file = isinstance(model, Path) and model.suffix in _SUFFIXES
        return is_file or f"{kind.__module__}.{kind.__qualname__}" == _MODULE

    def opened(self, model: Any, max_bytes: int | None = None) -> Any:
        """Of a path, the graph in the file; ``max_bytes`` is what its arrays may take in memory.

        Raises:
            InvalidModelError: the file is damaged, or holds something else: it says what to do with that.
        """
        if not isinstance(model, Path):
            return model
        held = take_apart(model, max_bytes)
        if not isinstance(held, Named) or held.called != _MODULE:
            raise _something_else(model, held)
        try:
            saved = _Saved(held)
            graph = _graph(saved.text("name"), saved.structure(), saved.device, saved.calls())
            verify(graph, IMPORTED)
        except CompileError as error:
            raise InvalidModelError(
                [attrs.evolve(p, message=f"{model}: {p.message}") for p in error.problems]
            ) from None
        except Exception as error:  # whatever our own classes make of damaged fields
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            raise InvalidModelError(f"{model} is damaged: {said}", hint="compile the model again") from None
        return graph

    def input_names(self, model: Any) -> list[str]:
        """Return the inputs' names in the graph that it was made from."""
        return list(model.inputs)

    def load(self, model: Any, examples: Sequence[Tensor] | None) -> Graph:
        """Make the graph; the network knows its shapes, so no example is needed.

        Raises:
            UnsupportedOpError: a part is another than the one that was emitted.
        """
        if isinstance(model, Graph):
            return model
        device = str(next((x.device for x in (*model.parameters(), *model.buffers())), "cpu"))
        calls = ((c.node, c.part, c.operands, c.kind, c.fields, _of_part(model, c.part)) for c in model.plan)
        return _graph(model.name, model.structure, device, calls)


#: a node, the part that it calls, the nodes whose values it takes, its op's class and fields but for the arrays, and
#: what gives these by name
_Call = tuple[str, str, Sequence[str], type[Op], Mapping[str, Any], Callable[[str], "Array | None"]]


def _graph(name: str, structure: Any, device: str, calls: Iterator[_Call]) -> Graph:
    graph = Graph(name)
    delayed = []  # calls with an operand that is computed after them: it is connected once all nodes are there
    for node, part, operands, kind, fields, find in calls:
        op = _read(part, kind, fields, find)
        back = [x for x in operands if x not in graph]
        graph.add(op, *([] if back else operands), name=node)
        delayed += [(node, operands)] * bool(back)
    for node, operands in delayed:
        graph.set_operands(node, *operands)
    graph.imported.structure = structure
    graph.imported.device = device
    return graph


def _read(part: str, kind: type[Op], fields: Mapping[str, Any], find: Callable[[str], "Array | None"]) -> Op:
    """Make the op with the arrays that its part holds."""
    arrays: dict[str, Any] = {}
    for name in (name for name in attrs.fields_dict(kind) if name not in fields):
        found = find(name)
        if found is None:
            message = f"the part has no {name}, as the one that was emitted had"
            hint = "load it with the spikec that saved it, or compile again"
            raise UnsupportedOpError(Problem(message, part, hint=hint))
        arrays[name] = found
    return kind(**fields, **arrays)


def _of_part(model: nn.Module, part: str) -> Callable[[str], "Array | None"]:
    """Return what finds an array of a part by its name; a part may be padding and the layer behind it."""
    found = model.get_submodule(part)
    holder = found[-1] if isinstance(found, nn.Sequential) else found

    def find(name: str) -> "Array | None":
        value = getattr(holder, name, None)
        return as_array(value) if isinstance(value, Tensor) else None

    return find


class _Saved:
    """A network in a file that was taken apart; its fields may be anything."""

    device = "cpu"

    def __init__(self, held: Named) -> None:
        self._state = held.state
        self._classes = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in _records()}

    def text(self, name: str) -> str:
        """Return a field that is a text."""
        found = self._state[name]
        if not isinstance(found, str):
            raise ValueError(f"its {name} is no text")
        return found

    def structure(self) -> Any:
        """Return the model's output container; one of the user's own classes becomes a tuple."""
        found = self._state["structure"]
        return found if _is_plain(found) else tuple(range(len(self._state["outputs"])))

    def calls(self) -> Iterator[_Call]:
        """Yield what the network does for each node."""
        for call in self._state["plan"]:
            told = call.state
            kind = self._classes[told["kind"].called]
            fields = {str(name): self._made(value) for name, value in told["fields"].items()}
            if not issubclass(kind, Op):
                raise ValueError(f"{kind.__name__} is no op")
            yield told["node"], told["part"], told["operands"], kind, fields, self._of_part(told["part"])

    def _of_part(self, part: str) -> Callable[[str], "Array | None"]:
        holder = self._state["_modules"][part]
        if holder.called == "torch.nn.modules.container.Sequential":
            *_, holder = holder.state["_modules"].values()

        def find(name: str) -> "Array | None":
            for held in (holder.state["_parameters"], holder.state["_buffers"], holder.state):
                if isinstance(held.get(name), StoredTensor):
                    return np.asarray(held[name].array())
            return None

        return find

    def _made(self, value: Any) -> Any:
        """Return a field's value: a plain one, an array, or one of our records with its fields."""
        if isinstance(value, NumpyArray):
            return value.array()
        if isinstance(value, (tuple, list)):
            return tuple(map(self._made, value))
        if not isinstance(value, Named):
            return value
        if value.called == "functools.partial":  # as ops are pickled: the class, no arguments, its fields
            kind, _, fields, _ = value.state
        else:
            kind, fields = value, value.state
        return self._classes[kind.called](**{name: self._made(each) for name, each in fields.items()})


def _records() -> Iterator[type]:
    """Yield the classes that a file may hold: every op that is known, and what ops have in their fields."""
    yield from (Source, Type, Real, Rate)
    known = [Op]
    while known:
        kind = known.pop()
        known += kind.__subclasses__()
        if _stands(kind):
            yield kind


def _stands(kind: type) -> bool:
    """Whether a class is the one of its name: attrs makes it anew with slots, and the first lives until collected."""
    return getattr(sys.modules.get(kind.__module__), kind.__name__, kind) is kind


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, (str, int)) and _is_plain(each) for key, each in value.items())
    return all(map(_is_plain, value)) if isinstance(value, (tuple, list)) else value is None or isinstance(value, int)


def _something_else(path: Path, held: Any) -> InvalidModelError:
    """Return the error for a file that holds no network of ours, with what to do with what it holds."""
    if isinstance(held, dict) and any(isinstance(each, StoredTensor) for each in held.values()):
        return InvalidModelError(
            f"{path} holds weights only (a state_dict), which do not say what network they belong to",
            hint="build the model, call its load_state_dict(torch.load(path)), and give that; the shell takes "
            "FILE.py:NAME, where NAME is the model or a function that builds it",
        )
    if isinstance(held, dict):
        keys = ", ".join(map(str, list(held)[:5]))
        return InvalidModelError(
            f"{path} holds a dict ({keys}), no network",
            hint="build the model, load the weights in it by load_state_dict(...), and give that",
        )
    what = f"a pickled {held.called}" if isinstance(held, Named) else f"a {type(held).__name__}"
    return InvalidModelError(
        f"{path} holds {what}, and to unpickle it would run code out of the file",
        hint=Hint("if you trust it, give spikec the module: torch.load(path, weights_only=False)"),
    )


frontend = SpikingNetworkFrontend()
