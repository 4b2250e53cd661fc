"""What a model makes of the batch size and yet is the same for every sample, or for a batch of any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate, map_arg

from spikec.frontends.torch.batch import BATCH, BatchSize
from spikec.frontends.torch.call import Call, leaves

#: functions that fill a new tensor of sizes that come first
_NEW = ("zeros", "ones", "full", "empty")
#: what repeats a constant for every sample, by the method that does so; and what gives one that was another shape
_REPEATS = {"expand": "expand", "broadcast_to": "expand", "repeat": "repeat", "tile": "repeat"}
_VIEWS = ("reshape", "view")
#: what to do in place of a tensor that is made for each sample
ONE_SAMPLE = "make the tensor for one sample: it broadcasts over the batch"
#: sizes of a batch that tell whether a number depends on it
_SIZES = (1, 2, 3, 5, 7)


class Alike:
    """The nodes whose values are such: tensors [1, ...] that stand for one a sample, and numbers.

    Args:
        values: of all nodes so far.
    """

    def __init__(self, values: Mapping[fx.Node, Any]) -> None:
        self._values = values
        self._nodes: set[fx.Node] = set()

    def __contains__(self, node: fx.Node) -> bool:
        return node in self._nodes

    def add(self, node: fx.Node) -> None:
        """Say that a node's value is one."""
        self._nodes.add(node)

    def expect_whole(self, node: fx.Node, call: Call, changed: Sequence[Tensor]) -> None:
        """Refuse a change in place of what such a tensor has for one sample, as of ``mask[0]``."""
        if not changed:
            return
        held = [self._values[x] for x in self._nodes if isinstance(self._values.get(x), Tensor)]
        memory = {each.untyped_storage().data_ptr() for each in held}
        whole = {id(self._values[x]) for x in node.all_input_nodes if x in self}
        if any(id(each) not in whole and each.untyped_storage().data_ptr() in memory for each in changed):
            call.refuse(f"{call.source.kind} changes a part of constants that are made for each sample", ONE_SAMPLE)

    def made(
        self, node: fx.Node, function: Callable[..., Any], call: Call, numbers: Sequence[Any] | None
    ) -> Tensor | float | None:
        """What a call makes of the batch size, where that is one; else None.

        Args:
            node: the call's.
            function: what is called.
            call: its arguments.
            numbers: what the call is given that was made from the batch size, where it is given numbers alone.
        """
        if numbers is None:
            is_alike = bool(node.all_input_nodes) and node.all_input_nodes[0] in self
            value: Tensor | float | None = _for_one_sample(node, function, call.args, call.kwargs, is_alike=is_alike)
        elif all(isinstance(each, BatchSize) for each in numbers):
            value = _for_any_batch(function, call.args, call.kwargs)
        else:
            value = None
        if value is not None:
            self.add(node)
        return value

    def for_two_samples(self, node: fx.Node, call: Call) -> Any:
        """What a call on such tensors gives for a batch of two; None for another call.

        It is to be asked before the call is made, which may change what it is given.
        """
        copies = {
            x: torch.cat([self._values[x]] * 2)
            for x in node.all_input_nodes
            if x in self and isinstance(self._values[x], Tensor)
        }
        if not copies:
            return None
        args, kwargs = map_arg((node.args, node.kwargs), lambda x: copies[x] if x in copies else self._values[x])
        function: Any = getattr(args[0], str(node.target)) if node.op == "call_method" else call.module or node.target
        with torch.no_grad():
            return function(*args[node.op == "call_method" :], **kwargs)

    def judged(self, node: fx.Node, call: Call, value: Any, doubled: Any) -> Any:
        """What a call gives, by what it gives for a batch of two: such a tensor too, or sizes that hold the batch's.

        Raises:
            UnsupportedOpError: it depends on the batch size otherwise, as a sum over the samples does.
        """
        if doubled is None:
            return value
        pairs = list(zip(leaves(value), leaves(doubled), strict=True))
        if all(_is_same(one, two) for one, two in pairs):
            return value
        if all(_is_twice(one, two) for one, two in pairs):
            self.add(node)
            return value
        if not all(type(one) is int for one, _ in pairs):
            call.refuse(f"{call.source.kind} joins constants that are made for each sample of the batch", ONE_SAMPLE)
        sized = [one if one == two else BATCH * (two - one) + (2 * one - two) for one, two in pairs]
        return sized[0] if isinstance(value, int) else torch.Size(sized)


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.allclose(one, other, equal_nan=True)
    return type(one) is type(other) and bool(one == other)


def _is_twice(one: Any, two: Any) -> bool:
    return isinstance(one, Tensor) and one.shape[:1] == (1,) and _is_same(torch.cat([one] * 2), two)


def _for_one_sample(
    node: fx.Node, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, is_alike: bool
) -> Tensor | None:
    """What a call makes once for every sample of the batch, as a tensor [1, ...]; None for another call.

    Args:
        node: the call's.
        function: what is called.
        args, kwargs: constants, and sizes of which the first is the batch's.
        is_alike: whether the first argument is itself such a tensor.
    """
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "").split(".")[0]
    x, *others = (None, *args) if name in _NEW else args
    is_spread = not others or not isinstance(others[0], (tuple, list))
    first, *rest = (others or [None]) if is_spread else others[0]
    numbers = leaves((rest, () if is_spread else others[1:], dict(kwargs)))
    if first != BATCH or any(isinstance(each, BatchSize) for each in numbers):
        return None
    result: Tensor | None = None
    if name in _NEW:
        result = function((1, *rest), *(() if is_spread else others[1:]), **kwargs)
    elif name in _VIEWS and is_alike:
        result = x.detach().reshape(1, *rest)
    elif name in _REPEATS and isinstance(x, Tensor) and (x.ndim <= len(rest) or x.shape[:1] == (1,)):
        result = getattr(x.detach(), _REPEATS[name])(1, *rest)
    return result


def _for_any_batch(function: Callable[..., Any], args: Any, kwargs: Any) -> float | None:
    """The number that a function gives whatever the batch size is; None where it depends on it."""
    found = []
    for size in _SIZES:

        def sized(x: Any, size: int = size) -> Any:
            return x.at(size) if isinstance(x, BatchSize) else x

        given: Any = map_aggregate((args, dict(kwargs)), sized)
        try:
            found.append(function(*given[0], **given[1]))
        except ArithmeticError:  # of that size alone
            return None
    return found[0] if isinstance(found[0], (int, float)) and found.count(found[0]) == len(found) else None
