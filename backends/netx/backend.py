"""The target ``netx``: an HDF5 file for Loihi 2 that stock lava-dl netx loads, and its integer simulation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
import numpy as np

from spikec.backends.netx.contents import Encoder
from spikec.backends.netx.model import NetxNetwork
from spikec.backends.netx.plan import WEIGHT, PlannedLayer, plan
from spikec.backends.netx.sim import NEVER, IntegerLayer
from spikec.extend.backend import Backend
from spikec.extend.passbase import Context
from spikec.ir.errors import Problem
from spikec.ir.graph import Graph
from spikec.ir.ops import Conv, Linear
from spikec.ir.ops.weighted import block_diagonal
from spikec.ir.types import Array

_FORGET, _KEEP = 4096, 0


@attrs.frozen
class Netx(Backend):
    """Emits a :class:`NetxNetwork`.

    Attributes:
        reset: ``soft`` (by subtraction: exact rates, all layers dense and recurrent, convolutions unrolled, up to
            2,000 neurons a layer), ``hard`` (to zero: rates do not converge to the ANN's), or ``auto``: soft
            where all layers are small enough.
    """

    name: ClassVar[str] = "netx"
    suffix: ClassVar[str] = ".net"
    order: ClassVar[str] = "netx"
    thresholds: ClassVar[str] = "uniform"
    artifacts: ClassVar[tuple[type, ...]] = (NetxNetwork,)

    reset: Literal["auto", "soft", "hard"] = attrs.field(
        default="auto", validator=attrs.validators.in_(("auto", "soft", "hard"))
    )

    def check(self, graph: Graph) -> list[Problem]:
        """List what keeps the graph from being one chain of integer layers."""
        return list(plan(graph).problems)

    def emit(self, graph: Graph, context: Context) -> Any:
        """Make the integer model; its spikes are those of the graph, one for one."""
        return self.integer_model(graph, context)

    def integer_model(self, graph: Graph, context: Context) -> NetxNetwork:
        """Make the artifact; for other targets that carry the same network."""
        planned = plan(graph)
        assert planned.encoder is not None
        first, last = planned.layers[0], planned.layers[-1]
        neurons = [each.neurons for each in planned.layers if each.neurons is not None]
        soft = isinstance(last.affine, Linear) and all(each.soft for each in neurons)
        layers, more = _soft(planned.layers) if soft else _hard(graph, planned.layers)
        shape = graph.type(graph.operands(first.name)[0]).shape
        output = graph.type(graph.outputs[0])
        if any(layer.bias is not None for layer in layers):
            context.note(
                last.name, "biases are datasets: run it in lava as Network(path, reset_interval=T, reset_offset=1)"
            )
        return NetxNetwork(
            name=graph.name,
            encoder=Encoder(
                shape=graph.type(graph.inputs[0]).shape,
                threshold=planned.encoder.v_threshold.item(),
                v_init=planned.encoder.v_init.item(),
                signed=planned.signed,
            ),
            layers=tuple(layers),
            reset="soft" if soft else "hard",
            constants=more if soft else 0,
            pulses=0 if soft else more,
            input_shape=(shape[0] + more, *shape[1:]),
            output_scale=output.scale,
            output_shape=output.shape,
            timesteps=context.timesteps or 0,
        )

    def save(self, artifact: Any, path: Path) -> None:
        """Write the HDF5 file."""
        artifact.save(path)


def _hard(graph: Graph, planned: Sequence[PlannedLayer]) -> tuple[list[IntegerLayer], int]:
    """Return stock layers with biases, and how many channels of pulses the file takes besides its input.

    Neurons start at v_init by a pulse at step 0, which layers relay to those behind them. Pulses come in as many
    channels as 254 goes into what they charge: v_init, or a relay's threshold.
    """
    pulses = [0]
    for each in reversed(planned[:-1]):
        assert each.neurons is not None
        charge = each.neurons.threshold if pulses[0] else each.neurons.v_init
        pulses.insert(0, -(-int(charge) // WEIGHT))
    layers: list[IntegerLayer] = []
    for each, taken, relays in zip(planned, pulses, [*pulses[1:], 0], strict=True):
        cells = int(np.prod(layers[-1].shape[1:])) if layers else 1
        layers.append(_hard_layer(graph, each, taken, relays, cells))
    return layers, pulses[0]


def _hard_layer(graph: Graph, each: PlannedLayer, pulses: int, relays: int, cells: int) -> IntegerLayer:
    op, neurons = each.affine, each.neurons
    shape = graph.type(each.name).shape
    charge = np.zeros((shape[0] + relays, pulses))
    if neurons is not None:
        charge[: shape[0]] = _shares(np.full(shape[0], neurons.v_init), pulses)
        charge[shape[0] :] = _shares(np.full(relays, neurons.threshold), pulses)
    weight, groups, conv = op.weight, 1, dict[str, Any]()
    space: tuple[int, ...] = (cells,)  # a pulse comes on every cell of a channel's map: the first one is taken
    taken: tuple[int, ...] | None = (0,)
    if isinstance(op, Conv):
        space, taken = op.kernel, op.inner_tap(graph.type(graph.operands(each.name)[0]).shape, shape)
        groups = 1 if pulses else op.groups  # pulses reach all groups
        padding = tuple(before for before, _ in op.padding)
        conv = {"stride": op.stride, "padding": padding, "dilation": op.dilation, "groups": groups}
        weight = weight if groups == op.groups else block_diagonal(weight, op.groups)
    if pulses:
        assert taken is not None
        charges = np.zeros((*space, *charge.shape))
        charges[taken] = charge
        rows = np.zeros((relays, *weight.shape[1:]))
        charges = np.moveaxis(charges, (-2, -1), (0, 1)).reshape(len(charge), -1, *weight.shape[2:])
        weight = np.concatenate([np.concatenate([weight, rows]), charges], axis=1)
    return IntegerLayer(
        kind="conv" if isinstance(op, Conv) else "dense",
        name=each.neuron or each.name,
        shape=(shape[0] + relays, *shape[1:]),
        weight=weight,
        bias=None if op.bias is None else np.concatenate([op.bias, np.zeros(relays)]),
        threshold=NEVER if neurons is None else _mantissa(neurons.threshold, neurons.strict),
        current_decay=_FORGET,
        voltage_decay=_KEEP if neurons is None else neurons.decay,
        relays=relays,
        **conv,
    )


def _mantissa(threshold: float, strict: bool) -> int:
    """Return the ``vThMant`` of a threshold, which is even, as all sums are: netx fires above it."""
    return int(threshold) - (not strict)


def _soft(planned: Sequence[PlannedLayer]) -> tuple[list[IntegerLayer], int]:
    """Return dense layers whose neurons inhibit themselves by their threshold, and how many inputs are always on.

    Biases are weights of inputs that are always on. A layer takes as many as its bias needs weights of at most 254, or
    as a later layer does; its last neurons relay them to the next one.
    """
    needed = [-(-int(np.abs(each.affine.shift).max()) // WEIGHT) for each in planned]
    taken = [max(needed[i:]) for i in range(len(needed))]
    layers = [_soft_layer(*each) for each in zip(planned, taken, [*taken[1:], 0], strict=True)]
    return layers, taken[0]


def _soft_layer(each: PlannedLayer, inputs: int, relays: int) -> IntegerLayer:
    op, neurons = each.affine, each.neurons
    weight = np.concatenate([op.weight, _shares(op.shift, inputs)], axis=1)
    if neurons is None:
        return IntegerLayer("dense", each.name, (len(weight),), weight, NEVER, _FORGET, _KEEP)
    relay = np.concatenate([np.zeros((relays, op.in_features)), neurons.threshold * np.eye(relays, inputs)], axis=1)
    weight = np.concatenate([weight, relay])
    return IntegerLayer(
        kind="dense_rec",
        name=each.neuron,
        shape=(len(weight),),
        weight=weight,
        weight_rec=-neurons.threshold * np.eye(len(weight)),
        # the current is the potential: it keeps what comes in, and starts at 0 where the neuron starts at v_init
        threshold=_mantissa(neurons.threshold - neurons.v_init, neurons.strict),
        current_decay=_KEEP,
        voltage_decay=_FORGET,
        relays=relays,
    )


def _shares(bias: Array, count: int) -> Array:
    """Return [O, count]: columns of at most 254 that sum to the bias; the bias is even, and so are they."""
    before = np.arange(count) * WEIGHT
    return np.sign(bias)[:, None] * np.clip(np.abs(bias)[:, None] - before, 0, WEIGHT)


backend = Netx
