"""Whether two graphs do the same: the checks behind the passes' contracts.

Everything runs in float64 on a probe batch. A comparison that could not notice a wrong graph, because the
output hardly varies over the probe, is an error and not a pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.interpreter.interp import outputs_over_time, run
from spikec.ir.errors import VerificationError
from spikec.ir.graph import Graph
from spikec.ir.op import Op, Role, tensor, tensor_cache
from spikec.ir.ops import Neuron, Output
from spikec.ir.types import SCALE_RTOL

#: the model itself: inputs [B, ...] in, its outputs in order out; for a spiking one all are [T, B, ...]
Reference = Callable[[Sequence[Tensor]], list[Tensor]]

#: allowed difference of an exact pass, relative to the output's spread over the probe
EXACT = 1e-9
#: allowed difference of an imported graph from the model, likewise
IMPORT = 1e-4
#: least spread over the probe, relative to the output's maximum, at which float64 still resolves EXACT
SPREAD = 1e-6
#: an output that varies less than this share of its maximum is compared with that, as float32 rounds
IMPORT_SPREAD = 0.1
#: by how much the probe may be multiplied until a spiking graph answers differently to different samples
AMPLIFY = (1.0, 10.0, 100.0, 1e3, 1e4)
#: how close to its threshold a neuron must be for two different spikes to count as a tie
TIE = 1e-9
#: allowed difference of two potentials, relative to how far they are from the threshold: two scales that count as one
#: let it grow with every step
POTENTIAL = 16 * SCALE_RTOL
#: samples that run at a time where agreement is measured
BATCH = 64
#: input values that an ANN graph is fed at a time, which bounds the memory of its activations
CELLS = 2**16
#: steps for which spiking graphs are compared, and for the largest of them
STEPS, FEWEST_STEPS = 16, 4
#: steps of single neurons in a comparison: larger graphs see fewer samples, but two, and fewer steps
WORK = 2**23


def probe(graph: Graph, samples: Sequence[Tensor] | None, seed: int) -> tuple[Tensor, ...]:
    """A small float64 batch for every input.

    Args:
        graph: gives the shapes.
        samples: real inputs [N, ...], of which six are taken, or None.
        seed: of the random samples that are added: uniform over the range of the real ones, or over a range of
            1 where there is none.
    """
    generator = torch.Generator().manual_seed(seed)
    batch = []
    for i, name in enumerate(graph.inputs):
        random = torch.rand((2, *graph.type(name).shape), dtype=torch.float64, generator=generator)
        if samples is not None:
            real = samples[i][:6].to("cpu", torch.float64)
            low, width = real.min(), real.max() - real.min()
            batch.append(torch.cat([real, low + (width if width > 0 else 1.0) * random]))
        else:
            batch.append(torch.cat([random, 1 - random.flip(0) ** 2, random * 0.5]))
    count = min(len(x) for x in batch)
    return tuple(x[:count] for x in batch)


def neurons(graph: Graph) -> int:
    """How many single neurons a graph has, or activations that are to become some."""
    found = (*graph.with_role(Role.NEURON), *graph.with_role(Role.ACTIVATION))
    return sum(math.prod(graph.type(node.name).shape) for node in found)


def within_budget(graph: Graph, xs: Sequence[Tensor]) -> tuple[list[Tensor], int]:
    """As many samples of a probe, real and random, and as many steps as a graph of this size is compared on."""
    size, count = neurons(graph) or 1, len(xs[0])
    samples = min(count, max(2, WORK // (size * STEPS)))
    steps = min(STEPS, max(FEWEST_STEPS, WORK // (size * samples)))
    chosen = torch.linspace(0, count - 1, samples).round().long()
    return [x[chosen] for x in xs], steps


def outputs(graph: Graph, xs: Sequence[Tensor], timesteps: int) -> list[Tensor]:
    """Each output in ANN units, averaged over time in an SNN, behind its heads."""
    if not graph.is_spiking:
        at_once = max(1, CELLS // max(x[0].numel() for x in xs))
        found = [run(graph, batch) for batch in zip(*(torch.split(x, at_once) for x in xs), strict=True)]
        rows = [each if isinstance(each, tuple) else (each,) for each in found]
        return _finished(graph, [torch.cat(parts) for parts in zip(*rows, strict=True)])
    total = _Total(graph)
    with torch.no_grad(), tensor_cache():
        for step in outputs_over_time(graph, xs, timesteps):
            total.add(step)
        return total.mean()


class _Total:
    """What a spiking graph has put out so far."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.sums: list[Tensor] = []
        self.steps = 0

    def add(self, step: Sequence[Tensor]) -> None:
        self.sums = [a + b for a, b in zip(self.sums, step, strict=True)] if self.sums else list(step)
        self.steps += 1

    def mean(self) -> list[Tensor]:
        """See :func:`outputs`."""
        pairs = zip(self.sums, self.graph.outputs, strict=True)
        return _finished(self.graph, [x / self.steps * tensor(self.graph.type(name).scale, x) for x, name in pairs])


def _finished(graph: Graph, values: Sequence[Tensor]) -> list[Tensor]:
    found = []
    for name, value in zip(graph.outputs, values, strict=True):
        op = graph[name]
        assert isinstance(op, Output)
        found.append(op.finish(value))
    return found


def difference(before: Sequence[Tensor], after: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Largest difference of two graphs' outputs, relative to the spread of a third's (the ANN's) over the probe."""
    return _largest(_apart(a, b) / max(_spread(of), 1e-30) for a, b, of in zip(before, after, reference, strict=True))


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


def _largest(values: Iterable[float]) -> float:
    """The largest, or NaN where one is: ``max`` would forget it."""
    return float(np.max([0.0, *values]))


def _spread(output: Tensor) -> float:
    return float((output - output.mean(0, keepdim=True)).abs().max())


def _varies(output: Tensor) -> bool:
    return _spread(output) > SPREAD * float(output.abs().max())


def in_own_dtype(graph: Graph, xs: Sequence[Tensor]) -> list[Tensor]:
    """Samples in the dtype that the graph's inputs are declared with, which is the model's."""
    return [x.to(getattr(torch, graph.type(name).dtype)) for name, x in zip(graph.inputs, xs, strict=True)]


def check_shapes(graph: Graph, xs: Sequence[Tensor]) -> None:
    """Hold every op to its type rule: what it gives for the first sample has the shape that the rule says.

    Raises:
        VerificationError: it has another.
    """

    def tap(name: str, value: Tensor, *_: object) -> None:
        found, wanted = tuple(value.shape[1:]), graph.type(name).shape
        if found != wanted:
            raise VerificationError(
                graph.problem(
                    name,
                    f"{graph[name].kind} gives samples of shape {found}, and its type rule says {wanted}",
                    f"mend {type(graph[name]).__name__}.infer, or its eval",
                )
            )

    run(graph, in_own_dtype(graph, [x[:1] for x in xs]), 1 if graph.is_spiking else None, tap=tap)


def check_import(graph: Graph, reference: Reference, xs: Sequence[Tensor]) -> float:
    """Hold an imported graph to the model it was read from: an ANN in the model's own dtype, an SNN in float64.

    Raises:
        VerificationError: the results of an ANN differ by more than 1e-4 of the output's spread over the probe, or
            of a tenth of its maximum where it varies less than that; or those of an SNN differ at a step before
            which no neuron was within 1e-9 of its threshold.
    """
    if graph.is_spiking:
        return _check_spiking_import(graph, reference, xs)
    wanted = reference(xs)
    dtype = wanted[0].dtype
    if dtype not in (torch.float32, torch.float64):
        return 0.0
    worst = _largest(
        _apart(a, b) / max(_spread(a), IMPORT_SPREAD * float(a.abs().max()), 1e-30)
        for a, b in zip(wanted, outputs(graph, [x.to(dtype) for x in xs], 1), strict=True)
    )
    if not worst <= IMPORT:
        raise VerificationError(
            f"the imported graph differs from the model by {worst:.2g} of its output's spread (allowed: {IMPORT:g})",
            hint="a converter reads a layer wrongly: compare spikec.run(spikec.load(part), x) with part(x)",
        )
    return worst


def _check_spiking_import(graph: Graph, reference: Reference, xs: Sequence[Tensor]) -> float:
    """As above, for time-varying input, made louder until an output answers differently to different samples."""
    kept = [place is not None for place in _places(graph.imported.structure)]
    for factor in AMPLIFY:
        train = [torch.stack([factor * x.roll(t, 0) for t in range(2 * STEPS)]) for x in xs]
        wanted = [leaf.double() for leaf, keep in zip(reference(train), kept, strict=True) if keep]
        results, nearest = _with_distances(graph, train)
        if any(_varies(x) for y in wanted for x in y):
            break
    worst = []
    for name, a, b in zip(graph.outputs, wanted, results, strict=True):
        apart = (a - b * tensor(graph.type(name).scale, b)).flatten(1).abs().amax(1) / a.abs().max().clamp(min=1e-30)
        wrong = (~(apart <= EXACT)).nonzero().flatten().tolist()
        if wrong and min(nearest[: wrong[0] + 1]) >= TIE:
            raise VerificationError(
                graph.problem(name, f"the imported graph differs from the spiking model at step {wrong[0]}"),
                hint="a converter reads a layer wrongly: compare spikec.run(spikec.load(part), x) with part(x)",
            )
        worst.append(float(apart.max()))
    return _largest(worst)


def _with_distances(graph: Graph, train: Sequence[Tensor]) -> tuple[list[Tensor], list[float]]:
    """(the outputs over time, how near to its threshold the nearest neuron was at each step)."""
    nearest: list[float] = []
    first = next(iter(graph))

    def tap(name: str, value: Tensor, state: Tensor | None, operands: Sequence[Tensor], /) -> None:
        if name == first:
            nearest.append(float("inf"))
        op = graph[name]
        if isinstance(op, Neuron) and state is not None:
            ahead = _ahead(op, state, operands[0])
            nearest[-1] = min(nearest[-1], float("inf") if ahead is None else float(ahead.abs().min()))

    found = run(graph, train, tap=tap)
    return list(found) if isinstance(found, tuple) else [found], nearest


def _places(structure: Any) -> list[Any]:
    """The leaves of an output container, in order: positions of outputs, or None."""
    if isinstance(structure, dict):
        return [place for value in structure.values() for place in _places(value)]
    if isinstance(structure, (list, tuple)):
        return [place for value in structure for place in _places(value)]
    return [structure]


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
        The outputs of each, as :func:`outputs` gives them, and the first difference, among the neurons that both have
        under one name and with one shape.
    """
    both = [name for name in before if name in after]
    shared = {name for name in both if isinstance(before[name], Neuron) and isinstance(after[name], Neuron)}
    totals = _Total(before), _Total(after)
    seen: dict[str, tuple[Tensor, Tensor | None]] = {}
    first: Difference | None = None

    def remember(name: str, value: Tensor, state: Tensor | None, operands: Sequence[Tensor], /) -> None:
        if name in shared and state is not None:
            seen[name] = value, _ahead(before[name], state, operands[0])

    def compare(name: str, value: Tensor, state: Tensor | None, operands: Sequence[Tensor], /) -> None:
        nonlocal first
        if name not in shared or first is not None or state is None or value.shape != seen[name][0].shape:
            return
        expected, ahead = seen[name]
        found = _ahead(after[name], state, operands[0])
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
        return totals[0].mean(), totals[1].mean(), first


def _ahead(op: Op, state: Tensor, current: Tensor) -> Tensor | None:
    """By how many thresholds each potential is above its threshold; None for a neuron that does not say."""
    assert isinstance(op, Neuron)
    potential = op.charge(state, current)
    return None if potential is None else potential / tensor(op.v_threshold, current) - 1


def check_exact(before: Graph, after: Graph, xs: Sequence[Tensor]) -> float | None:
    """Hold a rewrite to ``exact``; returns the relative difference of the outputs.

    None where nothing could be seen: a spiking graph that stays silent whatever it is fed.

    ANN graphs are compared by value. SNN graphs are compared spike by spike, potential by potential (to 1.6e-5 of the
    distance from the threshold), and by value after the same number of steps; they may differ only where the first
    different spike is a tie: a neuron within 1e-9 of its threshold.

    Raises:
        VerificationError: they differ.
    """
    xs, steps = within_budget(before, xs)
    if before.is_spiking:
        return _check_spikes(before, after, xs, steps)
    wanted = outputs(before, xs, 1)
    flat = [name for name, a in zip(before.outputs, wanted, strict=True) if not _varies(a)]
    if flat:
        raise VerificationError(
            f"output %{flat[0]} hardly varies over the probe batch, which can check nothing",
            hint="give calibration samples that differ, or verify='off'",
        )
    return _within_exact(wanted, outputs(after, xs, 1))


def _within_exact(wanted: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    found = _largest(_apart(a, b) / _spread(a) for a, b in zip(wanted, got, strict=True))
    if not found <= EXACT:
        raise VerificationError(f"an exact pass changed the output by {found:.2g} of its spread (allowed: {EXACT:g})")
    return found


def _check_spikes(before: Graph, after: Graph, xs: Sequence[Tensor], steps: int) -> float | None:
    for factor in AMPLIFY:
        wanted, got, first = side_by_side(before, after, [factor * x for x in xs], steps)
        if first is not None and not first.tie:
            hint = "give a layer whose neurons are others, or in another order, another name"
            raise VerificationError(before.problem(first.node, str(first), hint))
        if not all(map(_varies, wanted)):
            continue
        if first is None:
            return _within_exact(wanted, got)
        return _largest(_apart(a, b) / _spread(a) for a, b in zip(wanted, got, strict=True))
    return None


def check_rate(graph: Graph, name: str) -> None:
    """Hold one neuron to ``rate``: alone, fed a constant current, its rate is the clipped ReLU to 1/T.

    ``|scale N/T - clip(z, 0, scale)| <= (1 + 1e-6) scale/T`` for z in [-scale, 2 scale], T = 8 and 64.

    Raises:
        VerificationError: it is not.
    """
    op = graph[name]
    if not isinstance(op, Neuron):
        raise VerificationError(
            graph.problem(
                name, "its rate cannot be checked: it has no threshold", "derive it from spikec.ir.ops.Neuron"
            )
        )
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
            if float(error) > 0:
                raise VerificationError(
                    graph.problem(
                        name, f"its rate over T={steps} is not the clipped ReLU to 1/T (by {float(error):.2g})"
                    )
                )


def agreement(graph: Graph, ann: Graph, samples: Sequence[Tensor], timesteps: int) -> tuple[float, float]:
    """How near a graph is to the ANN on samples: (share with the same argmax, minus the mean error).

    Both are over all outputs; tuples compare, so that the error decides where the argmax does not.
    """
    same, error, count = 0.0, 0.0, 0
    for batch in zip(*(torch.split(x.to(torch.float32), BATCH) for x in samples), strict=True):
        for a, b in zip(outputs(ann, batch, timesteps), outputs(graph, batch, timesteps), strict=True):
            same += float((a.flatten(1).argmax(1) == b.flatten(1).argmax(1)).double().sum())
            error += float((a - b).abs().flatten(1).mean(1).sum())
            count += len(a)
    return same / count, -error / count


def shown(found: tuple[float, float]) -> str:
    """An agreement as text."""
    return f"{100 * found[0]:.4g} % as the ANN, error {-found[1]:.3g}"
