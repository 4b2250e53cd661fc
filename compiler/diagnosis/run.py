"""``diagnose``: runs a spiking network beside its ANN and takes their difference apart."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.calibration.data import Batches
from spikec.diagnosis.advice import advise
from spikec.diagnosis.cost import Cost, Count, macs
from spikec.diagnosis.diagnosis import Diagnosis
from spikec.diagnosis.layers import Fed, LayerSums, Run, clip, ideal
from spikec.diagnosis.record import OWN, Rung
from spikec.driver import Compilation
from spikec.interpreter.inputs import class_numbers, is_number, whole_number, within
from spikec.interpreter.interp import outputs_over_time, run
from spikec.interpreter.results import outputs
from spikec.ir.errors import CalibrationError, CompileError, InvalidModelError
from spikec.ir.graph import Graph
from spikec.ir.op import Op, Role, StatefulOp, tensor, tensor_cache
from spikec.ir.ops import Neuron, Output, Relu
from spikec.ir.rewrite import makers
from spikec.ir.types import Array

#: samples of a single tensor are run in batches of this size
BATCH = 64


def diagnose(
    compilation: Compilation, x: Any, timesteps: int, labels: Any = None, *, tolerance: float = 0.01
) -> Diagnosis:
    """Say why a spiking network differs from its ANN, layer by layer, and what to change.

    The final graph is run by the interpreter in float64, with memory for one step and one batch. See
    :class:`spikec.diagnosis.record.Layer` for how an error is taken apart.

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
    measured = _Measured(compilation, timesteps)
    for xs, truth in _batches(x, compilation.stages[0].graph.inputs, labels):
        with torch.inference_mode(False):
            measured.add([each.to("cpu", torch.float64, copy=True) for each in xs], truth)
    return measured.result(tolerance)


def _batches(x: Any, names: Sequence[str], labels: Any) -> Iterator[tuple[tuple[Tensor, ...], Tensor | None]]:
    """Input tensors and class numbers, batch by batch."""
    if isinstance(x, np.ndarray):
        x = torch.tensor(x)
    if isinstance(x, Tensor) and x.ndim:
        x = list(torch.split(x, BATCH))
    beside: deque[Any] = deque()
    readable = isinstance(x, Iterable) and not isinstance(x, (str, Mapping, tuple))
    batches = Batches(_set_aside(x, len(names), beside) if readable else x, names)
    given = None if labels is None else class_numbers(labels)
    done = 0
    for xs in batches:
        truth = beside.popleft() if beside else None
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


def _set_aside(batches: Iterable[Any], inputs: int, beside: deque[Any]) -> Iterator[Any]:
    """The batches; what stands behind the inputs goes to ``beside``."""
    for batch in batches:
        behind = batch[inputs] if isinstance(batch, (tuple, list)) and len(batch) > inputs else None
        beside.append(behind)
        yield batch


@attrs.frozen(eq=False)
class _Analog(Op):
    """A neuron's or a ReLU's place in a network without time."""

    kind: ClassVar[str] = "analog"
    role: ClassVar[Role] = Role.LINEAR
    arity: ClassVar[int | None] = None

    meaning: Callable[..., Tensor]

    def eval(self, *xs: Tensor) -> Tensor:
        return self.meaning(*xs)


def _without_time(graph: Graph, meaning: Callable[[str, StatefulOp], Callable[..., Tensor]]) -> Graph:
    """The graph with every stateful op replaced by what it means for averages over time."""
    still = graph.copy()
    for node in graph.match(StatefulOp):
        still.set_op(node.name, _Analog(meaning(node.name, node.op), origin=node.op.origin))
    return still


@attrs.define
class _Answers:
    """What one network says against the ANN, summed over the batches.

    Attributes:
        squares: of the differences, by output.
        agreed, right: samples with the ANN's argmax, and with the label.
    """

    squares: list[float] = attrs.field(factory=list)
    agreed: float = 0.0
    right: float = 0.0

    def add(self, said: Sequence[Tensor], wanted: Sequence[Tensor], truth: Tensor | None) -> None:
        self.squares = _added(self.squares, _squares(said, wanted))
        self.agreed += sum(_hits(a, _class(b)) for a, b in zip(said, wanted, strict=True)) / len(wanted)
        if truth is not None:
            self.right += _hits(said[0], truth)


def _class(output: Tensor) -> Tensor:
    return output.flatten(1).argmax(1)


def _hits(output: Tensor, classes: Tensor) -> float:
    return float((_class(output) == classes).sum())


def _squares(one: Sequence[Tensor], other: Sequence[Tensor]) -> list[float]:
    return [float((a - b).square().sum()) for a, b in zip(one, other, strict=True)]


def _added(sums: list[Any], more: Sequence[Any]) -> list[Any]:
    """Element by element; an empty list is zero."""
    return [a + b for a, b in zip(sums, more, strict=True)] if sums else list(more)


class _Measured:
    """Running sums over batches."""

    def __init__(self, compilation: Compilation, timesteps: int) -> None:
        self.compilation, self.timesteps = compilation, timesteps
        self.model, self.graph = compilation.stages[0].graph, compilation.graph
        self.ann = _reference(compilation)
        neurons = self.graph.match(Neuron)
        if not neurons:
            raise InvalidModelError("the compiled network has no neuron", hint="diagnose needs a spiking network")
        self.layers = {node.name: LayerSums.of(self.graph, node.name, timesteps) for node in neurons}
        self.makers = {node.name: makers(self.graph, node.name) for node in self.ann.match(Relu)}
        self.relus = {name: relu for relu, names in self.makers.items() for name in names}
        self.clipped = self._clipped()
        self.synchronous = _without_time(self.graph, self._ideal)
        self.scales = [self.graph.type(name).scale for name in self.graph.outputs]
        self.count = Count(self.graph)
        self.samples = 0
        self.labelled = False
        self.ann_right = 0.0
        self.sums: list[Tensor] = []
        self.squares: list[Tensor] = []
        self.margin = 0.0
        self.answers = {kind: _Answers() for kind in ("clipping", "quantization")}
        self.over_time = [_Answers() for _ in range(timesteps)]
        self.steps: dict[str, list[float]] = {kind: [] for kind in OWN}

    def _ideal(self, _: str, op: StatefulOp) -> Callable[..., Tensor]:
        return lambda *xs: ideal(op, self.timesteps, *xs)

    def _ceiling(self, relu: str) -> Array:
        """The most that a ReLU's neurons can say, in ANN units."""
        return np.asarray(sum(self.layers[name].scale for name in self.makers[relu]))

    def _clipped(self) -> Graph:
        """The ANN with every ReLU clipped at its neurons' scale: the limit for T to infinity."""
        clipped = self.ann.copy()
        for node in self.ann.match(Relu):
            if self.makers[node.name]:
                shape = self.layers[self.makers[node.name][0]].shape
                meaning = functools.partial(clip, ceiling=self._ceiling(node.name), shape=shape)
                clipped.set_op(node.name, _Analog(meaning, origin=node.op.origin))
        return clipped

    def add(self, xs: Sequence[Tensor], truth: Tensor | None) -> None:
        """One batch."""
        if self.samples and self.labelled != (truth is not None):
            raise CalibrationError("some batches have labels, and some have none")
        self.labelled = truth is not None
        with torch.no_grad(), tensor_cache():
            wanted = outputs(self.model, xs, self.timesteps)
            self._note(wanted, truth)
            clipped = outputs(self.clipped, xs, self.timesteps)
            synchronous = self._finished(_tuple(run(self.synchronous, xs)))
            running = self._in_time(xs, self._fed(xs), wanted, truth)
        self.answers["clipping"].add(clipped, wanted, truth)
        self.answers["quantization"].add(synchronous, wanted, truth)
        ladder = (wanted, clipped, synchronous, running)
        for kind, before, after in zip(OWN, ladder, ladder[1:], strict=False):
            self.steps[kind] = _added(self.steps[kind], _squares(after, before))
        self.samples += len(xs[0])

    def _note(self, wanted: Sequence[Tensor], truth: Tensor | None) -> None:
        """What the ANN says."""
        if truth is not None and (len(wanted) != 1 or wanted[0].ndim != 2):
            shapes = " and ".join(str(["B", *out.shape[1:]]).replace("'", "") for out in wanted)
            raise InvalidModelError(f"labels need one output [B, classes], the model gives {shapes}")
        if truth is not None:
            within(truth, wanted[0].shape[1])
            self.ann_right += _hits(wanted[0], truth)
        self.sums = _added(self.sums, [out.sum(0) for out in wanted])
        self.squares = _added(self.squares, [out.square().sum(0) for out in wanted])

    def _fed(self, xs: Sequence[Tensor]) -> dict[str, Fed]:
        """What the ANN has at each layer of neurons, and what the layer makes of the ANN's activations.

        The final graph is run with the ANN's activations in place of its neurons, and differentiated there as if
        they were ReLUs.
        """
        pairs: dict[str, tuple[Tensor, Tensor]] = {}
        fed: dict[str, Fed] = {}
        rates: dict[str, Tensor] = {}

        def tap(name: str, value: Tensor, state: Tensor | None, operands: Sequence[Tensor]) -> None:
            if name in self.makers:
                pairs[name] = operands[0], value

        run(self.ann, xs, tap=tap)
        values = dict(zip(self.graph.inputs, xs, strict=True))
        with torch.enable_grad():
            for name in self.graph:
                op, operands = self.graph[name], [values[x] for x in self.graph.operands(name)]
                if name in self.layers:
                    fed[name] = self._fed_to(name, operands[0].detach(), pairs)
                    slope = operands[0].clamp(min=0) / tensor(self.layers[name].op.v_threshold, operands[0])
                    rates[name] = values[name] = (fed[name].activation + slope - slope.detach()).requires_grad_()
                elif isinstance(op, StatefulOp):
                    values[name] = ideal(op, self.timesteps, *operands)
                elif operands:
                    values[name] = op.eval(*operands)
            margin = self._margin([values[name] for name in self.graph.outputs])
            slopes = torch.autograd.grad(margin.sum(), list(rates.values()), allow_unused=True)
        self.margin += float(margin.detach().square().sum())
        return {
            name: attrs.evolve(fed[name], slope=torch.zeros_like(rates[name]) if slope is None else slope)
            for name, slope in zip(rates, slopes, strict=True)
        }

    def _fed_to(self, name: str, own: Tensor, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> Fed:
        layer, relu = self.layers[name], self.relus.get(name)
        if relu is None:
            return layer.fed(own, None, np.ones(()))
        return layer.fed(own, pairs[relu], layer.scale / self._ceiling(relu))

    def _margin(self, averages: Sequence[Tensor]) -> Tensor:
        """[B]: by how much the first class is ahead of the second, summed over the outputs; a single number itself."""
        total = torch.zeros(())
        for scale, x in zip(self.scales, averages, strict=True):
            flat = (x * tensor(scale, x)).flatten(1)
            best = flat.topk(min(2, flat.shape[1])).values
            total = total + best[:, 0] - best[:, 1:].sum(1)
        return total

    def _in_time(
        self, xs: Sequence[Tensor], fed: dict[str, Fed], wanted: Sequence[Tensor], truth: Tensor | None
    ) -> list[Tensor]:
        """The spiking network, all steps; returns its result."""
        runs = {name: Run(layer.op, fed[name]) for name, layer in self.layers.items()}

        def tap(name: str, value: Tensor, state: Tensor | None, operands: Sequence[Tensor]) -> None:
            if name in runs and state is not None:
                runs[name].step(value, state, operands[0])
            self.count.step(name, operands)

        sums: list[Tensor] = []
        said: list[Tensor] = []
        for t, outs in enumerate(outputs_over_time(self.graph, xs, self.timesteps, tap)):
            sums = _added(sums, outs)
            said = self._finished([total / (t + 1) for total in sums])
            self.over_time[t].add(said, wanted, truth)
        for name, layer in self.layers.items():
            layer.finish(runs[name])
        return said

    def _finished(self, averages: Sequence[Tensor]) -> list[Tensor]:
        """Raw outputs of the final graph in ANN units, behind their heads."""
        results = []
        for name, scale, x in zip(self.graph.outputs, self.scales, averages, strict=True):
            op = self.graph[name]
            assert isinstance(op, Output)
            results.append(op.finish(x * tensor(scale, x)))
        return results

    def result(self, tolerance: float) -> Diagnosis:
        """Of all batches."""
        error = np.array([self._relative(at.squares) for at in self.over_time])
        agreement = np.array([at.agreed / self.samples for at in self.over_time])
        accuracy = np.array([at.right / self.samples for at in self.over_time])
        off = error if all(total.numel() == 1 for total in self.sums) else 1 - agreement
        margin = float(np.sqrt(self.margin / self.samples))
        layers = tuple(layer.record(margin) for layer in self.layers.values())
        rungs = (
            self._rung("the ANN with the SNN's thresholds", "clipping", self.answers["clipping"]),
            self._rung("+ T steps, each layer after the other", "quantization", self.answers["quantization"]),
            self._rung("+ all layers at once: the SNN", "unevenness", self.over_time[-1]),
        )
        enough = _enough(off, tolerance)
        return Diagnosis(
            model=self.model.name,
            samples=self.samples,
            timesteps=self.timesteps,
            layers=layers,
            rungs=rungs,
            agreement=agreement,
            error=error,
            accuracy=accuracy if self.labelled else None,
            ann_accuracy=self.ann_right / self.samples if self.labelled else None,
            cost=self._cost(),
            tolerance=tolerance,
            enough=enough,
            advice=advise(self.compilation, layers, rungs, self.timesteps, enough),
        )

    def _rung(self, name: str, kind: str, answers: _Answers) -> Rung:
        accuracy = answers.right / self.samples if self.labelled else None
        step, error = self._relative(self.steps[kind]), self._relative(answers.squares)
        return Rung(name, kind, step, error, answers.agreed / self.samples, accuracy)

    def _relative(self, squares: Sequence[float]) -> float:
        """Root mean square of a difference, relative to the outputs' spread over the samples."""
        shares = []
        for total, square, found in zip(self.sums, self.squares, squares, strict=True):
            spread = float((square - total.square() / self.samples).clamp(min=0).sum())
            shares.append(found / (spread or float(square.sum()) or 1.0))
        return float(np.sqrt(np.mean(shares)))

    def _cost(self) -> Cost:
        return Cost(
            sum(macs(self.model).values()),
            sum(layer.spikes for layer in self.layers.values()) / self.samples,
            self.count.synops / self.samples,
            self.count.macs * self.timesteps,
        )


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


def _enough(off: Array, tolerance: float) -> int | None:
    """The first step from which on the tolerance is kept."""
    broken = np.flatnonzero(off > tolerance)
    first = int(broken[-1]) + 2 if len(broken) else 1
    return first if first <= len(off) else None


def _tuple(outs: Any) -> tuple[Tensor, ...]:
    return outs if isinstance(outs, tuple) else (outs,)
