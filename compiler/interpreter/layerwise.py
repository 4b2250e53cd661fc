"""A network in which each layer waits for a window of T steps: what it fires follows from the mean of what it got."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, TypeGuard

import attrs
import torch
from torch import Tensor

from spikec.interpreter.interp import run
from spikec.interpreter.results import as_tuple, in_ann_units
from spikec.ir.errors import InvalidModelError
from spikec.ir.graph import Graph
from spikec.ir.op import Op, Role, StatefulOp, tensor
from spikec.ir.ops import IF, Input, Neuron
from spikec.ir.types import Type


def ideal(op: StatefulOp, timesteps: int, *xs: Tensor) -> Tensor:
    """What a stateful op puts out on average over T steps of constant operands.

    For an integrate-and-fire neuron with soft reset ``clip(floor((T z + v_init) / v_threshold), 0, T) / T`` (Bu et
    al. 2022, eq. 8); any other is run.
    """
    if not is_soft(op):
        state = op.initial(*xs)
        total = torch.zeros(())
        for _ in range(timesteps):
            state, out = op.step(state, *xs)
            total = total + out
        return total / timesteps
    charge = (timesteps * xs[0] + tensor(op.v_init, xs[0])) / tensor(op.v_threshold, xs[0])
    spikes = charge.ceil() - 1 if op.strict else charge.floor()
    return spikes.clamp(0, timesteps) / timesteps


def is_soft(op: StatefulOp) -> TypeGuard[IF]:
    """Whether an op is integrate-and-fire with soft reset."""
    return type(op) is IF and op.v_reset is None


@attrs.frozen(eq=False)
class _Analog(Op):
    """A neuron's or a ReLU's place in a network without time."""

    kind: ClassVar[str] = "analog"
    role: ClassVar[Role] = Role.LINEAR
    arity: ClassVar[int | None] = None

    meaning: Callable[..., Tensor]
    shape: tuple[int, ...]

    def shape_of(self, *operands: Type) -> tuple[int, ...]:
        return self.shape

    def eval(self, *xs: Tensor) -> Tensor:
        return self.meaning(*xs)


def without_time(graph: Graph, meanings: Mapping[str, Callable[..., Tensor]]) -> Graph:
    """A graph whose nodes of these names are functions of their operands, and whose inputs are values."""
    found = graph.copy()
    for node in graph.match(Input):
        found.set_op(node.name, attrs.evolve(node.op, rate=False))
    for name, meaning in meanings.items():
        found.set_op(name, _Analog(meaning, graph.type(name).shape, origin=graph[name].origin))
    return found


def waiting(graph: Graph, timesteps: int) -> Graph:
    """The graph without time in which every stateful op gives its average: each layer waits for a window of T steps."""
    return without_time(
        graph, {node.name: functools.partial(ideal, node.op, timesteps) for node in graph.match(StatefulOp)}
    )


def answer(graph: Graph, waits: Graph, xs: Sequence[Tensor]) -> list[Tensor]:
    """What a spiking graph says in ANN units, behind its heads, where each layer waits: ``waits`` is its `waiting`."""
    return in_ann_units(graph, as_tuple(run(waits, xs)))


def windows(graph: Graph) -> int:
    """How many windows a sample takes to go through a graph: the most neurons in a row, and at least one.

    Raises:
        InvalidModelError: the graph is recurrent, so no layer has everything that it is to get.
    """
    if loops := [node.name for node in graph.match(StatefulOp) if node.op.register]:
        message = f"%{loops[0]} gives what it got a step before, so no layer can wait for a window of steps"
        raise InvalidModelError(graph.problem(loops[0], message, 'run all layers at each step: schedule="steps"'))
    depth: dict[str, int] = {}
    for name in graph:
        depth[name] = max((depth[x] for x in graph.operands(name)), default=0) + isinstance(graph[name], Neuron)
    return max(1, *(depth[name] for name in graph.outputs))
