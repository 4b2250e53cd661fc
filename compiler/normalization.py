"""How thresholds are chosen."""

from __future__ import annotations

import re
from typing import Any, Literal

import attrs

from spikec.errors import CompileError

_METHODS = ("percentile", "max", "model")


def _within(low: float, high: float) -> Any:
    def check(_: Any, attribute: Any, value: float) -> None:
        if not low < value <= high:
            raise CompileError(f"{attribute.name} is {value}, it must be in ({low:g}, {high:g}]")

    return check


@attrs.frozen(kw_only=True)
class Normalization:
    """Which statistic of a ReLU's values becomes its neuron's scale.

    Attributes:
        method: ``percentile`` (Rueckauer et al. 2017, sec. 2.2.1), ``max`` (Diehl et al. 2015, data-based)
            or ``model``, the bound that follows from the weights alone for inputs in [0, 1] (Diehl et al.
            2015, model-based), which needs no data.
        percentile: in (0, 100], over all values, zeros included; used by ``percentile``.
        factor: in (0, 1], multiplies the statistic.
        per_channel: one scale for each channel (for each neuron after a linear layer), or one a layer.
        v_init: initial membrane potential as a fraction of the threshold, in (-1, 1]; 1/2 turns the floor
            of the spike count into rounding (Bu et al. 2022, theorem 2).
    """

    method: Literal["percentile", "max", "model"] = attrs.field(
        default="percentile", validator=attrs.validators.in_(_METHODS)
    )
    percentile: float = attrs.field(default=99.9, validator=_within(0, 100))
    factor: float = attrs.field(default=1.0, validator=_within(0, 1))
    per_channel: bool = True
    v_init: float = attrs.field(default=0.5, validator=_within(-1, 1))

    @classmethod
    def parse(cls, value: str | float | Normalization) -> Normalization:
        """``"max"``, ``"99.9%"`` or a float in (0, 1] times the maximum, per layer; or a record as it is.

        Raises:
            CompileError: anything else.
        """
        if isinstance(value, Normalization):
            return value
        if value == "max":
            return cls(method="max", per_channel=False)
        if isinstance(value, str) and (found := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)):
            return cls(method="percentile", percentile=float(found[1]), per_channel=False)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return cls(method="max", factor=float(value), per_channel=False)
        raise CompileError(
            f"normalization is {value!r}",
            hint='give "max", a percentile such as "99.9%", a float in (0, 1], or a spikec.Normalization',
        )
