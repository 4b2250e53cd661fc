"""Several neurons for each, which buy with their number what steps would."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from spikec.calibration.scales import compared
from spikec.extend.passbase import Context, Pass
from spikec.interpreter.inputs import is_number
from spikec.interpreter.results import agreement_text
from spikec.ir.errors import CompileError, InvalidModelError, shown
from spikec.ir.graph import Graph, Node
from spikec.ir.ops import Add, Neuron, Relu, Rescale, Stream
from spikec.ir.rewrite import neurons_by_relu
from spikec.ir.stages import SPIKING

#: calibration samples on which it is tried which layers a fraction is for
_TRIED = 32


def _several(_: Any, __: Any, value: Any) -> None:
    if not is_number(value) or not 1 < value < math.inf:
        raise CompileError(f"copies is {shown(value)}", hint="give a number above 1, such as 2 or 1.5")


@attrs.frozen
class ReplicateNeurons(Pass):
    """k neurons that integrate the same current, the i-th from ``(v_init + i v_threshold) / k`` on.

    Each spike stands for a k-th of what it did. As ``sum_i floor(x + i/k) = floor(k x)`` (Hermite's identity), they say
    after T steps of a constant current just what one neuron says after k T, for which the passes before this one tune;
    those behind it tune all of them, for T. Uneven currents are averaged too, but not away. Neurons that compare
    signals of k parts compare them part by part.

    Of a number with a fraction, such as 1.5, all layers have the whole part, and some have one more, so that there are
    about so many times the neurons: the first layers, the last ones, or the smallest, whichever brings the answers
    nearest to the ANN on the calibration samples; without samples the first, whose errors all others are given.

    Attributes:
        copies: k, or how many times as many neurons there may be, above 1.

    Raises:
        InvalidModelError: the graph streams a bias for each step, which was tuned for k T of them, or has several
            neurons for each already.
    """

    name = "replicate-neurons"
    contract = "approximate"
    needs = (SPIKING,)

    copies: float = attrs.field(default=2, validator=_several)

    @property
    def speedup(self) -> int:
        """The copies that all have: k neurons say after T steps what one says after k T."""
        return int(self.copies)

    @property
    def most_samples(self) -> int:
        """How many samples the layers with one more neuron are chosen on."""
        return _TRIED

    def run(self, graph: Graph, context: Context) -> int:
        """Replace every neuron by the sum of its copies."""
        for stream in graph.match(Stream):
            raise InvalidModelError(
                graph.problem(stream.name, "streams a bias for each step of one neuron", "stream biases behind it")
            )
        if context.ann is None:
            context.note("", "the model was spiking from the start: no neuron stands for a ReLU")
            return 0
        found = {relu: neurons for relu, neurons in neurons_by_relu(graph, context.ann).items() if neurons}
        for relu, neurons in found.items():
            if len(neurons) > 1:
                raise InvalidModelError(
                    graph.problem(relu, f"has {len(neurons)} neurons for each already", "replicate once, with copies=")
                )
        whole = int(self.copies)
        each = dict.fromkeys(found, whole)
        if self.copies > whole:
            each = self._nearest(graph, context, {relu: name for relu, (name,) in found.items()})
        return _replicated(graph, {found[relu][0]: count for relu, count in each.items()})

    def _nearest(self, graph: Graph, context: Context, neurons: Mapping[str, str]) -> dict[str, int]:
        """How many neurons each ReLU gets: of the ways to spend the fraction, the one that is nearest to the ANN."""
        assert context.ann is not None
        sizes = {relu: math.prod(graph.type(name).shape) for relu, name in neurons.items()}
        whole, sets = int(self.copies), _together(context.ann, sizes)
        budget = (self.copies - whole) * sum(sizes.values())
        tried = []
        for what, order in _orders(sets, sizes):
            more = set(_within(budget, order, sizes))
            tried.append((what, {relu: whole + (relu in more) for relu in sizes}))
        # the steps that the user means to run, and not those for which the passes before it tune
        own = attrs.evolve(context, speedup=max(1, context.speedup // self.speedup))
        if not own.tuning_samples(graph):
            return tried[0][1]
        best: tuple[tuple[float, float], dict[str, int]] | None = None
        for what, each in tried:
            trial = graph.copy()
            _replicated(trial, {neurons[relu]: count for relu, count in each.items()})
            found = own.agreement(trial)
            count = sum(number > whole for number in each.values())
            context.note("", f"one more in the {count} {what} layers: {agreement_text(found)}")
            # the error decides, as it says more of few samples than their answers do
            if best is None or found[1] > best[0][1]:
                best = found, each
        assert best is not None
        return best[1]


def _together(ann: Graph, relus: Mapping[str, int]) -> list[list[str]]:
    """The ReLUs in order, each with those that compare its values, which need as many parts."""
    sets: dict[str, list[str]] = {}
    for name in relus:
        op = ann.get(name, Relu)
        sets.setdefault(compared(ann, Node(name, op)) if op.compares else name, []).append(name)
    return list(sets.values())


def _orders(sets: Sequence[list[str]], sizes: Mapping[str, int]) -> Iterator[tuple[str, Sequence[list[str]]]]:
    yield "first", sets
    yield "last", sets[::-1]
    yield "smallest", sorted(sets, key=lambda names: sum(sizes[name] for name in names))


def _within(budget: float, order: Sequence[list[str]], sizes: Mapping[str, int]) -> Iterator[str]:
    """The layers that get one more neuron for each, in order, those left out that would cost too much."""
    for names in order:
        cost = sum(sizes[name] for name in names)
        if cost <= budget:
            budget -= cost
            yield from names


def _replicated(graph: Graph, copies: Mapping[str, int]) -> int:
    """Put so many neurons in place of each by its name; return how many were replaced."""
    changed = {name: count for name, count in copies.items() if count > 1}
    for name, count in changed.items():
        op, (current,) = graph.get(name, Neuron), graph.operands(name)
        share = graph.type(name).scale / count
        starts = ((op.v_init + i * op.v_threshold) / count for i in range(count))
        added = [graph.add(attrs.evolve(op, v_init=v, out_scale=share), current, name=name) for v in starts]
        graph.set_op(name, Add(origin=op.origin))
        graph.set_operands(name, *added)
        graph.insert_after(name, Rescale(np.full([1] * share.ndim, 1 / count)), new=f"{name}_mean")
    return len(changed)
