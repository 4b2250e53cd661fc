"""Ops that multiply signals with each other, or divide a signal by a statistic of itself.

A pass writes each in scalar functions and linear ops, because neurons add and do not multiply.
"""

from collections.abc import Sequence
from typing import ClassVar

import attrs
import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import Op, Role, array, tensor
from spikec.ir.types import Array, Real, Type, fits, ints

__all__ = ["Mask", "MatMul", "Multiply", "Standardize"]

_ANN_ONLY = "put the pass that lowers it before relu-to-if"


@attrs.frozen(eq=False)
class _Product(Op):
    role = Role.ACTIVATION
    fresh = True

    def infer(self, *operands: Type) -> Type:
        """Return the result's type; the operands are real and of one rank."""
        if any(not isinstance(x.encoding, Real) for x in operands):
            raise TypeMismatchError(f"{self.kind} of a rate-coded signal", hint=_ANN_ONLY)
        if len({len(x.shape) for x in operands}) > 1:
            shapes = " and ".join(str(x.shape) for x in operands)
            hint = "give both as many axes: x.unsqueeze(i)"
            raise TypeMismatchError(f"{self.kind} of samples of shape {shapes}", hint=hint)
        return attrs.evolve(operands[0], shape=self.shape_of(*operands))


@attrs.frozen(eq=False)
class Multiply(_Product):
    """``y = a b``, element by element, of two signals of one rank; an axis of length 1 goes with every cell."""

    arity = 2
    elementwise = True

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Take the longer of two axes, if the shorter has length 1."""
        a, b = (t.shape for t in operands)
        if len(a) == len(b) and all(1 in (i, j) or i == j for i, j in zip(a, b, strict=True)):
            return tuple(j if i == 1 else i for i, j in zip(a, b, strict=True))
        return self.tried_shape(*operands)

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's product."""
        return torch.mul(*xs)

    def permuted(self, axes: Sequence[int]) -> Self:
        """Return itself: it does the same along all axes."""
        return self


@attrs.frozen(eq=False)
class MatMul(_Product):
    """``y = a b`` of the matrices in the last two axes of two signals; the axes before go as in :class:`Multiply`."""

    arity = 2

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's product of matrices."""
        return torch.matmul(*xs)

    def infer(self, *operands: Type) -> Type:
        """Refuse samples that are no matrices: torch would take the batch for an axis of theirs."""
        if min(len(x.shape) for x in operands) < 2:
            shapes = " and ".join(str(x.shape) for x in operands)
            message = f"matmul of samples of shape {shapes}"
            raise TypeMismatchError(message, hint="a product of two signals takes matrices: x.unsqueeze(1)")
        return super().infer(*operands)


@attrs.frozen(eq=False)
class Standardize(_Product):
    """``y = (x - m) / sqrt(max(p, least) + eps)``: the division of every normalization by statistics of a sample.

    Over the cells along ``axes`` m is the mean of x, or 0 if it is not ``centred``, and p the mean of (x - m)^2, or
    with ``total`` their sum. Layer norm (Ba et al. 2016), group norm (Wu and He 2018), instance norm (Ulyanov et al.
    2016), RMS norm (Zhang and Sennrich 2019) and the L2 norm of a vector differ in these; gains are ops of their own.

    Attributes:
        axes: of the sample.
        centred, total, eps, least: see above.
        groups: of neighbouring channels (axis 0, which is then among the axes); each group has its own m and p.
    """

    axes: tuple[int, ...] = attrs.field(converter=ints)
    centred: bool = True
    total: bool = False
    eps: float = 0.0
    least: float = 0.0
    groups: int = 1

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Return the operand's shape, which has these axes, and channels for the groups."""
        shape = operands[0].shape
        if not self.axes or any(not 0 <= axis < len(shape) for axis in self.axes):
            raise TypeMismatchError(f"{self.kind} along axes {self.axes} of a sample of shape {shape}")
        if self.groups > 1 and (0 not in self.axes or shape[0] % self.groups):
            message = f"{self.kind} in {self.groups} groups of a sample of shape {shape}"
            raise TypeMismatchError(message, hint="the groups divide the channels, and axis 0 is among the axes")
        return shape

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean over the axes of [B, ...], each 1 long then; axis 0 stays whole where there are groups."""
        axes = [axis + 1 for axis in self.axes]
        if self.groups == 1:
            return x.mean(axes, keepdim=True)
        parts = x.reshape(len(x), self.groups, -1, *x.shape[2:])
        found = parts.mean([2, *(axis + 1 for axis in axes if axis > 1)], keepdim=True)
        whole: Tensor = found.expand(-1, -1, parts.shape[2], *[-1] * (found.ndim - 3)).flatten(1, 2)
        return whole

    def count(self, shape: Sequence[int]) -> int:
        """Return how many cells of a sample of that shape each mean is taken over."""
        return int(np.prod([shape[axis] for axis in self.axes], dtype=np.int64)) // self.groups

    def eval(self, *xs: Tensor) -> Tensor:
        """Compute the equation above."""
        (x,) = xs
        d = x - self.mean(x) if self.centred else x
        power = self.mean(d * d)
        if self.total:
            power = power * self.count(x.shape[1:])
        return d / (power.clamp(min=self.least) + self.eps).sqrt()

    def permuted(self, axes: Sequence[int]) -> Self | None:
        """Return the one along the axes that its own have become; groups are of axis 0."""
        if self.groups > 1:
            return None
        return attrs.evolve(self, axes=[axes[axis] for axis in self.axes])


@attrs.frozen(eq=False)
class Mask(_Product):
    """``y = x`` where ``keep`` is not 0, else minus infinity: what a softmax behind it leaves out.

    Attributes:
        keep: of the sample's rank, each axis 1 or full.
    """

    hint: ClassVar[str] = "minus infinity goes into a softmax, or around a map into a max-pool, and nowhere else"

    keep: Array = array()

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Return the operand's shape, if the mask fits; torch says what is wrong with another."""
        return operands[0].shape if fits(self.keep, operands[0].shape) else self.tried_shape(*operands)

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's masked_fill."""
        return xs[0].masked_fill(tensor(self.keep, xs[0]) == 0, float("-inf"))

    def permuted(self, axes: Sequence[int]) -> Self:
        """Return the one whose mask is permuted back."""
        return attrs.evolve(self, keep=np.transpose(self.keep, np.argsort(axes)))
