"""Affine maps of a signal, cell by cell, and how they move through a linear op."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.ir.types import Array, compress

Shape = tuple[int, ...]
#: the meaning of an op: [B, ...] tensors in, [B, ...] out
Meaning = Callable[..., Tensor]

#: two results that differ by less than this share of their size are the same number, rounded in another order
_SAME = 1e-9
#: gains closer than this are one gain
_ROUNDING = 1e-13
#: random operands with which a rule is tried
_TRIED = 4

DIFFERS = "would have to differ within a channel"
THROUGH = "is no affine op over the same channels"


class BlockedError(Exception):
    """A map cannot pass, or become part of, an op. The message is a predicate: ``has no weights``."""


@attrs.frozen(eq=False)
class Affine:
    """``gain x + shift``.

    Attributes:
        gain, shift: float64, of the sample's rank, each axis 1 or full.
    """

    gain: Array
    shift: Array

    @classmethod
    def scaling(cls, gain: Array) -> Affine:
        """``gain x``."""
        return cls(gain, np.zeros((1,) * gain.ndim))

    @property
    def shifts(self) -> bool:
        """False where the shift is zero everywhere."""
        return bool(self.shift.any())

    def in_channels(self, axis: int = 0) -> tuple[Array, Array]:
        """(gain, shift) as vectors over one axis, of length 1 where they do not vary along it.

        Raises:
            BlockedError: they vary along another axis.
        """
        gain, shift = compress(self.gain), compress(self.shift)
        for part in (gain, shift):
            if any(size > 1 for i, size in enumerate(part.shape) if i != axis % part.ndim):
                raise BlockedError(DIFFERS)
        return gain.reshape(-1), shift.reshape(-1)


def identity(rank: int) -> Affine:
    """The map that changes nothing, for a sample of that rank."""
    return Affine.scaling(np.ones((1,) * rank))


def backward_sweep(meaning: Meaning, shapes: Sequence[Shape], weights: Tensor) -> tuple[list[Tensor], Tensor]:
    """``W A`` of an affine ``A x + b``, for every operand, and ``b``: autograd does it in one sweep.

    Args:
        meaning: the affine function.
        shapes: of one sample of each operand.
        weights: [N, ...], float64: each of N rows over the result.

    Returns:
        ([N, ...] for each operand, the result [...] for operands of zero).
    """
    with torch.inference_mode(False), torch.enable_grad():
        xs = [torch.zeros((len(weights), *shape), dtype=torch.float64, requires_grad=True) for shape in shapes]
        y = meaning(*xs)
        return list(torch.autograd.grad(y, xs, weights.clone(), materialize_grads=True)), y[0].detach()


def map_result(meaning: Meaning, maps: Sequence[Affine], shapes: Sequence[Shape]) -> Affine:
    """The M with ``op(m_0(x_0), m_1(x_1), ...) = M(op(x_0, x_1, ...))``, for a linear op.

    With random operands the gain is the least-squares factor between the results with and without the maps' gains,
    and it is one only if it accounts for all of them; where the result is always zero, any gain is right. The shift
    is what the op makes of the shifts.

    Raises:
        BlockedError: no gain accounts for the results.
    """
    xs = _random(shapes)
    with torch.no_grad():
        plain = meaning(*xs)
        mapped = meaning(*(torch.tensor(m.gain) * x for m, x in zip(maps, xs, strict=True)))
        shift = meaning(*(_full(m.shift, shape) for m, shape in zip(maps, shapes, strict=True)))[0]
        power = (plain * plain).sum(0)
        ratio = torch.where(power > 0, (plain * mapped).sum(0) / power, 1.0).numpy()
        result = tuple(plain.shape[1:])
        gains = [m.gain for m in maps if _fits(m.gain, result)]  # as it is, first: without rounding
        for gain in (*gains, compress(ratio, _ROUNDING)):
            if _agree(mapped, torch.tensor(gain) * plain):
                return Affine(gain, compress(shift.numpy(), _ROUNDING))
    raise BlockedError(THROUGH)


def map_operands(meaning: Meaning, wanted: Affine, shapes: Sequence[Shape], uneven: str) -> list[Affine]:
    """Maps m_i with ``op(m_0(x_0), m_1(x_1), ...) = M(op(x_0, x_1, ...))`` for a given M, for a linear op.

    For ``op(x) = A x`` a gain must be the same over all results that a cell reaches, so that a mean of them weighted
    by A, which is a backward sweep, is that gain. The same mean of the shift over A's row sums is a shift of the
    operand. Each is tried on the op before it is believed.

    Args:
        uneven: what the error says where a gain passes and the shift does not.

    Raises:
        BlockedError: no such maps are found.
    """
    xs = _random(shapes)
    with torch.no_grad():
        plain = meaning(*xs)
        ones = meaning(*(torch.ones((1, *shape), dtype=torch.float64) for shape in shapes))[0]
    result = tuple(plain.shape[1:])
    shift = _full(wanted.shift, result)[0]
    for gains in _gains(meaning, wanted.gain, shapes, result):
        with torch.no_grad():
            mapped = meaning(*(torch.tensor(gain) * x for gain, x in zip(gains, xs, strict=True)))
        if _agree(mapped, torch.tensor(wanted.gain) * plain):
            break
    else:
        raise BlockedError(THROUGH)
    for shifts in _shifts(meaning, wanted.shift, shapes, torch.where(ones == 0, 0.0, shift / ones)):
        with torch.no_grad():
            if _agree(meaning(*map(_full, shifts, shapes)), shift[None]):
                return [Affine(*pair) for pair in zip(gains, shifts, strict=True)]
    raise BlockedError(uneven)


def _gains(meaning: Meaning, gain: Array, shapes: Sequence[Shape], result: Shape) -> Iterator[list[Array]]:
    if all(_fits(gain, shape) for shape in shapes):
        yield [gain] * len(shapes)
    yield from _means(meaning, _full(gain, result)[0], shapes, 1.0)


def _shifts(meaning: Meaning, shift: Array, shapes: Sequence[Shape], per_cell: Tensor) -> Iterator[list[Array]]:
    nothing = [np.zeros((1,) * len(shape)) for shape in shapes]
    if not shift.any():
        yield nothing
    elif _fits(shift, shapes[0]):
        yield [shift, *nothing[1:]]
    yield from _means(meaning, per_cell, shapes, 0.0)


def _means(meaning: Meaning, values: Tensor, shapes: Sequence[Shape], unseen: float) -> Iterator[list[Array]]:
    """For each cell of the operands the mean of the values that it reaches; ``unseen`` for one that reaches none.

    First all values weigh the same, which is exact where a cell reaches one. If a cell's own weights in the op add up
    to zero, that says nothing, and the values' weights are random.
    """
    ones = torch.ones_like(values)
    for weights in (
        ones,
        ones + torch.rand(values.shape, dtype=ones.dtype, generator=torch.Generator().manual_seed(0)),
    ):
        try:
            sums, _ = backward_sweep(meaning, shapes, torch.stack((values * weights, weights)))
        except RuntimeError:  # not differentiable: numpy in the meaning, for one
            raise BlockedError(THROUGH) from None
        means = (torch.where(total == 0, unseen, part / total) for part, total in sums)
        yield [compress(mean.numpy(), _ROUNDING) for mean in means]


def _random(shapes: Sequence[Shape]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn((_TRIED, *shape), dtype=torch.float64, generator=generator) for shape in shapes]


def _full(values: Array, shape: Shape) -> Tensor:
    return torch.tensor(np.broadcast_to(values, shape).copy())[None]


def _fits(values: Array, shape: Shape) -> bool:
    """True for values of a sample's rank, each axis 1 or full."""
    return values.ndim == len(shape) and all(a in (1, b) for a, b in zip(values.shape, shape, strict=True))


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether two batches of results are the same but for rounding, each cell in its own size."""
    return bool(((one - other).abs() <= _SAME * other.abs().amax(0)).all())
