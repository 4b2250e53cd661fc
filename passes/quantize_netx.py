"""Integer weights, thresholds and biases as Loihi and netx have them."""

import math
from collections.abc import Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.extend.passbase import Context, Pass
from spikec.interpreter.interp import run as interpret
from spikec.ir.errors import Problem, UnsupportedOpError
from spikec.ir.graph import Graph, Node
from spikec.ir.loihi import BIAS, STATE, UNROLLED, WEIGHT
from spikec.ir.op import Op
from spikec.ir.ops import Conv, LoihiNeuron, Neuron, Output, Weighted
from spikec.ir.ops.neuron_loihi import GRAIN
from spikec.ir.rewrite import SHAPES, follow
from spikec.ir.stages import FINAL
from spikec.ir.types import Array

#: hard reset that starts off zero takes one input for every 254 of the threshold: at most this many
PULSES = 8
#: membranes may grow to this many times what the calibration samples show
MARGIN = 2.0
#: the T that membranes are made for if the user names none
TIMESTEPS = 64
_PROBED = 32
#: half a weight that exceeds a whole number by less is that number
_ROUNDING = 1e-9
_STEPS = 16


@attrs.frozen
class QuantizeNetx(Pass):
    """Replace every layer behind the host's encoder by integers, one scale S a layer::

        w = 2 round(S W / (2 theta)), at most 254     b = 2 round(S b / (2 theta))
        v_threshold = S, a multiple of 2 (hard reset) or 4 (soft); v_init in the same units, even

    A neuron allows the largest S for which its weights reach 254, its bias fits, and neither the sum of a step
    nor its membrane after T steps reaches 2^17; feedback of soft reset allows 254. S is what all neurons of
    the layer allow. Where single ones allow less than half of the median, S is that half, and their theta grows
    until they allow it (the next layer's weights grow with it): one small channel must not cost all others
    their resolution.

    A LoihiNeuron's threshold stays where it is: it leaks, and another threshold would be another rate. Its decays are
    rounded to 1/4096; what its spikes feed back counts as weights, and its constant currents as biases.

    Attributes:
        spikes: the inputs are spikes: samples are how often they come, and membranes are looked at on random ones.
    """

    name = "quantize-netx"
    contract = "approximate"
    needs = (FINAL,)

    spikes: bool = False

    def run(self, graph: Graph, context: Context) -> int:
        """Quantize layers that feed a neuron or an output; anything else is left for the backend to refuse."""
        neurons = graph.match(Neuron)
        if not neurons or any(len(graph.operands(name)) > 1 for name in graph):
            return 0
        if context.timesteps is None:
            context.note("", f"timesteps is not given: membranes are made for T={TIMESTEPS}")
        layers = [
            (node.name, reader)
            for node in graph.match(Weighted)
            if (reader := follow(graph, node.name, (Neuron, Output), SHAPES)) is not None
            and reader != neurons[0].name
            and (isinstance(node.op, Conv) or len(graph.type(node.name).shape) == 1)
        ]
        growths = growth(graph, [reader for _, reader in layers], neurons[0], context, self.spikes)
        problems: list[Problem] = []
        for name, reader in layers:
            try:
                _quantize(graph, name, reader, growths[reader], context)
            except UnsupportedOpError as error:
                problems += error.problems
        if problems:
            raise UnsupportedOpError(problems)
        return len(layers)


def growth(
    graph: Graph, readers: Sequence[str], encoder: Node[Neuron], context: Context, spikes: bool
) -> dict[str, Array]:
    """How far membranes (in thresholds) or sums of outputs get from zero, for each step, on calibration samples.

    The neurons of a model that was spiking from the start may begin late, so more of its steps are looked at.
    """
    steps = min(context.timesteps or TIMESTEPS, TIMESTEPS if context.reference.is_spiking else _STEPS)
    worst: dict[str, Array] = {}
    sums: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor, state: Tensor | None, operands: Sequence[Tensor]) -> None:
        if name not in readers:
            return
        op = graph[name]
        if isinstance(op, Neuron) and state is not None:
            potential = op.charge(state, *operands)
            if potential is None:
                message = f"a {op.kind} does not say what potential it compares with its threshold"
                raise UnsupportedOpError(graph.problem(name, message, "give its op a charge method"))
            if isinstance(op, LoihiNeuron):
                potential = torch.maximum(potential.abs(), op.current(state, operands[0]).abs())
            reached = potential / torch.tensor(np.asarray(op.v_threshold, dtype=np.float64))
        else:
            reached = sums[name] = sums[name] + value if name in sums else value
        most = reached.abs().amax(0).numpy() / (context.timesteps or TIMESTEPS if _settles(op) else steps)
        worst[name] = np.maximum(worst[name], most) if name in worst else most

    xs = _inputs(graph, encoder, context)
    if spikes:
        generator = torch.Generator().manual_seed(context.seed)
        xs = [(torch.rand((steps, *x.shape), generator=generator, dtype=x.dtype) < x).to(x.dtype) for x in xs]
    interpret(graph, xs, None if spikes else steps, tap=tap)
    return worst


def _settles(op: Op) -> bool:
    """Whether a neuron leaks, so that its potential does not grow on and on."""
    return isinstance(op, LoihiNeuron) and bool((np.maximum(op.decay, op.decay_syn) < 1).all())


def _inputs(graph: Graph, encoder: Node[Neuron], context: Context) -> list[Tensor]:
    if context.samples:
        return [x[:_PROBED].to("cpu", torch.float64) for x in context.samples]
    generator = torch.Generator().manual_seed(context.seed)
    peak = float(np.max(encoder.op.v_threshold))
    return [
        torch.rand((_PROBED, *graph.type(name).shape), dtype=torch.float64, generator=generator) * peak
        for name in graph.inputs
    ]


def _quantize(graph: Graph, name: str, reader: str, growth: Array, context: Context) -> None:
    op, neuron, shape = graph.get(name, Weighted), graph[reader], graph.type(reader).shape
    steps = context.timesteps or TIMESTEPS
    if not op.weight.any():
        message = "all its weights are zero, which netx cannot load"
        raise UnsupportedOpError(graph.problem(name, message, "remove the layer"))
    threshold, factor = np.ones(1), np.ones(1)
    if isinstance(neuron, Neuron):
        threshold = _threshold_of_features(graph, name, reader, neuron.v_threshold)
    relays = _relays(op)
    grown: Array = growth.reshape(op.out_features, -1).max(1)  # the most of each feature, over its places in the map
    allowed = _allowed(op, threshold, grown * steps, _fed_back(neuron))
    scale = float(allowed.min())
    if isinstance(neuron, Neuron):
        if isinstance(neuron, LoihiNeuron):
            allowed = np.minimum(allowed, _allowed_by(neuron))
        can_grow = follow(graph, reader, Weighted, SHAPES) is not None and not isinstance(neuron, LoihiNeuron)
        scale, factor = _layer_scale(allowed, relays, neuron, can_grow)
        threshold = threshold * factor
        if isinstance(neuron, LoihiNeuron) and not neuron.strict:
            scale -= 1 - GRAIN  # the least potential at which the chip fires, above an integer that is no sum
    halves = _times(op.weight, scale / threshold) / 2
    counts = relays & (isinstance(neuron, Neuron) and neuron.v_reset is not None)
    halves = np.where(counts.reshape(-1, *[1] * (halves.ndim - 1)), np.ceil(halves - _ROUNDING), np.round(halves))
    weight = np.clip(2 * halves, -WEIGHT, WEIGHT)
    if not weight.any():
        message = (
            f"no integer scale is left for it: weights times {scale:.3g} round to 0 (limits: weights {WEIGHT}, "
            f"the sum of a step and {steps} steps of its membranes 2^17)"
        )
        hint = "mean fewer timesteps, and give calibration data that is typical"
        raise UnsupportedOpError(graph.problem(name, message, hint))
    largest = int(np.abs(weight).max())
    if largest < 32:
        context.note(name, f"coarse: the largest of its integer weights is {largest}, of {WEIGHT}")
    bias = None if op.bias is None else 2 * np.round(op.shift * scale / threshold / 2)
    if isinstance(neuron, Neuron):
        graph.set_op(reader, _integer_neuron(graph, reader, neuron, scale))
    if (factor > 1).any():
        _grow_next(graph, reader, shape, factor)
        context.note(reader, f"{(factor > 1).sum()} of {factor.size} thresholds grown, by up to {factor.max():.3g}")
    graph.set_op(name, attrs.evolve(op, weight=weight, bias=bias, out_scale=op.out_scale * threshold / scale))


def _times(weight: Array, factor: Array) -> Array:
    """Multiply the weights of each output feature by its factor."""
    return weight * factor.reshape(-1, *[1] * (weight.ndim - 1))


def _threshold_of_features(graph: Graph, name: str, reader: str, threshold: Array) -> Array:
    """The threshold as a vector over the layer's output features."""
    if threshold.size == 1:
        return threshold.reshape(-1)
    full = np.broadcast_to(threshold, graph.type(reader).shape)
    if not isinstance(graph[name], Conv):
        return full.reshape(-1)
    rows: Array = full.reshape(len(full), -1)
    if not (rows == rows[:, :1]).all():
        largest = max(math.prod(graph.type(node.name).shape) for node in graph.match(Neuron)[1:])
        other = 'use reset="soft"' if largest <= UNROLLED else 'use the target "spikingjelly"'
        hint = f"give them one threshold a channel, or {other}"
        raise UnsupportedOpError(graph.problem(reader, "thresholds that differ within a channel", hint))
    return rows[:, 0]


def _fed_back(op: Op) -> float:
    """Return the most, in thresholds, by which the spikes of a layer can change one of its currents a step later."""
    if not isinstance(op, LoihiNeuron):
        return 0.0
    lowered = float(np.max(np.abs(op.feedback) / op.v_threshold))
    if op.weight_rec is None:
        return lowered
    return lowered + float(np.max(np.abs(op.weight_rec).sum(1) / op.v_threshold.reshape(-1)))


def _allowed(op: Weighted, threshold: Array, reach: Array, fed_back: float) -> Array:
    """[O]: the largest integer scale that each output feature's limits allow; infinite for a dead one."""
    weight, bias = _times(op.weight, 1 / threshold), np.abs(op.shift / threshold)
    axes = tuple(range(1, weight.ndim))
    step = np.maximum(np.maximum(weight, 0).sum(axes), np.maximum(-weight, 0).sum(axes)) + bias + fed_back
    with np.errstate(divide="ignore"):
        limits = (WEIGHT / np.abs(weight).max(axes), BIAS / bias, STATE / (step + 1), STATE / (MARGIN * reach))
    result: Array = np.minimum.reduce(limits)
    return result


def _allowed_by(neuron: LoihiNeuron) -> float:
    """Return the largest integer scale that what is fed back, and constant currents, allow."""
    threshold = neuron.v_threshold
    fed_back = np.max(np.abs(neuron.feedback) / threshold)
    if neuron.weight_rec is not None:
        fed_back = fed_back + np.max(np.abs(neuron.weight_rec).max(1) / threshold.reshape(-1))
    with np.errstate(divide="ignore"):
        return float(min(WEIGHT / fed_back, BIAS / np.max(np.abs(neuron.bias) / threshold)))


def _relays(op: Weighted) -> Array:
    """[O]: which neurons read one signal alone, and count its spikes.

    With hard reset such a neuron loses what exceeds its threshold, so its weight is rounded up: r of them reach it.
    """
    rows = op.weight.reshape(op.out_features, -1)
    found: Array = (np.count_nonzero(rows, 1) == 1) & (rows.max(1) > 0) & (op.shift == 0)
    return found


def _layer_scale(allowed: Array, relays: Array, neuron: Neuron, can_grow: bool) -> tuple[float, Array]:
    """Return (the layer's scale, the factor by which each threshold grows for it).

    That of a relay does not grow, for a whole number of spikes would not reach it any more.
    """
    multiple, most = 4 if isinstance(neuron, LoihiNeuron) else 2, PULSES * WEIGHT if neuron.v_init.any() else STATE
    if neuron.v_reset is None:
        multiple, most = 4, WEIGHT - 2 * neuron.strict  # a relay among strict ones takes 2 more to fire, and off again
    scale = float(allowed.min())
    if can_grow:
        scale = min(max(scale, float(np.median(allowed)) / 2), float(allowed[relays].min(initial=np.inf)))
    scale = multiple * np.floor(min(scale, most) / multiple)
    return float(scale), np.maximum(scale / allowed, 1.0)


def _grow_next(graph: Graph, reader: str, shape: tuple[int, ...], factor: Array) -> None:
    """Let the next layer read spikes that stand for more, because their thresholds grew by a factor."""
    user = follow(graph, reader, Weighted, SHAPES)
    assert user is not None
    op, neuron = graph.get(user, Weighted), graph.get(reader, Neuron)
    spread = factor.reshape(shape if len(factor) == np.prod(shape) else (-1, *[1] * (len(shape) - 1)))
    if neuron.out_scale is not None:
        graph.set_op(reader, attrs.evolve(neuron, out_scale=neuron.out_scale * spread))
    rows = np.broadcast_to(spread, shape)
    graph.set_op(user, op.scale_input(rows.reshape(len(rows), -1)[:, 0] if isinstance(op, Conv) else rows.reshape(-1)))


def _integer_neuron(graph: Graph, name: str, op: Neuron, scale: float) -> Neuron:
    v_init = np.asarray(op.v_init / op.v_threshold, dtype=np.float64)
    if v_init.min() != v_init.max() or v_init.min() >= 1:
        message = "v_init must be one fraction of the threshold for the layer, below 1"
        raise UnsupportedOpError(graph.problem(name, message, "use Normalization(v_init=...) for all neurons"))
    if isinstance(op, LoihiNeuron):
        return _integer_loihi(graph, name, op, scale)
    if op.v_reset is not None and op.v_reset.any():
        raise UnsupportedOpError(graph.problem(name, "hard reset in netx is to zero", 'leave it to pass "reset-netx"'))
    threshold = np.full((1,) * op.v_threshold.ndim, scale)
    start = np.full_like(threshold, 2 * round(float(v_init.min()) * scale / 2))
    scaled = op.scale_input(op.v_threshold / scale)
    return attrs.evolve(scaled, v_threshold=threshold, v_reset=op.v_reset, v_init=start)


def _integer_loihi(graph: Graph, name: str, op: LoihiNeuron, scale: float) -> LoihiNeuron:
    """Round a neuron whose threshold is ``scale`` in the units of its layer's weights; the chip fires above it."""
    op = op.scale_input(op.v_threshold / scale)
    kept = _rounded(op.decay, 1 / 4096)
    charge = _rounded(kept * op.v_init, 2)
    if charge.min() != charge.max():
        message = "what is left of v_init after a step must be the same for all neurons of a layer"
        hint = "give them one v_init, v_threshold and tau, or a v_init of v_reset"
        raise UnsupportedOpError(graph.problem(name, message, hint))
    return attrs.evolve(
        op,
        # the first step leaves the charge of it; rounding towards zero takes the half grain
        v_init=np.where(charge > 0, (charge + GRAIN / 2) / np.where(kept > 0, kept, 1), 0),
        v_threshold=np.full((1,) * op.v_threshold.ndim, np.floor(scale)),
        strict=True,
        decay_syn=_rounded(op.decay_syn, 1 / 4096),
        decay=kept,
        feedback=_rounded(op.feedback, 2),
        bias=_rounded(op.bias, 2),
        weight_rec=None if op.weight_rec is None else _rounded(op.weight_rec, 2),
        grain=np.asarray(GRAIN),
        out_scale=graph.type(name).scale,
    )


def _rounded(values: Array, unit: float) -> Array:
    rounded: Array = unit * np.round(values / unit)
    return rounded
