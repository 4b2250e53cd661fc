"""The batch size, which a graph leaves open: a number that stays a formula through arithmetic and prints as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spikec.extend.converters import Mark
from spikec.interpreter.imported import Reference

#: more than the elements of any tensor, so that torch refuses to make one of such a size
_TOO_LARGE = 2**62


class BatchSize(int):
    """``(times * B + plus) // divisor`` for a batch of B samples; ``str`` gives ``B``, ``2*B+1`` or ``B//2``.

    Sums, differences, products and floored quotients with plain numbers are of that form again. What else is made of
    it is an ordinary number without a meaning, which the reader refuses because of the call that it comes from.
    """

    times: int
    plus: int
    divisor: int

    def __new__(cls, times: int = 1, plus: int = 0, divisor: int = 1) -> BatchSize:
        """A formula in lowest terms where ``divisor`` divides both others."""
        if times % divisor == 0 and plus % divisor == 0:
            times, plus, divisor = times // divisor, plus // divisor, 1
        self = super().__new__(cls, (times * _TOO_LARGE + plus) // divisor)
        self.times, self.plus, self.divisor = times, plus, divisor
        return self

    def at(self, batch: int) -> int:
        """The number for a batch of that many samples."""
        return (self.times * batch + self.plus) // self.divisor

    def __repr__(self) -> str:
        product = {1: "B", -1: "-B"}.get(self.times, f"{self.times}*B")
        text = f"{product}{self.plus:+d}" if self.plus else product
        if self.divisor == 1:
            return text
        return f"({text})//{self.divisor}" if self.plus else f"{text}//{self.divisor}"

    __str__ = __repr__

    def __add__(self, other: Any) -> Any:
        if isinstance(other, BatchSize):
            if self.divisor != 1 or other.divisor != 1:
                return int.__add__(self, other)
            times, plus = self.times + other.times, self.plus + other.plus
            return BatchSize(times, plus) if times else plus
        if not isinstance(other, int):
            return NotImplemented
        return BatchSize(self.times, self.plus + other * self.divisor, self.divisor)

    def __neg__(self) -> Any:
        return self * -1

    def __sub__(self, other: Any) -> Any:
        return self + -other

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, BatchSize) or not isinstance(other, int) or self.divisor != 1 or other == 0:
            return int.__mul__(self, other)
        return BatchSize(self.times * other, self.plus * other)

    def __floordiv__(self, other: Any) -> Any:
        if isinstance(other, BatchSize) or not isinstance(other, int) or other < 1:
            return int.__floordiv__(self, other)
        return BatchSize(self.times, self.plus, self.divisor * other)

    __radd__ = __add__
    __rmul__ = __mul__


def in_batches(run: Reference, size: int | None) -> Reference:
    """A model that takes batches of one size only (None: any), for any number of samples.

    The last batch is filled up with the first samples, once more.
    """

    def in_parts(xs: Sequence[Tensor]) -> list[Tensor]:
        count = len(xs[0])
        step = size or count
        rows = [torch.arange(start, start + step) % count for start in range(0, count, step)]
        parts = [run([x[each] for x in xs]) for each in rows]
        return [torch.cat(column)[:count] for column in zip(*parts, strict=True)]

    return in_parts


#: the number of samples in a batch
BATCH = BatchSize()

#: marks a converter whose arguments may be made from the batch size; every other one is refused for them
takes_batch = Mark()
