"""Reads a final graph as what a netx file can hold, a chain of layers, or says why it is none."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import attrs
import numpy as np

from spikec.backends.netx.converters import QUANTIZE, SINGLE, LayerNeurons, converter, part_for
from spikec.backends.netx.sim import UNITY
from spikec.ir.errors import CompileError, Problem
from spikec.ir.graph import Graph, Node
from spikec.ir.loihi import BIAS, STATE, UNROLLED, WEIGHT
from spikec.ir.op import Op, Role
from spikec.ir.ops import IF, Add, Concat, Conv, CountingMaxPool, Linear, Neuron, Weighted
from spikec.ir.types import Array

_CHAIN = "a netx file is one chain of layers"
_LINEARIZE = 'put "linearize-netx" in the pipeline, behind "fold-rescale"'
_ONE_INPUT = "let forward take one tensor x, joined along axis 1, and begin with: a, b = torch.split(x, [A, B], 1)"
_ONE_OUTPUT = (
    "let forward return torch.cat([a.flatten(1), b.flatten(1)], 1), and split what the file puts out, "
    'or use the target "spikingjelly"'
)
_ELSEWHERE = 'use another target, such as "nir", or a model without it'
_SMALLER = f'make it smaller: up to {UNROLLED} neurons are unrolled; or use the target "spikingjelly"'


@attrs.frozen
class PlannedLayer:
    """One layer of the file: weights, and the neurons behind them.

    Attributes:
        name: of the node that its weights come from.
        affine: its weights.
        neuron: the node behind it that its neurons come from, ``""`` for the output layer.
        neurons: None for the output layer.
    """

    name: str
    affine: Linear | Conv
    neuron: str = ""
    neurons: LayerNeurons | None = None


@attrs.frozen
class Plan:
    """A graph read as a chain of layers.

    Attributes:
        encoder: the neuron on the host.
        signed: the host splits its input by sign.
        layers: in order; at least one.
        problems: why there is no file for it; the other fields are complete only if there is none.
    """

    encoder: IF | None = None
    signed: bool = False
    layers: tuple[PlannedLayer, ...] = ()
    problems: tuple[Problem, ...] = ()


#: a node, and what it is in the file; None for the output
Part = tuple[str, "Linear | Conv | LayerNeurons | None"]


def plan(graph: Graph) -> Plan:
    """Read the chain, and find all problems of the first kind that there is: wiring, order, form, numbers."""
    problems = _wiring(graph)
    if problems:
        return Plan(problems=tuple(problems))
    chain = [node for node in graph.match(Op) if node.op.role is not Role.IO]
    signed = bool(chain) and isinstance(chain[0].op, Weighted) and _is_split(chain[0].op)
    encoder = chain[signed].op if len(chain) > signed else None
    if type(encoder) is not IF:
        first = chain[0].name if chain else graph.outputs[0]
        return Plan(problems=(graph.problem(first, "its input is not spikes", 'put "encode-input" in the pipeline'),))
    problems = [*_encoder(graph, chain[signed].name, encoder)]
    parts = _parts(graph, chain[signed + 1 :], problems)
    misplaced: list[Problem] = []
    layers = tuple(_layers(graph, parts, misplaced))
    problems = problems or misplaced  # a part that was refused is missing in the order
    if not problems:
        for i, layer in enumerate(layers):
            problems += _form(graph, layer, layers[i - 1].name if i else "")
        problems += _channels_on_maps(graph, layers)
    if not problems:
        problems = [problem for layer in layers for problem in _numbers(graph, layer)]
    return Plan(encoder, signed, layers, tuple(problems))


def _wiring(graph: Graph) -> list[Problem]:
    """Find what is not one chain of ops that netx has; a fork is reported only if no join behind it is."""
    found = []
    for names, what, hint in ((graph.inputs, "inputs", _ONE_INPUT), (graph.outputs, "outputs", _ONE_OUTPUT)):
        for name in names[1:]:
            found.append(graph.problem(name, f"the model has {len(names)} {what}, a netx file has one", hint))
    if found:
        return found
    inner = [node for node in graph.match(Op) if node.op.role is not Role.IO]
    missing = [node for node in inner if converter.for_class(type(node.op)) is None]
    found += [graph.problem(node.name, *_missing(graph, node.op)) for node in missing]
    if not found:
        for node in graph.match(Op):
            if len(graph.users(node.name)) > 1:
                found.append(graph.problem(node.name, f"its result goes several ways; {_CHAIN}", _LINEARIZE))
    first: dict[tuple[str, str], Problem] = {}
    for problem in found:
        first.setdefault((problem.message, problem.location or problem.op), problem)
    return list(first.values())


def _by_unrolling(graph: Graph, effect: str, otherwise: str) -> str:
    """Return the hint to reset softly, where all layers are small enough for that, with another way; else only that."""
    sizes = [math.prod(graph.type(node.name).shape) for node in graph.match(Neuron)[1:]]
    return f'use reset="soft"{effect}, or {otherwise}' if max(sizes, default=0) <= UNROLLED else otherwise


def _missing(graph: Graph, op: Op) -> tuple[str, str]:
    if isinstance(op, (Add, Concat)):
        return f"{op.kind} joins branches; {_CHAIN}", _LINEARIZE
    if isinstance(op, CountingMaxPool):
        return "netx has no max-pool that counts spikes", op.hint
    if op.role is Role.LINEAR:
        message = f"netx has no {op.kind}, and it did not fold into a layer next to it"
        return message, _by_unrolling(graph, "", 'use the target "spikingjelly", or leave it out')
    if isinstance(op, Neuron):
        return f"netx has no {op.kind}", 'register a converter for it, or use the target "spikingjelly"'
    return f"netx has no {op.kind}", _ELSEWHERE


def _is_split(op: Weighted) -> bool:
    """Return True for ``(x_c, -x_c)`` of every channel, which the pass encode-input puts there."""
    channels = op.out_features // 2
    signs = np.tile([1.0, -1.0], channels)
    if op.bias is not None or op.out_features != 2 * channels or op.in_features != channels:
        return False
    if isinstance(op, Conv):
        return op.groups == channels and op.weight.size == 2 * channels and np.array_equal(op.weight.reshape(-1), signs)
    return np.array_equal(op.weight, np.eye(channels).repeat(2, axis=0) * signs[:, None])


def _encoder(graph: Graph, name: str, op: IF) -> Iterator[Problem]:
    if op.v_threshold.size > 1 or op.v_init.size > 1 or op.v_reset is not None or op.strict:
        message = "the host's encoder has one threshold and resets by subtraction"
        yield graph.problem(name, message, 'use "encode-input"')


def _parts(graph: Graph, chain: Sequence[Node[Op]], problems: list[Problem]) -> list[Part]:
    """Convert the nodes behind the encoder; the output is the last. Converters' errors join the problems."""
    parts: list[Part] = []
    for node in chain:
        try:
            part = part_for(node.op, graph.type(graph.operands(node.name)[0]), graph.type(node.name))
        except CompileError as error:
            problems.append(graph.problem(node.name, error.problems[0].message, error.hint))
            continue
        if part is not None:
            parts.append((node.name, part))
    return [*parts, (graph.outputs[0], None)]


def _layers(graph: Graph, parts: Sequence[Part], problems: list[Problem]) -> Iterator[PlannedLayer]:
    """Pair weights and neurons; where the order is not layer, neuron, ..., layer, output, a problem is added."""
    for (before, weights), (name, part) in pairwise([("", None), *parts]):
        if isinstance(part, (Linear, Conv)):
            if isinstance(weights, (Linear, Conv)):
                message = "two layers without a neuron between them, and they did not fold into one"
                hint = _by_unrolling(graph, ", which makes one matrix of them", "put a ReLU between them")
                problems.append(graph.problem(name, message, hint))
        elif isinstance(weights, (Linear, Conv)):
            yield PlannedLayer(before, weights, name if part else "", part)
        else:
            message = f"{graph[name].kind} without a layer in front of it"
            problems.append(graph.problem(name, message, "put a Linear there"))


def _form(graph: Graph, layer: PlannedLayer, before: str) -> Iterator[Problem]:
    """Find why netx has no such layer; ``before`` is the layer before, or ``""``."""
    name, op, neurons = layer.name, layer.affine, layer.neurons
    shape = graph.type(graph.operands(name)[0]).shape
    is_small = math.prod(graph.type(name).shape) <= UNROLLED
    unrolled = 'put "legalize-netx" in the pipeline' if is_small else _SMALLER
    leaks = neurons is not None and bool(np.any(neurons.decay) or np.any(neurons.current_decay != UNITY))
    if neurons is not None and leaks and (neurons.soft or not neurons.strict):
        message = "a neuron that leaks fires above its threshold in netx, and a spike clears it"
        yield graph.problem(layer.neuron, message, "use v_reset=0 and strict=True")
    if not isinstance(op, Conv):
        if len(shape) != 1:
            yield graph.problem(name, "a Linear over the last axis of a map is no netx layer", unrolled)
        return
    if len(op.kernel) != 2:
        message = f"netx has 2-d convolutions only, this is {len(op.kernel)}-d"
        yield graph.problem(name, message, unrolled)
    if any(a != b for a, b in op.padding):
        yield graph.problem(name, "netx pads both sides alike", 'put "legalize-netx" in the pipeline')
    if before and graph.type(before).shape != shape:
        yield graph.problem(name, "netx has no reshape in front of a convolution", unrolled)
    if neurons is None:
        return
    if neurons.weight_rec is not None:
        message = "netx cannot feed spikes back to a convolution"
        yield graph.problem(layer.neuron, message, 'use reset="hard"')
    for values in map(np.asarray, (neurons.decay, neurons.current_decay, neurons.bias)):
        if values.ndim and (values != values.reshape(len(values), -1)[:, :1].reshape(-1, 1, 1)).any():
            message = "its decays or constant currents differ within a channel"
            yield graph.problem(layer.neuron, message, f"give a channel one of each, or {unrolled}")


def _numbers(graph: Graph, layer: PlannedLayer) -> Iterator[Problem]:
    """Find why netx would not take a layer's numbers as they are."""
    name, op, neurons = layer.name, layer.affine, layer.neurons
    if not _even(op.weight, WEIGHT) or not op.weight.any():
        message = f"its weights are not even integers in [-{WEIGHT}, {WEIGHT}], or all zero"
        yield graph.problem(name, message, QUANTIZE)
    if not _even(op.shift, BIAS):
        yield graph.problem(name, f"its biases are not even integers in [-{BIAS}, {BIAS}]", QUANTIZE)
    if neurons is None:
        return
    least = neurons.threshold - (neurons.strict and neurons.threshold % 2)  # an odd one is compared with even sums
    if not _even(least, STATE) or not _even(neurons.v_init):
        yield graph.problem(layer.neuron, SINGLE, QUANTIZE)
    elif neurons.weight_rec is not None and not _even(neurons.weight_rec, WEIGHT):
        message = f"its recurrent weights are not even integers in [-{WEIGHT}, {WEIGHT}]"
        yield graph.problem(layer.neuron, message, QUANTIZE)
    elif not _even(neurons.bias, BIAS):
        message = f"its constant currents are not even integers in [-{BIAS}, {BIAS}]"
        yield graph.problem(layer.neuron, message, QUANTIZE)
    elif neurons.v_init < 0:
        message = f"neurons in netx start at 0 or above, v_init is {neurons.v_init:g}"
        yield graph.problem(layer.neuron, message, "give them a v_init that is not below v_reset")
    elif neurons.soft and (neurons.threshold > WEIGHT or neurons.v_init >= neurons.threshold):
        message = f"soft reset takes a threshold up to {WEIGHT}, above v_init"
        yield graph.problem(layer.neuron, message, QUANTIZE)


def _channels_on_maps(graph: Graph, layers: Sequence[PlannedLayer]) -> Iterator[Problem]:
    """Find where channels of pulses or of constants cannot get through a convolution, or would come too late."""
    recurs = any(layer.neurons is not None and layer.neurons.recurs for layer in layers)
    behind = False
    for layer in reversed(layers):
        op, neurons = layer.affine, layer.neurons
        to_potential, to_current = biases(layer, recurs)
        if recurs and to_potential.any():
            message = "v_leak is not where the neuron is reset to, and in this net a current comes back to a layer"
            yield graph.problem(layer.neuron, message, "give it a v_leak equal to its v_reset")
        starts = neurons is not None and bool(neurons.v_init) and not neurons.soft
        behind = behind or starts or bool(to_current.any())
        shapes = graph.type(graph.operands(layer.name)[0]).shape, graph.type(layer.name).shape
        if behind and isinstance(op, Conv) and op.inner_tap(*shapes) is None:
            what = "v_init" if starts else "what charges or feeds its neurons, or those behind it, from outside"
            message = f"no cell of its kernel lies on the map at every step, to carry {what}"
            soft = neurons is not None and neurons.soft
            charged = "use less padding, or neurons that start where they are reset to: Normalization(v_init=0)"
            other = charged if starts else "use less padding, or layers without bias and v_init"
            hint = 'use reset="hard", or less padding' if soft else other
            yield graph.problem(layer.name, message, hint)
            return


def biases(layer: PlannedLayer, recurs: bool) -> tuple[Array, Array]:
    """Return [O]: what is added to a layer's potentials at every step, and to its currents by channels always on.

    Args:
        layer: of a plan.
        recurs: whether spikes come back to their layer anywhere in the file: then lava does not start each layer's
            sample at a step of its own, and what is added to potentials would come too early.
    """
    shift, neurons = layer.affine.shift, layer.neurons
    to_potential = np.zeros_like(shift) if neurons is None else by_feature(neurons.bias, len(shift))
    if neurons is not None and (neurons.soft or np.any(neurons.current_decay != UNITY)):
        return to_potential, shift  # the current remembers what comes in
    both, nothing = shift + to_potential, np.zeros_like(shift)
    return (nothing, both) if recurs else (both, nothing)


def by_feature(values: int | Array, features: int) -> Array:
    """Return one value for each feature of a layer, of one for all or one for each neuron."""
    return np.full(features, values) if np.ndim(values) == 0 else np.reshape(values, (features, -1))[:, 0]


def _even(values: Array | float, limit: float = np.inf) -> bool:
    array = np.asarray(values)
    return bool(((array % 2) == 0).all() and (np.abs(array) <= limit).all())
