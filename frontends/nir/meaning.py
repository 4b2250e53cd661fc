"""What the numbers and texts in NIR nodes and their metadata may be, whoever has written them."""

import difflib
from collections.abc import Mapping
from typing import Any

import nir
import numpy as np

from spikec.ir.errors import InvalidModelError, Problem, shown
from spikec.ir.untrusted import Numbers

ANY = Numbers("numbers")
_POSITIVE = Numbers("positive numbers", 0, above=True)
_LEAST = Numbers("numbers from 0 on", 0)
_COUNT = Numbers("whole numbers from 1 on", 1, whole=True)
_SIZE = Numbers("whole numbers from 0 on", 0, whole=True)
_AXIS = Numbers("whole numbers", whole=True)

#: by the names of fields, which mean the same in all nodes
_FIELDS = {
    **dict.fromkeys(("weight", "bias", "scale", "r", "w_in", "v_leak", "v_reset", "threshold"), ANY),
    "delay": _LEAST,
    **dict.fromkeys(("v_threshold", "tau", "tau_syn", "tau_mem"), _POSITIVE),
    **dict.fromkeys(("stride", "dilation", "kernel_size", "groups", "shape"), _COUNT),
    **dict.fromkeys(("start_dim", "end_dim"), _AXIS),
    "padding": _SIZE,
}
#: what each kind of node must have; the other fields have defaults
_NEEDED = {
    "Affine": ("weight", "bias"),
    "Linear": ("weight",),
    "Scale": ("scale",),
    **dict.fromkeys(("Conv1d", "Conv2d"), ("weight", "stride", "padding", "dilation", "groups")),
    **dict.fromkeys(("SumPool2d", "AvgPool2d"), ("kernel_size", "stride", "padding")),
    "Flatten": ("start_dim", "end_dim"),
    "I": ("r",),
    "IF": ("r", "v_threshold"),
    "LI": ("tau", "r", "v_leak"),
    "LIF": ("tau", "r", "v_leak", "v_threshold"),
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold"),
    "Threshold": ("threshold",),
    "Delay": ("delay",),
    "Input": ("shape",),
}
_METADATA = {
    "dt": _POSITIVE,
    "v_init": ANY,
    "output_scale": _POSITIVE,
    "axes": _SIZE,
    "model_shape": _COUNT,
    "timesteps": _COUNT,
}
WORDS = {"reset": ("subtract", "value"), "fire": (">", ">="), "integrator": ("euler", "exponential")}


def check(name: str, node: Any) -> list[Problem]:
    """List what is wrong with the fields of a node and its metadata."""
    fields = dict(vars(node))
    if isinstance(node, nir.Input):
        fields["shape"] = node.input_type["input"]
    if isinstance(node, nir.Output):
        fields["shape"] = node.output_type["output"]
    kinds = [cls.__name__ for cls in type(node).__mro__ if cls.__name__ in nir.ir.__all__]
    return check_fields(name, {**fields, "type": kinds[0] if kinds else "NIRNode"})


def check_metadata(stated: Any) -> list[Problem]:
    """List what is wrong with the metadata of a whole graph."""
    return [Problem(message, "", "nir.NIRGraph", hint) for message, hint in filter(None, metadata(stated))]


def check_fields(name: str, fields: Any) -> list[Problem]:
    """List what is wrong with a node, from its type and its fields by name."""
    kind = fields.get("type") if isinstance(fields, Mapping) else fields
    if not isinstance(fields, Mapping) or not isinstance(kind, str) or kind not in nir.ir.__all__:
        close = difflib.get_close_matches(str(kind), nir.ir.__all__, n=1)
        hint = f"nir.{close[0]} is one that it has" if close else ""
        return [Problem(f"its type is {shown(kind)}, which NIR has not", name, hint=hint)]
    wrong = metadata(fields.get("metadata", {}))
    if missing := [field for field in _NEEDED.get(kind, ()) if fields.get(field) is None]:
        wrong.append((f"it has no {', '.join(missing)}", f"a nir.{kind} needs {', '.join(_NEEDED[kind])}"))
    for field, numbers in _FIELDS.items():
        value = fields.get(field)
        if value is None or (field == "padding" and isinstance(value, (str, bytes))):
            continue
        empty = (f"its {field} has no numbers", "") if not np.size(value) and field != "shape" else None
        wrong.append(empty or numbers.wrong(field, value))
    if kind in ("Conv1d", "Conv2d") and not any(wrong):
        wrong.append(_groups(fields))
    return [Problem(message, name, f"nir.{kind}", hint) for message, hint in filter(None, wrong)]


def _groups(fields: Mapping[str, Any]) -> tuple[str, str] | None:
    rows, groups = len(np.atleast_1d(fields["weight"])), np.ravel(fields["groups"])
    if len(groups) != 1:
        return f"its groups are {groups.tolist()}, and must be one number", ""
    if rows % int(groups[0]):
        return f"its {rows} output channels do not divide into {int(groups[0])} groups", "give a divisor, or groups = 1"
    return None


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


def steps(metadata: Mapping[str, Any]) -> int | None:
    """Return the number of steps that a graph says it is run for, or None."""
    stated = metadata.get("timesteps")
    return None if stated is None else int(np.ravel(stated)[0])
