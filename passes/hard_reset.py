"""Neurons that their reader resets to zero, tuned as it runs them."""

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.calibration.scales import compared
from spikec.extend.passbase import Context, Pass, number, rounds
from spikec.extend.sweep import Sweep, activations, tunable
from spikec.interpreter.results import agreement_text
from spikec.ir.affine import BlockedError
from spikec.ir.errors import CompileError, Hint, Option
from spikec.ir.graph import Graph, Node
from spikec.ir.op import tensor_cache
from spikec.ir.ops import IF, Relu, Rescale, Weighted
from spikec.ir.ops.weighted import pointwise
from spikec.ir.rewrite import bias_owner
from spikec.ir.stages import SPIKING
from spikec.ir.types import Array, channel_scale, on_axis

#: how far the samples are trusted where a neuron hardly fires: there a spike stands for what its threshold says
_PRIOR = 1e-3
#: what a spike may stand for, in thresholds
_LIMITS = (0.3, 3.0)
#: the threshold of a neuron that counts whole spikes, between none and one, so that no rounding decides
_BETWEEN = 0.75
#: the next threshold of several neurons for a value
_SPREAD = 1.5
#: numbers that a layer is fed at a time while it is tuned
_AT_ONCE = 2**18


def _positive(pass_: Any, field: Any, values: tuple[float, ...]) -> None:
    if not values or not all(value > 0 for value in values):
        raise ValueError(f"{field.name!r} must be positive numbers: {values!r}")


@attrs.frozen
class HardReset(Pass):
    """Every IF that resets by subtraction is reset to zero, and loses as little by it as its layer allows.

    A neuron that is reset to zero loses what lies above its threshold: from a constant current z it makes a spike in
    ``ceil(theta / z)`` steps, where one that subtracts makes one in ``theta / z``. So layer after layer, those before
    it as they will run, with a the ANN's activation, n the rate, and r = sum_i g_i n_i what the spikes stand for::

        theta_i = ratio 1.5^i theta       the larger, the less a spike loses, and the fewer spikes there are
        b_c    += theta_c / 2T            a count is rounded, not floored
        g_c     = argmin sum (a_c - g_c n_c)^2      over the samples and a channel's positions
        b_c    += step (mean a_c - mean r_c)        and g_c again, in rounds

    With several neurons for each value, thresholds differ and so do the currents at which a count jumps: the jumps of
    their sum are smaller. Of several ratios the one counts with which the whole net agrees best with the ANN.

    Neurons that compare two signals count whole spikes: they fire at each, and lose nothing. Where there are no
    samples, thresholds and the rounding are all that changes.

    Attributes:
        ratios: the candidates for theta_0 / theta.
        neurons: for each value of a ReLU.
        rounds: how often the bias of a layer is corrected.
        step: share of the difference that is corrected at once.
    """

    name = "hard-reset"
    contract = "approximate"
    needs = (SPIKING,)

    ratios: tuple[float, ...] = attrs.field(default=(3.0, 2.0), validator=_positive)
    neurons: int = attrs.field(default=1, validator=rounds())
    rounds: int = attrs.field(default=3, validator=rounds())
    step: float = attrs.field(default=0.7, validator=number(0))

    def run(self, graph: Graph, context: Context) -> int:
        """Change every IF, and tune those that stand for a ReLU."""
        soft = [node.name for node in graph.match(IF) if node.op.v_reset is None]
        samples = context.tuning_samples(graph) if context.ann is not None else ()
        if not soft:
            return 0
        if context.timesteps is None:
            hint = Hint("say how many steps you will run: ", Option("timesteps", 64))
            raise CompileError("a network is tuned for hard reset, and timesteps is not given", hint=hint)
        if not samples:
            for name in soft:
                _harden(graph, name, self.ratios[-1])
            return len(soft)
        found: list[tuple[tuple[float, float], Graph]] = []
        for ratio in self.ratios:
            made = graph.copy()
            self._tune(made, context, soft, ratio)
            found.append((context.agreement(made), made))
            context.note("", f"thresholds times {ratio:g}: {agreement_text(found[-1][0])}")
        graph.replace_with(max(found, key=lambda each: each[0])[1])
        return len(soft)

    def _tune(self, graph: Graph, context: Context, soft: Sequence[str], ratio: float) -> None:
        ann = context.ann
        assert ann is not None
        ratios = [ratio * _SPREAD**i for i in range(self.neurons)]
        alone = {relu: names[0] for relu, names in tunable(graph, context).items() if len(names) == 1}
        made = [_Layer.of(graph, relu, name, ratios) for relu, name in alone.items() if name in soft]
        tuned = {layer.name: layer for layer in made if layer is not None}
        compares = {node.name: compared(ann, node) for node in ann.match(Relu) if node.op.compares}
        counts = {name: compares[name] for name in soft if compares.get(name) in {each.relu for each in tuned.values()}}
        for name in soft:
            if name not in counts and isinstance(graph[name], IF) and graph.get(name, IF).v_reset is None:
                _harden(graph, name, ratio)
                if ratio == self.ratios[0]:
                    context.note(name, "it is not alone between casts, so only its threshold changes")
        sweep = Sweep(graph, context.tuning_samples(graph), context.steps)
        for name in sweep:
            if (layer := tuned.get(name)) is None:
                continue
            values = layer.fit(sweep, activations(ann, layer.relu, list(sweep.feeds.values())), self.rounds, self.step)
            for each in (each for each, source in counts.items() if source == layer.relu):
                _count(graph, each, values)
        context.ran_over_time(graph, sweep.outputs())


@attrs.define(eq=False)
class _Layer:
    """Neurons that stand for a ReLU: ``current -> [split ->] cast -> neurons -> cast [-> join]``.

    Attributes:
        graph: it is in.
        relu: in the ANN.
        name: of the neurons.
        current: the node that gives what they integrate, in ANN units.
        casts: in front of the neurons and behind them.
        owner: the affine op whose bias is theirs.
        thresholds: of the neurons of a value: [n, C].
        lowered: of the thresholds, what the bias rounds for already: [C].
    """

    graph: Graph
    relu: str
    name: str
    current: str
    casts: tuple[str, str]
    owner: str
    thresholds: Array
    lowered: Array

    @classmethod
    def of(cls, graph: Graph, relu: str, name: str, ratios: Sequence[float]) -> "_Layer | None":
        """Take the neurons of a ReLU, and make several of each where there are several ratios; None for another form.

        They stand between casts, and their channels are axis 0.
        """
        (front,), users = graph.operands(name), graph.users(name)
        behind = users[0][0] if len(users) == 1 else front
        signal = graph.type(name)
        if not (isinstance(graph[front], Rescale) and isinstance(graph[behind], Rescale)) or not signal.shape:
            return None
        channels, rank, count = signal.shape[0], len(signal.shape), len(ratios)
        try:
            scale = np.broadcast_to(channel_scale(signal, 0, "neurons"), (channels,))
        except BlockedError:
            return None
        (current,), owner = graph.operands(front), bias_owner(graph, name)
        neurons = attrs.evolve(graph.get(name, IF), v_reset=np.zeros(()), v_init=np.zeros(()))
        graph.set_op(name, neurons)
        if count > 1 or owner is None or owner.op.out_features != channels:
            for each in (front, behind):
                graph.set_op(each, Rescale(np.ones((1,) * rank)))
            split = pointwise(np.ones((channels * count, 1)), np.zeros(channels * count), rank, channels)
            owner = Node(graph.insert_before(front, 0, split, new=f"{relu}_split"), split)
        if count > 1:
            join = pointwise(np.ones((channels, count)), None, rank, channels, origin=neurons.origin)
            readers, several = graph.users(behind), graph.add(neurons, front, name=f"{relu}_neurons")
            graph.set_operands(behind, several)
            graph.set_op(name, join)
            graph.set_operands(name, behind)
            for user, slot in readers:
                graph.set_operand(user, slot, name)
            name = several
        thresholds = np.array([scale * ratio for ratio in ratios])
        return cls(graph, relu, name, current, (front, behind), owner.name, thresholds, scale)

    def fit(self, sweep: Sweep, wanted: Array, corrections: int, step: float) -> Array:
        """Choose biases, and what spikes stand for, which is returned: [n, C].

        Args:
            sweep: has settled everything in front.
            wanted: the ReLU's values [N, C, ...].
            corrections: of the biases.
            step: share of what is missing that each of them makes up for.
        """
        rows = _rows(wanted)
        biases = (self.thresholds - self.lowered) / (2 * sweep.timesteps)
        for _ in range(corrections):
            rates = np.stack([_rows(each) for each in self._rates(sweep, biases)], -1)  # [C, M, n]
            values = _least_squares(rates, rows, self.thresholds.T / len(biases))
            biases = biases + step * (rows - (rates * values[:, None]).sum(-1)).mean(1)
        self._write(biases, values)
        return np.asarray(values.T)

    def _rates(self, sweep: Sweep, biases: Array) -> list[Array]:
        """Return how often each of the neurons of a value fires in a step, [N, C, ...] for each."""
        found: list[list[Tensor]] = [[] for _ in biases]
        rank = len(self.graph.type(self.current).shape)
        ops = [IF(on_axis(each, rank, 0), v_reset=np.zeros(())) for each in self.thresholds]
        with torch.no_grad(), tensor_cache():
            for x in _joined(list(sweep.values(self.current))):
                for op, bias, rates in zip(ops, biases, found, strict=True):
                    current = x + torch.as_tensor(on_axis(bias, rank, 0), dtype=x.dtype)
                    current = current.expand(sweep.timesteps, *current.shape[1:])
                    spikes = op.steps(op.initial(current[0]), current)[1]
                    rates.append(spikes.sum(0) / sweep.timesteps)
        return [torch.cat(parts).double().numpy() for parts in found]

    def _write(self, biases: Array, values: Array) -> None:
        graph, rank = self.graph, len(self.graph.type(self.name).shape)
        stood, meant = (on_axis(each.reshape(-1), rank, 0) for each in (self.thresholds.T, values))
        op = graph.get(self.owner, Weighted)
        scale = channel_scale(graph.type(self.owner), op.axis, "bias")
        graph.set_op(self.owner, attrs.evolve(op, bias=op.shift + biases.T.reshape(-1) / scale))
        _cast(graph, self.casts, self.name, stood, meant)


def _cast(graph: Graph, casts: tuple[str, str], name: str, threshold: Array, value: Array) -> None:
    """Give neurons between casts a threshold, and spikes that stand for a value, both in ANN units."""
    graph.set_op(casts[0], Rescale(1 / threshold))
    graph.set_op(name, attrs.evolve(graph.get(name, IF), v_threshold=np.ones((1,) * value.ndim), out_scale=value))
    graph.set_op(casts[1], Rescale(value))


def _joined(parts: Sequence[Tensor]) -> Iterator[Tensor]:
    """Join values for a few samples each, [T, n, ...], to fewer of as many numbers as a cache holds."""
    count = max(1, _AT_ONCE // parts[0].numel())
    for first in range(0, len(parts), count):
        yield torch.cat(tuple(parts[first : first + count]), 1)


def _rows(values: Array) -> Array:
    """Return [N, C, ...] as [C, M]."""
    return np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)


def _least_squares(rates: Array, wanted: Array, prior: Array) -> Array:
    """Return v [C, n] with the least ``sum (wanted - rates v)^2``, drawn to a prior where there are few spikes.

    Args:
        rates: [C, M, n].
        wanted: [C, M].
        prior: [C, n].
    """
    square = rates.transpose(0, 2, 1) @ rates
    trust = _PRIOR * np.trace(square, axis1=1, axis2=2)[:, None] / rates.shape[-1] + np.finfo(np.float64).tiny
    square = square + trust[..., None] * np.eye(rates.shape[-1])
    found = np.linalg.solve(square, (rates.transpose(0, 2, 1) @ wanted[..., None]) + (trust * prior)[..., None])[..., 0]
    return np.clip(found, _LIMITS[0] * prior, _LIMITS[1] * prior)


def _harden(graph: Graph, name: str, ratio: float) -> None:
    """Reset neurons to zero, at a threshold times a ratio; a spike then stands for as many times more."""
    op, rank = graph.get(name, IF), len(graph.type(name).shape)
    given = None if op.out_scale is None else op.out_scale * ratio
    threshold, zero = op.v_threshold * ratio, np.zeros(())
    graph.set_op(name, attrs.evolve(op, v_threshold=threshold, v_reset=zero, v_init=zero, out_scale=given))
    if ratio != 1:
        graph.insert_after(name, Rescale(np.full((1,) * rank, ratio)), new=f"{name}_ratio")


def _count(graph: Graph, name: str, values: Array) -> None:
    """Let neurons that compare sums of spikes fire at every whole one that they have."""
    (front,), ((behind, _),) = graph.operands(name), graph.users(name)
    value = on_axis(values.mean(0), len(graph.type(name).shape), 0)
    graph.set_op(name, attrs.evolve(graph.get(name, IF), v_reset=np.zeros(()), v_init=np.zeros(())))
    _cast(graph, (front, behind), name, _BETWEEN * value, value)
