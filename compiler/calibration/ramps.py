"""A function of one number as a sum of clipped ramps, each of which one integrate-and-fire neuron computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs
import numpy as np

from spikec.ir.types import Array

#: most ramps that a function is given
MOST = 64
#: points at which function and sum are compared: so many at even distances, as many where values are dense, and as many
#: where the function is steep
_POINTS = 512
#: points at which knots may lie at first
_CANDIDATES = 257
#: share of the weight that is spread evenly over the range, so that what is rare there is fitted too
_EVENLY = 1e-3
#: how much smaller the error may become by moving knots; where it is farther from the tolerance, more ramps are tried
_GAIN_OF_MOVING = 1.5
#: by how many ranges the outer ramp is longer than what was seen, where the function goes on rising or falling there
BEYOND = 1.0
#: largest share of what the function climbs that one ramp takes
_CLIMB = 0.5
#: share of the values at each end that does not count for it
_RARE = 1e-3


@attrs.frozen(eq=False)
class Ramps:
    """``offset + sum of height_k clip(gain_k x + shift_k, 0, 1)``.

    Attributes:
        gain, shift, height: [K].
        offset: the value where all ramps are 0.
        error: root mean square of the difference to the function over the function's standard deviation, on the values.
        low, high: the range of the values.
    """

    gain: Array
    shift: Array
    height: Array
    offset: float
    error: float
    low: float
    high: float

    def __call__(self, x: Array) -> Array:
        """Return the sum at each number."""
        ramps = np.clip(np.multiply.outer(x, self.gain) + self.shift, 0, 1)
        return np.asarray(ramps @ self.height + self.offset)


def fitted(function: Callable[[Array], Array], values: Array, tolerance: float, open_ends: tuple[bool, bool]) -> Ramps:
    """Find the fewest ramps that are within a tolerance of a function; one that is far higher than others is halved.

    Knots are those of the best lines, one a piece and each for itself, which dynamic programming finds (Bellman and
    Roth 1969, Curve fitting by segmented straight lines). The heights at them are least squares, and where that is
    nearly enough, knots are moved while the error falls.

    Args:
        function: finite on the range of the values.
        values: rising.
        tolerance: for the root mean square of the error, over the standard deviation of what the function gives.
        open_ends: whether the outer ramp goes on, at the left and at the right end, or else the function is constant
            beyond the range.
    """
    low, high = float(values[0]), float(values[-1])
    if not low < high:
        return _made(np.array([low]), function(np.array([low])), 0.0, values, open_ends)
    exact = function(values)
    x, weight = _points(values, exact)
    y = function(x)
    size = np.sqrt(weight @ (y - weight @ y) ** 2)
    if not size:
        return _made(np.array([low]), y[:1], 0.0, values, open_ends)
    problem = _Problem(x, y, weight, low < 0 < high and function(np.zeros(1))[0] == 0)
    best: tuple[float, Array] = (np.inf, problem.through_zero(np.array([low, high])))
    for found in problem.best_knots(MOST):
        knots = problem.through_zero(found)
        error = problem.error(knots) / size
        if error > tolerance and error <= _GAIN_OF_MOVING * tolerance:
            knots = problem.moved(knots, tolerance * size)
            error = problem.error(knots) / size
        if error <= tolerance:  # at the points, which the values themselves need not bear out
            difference = np.interp(values, knots, problem.heights(knots)) - exact
            error = float(np.sqrt((difference**2).mean()) / exact.std())
        best = min(best, (error, knots), key=lambda each: each[0])
        if error <= tolerance:
            break
    return _made(*_split(best[1], problem.heights(best[1]), values), float(best[0]), values, open_ends)


def _split(knots: Array, at: Array, values: Array) -> tuple[Array, Array]:
    """Add a knot to the piece on which a line climbs more than half of what it climbs or falls in all, if there is one.

    A neuron rounds to a T-th of what its ramp climbs: a long straight piece, such as ELU's for positive x, would be as
    coarse as a ReLU. The line stays as it is. Rare values do not count, as thresholds cut them.
    """
    ends = np.clip(knots, *np.quantile(values, [_RARE, 1 - _RARE]))
    climbs = np.abs(np.diff(np.interp(ends, knots, at)))
    halves = ((ends[:-1] + ends[1:]) / 2)[climbs > _CLIMB * climbs.sum()]
    finer = np.sort(np.concatenate([knots, halves]))
    return finer, np.interp(finer, knots, at)


def _points(values: Array, exact: Array) -> tuple[Array, Array]:
    """Return points of the range, rising, and the share of the values that each stands for.

    They are dense where values are, where the function is steep, and not far from each other elsewhere.
    """
    quantiles = values[np.linspace(0, len(values) - 1, min(_POINTS, len(values))).round().astype(int)]
    climbed = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(exact)))])
    steep = np.interp(np.linspace(0, climbed[-1], _POINTS), climbed, values)
    x = np.unique(np.concatenate([np.linspace(values[0], values[-1], _POINTS), quantiles, steep]))
    edges = np.concatenate([x[:1], (x[1:] + x[:-1]) / 2, x[-1:]])
    counts = np.diff(np.searchsorted(values, edges[1:-1]), prepend=0, append=len(values))
    counts[0], counts[-1] = np.searchsorted(values, edges[1]), len(values) - np.searchsorted(values, edges[-2])
    return x, (1 - _EVENLY) * counts / len(values) + _EVENLY * np.diff(edges) / (x[-1] - x[0])


@attrs.frozen(eq=False)
class _Problem:
    """Least squares of a broken line with given knots.

    Attributes:
        x, y, weight: the points, what the function gives there, and how much each counts.
        anchored: whether 0 is a knot at which the line is 0, as the function is.
    """

    x: Array
    y: Array
    weight: Array
    anchored: bool

    def through_zero(self, knots: Array) -> Array:
        """Return the knots with 0 among them where the line is to be 0 there: in the place of the nearest one."""
        if not self.anchored:
            return knots
        inner = knots[1:-1].copy()
        if len(inner):
            inner[np.abs(inner).argmin()] = 0.0
        return np.concatenate([knots[:1], np.sort(inner) if len(inner) else [0.0], knots[-1:]])

    def best_knots(self, most: int) -> Iterator[Array]:
        """Yield the knots of the best 1, 2, ... lines that need not meet."""
        places = np.unique(np.linspace(0, len(self.x) - 1, _CANDIDATES).round().astype(int))
        x, y = self.x - self.x.mean(), self.y - self.y.mean()
        moments = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y]) * self.weight
        sums = np.concatenate([np.zeros((6, 1)), np.cumsum(moments, 1)], 1)
        first, behind = sums[:, places], sums[:, places + 1]
        n, sx, sy, sxx, sxy, syy = behind[:, None, :] - first[:, :, None]  # of the points from one place to another
        with np.errstate(divide="ignore", invalid="ignore"):
            vx, vxy, vy = sxx - sx * sx / n, sxy - sx * sy / n, syy - sy * sy / n
            cost = np.maximum(vy - np.where(vx > 0, vxy * vxy / vx, 0.0), 0.0)
        rising = np.triu(np.ones_like(cost, dtype=bool), 1)
        cost = np.where(rising, cost, np.inf)
        total, chosen = cost[0], list[Array]()
        for _ in range(min(most, len(places) - 1)):
            trace = [len(places) - 1]
            for choice in reversed(chosen):
                trace.append(int(choice[trace[-1]]))
            yield self.x[places[[0, *reversed(trace)]]]
            sums_to = total[:, None] + cost
            chosen.append(sums_to.argmin(0))
            total = sums_to.min(0)

    def heights(self, knots: Array) -> Array:
        """Return the line's value at each knot."""
        free = np.flatnonzero(knots != 0) if self.anchored else np.arange(len(knots))
        basis = self._basis(knots)[:, free]
        weighted = basis * self.weight[:, None]
        found = np.zeros(len(knots))
        found[free] = np.linalg.solve(weighted.T @ basis + 1e-12 * np.eye(len(free)), weighted.T @ self.y)
        return found

    def error(self, knots: Array) -> float:
        """Return the root mean square of the difference."""
        difference = np.interp(self.x, knots, self.heights(knots)) - self.y
        return float(np.sqrt(self.weight @ difference**2))

    def moved(self, knots: Array, enough: float) -> Array:
        """Return knots that were moved one after the other while the error fell, or until it is small enough."""
        knots, error, step = knots.copy(), self.error(knots), 0.25
        while step > 0.02 and error > enough:
            fell = False
            for i in range(1, len(knots) - 1):
                if self.anchored and knots[i] == 0:
                    continue
                for side in (-1, 1):
                    tried = knots.copy()
                    tried[i] += side * step * abs(knots[i + side] - knots[i])
                    if (new := self.error(tried)) < error:
                        knots, error, fell = tried, new, True
                        break
            step = step if fell else step / 2
        return knots

    def _basis(self, knots: Array) -> Array:
        """Return the hat function of each knot at each point, [points, knots]."""
        piece = np.clip(np.searchsorted(knots, self.x, side="right") - 1, 0, len(knots) - 2)
        share = (self.x - knots[piece]) / (knots[piece + 1] - knots[piece])
        basis = np.zeros((len(self.x), len(knots)))
        rows = np.arange(len(self.x))
        basis[rows, piece], basis[rows, piece + 1] = 1 - share, share
        return basis


def _made(knots: Array, at: Array, error: float, values: Array, open_ends: tuple[bool, bool]) -> Ramps:
    """Make ramps that are all 0 at one knot.

    It is the one at 0 where the line is 0 there, so that zeros that a convolution pads with are zeros of the sum too;
    else the one nearest to the median, so that most ramps are silent most of the time. A ramp that goes on beyond the
    range starts within it: the only ramp of a line goes on at the right alone.
    """
    low, high = float(values[0]), float(values[-1])
    open_ends = (open_ends[0] and (len(knots) > 2 or not open_ends[1]), open_ends[1])
    zero = np.flatnonzero((knots == 0) & (at == 0))
    first, last = int(open_ends[0]), len(knots) - int(open_ends[1] and len(knots) > 1)
    centre = int(zero[0]) if len(zero) else first + int(np.abs(knots[first:last] - np.median(values)).argmin())
    offset = float(at[centre])
    ends = knots.astype(np.float64)
    at = at.astype(np.float64)
    for end, inner, is_open in ((0, 1, open_ends[0]), (-1, -2, open_ends[1])):
        if is_open and len(knots) > 1:
            slope = (at[end] - at[inner]) / (ends[end] - ends[inner])
            ends[end] += BEYOND * (high - low) * (1 if end else -1)
            at[end] = at[inner] + slope * (ends[end] - ends[inner])
    near = np.concatenate([ends[1 : centre + 1], ends[centre:-1]])
    far = np.concatenate([ends[:centre], ends[centre + 1 :]])
    height = np.concatenate([at[:centre] - at[1 : centre + 1], at[centre + 1 :] - at[centre:-1]])
    gain = 1 / (far - near)
    used = height != 0
    return Ramps(gain[used], (-near * gain)[used], height[used], offset, error, low, high)
