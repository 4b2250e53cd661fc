"""What a converter is given, and the table that converters are registered in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

import attrs
import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.node import map_aggregate

from spikec.errors import CompileError, Problem, TypeMismatchError, UnsupportedOpError
from spikec.graph import Graph
from spikec.op import Op
from spikec.origin import Source
from spikec.rules import Rules
from spikec.types import Array

#: stands for the size of the batch axis in shape arithmetic: a prime beyond every size and product of sizes
BATCH = 2147483629


RuleT = TypeVar("RuleT", bound=Callable[..., Any])


@attrs.frozen
class Signal:
    """A tensor of the traced model that depends on its inputs: the result of a node of the graph."""

    name: str


@attrs.frozen
class Refused:
    """The value of a node that was refused: what depends on it is not converted, but still looked at."""

    node: str

    def __str__(self) -> str:
        return f"%{self.node}"


@attrs.frozen
class Missing:
    """A part of a call's result that the graph does not have: who uses it is refused for this reason."""

    reason: str


#: Converters. A key is a layer's class, a function, ``("method", "relu")``, or a qualified name such as
#: ``"timm.layers.mlp.Mlp"``. A layer's converter is called as ``(module, at)``, every other one as
#: ``(at, *args, **kwargs)`` with the arguments of the call, where tensors are :class:`Signal`. The
#: result is a Signal, or numbers where the call asks for a shape.
rules: Rules[Callable[..., Signal]] = Rules("torch.fx converter")


_sized: set[Callable[..., Any]] = set()


def takes_batch(rule: RuleT) -> RuleT:
    """Marks a converter whose sizes may hold the batch's, as ``BATCH``; to every other it is refused."""
    _sized.add(rule)
    return rule


def may_take_batch(rule: Callable[..., Any]) -> bool:
    """True for a converter marked with :func:`takes_batch`."""
    return rule in _sized


@attrs.frozen(eq=False)
class Call:
    """One call in the user's model, and the graph that its converter adds ops to.

    Attributes:
        graph: the graph so far.
        source: where the call stands in the user's model; every op that is added carries it.
        name: what the op will be called if that is free.
        args, kwargs: of the call; a tensor that depends on the input is a :class:`Signal`, every other
            one a torch tensor.
        module: the layer, or None for a function or method.
    """

    graph: Graph
    source: Source
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    module: nn.Module | None = None

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
            self.refuse(f"{self.source.kind} takes one tensor here, and is called with {self._arguments()}")
        return self.operands[0]

    def shape(self, signal: Signal) -> tuple[int, ...]:
        """Shape of one sample of a signal, without the batch."""
        return self.graph.type(signal.name).shape

    def shown(self, signal: Signal) -> str:
        """Shape of a signal with its batch, for messages: ``[B, 3, 8, 8]``."""
        return f"[{', '.join(map(str, ('B', *self.shape(signal))))}]"

    def add(self, op: Op, *operands: Signal, part: str = "") -> Signal:
        """Add an op behind its operands; it gets the call's source.

        Args:
            op: without an origin.
            operands: signals.
            part: appended to the name, for an op that is not the last of the call.

        Raises:
            TypeMismatchError: the operands do not fit.
            UnsupportedOpError: an operand is a tensor that does not depend on the model's input.
        """
        for operand in operands:
            if not isinstance(operand, Signal):
                self.refuse(f"{self.source.kind} with a constant {type(operand).__name__} where a signal must be")
        wish = f"{self.name}_{part}" if part else self.name
        names = [operand.name for operand in operands]
        name = self.graph.add(attrs.evolve(op, origin=(self.source,)), *names, name=wish)
        try:
            self.graph.type(name)
        except CompileError:
            self.graph.remove(name)
            raise
        return Signal(name)

    def expect_rank(self, signal: Signal, *ranks: int) -> None:
        """Refuse a signal whose samples have another rank, batch not counted."""
        shape = self.shape(signal)
        if len(shape) not in ranks:
            wanted = " or ".join(map(str, ranks))
            raise TypeMismatchError(
                self.problem(f"{self.source.kind} takes samples of rank {wanted}, operand has shape {shape}")
            )

    def refuse(self, message: str, hint: str = "") -> NoReturn:
        """Raise an UnsupportedOpError that says where the call stands."""
        raise UnsupportedOpError(self.problem(message, hint))

    def problem(self, message: str, hint: str = "") -> Problem:
        """A finding about this call."""
        return Problem(message, str(self.source), f"{self.source.kind}({self._arguments()})", hint)

    def _arguments(self) -> str:
        shown = [_show(x) for x in self.args] + [f"{key}={_show(x)}" for key, x in self.kwargs.items()]
        return ", ".join(shown)


def _show(value: Any) -> str:
    if isinstance(value, Signal):
        return f"%{value.name}"
    if isinstance(value, Tensor):
        return f"tensor{list(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_show(x) for x in value)}]"
    return readable(str(value))


def readable(text: str) -> str:
    """Text with sizes made from the batch's written as such: ``B``, ``2*B``, ``B+1``."""
    return re.sub(r"\d{9,}", _size, text)


def _size(found: re.Match[str]) -> str:
    size = int(found[0])
    if size < BATCH // 2:
        return found[0]
    for divisor in range(1, 9):
        times, rest = divmod(size * divisor + divisor // 2, BATCH)
        rest -= divisor // 2
        if times and abs(rest) <= 4096:
            name = ("B" if times == 1 else f"{times}*B") + (f"//{divisor}" if divisor > 1 else "")
            return name if divisor > 1 or not rest else f"{name}{rest:+d}"
    return found[0]


def leaves(value: Any) -> Iterator[Any]:
    """Everything in nested tuples, lists, dicts and slices."""
    found: list[Any] = []
    map_aggregate(value, lambda leaf: found.append(leaf))
    return iter(found)


def as_array(value: Tensor) -> Array:
    """A parameter as numpy; half and bfloat16 become float32."""
    value = value.detach().cpu()
    if value.dtype in (torch.float16, torch.bfloat16):
        value = value.float()
    result: Array = np.array(value.numpy())
    return result


def methods(*names: str) -> list[tuple[str, str]]:
    """Keys of tensor methods."""
    return [("method", name) for name in names]


def qualified(thing: Any) -> str:
    """``package.module.Name`` of a class or function."""
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"


#: methods of a layer that say nothing about what it computes
_HARMLESS = {"extra_repr", "reset_parameters", "_check_input_dim"}


def layer_rule(module: nn.Module) -> Callable[..., Signal] | None:
    """The converter for a layer: of its class, or of a base class whose methods no class in between redefines."""
    if "forward" in vars(module):
        return None
    redefined: set[str] = set()
    for cls in type(module).__mro__:
        found = rules.first((cls, qualified(cls)))
        if found is not None:
            own = {name for base in cls.__mro__ if base not in nn.Module.__mro__ for name in vars(base)}
            return None if own & redefined else found
        redefined |= {name for name in vars(cls) if not name.startswith("__")} - _HARMLESS
    return None
