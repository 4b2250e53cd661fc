"""What a converter is given, and the table that converters are registered in."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor, nn
from torch.fx.node import map_aggregate

from spikec.extend.call import Call as BaseCall
from spikec.extend.call import Refused as Refused
from spikec.extend.call import Signal as Signal
from spikec.extend.converters import Converters
from spikec.ir.types import Array, sealed

#: stands for the size of the batch axis in shape arithmetic: a prime beyond every size and product of sizes
BATCH = 2147483629


RuleT = TypeVar("RuleT", bound=Callable[..., Any])


@attrs.frozen
class Missing:
    """A part of a call's result that the graph does not have: who uses it is refused for this reason.

    A model may return it: it is None in the result then, and the report says so.
    """

    reason: str


#: Converters. A key is a layer's class, a function, ``("method", "relu")``, or a qualified name such as
#: ``"timm.layers.mlp.Mlp"``. A layer's converter is called as ``(module, call)``, every other one as
#: ``(call, *args, **kwargs)`` with the arguments of the call, where tensors are :class:`Signal`. The
#: result is a Signal, or numbers where the call asks for a shape.
converter: Converters[Callable[..., Signal]] = Converters("torch.fx converter")


_sized: set[Callable[..., Any]] = set()


def takes_batch(rule: RuleT) -> RuleT:
    """Marks a converter whose sizes may hold the batch's, as ``BATCH``; to every other it is refused."""
    _sized.add(rule)
    return rule


def may_take_batch(rule: Callable[..., Any]) -> bool:
    """True for a converter marked with :func:`takes_batch`."""
    return inspect.unwrap(rule) in _sized


_firing: set[Callable[..., Any]] = set()
#: qualified names of classes whose instances keep a state from call to call: they are never traced through
stateful: set[str] = set()


def fires(rule: RuleT) -> RuleT:
    """Marks the converter of what spikes: a model that has one is a spiking model, and each call of it is a step."""
    _firing.add(rule)
    return rule


def is_spiking(model: nn.Module) -> bool:
    """True for a model with a layer whose converter is marked with :func:`fires`."""
    return any(is_firing(module) for module in model.modules())


def is_firing(layer: nn.Module) -> bool:
    """True for a layer whose converter is marked with :func:`fires`; what it puts out is a tensor of its own."""
    return layer_rule(layer) in _firing


def keeps_state(module: nn.Module) -> bool:
    """True for a layer that goes on from call to call where it left off."""
    return any(qualified(cls) in stateful for cls in type(module).__mro__)


@attrs.frozen(eq=False)
class Call(BaseCall):
    """One call in the user's torch model.

    Attributes:
        args, kwargs: of the call; a tensor that depends on the input is a :class:`Signal`, every other
            one a torch tensor.
        module: the layer, or None for a function or method.
    """

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
            self.refuse(f"{self.source.kind} takes one tensor here, and is called with {self.arguments()}")
        return self.operands[0]

    def arguments(self) -> str:
        """The call's arguments as the user wrote them, signals by their names."""
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
    """Everything in nested tuples, lists, dicts, slices and dataclasses."""
    found: list[Any] = []
    map_aggregate(value, lambda leaf: found.extend(leaves(fields_of(leaf)) if is_record(leaf) else [leaf]))
    return iter(found)


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


#: methods of a layer that say nothing about what it computes
_HARMLESS = {"extra_repr", "reset_parameters", "_check_input_dim"}


def layer_rule(module: nn.Module) -> Callable[..., Signal] | None:
    """The converter for a layer: of its class, or of a base class whose methods no class in between redefines."""
    if "forward" in vars(module):
        return None
    redefined: set[str] = set()
    for cls in type(module).__mro__:
        found = converter.first((cls, qualified(cls)))
        if found is not None:
            own = {name for base in cls.__mro__ if base not in nn.Module.__mro__ for name in vars(base)}
            return None if own & redefined else found
        redefined |= {name for name in vars(cls) if not name.startswith("__")} - _HARMLESS
    return None
