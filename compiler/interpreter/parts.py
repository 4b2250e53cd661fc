"""Compares two graphs part by part: what lies between activations or neurons, on numbers of its own.

Much of a network does not show at its outputs: a weight at a pixel that is dark in all samples, or one in front of a
neuron that is silent on them. So both graphs are cut at the activations, or neurons, that they have under one name.
Each of these gives random numbers, the same ones in both graphs, and what it is given in turn must be the same.
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.interpreter.likeness import PART, STEPS, agree, known, same_meaning, unit
from spikec.interpreter.probe import affordable, is_wide
from spikec.interpreter.results import EXACT, ROUNDING, differences, distance, moved_weights
from spikec.interpreter.smaller import inferred_smaller, smaller_types
from spikec.ir.affine import random_numbers
from spikec.ir.errors import VerificationError
from spikec.ir.graph import Graph
from spikec.ir.op import Op, Role, StatefulOp, tensor
from spikec.ir.ops import (
    Carried,
    CountingMaxPool,
    Input,
    MaxPool,
    Neuron,
    Output,
    Relu,
    RunningDifference,
    Weighted,
)
from spikec.ir.types import Rate, Type

#: how many times larger than others a random sample, or number, is
LOUD = 16.0
#: random samples, in a large graph one, and for parts in a row that can only be compared at their end
SAMPLES, MORE_SAMPLES = 4, 64


def check_parts(before: Graph, after: Graph, xs: Sequence[Tensor], *, same_neurons: bool = True) -> None:
    """Hold each part of a graph to what it did before, on random numbers of both signs.

    An activation of an ANN that is given other numbers may stand for something else now, in another unit or another
    order of axes: then what it gives is no longer replaced, and its users are to be as they were, or theirs, up to the
    outputs. A neuron's name is kept for a neuron that is given the same, in thresholds.

    Args:
        before: a graph.
        after: what a pass made of it, which may be its spiking form.
        xs: the probe, whose sizes the numbers at the inputs have.
        same_neurons: whether a neuron must do what the one of that name did.

    Raises:
        VerificationError: a part differs; it names the first node that is given something else.
    """
    ports = [[(graph.type(x).shape, graph.type(x).dtype) for x in graph.inputs] for graph in (before, after)]
    if ports[0] != ports[1] or len(before.outputs) != len(after.outputs):
        raise VerificationError("the inputs or outputs are others, in number, shape or dtype")
    runs = affordable(before)
    samples = SAMPLES if runs >= SAMPLES * STEPS else 1
    shrunk = samples == 1 and is_wide(before, runs)
    cut = Cut.of(before, after, [float(x.abs().max()) or 1.0 for x in xs], same_neurons)
    first = ""
    with torch.no_grad():
        if not cut.at_untouched().differing(samples, shrunk=shrunk):
            return
        while names := cut.differing(samples, shrunk=shrunk):
            first = first or names[0]
            opened = [name for name in names if name in cut.places]
            if after.is_spiking or not opened:
                if not cut.differing(samples, rounding=True):
                    return
                message = f"%{first} is given other numbers than before, or does something else with them"
                hint = "data may not show it; give a layer whose neurons are others, or in another order, another name"
                raise VerificationError(before.problem(first, message, hint))
            cut = cut.without(opened)
            samples, shrunk = max(2 * SAMPLES, min(MORE_SAMPLES, runs)), False


#: what a node is given, by operand slot, in the graph before and in the one after; None for what follows from a state
Given = tuple[Sequence[Any], Sequence[Any]]


@attrs.frozen
class Cut:
    """Two graphs and where they are cut.

    Attributes:
        before, after: the graphs.
        places: the nodes at which they are cut, each with its place among them, which chooses its numbers.
        sizes: of the numbers that each input gives.
        same_neurons: whether a neuron must do what the one of that name did.
        smaller: types of nodes of each graph on smaller maps, where those are what runs.
    """

    before: Graph
    after: Graph
    places: dict[str, int]
    sizes: Sequence[float]
    same_neurons: bool
    smaller: tuple[Mapping[str, Type], Mapping[str, Type]] | None = None

    @classmethod
    def of(cls, before: Graph, after: Graph, sizes: Sequence[float], same_neurons: bool) -> "Cut":
        """Cut two graphs wherever they can be cut."""
        names = [name for name in before if name in after and can_be_cut(before, after, name)]
        if not after.is_spiking:
            names = _comparable(before, after, _comparable(after, before, names))
        return cls(before, after, {name: i for i, name in enumerate(names, start=len(sizes))}, sizes, same_neurons)

    def without(self, names: Collection[str]) -> "Cut":
        """Cut at fewer nodes; the others do what they do."""
        return attrs.evolve(self, places={name: i for name, i in self.places.items() if name not in names})

    def at_untouched(self) -> "Cut":
        """Cut at affine ops too that are as they were, so that none of them is computed.

        Where one is given something else than before, this says nothing: what follows may make up for it.
        """
        free = (
            name for name in self.before if name not in self.places and _is_untouched(self.before, self.after, name)
        )
        more = {name: i for i, name in enumerate(free, start=len(self.sizes) + len(self.places))}
        return attrs.evolve(self, places=self.places | more)

    def differing(self, samples: int, *, rounding: bool = False, shrunk: bool = False) -> list[str]:
        """Name the nodes of ``before`` that are not given the same in both graphs: outputs, and where they are cut.

        Args:
            samples: how many.
            rounding: find out how far rounding goes, which is all that is left where terms cancel.
            shrunk: compare on smaller maps first, and in full what differs there or takes none.
        """
        numbers: dict[object, int] = {}
        alike = self._alike(self.before, numbers), self._alike(self.after, numbers)
        place = {name: i for i, name in enumerate(self.before)}
        pairs = {name: name for name in self.places} | dict(zip(self.before.outputs, self.after.outputs, strict=True))
        changed = []
        for old, new in sorted(pairs.items(), key=lambda pair: place[pair[0]]):
            operands = self.before.operands(old), self.after.operands(new)
            same = [alike[0][x] for x in operands[0]] == [alike[1][x] for x in operands[1]]
            if not same or not self._has_same_op(old, new):
                changed.append((old, new))
        if shrunk:
            alike_there = self._alike_on_smaller_maps(changed)
            changed = [pair for pair in changed if pair not in alike_there]
        given = self._given(changed, samples)
        moved: Iterator[Given | None] = itertools.repeat(None)
        if rounding:
            before, after = (moved_weights(graph, torch.float64) for graph in (self.before, self.after))
            moved = attrs.evolve(self, before=before, after=after)._given(changed, samples)
        found = zip(changed, given, moved, strict=False)
        return [old for (old, new), here, near in found if not self._agree(old, new, here, near, samples)]

    def _alike_on_smaller_maps(self, pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Find those of the nodes that are given the same, and do the same, where maps are smaller.

        The others need not differ: they are to be compared on maps of their own size.
        """
        types = smaller_types(self.before, self.places), smaller_types(self.after, self.places)
        cut = attrs.evolve(self, smaller=types)
        small = [
            (old, new)
            for old, new in pairs
            if cut._takes_smaller(self.before, old) and cut._takes_smaller(self.after, new)
        ]
        found = set()
        with contextlib.suppress(Exception):  # of an op that takes no smaller maps, whatever its type rule says
            for pair, given in zip(small, cut._given(small, 1), strict=True):
                if cut._agree(*pair, given, None, 1):
                    found.add(pair)
        return found

    def _takes_smaller(self, graph: Graph, name: str) -> bool:
        """Whether a node of either graph takes what it is given where maps are smaller."""
        assert self.smaller is not None
        types = self.smaller[graph is self.after]
        operands = graph.operands(name)
        if not all(x in types for x in operands):
            return False
        return inferred_smaller(graph[name], [types[x] for x in operands]) is not None

    def _shape(self, graph: Graph, name: str) -> tuple[int, ...]:
        """Give the shape of a sample of what a node puts out."""
        return (graph.type(name) if self.smaller is None else self.smaller[graph is self.after][name]).shape

    def _given(self, pairs: Sequence[tuple[str, str]], samples: int) -> Iterator[Given]:
        """Compute what each of these nodes is given, in ``before`` and in ``after``, one pair after the other."""
        before = _Values(self, self.before, [x for old, _ in pairs for x in self.before.operands(old)], samples)
        after = _Values(self, self.after, [x for _, new in pairs for x in self.after.operands(new)], samples)
        for old, new in pairs:
            yield before.take(self.before.operands(old)), after.take(self.after.operands(new))

    def _has_same_op(self, old: str, new: str) -> bool:
        """Whether there is no need to compare what two nodes do with what they are given."""
        one, op = self.before[old], self.after[new]
        if type(one) is type(op) is Relu:
            return one.cap == op.cap  # a scale changes no meaning
        return one is op or (isinstance(op, Neuron) and not self.same_neurons)

    def _alike(self, graph: Graph, numbers: dict[object, int]) -> dict[str, int]:
        """Number the nodes, so that those with one number, here or in the other graph, compute the same by the same."""
        found: dict[str, int] = {}
        for name, op in graph.items():
            content: object
            if isinstance(op, Input):
                content = graph.inputs.index(name)
            elif name in self.places:
                content = name
            else:
                content = (graph, name) if isinstance(op, StatefulOp) else (op, *map(found.get, graph.operands(name)))
            found[name] = numbers.setdefault(content, len(numbers))
        return found

    def value(self, graph: Graph, name: str, xs: Sequence[Tensor | None], samples: int) -> Tensor | None:
        """Compute what a node of either graph gives; None for what follows from a state that is not cut off."""
        op = graph[name]
        if isinstance(op, Input):
            place = graph.inputs.index(name)
            return self.sizes[place] * _both_signs(self._shape(graph, name), samples, place)
        if name in self.places:
            numbers = _both_signs(self._shape(graph, name), samples, self.places[name])
            if isinstance(op, Neuron):
                return numbers
            if isinstance(op, Relu) and op.scale is not None and self.after.is_spiking:
                return numbers * tensor(op.scale, numbers)
            if op.role is Role.ACTIVATION and not self.after.is_spiking:
                passed = op.eval(numbers)
                # of a single sample, all that one sign or the other gets through; of others too, where one has a result
                lost = ~(passed.abs() > 0) if samples == 1 else passed.isnan()
                return torch.where(lost, op.eval(-numbers), passed) if lost.any() else passed
            result = graph.type(name)
            return numbers / tensor(result.scale, numbers) if isinstance(result.encoding, Rate) else numbers
        if isinstance(op, StatefulOp) or any(x is None for x in xs):
            return None
        value: Tensor = graph.apply_rule(name, op.eval, *xs)
        return value

    def _agree(self, old: str, new: str, given: Given, moved: Given | None, samples: int) -> bool:
        """Whether a node is given the same in both graphs, and is itself the same; True where it cannot be told.

        ``moved`` is what it is given where weights are moved a little: so far, and a little farther, may rounding go.
        """
        one, other = self.before[old], self.after[new]
        for i, (x, y) in enumerate(zip(*given, strict=True)):
            if x is None or y is None:
                return True
            pair = known(*self._in_one_unit(old, new, i, x, y))
            rounding = 0.0
            if moved is not None:
                near = known(*self._in_one_unit(old, new, i, moved[0][i], moved[1][i]))
                rounding = ROUNDING * max(map(distance, pair, near))
            if isinstance(one, Output):
                allowed = EXACT if samples == SAMPLES else PART
                sizes = differences(pair[0], torch.zeros_like(pair[0]))
                return bool((differences(*pair) <= allowed * sizes + rounding).all())
            if not agree(*pair, rounding):
                return False
            del pair
        if old not in self.places or self._has_same_op(old, new):
            return True
        (x, *_), (y, *_) = given
        return x is None or y is None or same_meaning(one, other, x, y, self.before.type(old), self.after.type(new))

    def _in_one_unit(self, old: str, new: str, slot: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a node is given at an operand slot of each graph, in thresholds or in ANN units."""
        one, other = self.before[old], self.after[new]
        a = x * unit(one, other, self.before.type(self.before.operands(old)[slot]), x)
        b = y * unit(other, one, self.after.type(self.after.operands(new)[slot]), y)
        return (one.finish(a), other.finish(b)) if isinstance(one, Output) and isinstance(other, Output) else (a, b)


class _Values:
    """Computes what nodes of one graph give, in order, each as late as it is taken, and lets go of it once it was.

    Args:
        cut: says where the graph is cut.
        graph: one of its graphs.
        wanted: the nodes whose values will be taken, as often as they stand here.
        samples: how many.
    """

    def __init__(self, cut: Cut, graph: Graph, wanted: Iterable[str], samples: int) -> None:
        self._cut, self._graph, self._samples = cut, graph, samples
        self._uses = Counter(wanted)
        self._values: dict[str, Tensor | None] = {}
        order: list[tuple[str, Sequence[str]]] = []
        for name in reversed(list(graph)):
            if name in self._uses:
                starts = name in cut.places or isinstance(graph[name], StatefulOp)
                order.append((name, () if starts else graph.operands(name)))
                self._uses.update(order[-1][1])
        self._order = reversed(order)

    def take(self, names: Sequence[str]) -> list[Tensor | None]:
        """Return the values of these nodes."""
        while not all(map(self._values.__contains__, names)):
            name, operands = next(self._order)
            self._values[name] = self._cut.value(self._graph, name, self.take(operands), self._samples)
        found = [self._values[name] for name in names]
        for name in names:
            self._uses[name] -= 1
            if not self._uses[name]:
                del self._values[name]
        return found


def _both_signs(shape: tuple[int, ...], samples: int, place: int) -> Tensor:
    """Draw random samples in pairs: of each cell there is a positive number, and the same one below zero.

    The first pair is loud, so that no bias decides what an activation gives. In those behind the second, cells are of
    very different sizes, so that a few of them decide the sign of a sum, which may else be always the same.
    """
    half = random_numbers((-(-samples // 2), *shape), 101 * place)  # far from the numbers of another place
    half[:1] *= LOUD
    if samples > SAMPLES:
        half[2:] *= LOUD ** random_numbers(tuple(half[2:].shape), 101 * place + 50)
    return torch.cat((half, -half)) if samples > 1 else half


def _is_untouched(before: Graph, after: Graph, name: str) -> bool:
    """Whether a node is the same affine op in both graphs, on operands in the same units."""
    if not isinstance(before[name], Weighted) or name not in after or before[name] is not after[name]:
        return False
    types = [[graph.type(x) for x in (name, *graph.operands(name))] for graph in (before, after)]
    pairs = ((a, b) for a, b in zip(*types, strict=True) if a is not b)
    return all(a.shape == b.shape and np.array_equal(a.scale, b.scale) for a, b in pairs)


def can_be_cut(before: Graph, after: Graph, name: str) -> bool:
    """Whether a node gives, in both graphs, what follows number by number from what it is given."""
    if not _correspond(before[name], after[name]):
        return False
    shapes = ([graph.type(x).shape for x in (name, *graph.operands(name))] for graph in (before, after))
    return next(shapes) == next(shapes)


def _correspond(one: Op, other: Op) -> bool:
    """Whether an op may have become another one that gives, number by number, what it gave."""
    if isinstance(one, StatefulOp):
        return isinstance(other, Neuron) if isinstance(one, Neuron) else type(one) is type(other)
    if isinstance(other, StatefulOp):
        pairs = (Relu, Neuron), (MaxPool, CountingMaxPool), (Carried, RunningDifference)
        becomes = any(isinstance(one, old) and isinstance(other, new) for old, new in pairs)
        return becomes and not (isinstance(one, Relu) and one.scale is None)
    return all(op.role is Role.ACTIVATION and op.elementwise and op.arity == 1 for op in (one, other))


def _comparable(graph: Graph, other: Graph, names: Iterable[str]) -> list[str]:
    """Choose the nodes that lie in front of, or behind, each activation which the other graph has not.

    A pass may have made use of what such an activation has in common with one beside it, which has to be fed the same.
    """
    activations = graph.with_role(Role.ACTIVATION)
    gone = [node.name for node in activations if node.name not in other or type(other[node.name]) is not type(node.op)]
    if not gone:
        return list(names)
    bits = {name: 1 << i for i, name in enumerate(gone)}
    passed = [dict[str, int](), dict[str, int]()]
    for name in graph:
        passed[0][name] = bits.get(name, 0) | _union(passed[0][x] for x in graph.operands(name))
    for name in reversed(list(graph)):
        passed[1][name] = bits.get(name, 0) | _union(passed[1][x] for x, _ in graph.users(name))
    return [name for name in names if passed[0][name] | passed[1][name] == (1 << len(gone)) - 1]


def _union(masks: Iterable[int]) -> int:
    found = 0
    for mask in masks:
        found |= mask
    return found
