"""Copies of modules that share their parameters, so that what is done to them is not done to the user's model."""

import operator
from collections import OrderedDict
from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def shadow(model: ModuleT) -> ModuleT:
    """A module that computes what the model computes, and whose attributes, hooks and buffers are its own.

    Its modules are copies, wherever the model refers to them: as submodules, in containers, or by bound methods. Its
    parameters are the model's (copies of those that were made in inference mode), and so is whatever else is no module,
    tensor or container.
    """
    copies: dict[int, Any] = {id(each): object.__new__(type(each)) for each in model.modules()}

    def own(value: Any) -> Any:
        if isinstance(value, MethodType) and id(value.__self__) in copies:
            return MethodType(value.__func__, copies[id(value.__self__)])
        if isinstance(value, Tensor) and id(value) not in copies:
            copies[id(value)] = _own_tensor(value)
        return copies.get(id(value), value)

    for each in model.modules():
        vars(copies[id(each)]).update(_mapped(vars(each), own))
    result: ModuleT = copies[id(model)]
    return result


#: what stands for nothing else, and is most of what a module holds
_PLAIN = (bool, int, float, str, type(None))


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Nested plain containers with the change of each leaf in its place; numbers and texts stay."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind in (list, tuple):
        return kind([_mapped(each, change) for each in value])
    if kind in (dict, OrderedDict):  # of which a module has a dozen that are empty
        return kind([(key, _mapped(each, change)) for key, each in value.items()]) if value else kind()
    return change(value)


def _gather(value: Any, found: list[Any]) -> None:
    """Append the leaves of nested plain containers to a list."""
    kind = type(value)
    if kind in (list, tuple):
        for each in value:
            _gather(each, found)
    elif kind in (dict, OrderedDict):
        for each in value.values():
            _gather(each, found)
    else:
        found.append(value)


@torch.inference_mode(False)
def _own_tensor(value: Tensor) -> Tensor:
    """A copy of a tensor, but a parameter itself, unless it was made in inference mode and knows nothing of changes."""
    if not isinstance(value, nn.Parameter):
        return value.detach().clone()
    return nn.Parameter(value.detach().clone(), requires_grad=False) if value.is_inference() else value


def snapshot(layer: ModuleT) -> ModuleT:
    """A part of a :func:`shadow` as it is now, whatever forward assigns to its attributes later."""
    result = object.__new__(type(layer))
    vars(result).update(_mapped(vars(layer), lambda leaf: snapshot(leaf) if isinstance(leaf, nn.Module) else leaf))
    return result


class Content:
    """All that a shadow and the modules in it hold, with the versions of tensors, as it is now."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._held, self._versions = self._leaves()

    def has_changed(self) -> bool:
        """Return whether forward, or anything else, has assigned something or changed a tensor in place since."""
        held, versions = self._leaves()
        same = len(held) == len(self._held) and all(map(operator.is_, held, self._held))
        return not same or versions != self._versions

    def _leaves(self) -> tuple[list[Any], list[int]]:
        """List what is held, and the versions of the tensors in it."""
        held: list[Any] = []
        for each in self._module.modules():
            _gather(vars(each), held)
        return held, [leaf._version for leaf in held if isinstance(leaf, Tensor)]
