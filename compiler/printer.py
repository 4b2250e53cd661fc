"""The text form of a graph: one line an op, the same on every machine, so that two of them diff."""

from __future__ import annotations

import difflib
import hashlib
from typing import Any

import attrs
import numpy as np

from spikec.graph import Graph
from spikec.op import Op
from spikec.origin import label

_COMMENT_COLUMN = 96


def digest(array: np.ndarray[Any, Any]) -> str:
    """``32x1x3x3#7bd158``: shape and six hex digits of the content."""
    content = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:6]
    return f"{'x'.join(map(str, array.shape))}#{content}"


def attribute(value: Any) -> str:
    """One field of an op."""
    if isinstance(value, np.ndarray):
        return f"{value.item():.6g}" if value.size == 1 else digest(value)
    if isinstance(value, tuple):
        inner = [attribute(v) for v in value]
        return inner[0] if len(set(inner)) == 1 else f"({', '.join(inner)})"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def attributes(op: Op) -> dict[str, str]:
    """The fields that say something: those that differ from their default."""
    shown = {}
    for name, value in op.parameters().items():
        default = _default(op, name)
        if isinstance(value, np.ndarray):
            if isinstance(default, np.ndarray) and value.size == 1 and value.item() == default.item():
                continue
        elif value is None or value == default:
            continue
        shown[name] = attribute(value)
    return shown


def _default(op: Op, name: str) -> Any:
    return getattr(attrs.fields_dict(type(op))[name], "default", None)


def line(graph: Graph, name: str) -> str:
    """``%y = conv(%x, weight=...) : real<4x8x8>   ; features.0``."""
    op = graph[name]
    arguments = ["%" + x for x in graph.operands(name)]
    arguments += [f"{key}={value}" for key, value in attributes(op).items()]
    text = f"  %{name} = {op.kind}({', '.join(arguments)}) : {graph.type(name)}"
    return f"{text:<{_COMMENT_COLUMN}} ; {label(op.origin)}" if op.origin else text


def show(graph: Graph) -> str:
    """The whole graph."""
    return "\n".join([f"graph {graph.name} {{", *(line(graph, name) for name in graph), "}", ""])


def diff(before: Graph, after: Graph) -> str:
    """What changed, as a unified diff."""
    lines = difflib.unified_diff(
        show(before).splitlines(), show(after).splitlines(), "before", "after", lineterm="", n=1
    )
    return "\n".join([*lines, ""])
