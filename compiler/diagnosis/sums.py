"""Sums over batches that do not depend on the order of the batches, nor on how processes dealt them out."""

import math
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.diagnosis.diagnosis import Deviation
from spikec.ir.types import Array


@attrs.define(eq=False)
class Sum:
    """A sum of float64 numbers, element by element, with twice their digits.

    What an addition rounds off is kept beside the sum (Knuth's two-sum). So all orders give the same float64 in the
    end, except where the sum is as near to the middle between two of them as 2^-40 of their distance.
    """

    high: Any = 0.0
    low: Any = 0.0

    def add(self, values: Any) -> None:
        """Add a number, an array or a tensor, of the shape of those before."""
        total = self.high + values
        added = total - self.high
        self.low = self.low + ((self.high - (total - added)) + (values - added))
        self.high = total

    def merge(self, other: "Sum") -> None:
        """Add what another sum holds."""
        self.add(other.high)
        self.low = self.low + other.low

    @property
    def value(self) -> Any:
        """The sum, a float64 or several."""
        return self.high + self.low


@attrs.define(eq=False)
class Moments:
    """The first two moments of what came in batches [N, ...], element by element of a sample."""

    count: int = 0
    total: Sum = attrs.field(factory=Sum)
    squares: Sum = attrs.field(factory=Sum)

    def add(self, values: Tensor) -> None:
        """Take a batch [N, ...], in float64."""
        self.count += len(values)
        self.total.add(values.sum(0))
        self.squares.add(values.square().sum(0))

    def merge(self, other: "Moments") -> None:
        """Take what another process was given."""
        self.count += other.count
        self.total.merge(other.total)
        self.squares.merge(other.squares)

    @property
    def spread(self) -> float:
        """The sum over elements and samples of squared distances from the elements' means."""
        squares, total = torch.as_tensor(self.squares.value), torch.as_tensor(self.total.value)
        return float((squares - total.square() / self.count).clamp(min=0).sum())

    def deviation(self, unit: float = 1.0) -> Deviation:
        """Mean and root mean square of single numbers, in that unit."""
        mean, square = float(self.total.value) / self.count, float(self.squares.value) / self.count
        return Deviation(mean / unit, math.sqrt(square) / unit)


@attrs.define(eq=False)
class Answers:
    """What the networks between an ANN and its SNN answered, summed over batches.

    Attributes:
        ann: the moments of each output of the ANN.
        agreed: for each network, how often an output had the ANN's argmax.
        right: for each network, how many samples had the label's class.
        ann_right: the same of the ANN.
        squares: for each network and output, squared differences from the ANN.
        steps: the same from the network before.
        samples, labelled: how many there were, and whether they had labels.
    """

    ann: list[Moments]
    agreed: Array
    right: Array
    ann_right: int = 0
    squares: Sum = attrs.field(factory=Sum)
    steps: Sum = attrs.field(factory=Sum)
    samples: int = 0
    labelled: bool = False

    @classmethod
    def of(cls, networks: int, outputs: int) -> "Answers":
        """Make sums of nothing yet."""
        counts = np.zeros((2, networks), dtype=np.int64)
        return cls([Moments() for _ in range(outputs)], *counts)

    def merge(self, other: "Answers") -> None:
        """Take what another process found."""
        for mine, theirs in zip(self.ann, other.ann, strict=True):
            mine.merge(theirs)
        self.agreed, self.right = self.agreed + other.agreed, self.right + other.right
        self.squares.merge(other.squares)
        self.steps.merge(other.steps)
        self.ann_right += other.ann_right
        self.samples += other.samples
