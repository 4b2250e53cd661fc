"""A signal in the place of a torch tensor, so that code that is written for tensors is read by converters."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from torch import Tensor
from torch.fx.node import map_aggregate

from spikec.frontends.torch.call import Moved, Signal, converter, leaves

#: given a converter's key, the positional and the named arguments of a call on signals; gives what the call gives
Run = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Any]

_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "T", "mT", "H", "mH")


@attrs.frozen
class SignalTensor(Signal):
    """Takes part in calls of torch's functions, in methods and in arithmetic, and hands each of them to ``run``.

    Keys are those of :data:`spikec.frontends.torch.call.converter`: ``F.relu``, ``("method", "view")``,
    ``operator.add``; an attribute such as ``x.shape`` is a call of ``getattr``.
    """

    run: Run = attrs.field(eq=False, repr=False)
    moved: Moved | None = attrs.field(default=None, eq=False, repr=False)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch calls this in place of a function that one of these is given to; a tensor's method is among them."""
        first = next(each for each in leaves((args, kwargs or {})) if isinstance(each, cls))
        name = getattr(function, "__name__", "")
        key = ("method", name) if getattr(Tensor, name, None) is function else function
        return first._call(key, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _ATTRIBUTES:
            return self._call(getattr, (self, name), {})
        if converter.get(("method", name)) is None:
            return self._call(("method", name), (self,), {})  # which is up to run, as it may be no method at all
        return lambda *args, **kwargs: self._call(("method", name), (self, *args), kwargs)

    def _call(self, key: Any, args: Any, kwargs: Any) -> Any:
        result = self.run(key, *from_tensors((args, kwargs)))
        return to_tensors(result, self.run)


def to_tensors(value: Any, run: Run) -> Any:
    """Nested containers with a :class:`SignalTensor` for each signal."""

    def stand_in(each: Any) -> Any:
        if not isinstance(each, Signal):
            return each
        return SignalTensor(each.name, run, each if isinstance(each, Moved) else None)

    return map_aggregate(value, stand_in)


def from_tensors(value: Any) -> Any:
    """Nested containers with the signal for each :class:`SignalTensor`."""
    return map_aggregate(
        value, lambda each: each.moved or Signal(each.name) if isinstance(each, SignalTensor) else each
    )


def _operator(name: str, swapped: bool) -> Any:
    function = getattr(operator, name)
    if swapped:
        return lambda self, other: self._call(function, (other, self), {})
    return lambda self, *others: self._call(function, (self, *others), {})


for _name in ("add", "sub", "mul", "truediv", "matmul"):
    setattr(SignalTensor, f"__{_name}__", _operator(_name, swapped=False))
    setattr(SignalTensor, f"__r{_name}__", _operator(_name, swapped=True))
for _name in ("neg", "pos", "getitem"):
    setattr(SignalTensor, f"__{_name}__", _operator(_name, swapped=False))
