"""Writes several ops of an ANN in the place of one node: what passes that lower an op have in common."""

import math
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from spikec.ir.graph import Graph
from spikec.ir.op import Op
from spikec.ir.ops import AdaptiveAvgPool, Add, Permute, Reshape, Upsample
from spikec.ir.ops.weighted import diagonal, pointwise
from spikec.ir.origin import merge
from spikec.ir.types import Array

#: of a sample, that convolutions and pools take at most
MOST_AXES = 4


class Writer:
    """Adds ops for a node, each with its origin and named after it; :meth:`finish` puts the last one in its place.

    Args:
        graph: that the node is in.
        name: of the node.
        beside: other nodes that it stands for too.
    """

    def __init__(self, graph: Graph, name: str, *beside: str) -> None:
        self.graph, self.name, self.op = graph, name, graph[name]
        self.operands = graph.operands(name)
        self._origin = merge(self.op.origin, *(graph[each].origin for each in beside))

    def shape(self, x: str) -> tuple[int, ...]:
        """Return the shape of a sample of a signal."""
        return self.graph.type(x).shape

    def add(self, op: Op, *operands: str, part: str) -> str:
        """Add an op; ``part`` is the end of its name."""
        return self.graph.add(attrs.evolve(op, origin=self._origin), *operands, name=f"{self.name}_{part}")

    def finish(self, op: Op, *operands: str) -> None:
        """Put the op that gives the node's result in its place."""
        self.graph.set_op(self.name, attrs.evolve(op, origin=self._origin))
        self.graph.set_operands(self.name, *operands)

    def finish_as(self, x: str) -> None:
        """Let the node's users take a signal that was written for it."""
        self.graph.replace_uses(self.name, x)
        self.graph.remove(self.name)

    def total(self, *xs: str, part: str) -> str:
        """Add the sum of signals of one shape."""
        return self.add(Add(), *xs, part=part)

    def affine(self, x: str, gain: Any, shift: Any = 0.0, *, part: str) -> str:
        """Add ``gain x + shift``, where both are numbers, or arrays of the sample's rank, each axis 1 or full."""
        shape = self.shape(x)
        gains, shifts = (np.asarray(each, np.float64) for each in (gain, shift))
        if not (shifts.any() or (gains != 1).any()):
            return x
        if 1 <= len(shape) <= MOST_AXES and all(max(each.shape[1:], default=1) == 1 for each in (gains, shifts)):
            rows = [np.broadcast_to(each.reshape(-1), shape[:1]) for each in (gains, shifts)]
            return self.add(diagonal(rows[0], rows[1] if shifts.any() else None, len(shape)), x, part=part)
        full = [np.broadcast_to(each, shape).reshape(-1, 1) for each in (gains, shifts)]
        flat = self.affine(self.reshaped(x, full[0].shape, part=f"{part}_cells"), *full, part=f"{part}_each")
        return self.reshaped(flat, shape, part=part)

    def reshaped(self, x: str, shape: Sequence[int], *, part: str) -> str:
        """Add the same numbers in samples of another shape."""
        return x if tuple(shape) == self.shape(x) else self.add(Reshape(shape), x, part=part)

    def permuted(self, x: str, axes: Sequence[int], *, part: str) -> str:
        """Add the axes in another order."""
        return x if list(axes) == sorted(axes) else self.add(Permute(axes), x, part=part)

    def mixed(self, x: str, matrix: Array, *, part: str) -> str:
        """Add the product of a matrix [O, I] with the numbers of all channels (axis 0) in one place."""
        shape = self.shape(x)
        if len(shape) <= MOST_AXES:
            return self.add(pointwise(matrix, None, len(shape)), x, part=part)
        flat = self.reshaped(x, (shape[0], math.prod(shape[1:])), part=f"{part}_flat")
        mixed = self.mixed(flat, matrix, part=f"{part}_mixed")
        return self.reshaped(mixed, (len(matrix), *shape[1:]), part=part)

    def mean(self, x: str, axes: Sequence[int], groups: int = 1, *, part: str) -> str:
        """Add the mean over axes, which are of length 1 then; axis 0, if it is among them, of the number of groups."""
        shape, space = self.shape(x), [axis for axis in axes if axis > 0]
        if len(shape) > MOST_AXES:
            return self._mean_of_many_axes(x, axes, part=part)
        if space:
            size = tuple(1 if axis in space else None for axis in range(1, len(shape)))
            x = self.add(AdaptiveAvgPool(size), x, part=f"{part}_space" if 0 in axes else part)
        if 0 not in axes:
            return x
        size_of_group = shape[0] // groups
        return self.mixed(x, np.kron(np.eye(groups), np.full((1, size_of_group), 1 / size_of_group)), part=part)

    def _mean_of_many_axes(self, x: str, axes: Sequence[int], *, part: str) -> str:
        shape = self.shape(x)
        others = [axis for axis in range(len(shape)) if axis not in axes]
        order = [*others, *axes]
        turned = self.permuted(x, order, part=f"{part}_order")
        rows = math.prod(shape[axis] for axis in others)
        flat = self.reshaped(turned, (rows, math.prod(shape) // rows), part=f"{part}_flat")
        mean = self.mean(flat, (1,), part=f"{part}_each")
        kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
        return self.reshaped(mean, kept, part=part)  # axes of length 1 may stand anywhere

    def expanded(self, x: str, shape: Sequence[int], *, part: str) -> str:
        """Add the signal with axes of length 1 repeated, and each channel as often as the shape has it."""
        old = self.shape(x)
        if tuple(shape[1:]) != old[1:]:
            x = self.add(Upsample(shape[1:]), x, part=f"{part}_space" if old[0] != shape[0] else part)
        if old[0] == shape[0]:
            return x
        return self.mixed(x, np.kron(np.eye(old[0]), np.ones((shape[0] // old[0], 1))), part=part)
