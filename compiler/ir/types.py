"""The type of a signal: shape of one sample at one time-step, dtype, and what its numbers stand for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from spikec.ir.errors import TypeMismatchError

Array = npt.NDArray[Any]

#: Two scales closer than this are one scale; float32 parameters put out 6e-8.
SCALE_RTOL = 1e-6
#: scales that differ by the rounding of a few float64 products are written as one number
_ROUNDING = 1e-14


def readonly(value: Any, dtype: Any = None) -> Array:
    """Give an array that nobody can write to: a copy, unless nobody could write to the value before."""
    array = np.asarray(value, dtype=dtype)
    if array.flags.writeable:
        is_new = isinstance(value, np.ndarray) and array is not value and array.base is None
        array = array if is_new else array.copy()
        array.flags.writeable = False
    return array


def brief(array: Array | None) -> str:
    """Write an array for a repr: its shape and type, or its value if it is one number."""
    if array is None:
        return "None"
    return f"{array.item():.6g}" if array.size == 1 else f"<{'x'.join(map(str, array.shape))} {array.dtype}>"


def sealed(array: Array) -> Array:
    """Make an array read-only in place: its maker gives up writing to it, so that nobody needs a copy."""
    array.flags.writeable = False
    return array


def ints(sizes: Iterable[int]) -> tuple[int, ...]:
    """Turn one number for each axis into a tuple of Python ints."""
    return tuple(int(size) for size in sizes)


def compress(array: Array, rtol: float = 0.0) -> Array:
    """Shrink every axis along which the array is constant, up to ``rtol``, to length 1."""
    for axis in range(array.ndim):
        if array.shape[axis] > 1:
            first = array.take([0], axis)
            array = first if bool((np.abs(array - first) <= rtol * np.abs(first)).all()) else array
    return array


@attrs.frozen
class Real:
    """The encoding of an ANN: the numbers are its own."""

    def __str__(self) -> str:
        return "real"


def _positive(_: Any, __: Any, scale: Array) -> None:
    if not ((scale > 0) & (scale < np.inf)).all():  # NaN is neither
        raise TypeMismatchError(
            "a rate's scale must be positive and finite", hint="a dead channel takes its layer's scale, or 1"
        )


def same_scales(one: Array, other: Array) -> bool:
    """Whether scales, which are finite numbers, count as others, which they are laid over."""
    return bool((np.abs(one - other) <= SCALE_RTOL * np.abs(one)).all())


def as_scale(value: Any) -> Array:
    """Give a scale as float64 that nobody can write to, each axis along which it does not vary of length 1."""
    return readonly(compress(np.asarray(value, dtype=np.float64), _ROUNDING))


@attrs.frozen(eq=False)
class Rate:
    """The average over time of the signal, times ``scale``, is the ANN's value.

    Attributes:
        scale: float64, of the sample's rank, each axis of length 1 or full.
    """

    scale: Array = attrs.field(converter=as_scale, validator=_positive, repr=lambda scale: span(scale, 4))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rate) or self.scale.ndim != other.scale.ndim:
            return False
        try:
            return same_scales(self.scale, other.scale)
        except ValueError:
            return False

    def __hash__(self) -> int:
        return hash(self.scale.ndim)

    def __reduce__(self) -> tuple[Any, ...]:
        return Rate, (self.scale,)  # read-only again

    def __str__(self) -> str:
        return f"rate({span(self.scale, 4)})"


Encoding = Real | Rate


def span(values: Array, digits: int = 6) -> str:
    """Write the range of some numbers: ``0.5..2``, or ``2`` where they are all the same."""
    low, high = f"{values.min():.{digits}g}", f"{values.max():.{digits}g}"
    return low if values.min() == values.max() else f"{low}..{high}"


def fits(values: Array, shape: tuple[int, ...]) -> bool:
    """Whether values have the rank of a sample of that shape, each of their axes of length 1 or full."""
    return values.ndim == len(shape) and all(a in (1, b) for a, b in zip(values.shape, shape, strict=True))


def laid_over(values: Array, shape: tuple[int, ...]) -> Array:
    """Give parameters of neurons the rank of a sample: one number, or axes of length 1 in front of its own, mean all.

    Raises:
        TypeMismatchError: they are for other neurons.
    """
    extra = max(values.ndim - len(shape), 0)
    if values.size == 1:
        return values.reshape((1,) * len(shape))
    laid = values.reshape(values.shape[extra:]) if set(values.shape[:extra]) <= {1} else values
    if not fits(laid, shape):
        raise TypeMismatchError(f"{values.shape} neurons for a signal of shape {shape}")
    return laid


def _scale_fits(signal: Type, _: Any, encoding: Encoding) -> None:
    if isinstance(encoding, Rate) and not fits(encoding.scale, signal.shape):
        raise TypeMismatchError(
            f"a scale of shape {encoding.scale.shape} for a sample of shape {signal.shape}",
            hint="it has the sample's rank, each axis of length 1 or full",
        )


@attrs.frozen
class Type:
    """What flows along an edge.

    Attributes:
        shape: of one sample at one time-step; batch and time are never in it.
        dtype: ``float32`` or ``float64``, the model's own.
        encoding: :class:`Real`, or :class:`Rate` with its scale.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    encoding: Encoding = attrs.field(default=Real(), validator=_scale_fits)

    def __str__(self) -> str:
        return f"{self.encoding}<{'x'.join(map(str, self.shape))}>"

    @property
    def scale(self) -> Array:
        """The rate's scale, of the sample's rank; ones for a real signal."""
        return self.encoding.scale if isinstance(self.encoding, Rate) else np.ones((1,) * len(self.shape))

    @property
    def flat_scale(self) -> Array:
        """The scale of the flattened sample: one number, or one for each of its numbers."""
        scale = self.scale
        return scale.reshape(-1) if scale.size == 1 else np.broadcast_to(scale, self.shape).reshape(-1)

    def with_scale(self, scale: Array) -> Type:
        """Return the signal as a rate of another scale."""
        return Type(self.shape, self.dtype, Rate(scale))


def channel_scale(operand: Type, axis: int, what: str) -> Array:
    """Return the scale as a vector over one axis, for an op that shares its weights over the others.

    Raises:
        TypeMismatchError: the scale varies along another axis.
    """
    scale = operand.scale
    axis = axis % max(len(operand.shape), 1)  # one number counts as one channel
    if any(size != 1 for i, size in enumerate(scale.shape) if i != axis):
        raise TypeMismatchError(
            f"{what} shares its weights over all axes but {axis}, and its operand's scale has shape {scale.shape}",
            hint="rescale the operand per channel first",
        )
    return scale.reshape(-1)


def on_axis(vector: Array, rank: int, axis: int) -> Array:
    """Lay a vector along one axis of a sample of the given rank; the other axes have length 1."""
    shape = [1] * rank
    shape[axis] = -1
    return vector.reshape(shape)
