"""What a layer is given by those before it, over all steps, computed a few samples and a few steps at a time."""

import itertools
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from spikec.interpreter.interp import in_time
from spikec.ir.graph import Graph
from spikec.ir.op import StatefulOp

#: numbers of what a layer is given that are held for its next run, of 4 bytes; the others are computed again
HELD = 2**26
#: numbers that are computed together, which stay in the cache
_CELLS = 2**19


class Given:
    """What a node gives, by what is known in front of it and the ops in between as they are when this is made.

    Args:
        graph: a spiking graph without recurrence.
        name: of the node.
        parts: for a few samples each, inputs [1, n, ...] and spikes of layers [T, n, ...] by name; of the part that is
            asked for, they are still there.
        timesteps: T.
        known: what of it is known, from the first part on; what is new is added as far as it fits.
    """

    def __init__(
        self, graph: Graph, name: str, parts: Sequence[dict[str, Tensor]], timesteps: int, known: list[Tensor]
    ) -> None:
        self.graph, self.name, self.parts, self.timesteps, self.known = graph, name, parts, timesteps, known
        order = _between(graph, name, parts[0])
        self.ops = [(each, graph[each]) for each in order]
        read = {name, *itertools.chain.from_iterable(map(graph.operands, order))} & parts[0].keys()
        self._spikes = read - set(graph.inputs)
        moving = set(in_time(graph, order, self._spikes))
        self._still = [each for each in order if each not in moving]
        self._moving = [each for each in order if each in moving]
        self._moves = name in moving | self._spikes
        self._at_once = 1  # until it is known how large maps are

    def steps(self, part: int) -> Iterator[Tensor]:
        """Yield it for the samples of a part, [t, n, ...] for a few steps after the other, T in all."""
        if not self._moves or part < len(self.known):
            whole = self.whole(part)
            at_once = max(1, _CELLS // whole[0].numel())
            yield from torch.split(whole.expand(self.timesteps, *whole.shape[1:]), at_once)
            return
        held: list[Tensor] = []
        for some in self._computed(part):
            if part == len(self.known) and (part + 1) * self.timesteps * some[0].numel() <= HELD:
                held.append(some)
            yield some
        if held:
            self.known.append(torch.cat(held))

    def whole(self, part: int) -> Tensor:
        """Return it for the samples of a part, [T, n, ...], or [1, n, ...] where it is the same at each step."""
        if part < len(self.known):
            return self.known[part]
        if not self._moves:
            self.known.extend(self._computed(part))
            return self.known[part]
        found = list(self.steps(part))
        return self.known[part] if part < len(self.known) else torch.cat(found)

    def _computed(self, part: int) -> Iterator[Tensor]:
        known = self.parts[part]
        still = {x: known[x] for x in self.graph.inputs}
        dtype = next(iter(still.values())).dtype
        self._evaluate(self._still, still, set(), {}, 1)
        if not self._moves:
            yield still[self.name]
            return
        states: dict[str, Tensor] = {}
        last = 0
        while last < self.timesteps:
            first, last = last, min(last + self._at_once, self.timesteps)
            now = {x: known[x][first:last].to(dtype) for x in self._spikes}
            values = still | now
            self._evaluate(self._moving, values, set(now), states, last - first)
            self._at_once = max(1, _CELLS // max(values[x][0].numel() for x in (*now, *self._moving)))
            yield values[self.name]

    def _evaluate(
        self, order: Sequence[str], values: dict[str, Tensor], own: set[str], states: dict[str, Tensor], steps: int
    ) -> None:
        """Evaluate nodes for some steps, [t, n, ...], or [1, n, ...] where they do not change; over what is ``own``."""
        for name in order:
            op, operands = self.graph[name], self.graph.operands(name)
            xs = [values[x] for x in operands]
            count = steps if isinstance(op, StatefulOp) else max(map(len, xs))
            xs = [x.expand(count, *x.shape[1:]) for x in xs]
            if isinstance(op, StatefulOp):
                state = states[name] if name in states else op.initial(*(x[0] for x in xs))
                states[name], values[name] = op.steps(state, *xs)
            else:
                over = len(xs) == 1 and operands[0] in own and len(self.graph.users(operands[0])) == 1
                rule = op.eval_over if over else op.eval
                value: Tensor = self.graph.apply_rule(name, rule, *(x.flatten(0, 1) for x in xs))
                values[name] = value.reshape(count, -1, *value.shape[1:])
            if op.fresh:
                own.add(name)


def _between(graph: Graph, name: str, known: Collection[str]) -> list[str]:
    """What must be evaluated for a node, itself included, in order."""
    wanted = {name}.difference(known)
    for each in reversed(list(graph)):
        if each in wanted:
            wanted.update(x for x in graph.operands(each) if x not in known)
    return [each for each in graph if each in wanted]
