"""Several neurons that stand for one ReLU, run as one that fires several times a step."""

from __future__ import annotations

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.ir.graph import Graph
from spikec.ir.op import tensor
from spikec.ir.ops import IF, Add, Neuron

#: by which share of a level potentials may be off, as rounding brings them
_SAME = 1e-9
#: neurons whose spikes of a step a byte can count
_MOST = 255


@attrs.frozen(eq=False)
class Several(Neuron):
    """What k IFs with soft reset fire together whose potentials are a k-th of their threshold apart, for one current.

    They stay within a threshold of each other, each the next one's distance above it::

        v(t) = v(t-1) + z(t)                                the lowest of their potentials
        s(t) = floor(v(t) / v_threshold) within 0 and k     v_threshold is a k-th of theirs
        v(t) = v(t) - v_threshold s(t)

    It is for running only, as no target has it; of k potentials that are each rounded only one is.

    Attributes:
        count: k.
    """

    count: int = attrs.field(default=1, kw_only=True)

    def step(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Charge, fire and reset; return (potential after the step, number of spikes)."""
        v = state + xs[0]
        return v, self._fire_over(v, torch.empty_like(v))

    def step_over(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Do as ``step``, with the potential in the current's memory."""
        v = xs[0].add_(state)
        return v, self._fire_over(v, torch.empty_like(v))

    def steps(self, state: Tensor, *xs: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by all steps of [T, B, ...]; return (potential after the last one, spikes [T, B, ...])."""
        (x,) = xs
        v, spikes = state.clone(), torch.empty_like(x)
        for current, fired in zip(x, spikes, strict=True):
            self._fire_over(v.add_(current), fired)
        return v, spikes

    def _fire_over(self, v: Tensor, spikes: Tensor) -> Tensor:
        """Write how often a charged potential fires into ``spikes``, lower it in place, and return the spikes."""
        threshold = tensor(self.v_threshold, v)
        torch.div(v, threshold, out=spikes).floor_().clamp_(0, self.count)
        v.addcmul_(spikes, threshold, value=-1)
        return spikes


def summed(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Find the sums of neurons that share a current and that nothing else reads, each with its neurons."""
    found = {}
    for node in graph.match(Add):
        neurons = graph.operands(node.name)
        share = all(isinstance(graph[x], Neuron) and len(graph.users(x)) == 1 for x in neurons)
        if share and len({graph.operands(x) for x in neurons}) == 1 and len(neurons) <= _MOST:
            found[node.name] = neurons
    return found


def as_one(graph: Graph, total: str) -> Several | None:
    """Return the op that does what the neurons of such a sum do; None where they are others, or not evenly apart."""
    first, *others = ops = [graph[x] for x in graph.operands(total)]
    if not all(type(op) is IF and op.v_reset is None and not op.strict for op in ops):
        return None
    assert isinstance(first, IF)
    level = first.v_threshold / len(ops)
    for i, op in enumerate(others, start=1):
        assert isinstance(op, IF)
        if op.v_threshold is not first.v_threshold and not np.array_equal(op.v_threshold, first.v_threshold):
            return None
        if (np.abs(op.v_init - first.v_init - i * level) > _SAME * level).any():
            return None
    return Several(level, v_init=first.v_init, count=len(ops), out_scale=graph.type(total).scale)


def with_one_for_each(graph: Graph) -> Graph:
    """Return a graph that puts out the same, up to rounding, with one node where several neurons are summed."""
    result = graph
    for total, neurons in summed(graph).items():
        if (op := as_one(graph, total)) is not None:
            result = graph.copy() if result is graph else result
            result.set_op(total, op)
            result.set_operands(total, *graph.operands(neurons[0]))
            for name in neurons:
                result.remove(name)
    return result
