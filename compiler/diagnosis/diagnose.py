"""``diagnose``: runs a spiking network beside its ANN, and the networks between them, and takes them apart.

Each network between the ANN and the SNN has one more source of error than the one before.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from spikec.compilation import Compilation
from spikec.diagnosis.advice import advise
from spikec.diagnosis.batches import batches_of
from spikec.diagnosis.cost import Count
from spikec.diagnosis.diagnosis import OWN, Diagnosis, Rung
from spikec.diagnosis.forecast import Forecast, forecast
from spikec.diagnosis.layers import Layers, Train, clip
from spikec.diagnosis.sums import Answers
from spikec.interpreter.inputs import is_number, whole_number, within
from spikec.interpreter.interp import outputs_over_time
from spikec.interpreter.layerwise import answer, waiting, without_time
from spikec.interpreter.processes import of_all_processes
from spikec.interpreter.results import RunningMean, cells, hits, outputs
from spikec.ir.errors import CalibrationError, CompileError, InvalidModelError, shown
from spikec.ir.graph import Graph
from spikec.ir.op import tensor_cache
from spikec.ir.ops import Relu
from spikec.ir.progress import Progress, track
from spikec.ir.progress import shown as shown_progress
from spikec.ir.types import Array

#: what an error says to who has a network without its compilation
_BESIDE = "diagnose(ann, network, x) takes a network or file alone, in the shell diagnose ANN DATA --snn FILE"
#: what the network is once it has the source of error that each rung adds, in the order of ``OWN``
_RUNGS = ("the ANN with the SNN's thresholds", "+ T steps, each layer after the other", "+ all layers at once: the SNN")


@overload
def diagnose(
    compilation: Compilation,
    x: Any,
    data: int | None = None,
    labels: Any = None,
    *,
    timesteps: int | None = None,
    tolerance: float = 0.01,
    all_reduce: bool = False,
    progress: bool | Callable[[Progress], None] | None = None,
) -> Diagnosis: ...
@overload
def diagnose(
    compilation: Any,
    x: Any,
    data: Any,
    labels: Any = None,
    *,
    timesteps: int | None = None,
    reader: str = "",
    all_reduce: bool = False,
    progress: bool | Callable[[Progress], None] | None = None,
) -> Forecast: ...
def diagnose(
    compilation: Any,
    x: Any,
    data: Any = None,
    labels: Any = None,
    *,
    timesteps: int | None = None,
    reader: str = "",
    tolerance: float = 0.01,
    all_reduce: bool = False,
    progress: bool | Callable[[Progress], None] | None = None,
) -> Diagnosis | Forecast:
    """Say why a spiking network differs from its ANN, layer by layer, or how far what was made of an ANN is from it.

    ``diagnose(compilation, x, timesteps, labels)`` runs the final graph by the interpreter in float64, with memory for
    one step and one batch. See :class:`spikec.diagnosis.diagnosis.LayerFindings` for how an error is taken apart.

    ``diagnose(model, network, data, labels, timesteps=T)`` runs what ``compile`` returned, or the path of its .nir,
    .net or .pt, beside the model that it was made of; with ``reader="sinabs"`` a NIR file as that tool does. See
    :func:`spikec.diagnosis.forecast.forecast`.

    Args:
        compilation: what ``Compiler(...).run(model)`` returned, of an ANN; or the ANN itself, with a network in x.
        x: a tensor [N, ...], or an iterable of batches as for calibration: ``x``, ``(x, labels)`` or a dict; with a
            model the network.
        data: number of steps T, at each of which x is fed; with a network in x the samples, as x otherwise.
        labels: [N] class numbers in the order of x; not needed where the batches hold them behind the inputs.
        timesteps: T, by name; of a file that says its own it may be left out.
        reader: of a file, the tool that runs it, as for :func:`spikec.load`; ``""`` for what the file means.
        tolerance: share of the samples that may have another argmax than the ANN, in (0, 1); for outputs of a
            single number, the rms error relative to the output's spread.
        all_reduce: of the samples of all processes of a ``torch.distributed`` group, each of which calls this with
            batches of its own, one or more; all of them return what one process would for all batches.
        progress: as in :func:`spikec.compile`.

    Raises:
        InvalidModelError: the compilation is not of an ANN, or its network has no neuron.
        UnsupportedOpError: the reader refuses nodes of the file, or leaves them out.
        CalibrationError: no sample, samples that do not fit, or labels that do not, or processes are to be summed over
            and this one is in no group, or only some of them have labels.

    Examples:
        >>> compilation = spikec.Compiler("spikingjelly", calibration=images, normalization="max").run(model)
        >>> print(spikec.diagnose(compilation, images, timesteps=4, labels=labels).advice.kind)
        quantization
    """
    if not isinstance(compilation, Compilation) and data is not None and not is_number(data):
        return forecast(
            compilation, x, data, labels, timesteps=timesteps, reader=reader, all_reduce=all_reduce, progress=progress
        )
    steps = data if timesteps is None else timesteps
    if not isinstance(compilation, Compilation):
        raise InvalidModelError(
            f"a {type(compilation).__name__} is not a Compilation, which holds the ANN that is compared with",
            hint=f"give Compiler(target, ...).run(model) of the ANN; {_BESIDE}",
        )
    if not is_number(tolerance) or not 0 < tolerance < 1:
        raise CompileError(f"tolerance is {shown(tolerance)}", hint="give a share in (0, 1)")
    steps = whole_number("timesteps", steps, 1)
    model = compilation.stages[0].graph
    layers = Layers(compilation.graph, _reference(compilation), steps)
    if not layers.sums:
        raise InvalidModelError("the compiled network has no neuron", hint="diagnose needs a spiking network")
    ladder, count = Ladder(model, layers), Count(layers.graph)
    with shown_progress(progress):
        for batch, truth in track(batches_of(x, model.inputs, labels), "batches"):
            with torch.inference_mode(False), torch.no_grad(), tensor_cache():
                xs = [each.to("cpu", torch.float64, copy=True) for each in batch]
                ladder.add(xs, truth, _over_time(xs, layers, count))
    if all_reduce:
        _merge(ladder, layers, count)
    figures = ladder.figures(tolerance)
    found = tuple(layer.findings(layers.margin.deviation().rms) for layer in layers.sums.values())
    spikes = sum(layer.spikes for layer in layers.sums.values())
    return Diagnosis(
        model=model.name,
        timesteps=steps,
        layers=found,
        cost=count.cost(model, spikes, ladder.sums.samples, steps),
        advice=advise(compilation, found, layers.makers, figures["rungs"], steps, figures["enough"]),
        **figures,
    )


def _merge(ladder: "Ladder", layers: Layers, count: Count) -> None:
    """Replace what this process found by what all processes found, in the order of their ranks.

    Raises:
        CalibrationError: this one is in no group, or only some have labels.
    """
    first, *others = of_all_processes((ladder.sums, layers.sums, layers.margin, count.synops))
    ladder.sums, layers.sums, layers.margin, count.synops = first
    if any(sums.labelled != ladder.sums.labelled for sums, *_ in others):
        raise CalibrationError("some processes have labels, and some have none", hint="give (x, labels) in all")
    for sums, by_layer, margin, synops in others:
        ladder.sums.merge(sums)
        for name, layer in layers.sums.items():
            layer.merge(by_layer[name])
        layers.margin.merge(margin)
        count.synops += synops  # whole numbers


def _over_time(xs: Sequence[Tensor], layers: Layers, count: Count) -> Iterator[list[Tensor]]:
    """Run the spiking network on one batch; gives what it says up to each step."""
    trains = {name: Train(fed) for name, fed in layers.fed(xs).items()}

    def tap(name: str, value: Tensor, state: Tensor | None, operands: Sequence[Tensor]) -> None:
        if name in trains and state is not None:
            trains[name].step(value, state, operands[0])
        count.step(name, operands)

    mean = RunningMean(layers.graph)
    steps = outputs_over_time(layers.graph, xs, layers.timesteps, tap)
    for step in track(steps, "steps", layers.timesteps):
        mean.add(step)
        yield mean.outputs()
    for name, layer in layers.sums.items():
        layer.finish(trains[name])


def _reference(compilation: Compilation) -> Graph:
    """The ANN whose ReLUs have the neurons' names: the last graph before scales were chosen."""
    anns = [record.graph for record in compilation.stages if not record.graph.is_spiking]
    if not anns:
        raise InvalidModelError(
            "the compilation is of a network that spikes already: there is no ANN to compare it with",
            hint=f"diagnose the compilation of the ANN that it was made from; {_BESIDE}",
        )
    plain = [graph for graph in anns if all(node.op.scale is None for node in graph.match(Relu))]
    return plain[-1] if plain else anns[0]


class Ladder:
    """What each network answers, summed over batches: the clipped ANN, the synchronous one, the SNN up to each step."""

    def __init__(self, model: Graph, layers: Layers) -> None:
        """Build the networks between the ANN as imported, ``model``, and the final graph, which ``layers`` is of."""
        self.model, self.graph = model, layers.graph
        # every ReLU is clipped at its neurons' scale: the limit for T to infinity
        clips = {
            relu: functools.partial(clip, ceiling=layers.ceiling(relu), shape=layers.sums[names[0]].shape)
            for relu, names in layers.makers.items()
            if names
        }
        self._clipped, self._synchronous = without_time(layers.ann, clips), waiting(layers.graph, layers.timesteps)
        self.sums = Answers.of(2 + layers.timesteps, len(model.outputs))

    def add(self, xs: Sequence[Tensor], truth: Tensor | None, over_time: Iterable[list[Tensor]]) -> None:
        """Take a batch, its labels, and what the SNN says of it up to each step.

        Raises:
            CalibrationError: only some batches have labels, or they are no classes of the model.
            InvalidModelError: there are labels, and not one output with classes.
        """
        sums = self.sums
        if sums.samples and sums.labelled != (truth is not None):
            raise CalibrationError("some batches have labels, and some have none", hint="give (x, labels) in all")
        sums.labelled = truth is not None
        wanted = outputs(self.model, xs, 1)
        if truth is not None:
            if len(wanted) != 1 or wanted[0].ndim != 2:
                shapes = " and ".join(str(["B", *out.shape[1:]]).replace("'", "") for out in wanted)
                message = f"labels need one output [B, classes], the model gives {shapes}"
                raise InvalidModelError(message, hint="leave labels out: agreement with the ANN needs none")
            within(truth, wanted[0].shape[1])
            sums.ann_right += hits(wanted[0], truth)
        for moments, output in zip(sums.ann, wanted, strict=True):
            moments.add(output)
        bound = outputs(self._clipped, xs, 1)
        squares = []
        waited = said = answer(self.graph, self._synchronous, xs)
        for i, said in enumerate(itertools.chain([bound, waited], over_time)):
            squares.append(_squares(said, wanted))
            sums.agreed[i] += sum(hits(a, cells(b).argmax(1)) for a, b in zip(said, wanted, strict=True))
            sums.right[i] += 0 if truth is None else hits(said[0], truth)
        sums.squares.add(np.array(squares))
        sums.steps.add(np.array([_squares(bound, wanted), _squares(waited, bound), _squares(said, waited)]))
        sums.samples += len(xs[0])

    def figures(self, tolerance: float) -> dict[str, Any]:
        """Those fields of :class:`Diagnosis` that are about answers, over all batches."""
        sums = self.sums
        agreement, right = sums.agreed / len(sums.ann) / sums.samples, sums.right / sums.samples
        error, step = self._relative(sums.squares.value), self._relative(sums.steps.value)
        rungs = tuple(
            Rung(name, kind, float(step[i]), float(error[at]), float(agreement[at]), accuracy)
            for i, (at, kind, name) in enumerate(zip((0, 1, -1), OWN, _RUNGS, strict=True))
            for accuracy in [float(right[at]) if sums.labelled else None]
        )
        single = all(moments.total.value.numel() == 1 for moments in sums.ann)
        return {
            "samples": sums.samples,
            "rungs": rungs,
            "agreement": agreement[2:],
            "error": error[2:],
            "accuracy": right[2:] if sums.labelled else None,
            "ann_accuracy": sums.ann_right / sums.samples if sums.labelled else None,
            "tolerance": tolerance,
            "enough": _enough(error[2:] if single else 1 - agreement[2:], tolerance),
        }

    def _relative(self, squares: Array) -> Array:
        """Root mean squares of differences [..., outputs], relative to the outputs' spread over the samples."""
        spreads = [each.spread or float(each.squares.value.sum()) or 1.0 for each in self.sums.ann]
        return np.asarray(np.sqrt((squares / spreads).mean(-1)))


def _enough(off: Array, tolerance: float) -> int | None:
    """The first step from which on the tolerance is kept."""
    broken = np.flatnonzero(off > tolerance)
    first = int(broken[-1]) + 2 if len(broken) else 1
    return first if first <= len(off) else None


def _squares(one: Sequence[Tensor], other: Sequence[Tensor]) -> Array:
    return np.array([float((a - b).square().sum()) for a, b in zip(one, other, strict=True)])
