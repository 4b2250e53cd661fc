"""A spiking graph in the shape of a netx file: layers that stock netx has, with the reset it can do."""

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal, cast

import attrs
import numpy as np
import torch

from spikec.extend.passbase import Context, Pass, rounds
from spikec.ir.affine import backward_sweep
from spikec.ir.errors import Hint, Option, UnsupportedOpError
from spikec.ir.graph import Graph, Node
from spikec.ir.loihi import UNROLLED
from spikec.ir.op import tensor_cache
from spikec.ir.ops import Conv, Flatten, Linear, Neuron, Output, Reshape, Weighted
from spikec.ir.ops.weighted import identity, spread_kernel
from spikec.ir.rewrite import before_shapes, is_behind
from spikec.ir.stages import SNN

Reset = Literal["auto", "soft", "hard"]

_SMALLER = 'make it smaller: up to {} neurons are unrolled; or use the target "spikingjelly"'


@attrs.frozen
class LegalizeNetx(Pass):
    """Put an affine layer in front of every output, and choose how neurons reset.

    Stock netx resets by subtraction in one layer type only, dense with a recurrent weight matrix. So for soft
    reset every convolution, and every Linear over the last axis of a map, is unrolled into its matrix over
    the flattened map. For hard reset, and for soft reset of convolutions that are too large for that, convolutions
    stay, those over one axis as 1xk kernels, and uneven padding becomes zeros of the kernel; unrolled is what else netx
    has no layer for, where it has no more than ``limit`` neurons.

    Attributes:
        reset: ``soft``, ``hard``, or ``auto``: soft behind the last layer that has more than ``limit`` neurons; up to
            that one convolutions stay, as netx has none behind a matrix. Larger ones with soft reset need a loader of
            ours, and stock netx resets them to zero, so ``soft`` must be asked for. Without convolutions there is
            nothing to unroll, and all is soft. A model whose neurons all have hard reset keeps its layers as it is.
        limit: the matrix has the square of it as entries; netx takes 12 s to load 4096 neurons, 0.3 s for 1024.
    """

    name = "legalize-netx"
    needs = SNN

    reset: Reset = attrs.field(default="auto", validator=attrs.validators.in_(("auto", "soft", "hard")))
    limit: int = attrs.field(default=UNROLLED, validator=rounds())

    def run(self, graph: Graph, context: Context) -> int:
        """Rewrite what netx has in another form. What it has not at all stays, for the backend to refuse."""
        changes = sum(_readout(graph, node.name) for node in graph.match(Output))
        unrolls = self._unrolls(graph, context)
        before: tuple[int, ...] | None = None  # the map that the layer before gives
        for node in graph.match(Weighted):
            if is_behind(graph, node.name, Neuron):
                changes += self._legalize(graph, node, node.name in unrolls, before)
                before = graph.type(node.name).shape
        return changes

    def _legalize(self, graph: Graph, node: Node[Weighted], unrolls: bool, before: tuple[int, ...] | None) -> bool:
        """Rewrite one layer.

        Args:
            graph: it is in.
            node: it.
            unrolls: whether it is unrolled, for soft reset.
            before: the shape of the file's layer in front of it, None for the first one.
        """
        operand, result = graph.type(graph.operands(node.name)[0]).shape, graph.type(node.name).shape
        operand = _as_in_the_file(operand)
        is_conv = isinstance(node.op, Conv) and len(operand) == 3 and before in (None, operand)
        if len(result) > 1 and (unrolls or (not is_conv and math.prod(result) <= self.limit)):
            _unroll(graph, node.name)
        elif isinstance(node.op, Conv) and len(node.op.kernel) == 1:
            _put_on_map(graph, node.name, node.op)
        elif isinstance(node.op, Conv) and any(before != after for before, after in node.op.padding):
            graph.set_op(node.name, _evenly_padded(node.op))
        else:
            return False
        return True

    def _unrolls(self, graph: Graph, context: Context) -> Collection[str]:
        """Name the layers that become matrices; say what becomes of those that are too large for it."""
        behind = [node for node in graph.match(Neuron) if is_behind(graph, node.name, Neuron)]
        if self.reset == "hard" or (behind and not any(node.op.subtracts for node in behind)):
            return ()
        large = {node.name: size for node in behind if (size := math.prod(graph.type(node.name).shape)) > self.limit}
        if large and self.reset == "soft":
            self._expect_convolutions(graph, large)
            name, size = next(iter(large.items()))
            told = "soft reset behind convolutions by run_in_lava and our loader only; to stock netx it is hard"
            context.note(name, f"{size} neurons are more than {self.limit}: {told}")
            return ()
        layers = [node.name for node in graph.match(Weighted) if is_behind(graph, node.name, Neuron)]
        sources = {before_shapes(graph, name): name for name in large}
        if not sources.keys() <= {*layers}:  # the backend refuses what else is in front of neurons
            return ()
        kept = layers[: max(map(layers.index, sources), default=-1) + 1]
        hard = [each for each in kept if each in sources or isinstance(graph[each], Conv)]
        if not any(isinstance(graph[each], Conv) for each in kept):
            return layers
        name = sources[next(each for each in kept if each in sources)]
        which = "all layers" if len(hard) == len(behind) else f"{len(hard)} of {len(behind)} layers"
        cost = f"hard reset in {which}, which costs accuracy; lava has soft reset for them by our loader: "
        message = f"{large[name]} neurons are more than {self.limit}: "
        where = graph.problem(name, message).location
        context.warn(Hint(f"{where}: {message}{cost}", Option("reset", "soft")), name)
        return layers[len(kept) :]

    def _expect_convolutions(self, graph: Graph, sizes: Mapping[str, int]) -> None:
        """Raise an error unless layers of these neurons can stay, as convolutions."""
        message = f"{{}} neurons in a layer: soft reset in netx takes up to {self.limit}, and more behind a convolution"
        found = []
        for name, size in sizes.items():
            if not (_fits_hard(graph, name) and isinstance(graph[before_shapes(graph, name)], Conv)):
                hint = 'use reset="hard" or "auto"' if all(_fits_hard(graph, each) for each in sizes) else _SMALLER
                found.append(graph.problem(name, message.format(size), hint.format(self.limit)))
        if found:
            raise UnsupportedOpError(found)


def _fits_hard(graph: Graph, name: str) -> bool:
    """Whether the layer of a neuron stays as it is for hard reset: one that would be unrolled has no other form."""
    layer = before_shapes(graph, name)
    if not isinstance(graph[layer], Weighted):
        return False
    source = before_shapes(graph, layer)
    operand, op = graph.type(graph.operands(layer)[0]).shape, graph[layer]
    if not isinstance(graph[source], Neuron):
        return False
    if not isinstance(op, Conv):
        return len(operand) == 1
    maps = (_as_in_the_file(shape) for shape in (graph.type(source).shape, operand))
    return len(op.kernel) <= 2 and (not is_behind(graph, source, Neuron) or len({*maps}) == 1)


def _as_in_the_file(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of what a layer gives in the file, where a line is a map of height 1."""
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def _readout(graph: Graph, name: str) -> int:
    """Put an identity in front of an output without an affine op, because a file's output layer is affine."""
    source = before_shapes(graph, name)
    if isinstance(graph[source], Weighted) and len(graph.users(source)) == 1:
        return 0
    if not graph.type(name).shape:  # a layer cannot stand behind the reshape to a single number
        (name,) = graph.operands(name)
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


def _put_on_map(graph: Graph, name: str, op: Conv) -> None:
    """A convolution over one axis becomes one over a map with a height of 1."""
    length, result = graph.type(graph.operands(name)[0]).shape[1], graph.type(name).shape
    sizes = {"stride": (1, *op.stride), "padding": ((0, 0), *op.padding), "dilation": (1, *op.dilation)}
    flat: Conv = attrs.evolve(op, weight=op.weight[:, :, None], **cast(Any, sizes))
    graph.insert_before(name, 0, Reshape((op.in_features, 1, length)), new=f"{name}_map")
    graph.set_op(name, _evenly_padded(flat))
    graph.insert_after(name, Reshape(result), new=f"{name}_line")


def _evenly_padded(op: Conv) -> Conv:
    """Pad evenly: padding (1, 2) is padding (2, 2) with one more row of zeros at the kernel's beginning."""
    if all(before == after for before, after in op.padding):
        return op
    widest = [max(pair) for pair in op.padding]
    zeros = [(wide - before, wide - after) for wide, (before, after) in zip(widest, op.padding, strict=True)]
    weight = np.pad(spread_kernel(op.weight, op.dilation), [(0, 0), (0, 0), *zeros])
    return attrs.evolve(op, weight=weight, padding=widest, dilation=(1,) * len(widest))
