"""A spiking graph in the shape of a netx file: layers that stock netx has, with the reset it can do."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import attrs
import numpy as np
import torch

from spikec.extend.passbase import Context, Pass
from spikec.ir.errors import UnsupportedOpError
from spikec.ir.graph import Graph
from spikec.ir.op import Op, Role, tensor_cache
from spikec.ir.ops import Conv, Flatten, Linear, Neuron, Output, Reshape, Weighted
from spikec.ir.ops.weighted import diagonal
from spikec.ir.stages import SNN, Stage
from spikec.ir.types import Array, channel_scale

Reset = Literal["auto", "soft", "hard"]


@attrs.frozen
class LegalizeNetx(Pass):
    """Put an affine layer in front of every output, and choose how neurons reset.

    Stock netx resets by subtraction in one layer type only, dense with a recurrent weight matrix. So for soft
    reset every convolution, and every Linear over the last axis of a map, is unrolled into its matrix over
    the flattened map. For hard reset convolutions stay, uneven padding becomes zeros of the kernel.

    Attributes:
        reset: ``soft``, ``hard``, or ``auto``: soft if no layer has more than ``limit`` neurons.
        limit: the matrix has the square of it as entries; netx takes 12 s to load 4096 neurons, 0.3 s for 1024.
    """

    name: ClassVar[str] = "legalize-netx"
    needs: ClassVar[tuple[Stage, ...]] = SNN

    reset: Reset = attrs.field(default="auto", validator=attrs.validators.in_(("auto", "soft", "hard")))
    limit: int = 2000

    def run(self, graph: Graph, context: Context) -> int:
        """Readouts first; an op that netx has not stays, the backend refuses it by the user's layer."""
        changes = sum(_readout(graph, node.name) for node in graph.match(Output))
        soft = self._is_soft(graph, context)
        for node in graph.match(Weighted):
            if not _is_behind_neuron(graph, node.name):
                continue
            if soft and (isinstance(node.op, Conv) or len(graph.type(node.name).shape) > 1):
                _unroll(graph, node.name)
                changes += 1
            elif isinstance(node.op, Conv) and any(before != after for before, after in node.op.padding):
                graph.set_op(node.name, _evenly_padded(node.op))
                changes += 1
        return changes

    def _is_soft(self, graph: Graph, context: Context) -> bool:
        if self.reset == "hard":
            return False
        layers = [node.name for node in graph.match(Neuron) if _is_behind_neuron(graph, node.name)]
        large = [name for name in layers if math.prod(graph.type(name).shape) > self.limit]
        if large and self.reset == "soft":
            raise UnsupportedOpError(
                [
                    graph.problem(
                        name,
                        f"{math.prod(graph.type(name).shape)} neurons in a layer: soft reset in netx is unrolled into "
                        f"a matrix, for up to {self.limit} neurons",
                        'use reset="hard" or "auto"',
                    )
                    for name in large
                ]
            )
        if large:
            context.note(
                large[0],
                f"{math.prod(graph.type(large[0]).shape)} neurons are more than {self.limit}: hard reset in all "
                "layers, which costs accuracy",
            )
        return not large


def _is_behind_neuron(graph: Graph, name: str) -> bool:
    """True if spikes reach it: the host's encoder, and what is in front of it, is no layer of the file."""
    todo = list(graph.operands(name))
    while todo:
        each = todo.pop()
        if graph[each].role is Role.NEURON:
            return True
        todo += graph.operands(each)
    return False


def _readout(graph: Graph, name: str) -> int:
    """The output layer of a file is affine: put an identity in front of an output that has none."""
    (source,) = graph.operands(name)
    while isinstance(graph[source], (Flatten, Reshape)):
        (source,) = graph.operands(source)
    if isinstance(graph[source], Weighted) and len(graph.users(source)) == 1:
        return 0
    operand = graph.type(graph.operands(name)[0])
    scale = channel_scale(operand, 0, "the readout")
    identity = diagonal(np.ones(operand.shape[0]), None, len(operand.shape), in_scale=scale, out_scale=scale)
    graph.insert_before(name, 0, identity, new=f"{name}_readout")
    return 1


def _unroll(graph: Graph, name: str) -> None:
    """``conv`` becomes ``flatten -> linear -> reshape``; the matrix by one backward sweep over the identity."""
    op = graph[name]
    assert isinstance(op, Weighted)
    (source,) = graph.operands(name)
    operand, result = graph.type(source), graph.type(name)
    size = math.prod(result.shape)
    with tensor_cache(), torch.inference_mode(False), torch.enable_grad():
        rows = torch.zeros((size, *operand.shape), dtype=torch.float64, requires_grad=True)
        y = op.eval(rows)
        (gradient,) = torch.autograd.grad(y, rows, torch.eye(size, dtype=torch.float64).reshape(size, *result.shape))
    linear = Linear(
        gradient.reshape(size, -1).numpy(),
        None if op.bias is None else y[0].detach().reshape(-1).numpy(),
        in_scale=_flat(operand.scale, operand.shape),
        out_scale=_flat(result.scale, result.shape),
        origin=op.origin,
    )
    graph.set_op(name, linear)
    if len(operand.shape) > 1:
        graph.insert_before(name, 0, Flatten(), new=f"{name}_flat")
    graph.insert_after(name, Reshape(result.shape), new=f"{name}_map")


def _flat(scale: Array, shape: tuple[int, ...]) -> Array:
    return scale.reshape(-1) if scale.size == 1 else np.broadcast_to(scale, shape).reshape(-1)


def _evenly_padded(op: Conv) -> Op:
    """Padding (1, 2) is padding (2, 2) with one more row of zeros at the kernel's beginning."""
    spans = [d * (k - 1) + 1 for d, k in zip(op.dilation, op.kernel, strict=True)]
    widest = [max(pair) for pair in op.padding]
    sizes = [span + 2 * w - a - b for span, w, (a, b) in zip(spans, widest, op.padding, strict=True)]
    weight = np.zeros((*op.weight.shape[:2], *sizes))
    area = tuple(
        slice(w - before, w - before + span, d)
        for w, (before, _), span, d in zip(widest, op.padding, spans, op.dilation, strict=True)
    )
    weight[(slice(None), slice(None)) + area] = op.weight
    return attrs.evolve(op, weight=weight, padding=widest, dilation=(1,) * len(sizes))
