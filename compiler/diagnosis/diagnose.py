"""``diagnose``: runs a spiking network beside its ANN and takes their difference apart."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikec.calibration.source import Batches
from spikec.diagnosis.advice import advise
from spikec.diagnosis.cost import Count
from spikec.diagnosis.diagnosis import Diagnosis
from spikec.diagnosis.ladder import Ladder
from spikec.diagnosis.layers import Layers, Train
from spikec.driver import Compilation
from spikec.interpreter.inputs import class_numbers, is_number, whole_number
from spikec.interpreter.interp import outputs_over_time
from spikec.interpreter.results import RunningMean
from spikec.ir.errors import CalibrationError, CompileError, InvalidModelError
from spikec.ir.graph import Graph
from spikec.ir.op import tensor_cache
from spikec.ir.ops import Relu

#: samples of a single tensor are run in batches of this size
BATCH = 64


def diagnose(
    compilation: Compilation, x: Any, timesteps: int, labels: Any = None, *, tolerance: float = 0.01
) -> Diagnosis:
    """Say why a spiking network differs from its ANN, layer by layer, and what to change.

    The final graph is run by the interpreter in float64, with memory for one step and one batch. See
    :class:`spikec.diagnosis.record.LayerFindings` for how an error is taken apart.

    Args:
        compilation: what ``Compiler(...).run(model)`` returned, of an ANN.
        x: a tensor [N, ...], or an iterable of batches as for calibration: ``x``, ``(x, labels)`` or a dict.
        timesteps: number of steps T; x is fed at each of them.
        labels: [N] class numbers in the order of x; not needed where the batches hold them behind the inputs.
        tolerance: share of the samples that may have another argmax than the ANN, in (0, 1); for outputs of a
            single number, the rms error relative to the output's spread.

    Raises:
        InvalidModelError: the compilation is not of an ANN, or its network has no neuron.
        CalibrationError: no sample, samples that do not fit, or labels that do not.
    """
    if not isinstance(compilation, Compilation):
        raise InvalidModelError(
            f"a {type(compilation).__name__} is not a Compilation", hint="give Compiler(target, ...).run(model)"
        )
    if not is_number(tolerance) or not 0 < tolerance < 1:
        raise CompileError(f"tolerance is {tolerance!r}", hint="give a share in (0, 1)")
    timesteps = whole_number("timesteps", timesteps, 1)
    model = compilation.stages[0].graph
    layers = Layers(compilation.graph, _reference(compilation), timesteps)
    if not layers.sums:
        raise InvalidModelError("the compiled network has no neuron", hint="diagnose needs a spiking network")
    ladder, count = Ladder(model, layers), Count(layers.graph)
    for batch, truth in _batches(x, model.inputs, labels):
        with torch.inference_mode(False), torch.no_grad(), tensor_cache():
            xs = [each.to("cpu", torch.float64, copy=True) for each in batch]
            ladder.add(xs, truth, _over_time(xs, layers, count))
    figures = ladder.figures(tolerance)
    found = tuple(layer.findings(layers.margin.rms) for layer in layers.sums.values())
    spikes = sum(layer.spikes for layer in layers.sums.values())
    return Diagnosis(
        model=model.name,
        timesteps=timesteps,
        layers=found,
        cost=count.cost(model, spikes, ladder.samples, timesteps),
        advice=advise(compilation, found, figures["rungs"], timesteps, figures["enough"]),
        **figures,
    )


def _over_time(xs: Sequence[Tensor], layers: Layers, count: Count) -> Iterator[list[Tensor]]:
    """Run the spiking network on one batch; gives what it says up to each step."""
    trains = {name: Train(fed) for name, fed in layers.fed(xs).items()}

    def tap(name: str, value: Tensor, state: Tensor | None, operands: Sequence[Tensor]) -> None:
        if name in trains and state is not None:
            trains[name].step(value, state, operands[0])
        count.step(name, operands)

    mean = RunningMean(layers.graph)
    for step in outputs_over_time(layers.graph, xs, layers.timesteps, tap):
        mean.add(step)
        yield mean.outputs()
    for name, layer in layers.sums.items():
        layer.finish(trains[name])


def _batches(x: Any, names: Sequence[str], labels: Any) -> Iterator[tuple[tuple[Tensor, ...], Tensor | None]]:
    """Input tensors and class numbers, batch by batch; the latter stand behind a batch's inputs, or in ``labels``."""
    if isinstance(x, np.ndarray):
        x = torch.tensor(x)
    if isinstance(x, Tensor) and x.ndim:
        x = list(torch.split(x, BATCH))
    beside: list[Any] = []

    def set_aside(batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            behind = isinstance(batch, (tuple, list)) and len(batch) > len(names)
            beside.append(batch[len(names)] if behind else None)
            yield batch

    in_batches = isinstance(x, Iterable) and not isinstance(x, (str, Mapping, tuple))
    given = None if labels is None else class_numbers(labels)
    done = 0
    for i, xs in enumerate(Batches(set_aside(x) if in_batches else x, names)):
        truth = beside[i] if in_batches else None
        if given is not None:
            truth = given[done : done + len(xs[0])]
        elif truth is not None:
            truth = class_numbers(truth)
        done += len(xs[0])
        if truth is not None and len(truth) != len(xs[0]):
            raise CalibrationError(f"{len(truth)} labels for a batch of {len(xs[0])} samples")
        yield xs, truth
    if given is not None and len(given) != done:
        raise CalibrationError(f"{len(given)} labels for {done} samples", hint="give one class number a sample")


def _reference(compilation: Compilation) -> Graph:
    """The ANN whose ReLUs have the neurons' names: the last graph before scales were chosen."""
    anns = [record.graph for record in compilation.stages if not record.graph.is_spiking]
    if not anns:
        raise InvalidModelError(
            "the compilation is of a network that spikes already: there is no ANN to compare it with",
            hint="diagnose the compilation of the ANN",
        )
    plain = [graph for graph in anns if all(node.op.scale is None for node in graph.match(Relu))]
    return plain[-1] if plain else anns[0]
