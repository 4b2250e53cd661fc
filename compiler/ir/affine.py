"""Affine maps of a signal, cell by cell, and how they move through linear ops: what the op does says it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.ir.types import Array, compress, fits

Shape = tuple[int, ...]
#: a linear or affine function: [B, ...] float64 tensors in, [B, ...] out
Meaning = Callable[..., Tensor]

#: results that differ by less than this share of their size are the same, rounded in another order
SAME = 1e-9
_ROUNDING = 1e-13
#: how many random numbers there are: a prime, so that no cell gets one number in all samples, or its neighbour's
_PERIOD = 65521

DIFFERS = "would have to differ within a channel"
THROUGH = "is no affine op over the same channels"


class BlockedError(Exception):
    """A map cannot pass an op, or become part of it. The message is a predicate of the op: ``has no weights``."""


@attrs.frozen(eq=False)
class Affine:
    """The map ``gain x + shift``.

    Attributes:
        gain, shift: float64, of the sample's rank, each axis 1 or full.
    """

    gain: Array
    shift: Array

    @classmethod
    def scaling(cls, gain: Array) -> Affine:
        """Make the map ``gain x``."""
        return cls(gain, np.zeros((1,) * gain.ndim))

    @property
    def shifts(self) -> bool:
        """Whether the shift is other than zero anywhere."""
        return bool(self.shift.any())

    def in_channels(self, axis: int = 0) -> tuple[Array, Array]:
        """Return (gain, shift) as vectors over one axis, of length 1 where they do not vary along it.

        Raises:
            BlockedError: they vary along another axis.
        """
        parts = compress(self.gain), compress(self.shift)
        if any(size > 1 for part in parts for i, size in enumerate(part.shape) if i != axis % part.ndim):
            raise BlockedError(DIFFERS)
        return parts[0].reshape(-1), parts[1].reshape(-1)


def backward_sweep(meaning: Meaning, shapes: Sequence[Shape], weights: Tensor) -> tuple[list[Tensor], Tensor]:
    """Find ``W A`` of an affine function ``A x + b``, and b, by one backward sweep of autograd.

    Args:
        meaning: the function.
        shapes: of one sample of each operand.
        weights: W [N, ...], float64: N rows, each laid out as the result is.

    Returns:
        ([N, ...] for each operand, b [...]).
    """
    with torch.inference_mode(False), torch.enable_grad():
        xs = [torch.zeros((len(weights), *shape), dtype=torch.float64, requires_grad=True) for shape in shapes]
        y = meaning(*xs)
        return list(torch.autograd.grad(y, xs, weights.clone(), materialize_grads=True)), y[0].detach()


def moved_gain(meaning: Meaning, gains: Sequence[Array], shapes: Sequence[Shape]) -> Array:
    """Find the G with ``A (g_0 x_0, g_1 x_1, ...) = G A (x_0, x_1, ...)``.

    For random operands it is the least-squares factor between both sides, if that accounts for all of the difference.
    Where the result is always zero, any G is right.

    Raises:
        BlockedError: no such G exists.
    """
    xs = _random(shapes)
    plain, mapped = meaning(*xs), meaning(*_times(gains, xs))
    power = (plain * plain).sum(0)
    ratio = torch.where(power > 0, (plain * mapped).sum(0) / power, 1.0).numpy()
    as_they_are = (gain for gain in gains if fits(gain, ratio.shape))  # without rounding, so first
    for gain in (*as_they_are, compress(ratio, _ROUNDING)):
        if _agree(mapped, torch.tensor(gain) * plain):
            return gain
    raise BlockedError(THROUGH)


def moved_shift(meaning: Meaning, shifts: Sequence[Array], shapes: Sequence[Shape], uneven: str) -> Array:
    """Find the s with ``A (x_0 + s_0, x_1 + s_1, ...) = A (x_0, x_1, ...) + s``.

    Args:
        uneven: the message of the error.

    Raises:
        BlockedError: what is the same everywhere comes out in different sizes within a channel.
    """
    _row_sums(meaning, shapes, uneven)
    return compress(meaning(*map(_full, shifts, shapes))[0].numpy(), _ROUNDING)


def operand_gains(meaning: Meaning, gain: Array, shapes: Sequence[Shape]) -> list[Array]:
    """Find the g_i with ``A (g_0 x_0, g_1 x_1, ...) = G A (x_0, x_1, ...)`` for a given G.

    All results that a cell reaches must have the same gain, so the mean of their gains is the cell's gain.

    Raises:
        BlockedError: a cell reaches results of different gains.
    """
    xs = _random(shapes)
    plain = meaning(*xs)
    wanted = torch.tensor(gain) * plain
    if all(fits(gain, shape) for shape in shapes) and _agree(meaning(*_times([gain] * len(xs), xs)), wanted):
        return [gain] * len(shapes)
    for gains in _means(meaning, _full(gain, plain.shape[1:])[0], shapes, 1.0):
        if _agree(meaning(*_times(gains, xs)), wanted):
            return gains
    raise BlockedError(THROUGH)


def operand_shifts(meaning: Meaning, shift: Array, shapes: Sequence[Shape], uneven: str) -> list[Array]:
    """Find the s_i with ``A (x_0 + s_0, x_1 + s_1, ...) = A (x_0, x_1, ...) + s`` for a given s, as ``moved_shift``.

    Where the first operand can take the whole shift, it does. Otherwise each row's shift is divided by the sum of the
    row, and a cell takes the mean of the quotients of the rows that it reaches, as ``operand_gains`` does with gains.
    """
    sums = _row_sums(meaning, shapes, uneven)
    wanted = _full(shift, tuple(sums.shape))
    if fits(shift, shapes[0]):
        candidate = [shift, *(np.zeros((1,) * len(shape)) for shape in shapes[1:])]
        if _agree(meaning(*map(_full, candidate, shapes)), wanted):
            return candidate
    for shifts in _means(meaning, torch.where(sums == 0, 0.0, wanted[0] / sums), shapes, 0.0):
        if _agree(meaning(*map(_full, shifts, shapes)), wanted):
            return shifts
    raise BlockedError(uneven)


def _row_sums(meaning: Meaning, shapes: Sequence[Shape], uneven: str) -> Tensor:
    """Return the sum of each row of A, in the shape of a result: it is what A makes of ones."""
    sums = meaning(*(torch.ones((1, *shape), dtype=torch.float64) for shape in shapes))[0]
    if any(size > 1 for size in compress(sums.numpy(), SAME).shape[1:]):
        raise BlockedError(uneven)
    return sums


def _means(meaning: Meaning, values: Tensor, shapes: Sequence[Shape], unseen: float) -> Iterator[list[Array]]:
    """Yield for each cell of the operands the mean of the values that it reaches; ``unseen`` for one that reaches none.

    First all values weigh the same, which is exact where a cell reaches only one. Where the numbers with which a cell
    reaches several add up to zero, that says nothing, so the next weights are random.
    """
    for weights in (torch.ones_like(values), _random([values.shape])[0][0]):
        try:
            sums, _ = backward_sweep(meaning, shapes, torch.stack((values * weights, weights)))
        except RuntimeError:  # the op cannot be differentiated
            return
        means = (torch.where(total == 0, unseen, part / total) for part, total in sums)
        yield [compress(mean.numpy(), _ROUNDING) for mean in means]


def _random(shapes: Sequence[Shape]) -> list[Tensor]:
    return [random_numbers((4, *shape), i) for i, shape in enumerate(shapes)]


def random_numbers(shape: Shape, place: int) -> Tensor:
    """Draw normal numbers, others for each place, by using some repeatedly: new ones cost more than all else here."""
    start, size = -place % _PERIOD, math.prod(shape)
    # both copy, so that an op which writes to its operand does no harm
    if size <= _PERIOD:
        return _numbers()[start : start + size].clone().view(shape)
    return _numbers()[start : start + _PERIOD].repeat(-(-size // _PERIOD))[:size].view(shape)


@functools.cache
def _numbers() -> Tensor:
    """Twice the same, so that one period can start anywhere."""
    return torch.randn(_PERIOD, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).repeat(2)


def _times(gains: Sequence[Array], xs: Sequence[Tensor]) -> list[Tensor]:
    return [torch.tensor(gain) * x for gain, x in zip(gains, xs, strict=True)]


def _full(values: Array, shape: Shape) -> Tensor:
    return torch.tensor(np.broadcast_to(values, shape).copy())[None]


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether two batches of results are the same but for rounding, each cell in its own size."""
    return bool(((one - other).abs() <= SAME * other.abs().amax(0)).all())
