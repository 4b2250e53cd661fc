"""What a converter of an ONNX node is given, and the table that converters are registered in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from spikec.extend.call import Call as BaseCall
from spikec.extend.call import Refused, Signal
from spikec.extend.converters import Converters
from spikec.ir.errors import InvalidModelError
from spikec.ir.op import Op
from spikec.ir.types import Array


@attrs.frozen(eq=False)
class Known:
    """A tensor that does not depend on the model's input, only perhaps on the number of samples in a batch.

    Attributes:
        values: the tensor for each of the batch sizes that the graph is read for.
    """

    values: tuple[Array, ...]

    @classmethod
    def fixed(cls, value: Array, count: int) -> Known:
        """The same for every batch size."""
        return cls((value,) * count)

    @property
    def is_fixed(self) -> bool:
        """True where it does not depend on the batch size."""
        first = self.values[0]
        return all(each is first or np.array_equal(each, first) for each in self.values[1:])


#: a tensor of the model: None for an optional input that is left out
Value = Signal | Known | Refused | None

#: Converters. A key is the operator's name, or (domain, name) outside of ONNX's own domain. Called as ``(at)``; the
#: result is a Signal, or a tuple with one for each output. A :class:`Known` is one too, as for ``Shape``.
converter: Converters[Callable[..., Any]] = Converters("ONNX converter")


@attrs.frozen(eq=False)
class Call(BaseCall):
    """One node of the user's ONNX model. Half and bfloat16 numbers are float32 here, text is ``str``.

    Attributes:
        inputs: of the node; None for one that is left out.
        attributes: of the node, by name.
        opset: the version of the operators in the node's domain.
        batches: the batch sizes that the graph is read for: one where the model fixes it, else several.
        named, wanted: for each output whether it has a name, and whether anything uses it.
    """

    inputs: tuple[Value, ...]
    attributes: Mapping[str, Any]
    opset: int
    batches: tuple[int, ...]
    named: tuple[bool, ...]
    wanted: tuple[bool, ...]

    def add(self, op: Op, *operands: Signal, part: str = "") -> Signal:
        """As of every call; weights must be numbers.

        Raises:
            InvalidModelError: they hold NaN or infinity.
        """
        arrays = (each for each in op.parameters().values() if isinstance(each, np.ndarray))
        if not all(np.isfinite(each).all() for each in arrays):
            raise InvalidModelError(self.problem("its weights hold NaN or infinity", "train or load them again"))
        return super().add(op, *operands, part=part)

    def has(self, slot: int) -> bool:
        """True where that input is given."""
        return slot < len(self.inputs) and self.inputs[slot] is not None

    def signal(self, slot: int = 0) -> Signal:
        """An input that must depend on the model's input."""
        value = self.inputs[slot] if self.has(slot) else None
        if not isinstance(value, Signal):
            self.refuse(f"input {slot} of {self.source.kind} does not depend on the model's input, and it must")
        return value

    def constant(self, slot: int) -> Array:
        """An input that must not depend on the model's input, nor on the batch size."""
        value = self.inputs[slot] if self.has(slot) else None
        if isinstance(value, Signal):
            self.refuse(f"input {slot} of {self.source.kind} is computed from the model's input", "make it a constant")
        if not isinstance(value, Known):
            self.refuse(f"{self.source.kind} has no input {slot}")
        if not value.is_fixed:
            self.refuse(
                f"input {slot} of {self.source.kind} depends on the batch size",
                "samples of a batch are independent in a compiled network",
            )
        return value.values[0]

    def option(self, name: str, slot: int | None = None, default: Any = None) -> Any:
        """What is an attribute in some opsets and an input in others."""
        if name in self.attributes:
            return self.attributes[name]
        return self.constant(slot) if slot is not None and self.has(slot) else default

    def each(self, slot: int) -> tuple[Array, ...]:
        """An input of numbers that may depend on the batch size: its value for each of ``batches``."""
        value = self.inputs[slot]
        return value.values if isinstance(value, Known) else (self.constant(slot),) * len(self.batches)

    def beside(self, slot: int, signal: Signal) -> Array:
        """A constant that meets a signal element by element, without its batch axis, along which it must not vary."""
        rank = len(self.shape(signal)) + 1
        value = self.inputs[slot]
        arrays = value.values if isinstance(value, Known) else (self.constant(slot),)
        if arrays[0].ndim > rank:
            self.refuse(
                f"a constant of shape {list(arrays[0].shape)} has more axes than the signal {self.shown(signal)}"
            )
        samples = [array[0] if array.ndim == rank else array for array in arrays]
        if any((array != array[:1]).any() for array in arrays if array.ndim == rank) or any(
            not np.array_equal(each, samples[0]) for each in samples
        ):
            self.refuse(
                f"a constant of shape {list(arrays[0].shape)} differs from sample to sample of {self.shown(signal)}",
                "samples of a batch are independent in a compiled network: give one that broadcasts over them",
            )
        return samples[0]

    def axis(self, signal: Signal, axis: int, *, new: int = 0) -> int:
        """An axis of ONNX's tensor as an axis of a sample; the batch is refused.

        Args:
            signal: the tensor.
            axis: negative ones count from the end.
            new: number of axes that will be inserted.
        """
        rank = len(self.shape(signal)) + 1 + new
        if not -rank <= axis < rank:
            self.refuse(f"axis {axis} of a tensor {self.shown(signal)} does not exist")
        if axis % rank == 0:
            self.refuse("it works along the batch axis", "samples of a batch are independent in a compiled network")
        return int(axis) % rank - 1

    def axes(self, signal: Signal, axes: Sequence[int] | Array, *, new: int = 0) -> list[int]:
        """Several axes, sorted."""
        return sorted(self.axis(signal, int(axis), new=new) for axis in np.ravel(axes))

    def per_sample(self, shapes: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """The sample's part of a shape that is given for each of ``batches``.

        Raises:
            UnsupportedOpError: its first axis is not the batch, or another one depends on it.
        """
        samples = {tuple(int(size) for size in shape[1:]) for shape in shapes}
        firsts = [int(shape[0]) if len(shape) else None for shape in shapes]
        if firsts != list(self.batches) or len(samples) != 1:
            self.refuse(
                f"it does not keep the batch axis first and whole: the result is {list(shapes[0])} "
                f"for a batch of {self.batches[0]}",
                "samples of a batch are independent in a compiled network: flatten from axis 1 on",
            )
        return samples.pop()

    def arguments(self) -> str:
        """The node's inputs, signals by their names."""
        return ", ".join(_show(value) for value in self.inputs)


def _show(value: Value) -> str:
    if isinstance(value, Signal):
        return f"%{value.name}"
    if isinstance(value, Known):
        return f"{value.values[0].dtype}{list(value.values[0].shape)}"
    return "" if value is None else str(value)
