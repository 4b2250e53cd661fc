"""One layer of neurons beside its ReLU: how its error is taken apart, and the sums over batches."""

from __future__ import annotations

import math
from typing import TypeGuard

import attrs
import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from spikec.diagnosis.record import KINDS, OWN, Error, Layer
from spikec.ir.graph import Graph
from spikec.ir.op import StatefulOp, tensor
from spikec.ir.ops import IF, Neuron
from spikec.ir.origin import describe
from spikec.ir.types import Array

#: points of a layer that are kept for its scatter plot
POINTS = 2000
#: float32 rounding of a scale: no activation is clipped by that
_ROUNDING = 1e-6


def limit(op: Neuron, z: Tensor) -> Tensor:
    """The rate for T to infinity: ``clip(z / v_threshold, 0, 1)``."""
    return (z / tensor(op.v_threshold, z)).clamp(0, 1)


def ideal(op: StatefulOp, timesteps: int, *xs: Tensor) -> Tensor:
    """What a stateful op puts out on average over T steps of constant operands.

    For an integrate-and-fire neuron with soft reset ``clip(floor((T z + v_init) / v_threshold), 0, T) / T`` (Bu et
    al. 2022, eq. 8); any other is run.
    """
    if not _is_soft(op):
        state = op.initial(*xs)
        total = torch.zeros(())
        for _ in range(timesteps):
            state, out = op.step(state, *xs)
            total = total + out
        return total / timesteps
    charge = (timesteps * xs[0] + tensor(op.v_init, xs[0])) / tensor(op.v_threshold, xs[0])
    spikes = charge.ceil() - 1 if op.strict else charge.floor()
    return spikes.clamp(0, timesteps) / timesteps


def clip(z: Tensor, ceiling: Array, shape: tuple[int, ...]) -> Tensor:
    """A ReLU clipped at what its neurons can say, both in ANN units; ``shape`` is that of the neurons' samples."""
    high = tensor(ceiling, z).expand(1, *shape).reshape(1, *z.shape[1:])
    return torch.minimum(z.clamp(min=0), high)


def _is_soft(op: StatefulOp) -> TypeGuard[IF]:
    """True for integrate-and-fire with soft reset."""
    return type(op) is IF and op.v_reset is None


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
    slope: Tensor | None = None


def _shown(graph: Graph, name: str) -> str:
    """The user's layer and line, and the node where several stand for that layer, or where a pass added it."""
    origin = graph[name].origin[:1]
    alone = origin and sum(node.op.origin[:1] == origin for node in graph.match(Neuron)) == 1
    return describe(origin) if alone else f"{describe(origin)} %{name}".strip()


def split(op: Neuron, timesteps: int, fed: Fed, mean: Tensor, rate: Tensor) -> dict[str, Tensor]:
    """Take ``rate - activation`` apart, neuron by neuron; see :class:`spikec.diagnosis.record.Layer`.

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


@attrs.define(eq=False)
class Run:
    """One batch in time."""

    op: Neuron
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


@attrs.define(eq=False)
class LayerSums:
    """Sums over batches for one layer."""

    name: str
    node: str
    op: Neuron
    timesteps: int
    in_scale: Array
    scale: Array
    shape: tuple[int, ...]
    fired: Tensor | None = None
    count: int = 0
    spikes: float = 0.0
    saturated: float = 0.0
    clipped: float = 0.0
    signal: float = 0.0
    sums: dict[str, float] = attrs.field(factory=lambda: dict.fromkeys((*KINDS, "own", "total"), 0.0))
    squares: dict[str, float] = attrs.field(factory=lambda: dict.fromkeys((*KINDS, "own", "total"), 0.0))
    effects: dict[str, list[float]] = attrs.field(factory=lambda: {kind: [0.0, 0.0] for kind in (*OWN, "own")})
    samples: int = 0
    residual: float = 0.0
    points: Array | None = None

    @classmethod
    def of(cls, graph: Graph, name: str, timesteps: int) -> Self:
        """For a neuron of the final graph."""
        op = graph[name]
        assert isinstance(op, Neuron)
        (current,) = graph.operands(name)
        return cls(
            _shown(graph, name),
            name,
            op,
            timesteps,
            graph.type(current).scale,
            graph.type(name).scale,
            graph.type(name).shape,
        )

    def fed(self, own: Tensor, pair: tuple[Tensor, Tensor] | None, share: Array) -> Fed:
        """From the layer's own current, in its units, and the ANN's (current, activation) in ANN units.

        A neuron without a ReLU of its own (a target's encoder) has none of the latter: it stands for ``relu(own)``.
        One of several that share a ReLU stands for its share of the activation.
        """
        in_scale, scale = tensor(self.in_scale, own), tensor(self.scale, own)
        if pair is None:
            return Fed(own, own.clamp(min=0) * in_scale / scale, own)
        current, activation = (x.reshape(own.shape) for x in pair)
        return Fed(current / in_scale, activation * tensor(share, own) / scale, own)

    def finish(self, batch: Run) -> None:
        """A batch has run for all its steps."""
        op, steps, fed = self.op, self.timesteps, batch.fed
        rate = torch.as_tensor(batch.spikes) / steps
        mean = torch.as_tensor(batch.charge) / steps
        parts = split(op, steps, fed, mean, rate)
        parts["own"] = sum((parts[kind] for kind in OWN), torch.zeros(()))
        parts["total"] = rate - fed.activation
        scale = tensor(self.scale, rate)
        for kind, part in parts.items():
            self.sums[kind] += float((part * scale).sum())
            self.squares[kind] += float((part * scale).square().sum())
        if fed.slope is not None:
            for kind, effect in self.effects.items():
                margin = (parts[kind] * fed.slope).flatten(1).sum(1)
                effect[0] += float(margin.sum())
                effect[1] += float(margin.square().sum())
        self.samples += len(rate)
        activation = fed.activation * scale
        self.signal += float(activation.square().sum())
        self.count += rate.numel()
        self.spikes += float(rate.sum()) * steps
        self.saturated += float((rate >= 1).sum())
        self.clipped += float((fed.activation > 1 + _ROUNDING).sum())
        fired = (rate > 0).any(0)
        self.fired = fired if self.fired is None else self.fired | fired
        if _is_soft(op):
            self.residual = max(self.residual, self._residual(batch, rate, mean))
        if self.points is None:
            every = -(-rate.numel() // POINTS)
            pair = [x.flatten()[::every].numpy() for x in (activation, rate * scale)]
            self.points = np.stack(pair)

    def _residual(self, batch: Run, rate: Tensor, mean: Tensor) -> float:
        """How far ``rate v_threshold = mean current - (v(T) - v(0)) / T`` is from true, in thresholds."""
        assert batch.last is not None
        assert batch.start is not None
        end, _ = self.op.step(*batch.last)
        threshold = tensor(self.op.v_threshold, rate)
        off = rate * threshold - (mean - (end - batch.start) / self.timesteps)
        return float((off / threshold).abs().max())

    def record(self, margin: float) -> Layer:
        """Of all batches; ``margin`` is the rms of the ANN's."""
        assert self.fired is not None
        assert self.points is not None
        errors = {
            kind: Error(self.sums[kind] / self.count, math.sqrt(self.squares[kind] / self.count)) for kind in self.sums
        }
        return Layer(
            name=self.name,
            node=self.node,
            neurons=math.prod(self.shape),
            scale=(float(self.scale.min()), float(self.scale.max())),
            rate=self.spikes / self.count / self.timesteps,
            silent=1 - float(self.fired.double().mean()),
            saturated=self.saturated / self.count,
            clipped=self.clipped / self.count,
            signal=math.sqrt(self.signal / self.count),
            errors={kind: errors[kind] for kind in KINDS},
            own=errors["own"],
            effects={
                kind: Error(total / self.samples / margin, math.sqrt(square / self.samples) / margin)
                for kind, (total, square) in self.effects.items()
            },
            total=errors["total"],
            residual=self.residual if _is_soft(self.op) else None,
            points=self.points,
        )
