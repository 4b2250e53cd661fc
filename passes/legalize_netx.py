"""A spiking graph in the shape of a netx file: layers that stock netx has, with the reset it can do."""

import math
from typing import Literal

import attrs
import numpy as np
import torch

from spikec.extend.passbase import Context, Pass
from spikec.ir.affine import backward_sweep
from spikec.ir.errors import UnsupportedOpError
from spikec.ir.graph import Graph
from spikec.ir.op import Op, tensor_cache
from spikec.ir.ops import Conv, Flatten, Linear, Neuron, Output, Reshape, Weighted
from spikec.ir.ops.weighted import identity, spread_kernel
from spikec.ir.rewrite import is_behind
from spikec.ir.stages import SNN

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

    name = "legalize-netx"
    needs = SNN

    reset: Reset = attrs.field(default="auto", validator=attrs.validators.in_(("auto", "soft", "hard")))
    limit: int = 2000

    def run(self, graph: Graph, context: Context) -> int:
        """Rewrite what netx has in another form. What it has not at all stays, for the backend to refuse."""
        changes = sum(_readout(graph, node.name) for node in graph.match(Output))
        soft = self._is_soft(graph, context)
        for node in graph.match(Weighted):
            if not is_behind(graph, node.name, Neuron):
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
        behind = [node.name for node in graph.match(Neuron) if is_behind(graph, node.name, Neuron)]
        sizes = {name: math.prod(graph.type(name).shape) for name in behind}
        large = {name: size for name, size in sizes.items() if size > self.limit}
        if large and self.reset == "soft":
            needs = f"soft reset in netx is unrolled into a matrix, for up to {self.limit} neurons"
            messages = {name: f"{size} neurons in a layer: {needs}" for name, size in large.items()}
            raise UnsupportedOpError([graph.problem(*each, 'use reset="hard" or "auto"') for each in messages.items()])
        for name, size in list(large.items())[:1]:
            message = f"{size} neurons are more than {self.limit}: hard reset in all layers, which costs accuracy"
            context.note(name, message)
        return not large


def _readout(graph: Graph, name: str) -> int:
    """Put an identity in front of an output without an affine op, because a file's output layer is affine."""
    (source,) = graph.operands(name)
    while isinstance(graph[source], (Flatten, Reshape)):
        (source,) = graph.operands(source)
    if isinstance(graph[source], Weighted) and len(graph.users(source)) == 1:
        return 0
    signal = graph.type(graph.operands(name)[0])
    if max(signal.scale.shape[1:], default=1) > 1:  # a scale that differs within a channel needs a matrix
        graph.insert_before(name, 0, Flatten(), new=f"{name}_flat")
        graph.insert_before(name, 0, identity(graph.type(f"{name}_flat")), new=f"{name}_readout")
        graph.insert_before(name, 0, Reshape(signal.shape), new=f"{name}_map")
    else:
        graph.insert_before(name, 0, identity(signal), new=f"{name}_readout")
    return 1


def _unroll(graph: Graph, name: str) -> None:
    """``conv`` becomes ``flatten -> linear -> reshape``; the matrix by one backward sweep over the identity."""
    op = graph.get(name, Weighted)
    (source,) = graph.operands(name)
    operand, result = graph.type(source), graph.type(name)
    size = math.prod(result.shape)
    with tensor_cache():
        unit = torch.eye(size, dtype=torch.float64).reshape(size, *result.shape)
        (rows,), offset = backward_sweep(op.eval, [operand.shape], unit)
    linear = Linear(
        rows.reshape(size, -1).numpy(),
        None if op.bias is None else offset.reshape(-1).numpy(),
        in_scale=operand.flat_scale,
        out_scale=result.flat_scale,
        origin=op.origin,
    )
    graph.set_op(name, linear)
    if len(operand.shape) > 1:
        graph.insert_before(name, 0, Flatten(), new=f"{name}_flat")
    graph.insert_after(name, Reshape(result.shape), new=f"{name}_map")


def _evenly_padded(op: Conv) -> Op:
    """Pad evenly: padding (1, 2) is padding (2, 2) with one more row of zeros at the kernel's beginning."""
    widest = [max(pair) for pair in op.padding]
    zeros = [(wide - before, wide - after) for wide, (before, after) in zip(widest, op.padding, strict=True)]
    weight = np.pad(spread_kernel(op.weight, op.dilation), [(0, 0), (0, 0), *zeros])
    return attrs.evolve(op, weight=weight, padding=widest, dilation=(1,) * len(widest))
