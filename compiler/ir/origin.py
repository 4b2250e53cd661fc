"""Where an operation comes from in the user's model, and what is known of that model beside its operations."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import attrs


@attrs.frozen
class Source:
    """One node of the model as the user wrote it.

    Attributes:
        node: name of the node in the source graph, unique there (a module called twice is two nodes).
        path: module path in torch, node name in ONNX and NIR; may be empty for a bare function call.
        kind: what the user wrote, such as ``nn.Conv2d`` or ``torch.relu``.
        file, line: the user's line, where the frontend knows it.
    """

    node: str
    path: str = ""
    kind: str = ""
    file: str = ""
    line: int = 0

    @property
    def label(self) -> str:
        """The short name that dumps and errors use: the path, or the node where there is none."""
        return self.path or self.node

    @property
    def place(self) -> str:
        """``net.py:12``, or nothing where the line is not known."""
        return f"{os.path.basename(self.file)}:{self.line}" if self.file else ""

    def __str__(self) -> str:
        return f"{self.label} ({self.place})" if self.place else self.label


Origin = tuple[Source, ...]


def merge(*origins: Iterable[Source]) -> Origin:
    """Return all sources of several operations, each once, in order."""
    return tuple(dict.fromkeys(source for origin in origins for source in origin))


def label(origin: Origin) -> str:
    """Name the sources of an operation as dumps do: ``features.0+features.1``."""
    return "+".join(source.label for source in origin)


def distinct(names: Mapping[str, str]) -> dict[str, str]:
    """Tell nodes apart that have one name in the user's model: ``relu %relu_1`` where ``relu`` is called twice.

    Args:
        names: of the nodes of a graph, as the user knows them.
    """
    uses = Counter(names.values())
    return {node: name if uses[name] == 1 else f"{name} %{node}" for node, name in names.items()}


def describe(origin: Origin) -> str:
    """Name the sources of an operation as errors do, with lines: ``features.0 (net.py:12), features.1 (net.py:12)``."""
    return ", ".join(str(source) for source in origin)


@attrs.define
class Imported:
    """What is known of the model that a graph was read from, beside its ops.

    Attributes:
        order: every node of the model, in the model's order; the keys of a dict, which is a set with an order.
        dropped: those that stand for nothing in the graph any more, and why (dropout, identity).
        notes: what the frontend has to say about how it read the model.
        structure: the model's own output container, with the outputs' positions as leaves.
        device: where the model's parameters were, as torch writes it.
        dt: seconds a step, of a model that says so.
        timesteps: that the model is meant to run, where it says so.
    """

    order: dict[Source, None] = attrs.field(factory=dict)
    dropped: dict[Source, str] = attrs.field(factory=dict)
    notes: list[str] = attrs.field(factory=list)
    structure: Any = 0
    device: str = "cpu"
    dt: float | None = None
    timesteps: int | None = None

    def copy(self) -> Imported:
        """Return another record, which can be changed without changing this one."""
        return attrs.evolve(self, order=dict(self.order), dropped=dict(self.dropped), notes=list(self.notes))


# The folders of the standard library and of installed packages; not the prefixes themselves, where a user's own
# files may lie (a virtual environment inside a project).
_LIBRARIES = tuple(
    os.path.realpath(path) + os.sep
    for path in {*sysconfig.get_paths().values(), os.path.dirname(os.__file__)}
    if os.path.realpath(path) not in (os.path.realpath(sys.prefix), os.path.realpath(sys.exec_prefix))
)


@functools.cache
def is_user_file(filename: str) -> bool:
    """Whether a file is the user's: not of torch, spikec, an installed package or the standard library."""
    if not filename or filename.startswith("<"):
        return False
    real = os.path.realpath(filename)
    ours = {getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("spikec.")}
    return not real.startswith(_LIBRARIES) and f"{os.sep}site-packages{os.sep}" not in real and filename not in ours
