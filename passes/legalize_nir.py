"""The graph in the forms that NIR and its readers have."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs
import numpy as np

from spikec.extend.passbase import Context, Pass
from spikec.ir.affine import BlockedError
from spikec.ir.errors import TypeMismatchError
from spikec.ir.graph import Graph, Node
from spikec.ir.ops import (
    Add,
    Conv,
    Delay,
    Flatten,
    Integrator,
    Interpolate,
    Linear,
    Neuron,
    Pad,
    Reshape,
    SumPool,
    Upsample,
    Weighted,
)
from spikec.ir.ops.weighted import depthwise, identity, spread_kernel
from spikec.ir.origin import merge
from spikec.ir.rewrite import Kinds, rewrite
from spikec.ir.stages import FINAL
from spikec.ir.types import Array

Kernel = tuple[Array, tuple[tuple[int, int], ...], tuple[int, ...]]


@attrs.frozen
class LegalizeNir(Pass):
    """Rewrite what NIR has no node for, or no reader gets right; the function stays the same.

    Kernels become square with even padding (zeros around them), padded or one-dimensional sum-pools convolutions with
    ones, zero pads the next convolution's padding, reshapes to a vector Flatten. A sum is several edges into an affine
    op or a neuron: elsewhere, and where it takes one operand twice, an identity is inserted. Every affine op gets a
    bias; one on the way back of a cycle gives it to the layer in front of the neurons, as readers do not agree whether
    it is there before the first spikes.

    Attributes:
        dilates: False to put zeros between the cells of dilated kernels.
    """

    name = "legalize-nir"
    needs = (FINAL,)
    looks_back = False

    dilates: bool = True

    def run(self, graph: Graph, context: Context) -> int:
        """Apply all rewrites, in an order in which none makes work for an earlier one."""
        rewrites: Sequence[tuple[tuple[Kinds, ...], Callable[..., bool]]] = (
            (((Reshape, Flatten),), _flatten),
            ((SumPool,), _convolve),
            (((Interpolate, Upsample),), _resize),
            ((Pad, Conv), _join_pads),
            ((Add, Add), _join_sums),
            ((Add,), _separate),
            *(() if self.dilates else (((Conv,), _spread),)),
            ((Conv,), _square),
            ((Delay, (Linear, Conv), Add), _give_bias),
            (((Linear, Conv),), _add_bias),
            ((Add,), _order),
        )
        return sum(rewrite(graph, kinds, partial(function, graph), shared=True) for kinds, function in rewrites)


def _flatten(graph: Graph, node: Node[Any]) -> bool:
    """Write a reshape to a vector as a Flatten of all axes, and drop one that changes nothing."""
    before, after = graph.type(graph.operands(node.name)[0]).shape, graph.type(node.name).shape
    if before == after:
        graph.bypass(node.name, "the sample has that shape already")
        return True
    if len(after) != 1 or (isinstance(node.op, Flatten) and (node.op.start, node.op.end) == (0, -1)):
        return False
    graph.set_op(node.name, Flatten(origin=node.op.origin))
    return True


def _convolve(graph: Graph, node: Node[SumPool]) -> bool:
    """Write a sum-pool that is padded, or has one spatial axis, as a depthwise convolution with ones."""
    (operand,) = graph.operands(node.name)
    padded = any(side for pair in node.op.padding for side in pair) or isinstance(graph[operand], Pad)
    if len(node.op.kernel) > 2 or (len(node.op.kernel) == 2 and not padded):
        return False
    graph.set_op(node.name, node.op.as_convolution(graph.type(operand)))
    return True


def _resize(graph: Graph, node: Node[Interpolate | Upsample]) -> bool:
    """Write a resizing as a depthwise convolution where it is one.

    Most that make a map a whole number smaller are, and one that repeats a single cell.
    """
    try:
        graph.set_op(node.name, node.op.as_convolution(graph.type(graph.operands(node.name)[0])))
    except (BlockedError, TypeMismatchError):
        return False
    return True


def _join_pads(graph: Graph, pad: Node[Pad], conv: Node[Conv]) -> bool:
    """Let a convolution pad the zeros that are padded in front of it."""
    missing = len(conv.op.kernel) - len(pad.op.padding)
    if pad.op.mode != "constant" or missing < 0 or min(map(min, pad.op.padding)) < 0:
        return False
    pairs = zip(((0, 0),) * missing + pad.op.padding, conv.op.padding, strict=True)
    total = [(a + c, b + d) for (a, b), (c, d) in pairs]
    graph.set_op(conv.name, attrs.evolve(conv.op, padding=total, origin=merge(conv.op.origin, pad.op.origin)))
    graph.set_operands(conv.name, *graph.operands(pad.name))
    graph.remove_dead(pad.name)
    return True


def _join_sums(graph: Graph, inner: Node[Add], outer: Node[Add]) -> bool:
    """Make one sum of a sum of sums."""
    operands = graph.operands(outer.name)
    flat = [y for x in operands for y in (graph.operands(x) if x == inner.name else (x,))]
    if len(graph.users(inner.name)) == operands.count(inner.name):
        graph.set_op(outer.name, attrs.evolve(outer.op, origin=merge(outer.op.origin, inner.op.origin)))
    graph.set_operands(outer.name, *flat)
    graph.remove_dead(inner.name)
    return True


def _separate(graph: Graph, node: Node[Add]) -> bool:
    """Insert an identity behind a sum that feeds a pool, shape or output, and in front of each repeated operand."""
    operands = graph.operands(node.name)
    repeats = [(slot, operand) for slot, operand in enumerate(operands) if operand in operands[:slot]]
    for slot, operand in repeats:
        graph.insert_before(node.name, slot, identity(graph.type(operand)), new=f"{operand}_copy")
    if all(isinstance(graph[user], (Weighted, Neuron, Integrator)) for user, _ in graph.users(node.name)):
        return bool(repeats)
    graph.insert_after(node.name, identity(graph.type(node.name)), new=f"{node.name}_sum")
    return True


def _give_bias(graph: Graph, delay: Node[Delay], back: Node[Any], total: Node[Add]) -> bool:
    """Let another operand of a sum have the bias of weights on the way back, where it has as many features."""
    for name in graph.operands(total.name):
        op = graph[name]
        if not isinstance(op, (Linear, Conv)) or name == back.name or len(graph.users(name)) > 1:
            continue
        if op.out_features == back.op.out_features and back.op.shift.any() and len(graph.users(back.name)) == 1:
            graph.set_op(name, attrs.evolve(op, bias=op.shift + back.op.shift))
            graph.set_op(back.name, attrs.evolve(back.op, bias=None))
            return True
    return False


def _order(graph: Graph, node: Node[Add]) -> bool:
    """Put the latest operand of a sum first, as some readers take the first edge for the main branch."""
    operands, names = list(graph.operands(node.name)), list(graph)
    ordered = sorted(operands, key=names.index, reverse=True)
    if ordered == operands:
        return False
    graph.set_operands(node.name, *ordered)
    return True


def _square(graph: Graph, node: Node[Conv]) -> bool:
    """Give a convolution in one or two dimensions even padding and a square kernel.

    Where the sides' parities forbid it, a layer in front appends zeros to the map: two rows and a column, which changes
    the parity of one side. It may do so, though its kernel is square too, because its rows lie two apart.
    """
    op, operand = node.op, graph.type(graph.operands(node.name)[0])
    if len(op.kernel) > 2:
        return False
    legal = _legal(op, operand.shape[1:])
    if legal is None:
        appends = depthwise(np.array([[0.0, 0.0], [0.0, 1.0]]), operand, padding=((2, 2), (1, 1)), dilation=(2, 1))
        graph.insert_before(node.name, 0, appends, new=f"{node.name}_appended")
        less = [(before, after - zeros) for (before, after), zeros in zip(op.padding, (2, 1), strict=True)]
        legal = _legal(attrs.evolve(op, padding=less), appends.infer(operand).shape[1:])
        assert legal is not None
    weight, padding, dilation = legal
    if weight.shape == op.weight.shape and padding == op.padding:
        return False
    graph.set_op(node.name, attrs.evolve(op, weight=weight, padding=padding, dilation=dilation))
    return True


def _spread(graph: Graph, node: Node[Conv]) -> bool:
    """Write a dilated kernel with zeros between its cells."""
    if set(node.op.dilation) == {1}:
        return False
    weight = spread_kernel(node.op.weight, node.op.dilation)
    graph.set_op(node.name, attrs.evolve(node.op, weight=weight, dilation=(1,) * len(node.op.kernel)))
    return True


def _legal(op: Conv, size: Sequence[int]) -> Kernel | None:
    """Return the kernel, padding and dilation of NIR for a convolution over a map of that size, if it has any."""
    even = _pad_evenly(op.weight, op.padding, op.dilation)
    undilated = spread_kernel(even[0], even[2]), even[1], (1,) * len(op.kernel)
    forms = (_make_square(*kernel, size, op.stride) for kernel in (even, undilated))
    return next((form for form in forms if form is not None), None)


def _add_bias(graph: Graph, node: Node[Linear | Conv]) -> bool:
    """Give an affine op a bias, as every reader knows Affine and not every one Linear."""
    if node.op.bias is not None:
        return False
    graph.set_op(node.name, attrs.evolve(node.op, bias=np.zeros(node.op.out_features)))
    return True


def _pad_evenly(weight: Array, padding: tuple[tuple[int, int], ...], dilation: tuple[int, ...]) -> Kernel:
    """Make padding even by zeros in the kernel."""
    sides, steps = list(padding), list(dilation)
    for i, (before, after) in enumerate(padding):
        if (before - after) % steps[i]:
            alone = [step if axis == i else 1 for axis, step in enumerate(steps)]
            weight, steps[i] = spread_kernel(weight, alone), 1
        taps = abs(before - after) // steps[i]
        weight = _widened(weight, i + 2, taps if after > before else 0, taps if before > after else 0)
        sides[i] = (max(before, after),) * 2
    return weight, tuple(sides), tuple(steps)


def _make_square(
    weight: Array,
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    size: Sequence[int],
    stride: tuple[int, ...],
) -> Kernel | None:
    """Make a kernel square by zeros around it and as much padding; None where the sides' parities forbid it."""
    kernel = weight.shape[2:]
    for side in range(max(kernel), max(kernel) + 2):
        borders = [
            _border(side - kernel[i], dilation[i], size[i] + 2 * padding[i][0] - dilation[i] * (kernel[i] - 1) - 1, s)
            for i, s in enumerate(stride)
        ]
        if all(border is not None for border in borders):
            sides = list(padding)
            for i, front in enumerate(borders):
                assert front is not None
                weight = _widened(weight, i + 2, front, side - kernel[i] - front)
                sides[i] = (padding[i][0] + front * dilation[i],) * 2
            return weight, tuple(sides), dilation
    return None


def _border(taps: int, dilation: int, reach: int, stride: int) -> int | None:
    """How many of the new taps go in front, with as much padding on both sides, for as many results.

    ``reach`` is the way of the window over the padded axis; ``reach // stride`` may not change.
    """
    for front in (taps // 2, taps - taps // 2):
        if (reach + (2 * front - taps) * dilation) // stride == reach // stride:
            return front
    return None


def _widened(weight: Array, axis: int, front: int, back: int) -> Array:
    widths = [(0, 0)] * weight.ndim
    widths[axis] = (front, back)
    return np.pad(weight, widths) if front or back else weight
