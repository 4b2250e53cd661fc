"""What the numbers and texts in NIR nodes and their metadata may be, whoever has written them."""

from collections.abc import Mapping
from typing import Any

import nir
import numpy as np

from spikec.ir.errors import InvalidModelError, Problem, shown
from spikec.ir.untrusted import Numbers

ANY = Numbers("numbers")
_POSITIVE = Numbers("positive numbers", 0, above=True)
_COUNT = Numbers("whole numbers from 1 on", 1, whole=True)
_SIZE = Numbers("whole numbers from 0 on", 0, whole=True)
_AXIS = Numbers("whole numbers", whole=True)

#: by the names of fields, which mean the same in all nodes
_FIELDS = {
    **dict.fromkeys(("weight", "bias", "scale", "r", "w_in", "v_leak", "v_reset"), ANY),
    **dict.fromkeys(("v_threshold", "tau", "tau_syn", "tau_mem"), _POSITIVE),
    **dict.fromkeys(("stride", "dilation", "kernel_size", "groups", "shape"), _COUNT),
    **dict.fromkeys(("start_dim", "end_dim"), _AXIS),
    "padding": _SIZE,
}
_METADATA = {"dt": _POSITIVE, "v_init": ANY, "output_scale": _POSITIVE, "axes": _SIZE, "model_shape": _COUNT}
WORDS = {"reset": ("subtract", "value"), "fire": (">", ">=")}


def check(name: str, node: Any) -> list[Problem]:
    """List what is wrong with the fields of a node and its metadata."""
    fields = dict(vars(node))
    if isinstance(node, nir.Input):
        fields["shape"] = node.input_type["input"]
    if isinstance(node, nir.Output):
        fields["shape"] = node.output_type["output"]
    return check_fields(name, {**fields, "type": type(node).__name__})


def check_metadata(stated: Any) -> list[Problem]:
    """List what is wrong with the metadata of a whole graph."""
    return [Problem(message, "", "nir.NIRGraph", hint) for message, hint in filter(None, metadata(stated))]


def check_fields(name: str, fields: Any) -> list[Problem]:
    """List what is wrong with a node, from its type and its fields by name."""
    kind = fields.get("type") if isinstance(fields, Mapping) else fields
    if not isinstance(fields, Mapping) or not isinstance(kind, str) or kind not in nir.ir.__all__:
        return [Problem(f"its type is {shown(kind)}, which NIR has not", name)]
    wrong = metadata(fields.get("metadata", {}))
    for field, numbers in _FIELDS.items():
        value = fields.get(field)
        if value is None or (field == "padding" and isinstance(value, (str, bytes))):
            continue
        empty = (f"its {field} has no numbers", "") if not np.size(value) and field != "shape" else None
        wrong.append(empty or numbers.wrong(field, value))
    return [Problem(message, name, f"nir.{kind}", hint) for message, hint in filter(None, wrong)]


def metadata(stated: Any) -> list[tuple[str, str] | None]:
    """List what is wrong with the metadata that this package knows, as (what is wrong, what to do), or None."""
    if not isinstance(stated, Mapping):
        return [("its metadata are no table of names and values", "leave them out")]
    wrong: list[tuple[str, str] | None] = []
    for key, kind in _METADATA.items():
        values = stated.get(key)
        for value in values.values() if isinstance(values, Mapping) else () if values is None else (values,):
            wrong.append(kind.wrong(f"metadata {key}", value))
    if np.size(stated.get("dt", 1.0)) != 1:
        wrong.append(("its metadata dt is no single number", "give the seconds of one step"))
    for key, words in WORDS.items():
        if key in stated and not (isinstance(stated[key], str) and stated[key] in words):
            wrong.append((f"its metadata {key} is {shown(stated[key])}", f"known: {', '.join(words)}"))
    return wrong


def seconds(value: Any) -> float:
    """Return the length of a step as the user gives it.

    Raises:
        InvalidModelError: it is no positive number.
    """
    if np.ndim(value) or _POSITIVE.wrong("dt", value):
        raise InvalidModelError(f"dt is {shown(value)}", hint="give the seconds of one step, such as dt=1e-4")
    return float(value)
