"""The layers of neurons beside the ReLUs that they stand for: how an error is taken apart, and sums over batches."""

import math
from collections.abc import Mapping, Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.diagnosis.diagnosis import KINDS, OWN, LayerFindings
from spikec.diagnosis.sums import Moments
from spikec.interpreter.interp import run
from spikec.interpreter.layerwise import ideal, is_soft
from spikec.interpreter.results import cells
from spikec.ir.graph import Graph
from spikec.ir.op import StatefulOp, tensor
from spikec.ir.ops import Neuron
from spikec.ir.origin import describe
from spikec.ir.rewrite import neurons_by_relu
from spikec.ir.types import Array

#: points of a layer that are kept for its scatter plot
POINTS = 2000
#: float32 rounding of a scale: no activation is clipped by that
_ROUNDING = 1e-6


@attrs.frozen(eq=False)
class Fed:
    """What the ANN has at a layer of neurons, in the layer's units.

    Attributes:
        current: z / s_in.
        activation: a / scale, the rate that the layer should have.
        own: the current that the layer's own parameters make of the ANN's activations.
        slope: derivative of the output's margin by the layer's rates.
    """

    current: Tensor
    activation: Tensor
    own: Tensor
    slope: Tensor


def split(op: Neuron, timesteps: int, fed: Fed, mean: Tensor, rate: Tensor) -> dict[str, Tensor]:
    """Take ``rate - activation`` apart, neuron by neuron; see :class:`spikec.diagnosis.diagnosis.LayerFindings`.

    Args:
        op, timesteps: the neuron, and T.
        fed: what the ANN has there.
        mean: the current that the neuron really got, averaged over the steps.
        rate: its spikes a step.
    """
    bound, own, real = limit(op, fed.current), ideal(op, timesteps, fed.own), ideal(op, timesteps, mean)
    return {
        "clipping": bound - fed.activation,
        "quantization": own - bound,
        "propagated": real - own,
        "unevenness": rate - real,
    }


def limit(op: Neuron, z: Tensor) -> Tensor:
    """The rate for T to infinity: ``clip(z / v_threshold, 0, 1)``."""
    return (z / tensor(op.v_threshold, z)).clamp(0, 1)


def clip(z: Tensor, ceiling: Array, shape: tuple[int, ...]) -> Tensor:
    """A ReLU clipped at what its neurons can say, both in ANN units; ``shape`` is that of the neurons' samples."""
    high = tensor(ceiling, z).expand(1, *shape).reshape(1, *z.shape[1:])
    return torch.minimum(z.clamp(min=0), high)


@attrs.define(eq=False)
class Train:
    """What a layer of neurons got and gave for one batch, over all steps so far.

    Attributes:
        fed: what the ANN has there.
        charge, spikes: sums over the steps.
        start: the state before the first step.
        last: the state before the latest step, and its current.
    """

    fed: Fed
    charge: Tensor | float = 0.0
    spikes: Tensor | float = 0.0
    start: Tensor | None = None
    last: tuple[Tensor, Tensor] | None = None

    def step(self, spikes: Tensor, before: Tensor, current: Tensor) -> None:
        """Take one step's result, the state before it, and its current."""
        self.spikes = self.spikes + spikes
        self.charge = self.charge + current
        if self.start is None:
            self.start = before
        self.last = before, current


class LayerSums:
    """Sums over batches for one layer."""

    def __init__(self, graph: Graph, node: str, timesteps: int) -> None:
        op = graph[node]
        assert isinstance(op, Neuron)
        (current,) = graph.operands(node)
        self.name, self.node, self.op, self.timesteps = _shown(graph, node), node, op, timesteps
        self.in_scale = graph.type(current).scale
        self.scale, self.shape = graph.type(node).scale, graph.type(node).shape
        self.errors = {kind: Moments() for kind in (*KINDS, "own", "total")}
        self.effects = {kind: Moments() for kind in (*OWN, "own")}
        self.activation, self.rate, self.saturated, self.clipped = Moments(), Moments(), Moments(), Moments()
        self.fired: Tensor | None = None
        self.residual = 0.0
        self.points: Array | None = None

    def finish(self, train: Train) -> None:
        """Take a batch that has run for all its steps."""
        fed = train.fed
        rate, mean = (torch.as_tensor(total) / self.timesteps for total in (train.spikes, train.charge))
        parts = split(self.op, self.timesteps, fed, mean, rate)
        parts["own"] = sum((parts[kind] for kind in OWN), torch.zeros(()))
        parts["total"] = rate - fed.activation
        scale = tensor(self.scale, rate)
        for kind, moments in self.errors.items():
            moments.add((parts[kind] * scale).flatten())
        for kind, moments in self.effects.items():
            moments.add(cells(parts[kind] * fed.slope).sum(1))
        activation = fed.activation * scale
        self.activation.add(activation.flatten())
        self.rate.add(rate.flatten())
        self.saturated.add((rate >= 1).double().flatten())
        self.clipped.add((fed.activation > 1 + _ROUNDING).double().flatten())
        fired = (rate > 0).any(0)
        self.fired = fired if self.fired is None else self.fired | fired
        if is_soft(self.op):
            self.residual = max(self.residual, self._residual(train, rate, mean))
        if self.points is None:
            every = -(-rate.numel() // POINTS)
            self.points = np.stack([x.flatten()[::every].numpy() for x in (activation, rate * scale)])

    def merge(self, other: "LayerSums") -> None:
        """Take what another process found on batches of its own; points stay those of the first batch."""
        for kind, moments in self.errors.items():
            moments.merge(other.errors[kind])
        for kind, moments in self.effects.items():
            moments.merge(other.effects[kind])
        for name in ("activation", "rate", "saturated", "clipped"):
            getattr(self, name).merge(getattr(other, name))
        assert self.fired is not None
        assert other.fired is not None
        self.fired = self.fired | other.fired
        self.residual = max(self.residual, other.residual)

    def _residual(self, train: Train, rate: Tensor, mean: Tensor) -> float:
        """How far ``rate v_threshold = mean current - (v(T) - v(0)) / T`` is from true, in thresholds."""
        assert train.last is not None
        assert train.start is not None
        end, _ = self.op.step(*train.last)
        threshold = tensor(self.op.v_threshold, rate)
        off = rate * threshold - (mean - (end - train.start) / self.timesteps)
        return float((off / threshold).abs().max())

    @property
    def spikes(self) -> float:
        """The spikes of all neurons, samples and steps."""
        return float(self.rate.total.value) * self.timesteps

    def findings(self, margin: float) -> LayerFindings:
        """The figures of all batches; ``margin`` is the rms of the ANN's."""
        assert self.fired is not None
        assert self.points is not None
        errors = {kind: moments.deviation() for kind, moments in self.errors.items()}
        return LayerFindings(
            name=self.name,
            node=self.node,
            neurons=math.prod(self.shape),
            scale=(float(self.scale.min()), float(self.scale.max())),
            rate=self.rate.deviation().mean,
            silent=1 - float(self.fired.double().mean()),
            saturated=self.saturated.deviation().mean,
            clipped=self.clipped.deviation().mean,
            signal=self.activation.deviation().rms,
            errors={kind: errors[kind] for kind in KINDS},
            own=errors["own"],
            effects={kind: moments.deviation(margin) for kind, moments in self.effects.items()},
            total=errors["total"],
            residual=self.residual if is_soft(self.op) else None,
            points=self.points,
        )


def _shown(graph: Graph, name: str) -> str:
    """The user's layer and line, and the node where several are called so, or where a pass added it."""
    called = describe(graph[name].origin[:1])
    alone = called and sum(describe(node.op.origin[:1]) == called for node in graph.match(Neuron)) == 1
    return called if alone else f"{called} %{name}".strip()


class Layers:
    """All layers of a network.

    Args:
        graph: the final one.
        ann: the ANN whose ReLUs have the neurons' names.
        timesteps: T.

    Attributes:
        sums: by the neuron's name.
        makers: the neurons that stand for a ReLU, by its name.
        margin: of the ANN's outputs, see :meth:`_margin`.
    """

    def __init__(self, graph: Graph, ann: Graph, timesteps: int) -> None:
        self.graph, self.ann, self.timesteps = graph, ann, timesteps
        self.sums = {node.name: LayerSums(graph, node.name, timesteps) for node in graph.match(Neuron)}
        self.makers = neurons_by_relu(graph, ann)
        self._relus = {name: relu for relu, names in self.makers.items() for name in names}
        self.margin = Moments()

    def ceiling(self, relu: str) -> Array:
        """The most that a ReLU's neurons can say, in ANN units."""
        return np.asarray(sum(self.sums[name].scale for name in self.makers[relu]))

    def fed(self, xs: Sequence[Tensor]) -> dict[str, Fed]:
        """What the ANN has at each layer of neurons, and what the layer makes of the ANN's activations.

        The final graph is run with the ANN's activations in place of its neurons, and differentiated there as if
        they were ReLUs.
        """
        pairs: dict[str, tuple[Tensor, Tensor]] = {}

        def tap(name: str, value: Tensor, state: Tensor | None, operands: Sequence[Tensor]) -> None:
            if name in self.makers:
                pairs[name] = operands[0], value

        run(self.ann, xs, tap=tap)
        found: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        rates: dict[str, Tensor] = {}
        values = dict(zip(self.graph.inputs, xs, strict=True))
        with torch.enable_grad():
            for name in self.graph:
                op, operands = self.graph[name], [values[x] for x in self.graph.operands(name)]
                if isinstance(op, Neuron):
                    own = operands[0].detach()
                    current, activation = self._of_ann(name, own, pairs)
                    found[name] = current, activation, own
                    # the value is the ANN's activation, the gradient that of the ReLU on the layer's own current
                    slope = operands[0].clamp(min=0) / tensor(op.v_threshold, operands[0])
                    rates[name] = values[name] = (activation + slope - slope.detach()).requires_grad_()
                elif isinstance(op, StatefulOp):
                    values[name] = ideal(op, self.timesteps, *operands)
                elif operands:
                    values[name] = op.eval(*operands)
            margin = self._margin([values[name] for name in self.graph.outputs])
            slopes = torch.autograd.grad(margin.sum(), list(rates.values()), allow_unused=True, materialize_grads=True)
        self.margin.add(margin.detach())
        return {name: Fed(*found[name], slope) for name, slope in zip(rates, slopes, strict=True)}

    def _of_ann(self, name: str, own: Tensor, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """(current, activation) of :class:`Fed`, from a layer's own current and the ANN's pairs in ANN units.

        A neuron without a ReLU of its own (a target's encoder) has no pair: it stands for ``relu(own)``. One of
        several that share a ReLU stands for its share of the activation.
        """
        layer, relu = self.sums[name], self._relus.get(name)
        in_scale, scale = tensor(layer.in_scale, own), tensor(layer.scale, own)
        if relu is None:
            return own, own.clamp(min=0) * in_scale / scale
        current, activation = (x.reshape(own.shape) for x in pairs[relu])
        return current / in_scale, activation * tensor(layer.scale / self.ceiling(relu), own) / scale

    def _margin(self, averages: Sequence[Tensor]) -> Tensor:
        """[B]: by how much the first class is ahead of the second, summed over the outputs; a single number itself."""
        total = torch.zeros(())
        for name, x in zip(self.graph.outputs, averages, strict=True):
            flat = cells(x * tensor(self.graph.type(name).scale, x))
            best = flat.topk(min(2, flat.shape[1])).values
            total = total + best[:, 0] - best[:, 1:].sum(1)
        return total
