"""Reads a final graph as what a netx file can hold, a chain of layers, or says why it is none."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import attrs
import numpy as np

from spikec.ir.errors import Problem
from spikec.ir.graph import Graph, Node
from spikec.ir.op import Op, Role
from spikec.ir.ops import IF, Conv, Flatten, Input, Output, Reshape, Weighted
from spikec.ir.types import Array

#: what weights, and the feedback of soft reset, may be: even integers
WEIGHT = 254

_CHAIN = "a netx file is one chain of layers"
_ELSEWHERE = 'use another target, such as "nir", or a model without it'
_QUANTIZE = 'put "quantize-netx" at the end of the pipeline'


@attrs.frozen
class Planned:
    """One layer: an affine op and the neuron behind it, None for the output layer."""

    weighted: Node[Weighted]
    neuron: Node[IF] | None


@attrs.frozen
class Plan:
    """A graph as a chain.

    Attributes:
        encoder: the neuron on the host.
        signed: the host splits its input by sign.
        layers: in order; at least one.
        problems: why there is no file for it; the other fields are complete only if there is none.
    """

    encoder: Node[IF] | None = None
    signed: bool = False
    layers: tuple[Planned, ...] = ()
    problems: tuple[Problem, ...] = ()


def plan(graph: Graph) -> Plan:
    """The chain, and all problems of the first kind found: wiring, order, form, numbers."""
    problems = _wiring(graph)
    if problems:
        return Plan(problems=tuple(problems))
    chain = [node for node in graph.match(Op) if isinstance(node.op, (Weighted, IF, Output))]
    signed = isinstance(chain[0].op, Weighted) and _is_split(chain[0].op)
    start = 1 if signed else 0
    encoder = chain[start]
    if not isinstance(encoder.op, IF) or graph.operands(chain[0].name)[0] not in graph.inputs:
        problem = graph.problem(chain[0].name, "its input is not spikes", 'put "encode-input" in the pipeline')
        return Plan(problems=(problem,))
    problems = [*_encoder(graph, encoder), *_order(graph, chain[start + 1 :])]
    layers = tuple(_layers(chain[start + 1 :]))
    if not problems:
        for i, layer in enumerate(layers):
            problems += _form(graph, layer, layers[i - 1].weighted if i else None)
        problems += _resets(graph, [layer.neuron for layer in layers if layer.neuron is not None])
    if not problems:
        problems = [problem for layer in layers for problem in _numbers(graph, layer)]
    return Plan(Node(encoder.name, encoder.op), signed, layers, tuple(problems))


def _wiring(graph: Graph) -> list[Problem]:
    """One chain of ops that a file can hold; a fork is reported only if no join behind it is."""
    found = []
    for names, what in ((graph.inputs, "inputs"), (graph.outputs, "outputs")):
        for name in names[1:]:
            found.append(graph.problem(name, f"the model has {len(names)} {what}, a netx file has one", _ELSEWHERE))
    for node in graph.match(Op):
        if not isinstance(node.op, (Input, Output, Weighted, IF, Flatten, Reshape)):
            found.append(graph.problem(node.name, *_missing(node.op)))
    if not found:
        for node in graph.match(Op):
            if len(graph.users(node.name)) > 1:
                found.append(graph.problem(node.name, f"its result goes several ways; {_CHAIN}", _ELSEWHERE))
    first: dict[tuple[str, str], Problem] = {}
    for problem in found:
        first.setdefault((problem.message, problem.location or problem.op), problem)
    return list(first.values())


def _missing(op: Op) -> tuple[str, str]:
    if any("maxpool" in source.kind.lower().replace("_", "") for source in op.origin):
        return f"max pooling compares branches; {_CHAIN}", "use average pooling, or a convolution with a stride"
    if op.kind in ("add", "concat"):
        return f"{op.kind} joins branches; {_CHAIN}", _ELSEWHERE
    if op.role is Role.LINEAR:
        return (
            f"netx has no {op.kind}, and it did not fold into a layer next to it",
            'use reset="soft", or leave it out',
        )
    return f"netx has no {op.kind}", _ELSEWHERE


def _is_split(op: Weighted) -> bool:
    """``(x_c, -x_c)`` for every channel, see encode-input."""
    channels = op.out_features // 2
    signs = np.tile([1.0, -1.0], channels)
    if op.bias is not None or op.out_features != 2 * channels or op.in_features != channels:
        return False
    if isinstance(op, Conv):
        return op.groups == channels and op.weight.size == 2 * channels and np.array_equal(op.weight.reshape(-1), signs)
    return np.array_equal(op.weight, np.eye(channels).repeat(2, axis=0) * signs[:, None])


def _encoder(graph: Graph, node: Node[Op]) -> Iterator[Problem]:
    op = node.op
    assert isinstance(op, IF)
    if op.v_threshold.size > 1 or op.v_init.size > 1 or op.v_reset is not None or op.strict:
        yield graph.problem(
            node.name, "the host's encoder has one threshold and resets by subtraction", 'use "encode-input"'
        )


def _order(graph: Graph, chain: list[Node[Op]]) -> Iterator[Problem]:
    """Layer, neuron, layer, neuron, ..., layer, output."""
    wanted: type[Op] = Weighted
    for node in chain:
        if wanted is Weighted and not isinstance(node.op, Weighted):
            yield graph.problem(node.name, f"{node.op.kind} without a layer in front of it", "put a Linear there")
        elif wanted is IF and isinstance(node.op, Weighted):
            yield graph.problem(
                node.name,
                "two layers without a neuron between them, and they did not fold into one",
                'use reset="soft", which makes one matrix of them, or put a ReLU between them',
            )
        wanted = IF if isinstance(node.op, Weighted) else Weighted


def _layers(chain: list[Node[Op]]) -> Iterator[Planned]:
    for node, reader in pairwise(chain):
        if isinstance(node.op, Weighted):
            neuron = Node(reader.name, reader.op) if isinstance(reader.op, IF) else None
            yield Planned(Node(node.name, node.op), neuron)


def _form(graph: Graph, layer: Planned, before: Node[Weighted] | None) -> Iterator[Problem]:
    """A layer that netx has."""
    name, op = layer.weighted.name, layer.weighted.op
    shape = graph.type(graph.operands(name)[0]).shape
    if not isinstance(op, Conv):
        if len(shape) != 1:
            yield graph.problem(name, "a Linear over the last axis of a map is no netx layer", 'use reset="soft"')
        return
    if len(op.kernel) != 2:
        yield graph.problem(
            name, f"netx has 2-d convolutions only, this is {len(op.kernel)}-d", 'use reset="soft", which unrolls it'
        )
    if any(a != b for a, b in op.padding):
        yield graph.problem(name, "netx pads both sides alike", 'put "legalize-netx" in the pipeline')
    if before is not None and graph.type(before.name).shape != shape:
        yield graph.problem(name, "netx has no reshape in front of a convolution", 'use reset="soft"')
    if layer.neuron is None:
        return
    if layer.neuron.op.v_reset is None:
        yield graph.problem(
            layer.neuron.name, "netx cannot reset by subtraction behind a convolution", 'use reset="hard"'
        )
    if layer.neuron.op.v_init.any() and inner_tap(op, shape, graph.type(name).shape) is None:
        yield graph.problem(
            name, "no cell of its kernel lies on the map at every step, to carry v_init", "use Normalization(v_init=0)"
        )


def inner_tap(op: Conv, operand: tuple[int, ...], result: tuple[int, ...]) -> tuple[int, ...] | None:
    """A kernel cell that never lies on padding, if there is one."""
    found = []
    for i, (k, s, d, (pad, _)) in enumerate(zip(op.kernel, op.stride, op.dilation, op.padding, strict=True), start=1):
        last = operand[i] - 1 + pad - (result[i] - 1) * s
        inside = [j for j in range(k) if pad <= j * d <= last]
        if not inside:
            return None
        found.append(inside[len(inside) // 2])
    return tuple(found)


def _numbers(graph: Graph, layer: Planned) -> Iterator[Problem]:
    """Integers that netx takes as they are."""
    name, op = layer.weighted.name, layer.weighted.op
    if not _even(op.weight, WEIGHT) or not op.weight.any():
        message = f"its weights are not even integers in [-{WEIGHT}, {WEIGHT}], or all zero"
        yield graph.problem(name, message, _QUANTIZE)
    if not _even(op.shift, 4094):
        yield graph.problem(name, "its biases are not even integers in [-4094, 4094]", _QUANTIZE)
    if layer.neuron is not None:
        yield from _neuron(graph, layer.neuron)


def _neuron(graph: Graph, node: Node[IF]) -> Iterator[Problem]:
    op = node.op
    if op.v_threshold.size > 1 or op.v_init.size > 1 or not _even(op.v_threshold, 131_070) or not _even(op.v_init):
        yield graph.problem(node.name, "a layer's neurons have one threshold and one v_init, even integers", _QUANTIZE)
    elif op.v_reset is None:
        if op.v_threshold.item() > WEIGHT or op.v_init.item() >= op.v_threshold.item():
            yield graph.problem(node.name, f"soft reset takes a threshold up to {WEIGHT}, above v_init", _QUANTIZE)
    elif np.any(op.v_reset):
        yield graph.problem(node.name, "hard reset in netx is to zero", 'put "reset-netx" in the pipeline')


def _resets(graph: Graph, neurons: list[Node[IF]]) -> Iterator[Problem]:
    hard = [node for node in neurons if node.op.v_reset is not None]
    if hard and len(hard) < len(neurons):
        yield graph.problem(hard[0].name, "soft and hard reset in one net", 'leave it to the passes: reset="hard"')


def _even(values: Array, limit: float = np.inf) -> bool:
    array = np.asarray(values)
    return bool(((array % 2) == 0).all() and (np.abs(array) <= limit).all())
