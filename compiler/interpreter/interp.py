"""The reference interpreter: what a graph means, one op after the other."""

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikec.interpreter.inputs import as_input, whole_number
from spikec.ir.errors import InvalidModelError, shown
from spikec.ir.graph import Graph
from spikec.ir.op import StatefulOp, tensor_cache

#: called with (node, result, state before the step, operands); the last two are None and () for a plain op
Tap = Callable[[str, Tensor, "Tensor | None", Sequence[Tensor]], None]


def run(
    graph: Graph,
    x: Tensor | Sequence[Tensor],
    timesteps: int | None = None,
    *,
    tap: Tap | None = None,
    nodes: Collection[str] | None = None,
) -> Any:
    """Run a graph.

    Args:
        graph: an ANN or an SNN.
        x: one tensor an input. ANN: [B, ...]. SNN: [B, ...], fed at each of ``timesteps`` steps, or with
            ``timesteps=None`` time-major [T, B, ...]; one without a state also takes a single step [B, ...]. Its dtype
            is the dtype of the arithmetic.
        timesteps: number of steps T of an SNN.
        tap: called after every node of every step.
        nodes: those that ``tap`` wants, if not all; others may then be overwritten by what is made of them.

    Returns:
        ANN: [B, ...]. SNN: [T, B, ...] in the graph's own units (times the output's scale it is in ANN
        units). One tensor, or a tuple with one an output.

    Raises:
        InvalidModelError: timesteps for an ANN, no step at all, or inputs that do not fit.
    """
    if not isinstance(graph, Graph):
        raise InvalidModelError(f"a {type(graph).__name__} is not a Graph", hint="spikec.load makes one of a model")
    xs = [as_input(each) for each in (x if isinstance(x, (list, tuple)) else (x,))]
    if len(xs) != len(graph.inputs):
        message = f"graph {graph.name} has {len(graph.inputs)} input(s), got {len(xs)}"
        raise InvalidModelError(message, hint=f"give a tensor for each of {', '.join(graph.inputs)}")
    if len({(len(each), each.dtype) for each in xs}) > 1:
        found = ", ".join(f"{list(each.shape)} {each.dtype}" for each in xs)
        raise InvalidModelError(f"the inputs differ in batch size or dtype: {found}", hint="give all the same")
    timesteps = None if timesteps is None else whole_number("timesteps", timesteps, 1)
    if tap is not None and not callable(tap):
        raise InvalidModelError(f"tap is {shown(tap)}", hint="give a function of (node, value, state, operands)")
    if nodes is not None and (isinstance(nodes, (str, bytes, Tensor, np.ndarray)) or not isinstance(nodes, Collection)):
        raise InvalidModelError(f"nodes is {shown(nodes)}", hint="give the names of nodes, such as a list or a set")
    with torch.no_grad():
        if graph.is_spiking and not (timesteps is None and _is_one_step(graph, xs)):
            wanted = tap if tap is None or nodes is None else _only(nodes, tap)
            with tensor_cache():
                steps = [tuple(step) for step in zip(*outputs_over_time(graph, xs, timesteps, wanted), strict=True)]
            results = tuple(torch.stack(step) for step in steps)
        elif timesteps is not None:
            raise InvalidModelError(
                "timesteps are given, and the graph is an ANN", hint="an ANN runs in one pass; convert it first"
            )
        else:
            feeds = dict(zip(graph.inputs, xs, strict=True))
            results = _once(graph, feeds, tap, () if tap is None else graph if nodes is None else nodes)
    return results[0] if len(results) == 1 else results


def _is_one_step(graph: Graph, xs: Sequence[Tensor]) -> bool:
    """Whether these are the inputs of one step of a graph that has no state, and so does the same at every step."""
    batches = (x.ndim == len(graph.type(name).shape) + 1 for name, x in zip(graph.inputs, xs, strict=True))
    return all(batches) and not any(isinstance(op, StatefulOp) for _, op in graph.items())


def _only(nodes: Collection[str], tap: Tap) -> Tap:
    def called(name: str, *rest: Any) -> None:
        if name in nodes:
            tap(name, *rest)

    return called


def _once(graph: Graph, feeds: dict[str, Tensor], tap: Tap | None, nodes: Container[str]) -> tuple[Tensor, ...]:
    """Run an ANN; a value is let go of after its last use, or overwritten where nobody else has it."""
    values: dict[str, Tensor] = {}
    operands = {name: graph.operands(name) for name in graph}
    uses = Counter(itertools.chain.from_iterable(operands.values()))
    shown: Counter[int] = Counter()  # how many values, or taps that may keep one, show each piece of memory now
    for name, op in graph.items():
        read = operands[name]
        xs = (feeds[name],) if name in feeds else tuple(values[x] for x in read)
        spent = len(read) == 1 and graph[read[0]].fresh and uses[read[0]] == 1 and shown[_memory(xs[0])] == 1
        values[name] = graph.apply_rule(name, op.eval_over if spent else op.eval, *xs)
        shown[_memory(values[name])] += 1
        if tap is not None and name in nodes:
            tap(name, values[name], None, xs)
            shown[_memory(values[name])] += 1
        for each in read:
            uses[each] -= 1
            if not uses[each]:
                shown[_memory(values.pop(each))] -= 1
        del xs
    return tuple(values[name] for name in graph.outputs)


def _memory(value: Tensor) -> int:
    """Tell which piece of memory a tensor shows, all of it or a part."""
    return value.untyped_storage().data_ptr()


def outputs_over_time(
    graph: Graph,
    xs: Sequence[Tensor],
    timesteps: int | None,
    tap: Tap | None = None,
    states: dict[str, Tensor] | None = None,
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the outputs of an SNN, step by step, with memory for one step only; it goes on from states if given."""
    values: dict[str, Tensor] = {}
    states = {} if states is None else states
    order, inputs, outputs = list(graph), graph.inputs, graph.outputs
    moving = order if timesteps is None else in_time(graph, order)
    spent = _last_uses(graph, moving)
    for now in zip(*xs, strict=True) if timesteps is None else itertools.repeat(xs, timesteps):
        one_step(graph, order, values, dict(zip(inputs, now, strict=True)), states, tap, spent)
        yield tuple(values[name] for name in outputs)
        order = moving


def in_time(graph: Graph, order: Sequence[str], given: Iterable[str] = ()) -> list[str]:
    """List the nodes that change from step to step when inputs do not; those given do, and lie before the order."""
    moving = set(given)
    for name in order:
        if isinstance(graph[name], StatefulOp) or moving.intersection(graph.operands(name)):
            moving.add(name)
    return [name for name in order if name in moving]


def _last_uses(graph: Graph, order: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of these nodes that nobody reads after each node of a step; registers read at its end."""
    last = {x: name for name in order if not graph[name].register for x in graph.operands(name)}
    kept = {*graph.outputs, *(x for name in order if graph[name].register for x in graph.operands(name))}
    found: dict[str, list[str]] = {}
    for x in order:
        if x in last and x not in kept:
            found.setdefault(last[x], []).append(x)
    return found


def is_own(graph: Graph, name: str) -> bool:
    """Whether only the user of a node's result may look at its memory: others may have made a view of it."""
    return graph[name].fresh and len(graph.users(name)) == 1


def one_step(
    graph: Graph,
    order: Sequence[str],
    values: dict[str, Tensor],
    feeds: dict[str, Tensor],
    states: dict[str, Tensor],
    tap: Tap | None = None,
    spent: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Evaluate these nodes for one step, from values and states that are changed in place.

    Args:
        spent: the values that are let go of after each node; with no tap, they may be overwritten by it.
    """
    registers: list[tuple[str, StatefulOp]] = []
    like = next(iter(feeds.values()))
    for name in order:
        op, read = graph[name], graph.operands(name)
        before: Tensor | None = None
        operands: tuple[Tensor, ...] = ()
        if isinstance(op, StatefulOp) and op.register:
            before = states[name] if name in states else op.initial(like)
            states[name] = values[name] = before
            registers.append((name, op))
        elif isinstance(op, StatefulOp):
            operands = tuple(values[x] for x in read)
            before = states[name] if name in states else op.initial(*operands)
            over = tap is None and all(x in spent.get(name, ()) and is_own(graph, x) for x in read)
            states[name], values[name] = (op.step_over if over else op.step)(before, *operands)
        else:
            operands = (feeds[name],) if name in feeds else tuple(values[x] for x in read)
            over = tap is None and len(read) == 1 and read[0] in spent.get(name, ()) and is_own(graph, read[0])
            values[name] = graph.apply_rule(name, op.eval_over if over else op.eval, *operands)
        if tap is not None:
            tap(name, values[name], before, operands)
        for x in spent.get(name, ()):
            del values[x]
    for name, op in registers:
        states[name], _ = op.step(states[name], *(values[x] for x in graph.operands(name)))
