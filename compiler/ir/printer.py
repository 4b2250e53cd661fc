"""The text form of a graph: one line an op, the same on every machine, so that two of them diff."""

import difflib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import numpy as np

from spikec.ir.op import Op
from spikec.ir.origin import label

_COMMENT_COLUMN = 96


def digest(array: np.ndarray[Any, Any]) -> str:
    """Write an array as its shape and six hex digits of its content: ``32x1x3x3#7bd158``."""
    content = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).data).hexdigest()[:6]
    return f"{'x'.join(map(str, array.shape))}#{content}"


def attribute(value: Any) -> str:
    """Write one field of an op; a tuple of equal values is written as one of them."""
    if isinstance(value, np.ndarray):
        return f"{value.item():.6g}" if value.size == 1 else digest(value)
    if isinstance(value, tuple):
        inner = [attribute(v) for v in value]
        return inner[0] if len(set(inner)) == 1 else f"({', '.join(inner)})"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def attributes(op: Op) -> dict[str, str]:
    """Write those fields of an op that differ from their default."""
    shown = {}
    for name, value in op.parameters().items():
        default = attrs.fields_dict(type(op))[name].default
        if isinstance(value, np.ndarray):
            if isinstance(default, np.ndarray) and value.size == 1 and value.item() == default.item():
                continue
        elif value is None or value == default:
            continue
        shown[name] = attribute(value)
    return shown


def line(name: str, op: Op, operands: Sequence[str], result: str) -> str:
    """Write one node with the text of its type: ``%y = conv(%x, weight=...) : real<4x8x8>   ; features.0``."""
    arguments = ["%" + x for x in operands]
    arguments += [f"{key}={value}" for key, value in attributes(op).items()]
    text = f"  %{name} = {op.kind}({', '.join(arguments)}) : {result}"
    return f"{text:<{_COMMENT_COLUMN}} ; {label(op.origin)}" if op.origin else text


def type_text(type_of: Callable[[str], Any], node: str) -> str:
    """Write the type of a node, or ``?`` where it cannot be had."""
    try:
        return str(type_of(node))
    except Exception:  # whatever the type rule of somebody's op raises
        return "?"


def text(
    name: str,
    nodes: Iterable[tuple[str, Op, Sequence[str]]],
    type_of: Callable[[str], Any],
    notes: Iterable[str] = (),
) -> str:
    """Write a graph, a line a node: its name, op and operands. The type is ``?`` where it cannot be had.

    Behind it stands what there is to say of how it was read.
    """
    lines = (line(node, op, operands, type_text(type_of, node)) for node, op, operands in nodes)
    return "\n".join([f"graph {name} {{", *lines, "}", *(f"; {note}" for note in notes), ""])


def diff(before: str, after: str) -> str:
    """Write the difference of two graphs' texts as a unified diff."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", lineterm="", n=1)
    return "\n".join([*lines, ""])
