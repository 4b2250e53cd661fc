"""What every operation of the graph is: a frozen record with one type rule and one meaning."""

from __future__ import annotations

import contextlib
import contextvars
import enum
from collections.abc import Iterator
from typing import Any, ClassVar

import attrs
import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from spikec.ir.errors import TypeMismatchError
from spikec.ir.origin import Origin
from spikec.ir.types import Array, Rate, Real, Type, readonly


class Role(enum.Enum):
    """How an op behaves; stages and passes ask for the role, never for a list of ops."""

    IO = "io"
    LINEAR = "linear"
    IDENTITY = "identity"
    NORM = "norm"
    ACTIVATION = "activation"
    NEURON = "neuron"
    CAST = "cast"


def array(**options: Any) -> Any:
    """An attrs field that holds a read-only numpy array."""
    return attrs.field(converter=attrs.converters.optional(readonly), metadata={"array": True}, **options)


_tensors: contextvars.ContextVar[dict[tuple[int, torch.dtype, torch.device], tuple[Array, Tensor]] | None]
_tensors = contextvars.ContextVar("tensors", default=None)


@contextlib.contextmanager
def tensor_cache() -> Iterator[None]:
    """Within it, each parameter becomes a tensor once; leaving it frees them. Inside another it is that one."""
    if _tensors.get() is not None:
        yield
        return
    token = _tensors.set({})
    try:
        yield
    finally:
        _tensors.reset(token)


def tensor(value: Array | Tensor, like: Tensor) -> Tensor:
    """A parameter as a tensor of the dtype and device of ``like``; one that a torch module holds is given as it is."""
    if isinstance(value, Tensor):
        return value
    cache = _tensors.get()
    key = (id(value), like.dtype, like.device)
    if cache is not None and key in cache:
        return cache[key][1]
    result = torch.tensor(value, dtype=like.dtype, device=like.device)
    if cache is not None:
        cache[key] = (value, result)
    return result


@attrs.frozen(eq=False)
class Op:
    """One operation. Subclass it with ``@attrs.frozen(eq=False)``; its fields are its parameters.

    Attributes:
        origin: the source nodes it stands for; a pass that merges ops merges their origins, and an op
            that a pass adds for its own needs has none.
    """

    kind: ClassVar[str]
    role: ClassVar[Role]
    #: number of operands, or None for one or more
    arity: ClassVar[int | None] = 1
    #: whether ``eval`` always gives memory of its own, never a view of an operand
    fresh: ClassVar[bool] = False

    origin: Origin = attrs.field(default=(), kw_only=True)

    def infer(self, *operands: Type) -> Type:
        """The type rule: the result's type from the operands', or a TypeMismatchError."""
        raise NotImplementedError

    def eval(self, *xs: Tensor) -> Tensor:
        """The meaning: [B, ...] tensors in, [B, ...] out, in the dtype and on the device of the operands."""
        raise NotImplementedError

    def eval_over(self, x: Tensor) -> Tensor:
        """As ``eval`` of one operand that nobody else reads, and that may be written over."""
        return self.eval(x)

    def on_arrays(self, *xs: Array) -> Array:
        """The meaning for one sample, in float64."""
        tensors = [torch.tensor(x, dtype=torch.float64)[None] for x in xs]
        with torch.no_grad():
            return np.asarray(self.eval(*tensors)[0].numpy())

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def parameters(self) -> dict[str, Any]:
        """Field values by name, without the origin."""
        return {f.name: getattr(self, f.name) for f in attrs.fields(type(self)) if f.name != "origin"}

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        """The result's shape, by running the meaning on tensors without data."""
        xs = [torch.empty((1, *t.shape), device="meta") for t in operands]
        try:
            return tuple(self.eval(*xs).shape[1:])
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            reason = str(error).splitlines()[0]
            shapes = ", ".join(str(t.shape) for t in operands)
            raise TypeMismatchError(f"{self.kind} does not take operands of shape {shapes}: {reason}") from None


@attrs.frozen(eq=False)
class StatefulOp(Op):
    """An op with memory: its meaning is an initial state and a step.

    A subclass whose result at a step does not depend on its operand of that step sets ``register``;
    only such an op may close a cycle, and it declares its result's type by itself.
    """

    register: ClassVar[bool] = False

    def initial(self, *xs: Tensor) -> Tensor:
        """The state before step 0, given the operands of step 0 ([B, ...])."""
        raise NotImplementedError

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """(state after the step, result of the step)."""
        raise NotImplementedError

    def divided(self, factor: Array) -> Self | None:
        """The op that gives ``y / factor`` for ``x / factor``, an array of the operand's rank; None if none does."""
        return None


@attrs.frozen(eq=False)
class Movement(Op):
    """An op that only moves numbers about (flatten, pad, concat): a rate's scale moves the same way."""

    role: ClassVar[Role] = Role.LINEAR

    def infer(self, *operands: Type) -> Type:
        """The operands' scales are moved as the data is."""
        first = operands[0]
        shape = self.shape_of(*operands)
        if any(isinstance(t.encoding, Rate) != isinstance(first.encoding, Rate) for t in operands):
            raise TypeMismatchError(f"{self.kind} of a real and a rate-coded signal")
        if isinstance(first.encoding, Real):
            return attrs.evolve(first, shape=shape)
        if len(operands) == 1 and operands[0].scale.size == 1:
            scale = np.full((1,) * len(shape), operands[0].scale.item())
        else:
            full = [torch.tensor(np.broadcast_to(t.scale, t.shape).copy())[None] for t in operands]
            scale = self.move_scale(*full)[0].numpy()
        return Type(shape, first.dtype, Rate(scale))

    def move_scale(self, *scales: Tensor) -> Tensor:
        """The result's scale from the operands', all of full shape and with a batch axis of 1."""
        return self.eval(*scales)
