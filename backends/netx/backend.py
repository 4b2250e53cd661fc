"""The target ``netx``: an HDF5 file for Loihi 2 that stock lava-dl netx loads, and its integer simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
import numpy as np

from spikec.backends.netx.model import Encoder, NetxModel, Trace
from spikec.backends.netx.plan import WEIGHT, Plan, Planned, inner_tap, plan
from spikec.backends.netx.sim import Layer
from spikec.extend.backend import Backend
from spikec.extend.passbase import Context
from spikec.ir.errors import Problem
from spikec.ir.graph import Graph
from spikec.ir.ops import Conv, Weighted
from spikec.ir.types import Array

__all__ = ["Netx", "NetxModel", "Trace", "backend"]

#: the largest vThMant; an output whose voltage saturates passes it, which a run reports
_NEVER = (1 << 17) - 1
_FORGET, _KEEP = 4096, 0


@attrs.frozen
class Netx(Backend):
    """Emits a :class:`NetxModel`.

    Attributes:
        reset: ``soft`` (by subtraction: exact rates, all layers dense and recurrent, convolutions unrolled, up to
            2,000 neurons a layer), ``hard`` (to zero: rates do not converge to the ANN's), or ``auto``: soft
            where all layers are small enough.
    """

    name: ClassVar[str] = "netx"
    suffix: ClassVar[str] = ".net"
    order: ClassVar[str] = "netx"
    thresholds: ClassVar[str] = "uniform"

    reset: Literal["auto", "soft", "hard"] = attrs.field(
        default="auto", validator=attrs.validators.in_(("auto", "soft", "hard"))
    )

    def check(self, graph: Graph) -> list[Problem]:
        """Whatever keeps it from being one chain of integer layers."""
        return list(plan(graph).problems)

    def emit(self, graph: Graph, context: Context) -> NetxModel:
        """The integer model; its spikes are those of the graph, one for one."""
        planned = plan(graph)
        assert planned.encoder is not None
        soft = _is_soft(planned)
        layers, more = _soft(planned) if soft else _hard(graph, planned)
        first, last = planned.layers[0].weighted, planned.layers[-1].weighted
        shape = graph.type(graph.operands(first.name)[0]).shape
        output = graph.type(graph.outputs[0])
        if any(layer.bias is not None for layer in layers):
            context.note(
                last.name, "biases are datasets: run it in lava as Network(path, reset_interval=T, reset_offset=1)"
            )
        return NetxModel(
            name=graph.name,
            encoder=Encoder(
                shape=graph.type(graph.inputs[0]).shape,
                threshold=planned.encoder.op.v_threshold.item(),
                v_init=planned.encoder.op.v_init.item(),
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

    def owns(self, artifact: Any) -> bool:
        """True for a NetxModel."""
        return isinstance(artifact, NetxModel)

    def save(self, artifact: Any, path: Path) -> None:
        """The HDF5 file."""
        artifact.save(path)


def _is_soft(planned: Plan) -> bool:
    neurons = [layer.neuron for layer in planned.layers if layer.neuron is not None]
    return all(neuron.op.v_reset is None for neuron in neurons)


def _hard(graph: Graph, planned: Plan) -> tuple[list[Layer], int]:
    """Stock layers with biases of their own. Neurons start at v_init by a pulse at step 0, which layers relay.

    Pulses come in as many channels as 254 goes into what they charge: v_init, or a relay's threshold.
    """
    coming = [0]
    for each in reversed(planned.layers[:-1]):
        assert each.neuron is not None
        charge = each.neuron.op.v_threshold if coming[0] else each.neuron.op.v_init
        coming.insert(0, -(-int(charge.item()) // WEIGHT))
    layers: list[Layer] = []
    for each, pulses, relays in zip(planned.layers, coming, [*coming[1:], 0], strict=True):
        cells = int(np.prod(layers[-1].shape[1:])) if layers else 1
        layers.append(_hard_layer(graph, each, pulses, relays, cells))
    return layers, coming[0]


def _hard_layer(graph: Graph, each: Planned, pulses: int, relays: int, cells: int) -> Layer:
    name, op, neuron = each.weighted.name, each.weighted.op, each.neuron
    shape = graph.type(name).shape
    charge = np.zeros((shape[0] + relays, pulses))
    if neuron is not None:
        charge[: shape[0]] = _shares(np.full(shape[0], neuron.op.v_init.item()), pulses)
        charge[shape[0] :] = _shares(np.full(relays, neuron.op.v_threshold.item()), pulses)
    bias = None if op.bias is None else np.concatenate([op.bias, np.zeros(relays)])
    conv: dict[str, Any] = {}
    if isinstance(op, Conv):
        weight, groups = op.weight, op.groups
        if pulses:
            tap = inner_tap(op, graph.type(graph.operands(name)[0]).shape, shape)
            assert tap is not None
            weight, groups = _charged_kernel(_ungrouped(op), charge, tap), 1
        padding = tuple(before for before, _ in op.padding)
        conv = {"stride": op.stride, "padding": padding, "dilation": op.dilation, "groups": groups}
    else:
        weight = _charged_matrix(op.weight, charge, cells)
    return Layer(
        kind="conv" if isinstance(op, Conv) else "dense",
        name=name if neuron is None else neuron.name,
        shape=(shape[0] + relays, *shape[1:]),
        weight=weight,
        bias=bias,
        threshold=_NEVER if neuron is None else _mantissa(neuron.op.v_threshold.item(), neuron.op.strict),
        current_decay=_FORGET,
        voltage_decay=_KEEP,
        relays=relays,
        **conv,
    )


def _ungrouped(op: Conv) -> Array:
    """The kernel without groups: pulses reach all of them."""
    weight = np.zeros((op.out_features, op.in_features, *op.kernel))
    rows, columns = op.out_features // op.groups, op.in_features // op.groups
    for g in range(op.groups):
        own = slice(g * rows, (g + 1) * rows)
        weight[own, g * columns : (g + 1) * columns] = op.weight[own]
    return weight


def _charged_kernel(weight: Array, charge: Array, tap: tuple[int, ...]) -> Array:
    kernel = np.zeros((len(charge), weight.shape[1] + charge.shape[1], *weight.shape[2:]))
    kernel[: len(weight), : weight.shape[1]] = weight
    kernel[:, weight.shape[1] :, tap[0], tap[1]] = charge
    return kernel


def _charged_matrix(weight: Array, charge: Array, cells: int) -> Array:
    """A pulse comes on every cell of its channel's map; the first one is taken."""
    matrix = np.zeros((len(charge), weight.shape[1] + charge.shape[1] * cells))
    matrix[: len(weight), : weight.shape[1]] = weight
    matrix[:, weight.shape[1] :: cells] = charge
    return matrix


def _mantissa(distance: float, strict: bool) -> int:
    """netx fires above ``vThMant``, and sums are even: an odd one splits them without a tie."""
    return int(distance) + (1 if strict else -1)


def _soft(planned: Plan) -> tuple[list[Layer], int]:
    """Dense layers whose neurons inhibit themselves by their threshold; biases come from always-on inputs.

    A layer takes as many always-on inputs as its bias needs weights of at most 254, or as a later layer does;
    its last neurons relay them to the next one.
    """
    needed = [_channels(each.weighted.op) for each in planned.layers]
    coming = [max(needed[i:]) for i in range(len(needed))]
    layers = [
        _soft_layer(each, inputs, relays)
        for each, inputs, relays in zip(planned.layers, coming, [*coming[1:], 0], strict=True)
    ]
    return layers, coming[0]


def _channels(op: Weighted) -> int:
    return -(-int(np.abs(op.shift).max()) // WEIGHT)


def _soft_layer(each: Planned, inputs: int, relays: int) -> Layer:
    op, neuron = each.weighted.op, each.neuron
    weight = np.concatenate([op.weight, _shares(op.shift, inputs)], axis=1)
    name = each.weighted.name
    if neuron is None:
        return Layer("dense", name, (len(weight),), weight, _NEVER, current_decay=_FORGET, voltage_decay=_KEEP)
    threshold = neuron.op.v_threshold.item()
    relay = np.concatenate([np.zeros((relays, op.in_features)), threshold * np.eye(relays, inputs)], axis=1)
    weight = np.concatenate([weight, relay])
    return Layer(
        kind="dense_rec",
        name=neuron.name,
        shape=(len(weight),),
        weight=weight,
        weight_rec=-threshold * np.eye(len(weight)),
        threshold=_mantissa(threshold - neuron.op.v_init.item(), neuron.op.strict),
        current_decay=_KEEP,
        voltage_decay=_FORGET,
        relays=relays,
    )


def _shares(bias: Array, count: int) -> Array:
    """[O, count]: columns of at most 254 that sum to the bias; the bias is even, and so are they."""
    before = np.arange(count) * WEIGHT
    return np.sign(bias)[:, None] * np.clip(np.abs(bias)[:, None] - before, 0, WEIGHT)


backend = Netx
