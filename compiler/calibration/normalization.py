"""Chooses thresholds from statistics."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Literal, get_args

import attrs
import numpy as np

from spikec.calibration.statistics import Statistics
from spikec.interpreter.inputs import is_number
from spikec.ir.errors import CompileError, shown
from spikec.ir.types import Array

Method = Literal["percentile", "max", "mmse", "ltb", "model"]

#: candidate thresholds of ``mmse``, as shares of the maximum
_SHARES = np.arange(1, 101) / 100
#: every how many of them are looked at first, and for what they clip; what rounding may be of a sum of squares
_FIRST, _NEXT, _ROUNDING = 20, 5, 1e-9
#: and where values above the maximum are reckoned with
_SHARES_BEYOND = np.append(_SHARES, np.arange(26, 76) / 25)
#: numbers that are looked at together, which stay in the processor's cache
_CELLS = 2**15
#: updates of ``ltb``
_UPDATES = 1000
#: a float64's bits without so many of the lowest tell the 128th of an octave that it is in
_CODE = 45


def _up_to(high: float, *, zero: bool = False) -> Any:
    """A validator of numbers from 0, which may be one of them, to ``high``."""

    def check(_: Any, attribute: Any, value: float) -> None:
        if not is_number(value) or not (0 < value <= high or (zero and value == 0)):
            raise CompileError(f"{attribute.name} is {shown(value)}, it must be in {'[' if zero else '('}0, {high}]")

    return check


def _flag(_: Any, attribute: Any, value: Any) -> None:
    if not isinstance(value, bool):
        raise CompileError(f"{attribute.name} is {shown(value)}", hint="give True or False")


def _known(_: Any, __: Any, value: Any) -> None:
    if not isinstance(value, str) or value not in get_args(Method):
        raise CompileError(
            f"there is no normalization method {shown(value)}", hint=f"known: {', '.join(get_args(Method))}"
        )


@attrs.frozen(kw_only=True)
class Normalization:
    """Which statistic of a ReLU's values becomes its neuron's scale.

    Attributes:
        method: ``percentile`` (Rueckauer et al. 2017, sec. 2.2.1), ``max`` (Diehl et al. 2015, data-based),
            ``mmse``, the least squared error of the spike count's grid for T steps (Li et al. 2021, sec. 4.2, with
            the neuron's rounding), ``ltb``, local threshold balancing (Bu et al. 2025), which needs no T, or
            ``model``, the bound that follows from the weights alone for inputs in [0, 1] (Diehl et al. 2015,
            model-based), which needs no data.
        percentile: in (0, 100], over all values, zeros included; used by ``percentile``.
        factor: in (0, 1], multiplies the statistic.
        per_channel: one scale for each channel (for each neuron after a linear layer), or one a layer.
        shrink: in [0, 1], how far the scale of each channel is drawn towards the one that its layer would have, their
            geometric mean with this weight of the layer's: a layer shows more of what may come than a channel does.
        unseen: how many values above the largest ``mmse`` reckons with besides those of the data, which count the more
            the fewer these are. They are exponentially distributed, and as far above the largest on average as the
            square root of N largest of N values are above the next one (peaks over a threshold, Pickands 1975).
        v_init: initial membrane potential as a fraction of the threshold, in [0, 1]; 1/2 turns the floor
            of the spike count into rounding (Bu et al. 2022, theorem 2).

    Examples:
        >>> normalization = spikec.Normalization(method="percentile", percentile=99.5, per_channel=False)
        >>> graph = spikec.compile(model, "nir", calibration=images, normalization=normalization)
        >>> spikec.Normalization.parse("99.5%") == normalization
        True
    """

    method: Method = attrs.field(default="percentile", validator=_known)
    percentile: float = attrs.field(default=99.9, validator=_up_to(100))
    factor: float = attrs.field(default=1.0, validator=_up_to(1))
    per_channel: bool = attrs.field(default=True, validator=_flag)
    shrink: float = attrs.field(default=0.0, validator=_up_to(1, zero=True))
    unseen: float = attrs.field(default=0.0, validator=_up_to(1e9, zero=True))
    v_init: float = attrs.field(default=0.5, validator=_up_to(1, zero=True))

    def statistic(self, values: Statistics, timesteps: int) -> Array:
        """[C]: the scale of each channel; 0 for one that is silent.

        Args:
            values: of a ReLU.
            timesteps: T, for ``mmse``.
        """
        if self.method == "max":
            return values.maximum * self.factor
        if self.method == "mmse":
            if self.unseen:
                return _least_with_unseen(values, timesteps, self.v_init, self.unseen) * self.factor
            return _least_error(values, timesteps, self.v_init) * self.factor
        if self.method == "ltb":
            return _balanced(values) * self.factor
        value = values.percentile(self.percentile)
        return np.where(value > 0, value, values.maximum) * self.factor

    def of_layer(self, values: Statistics, timesteps: int) -> float:
        """The scale that all channels have as one."""
        if self.method == "max":
            return float(values.maximum.max()) * self.factor  # for which nothing is counted anew
        return float(self.statistic(values.layer(), timesteps)[0])

    def shrunk(self, scale: Array, layer: float) -> Array:
        """[C]: the scales of channels, drawn towards that of their layer."""
        return np.asarray(scale ** (1 - self.shrink) * layer**self.shrink)

    @classmethod
    def parse(cls, value: str | float | Normalization) -> Normalization:
        """``"max"``, ``"99.9%"`` or a float in (0, 1] times the maximum, per layer; or a record as it is.

        Raises:
            CompileError: anything else.
        """
        if isinstance(value, Normalization):
            return value
        if isinstance(value, str) and value == "max":
            return cls(method="max", per_channel=False)
        if isinstance(value, str) and (found := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)):
            return cls(method="percentile", percentile=float(found[1]), per_channel=False)
        if not isinstance(value, str) and is_number(value) and 0 < value <= 1:
            return cls(method="max", factor=float(value), per_channel=False)
        raise CompileError(
            f"normalization is {shown(value)}",
            hint='give "max", a percentile such as "99.9%", a float in (0, 1], or a spikec.Normalization',
        )


def _tails(statistics: Statistics) -> Callable[[Array, Array], tuple[Array, ...]]:
    """Return a function of bounds [P, n] in channels [P]: how many values are above, their sum, and that of squares."""
    values, counts = statistics.bins()
    parts = counts.astype(np.float64), counts * values, counts * values**2
    width, first = len(values) + 1, _searched(values)
    tails = np.zeros((len(parts), len(counts), width))  # from each bin on, and 0 at the end
    for part, tail in zip(parts, tails, strict=True):
        np.cumsum(part[:, ::-1], axis=1, out=tail[:, -2::-1])

    def above(bounds: Array, channels: Array) -> tuple[Array, ...]:
        place = channels[:, None] * width + first(bounds)
        return tuple(tail.take(place) for tail in tails)

    return above


def _searched(values: Array) -> Callable[[Array], Array]:
    """Return ``lambda bounds: np.searchsorted(values, bounds)``, for values as ``Statistics.bins`` gives them.

    They rise from 0, no two of them within the same 128th of an octave, and bounds are not negative.
    """
    codes = values.view(np.int64) >> _CODE
    codes[0] = codes[1] - 1 if len(codes) > 1 else 0
    known = np.searchsorted(codes, np.arange(codes[0], codes[-1] + 2))  # by code: the first value that has it, or more
    padded = np.append(values, np.inf)

    def first(bounds: Array) -> Array:
        place = known.take((bounds.view(np.int64) >> _CODE) - codes[0], mode="clip")
        return np.asarray(place + (padded.take(place) < bounds))

    return first


def _least_error(statistics: Statistics, timesteps: int, v_init: float) -> Array:
    """[C]: the threshold h with the least sum of (x - h/T clip(floor(T x/h + v_init), 0, T))^2 over the values x.

    It is found for a few h, and then for those of which the next larger does not clip more alone, about a tenth.
    """
    above, channels = _tails(statistics), np.arange(statistics.maximum.size)
    scales = _SHARES[:, None] * statistics.maximum
    errors = np.full(scales.shape, np.inf)
    some = np.concatenate([scales[_NEXT - 1 :: _NEXT], np.zeros((1, len(channels)))])
    counts, sums, squares = (x.T for x in above(some.T, channels))
    clipped = (squares - 2 * some * sums + some**2 * counts - (1 + _ROUNDING) * squares[-1])[:-1]

    def find(asked: Array) -> None:
        _, asked_of = np.nonzero(asked)
        errors[asked] = _errors(above, scales[asked], asked_of, timesteps, v_init)

    is_first = np.broadcast_to(np.arange(1, len(_SHARES) + 1)[:, None] % _FIRST == 0, errors.shape)
    find(is_first)
    find(~is_first & np.repeat(clipped <= errors.min(0), _NEXT, axis=0))
    return np.asarray(_SHARES[errors.argmin(0)] * statistics.maximum)


def _least_with_unseen(statistics: Statistics, timesteps: int, v_init: float, unseen: float) -> Array:
    """[C]: the threshold of :func:`_least_error` where what is clipped of values that are not there is added.

    As that is a guess, all thresholds count as good whose sum is above the least by no more than what was guessed
    there, and the one nearest to the largest value is taken.
    """
    scales = _SHARES_BEYOND[:, None] * statistics.maximum
    channels = np.broadcast_to(np.arange(statistics.maximum.size), scales.shape)
    errors = _errors(_tails(statistics), scales.ravel(), channels.ravel(), timesteps, v_init).reshape(scales.shape)
    guessed = unseen * _clipped(statistics, scales)
    errors += guessed
    allowed = np.take_along_axis(guessed, errors.argmin(0)[None], 0)
    distance = np.where(errors - errors.min(0) <= allowed, np.abs(np.log(_SHARES_BEYOND))[:, None], np.inf)
    return np.asarray(_SHARES_BEYOND[distance.argmin(0)] * statistics.maximum)


def _errors(
    above: Callable[[Array, Array], tuple[Array, ...]], scales: Array, channels: Array, timesteps: int, v_init: float
) -> Array:
    """[P]: the sum of :func:`_least_error` for each threshold in its channel, up to a constant of the channel.

    The count reaches j at x = (j - v_init) h/T, so with n_j and s_j the number and sum of the values from there on it
    is that of (2j - 1) (h/T)^2 n_j - 2 (h/T) s_j over j = 1...T.
    """
    j = np.arange(1, timesteps + 1)
    parts = 1 + len(scales) * timesteps // _CELLS
    errors = []
    for some, inside in zip(np.array_split(scales, parts), np.array_split(channels, parts), strict=True):
        step = (some / timesteps)[:, None]
        counts, sums, _ = above((j - v_init) * step, inside)
        errors.append(((2 * j - 1) * step**2 * counts - 2 * step * sums).sum(-1))
    return np.concatenate(errors)


def _clipped(statistics: Statistics, thresholds: Array) -> Array:
    """[..., C]: for thresholds h, the mean of relu(x - h)^2 of a value x that is above its channel's largest."""
    values, counts = statistics.bins()
    from_each = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    least = values[np.maximum((from_each > math.sqrt(statistics.count)).sum(1) - 1, 0)]
    above = np.maximum(values - least[:, None], 0)
    excess = (above * counts).sum(1) / np.maximum((counts * (above > 0)).sum(1), 1)
    below, beyond = (np.maximum(x, 0) for x in (statistics.maximum - thresholds, thresholds - statistics.maximum))
    return np.asarray(below**2 + 2 * excess * (below + excess * np.exp(-beyond / np.where(excess > 0, excess, 1))))


def _balanced(statistics: Statistics) -> Array:
    """[C]: h after updates h += 2 mean(relu(x - h)) from 0, the expected ones over the data.

    The paper's values are those of a net whose earlier layers are clipped at their thresholds of that moment; here
    they are not.
    """
    above, channels = _tails(statistics), np.arange(len(statistics.maximum))
    threshold = np.zeros(len(channels))
    for _ in range(_UPDATES):
        counts, sums, _ = (x[:, 0] for x in above(threshold[:, None], channels))
        threshold = threshold + 2 * (sums - threshold * counts) / statistics.count
    return np.minimum(threshold, statistics.maximum)
