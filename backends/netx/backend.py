"""The target ``netx``: an HDF5 file for Loihi 2 that stock lava-dl netx loads, and its integer simulation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
import numpy as np

from spikec.backends.netx.contents import Encoder
from spikec.backends.netx.converters import LayerNeurons
from spikec.backends.netx.model import NetxNetwork
from spikec.backends.netx.plan import PlannedLayer, biases, by_feature, plan
from spikec.backends.netx.sim import NEVER, UNITY, IntegerLayer
from spikec.extend.backend import Backend, at_least_one
from spikec.extend.passbase import Context
from spikec.ir.errors import Problem
from spikec.ir.graph import Graph
from spikec.ir.loihi import WEIGHT
from spikec.ir.ops import Conv
from spikec.ir.ops.weighted import block_diagonal
from spikec.ir.types import Array

#: a decay that keeps all at every step
_KEEP = 0


@attrs.frozen
class Netx(Backend):
    """Emits a :class:`NetxNetwork`.

    Attributes:
        reset: ``soft`` (by subtraction: exact rates, all layers dense and recurrent, convolutions unrolled, up to
            2,000 neurons a layer; larger convolutions stay, and need our loader for lava; the file then holds a network
            with hard reset too, which is what stock netx reads), ``hard`` (to zero: rates do not converge to the
            ANN's), or ``auto``: soft, but for convolutions up to the last layer that is too large for it. A
            spiking model's own hard reset stays.
        input: ``values``, which the host makes into spikes, or ``spikes``: then it is run on [T, B, ...] of 0 and 1.
        neurons: for each value of a ReLU: the more, the nearer to the ANN. With a fraction, such as 1.5, how many times
            as many neurons there may be, see ``replicate-neurons``.
    """

    name: ClassVar[str] = "netx"
    suffix: ClassVar[str] = ".net"
    order: ClassVar[str] = "netx"
    thresholds: ClassVar[str] = "uniform"
    artifacts: ClassVar[tuple[type, ...]] = (NetxNetwork,)

    reset: Literal["auto", "soft", "hard"] = attrs.field(
        default="auto", validator=attrs.validators.in_(("auto", "soft", "hard"))
    )
    input: Literal["values", "spikes"] = attrs.field(
        default="values", validator=attrs.validators.in_(("values", "spikes"))
    )
    neurons: float = attrs.field(default=1, validator=at_least_one)

    @property
    def takes_spikes(self) -> bool:
        """True where the user says that the input is spikes."""
        return self.input == "spikes"

    @property
    def neuron_budget(self) -> int:
        """None: the squares of a product of matrices stand in cells of four axes."""
        return 0

    def check(self, graph: Graph) -> list[Problem]:
        """List what keeps the graph from being one chain of integer layers."""
        return list(plan(graph).problems)

    def emit(self, graph: Graph, context: Context) -> Any:
        """Make the integer model; its spikes are those of the graph, one for one."""
        made = self.integer_model(graph, context)
        beside = context.beside.get("fall-back-netx")
        if beside is None:
            return made
        if problems := plan(beside).problems:
            context.note("", f"stock netx resets this network to zero as it stands: {problems[0].message}")
            return made
        return attrs.evolve(made, fall_back=self.integer_model(beside, context))

    def integer_model(self, graph: Graph, context: Context) -> NetxNetwork:
        """Make the artifact; for other targets that carry the same network."""
        planned = plan(graph)
        host = planned.encoder
        assert host is not None
        given = graph.type(graph.inputs[0]).shape
        encoder = Encoder(given, host.v_threshold.item(), host.v_init.item(), planned.signed)
        first, last = planned.layers[0], planned.layers[-1]
        layers, constants, pulses = _layers(graph, planned.layers)
        more = constants + pulses
        shape = graph.type(graph.operands(first.name)[0]).shape
        output = graph.type(graph.outputs[0])
        if any(layer.bias is not None for layer in layers):
            context.note(
                last.name, "biases are datasets: run it in lava as Network(path, reset_interval=T, reset_offset=1)"
            )
        return NetxNetwork(
            name=graph.name,
            encoder=None if self.takes_spikes else encoder,
            layers=tuple(layers),
            reset="soft" if any(layer.weight_rec is not None for layer in layers) else "hard",
            constants=constants,
            pulses=pulses,
            input_shape=(shape[0] + more, *shape[1:]),
            output_scale=output.scale,
            output_shape=output.shape,
            timesteps=context.timesteps or 0,
        )

    def save(self, artifact: Any, path: Path) -> None:
        """Write the HDF5 file."""
        artifact.save(path)


def _layers(graph: Graph, planned: Sequence[PlannedLayer]) -> tuple[list[IntegerLayer], int, int]:
    """Return the file's layers, and how many channels it takes behind its input: some always on, and some pulses.

    A bias is a dataset, added to potentials at every step, where a layer forgets its currents, and lava can start each
    layer's sample at a step of its own: not where spikes come back to their layer. Elsewhere it is weights of channels
    that are always on. A neuron that starts at v_init is charged by a pulse at step 0, but for soft reset, where its
    threshold is lower instead. Both come in as many channels as 254 goes into what they charge, and layers relay them
    to those behind.
    """
    recurs = any(each.neurons is not None and each.neurons.recurs for each in planned)
    constants, pulses = [0], [0]
    for each in reversed(planned):
        relay = 0 if each.neurons is None else _relay_charge(each.neurons)
        start = 0 if each.neurons is None or each.neurons.soft else each.neurons.v_init
        constants.insert(0, _channels(np.abs(biases(each, recurs)[1]).max(), relay if constants[0] else 0))
        pulses.insert(0, _channels(start, relay if pulses[0] else 0))
    layers: list[IntegerLayer] = []
    for i, each in enumerate(planned):
        cells = int(np.prod(layers[-1].shape[1:])) if layers else 1
        layers.append(_layer(graph, each, recurs, constants[i : i + 2], pulses[i : i + 2], cells))
    return layers, constants[0], pulses[0]


def _channels(*charges: float) -> int:
    """Return how many weights reach the largest charge."""
    return -(-int(max(charges)) // WEIGHT)


def _relay_charge(neurons: LayerNeurons) -> int:
    """Return an even charge, and the least, by which a neuron fires that starts at 0."""
    return 2 * (_mantissa(neurons.threshold, neurons.strict) // 2 + 1)


def _mantissa(threshold: float, strict: bool) -> int:
    """Return the ``vThMant`` of a threshold, even if not strict, as all sums are: netx fires above it."""
    return int(threshold) - (not strict)


def _layer(
    graph: Graph, each: PlannedLayer, recurs: bool, constants: Sequence[int], pulses: Sequence[int], cells: int
) -> IntegerLayer:
    """Return one layer.

    Args:
        graph: it is from.
        each: what it is.
        recurs: whether spikes come back to their layer anywhere in the file.
        constants, pulses: how many channels of each kind it is fed, and how many it relays.
        cells: of a channel's map in the layer before.
    """
    op, neurons, shape = each.affine, each.neurons, graph.type(each.name).shape
    relays = constants[1] + pulses[1]
    to_potential, to_current = biases(each, recurs)
    charge = np.zeros((shape[0] + relays, constants[0] + pulses[0]))
    charge[: shape[0], : constants[0]] = _shares(to_current, constants[0])
    current_decay, voltage_decay, threshold = np.full(shape[0], UNITY), np.full(shape[0], _KEEP), NEVER
    if neurons is not None:
        start, own = (neurons.v_init, 0) if neurons.soft else (0, neurons.v_init)
        charge[: shape[0], constants[0] :] = _shares(np.full(shape[0], own), pulses[0])
        relayed = _relay_charge(neurons)
        charge[shape[0] :][: constants[1], : constants[0]] = _shares(np.full(constants[1], relayed), constants[0])
        charge[shape[0] :][constants[1] :, constants[0] :] = _shares(np.full(pulses[1], relayed), pulses[0])
        threshold = _mantissa(neurons.threshold - start, neurons.strict)
        # with soft reset the current is the potential: it keeps what comes in
        current_decay = by_feature(_KEEP if neurons.soft else neurons.current_decay, shape[0])
        voltage_decay = by_feature(UNITY if neurons.soft else neurons.decay, shape[0])
    weight, conv = _fed(graph, each, charge, cells)
    return IntegerLayer(
        kind="conv" if isinstance(op, Conv) else "dense_rec" if neurons is not None and neurons.recurs else "dense",
        name=each.neuron or each.name,
        shape=(shape[0] + relays, *shape[1:]),
        weight=weight,
        weight_rec=None if neurons is None else _recurrent(neurons, shape[0], relays),
        bias=_padded(to_potential, relays, 0) if to_potential.any() else None,
        threshold=threshold,
        current_decay=_padded(current_decay, relays, _relay_decay(neurons, pulses[1])),
        voltage_decay=_padded(voltage_decay, relays, voltage_decay[0]),
        relays=relays,
        **conv,
    )


def _relay_decay(neurons: LayerNeurons | None, pulses: int) -> int:
    """Return what relays lose of their current: all, or as their layer does, for blocks of lava-dl have one decay.

    A relay of a channel that is always on fires at every step, also if its current stays, unless that grows too large.
    One of a pulse would fire again. With soft reset a relay inhibits itself, as its neighbours do.
    """
    if neurons is None or neurons.soft:
        return _KEEP
    lost = neurons.current_decay
    if pulses or not isinstance(lost, int) or _relay_charge(neurons) * UNITY >= NEVER * lost:
        return UNITY
    return lost


def _padded(values: Array, count: int, value: float) -> Array:
    return np.concatenate([values, np.full(count, value)])


def _fed(graph: Graph, each: PlannedLayer, charge: Array, cells: int) -> tuple[Array, dict[str, Any]]:
    """Return the weights with those [O + relays, more] of more channels, and the options of a convolution."""
    op, (outputs, more) = each.affine, charge.shape
    shape = graph.type(each.name).shape
    weight, conv = op.weight, dict[str, Any]()
    space: tuple[int, ...] = (cells,)  # a channel comes on every cell of its map: the first one is taken
    taken: tuple[int, ...] | None = (0,)
    if isinstance(op, Conv):
        space, taken = op.kernel, op.inner_tap(graph.type(graph.operands(each.name)[0]).shape, shape)
        groups = 1 if more else op.groups  # the channels reach all groups
        padding = tuple(before for before, _ in op.padding)
        conv = {"stride": op.stride, "padding": padding, "dilation": op.dilation, "groups": groups}
        weight = weight if groups == op.groups else block_diagonal(weight, op.groups)
    if not more:
        return weight, conv
    assert taken is not None
    charges = np.zeros((*space, *charge.shape))
    charges[taken] = charge
    charges = np.moveaxis(charges, (-2, -1), (0, 1)).reshape(outputs, -1, *weight.shape[2:])
    rows = np.zeros((outputs - len(weight), *weight.shape[1:]))
    return np.concatenate([np.concatenate([weight, rows]), charges], axis=1), conv


def _recurrent(neurons: LayerNeurons, features: int, relays: int) -> Array | None:
    """Return the weights from a layer's spikes to its own currents: with soft reset neurons inhibit themselves."""
    if neurons.soft:
        charges = _padded(np.full(features, neurons.threshold), relays, _relay_charge(neurons))
        return -np.diag(charges)
    return None if neurons.weight_rec is None else np.pad(neurons.weight_rec, (0, relays))


def _shares(charges: Array, count: int) -> Array:
    """Return [O, count]: columns of at most 254 that sum to the charges; those are even, and so are they."""
    before = np.arange(count) * WEIGHT
    return np.sign(charges)[:, None] * np.clip(np.abs(charges)[:, None] - before, 0, WEIGHT)


backend = Netx
