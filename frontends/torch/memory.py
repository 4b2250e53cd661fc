"""Which tensors of the model share memory, and what a call changes in place: torch itself is asked."""

import copy
import itertools
import operator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate, map_arg

from spikec.frontends.torch.batch import BatchSize
from spikec.frontends.torch.call import Signal, tensors
from spikec.frontends.torch.layers import is_firing
from spikec.frontends.torch.traced import Traced
from spikec.frontends.torch.writing import cells
from spikec.ir.graph import Graph

#: batch size of the tensors without data: no usual size, so that it is known where it turns up in another axis
SAMPLES = 113
#: what copies its operand on one device, and gives a view of it on another
_DIFFERS = (torch.channel_shuffle, torch.native_channel_shuffle)


class Changes(NamedTuple):
    """Nodes whose value is a call's result from then on, and others whose memory it wrote to."""

    same: tuple[fx.Node, ...] = ()
    other: tuple[fx.Node, ...] = ()


class Memory:
    """Knows which values share memory: a call whose behaviour is not known is repeated on tensors without data.

    Where torch cannot do that, the result may share memory with all operands.
    """

    def __init__(self, traced: Traced, graph: Graph, values: dict[fx.Node, Any]) -> None:
        self._traced = traced
        self._graph = graph
        self._values = values
        self._tensors: dict[fx.Node, Any] = {}
        self._dtype: torch.dtype = getattr(torch, graph.type(graph.inputs[0]).dtype)
        self._memories: dict[fx.Node, set[int]] = {}  # of each of these
        self._holders: dict[int, dict[fx.Node, int]] = {}  # whose these are, each with its place in the order of calls
        self._perhaps: dict[int, set[int]] = {}  # memories that may be one, by each of them

    def begin(self, node: fx.Node, signal: Signal) -> None:
        """An input of the model."""
        self._hold(node, self._fresh(signal))

    def _hold(self, node: fx.Node, value: Any) -> None:
        self._tensors[node] = value
        self._memories[node] = _storages(value)
        for memory in self._memories[node]:
            self._holders.setdefault(memory, {})[node] = len(self._memories)

    def alone(self, node: fx.Node) -> Any:
        """What torch gives for a call that was not converted, on tensors without data; from then on it has a memory.

        None for a call without a signal, and where the shape of a sample depends on the batch.

        Raises:
            Exception: whatever the call raises on such tensors.
        """
        if not any(each in self._tensors for each in node.all_input_nodes):
            return None
        with torch.inference_mode(False), torch.no_grad():
            result = self._run(node)
        if any(SAMPLES in tensor.shape[1:] for tensor in tensors(result)):
            return None
        self._hold(node, result)
        return result

    def call(self, node: fx.Node, in_place: bool, computes: bool) -> Changes:
        """Follow a call that was converted.

        Args:
            node: its value is known.
            in_place: whether its name says so, which decides where torch cannot be asked.
            computes: it is known to write its result to new memory, or over its first operand if ``in_place``.
        """
        operands = [each for each in node.all_input_nodes if each in self._tensors]
        if computes and self._is_row_major(node):
            plain = self._fresh(self._values[node])
            if not in_place:
                self._hold(node, plain)
                return Changes()
            first = next(iter(node.args), None)
            over = self._tensors.get(first) if isinstance(first, fx.Node) else None
            if isinstance(first, fx.Node) and isinstance(over, Tensor) and over.shape == plain.shape:
                self._hold(node, over)
                return self._changes(node, over, [first])
        before = {each: _versions(self._tensors[each]) for each in operands}
        value = self._values[node]
        try:
            with torch.inference_mode(False), torch.no_grad():
                result = self._run(node)
        except Exception:  # whatever a user's layer does with tensors that hold no numbers
            result = None
        changed = [each for each in operands if _versions(self._tensors[each]) != before[each]]
        if isinstance(value, Signal) and not isinstance(result, Tensor):
            if in_place and not changed:
                result, changed = self._tensors[operands[0]], operands[:1]
            else:
                result = self._unknown(value, operands)
        elif result is None:
            result = map_aggregate(value, lambda x: self._unknown(x, operands) if isinstance(x, Signal) else x)
        self._hold(node, result)
        return self._changes(node, result, changed) if changed else Changes()

    def tensor(self, node: fx.Node) -> Any:
        """The value of a node that was followed, as tensors without data."""
        return self._tensors[node]

    def _changes(self, node: fx.Node, result: Any, changed: list[fx.Node]) -> Changes:
        written = [tensor for each in changed for tensor in tensors(self._tensors[each])]
        touched = self._related(set().union(*(self._memories[each] for each in changed)))

        def is_affected(each: fx.Node) -> bool:
            value = self._tensors[each]
            return value is result or any(map(is_touched, tensors(value)))

        def is_touched(tensor: Tensor) -> bool:
            return bool(touched & _storages(tensor)) and not all(_disjoint(tensor, each) for each in written)

        near: dict[fx.Node, int] = {}
        for memory in touched:
            near.update(self._holders[memory])
        near.pop(node, None)
        affected = [each for each in sorted(near, key=near.__getitem__) if is_affected(each)]
        same = tuple(each for each in affected if _coincide(self._tensors[each], result))
        return Changes(same, tuple(each for each in affected if each not in same))

    def _run(self, node: fx.Node) -> Any:
        given = map_arg((node.args, node.kwargs), self._without_data)
        args, kwargs = map_aggregate(given, lambda x: x.at(SAMPLES) if isinstance(x, BatchSize) else x)
        module = self._traced.module(node)
        if node.target in _DIFFERS or isinstance(module, nn.ChannelShuffle):
            return None
        if module is not None and is_firing(module):
            return map_aggregate(self._values[node], lambda x: self._fresh(x) if isinstance(x, Signal) else x)
        if module is not None:
            return copy.deepcopy(module, {id(each): self._empty(each) for each in _held(module)})(*args, **kwargs)
        target: Any = node.target
        return getattr(args[0], target)(*args[1:], **kwargs) if node.op == "call_method" else target(*args, **kwargs)

    def _is_row_major(self, node: fx.Node) -> bool:
        """True for a call on tensors that all lie in memory row by row, as what is computed of them then does too."""
        module = self._traced.module(node)
        given = tensors([self._tensors.get(each, self._values[each]) for each in node.all_input_nodes])
        return all(map(_is_row_major, given if module is None else (*given, *_held(module))))

    def _without_data(self, node: fx.Node) -> Any:
        if node in self._tensors:
            return self._tensors[node]
        return map_aggregate(self._values[node], lambda x: self._empty(x) if isinstance(x, Tensor) else x)

    def _empty(self, value: Tensor) -> Tensor:
        dtype = self._dtype if value.is_floating_point() else value.dtype
        return torch.empty_like(value, dtype=dtype, device="meta")

    def _fresh(self, signal: Signal) -> Tensor:
        with torch.inference_mode(False):
            return torch.empty((SAMPLES, *self._graph.type(signal.name).shape), dtype=self._dtype, device="meta")

    def _unknown(self, signal: Signal, operands: list[fx.Node]) -> Tensor:
        result = self._fresh(signal)
        keys = _storages(result).union(*(self._memories[each] for each in operands))
        groups = [self._perhaps.setdefault(key, {key}) for key in keys]
        largest = max(groups, key=len)  # which the others join, so that a memory is moved a few times at most
        for group in groups:
            if group is not largest:
                largest |= group
                self._perhaps.update(dict.fromkeys(group, largest))
        return result

    def _related(self, keys: set[int]) -> set[int]:
        return keys.union(*(self._perhaps.get(key, ()) for key in keys))


def _held(module: nn.Module) -> list[Tensor]:
    """All tensors of a module, also those that are no parameters or buffers."""
    tables = [table for part in module.modules() for table in (part._parameters, part._buffers, vars(part))]
    return [each for table in tables for each in table.values() if isinstance(each, Tensor)]


def _is_row_major(tensor: Tensor) -> bool:
    """Compare all strides, where ``is_contiguous`` leaves out axes of length 1, by which torch tells channels-last."""
    strides = itertools.accumulate(reversed(tensor.shape[1:]), operator.mul, initial=1)
    return tensor.stride() == tuple(strides)[::-1][-tensor.ndim :] if tensor.ndim else True


def _versions(value: Any) -> list[int]:
    return [tensor._version for tensor in tensors(value)]


def _storages(value: Any) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors(value)}


def _disjoint(a: Tensor, b: Tensor) -> bool:
    """True for two parts of one memory, batch first in both, that have no element in common."""
    if _coincide(a, b) or a.shape[:1] != b.shape[:1] or a.stride()[:1] != b.stride()[:1]:
        return False
    first, second = cells(a), cells(b)
    inside = max(first.max(initial=0), second.max(initial=0)) < a.stride(0)  # else one's sample lies in another's next
    return _storages(a) == _storages(b) and bool(inside) and not np.intersect1d(first, second).size


def _coincide(a: Any, b: Any) -> bool:
    """True for two tensors of one shape whose elements lie at the same places of one memory."""
    return a is b or (
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and a.shape == b.shape
        and a.storage_offset() == b.storage_offset()
        and _storages(a) == _storages(b)
        and all(x == y for x, y, size in zip(a.stride(), b.stride(), a.shape, strict=True) if size > 1)
    )
