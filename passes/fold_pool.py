"""Pools and other linear ops disappear into the weights next to them, for targets that have no pool."""

import math
from collections.abc import Sequence

import attrs
import numpy as np
import torch
from torch import Tensor

from spikec.extend.passbase import Context, Pass
from spikec.ir.affine import BlockedError, backward_sweep
from spikec.ir.graph import Graph
from spikec.ir.op import Movement, Op, Role, StatefulOp, tensor_cache
from spikec.ir.ops import AdaptiveAvgPool, AvgPool, Conv, Flatten, Interpolate, Linear, Reshape, SumPool, Weighted
from spikec.ir.ops.weighted import block_diagonal
from spikec.ir.origin import merge

#: what no target but torch has
_HOMELESS = (Movement, Interpolate, AdaptiveAvgPool)


@attrs.frozen
class FoldPool(Pass):
    """Compose linear ops without weights into the Linear or Conv that takes their result.

    Whatever is linear (any pool, padding, reshape) goes into a Linear behind a flatten. What is a convolution
    (``Op.as_convolution``: a pool whose windows are all alike, a zero padding) goes into a Conv: over a pool of kernel
    k_p and stride s_p, a kernel of size k becomes one of size ``k_p + s_p d (k - 1)`` with stride ``s_p s`` and padding
    ``p_p + s_p p``. A pool between a Conv and something that has no weights goes into the Conv before it.

    Attributes:
        affine: compose affine ops too: Conv and Linear into a Linear, a 1x1 Conv and another Conv into one.
        pools: compose whatever is linear. If not, only what starts with a resizing, a movement or uneven windows goes
            into a Linear, and other pools, and ops of a user's own, stay: for a target that has them.
    """

    name = "fold-pool"
    looks_back = False

    affine: bool = False
    pools: bool = True

    def run(self, graph: Graph, context: Context) -> int:
        """Fold consumers first, so that a chain of pools goes as one."""
        blocked: dict[str, str] = {}
        changes = 0
        for name in reversed([node.name for node in graph.match(Weighted)]):
            if name in graph and isinstance(graph[name], Linear):
                changes += self._into_linear(graph, name, blocked)
            elif self.pools and name in graph and isinstance(graph[name], Conv):
                changes += self._into_conv(graph, name, blocked)
        for node in graph.match(Op) if self.pools else ():
            if isinstance(node.op, (SumPool, AvgPool)):
                changes += _into_producer(graph, node.name, blocked)
        for node in graph.match(Op) if self.pools else ():
            if isinstance(node.op, (SumPool, AvgPool, AdaptiveAvgPool)):
                context.note(node.name, blocked.get(node.name, "no Linear or Conv takes its result alone"))
        return changes

    def _composable(self, graph: Graph, name: str) -> bool:
        op = graph[name]
        if isinstance(op, StatefulOp) or op.role is not Role.LINEAR or op.arity != 1 or len(graph.users(name)) != 1:
            return False
        return self.affine or not isinstance(op, Weighted)

    def _stays(self, op: Op) -> bool:
        """Whether an op at the start of a chain is left where it is."""
        return isinstance(op, (Flatten, Reshape)) or not (self.pools or isinstance(op, _HOMELESS))

    def _into_linear(self, graph: Graph, name: str, blocked: dict[str, str]) -> int:
        """Compose the longest chain that ends in this Linear."""
        chain: list[str] = []
        (source,) = graph.operands(name)
        if len(graph.type(source).shape) != 1:
            blocked[source] = f"%{name} is applied along the last axis only"
            return 0
        while self._composable(graph, source):
            chain.insert(0, source)
            (source,) = graph.operands(source)
        while chain and self._stays(graph[chain[0]]):
            source = chain.pop(0)
        if not chain:
            return 0
        composed = _into_matrix(graph, source, chain, name)
        if len(graph.type(source).shape) > 1:
            source = graph.add(Flatten(), source, name=f"{name}_flat")
        graph.set_op(name, composed)
        graph.set_operands(name, source)
        graph.remove_dead(chain[-1])
        return len(chain)

    def _into_conv(self, graph: Graph, name: str, blocked: dict[str, str]) -> int:
        """Compose what feeds this Conv as long as that goes."""
        changes = 0
        while self._composable(graph, graph.operands(name)[0]):
            (source,) = graph.operands(name)
            op, conv, (operand,) = graph[source], graph.get(name, Conv), graph.operands(source)
            try:
                first = op if isinstance(op, Weighted) else op.as_convolution(graph.type(operand))
                if not isinstance(first, Conv) or (first is op and not (_is_one_by_one(first) or _is_one_by_one(conv))):
                    raise BlockedError("of two convolutions in a row one must be 1x1, of stride 1, to become one")
                _expect_zero_border(first, conv, graph.type(operand).shape, graph.type(source).shape)
            except BlockedError as why:
                blocked[source] = str(why)
                break
            graph.set_op(name, attrs.evolve(_composed(first, conv), origin=merge(conv.origin, op.origin)))
            graph.set_operands(name, operand)
            graph.remove(source)
            changes += 1
        return changes


def _into_producer(graph: Graph, name: str, blocked: dict[str, str]) -> int:
    """Compose a pool into the Conv that makes its operand; returns the number of changes."""
    (source,) = graph.operands(name)
    conv = graph[source]
    if not isinstance(conv, Conv) or len(graph.users(source)) != 1:
        return 0
    try:
        pool = graph[name].as_convolution(graph.type(source))
        assert isinstance(pool, Conv)
        if any(map(any, pool.padding)):
            raise BlockedError("a padded pool behind a convolution is no convolution")
    except BlockedError as why:
        blocked[name] = str(why)
        return 0
    graph.set_op(name, attrs.evolve(_composed(conv, pool), origin=merge(conv.origin, pool.origin)))
    graph.set_operands(name, graph.operands(source)[0])
    graph.remove(source)
    return 1


def _into_matrix(graph: Graph, source: str, chain: Sequence[str], name: str) -> Linear:
    """``W (A x + a) + b`` as one Linear over the flattened x."""
    linear = graph.get(name, Linear)
    operand = graph.type(source)

    def meaning(x: Tensor) -> Tensor:
        for each in chain:
            x = graph[each].eval(x)
        return x

    weight = np.asarray(linear.weight, dtype=np.float64)
    with tensor_cache():
        (rows,), offset = backward_sweep(meaning, [operand.shape], torch.tensor(weight))
    shift = weight @ offset.numpy()
    return attrs.evolve(
        linear,
        weight=rows.reshape(len(weight), -1).numpy(),
        bias=None if linear.bias is None and not shift.any() else linear.shift + shift,
        in_scale=operand.flat_scale,
        origin=merge(linear.origin, *(graph[each].origin for each in chain)),
    )


def _is_one_by_one(conv: Conv) -> bool:
    return {*conv.kernel, *conv.stride} == {1} and not any(map(any, conv.padding))


def _expect_zero_border(first: Conv, second: Conv, operand: Sequence[int], between: Sequence[int]) -> None:
    """Raise a BlockedError unless the zeros that the second pads with are what the first would give there."""
    if first.bias is not None and any(map(any, second.padding)):
        raise BlockedError("its bias does not reach the zeros that the convolution behind it pads with")
    for i, (before, after) in enumerate(second.padding):
        near, step = first.padding[i][0], first.stride[i]
        inside = before > 0 and first.kernel[i] > step + near
        beyond = after > 0 and between[i + 1] * step - near < operand[i + 1]
        if inside or beyond:
            raise BlockedError("the convolution's padding would reach cells that the pool covers or leaves out")


def _composed(first: Conv, second: Conv) -> Conv:
    """``second(first(x))`` as one Conv, where the zeros that the second pads with are what the first gives there.

    The second's kernels go backwards through the first. Its transposed convolution lays them out over x, one cell of
    a kernel as many cells of x from the next as the second's dilation and the first's stride say.
    """
    kernels = torch.tensor(block_diagonal(second.weight.astype(np.float64), second.groups))
    inner = torch.tensor(first.weight.astype(np.float64))
    steps = [s * d for s, d in zip(first.stride, second.dilation, strict=True)]
    none = [0] * len(steps)
    laid = torch.convolution(kernels, inner, None, steps, none, first.dilation, True, none, first.groups)
    weight = laid.numpy()
    groups = math.gcd(first.groups, second.groups)
    rows, columns = len(weight) // groups, weight.shape[1] // groups
    weight = weight.reshape(groups, rows, groups, columns, *weight.shape[2:])
    shift = kernels.flatten(2).sum(2).numpy() @ first.shift
    padding = [
        (a + s * c, b + s * d) for (a, b), s, (c, d) in zip(first.padding, first.stride, second.padding, strict=True)
    ]
    return attrs.evolve(
        second,
        weight=np.concatenate([weight[group, :, group] for group in range(groups)]),
        bias=second.bias if first.bias is None else second.shift + shift,
        stride=[a * b for a, b in zip(first.stride, second.stride, strict=True)],
        padding=padding,
        dilation=(1,) * len(steps),
        groups=groups,
        in_scale=first.in_scale,
    )
