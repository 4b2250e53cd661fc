"""Thresholds and biases of layers that reset to zero, chosen with their 8-bit weights in place."""

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import numpy as np
from torch import Tensor

from spikec.extend.passbase import Context, Pass, written
from spikec.extend.sweep import Layer, layers
from spikec.interpreter.results import agreement, agreement_text, outputs
from spikec.ir.graph import Graph
from spikec.ir.loihi import BIAS, STATE, WEIGHT
from spikec.ir.ops import Neuron, Output, Weighted
from spikec.ir.progress import track
from spikec.ir.rewrite import SHAPES, before_shapes, bias_owner, follow, is_behind
from spikec.ir.stages import FINAL
from spikec.ir.types import Array
from spikec.passes.quantize_netx import PULSES, growth

#: the gain with which ratios are compared, near those that are best
_USUAL = 0.85
#: membranes may grow to this many times what the calibration samples show
_MARGIN = 1.25


def _positive(pass_: Any, field: Any, values: tuple[float, ...]) -> None:
    if not values or not all(0 < value <= 1 for value in values):
        raise ValueError(f"{field.name!r} must be numbers above 0, at most 1: {values!r}")


@attrs.frozen
class TuneNetx(Pass):
    """Choose what makes each layer's spikes nearest to the ANN's activations, layer after layer.

    A neuron that is reset to zero loses what lies above its threshold, the more of it the more it is fed at once, so
    its rate is a concave function of its current. With weights as they are, a layer has three kinds of integers::

        v_threshold = ratio gain v_threshold     a spike stands for ratio times what it stood for
        b_c += (mean a_c - mean r_c) / out_scale

    a is the ANN's activation and r what the spikes of T steps stand for; of all candidates the least sum of (a - r)^2
    counts. A ratio is what :class:`ResetNetx` chose for the whole net, tried for each layer: less of it gives more
    spikes and more loss. The gain makes up for the loss, and the bias for what is left of it on average. The next layer
    reads spikes that stand for something else, so its bias and threshold are divided by the ratio.

    Half of the samples is tuned on; the result is kept only if agreement with the ANN does not fall on the other half,
    nor on all. If it does, the first two ratios are tried again, one for all layers. A layer costs two runs of it for
    each candidate, on that half. Layers that relay signals are left alone, and those with soft
    reset, which lose nothing.

    Attributes:
        ratios, gains: the candidates; all ratios with one gain, then all gains with the best ratio.
    """

    name = "tune-netx"
    contract = "tuned"
    needs = (FINAL,)

    ratios: tuple[float, ...] = attrs.field(default=(0.5, 0.7, 1.0, 0.35), validator=_positive)
    gains: tuple[float, ...] = attrs.field(default=(1.0, 0.9, 0.8, 0.7), validator=_positive)

    def run(self, graph: Graph, context: Context) -> int:
        """Tune every layer with hard reset, and the output's bias."""
        samples = context.tuning_samples(graph)
        hard = any(node.op.v_reset is not None for node in graph.match(Neuron))
        if not hard or context.ann is None or not samples or len(samples[0]) < 2:
            return 0
        half = len(samples[0]) // 2
        held_out = [x[half:] for x in samples]
        was = agreement(graph, context.reference, held_out, context.steps)
        ways = self.ratios, *((ratio,) for ratio in self.ratios[:2])
        for ratios in track(ways, "ways", current=lambda ratios: f"ratios {written(ratios)}"):
            tuned = graph.copy()
            changes = self._tune(tuned, context, [x[:half] for x in samples], ratios)
            if not changes:
                return 0
            if not _has_room(tuned, context):
                context.note("", f"ratios {written(ratios)}: membranes would grow too far")
                continue
            now = agreement(tuned, context.reference, held_out, context.steps)
            is_kept = now >= was and context.agreement(tuned) >= context.agreement(graph)
            verdict = "" if is_kept else "; left out"
            found = f"{agreement_text(was)} -> {agreement_text(now)} on samples not tuned on{verdict}"
            context.note("", f"ratios {written(ratios)}: {found}")
            if is_kept:
                graph.replace_with(tuned)
                return changes
        return 0

    def _tune(self, graph: Graph, context: Context, samples: Sequence[Tensor], ratios: Sequence[float]) -> int:
        changes = 0
        for layer in layers(graph, context, samples):
            found = _Tuned.of(graph, layer)
            if found is not None:
                found.choose(ratios, self.gains)
                changes += 1
        return changes + _correct_outputs(graph, context, samples)


@attrs.define(eq=False)
class _Tuned:
    """A layer of neurons while it is tuned.

    Attributes:
        graph: that it is in.
        layer: with the activations that it stands for.
        name: of its neurons.
        before: the weights in front of it; their biases are its own.
        behind: the weights behind it.
        reader: the neuron or output behind those.
        wanted: the activations [N, ...].
        scales: of the layer's spikes and of the reader's, before anything is tuned.
    """

    graph: Graph
    layer: Layer
    name: str
    before: str
    behind: str
    reader: str
    wanted: Array
    scales: tuple[Array, Array]

    @classmethod
    def of(cls, graph: Graph, layer: Layer) -> "_Tuned | None":
        """Take a layer; None for one of another kind: soft, of several neurons, or with neurons that relay."""
        name = layer.neurons[0]
        neuron = graph.get(name, Neuron)
        owner = _owner(graph, name)
        behind = follow(graph, name, Weighted, SHAPES)
        reader = behind and follow(graph, behind, (Neuron, Output), SHAPES)
        if neuron.v_reset is None or len(layer.neurons) > 1 or not (owner and behind and reader):
            return None
        scales = graph.type(name).scale, graph.type(reader).scale
        return cls(graph, layer, name, owner, behind, reader, layer.activations(), scales)

    def choose(self, ratios: Iterable[float], gains: Iterable[float]) -> None:
        """Try the candidates on the layer, and write the best one, with what follows of it for the next layer."""
        neuron, weights = self.graph.get(self.name, Neuron), self.graph.get(self.before, Weighted)
        tried: dict[tuple[float, float], tuple[float, Neuron, Weighted]] = {}

        def error(ratio: float, gain: float) -> float:
            if (ratio, gain) not in tried:
                self.graph.set_op(self.before, weights)
                self.graph.set_op(self.name, _scaled(neuron, ratio * gain, self.scales[0] * ratio))
                self._correct()
                missing = float(np.square(self.wanted - self.layer.values()).sum())
                now = self.graph.get(self.name, Neuron), self.graph.get(self.before, Weighted)
                tried[ratio, gain] = missing, *now
            return tried[ratio, gain][0]

        usable = [ratio for ratio in ratios if self._passes_on(ratio)] or [1.0]
        ratio = min(usable, key=lambda each: error(each, _USUAL))
        gain = min(gains, key=lambda each: error(ratio, each))
        _, chosen, corrected = tried[ratio, gain]
        self.graph.set_op(self.name, chosen)
        self.graph.set_op(self.before, corrected)
        if ratio != 1:
            self._pass_on(ratio)

    def _correct(self) -> None:
        """Let the bias make up for what the layer lacks on average."""
        op, signal = self.graph.get(self.before, Weighted), self.graph.type(self.before)
        missing = (self.layer.missing() / self.layer.sweep.timesteps).reshape(signal.shape)
        self.graph.set_op(self.before, _corrected(op, missing))

    def _passes_on(self, ratio: float) -> bool:
        """Whether the next layer's integers, divided by a ratio, stay within what netx takes."""
        op, reader = self.graph.get(self.behind, Weighted), self.graph[self.reader]
        if np.abs(op.shift).max() / ratio > BIAS:
            return False
        if not isinstance(reader, Neuron):
            return True
        most = PULSES * WEIGHT if reader.v_init.any() else STATE / 2
        return reader.v_reset is not None and bool((reader.v_threshold / ratio <= most).all())

    def _pass_on(self, ratio: float) -> None:
        """Let the next layer read spikes that stand for ``ratio`` times what they stood for."""
        op, reader = self.graph.get(self.behind, Weighted), self.graph[self.reader]
        scales: dict[str, Any] = {"in_scale": op.in_scale * ratio, "out_scale": op.out_scale * ratio}
        bias = None if op.bias is None else _bias(op.shift / ratio)
        self.graph.set_op(self.behind, attrs.evolve(op, bias=bias, **scales))
        if isinstance(reader, Neuron):
            self.graph.set_op(self.reader, _scaled(reader, 1 / ratio, self.scales[1]))


def _has_room(graph: Graph, context: Context) -> bool:
    """Whether no sum of a step and no membrane after T steps gets near 2^17, as in the pass that quantizes.

    Outputs get larger as less is lost in front of them: where one is too large its integers are made smaller.
    """
    encoder, *neurons = graph.match(Neuron)
    for node in graph.match(Weighted):
        if is_behind(graph, node.name, Neuron):
            rows = np.abs(node.op.weight).reshape(node.op.out_features, -1).sum(1)
            if (rows + np.abs(node.op.shift)).max() > STATE:
                return False
    found = growth(graph, [*(node.name for node in neurons), *graph.outputs], encoder, context, spikes=False)
    units = {node.name: float(np.max(node.op.v_threshold)) for node in neurons}
    parts = {name: np.max(most) * units.get(name, 1) * context.steps * _MARGIN / STATE for name, most in found.items()}
    return all(part <= 1 or (name in graph.outputs and _shrunk(graph, name, part)) for name, part in parts.items())


def _shrunk(graph: Graph, name: str, factor: float) -> bool:
    """Divide the integers in front of an output, which stand for as much more; False where none would be left."""
    owner = before_shapes(graph, name)
    op = graph[owner]
    if not isinstance(op, Weighted) or not (weight := _even(op.weight / factor)).any():
        return False
    bias = None if op.bias is None else _bias(op.shift / factor)
    graph.set_op(owner, attrs.evolve(op, weight=weight, bias=bias, out_scale=op.out_scale * factor))
    return True


def _correct_outputs(graph: Graph, context: Context, samples: Sequence[Tensor]) -> int:
    """Let the biases in front of the outputs make up for what those lack on average; return how many there are."""
    wanted, found = (outputs(each, samples, context.steps) for each in (context.reference, graph))
    changes = 0
    for name, y, made in zip(graph.outputs, wanted, found, strict=True):
        owner = _owner(graph, name)
        if owner is None or graph.get(name, Output).heads:
            continue
        op = graph.get(owner, Weighted)
        missing = (y - made).double().mean(0).numpy().reshape(graph.type(owner).shape)
        graph.set_op(owner, _corrected(op, missing))
        changes += 1
    return changes


def _corrected(op: Weighted, missing: Array) -> Weighted:
    """Return the op whose result has what it lacks, in ANN units, on average over a channel."""
    axis = op.axis % missing.ndim
    channels = np.moveaxis(missing, axis, 0).reshape(missing.shape[axis], -1).mean(1)
    return attrs.evolve(op, bias=_bias(op.shift + channels / op.out_scale))


def _owner(graph: Graph, name: str) -> str | None:
    """Return the weights in front of neurons, behind reshapes, if their biases reach nothing else."""
    (operand,) = graph.operands(name)
    while isinstance(graph[operand], SHAPES) and len(graph.users(operand)) == 1:
        name, (operand,) = operand, graph.operands(operand)
    owner = bias_owner(graph, name)
    return None if owner is None else owner.name


def _scaled(neuron: Neuron, factor: float, out_scale: Array) -> Neuron:
    """Return a neuron with potentials times a factor, even integers, whose spikes stand for ``out_scale``."""
    threshold = np.maximum(_even(neuron.v_threshold * factor), 2)
    v_init = np.minimum(_even(neuron.v_init * factor), threshold - 2)
    return attrs.evolve(neuron, v_threshold=threshold, v_init=v_init.reshape(neuron.v_init.shape), out_scale=out_scale)


def _bias(values: Array) -> Array:
    return np.clip(_even(values), -BIAS, BIAS)


def _even(values: Array) -> Array:
    return np.asarray(2 * np.round(values / 2))
