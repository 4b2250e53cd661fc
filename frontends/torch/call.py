"""What a converter is given, and the table that converters are registered in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.fx.node import map_aggregate

from spikec.extend.call import Call as BaseCall
from spikec.extend.call import Refused as Refused
from spikec.extend.call import Signal as Signal
from spikec.extend.converters import Converters, Mark
from spikec.ir.errors import CompileError
from spikec.ir.op import Op
from spikec.ir.types import Array, sealed


@attrs.frozen
class Missing:
    """A part of a call's result that the graph does not have: who uses it is refused for this reason.

    A model may return it: it is None in the result then, and the report says so.
    """

    reason: str


class Stacked(tuple[Signal, ...]):
    """Signals of one shape along a new axis in front of the batch, which a graph does not have."""

    _fields = ()  # by which torch.fx makes another of the same class, as of any named tuple

    def __new__(cls, *parts: Signal) -> Stacked:
        """Hold the parts, in order."""
        return super().__new__(cls, parts)


@attrs.frozen(eq=False)
class Moved(Signal):
    """A tensor whose batch is not its first axis alone: the graph has it of one sample, with all of its axes.

    Attributes:
        axis: which axis the batch is, or is a part of.
        before: how many cells of a sample the axis has for each step along the batch: 1 where the batch comes first in
            it, as in ``[N * H, L]``, and L in ``[L * N, C]``.
        error: why it is refused where nothing reads it so.
    """

    axis: int
    before: int
    error: CompileError


#: Converters. A key is a layer's class, a function, ``("method", "relu")``, or a qualified name such as
#: ``"timm.layers.mlp.Mlp"``. A layer's converter is called as ``(module, call)``, every other one as
#: ``(call, *args, **kwargs)`` with the arguments of the call, where tensors are :class:`Signal`. The
#: result is a Signal, or numbers where the call asks for a shape.
converter: Converters[Callable[..., Signal]] = Converters("torch.fx converter")

#: what reads a call on :class:`Stacked`, by the converter that would read it of a signal
on_stacked: dict[Callable[..., Any] | None, Callable[..., Any]] = {}
#: marks a converter that gives a tensor which does not depend on the model's input, whatever it is given
gives_constant = Mark()
#: marks a converter, as those of torch's layers, that hands what it is given to converters of functions
takes_moved = Mark()
#: marks a converter of a function that gives a view of its operand, although the ops that stand for it compute
gives_view = Mark()


@attrs.frozen(eq=False)
class Call(BaseCall):
    """One call in the user's torch model.

    Attributes:
        args, kwargs: of the call; a tensor that depends on the input is a :class:`Signal`, every other
            one a torch tensor.
        module: the layer, or None for a function or method.
        outer: the call that this one is a part of, and that messages show; or None.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    module: nn.Module | None = None
    outer: BaseCall | None = None

    @property
    def operands(self) -> tuple[Signal, ...]:
        """All signals among the arguments, in order."""
        return tuple(leaf for leaf in leaves((self.args, dict(self.kwargs))) if isinstance(leaf, Signal))

    @property
    def operand(self) -> Signal:
        """The only signal among the arguments.

        Raises:
            UnsupportedOpError: there are several.
        """
        if len(self.operands) != 1 or len(self.args) + len(self.kwargs) != 1:
            self.refuse(
                f"{self.source.kind} takes one tensor here, and is called with {self.arguments()}",
                "call it with one tensor alone, for several once each, and join the results: torch.cat",
            )
        return self.operands[0]

    def add(self, op: Op, *operands: Signal, part: str = "") -> Signal:
        """Add an op behind its operands, as every call does; their batch must be their first axis."""
        for operand in operands:
            if isinstance(operand, Moved):
                raise operand.error
        return super().add(op, *operands, part=part)

    def arguments(self) -> str:
        """The call's arguments as the user wrote them, signals by their names."""
        if self.outer is not None:
            return self.outer.arguments()
        shown = [_show(x) for x in self.args] + [f"{key}={_show(x)}" for key, x in self.kwargs.items()]
        return ", ".join(shown)


def _show(value: Any) -> str:
    if isinstance(value, Signal):
        return f"%{value.name}"
    if isinstance(value, Tensor):
        return f"tensor{list(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_show(x) for x in value)}]"
    return str(value)


def leaves(value: Any) -> Iterator[Any]:
    """Everything in nested tuples, lists, dicts, slices and dataclasses."""
    if type(value) is Signal:  # as most results are
        return iter((value,))
    found: list[Any] = []
    map_aggregate(value, lambda leaf: found.extend(leaves(fields_of(leaf)) if is_record(leaf) else [leaf]))
    return iter(found)


def tensors(value: Any) -> list[Tensor]:
    """All torch tensors among the :func:`leaves`."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]


def is_record(value: Any) -> bool:
    """True for an instance of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def fields_of(record: Any) -> dict[str, Any]:
    """Values of a dataclass by their names."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def as_array(value: Tensor) -> Array:
    """A parameter as numpy, where it can in the model's own memory; half and bfloat16 become float32."""
    value = value.detach().cpu()
    if value.dtype in (torch.float16, torch.bfloat16):
        value = value.float()
    return sealed(value.numpy())


def methods(*names: str) -> list[tuple[str, str]]:
    """Keys of tensor methods."""
    return [("method", name) for name in names]


def qualified(thing: Any) -> str:
    """``package.module.Name`` of a class or function."""
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"
