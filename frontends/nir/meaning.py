"""What the numbers and texts in NIR nodes and their metadata may be, whoever has written them."""

from collections.abc import Mapping
from typing import Any

import attrs
import nir
import numpy as np

from spikec.ir.errors import InvalidModelError, Problem
from spikec.ir.types import Array


@attrs.frozen
class _Numbers:
    """One kind of numbers.

    Attributes:
        called: what a message calls them.
        least: the smallest that is allowed.
        above: whether ``least`` itself is too small.
        whole: whether fractions are wrong.
    """

    called: str
    least: float = -np.inf
    above: bool = False
    whole: bool = False

    def allow(self, values: Array) -> bool:
        """Whether all of these are such numbers; NaN and infinity are none."""
        enough = values > self.least if self.above else values >= self.least
        fraction = self.whole and bool((values % 1).any())
        return bool(enough.all() and np.isfinite(values).all()) and not fraction


_ANY = _Numbers("numbers")
_POSITIVE = _Numbers("positive numbers", 0, above=True)
_COUNT = _Numbers("whole numbers from 1 on", 1, whole=True)
_SIZE = _Numbers("whole numbers from 0 on", 0, whole=True)
_AXIS = _Numbers("whole numbers", whole=True)

#: by the names of fields, which mean the same in all nodes
_FIELDS = {
    **dict.fromkeys(("weight", "bias", "scale", "r", "w_in", "v_leak", "v_reset"), _ANY),
    **dict.fromkeys(("v_threshold", "tau", "tau_syn", "tau_mem"), _POSITIVE),
    **dict.fromkeys(("stride", "dilation", "kernel_size", "groups", "shape"), _COUNT),
    **dict.fromkeys(("start_dim", "end_dim"), _AXIS),
    "padding": _SIZE,
}
_METADATA = {"dt": _POSITIVE, "v_init": _ANY, "output_scale": _POSITIVE}
_WORDS = {"reset": ("subtract", "value"), "fire": (">", ">=")}


def check(name: str, node: Any) -> list[Problem]:
    """List what is wrong with the fields of a node and its metadata."""
    fields = dict(vars(node))
    if isinstance(node, nir.Input):
        fields["shape"] = node.input_type["input"]
    if isinstance(fields.get("padding"), (str, bytes)):
        del fields["padding"]
    wrong = [_wrong(field, fields[field], kind) for field, kind in _FIELDS.items() if fields.get(field) is not None]
    wrong += metadata(node)
    return [Problem(message, name, f"nir.{type(node).__name__}", hint) for message, hint in filter(None, wrong)]


def metadata(node: Any) -> list[tuple[str, str]]:
    """List what is wrong with the metadata that this package knows, as (what is wrong, what to do)."""
    stated = node.metadata
    if not isinstance(stated, Mapping):
        return [("its metadata are no table of names and values", "leave them out")]
    wrong = []
    for key, kind in _METADATA.items():
        values = stated.get(key)
        for value in values.values() if isinstance(values, Mapping) else () if values is None else (values,):
            wrong.append(_wrong(f"metadata {key}", value, kind))
    for key, words in _WORDS.items():
        if key in stated and not (isinstance(stated[key], str) and stated[key] in words):
            wrong.append((f"its metadata {key} is {_shown(stated[key])}", f"known: {', '.join(words)}"))
    return [each for each in wrong if each]


def _wrong(field: str, value: Any, kind: _Numbers) -> tuple[str, str] | None:
    values = np.asarray(value)
    if values.dtype.kind not in "biuf":
        return f"its {field} is {_shown(value)}, and must be {kind.called}", ""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        return f"{count} of {values.size} numbers in its {field} are NaN or infinite", "train or convert it again"
    if values.size and not kind.allow(values):
        low, high = values.min(), values.max()
        found = f"{low:.6g}" if low == high else f"{low:.6g}..{high:.6g}"
        return f"its {field} is {found}, and must be {kind.called}", ""
    if not values.size and field != "shape":
        return f"its {field} has no numbers", ""
    return None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def seconds(value: Any) -> float:
    """Return the length of a step as the user gives it.

    Raises:
        InvalidModelError: it is no positive number.
    """
    if np.ndim(value) or _wrong("dt", value, _POSITIVE):
        raise InvalidModelError(f"dt is {_shown(value)}", hint="give the seconds of one step, such as dt=1e-4")
    return float(value)
