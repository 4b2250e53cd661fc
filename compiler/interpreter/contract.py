"""Checks whether a pass keeps its contract: of shapes, of exact rewrites, and of a neuron's rate.

Everything runs in float64 on a probe batch, which grows where it could not notice a wrong graph because the output
hardly varies over it.
"""

from collections.abc import Hashable, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.interpreter.interp import outputs_over_time
from spikec.interpreter.likeness import PART
from spikec.interpreter.parts import can_be_cut, check_parts
from spikec.interpreter.probe import FEWEST_SAMPLES, FEWEST_STEPS, affordable, within_budget
from spikec.interpreter.results import EXACT, RunningMean, difference, largest, outputs, rounding, varies
from spikec.ir.errors import VerificationError
from spikec.ir.graph import Graph
from spikec.ir.op import Op, Role, StatefulOp, tensor_cache
from spikec.ir.ops import Neuron
from spikec.ir.types import SCALE_RTOL, Type

#: by how much the probe may be multiplied until a spiking graph answers differently to different samples
AMPLIFY = (1.0, 10.0, 100.0, 1e3, 1e4)
#: how close to its threshold a neuron must be for two different spikes to count as a tie
TIE = 1e-9
#: allowed difference of two potentials, relative to how far they are from the threshold: two scales that count as one
#: let it grow with every step
POTENTIAL = 16 * SCALE_RTOL


def check_shapes(graph: Graph, before: Graph | None = None) -> None:
    """Hold every op by itself to its type rule: what it gives for a sample of zeros has the shape that the rule says.

    Of several ops that are alike but for the numbers in their arrays, on operands of the same types, one is run.

    Args:
        graph: whose ops.
        before: a graph that was checked. A node of it is not run again if nothing but the numbers in its arrays is new.

    Raises:
        VerificationError: it has another.
    """
    tried = set[Hashable]()
    with torch.no_grad():
        for name, op in graph.items():
            operands = [graph.type(x) for x in graph.operands(name)]
            if not operands or (before is not None and _is_as_it_was(graph, before, name)):
                continue
            if (form := _form(graph, name)) in tried:
                continue
            tried.add(form)
            if before is not None and name in before and form == _form(before, name):
                continue
            found, wanted = graph.apply_rule(name, _shape_given, op, operands), graph.type(name).shape
            if found != wanted:
                message = f"{op.kind} gives samples of shape {found}, and its type rule says {wanted}"
                hint = f"mend {type(op).__name__}.infer, or its eval"
                raise VerificationError(graph.problem(name, message, hint))


def _is_as_it_was(graph: Graph, before: Graph, name: str) -> bool:
    """Whether a node has the op that it had, on operands whose types were not even inferred again."""
    if name not in before or graph[name] is not before[name]:
        return False
    operands, known = graph.operands(name), before.operands(name)
    return [id(graph.type(x)) for x in operands] == [id(before.type(x)) for x in known]


def _form(graph: Graph, name: str) -> Hashable:
    """Return what a node has in common with those that are one op with it, but for the numbers in its arrays.

    That is all but the result's type, which follows by the type rule; a parameter that cannot be hashed has its own.
    """
    op, types = graph[name], [(t.shape, t.dtype) for t in map(graph.type, graph.operands(name))]
    return type(op), *map(_shape_or_value, op.parameters().values()), *types


def _shape_or_value(parameter: object) -> Hashable:
    if isinstance(parameter, np.ndarray):
        return np.ndarray, parameter.shape
    try:
        hash(parameter)
    except TypeError:
        return id(parameter)
    return parameter


def _shape_given(op: Op, operands: Sequence[Type]) -> tuple[int, ...]:
    xs = [torch.zeros((1, *t.shape), dtype=getattr(torch, t.dtype)) for t in operands]
    result = op.step(op.initial(*xs), *xs)[1] if isinstance(op, StatefulOp) else op.eval(*xs)
    return tuple(result.shape[1:])


@attrs.frozen
class Difference:
    """The first neuron at which two graphs differ.

    Attributes:
        node: the neuron.
        step: from 0.
        spike: whether it fires in one of the graphs only.
        apart: in thresholds, how far the potential of such a neuron is from its threshold (infinite where it does not
            say), or how far the potentials are from each other.
    """

    node: str
    step: int
    spike: bool
    apart: float

    @property
    def tie(self) -> bool:
        """Whether only the last digits of a float64 decided."""
        return self.spike and self.apart < TIE

    def __str__(self) -> str:
        if self.spike:
            away = f", {self.apart:.2g} of the threshold away from a tie" if self.apart < float("inf") else ""
            return f"an exact pass changed a spike at step {self.step}{away}"
        return f"an exact pass changed a membrane potential at step {self.step} by {self.apart:.2g} thresholds"


def side_by_side(
    before: Graph, after: Graph, xs: Sequence[Tensor], steps: int
) -> tuple[list[Tensor], list[Tensor], Difference | None]:
    """Run two spiking graphs step by step, with memory for one step only.

    Potentials are compared too, which differ long before a spike does: in thresholds, so that a pass may scale a
    neuron's units.

    Returns:
        The outputs of each, as :func:`spikec.interpreter.results.outputs` gives them, and the first difference, among
        the neurons that both have under one name and with one shape.
    """
    both = [name for name in before if name in after]
    shared = {name for name in both if isinstance(before[name], Neuron) and isinstance(after[name], Neuron)}
    totals = RunningMean(before), RunningMean(after)
    seen: dict[str, tuple[Tensor, Tensor | None]] = {}
    first: Difference | None = None

    def remember(name: str, value: Tensor, state: Tensor | None, operands: Sequence[Tensor], /) -> None:
        if name in shared and state is not None:
            seen[name] = value, before.get(name, Neuron).above_threshold(state, operands[0])

    def compare(name: str, value: Tensor, state: Tensor | None, operands: Sequence[Tensor], /) -> None:
        nonlocal first
        if name not in shared or first is not None or state is None or value.shape != seen[name][0].shape:
            return
        expected, ahead = seen[name]
        found = after.get(name, Neuron).above_threshold(state, operands[0])
        wrong, step = expected != value, totals[0].steps - 1
        if bool(wrong.any()):
            away = float("inf") if ahead is None else float(ahead[wrong].abs().max())
            first = Difference(name, step, True, away)
        elif ahead is not None and found is not None:
            apart = float(((found - ahead).abs() / (1 + ahead.abs())).max())
            if not apart <= POTENTIAL:
                first = Difference(name, step, False, apart)

    with torch.no_grad(), tensor_cache():
        others = outputs_over_time(after, xs, steps, compare)
        for step in outputs_over_time(before, xs, steps, remember):
            totals[0].add(step)
            totals[1].add(next(others))
        return totals[0].outputs(), totals[1].outputs(), first


def check_exact(before: Graph, after: Graph, xs: Sequence[Tensor], *, whole: bool = False) -> float | None:
    """Hold a rewrite to ``exact``.

    ANN graphs are compared by value. SNN graphs are compared spike by spike, potential by potential (to 1.6e-5 of the
    distance from the threshold), and by value after the same number of steps; they may differ only where the first
    different spike is a tie: a neuron within 1e-9 of its threshold. What no sample of the probe reaches is held to what
    it was by :func:`spikec.interpreter.parts.check_parts`. Where a run of the whole graph costs more than a check may,
    that is all, if it can tell of each part: from the same parts follows the same graph.

    Args:
        before: a graph.
        after: what a pass made of it.
        xs: the probe.
        whole: run the whole graph whatever it costs.

    Returns:
        The difference of the outputs relative to their spread, or None where nothing could be seen: a spiking graph
        that stays silent whatever it is fed. Of a graph that was not run as a whole, what parts may differ by.

    Raises:
        VerificationError: they differ.
    """
    runs = affordable(before)
    chosen, steps = within_budget(runs, xs)
    fewest = FEWEST_SAMPLES * (FEWEST_STEPS if before.is_spiking else 1)
    check: float | None = PART
    if whole or runs >= fewest or not _is_cut_at_each_state(before, after):
        check = (
            _check_spikes(before, after, chosen, steps) if before.is_spiking else _check_values(before, after, chosen)
        )
    check_parts(before, after, xs)
    return check


def _is_cut_at_each_state(before: Graph, after: Graph) -> bool:
    """Whether all that has a state is compared by itself where two graphs are compared part by part."""
    names = {node.name for graph in (before, after) for node in graph.match(StatefulOp)}
    return all(name in before and name in after and can_be_cut(before, after, name) for name in names)


def _check_values(before: Graph, after: Graph, xs: Sequence[Tensor]) -> float:
    """Hold an ANN to ``exact``, on a probe that grows, and turns, until each output has told samples apart.

    One that never does, such as that of a layer whose weights are zeros, is held to its largest number.
    """
    found, telling = list[float](), set[str]()
    for factor in (*AMPLIFY, *(-factor for factor in AMPLIFY)):
        given = [factor * x for x in xs]
        wanted = outputs(before, given, 1)
        if found and not all(bool(y.isfinite().all()) for y in wanted):
            continue
        found.append(_within_exact(before, given, 1, wanted, outputs(after, given, 1)))
        telling.update(name for name, y in zip(before.outputs, wanted, strict=True) if varies(y))
        if telling.issuperset(before.outputs):
            break
    return largest(found)


def _within_exact(
    before: Graph, xs: Sequence[Tensor], steps: int, wanted: Sequence[Tensor], got: Sequence[Tensor]
) -> float:
    found = difference(wanted, got, wanted)
    if not found <= EXACT:
        least = [allowed / EXACT for allowed in rounding(before, xs, steps, wanted)]
        found = difference(wanted, got, wanted, least)
    if not found <= EXACT:
        message = f"an exact pass changed the output by {found:.2g} of its spread (allowed: {EXACT:g})"
        raise VerificationError(message, hint='mend the pass, or declare it: contract = "approximate"')
    return found


def _check_spikes(before: Graph, after: Graph, xs: Sequence[Tensor], steps: int) -> float | None:
    """Hold a spiking graph to ``exact``, on a probe that grows until every output answers each sample differently."""
    for factor in AMPLIFY:
        given = [factor * x for x in xs]
        wanted, got, first = side_by_side(before, after, given, steps)
        if first is not None and not first.tie:
            hint = "give a layer whose neurons are others, or in another order, another name"
            raise VerificationError(before.problem(first.node, str(first), hint))
        if not all(map(varies, wanted)):
            continue
        if first is None:
            return _within_exact(before, given, steps, wanted, got)
        return difference(wanted, got, wanted)  # behind a tie the trains of spikes may go apart
    return None


def check_rates(graph: Graph) -> None:
    """Hold every neuron to ``rate``, see :func:`check_rate`; of those that are the same op by value, the first one."""
    held: set[object] = set()
    for node in graph.with_role(Role.NEURON):
        content = (type(node.op), *map(_hashable, node.op.parameters().items()))
        if None in content or content not in held:
            check_rate(graph, node.name)
            held.add(content)


def _hashable(parameter: tuple[str, object]) -> object:
    """Return what equal parameters have in common with each other only; None where that is not known."""
    name, value = parameter
    if isinstance(value, np.ndarray):
        return name, value.shape, value.dtype.str, value.tobytes()
    return (name, value) if value is None or isinstance(value, (str, int, float)) else None


def check_rate(graph: Graph, name: str) -> None:
    """Hold one neuron to ``rate``: alone, fed a constant current, its rate is the clipped ReLU to 1/T.

    ``|scale N/T - clip(z, 0, scale)| <= (1 + 1e-6) scale/T`` for z in [-scale, 2 scale], T = 8 and 64.

    Raises:
        VerificationError: it is not.
    """
    op = graph[name]
    if not isinstance(op, Neuron):
        message = "its rate cannot be checked: it has no threshold"
        raise VerificationError(graph.problem(name, message, "derive it from spikec.ir.ops.Neuron"))
    given = [value for value in (op.v_threshold, op.v_init, op.v_reset) if value is not None]
    shape = np.broadcast_shapes(*(value.shape for value in given))
    levels = torch.linspace(-1.0, 2.0, 61, dtype=torch.float64).reshape(-1, *[1] * len(shape))
    scale = torch.tensor(np.broadcast_to(op.v_threshold, shape).copy())[None]
    z = levels * scale
    with torch.no_grad(), tensor_cache():
        for steps in (8, 64):
            state = op.initial(z)
            count = torch.zeros_like(z)
            for _ in range(steps):
                state, spikes = op.step(state, z)
                count += spikes
            wanted = torch.minimum(z.clamp(min=0), scale)
            error = ((count * scale / steps - wanted).abs() - (1 + 1e-6) * scale / steps).max()
            if not float(error) <= 0:  # NaN fails too
                message = f"its rate over T={steps} is not the clipped ReLU to 1/T (by {float(error):.2g})"
                raise VerificationError(graph.problem(name, message))
