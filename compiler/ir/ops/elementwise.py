"""Ops that leave each number in its place: sums, casts between scales, batch norms and activations.

No activation may reach a spiking graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add, ge, gt, le, lt
from typing import ClassVar

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.ir.affine import SAME, THROUGH, Affine, BlockedError
from spikec.ir.errors import TypeMismatchError
from spikec.ir.op import ONE_SCALE, SPIKES_FIRST, Op, Role, array, tensor
from spikec.ir.types import Array, Rate, Type, fits, span

__all__ = [
    "Add",
    "BatchNorm",
    "Clamp",
    "Compare",
    "Floor",
    "Identity",
    "LeakyRelu",
    "Maximum",
    "Minimum",
    "Relu",
    "Rescale",
    "Where",
]

_EXPAND = "expand the smaller operand first: x.expand(...)"


@attrs.frozen(eq=False)
class Add(Op):
    """The sum of its operands, which all have one shape and one scale."""

    elementwise = True
    role = Role.LINEAR
    arity = None

    def infer(self, *operands: Type) -> Type:
        """Return the operands' common type."""
        first, *others = operands
        for other in others:
            if other.shape != first.shape:
                raise TypeMismatchError(f"sum of shapes {first.shape} and {other.shape}", hint=_EXPAND)
            if other.encoding != first.encoding:
                raise TypeMismatchError(
                    f"sum of signals in different units: {first.encoding} and {other.encoding}",
                    hint=ONE_SCALE,
                )
        return first

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Return the operands' common shape."""
        first, *others = (t.shape for t in operands)
        return first if all(shape == first for shape in others) else self.tried_shape(*operands)

    def eval(self, *xs: Tensor) -> Tensor:
        """Add from left to right."""
        return reduce(add, xs)

    def move_gain(self, gains: Sequence[Array], shapes: Sequence[tuple[int, ...]]) -> Array:
        """Return what all operands have in common, without adding up large maps to see it."""
        first, *others = gains
        if not all(np.allclose(first, other, rtol=SAME, atol=0) for other in others):
            raise BlockedError(THROUGH)
        return first

    def map_operands(self, wanted: Affine, operands: Sequence[Type]) -> list[Affine]:
        """Give each operand what the sum is to have."""
        return super().map_operands(wanted, operands) if wanted.shifts else [wanted] * len(operands)


@attrs.frozen(eq=False)
class Identity(Op):
    """Does nothing: dropout in evaluation mode, ``nn.Identity``, ``contiguous``."""

    elementwise = True
    role = Role.IDENTITY

    def infer(self, *operands: Type) -> Type:
        """Return the operand's type."""
        return operands[0]

    def eval(self, *xs: Tensor) -> Tensor:
        """Return the operand."""
        return xs[0]


@attrs.frozen(eq=False)
class Rescale(Op):
    """A cast between scales: multiplies by ``factor`` and stands for the same ANN value.

    Attributes:
        factor: positive, of the sample's rank, each axis 1 or full.
    """

    elementwise = True
    fresh = True
    role = Role.CAST

    factor: Array = array()

    def infer(self, *operands: Type) -> Type:
        """Turn Rate(s) into Rate(s / factor)."""
        (x,) = operands
        if not isinstance(x.encoding, Rate):
            raise TypeMismatchError("rescale of a real signal", hint=SPIKES_FIRST)
        if self.factor.ndim != len(x.shape):
            raise TypeMismatchError(f"a factor of rank {self.factor.ndim} for a sample of shape {x.shape}")
        return x.with_scale(x.scale / self.factor)

    def eval(self, *xs: Tensor) -> Tensor:
        """Return ``factor * x``."""
        return xs[0] * tensor(self.factor, xs[0])

    def eval_over(self, x: Tensor) -> Tensor:
        """Multiply in place."""
        return x.mul_(tensor(self.factor, x))


@attrs.frozen(eq=False)
class BatchNorm(Op):
    """``y = weight (x - mean) / sqrt(var + eps) + bias`` per channel (axis 0 of a sample); vectors [C].

    Ioffe and Szegedy 2015, algorithm 2 (inference).
    """

    role = Role.NORM
    fresh = True

    weight: Array = array()
    bias: Array = array()
    mean: Array = array()
    var: Array = array()
    eps: float = 1e-5

    @property
    def gain(self) -> Array:
        """``weight / sqrt(var + eps)``, float64."""
        return self.weight.astype(np.float64) / np.sqrt(self.var.astype(np.float64) + self.eps)

    @property
    def shift(self) -> Array:
        """``bias - mean * gain``, float64."""
        return self.bias.astype(np.float64) - self.mean.astype(np.float64) * self.gain

    def infer(self, *operands: Type) -> Type:
        """Return the operand's type, of as many channels, which is real or a rate that is the value itself."""
        (x,) = operands
        if isinstance(x.encoding, Rate) and not (x.scale == 1).all():
            raise TypeMismatchError("batch norm of a scaled rate", hint="fold it before relu-to-if")
        if not (self.var + self.eps > 0).all():
            raise TypeMismatchError(f"batch norm has a var of {span(self.var)}", hint="a variance is not below zero")
        if not x.shape or x.shape[0] != len(self.weight):
            raise TypeMismatchError(f"batch norm has {len(self.weight)} channels, operand has shape {x.shape}")
        return x

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's batch norm."""
        (x,) = xs
        mean, var, weight, bias = (tensor(each, x) for each in (self.mean, self.var, self.weight, self.bias))
        # not F.batch_norm, which refuses the eps of 0 that stands for none in some versions of torch
        return torch.batch_norm(x, weight, bias, mean, var, False, 0.0, self.eps, torch.backends.cudnn.enabled)

    def behind(self, gain: Array, shift: Array) -> BatchNorm:
        """Return the norm that does to x what this does to ``gain x + shift``, vectors over channels or of length 1."""
        zeros, ones = np.zeros(len(self.weight)), np.ones(len(self.weight))
        return BatchNorm(self.gain * gain, self.gain * shift + self.shift, zeros, ones, 0.0, origin=self.origin)


@attrs.frozen(eq=False)
class _Activation(Op):
    role = Role.ACTIVATION
    elementwise = True
    fresh = True

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Return the operands' shape, which is one."""
        return operands[0].shape


@attrs.frozen(eq=False)
class Relu(_Activation):
    """``y = min(max(x, 0), cap)``.

    Attributes:
        cap: upper bound, or None for a plain ReLU.
        scale: once calibrated, the value that a neuron firing at every step stands for: positive, of the
            sample's rank, each axis 1 or full. It does not change the meaning.
        compares: its operand is the difference of two signals of one scale, and that scale is its own too.
        levels: how many steps it was trained to have up to its cap, which then is its scale; None for any number.
    """

    cap: float | None = None
    scale: Array | None = array(default=None)
    compares: bool = False
    levels: int | None = None

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's clamp."""
        return xs[0].clamp(min=0, max=self.cap)

    def eval_over(self, x: Tensor) -> Tensor:
        """Run torch's clamp in place."""
        return x.clamp_(min=0, max=self.cap)


@attrs.frozen(eq=False)
class Clamp(_Activation):
    """``y = min(max(x, low), high)``; a bound of None is absent."""

    low: float | None
    high: float | None

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Return the operand's shape; torch refuses a clamp without any bound."""
        return self.tried_shape(*operands) if self.low is self.high is None else operands[0].shape

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's clamp."""
        return xs[0].clamp(min=self.low, max=self.high)


@attrs.frozen(eq=False)
class Floor(_Activation):
    """``y = floor(x)``, behind a clip: see the pass drop-levels."""

    hint: ClassVar[str] = "run drop-levels before"

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's floor."""
        return xs[0].floor()


@attrs.frozen(eq=False)
class LeakyRelu(_Activation):
    """``y = max(x, 0) + slope min(x, 0)``: LeakyReLU and PReLU (He et al. 2015, eq. 1); slope -1 is ``abs``.

    Attributes:
        slope: any finite numbers, of the sample's rank, each axis 1 or full.
    """

    slope: Array = array()

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """Return the operand's shape, if the slope fits; torch says what is wrong with another."""
        return operands[0].shape if fits(self.slope, operands[0].shape) else self.tried_shape(*operands)

    def eval(self, *xs: Tensor) -> Tensor:
        """Compute the equation above."""
        return xs[0].clamp(min=0) + tensor(self.slope, xs[0]) * xs[0].clamp(max=0)


@attrs.frozen(eq=False)
class _SameShape(_Activation):
    def infer(self, *operands: Type) -> Type:
        """Return the common type; shapes must be the same."""
        if any(x != operands[0] for x in operands):
            shapes = " and ".join(str(x.shape) for x in operands)
            raise TypeMismatchError(f"{self.kind} of shapes {shapes}", hint=_EXPAND)
        return super().infer(*operands)


@attrs.frozen(eq=False)
class Maximum(_SameShape):
    """``y = max(a, b)``, element by element, of two signals of one shape."""

    arity = 2

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's maximum."""
        return torch.maximum(*xs)


@attrs.frozen(eq=False)
class Minimum(_SameShape):
    """``y = min(a, b)``, element by element, of two signals of one shape."""

    arity = 2

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's minimum."""
        return torch.minimum(*xs)


#: what a comparison is called, and its opposite
_RELATIONS = {"gt": (gt, "le"), "ge": (ge, "lt"), "lt": (lt, "ge"), "le": (le, "gt")}
_MEETING = "let torch.where choose between two functions of x that meet at the bound, such as where(x > 0, x, 0.1 * x)"


@attrs.frozen(eq=False)
class Compare(_Activation):
    """``y = 1`` where the operand is greater, or less, than a number, else 0: what torch has as a tensor of bools.

    Attributes:
        relation: ``gt``, ``ge``, ``lt`` or ``le``.
        bound: the number.
    """

    hint: ClassVar[str] = f"it jumps, and a rate changes steadily with its input: {_MEETING}, or use ReLU or clamp"

    relation: str = attrs.field(validator=attrs.validators.in_(_RELATIONS))
    bound: float = attrs.field(converter=float)

    @property
    def above(self) -> bool:
        """Whether it is large numbers for which it is 1."""
        return self.relation in ("gt", "ge")

    def opposite(self) -> Compare:
        """Return the comparison that is 1 where this one is 0."""
        return Compare(_RELATIONS[self.relation][1], self.bound)

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's comparison."""
        result: Tensor = _RELATIONS[self.relation][0](xs[0], self.bound)
        return result.to(xs[0].dtype)


@attrs.frozen(eq=False)
class Where(_SameShape):
    """``y = a`` where the first operand is not 0, else ``b``, element by element."""

    arity = 3
    hint: ClassVar[str] = _MEETING

    def eval(self, *xs: Tensor) -> Tensor:
        """Run torch's where."""
        condition, a, b = xs
        return torch.where(condition != 0, a, b)
