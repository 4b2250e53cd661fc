"""Layers in shapes that a target has not become matrices over vectors."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.extend.passbase import Context, Pass, rounds
from spikec.ir.errors import UnsupportedOpError, ignoring_others
from spikec.ir.graph import Graph
from spikec.ir.op import Role, StatefulOp
from spikec.ir.ops import Add, AvgPool, Conv, Flatten, Input, Linear, Neuron, Output, Permute, Reshape, SumPool
from spikec.ir.origin import Origin, merge
from spikec.ir.stages import FINAL
from spikec.ir.types import Array, Rate, Type, compress

#: unit vectors that go through an op at a time
_AT_ONCE = 256
_MOVES = (Flatten, Permute, Reshape)


@attrs.frozen
class LowerShapes(Pass):
    """From the first layer on that has no form there, signals are vectors, and what is between neurons is matrices.

    Such layers are a Linear over the last of several axes, a convolution or a pool over three, and reshapes within a
    network: those of a transformer. Linear ops in a row become one matrix, their product. A signal between them stays
    only if it has fewer numbers than what it is made of, and if several ops read it or a larger signal is made of it.
    So 50,000 ramps of sums of two times 256 numbers are two matrices of 256 columns.

    Attributes:
        limit: entries of all matrices, each of 4 bytes in a file; a network that takes more is refused.
    """

    name = "lower-shapes"
    needs = (FINAL,)
    looks_back = False

    limit: int = attrs.field(default=2**29, validator=rounds())

    def run(self, graph: Graph, context: Context) -> int:
        """Rewrite everything behind the first such layer.

        Raises:
            UnsupportedOpError: the matrices have too many entries; the error names the node with the largest.
        """
        flat = _flat(graph)
        if not flat:
            return 0
        with ignoring_others():  # torch calls its sparse matrices a beta
            weights = _Vectors(graph, flat).write(self.limit)
        context.note(
            flat[0], f"from here on layers are matrices over vectors: {weights:,} weights, of 4 bytes each in memory"
        )
        return len(flat)


def _flat(graph: Graph) -> list[str]:
    """The nodes whose results become vectors, in order; none where one of them is of a kind that cannot."""
    found: list[str] = []
    flat: set[str] = set()
    for name in graph:
        op = graph[name]
        if isinstance(op, Output | Input):
            continue
        if _is_odd(graph, name) or not flat.isdisjoint(graph.operands(name)):
            if not isinstance(op, Neuron) and (op.role is not Role.LINEAR or isinstance(op, StatefulOp)):
                return []
            found.append(name)
            flat.add(name)
    return found


def _is_odd(graph: Graph, name: str) -> bool:
    """Whether an op is none of maps of channels, nor of vectors."""
    op, result = graph[name], graph.type(name).shape
    if isinstance(op, Linear):
        return len(result) > 1
    if isinstance(op, Conv | AvgPool | SumPool):
        return len(result) > 3
    if not isinstance(op, _MOVES) or (isinstance(op, Flatten) and len(result) == 1):
        return False
    before, behind = name, name
    while isinstance(graph[before], _MOVES):
        (before,) = graph.operands(before)
    while isinstance(graph[behind], _MOVES) and len(graph.users(behind)) == 1:
        ((behind, _),) = graph.users(behind)
    return not isinstance(graph[before], Input) and not isinstance(graph[behind], Output)


@attrs.frozen(eq=False)
class _Sum:
    """What a node gives, flattened: ``sum of matrix x + shift`` over kept signals x."""

    parts: Mapping[str, Tensor]  # sparse, [numbers, numbers of x]
    shift: Array
    origin: Origin


class _Vectors:
    """Rewrites the nodes of a graph that become vectors.

    Args:
        graph: it is changed by :meth:`write`.
        flat: names of these nodes, in order.
    """

    def __init__(self, graph: Graph, flat: Sequence[str]) -> None:
        self.graph, self.order, self.flat = graph, flat, set(flat)
        self.types: dict[str, Type] = {name: graph.type(name) for name in graph}
        self.sums: dict[str, _Sum] = {}
        self.sources: dict[str, dict[str, None]] = {}  # by a linear node: the kept signals that it is a sum of
        self.vectors: dict[str, str] = {}  # by a signal that is none: the node that flattens it

    def write(self, limit: int) -> int:
        """Write the matrices, unless they have more entries; return how many they have."""
        kept = [name for name in self.order if self._is_kept(name)]
        entries = {name: self._size(name) * sum(map(self._size, self._sources(name))) for name in kept}
        total = sum(entries.values())
        if total > limit:
            most = max(entries, key=lambda name: entries[name])
            message = (
                f"as matrices over vectors this network has {total:,} weights, of which {entries[most]:,} are this "
                f"layer's, and {limit:,} are allowed"
            )
            raise UnsupportedOpError(self.graph.problem(most, message, 'use the target "spikingjelly"'))
        sums = {name: self._sum(name) for name in kept}
        ends = {name: self.graph.operands(name) for name in self.graph.outputs}
        for name in self.order:
            if isinstance(self.graph[name], Neuron):
                self._neuron(name)
            elif name in sums:
                self._affine(name, sums[name])
        for name, (source,) in ends.items():
            if source in self.flat and len(self.types[source].shape) > 1:
                self.graph.insert_before(name, 0, Reshape(self.types[source].shape), new=f"{name}_shape")
        for name in reversed(self.order):
            if name not in sums and not isinstance(self.graph[name], Neuron):
                self.graph.remove(name)
        return total

    def _is_kept(self, name: str) -> bool:
        """Whether what a linear op gives stays, as the class says."""
        if isinstance(self.graph[name], Neuron):
            return False
        users = [user for user, _ in self.graph.users(name)]
        if any(user not in self.flat or isinstance(self.graph[user], Neuron) for user in users):
            return True
        size = self._size(name)
        is_read_often = len(set(users)) > 1 or any(self._size(user) > size for user in users)
        return is_read_often and size < sum(map(self._size, self._sources(name)))

    def _stands(self, name: str) -> bool:
        """Whether a signal stands in the result."""
        return name not in self.flat or isinstance(self.graph[name], Neuron) or self._is_kept(name)

    def _sources(self, name: str) -> dict[str, None]:
        """Name the kept signals that a flat linear node is a sum of, in order."""
        if name not in self.sources:
            found = ({x: None} if self._stands(x) else self._sources(x) for x in self.graph.operands(name))
            self.sources[name] = {x: None for each in found for x in each}
        return self.sources[name]

    def _size(self, name: str) -> int:
        return math.prod(self.types[name].shape)

    def _sum(self, name: str) -> _Sum:
        """What a flat linear node gives, by the kept signals in front of it."""
        if name in self.sums:
            return self.sums[name]
        parts, shift, origin = dict[str, Tensor](), self._of_zeros(name), self.graph[name].origin
        for slot, operand in enumerate(self.graph.operands(name)):
            matrix = self._matrix(name, slot)
            if self._stands(operand):
                found = {operand: matrix}
            else:
                before = self._sum(operand)
                found = {x: torch.sparse.mm(matrix, part) for x, part in before.parts.items()}
                shift = shift + torch.mv(matrix, torch.from_numpy(before.shift)).numpy()
                origin = merge(before.origin, origin)
            for x, part in found.items():
                parts[x] = (parts[x] + part).coalesce() if x in parts else part.coalesce()
        self.sums[name] = _Sum(parts, shift, origin)
        return self.sums[name]

    def _of_zeros(self, name: str) -> Array:
        zeros = [torch.zeros(1, *self.types[x].shape, dtype=torch.float64) for x in self.graph.operands(name)]
        value: Tensor = self.graph.apply_rule(name, self.graph[name].eval, *zeros)
        return value.reshape(-1).numpy()

    def _matrix(self, name: str, slot: int) -> Tensor:
        """[numbers, numbers of an operand], sparse: what an op makes of each number of an operand."""
        op, operands = self.graph[name], self.graph.operands(name)
        shape, size = self.types[operands[slot]].shape, self._size(operands[slot])
        if isinstance(op, Add):
            return _sparse(torch.arange(size), torch.arange(size), torch.ones(size, dtype=torch.float64), size, size)
        if isinstance(op, _MOVES):
            moved = op.eval(torch.arange(size).reshape(1, *shape)).reshape(-1)
            return _sparse(torch.arange(size), moved, torch.ones(size, dtype=torch.float64), size, size)
        if isinstance(op, Conv) and math.prod(op.kernel) == math.prod(op.stride) == 1 and not np.any(op.padding):
            return _of_pointwise(op, size // shape[0])
        zeros = self._of_zeros(name)
        rows, columns, values = [], [], []
        for start in range(0, size, _AT_ONCE):
            count = min(_AT_ONCE, size - start)
            xs = [torch.zeros(count, *self.types[x].shape, dtype=torch.float64) for x in operands]
            xs[slot].view(count, -1)[torch.arange(count), torch.arange(start, start + count)] = 1
            found: Tensor = self.graph.apply_rule(name, op.eval, *xs)
            result = found.reshape(count, -1) - torch.from_numpy(zeros)
            column, row = result.nonzero(as_tuple=True)
            rows.append(row)
            columns.append(column + start)
            values.append(result[column, row])
        return _sparse(torch.cat(rows), torch.cat(columns), torch.cat(values), self._size(name), size)

    def _scale(self, name: str) -> Array:
        """[numbers]: what a spike of each number stands for."""
        signal = self.types[name]
        assert isinstance(signal.encoding, Rate)
        return np.broadcast_to(signal.scale, signal.shape).reshape(-1)

    def _vector(self, name: str) -> str:
        """Return the node that gives a kept signal as a vector."""
        if name in self.flat or len(self.types[name].shape) == 1:
            return name
        if name not in self.vectors:
            flat = Flatten(origin=self.graph[name].origin)
            self.vectors[name] = self.graph.add(flat, name, name=f"{name}_vector")
        return self.vectors[name]

    def _affine(self, name: str, found: _Sum) -> None:
        """Put a matrix for each kept signal, or the sum of several, in the place of a node."""
        out, shift, made = self._scale(name), found.shift, list[tuple[Linear, str]]()
        for x, part in found.parts.items():
            bias = None if made or not shift.any() else shift
            op = Linear(part.to_dense().numpy(), bias, in_scale=self._scale(x), out_scale=out, origin=found.origin)
            made.append((op, self._vector(x)))
        if len(made) == 1:
            self.graph.set_op(name, made[0][0])
            self.graph.set_operands(name, made[0][1])
            return
        names = [self.graph.add(op, x, name=f"{name}_of_{x}") for op, x in made]
        self.graph.set_op(name, Add(origin=found.origin))
        self.graph.set_operands(name, *names)

    def _neuron(self, name: str) -> None:
        """Let a neuron's fields be those of a vector."""
        op, shape = self.graph.get(name, Neuron), self.types[name].shape
        fields: dict[str, Any] = {
            field: compress(np.broadcast_to(value, shape).reshape(-1))
            for field, value in op.parameters().items()
            if isinstance(value, np.ndarray)
        }
        self.graph.set_op(name, attrs.evolve(op, **fields))


def _sparse(rows: Tensor, columns: Tensor, values: Tensor, height: int, width: int) -> Tensor:
    return torch.sparse_coo_tensor(torch.stack((rows, columns)), values, (height, width)).coalesce()


def _of_pointwise(op: Conv, cells: int) -> Tensor:
    """The matrix of a convolution with a kernel of one cell, over maps of so many."""
    weight = np.asarray(op.weight, np.float64).reshape(op.groups, -1, op.weight.shape[1])
    group, row, column = np.nonzero(weight)
    out = torch.from_numpy(group * weight.shape[1] + row)[:, None] * cells + torch.arange(cells)
    into = torch.from_numpy(group * weight.shape[2] + column)[:, None] * cells + torch.arange(cells)
    values = torch.from_numpy(weight[group, row, column])[:, None].expand(-1, cells)
    height, width = op.groups * weight.shape[1] * cells, op.groups * weight.shape[2] * cells
    return _sparse(out.reshape(-1), into.reshape(-1), values.reshape(-1), height, width)
